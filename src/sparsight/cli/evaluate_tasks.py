"""`sparsight eval --tasks`: benchmarks, dense and at each budget, beside published rows."""

import shlex
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import typer
from rich.console import Console

from sparsight.cli import evaluate as scenes
from sparsight.cli.choices import TASK_METHODS
from sparsight.cli.evaluate import show_answer_count, split_at_commas
from sparsight.cli.load import EMBEDDED, hash_files, load_model
from sparsight.cli.processes import (
    join_processes,
    name_command,
    refuse_several,
    show_leader_progress,
)
from sparsight.cli.streams import INTERRUPTED, print_json, say
from sparsight.cli.task_tables import show_tasks
from sparsight.errors import SettingError
from sparsight.evaluate import cast_weights
from sparsight.evaluate.judge.client import Endpoint, read_key
from sparsight.evaluate.judge.judging import Judge, Verdicts, find_only_judge, judge_all
from sparsight.evaluate.judge.wordings import read_wordings
from sparsight.evaluate.settings import Configuration
from sparsight.evaluate.tasks import Sheet, find_tasks, read_sheets
from sparsight.evaluate.tasks.export import export_mmbench
from sparsight.evaluate.tasks.ranks import Ranks
from sparsight.evaluate.tasks.runner import count_open, run_tasks
from sparsight.evaluate.tasks.scores import score_folder
from sparsight.evaluate.tasks.settings import TaskSettings
from sparsight.evaluate.tasks.store import VERDICTS, TaskStore, open_task_store
from sparsight.evaluate.tasks.task import Task

_PLAIN_WIDTH = 120  # columns where the output is no terminal and has no width
NO_JUDGE = "none"


def read_configurations(
    methods: str | None, budgets: str, *, paper: bool
) -> tuple[Configuration, ...]:
    """Return every method at every budget; the dense model once.

    Raises: as `cli.evaluate.read_configurations`.
    """
    return scenes.read_configurations(methods or TASK_METHODS, budgets, "none", paper=paper)


def read_settings(
    tasks: str,
    data: Path | None,
    configurations: tuple[Configuration, ...],
    shared: dict[str, Any],
) -> TaskSettings:
    """Return the settings of an evaluation on benchmarks.

    Args:
        tasks: names, separated by commas.
        data: folder of their files.
        configurations: that are compared.
        shared: other settings, by name; model is None for the embedded one.

    Raises: SettingError: a setting is missing or out of range.
    """
    if data is None:
        raise SettingError(
            "--tasks needs --data, the folder that holds gqa, mmbench, MME, ...: in LLaVA "
            "playground/data/eval, in Video-LLaVA eval."
        )
    names = tuple(name.lower() for name in split_at_commas(tasks))
    model = shared["model"]
    more = shared | {"model": model or EMBEDDED, "files": hash_files(model)}
    return TaskSettings(names, data, configurations, **more)


def read_judge(url: str | None, model: str | None, prompt: Path | None) -> Judge | None:
    """Return the judge that was named; None for none.

    Args:
        url: address, or "none"; None looks up verdicts that exist.
        model: name of the judge.
        prompt: file of what it is asked.

    Raises:
        SettingError: an address without a name, or the other way round where both are needed.
        InputError: the file cannot be read.
    """
    wordings = read_wordings(prompt)
    if url is None or url == NO_JUDGE:
        return None if model is None else Judge(model, wordings)
    if model is None:
        raise SettingError("--judge needs --judge-model, the name of the judge.")
    read_key()
    return Judge(model, wordings, Endpoint(url, model))


def evaluate_tasks(
    settings: TaskSettings,
    judging: Sequence[Any],
    model: str | None,
    device: str | None,
    *,
    as_json: bool,
    verbose: bool = False,
) -> None:
    """Run an evaluation on benchmarks, or continue one, judge its answers, and print its results.

    The model is loaded only if answers are missing. Several processes share the answers; number 0
    does the rest.

    Args:
        settings: of the evaluation.
        judging: address, name and prompt of the judge, as typed.
        model: folder or hub id; None for the embedded model.
        device: to run on, as typed.
        as_json: whether one JSON document is printed instead of the table for people.
        verbose: whether the traceback of an unexpected error is printed as well.

    Raises:
        SparsightError: something is missing or does not fit. Whatever can be checked before the
            model is loaded is checked before.
    """
    with join_processes(device, verbose=verbose) as (ranks, place):
        with ranks.share_errors():
            tasks = find_tasks(settings.tasks)
            judge = read_judge(*judging)
            _check_judging(tasks, judging[0])
            with show_leader_progress("reading the data", ranks):
                sheets = read_sheets(tasks, settings.data, settings.limit)
        with open_task_store(settings, sheets, ranks) as store:
            results = _run(settings, sheets, store, judge, ranks, model=model, device=place)
        if ranks.leads:
            _print(results, settings.out, as_json)


def _check_judging(tasks: Sequence[Task], url: str | None) -> None:
    """Raise SettingError if answers have to be judged and nothing is said about a judge."""
    judged = [task.title for task in tasks if task.judged]
    if judged and url is None:
        raise SettingError(
            f"{', '.join(judged)}: a judge marks the answers; give --judge with an "
            "OpenAI-compatible address and --judge-model, or --judge none to mark them later."
        )


def _run(
    settings: TaskSettings,
    sheets: Sequence[Sheet],
    store: TaskStore,
    judge: Judge | None,
    ranks: Ranks,
    *,
    model: str | None,
    device: torch.device,
) -> dict[str, Any]:
    """Answer what is missing, have it judged, and return the results; {} but in process 0."""
    for note in store.notes if ranks.leads else ():
        say(f"note: {note}")
    try:
        heading = _answer(settings, sheets, store, ranks, model=model, device=device)
        if not ranks.leads:
            return {}
        if judge is not None and judge.endpoint is not None:
            _judge(judge, settings, sheets, store)
    except KeyboardInterrupt:
        _say_stopped(settings.out, store, ranks)
        raise typer.Exit(INTERRUPTED) from None
    return score_folder(
        settings.out,
        judge=judge,
        keys=[one.key for one in settings.configurations],
        asked={sheet.task.name: sheet.ids for sheet in sheets},
        heading=heading,
        tell=_say_note,
    )


def _say_stopped(out: Path, store: TaskStore, ranks: Ranks) -> None:
    if ranks.leads:
        count = f"{store.count()} answers" if ranks.count == 1 else "all written answers"
        say(f"stopped; {count} are kept in {out}. Run the same command again to continue.")


def _answer(
    settings: TaskSettings,
    sheets: Sequence[Sheet],
    store: TaskStore,
    ranks: Ranks,
    *,
    model: str | None,
    device: torch.device,
) -> dict[str, Any] | None:
    """Answer what is missing; return facts on the run, None where nothing was missing."""
    if not count_open(settings, sheets, store):
        return None
    with ranks.share_errors(), show_leader_progress("loading the model", ranks):
        vlm, processor = load_model(model, device)
        cast_weights(vlm, getattr(torch, settings.dtype))
    doing = "answering" if ranks.count == 1 else f"answering, 1 share of {ranks.count}"
    with show_answer_count(doing) if ranks.leads else nullcontext() as report:
        tell = _say_note if ranks.leads else None
        found = run_tasks(
            vlm, processor, settings, sheets, store, ranks=ranks, report=report, tell=tell
        )
    own = sorted(name for name, prompt in found["prompts"].items() if prompt != "LLaVA-1.5's")
    if own and ranks.leads:
        say(
            f"note: {', '.join(own)}: the model's chat template does not give LLaVA-1.5's prompt; "
            "the model's own is used, so that scores are not the paper's."
        )
    return {"command": name_command(shlex.join(sys.argv[1:]), ranks), **found}


def _judge(judge: Judge, settings: TaskSettings, sheets: Sequence[Sheet], store: TaskStore) -> None:
    """Have a judge mark all answers that it has not marked yet."""
    pairs = []
    for sheet in sheets:
        if sheet.task.judged:
            asked = {item.id for item in sheet.items}
            replies = store.replies[sheet.task.name].values()
            pairs += [(sheet.task, reply) for reply in replies if reply.id in asked]
    if pairs:
        verdicts = Verdicts(settings.out / VERDICTS, repair=True)
        if verdicts.note is not None:
            _say_note(verdicts.note)
        with show_answer_count("judging") as report:
            judge_all(judge, pairs, verdicts, report)


def score_again(
    folder: Path,
    url: str | None,
    model: str | None,
    prompt: Path | None,
    *,
    export: Path | None = None,
    as_json: bool,
) -> None:
    """Score the answers of a folder again, and print the results.

    Args:
        folder: of the evaluation.
        url: address of a judge, which is refused, or "none".
        model: name of the judge whose verdicts count; None for the only one.
        prompt: file of what the judge was asked.
        export: folder that workbooks for MMBench's server are written to; None for none.
        as_json: whether one JSON document is printed instead of the tables for people.

    Raises:
        InputError: the folder holds no evaluation on benchmarks, or is damaged.
        SettingError: an address of a judge is given, verdicts of several judges are there, there
            are no answers to export, or several processes were started.
        UnsupportedError: the package that writes workbooks is missing.
    """
    refuse_several("--score")
    if url not in (None, NO_JUDGE):
        raise SettingError(
            "--score asks no judge; give --judge-model to choose among verdicts, or run the "
            "command with --tasks again."
        )
    judge = read_judge(None, model, prompt)
    if judge is None and prompt is not None:
        judge = find_only_judge(Verdicts(folder / VERDICTS, repair=False), read_wordings(prompt))
    files, notes = ([], []) if export is None else export_mmbench(folder, export)
    for path in files:
        say(f"{path} is written")
    for note in notes:
        _say_note(note)

    def tell(note: str) -> None:
        if note not in notes:
            _say_note(note)

    _print(score_folder(folder, judge=judge, tell=tell), folder, as_json)


def _say_note(note: str) -> None:
    say(f"note: {note}")


def _print(results: dict[str, Any], out: Path, as_json: bool) -> None:
    if as_json:
        print_json(results)
        return
    console = Console()
    show_tasks(results, console if console.is_terminal else Console(width=_PLAIN_WIDTH), out)
