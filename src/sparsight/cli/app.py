"""The commands and their options.

What a command runs is imported when it runs: torch and transformers take seconds, for which help
and completion of the shell need not wait.
"""
# ruff: noqa: PLC0415

import functools
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

import sparsight
from sparsight.cli.streams import any_encoding, check_output, put, quiet, told
from sparsight.cli.words import (
    BUDGETS,
    CONTROLS,
    DEVICES,
    DTYPES,
    METHOD_NAMES,
    METHODS,
    SCENES,
    SUITES,
)


class Commands(TyperGroup):
    """Runs a command quietly; every error becomes one line and an exit code."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command line."""
        check_output()
        with any_encoding():
            return super().main(*args, **kwargs)

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        """Read the words in front of the command."""
        with told():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        with told():
            return super().invoke(ctx)


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Makes vision-language models look at fewer visual tokens.",
)


def main() -> None:
    """Run the command line."""
    app()


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Have a command keep other libraries quiet, and end as docs/command-line.md says, unless `verbose` is given."""

    @functools.wraps(function)
    def run(**given: Any) -> None:
        verbose = bool(given["verbose"])
        with told(verbose), nullcontext() if verbose else quiet():
            function(**given)

    return run


Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose",
        help="Show warnings of other libraries, and where an unexpected error comes from.",
    ),
]
Device = Annotated[
    str | None, typer.Option(help=f"Where to run: {DEVICES}; default: the GPU if there is one.")
]


def show_version(wanted: bool) -> None:
    """Print the version and leave."""
    if wanted:
        put(f"sparsight {sparsight.__version__}\n")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=show_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Makes vision-language models look at fewer visual tokens."""
    del version


@app.command(name="ask")
@command
def ask_command(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar='IMAGE... "QUESTION"', help="One or more images, then the question."
        ),
    ] = None,
    *,
    model: Annotated[
        str | None,
        typer.Option(help="Folder or hub id of a LLaVA-type model; default: the embedded model."),
    ] = None,
    method: Annotated[str, typer.Option(help=f"What chooses: {METHOD_NAMES}.")] = "sparsevlm",
    retain: Annotated[
        str,
        typer.Option(
            help="Visual tokens to keep, layer mean: a count, or a fraction such as 0.33."
        ),
    ] = "192",
    paper: Annotated[
        bool, typer.Option("--paper", help="Use the authors' published counts for --retain.")
    ] = False,
    max_new_tokens: Annotated[
        int, typer.Option(min=1, help="Length of the answers, at most.")
    ] = 16,
    runs: Annotated[
        int, typer.Option(min=1, help="Timed runs of each kind; medians are shown.")
    ] = 3,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document instead.")
    ] = False,
    picture: Annotated[
        Path | None, typer.Option(help="PNG to write: what was kept at each site.")
    ] = None,
    device: Device = None,
    dtype: Annotated[
        str | None,
        typer.Option(help=f"Number format of the weights: {DTYPES}; default: their own."),
    ] = None,
    verbose: Verbose = False,
) -> None:
    """Ask about images, dense and sparse: both answers, what they cost, what was kept."""
    from sparsight.cli.ask import Request, ask

    del verbose
    request = Request(
        tuple(words or ()),
        model,
        method,
        retain,
        paper,
        max_new_tokens,
        runs,
        picture,
        device=device,
        dtype=dtype,
    )
    ask(request, as_json)


@app.command(name="eval")
@command
def eval_command(
    *,
    suite: Annotated[
        str, typer.Option(help=f"{SUITES}, or the folder of a suite; {SCENES} is the default one.")
    ] = SCENES,
    methods: Annotated[
        str | None, typer.Option(help=f"Separated by commas; default: {METHODS}.")
    ] = None,
    retain: Annotated[
        str, typer.Option(help="Budgets, separated by commas: counts for one image, or fractions.")
    ] = BUDGETS,
    model: Annotated[
        str | None,
        typer.Option(help="Folder or hub id of a LLaVA-type model; default: the embedded model."),
    ] = None,
    families: Annotated[
        str | None, typer.Option(help="Of questions, separated by commas; default: all.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Questions of each part; default: all.")] = None,
    control: Annotated[str, typer.Option(help=f"What is shown: {CONTROLS}.")] = "none",
    dtype: Annotated[
        str, typer.Option(help=f"Number format of the weights: {DTYPES}.")
    ] = "float32",
    seed: Annotated[int, typer.Option(help="Of random dropping and of resampling.")] = 0,
    out: Annotated[
        Path, typer.Option(help="Folder of answers and results; the same folder continues.")
    ] = Path("sparsight-eval"),
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document instead.")
    ] = False,
    device: Device = None,
    verbose: Verbose = False,
) -> None:
    """Score a suite's questions, dense and at each budget, side by side."""
    from sparsight.cli.evaluate import Request, evaluate

    del verbose
    evaluate(
        Request(suite, methods, retain, model, families, limit, control, dtype, seed, out, device),
        as_json,
    )


@app.command()
@command
def prepare(verbose: Verbose = False) -> None:
    """Fetch and convert the parts of the embedded model, once."""
    from sparsight.models import embedded

    del verbose
    folder = embedded.prepare(progress=sys.stderr is not None and sys.stderr.isatty())
    put(f"The embedded model is ready in {folder}.\n")


@app.command(name="methods")
@command
def methods_command(verbose: Verbose = False) -> None:
    """Show the methods that ship."""
    from sparsight.cli.method import methods_table

    del verbose
    Console().print(methods_table())


@app.command(name="models")
@command
def models_command(
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the page docs/models.md instead.")
    ] = False,
    verbose: Verbose = False,
) -> None:
    """Show the model families that are supported, and what is refused for each."""
    from sparsight.cli.models import models_page, models_table, refusals

    del verbose
    if markdown:
        put(models_page())
        return
    Console().print(models_table())
    put("\n".join(["refused:", *refusals(), ""]))


@app.command(name="modes")
@command
def modes_command(
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the page docs/modes.md instead.")
    ] = False,
    verbose: Verbose = False,
) -> None:
    """Show every way to generate: what works, what is refused, and why."""
    from sparsight.cli.modes import modes_page, modes_table

    del verbose
    if markdown:
        put(modes_page())
        return
    Console().print(modes_table())
