"""The commands, and the one place where an error becomes one line on standard error and exit code 2."""

import logging
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from transformers.utils import logging as transformers_logging
from typer.core import TyperGroup

import sparsight
from sparsight import embedded
from sparsight.cli import evaluate as evaluation
from sparsight.cli.ask import METHOD_NAMES, Request, ask
from sparsight.cli.families import families_page, families_table, refusals
from sparsight.cli.method import cli_name
from sparsight.cli.ways import ways_page, ways_table
from sparsight.errors import SparsightError
from sparsight.evaluate.settings import CONTROLS, DTYPES
from sparsight.methods import methods


class Commands(TyperGroup):
    """Runs a command quietly; what sparsight refuses becomes one line."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            with quiet():
                return super().invoke(ctx)
        except SparsightError as error:
            typer.echo(f"error: {' '.join(str(error).split())}", err=True)
            raise typer.Exit(2) from None


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Makes vision-language models look at fewer visual tokens.",
)


def main() -> None:
    """Run the command line."""
    app()


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the notices of other libraries out of what a person reads, for as long as a command runs."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    hub = logging.getLogger("huggingface_hub")
    level = hub.level
    transformers_logging.set_verbosity(logging.ERROR)
    show_bars(False)
    hub.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        hub.setLevel(level)
        transformers_logging.set_verbosity(verbosity)
        if bars:
            show_bars(True)


def show_bars(shown: bool) -> None:
    """Turn the progress bars of transformers on or off."""
    switch: Any = transformers_logging.enable_progress_bar if shown else transformers_logging.disable_progress_bar
    switch()


def show_version(wanted: bool) -> None:
    """Print the version and leave."""
    if wanted:
        typer.echo(f"sparsight {sparsight.__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Makes vision-language models look at fewer visual tokens."""
    del version


@app.command(name="ask")
def ask_command(
    words: Annotated[
        list[str] | None, typer.Argument(metavar='IMAGE... "QUESTION"', help="One or more images, then the question.")
    ] = None,
    *,
    model: Annotated[
        str | None, typer.Option(help="Folder or hub id of a LLaVA-type model; default: the embedded model.")
    ] = None,
    method: Annotated[str, typer.Option(help=f"What chooses: {METHOD_NAMES}.")] = "sparsevlm",
    retain: Annotated[
        str, typer.Option(help="Visual tokens to keep, layer mean: a count, or a fraction such as 0.33.")
    ] = "192",
    paper: Annotated[bool, typer.Option("--paper", help="Use the authors' published counts for --retain.")] = False,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Length of the answers, at most.")] = 16,
    runs: Annotated[int, typer.Option(min=1, help="Timed runs of each kind; medians are shown.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead.")] = False,
    picture: Annotated[Path | None, typer.Option(help="PNG to write: what was kept at each site.")] = None,
) -> None:
    """Ask about images, dense and sparse: both answers, what they cost, what was kept."""
    ask(Request(tuple(words or ()), model, method, retain, paper, max_new_tokens, runs, picture), as_json)


@app.command(name="eval")
def eval_command(
    *,
    suite: Annotated[str, typer.Option(help="scenes, or the folder of a suite.")] = evaluation.SCENES,
    methods: Annotated[str | None, typer.Option(help=f"Separated by commas; default: {evaluation.METHODS}.")] = None,
    retain: Annotated[
        str, typer.Option(help="Budgets, separated by commas: counts for one image, or fractions.")
    ] = evaluation.BUDGETS,
    model: Annotated[
        str | None, typer.Option(help="Folder or hub id of a LLaVA-type model; default: the embedded model.")
    ] = None,
    families: Annotated[str | None, typer.Option(help="Of questions, separated by commas; default: all.")] = None,
    limit: Annotated[int | None, typer.Option(help="Questions of each part; default: all.")] = None,
    control: Annotated[str, typer.Option(help=f"What is shown: {', '.join(CONTROLS)}.")] = "none",
    dtype: Annotated[str, typer.Option(help=f"Number format of the weights: {', '.join(DTYPES)}.")] = "float32",
    seed: Annotated[int, typer.Option(help="Of random dropping and of resampling.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder of answers and results; the same folder continues.")] = Path(
        "sparsight-eval"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead.")] = False,
) -> None:
    """Score a suite's questions, dense and at each budget, side by side."""
    evaluation.evaluate(
        evaluation.Request(suite, methods, retain, model, families, limit, control, dtype, seed, out), as_json
    )


@app.command()
def prepare() -> None:
    """Fetch and convert the parts of the embedded model, once."""
    folder = embedded.prepare(progress=sys.stderr.isatty())
    typer.echo(f"The embedded model is ready in {folder}.")


@app.command(name="methods")
def methods_command() -> None:
    """Show the methods that ship."""
    table = Table("name", "class", "what it does", "published budgets")
    modules = [method.__module__ for method in methods()]
    for method in methods():
        module = sys.modules[method.__module__]
        # a module of several methods says what they share, so each class speaks for itself
        speaker = module if modules.count(method.__module__) == 1 else method
        about = (speaker.__doc__ or "").split("\n", maxsplit=1)[0]
        about = re.sub(r"^[^:]*: ", "", about).rstrip(".")
        budgets = ", ".join(map(str, getattr(module, "PAPER_KEPT", {}))) or "-"
        table.add_row(cli_name(method), method.__name__, about, budgets)
    Console().print(table)


@app.command(name="families")
def families_command(
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the page docs/families.md instead.")] = False,
) -> None:
    """Show the model families that are supported, and what is refused for each."""
    if markdown:
        typer.echo(families_page(), nl=False)
        return
    Console().print(families_table())
    typer.echo("\n".join(["refused:", *refusals()]))


@app.command(name="ways")
def ways_command(
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the page docs/ways.md instead.")] = False,
) -> None:
    """Show every way to generate: what works, what is refused, and why."""
    if markdown:
        typer.echo(ways_page(), nl=False)
        return
    Console().print(ways_table())
