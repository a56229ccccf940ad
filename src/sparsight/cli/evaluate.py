"""`sparsight eval`: a suite's questions, dense and at each budget, side by side."""

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import typer
from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from sparsight.cli.ask import progress
from sparsight.cli.inputs import read_device
from sparsight.cli.load import EMBEDDED, load_model
from sparsight.cli.method import cli_name, read_method, read_retain
from sparsight.cli.streams import INTERRUPTED, print_json, say
from sparsight.cli.words import METHODS, SCENES, SUITES
from sparsight.errors import InputError
from sparsight.evaluate import DENSE, Configuration, Settings, cast_weights, open_store, run
from sparsight.evaluate.runner import Report
from sparsight.evaluate.scenes import DEFAULT_SUITE, FAMILIES
from sparsight.evaluate.scenes import SUITES as SHIPPED
from sparsight.evaluate.settings import Control, check_once
from sparsight.evaluate.store import ANSWERS

_PLAIN_WIDTH = 120  # columns where no terminal says how many there are


@dataclass(frozen=True)
class Request:
    """What was asked for on the command line, as typed.

    Args:
        suite: "scenes" for the default one, the name of another one that ships, or a folder.
        methods: names, separated by commas; None for all but one when a control shows no image.
        retain: budgets, separated by commas.
        model: folder or hub id, None for the embedded model.
        families: names, separated by commas; None for all.
        limit: questions of each part, None for all.
        control: what is shown.
        dtype: number format of the weights.
        seed: of everything drawn.
        out: folder.
        device: to run on, None for the GPU if there is one.
    """

    suite: str
    methods: str | None
    retain: str
    model: str | None
    families: str | None
    limit: int | None
    control: str
    dtype: str
    seed: int
    out: Path
    device: str | None = None


def evaluate(request: Request, as_json: bool) -> None:
    """Evaluate, or continue to.

    Raises: SparsightError: anything that is missing or does not fit, before the model is loaded
    where it can be known.
    """
    settings, device = read_settings(request), read_device(request.device)
    with open_store(settings) as store:
        for note in store.notes:
            say(f"note: {note}")
    try:
        with progress("loading the model"):
            model, processor = load_model(request.model, device)
            cast_weights(model, getattr(torch, settings.dtype))
        with answering() as report:
            found = run(model, processor, settings, command=command(), report=report)
    except KeyboardInterrupt:
        count = (settings.out / ANSWERS).read_bytes().count(b"\n")
        say(
            f"stopped; {count} answers are kept in {settings.out}. Run the same command again to continue."
        )
        raise typer.Exit(INTERRUPTED) from None
    if as_json:
        print_json(found)
    else:
        console = Console()
        show(found, console if console.is_terminal else Console(width=_PLAIN_WIDTH), settings)


def command() -> str:
    """Return the command line, for the record."""
    return shlex.join(["sparsight", *sys.argv[1:]])


def read_settings(request: Request) -> Settings:
    """Turn words into settings.

    Raises:
        SettingError: an unknown name, a value out of range, or something given twice.
        BudgetError: a budget that says nothing.
        InputError: the suite is neither known nor a folder.
    """
    methods = request.methods
    if methods is None:
        methods = DENSE.name if request.control == "question-only" else METHODS
    families = FAMILIES if request.families is None else tuple(words(request.families))
    shipped = SHIPPED | {SCENES: SHIPPED[DEFAULT_SUITE]}
    suite = shipped.get(request.suite, Path(request.suite))
    if not suite.is_dir():
        raise InputError(
            f"suite {request.suite!r} is not known; give {SUITES}, or the folder of a suite."
        )
    return Settings(
        configurations=tuple(configurations(words(methods), words(request.retain))),
        suite=suite,
        families=families,
        limit=request.limit,
        control=cast("Control", request.control),
        seed=request.seed,
        model=request.model or EMBEDDED,
        dtype=request.dtype,
        out=request.out,
    )


def words(text: str) -> list[str]:
    """Split at commas."""
    return [word.strip() for word in text.split(",") if word.strip()]


def configurations(names: list[str], budgets: list[str]) -> Iterator[Configuration]:
    """Combine methods, settings behind them, with budgets; the model as it is has none.

    Raises:
        SettingError: an unknown method, or something given twice.
        BudgetError: a budget that is no number, also where no method asks for one.
    """
    check_once("--methods", [name.lower() for name in names])
    check_once("--retain", budgets)
    for text in budgets:
        read_retain(text)
    for name in names:
        if name.lower() == DENSE.name:
            yield DENSE
            continue
        for text in budgets:
            method = read_method(name, text, paper=False)
            settings = [part.strip() for part in name.split(":")[1:]]
            yield Configuration(":".join([cli_name(type(method)), *settings]), method)


@contextmanager
def answering() -> Iterator[Report]:
    """Show on standard error how far the answers are, if somebody watches."""
    console = Console(stderr=True)
    columns = (
        TextColumn("answering"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns, console=console, disable=not console.is_terminal, speed_estimate_period=300
    ) as bars:
        task = bars.add_task("", total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


def show(found: dict[str, Any], console: Console, settings: Settings) -> None:
    """Print scores, costs and what was refused."""
    rows = found["configurations"]
    console.print()
    console.print(_scores(rows))
    console.print(_costs(rows))
    for row in rows:
        refused = [family for family in FAMILIES if family in row["refused"]]
        if refused:
            reason = row["refused"][refused[0]]
            console.print(
                f"{row['key']} refuses {', '.join(refused)}: {reason}",
                style="yellow",
                highlight=False,
                markup=False,
            )
    known = found["facts"]
    console.print(
        f"{found['suite']['questions']} questions, control {found['control']}, {found['model']} in {known['dtype']}; "
        "scores in %, for existence F1; evidence: share of evidence tokens after the last site; "
        "95 % intervals of the difference to dense in points, paired bootstrap.\n"
        f"{known['gpu'] or known['cpu']}, threads: {known['threads']}; results in {settings.out}",
        style="dim",
        highlight=False,
    )


def _scores(rows: list[dict[str, Any]]) -> Table:
    families = [family for family in FAMILIES if any(family in row["families"] for row in rows)]
    table = _table("", *families, "overall")
    for row in rows:
        cells = [row["families"].get(family) for family in families]
        table.add_row(
            row["key"],
            *(_percent(cell and cell["score"]) for cell in cells),
            _percent(_of(row, "overall", "score")),
        )
    return table


def _costs(rows: list[dict[str, Any]]) -> Table:
    table = _table(
        "", "overall", "retention", "95 % interval", "visual tokens", "FLOPs", "seconds", "evidence"
    )
    for row in rows:
        bounds = _of(row, "overall", "interval_points")
        tokens, seconds = (
            _of(row, "cost", "mean_visual_tokens_one_image"),
            _of(row, "cost", "seconds_median"),
        )
        table.add_row(
            row["key"],
            _percent(_of(row, "overall", "score")),
            _percent(_of(row, "overall", "retention")),
            "-" if bounds is None else f"{bounds[0]:+.1f} to {bounds[1]:+.1f}",
            "-" if tokens is None else f"{tokens:.0f}",
            _percent(_of(row, "cost", "flops_share")),
            "-" if seconds is None else f"{seconds:.2f}",
            _percent(_of(row, "evidence", "recall")),
        )
    return table


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for number, name in enumerate(columns):
        table.add_column(name, justify="right" if number else "left", no_wrap=number == 0)
    return table


def _of(row: dict[str, Any], part: str, name: str) -> Any:
    return None if row[part] is None else row[part][name]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"
