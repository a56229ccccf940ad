"""`sparsight eval`: a suite's questions, dense and at each budget, side by side."""

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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

from sparsight.cli.ask import show_progress
from sparsight.cli.choices import METHODS, SCENES, SUITES
from sparsight.cli.load import load_model
from sparsight.cli.method import cli_name, find_method, read_budget, read_method
from sparsight.cli.streams import INTERRUPTED, print_json, say
from sparsight.errors import InputError
from sparsight.evaluate import DENSE, Configuration, Settings, Store, cast_weights, open_store, run
from sparsight.evaluate.runner import Report
from sparsight.evaluate.scenes import DEFAULT_SUITE, FAMILIES
from sparsight.evaluate.scenes import SUITES as SHIPPED
from sparsight.evaluate.settings import check_once

_PLAIN_WIDTH = 120  # columns where the output is no terminal and has no width


def evaluate(settings: Settings, model: str | None, device: torch.device, as_json: bool) -> None:
    """Run an evaluation, or continue one that was stopped, and print its results.

    Args:
        settings: of the evaluation.
        model: folder or hub id; None for the embedded model.
        device: to run on.
        as_json: whether one JSON document is printed instead of the tables for people.

    Raises:
        SparsightError: something is missing or does not fit. Whatever can be checked before the
            model is loaded is checked before.
    """
    with open_store(settings) as store:  # open until the end, so that no other run comes between
        for note in store.notes:
            say(f"note: {note}")
        try:
            results = _run(settings, store, model, device)
        except KeyboardInterrupt:
            say(
                f"stopped; {len(store.records)} answers are kept in {settings.out}. "
                "Run the same command again to continue."
            )
            raise typer.Exit(INTERRUPTED) from None
    if as_json:
        print_json(results)
        return
    console = Console()
    show(results, console if console.is_terminal else Console(width=_PLAIN_WIDTH), settings.out)


def _run(
    settings: Settings, store: Store, model: str | None, device: torch.device
) -> dict[str, Any]:
    """Load the model, answer what is missing in the store, and return the results."""
    with show_progress("loading the model"):
        vlm, processor = load_model(model, device)
        cast_weights(vlm, getattr(torch, settings.dtype))
    command = shlex.join(["sparsight", *sys.argv[1:]])
    with show_answer_count() as report:
        return run(vlm, processor, settings, command=command, report=report, store=store)


def read_suite(text: str) -> Path:
    """Return the folder of the suite that was named.

    Raises:
        InputError: no suite of that name ships, and it is no folder.
    """
    shipped = SHIPPED | {SCENES: SHIPPED[DEFAULT_SUITE]}
    folder = shipped.get(text, Path(text))
    if not folder.is_dir():
        raise InputError(f"suite {text!r} is not known; give {SUITES}, or the folder of a suite.")
    return folder


def read_families(text: str | None) -> tuple[str, ...]:
    """Return the families of questions that were named; all of them for None."""
    return FAMILIES if text is None else tuple(split_at_commas(text))


def read_configurations(
    methods: str | None, budgets: str, control: str, *, paper: bool = False
) -> tuple[Configuration, ...]:
    """Return every method at every budget; the dense model, which has no budget, once.

    Args:
        methods: names, with their settings, separated by commas. None stands for the default:
            METHODS, or dense alone where the control shows no image that could be pruned.
        budgets: separated by commas.
        control: what is shown.
        paper: whether methods have their published settings.

    Raises:
        SettingError: an unknown method, or a method or budget given twice.
        BudgetError: a budget that is no number, even where no method uses it, or one that was not
            published.
        UnsupportedError: a method without published settings, where these are wanted.
    """
    if methods is None:
        methods = DENSE.name if control == "question-only" else METHODS
    names = split_at_commas(methods)
    values = split_at_commas(budgets)
    check_once("--methods", [name.lower() for name in names])
    check_once("--retain", values)
    for text in values:
        read_budget(text)
    configurations = []
    for name in names:
        if name.lower() == DENSE.name:
            configurations.append(DENSE)
            continue
        for text in values:
            method = read_method(name, text, paper=paper)
            settings = [part.strip() for part in find_method(name)[1]]
            label = ":".join([cli_name(type(method)), *settings])
            configurations.append(Configuration(label, method))
    return tuple(configurations)


def split_at_commas(text: str) -> list[str]:
    """Return the parts of a list that is written with commas, without spaces around them."""
    return [part.strip() for part in text.split(",") if part.strip()]


@contextmanager
def show_answer_count(doing: str = "answering") -> Iterator[Report]:
    """Show a progress bar on a terminal's standard error; yield the function that moves it."""
    console = Console(stderr=True)
    columns = (
        TextColumn(doing),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns, console=console, disable=not console.is_terminal, speed_estimate_period=300
    ) as bars:
        task = bars.add_task("", total=None)

        def report(done: int, total: int) -> None:
            bars.update(task, completed=done, total=total)

        yield report


def show(results: dict[str, Any], console: Console, out: Path) -> None:
    """Print scores, costs and refusals; `out` is the folder that holds the results."""
    rows = results["configurations"]
    console.print()
    console.print(_build_scores(rows))
    console.print(_build_costs(rows))
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
    facts = results["facts"]
    console.print(
        f"{results['suite']['questions']} questions, control {results['control']}, "
        f"{results['model']} in {facts['dtype']}; scores in %, for existence F1; "
        "evidence: share of evidence tokens after the last site; "
        "95 % intervals of the difference to dense in points, paired bootstrap.\n"
        f"{facts['gpu'] or facts['cpu']}, threads: {facts['threads']}; results in {out}",
        style="dim",
        highlight=False,
    )


def _build_scores(rows: list[dict[str, Any]]) -> Table:
    answered = set().union(*(row["families"] for row in rows))
    families = [family for family in FAMILIES if family in answered]
    table = _start_table("", *families, "overall")
    for row in rows:
        scores = [row["families"].get(family, {}).get("score") for family in families]
        scores.append(_read_cell(row, "overall", "score"))
        table.add_row(row["key"], *map(_format_percent, scores))
    return table


def _build_costs(rows: list[dict[str, Any]]) -> Table:
    table = _start_table(
        "", "overall", "retention", "95 % interval", "visual tokens", "FLOPs", "seconds", "evidence"
    )
    for row in rows:
        bounds = _read_cell(row, "overall", "interval_points")
        tokens = _read_cell(row, "cost", "mean_visual_tokens_one_image")
        seconds = _read_cell(row, "cost", "seconds_median")
        table.add_row(
            row["key"],
            _format_percent(_read_cell(row, "overall", "score")),
            _format_percent(_read_cell(row, "overall", "retention")),
            "-" if bounds is None else f"{bounds[0]:+.1f} to {bounds[1]:+.1f}",
            "-" if tokens is None else f"{tokens:.0f}",
            _format_percent(_read_cell(row, "cost", "flops_share")),
            "-" if seconds is None else f"{seconds:.2f}",
            _format_percent(_read_cell(row, "evidence", "recall")),
        )
    return table


def _start_table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for number, name in enumerate(columns):
        table.add_column(name, justify="right" if number else "left", no_wrap=number == 0)
    return table


def _read_cell(row: dict[str, Any], part: str, name: str) -> Any:
    return None if row[part] is None else row[part][name]


def _format_percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{100 * fraction:.1f}"
