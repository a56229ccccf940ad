"""The commands and their options."""

import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from typer.core import TyperGroup

import sparsight
from sparsight import embedded
from sparsight.cli import evaluate as evaluation
from sparsight.cli.ask import METHOD_NAMES, Request, ask
from sparsight.cli.families import families_page, families_table, refusals
from sparsight.cli.inputs import DEVICES
from sparsight.cli.method import cli_name
from sparsight.cli.streams import Quiet, any_encoding, put, told
from sparsight.cli.ways import ways_page, ways_table
from sparsight.evaluate.settings import CONTROLS, DTYPES
from sparsight.methods import methods


class Commands(TyperGroup):
    """Runs a command quietly; every error becomes one line and an exit code."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command line."""
        with any_encoding():
            return super().main(*args, **kwargs)

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        """Read the words in front of the command."""
        with told():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        ctx.obj = Quiet()
        with told(ctx.obj), ctx.obj:
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


def let_through(context: typer.Context, wanted: bool) -> None:
    """Let the warnings of other libraries through."""
    if wanted and isinstance(context.find_root().obj, Quiet):
        context.find_root().obj.let_through()


Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose",
        callback=let_through,
        is_eager=True,
        help="Show warnings of other libraries, and where an unexpected error comes from.",
    ),
]


Device = Annotated[str | None, typer.Option(help=f"Where to run: {DEVICES}; default: the GPU if there is one.")]


def show_version(wanted: bool) -> None:
    """Print the version and leave."""
    if wanted:
        put(f"sparsight {sparsight.__version__}\n")
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
    device: Device = None,
    dtype: Annotated[
        str | None, typer.Option(help=f"Number format of the weights: {', '.join(DTYPES)}; default: their own.")
    ] = None,
    verbose: Verbose = False,
) -> None:
    """Ask about images, dense and sparse: both answers, what they cost, what was kept."""
    del verbose
    request = Request(
        tuple(words or ()), model, method, retain, paper, max_new_tokens, runs, picture, device=device, dtype=dtype
    )
    ask(request, as_json)


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
    device: Device = None,
    verbose: Verbose = False,
) -> None:
    """Score a suite's questions, dense and at each budget, side by side."""
    del verbose
    evaluation.evaluate(
        evaluation.Request(suite, methods, retain, model, families, limit, control, dtype, seed, out, device), as_json
    )


@app.command()
def prepare(verbose: Verbose = False) -> None:
    """Fetch and convert the parts of the embedded model, once."""
    del verbose
    folder = embedded.prepare(progress=sys.stderr is not None and sys.stderr.isatty())
    put(f"The embedded model is ready in {folder}.\n")


@app.command(name="methods")
def methods_command(verbose: Verbose = False) -> None:
    """Show the methods that ship."""
    del verbose
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
    verbose: Verbose = False,
) -> None:
    """Show the model families that are supported, and what is refused for each."""
    del verbose
    if markdown:
        put(families_page())
        return
    Console().print(families_table())
    put("\n".join(["refused:", *refusals(), ""]))


@app.command(name="ways")
def ways_command(
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the page docs/ways.md instead.")] = False,
    verbose: Verbose = False,
) -> None:
    """Show every way to generate: what works, what is refused, and why."""
    del verbose
    if markdown:
        put(ways_page())
        return
    Console().print(ways_table())
