"""The commands and their options.

A command imports what it needs only when it runs: importing torch and transformers takes seconds,
and help and shell completion need neither.
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
from sparsight.cli.choices import (
    DEVICES,
    DTYPES,
    METHOD_NAMES,
)
from sparsight.cli.streams import (
    check_output,
    escape_unencodable,
    exit_on_error,
    put,
    silence_libraries,
)


class Commands(TyperGroup):
    """The group of all commands; turns every error into one line and an exit code."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command line."""
        check_output()
        with escape_unencodable():
            return super().main(*args, **kwargs)

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        """Parse the options in front of the command."""
        with exit_on_error():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was named."""
        with exit_on_error():
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
    """Return a command that silences other libraries and turns errors into exit codes.

    With --verbose it silences nothing. The exit codes are listed in docs/command-line.md.
    """

    @functools.wraps(function)
    def run(**options: Any) -> None:
        verbose = bool(options["verbose"])
        with exit_on_error(verbose), nullcontext() if verbose else silence_libraries():
            function(**options)

    return run


Markdown = Annotated[
    bool, typer.Option("--markdown", help="Print the page of docs/ that holds it instead.")
]
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
Model = Annotated[
    str | None,
    typer.Option(help="Folder or hub id of a LLaVA-type model; default: the embedded model."),
]
Frames = Annotated[
    int | None, typer.Option(help="Frames of each video that are shown, 1 to 128; default: 8.")
]
Dtype = Annotated[
    str | None, typer.Option(help=f"dtype of the weights: {DTYPES}; default: their own.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead.")]


def show_version(wanted: bool) -> None:
    """Print the version and exit, if it is wanted."""
    if wanted:
        put(f"sparsight {sparsight.__version__}\n")
        raise typer.Exit


@app.callback(help="Makes vision-language models look at fewer visual tokens.")
def root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=show_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Accept the options that stand in front of a command."""
    del version


@app.command(name="ask")
@command
def ask_command(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar='IMAGE... "QUESTION"', help="Images or videos, then the question."),
    ] = None,
    *,
    model: Model = None,
    method: Annotated[str, typer.Option(help=f"What chooses: {METHOD_NAMES}.")] = "sparsight",
    retain: Annotated[
        str,
        typer.Option(
            help="Visual tokens to keep, layer mean: a count, or a fraction such as 0.33."
        ),
    ] = "192",
    paper: Annotated[
        bool, typer.Option("--paper", help="Use the authors' published counts for --retain.")
    ] = False,
    frames: Frames = None,
    max_new_tokens: Annotated[
        int, typer.Option(min=1, help="Length of the answers, at most.")
    ] = 16,
    runs: Annotated[
        int, typer.Option(min=1, help="Timed runs of each kind; medians are shown.")
    ] = 3,
    as_json: Json = False,
    picture: Annotated[
        Path | None, typer.Option(help="PNG to write: what was kept at each site.")
    ] = None,
    device: Device = None,
    dtype: Dtype = None,
    verbose: Verbose = False,
) -> None:
    """Ask about images or videos, dense and sparse: both answers, their costs, what was kept."""
    from sparsight.cli.ask import ask
    from sparsight.cli.inputs import read_device, read_dtype, split_arguments
    from sparsight.cli.method import read_method
    from sparsight.cli.shown import read_frames_option

    del verbose
    pruning = read_method(method, retain, paper)
    place = read_device(device)
    weights = read_dtype(dtype)
    sources, question = split_arguments(arguments or [])
    ask(
        sources,
        question,
        pruning,
        frames=read_frames_option(frames, sources),
        model=model,
        device=place,
        dtype=weights,
        max_new_tokens=max_new_tokens,
        runs=runs,
        picture=picture,
        as_json=as_json,
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
def methods_command(
    markdown: Markdown = False,
    verbose: Verbose = False,
) -> None:
    """Show the methods that ship: where they work, what they read, what their budgets cost."""
    from sparsight.cli.methods import build_methods_table, write_methods_page

    del verbose
    if markdown:
        put(write_methods_page())
        return
    Console().print(build_methods_table())


@app.command(name="models")
@command
def models_command(
    markdown: Markdown = False,
    verbose: Verbose = False,
) -> None:
    """Show the model families that are supported, and what is refused for each."""
    from sparsight.cli.models import build_models_table, list_refusals, write_models_page

    del verbose
    if markdown:
        put(write_models_page())
        return
    Console().print(build_models_table())
    put("\n".join(["refused:", *list_refusals(), ""]))


@app.command(name="modes")
@command
def modes_command(
    markdown: Markdown = False,
    verbose: Verbose = False,
) -> None:
    """Show every generation mode: whether it works, and what is refused and why."""
    from sparsight.cli.modes import build_modes_table, write_modes_page

    del verbose
    if markdown:
        put(write_modes_page())
        return
    Console().print(build_modes_table())
