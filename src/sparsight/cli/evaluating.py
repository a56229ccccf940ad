"""`sparsight eval`: the command and its options; what it needs is imported when it runs."""
# ruff: noqa: PLC0415

from pathlib import Path
from typing import Annotated, Any

import typer

from sparsight.cli.app import Device, Json, Model, Verbose, app, command
from sparsight.cli.choices import (
    BUDGETS,
    CONTROLS,
    DTYPES,
    METHODS,
    SCENES,
    SUITES,
    TASK_METHODS,
    TASKS,
)
from sparsight.errors import SettingError

SCENES_PANEL = "Scenes"
TASKS_PANEL = "Benchmarks"
OUT = Path("sparsight-eval")

Suite = Annotated[
    str | None,
    typer.Option(
        help=f"{SUITES}, or the folder of a suite; {SCENES} is the default one.",
        rich_help_panel=SCENES_PANEL,
    ),
]
Methods = Annotated[
    str | None,
    typer.Option(help=f"Separated by commas; default: {METHODS}; with --tasks: {TASK_METHODS}."),
]
Retain = Annotated[
    str,
    typer.Option(
        help="Budgets, separated by commas: counts for one image (with --tasks: for a prompt), "
        "fractions, or none for no bound."
    ),
]
Families = Annotated[
    str | None,
    typer.Option(
        help="Of questions, separated by commas; default: all.", rich_help_panel=SCENES_PANEL
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(help="Questions of each part; default: all; of a video benchmark the first 1000."),
]
Control = Annotated[
    str, typer.Option(help=f"What is shown: {CONTROLS}.", rich_help_panel=SCENES_PANEL)
]
Dtype = Annotated[str, typer.Option(help=f"dtype of the weights: {DTYPES}.")]
Share = Annotated[
    bool,
    typer.Option(
        "--share-encoding",
        help="Encode a question's images once for all; no seconds then.",
        rich_help_panel=SCENES_PANEL,
    ),
]
Seed = Annotated[int, typer.Option(help="Of random dropping and of resampling.")]
Out = Annotated[
    Path, typer.Option(help="Folder of answers and results; the same folder continues.")
]
Tasks = Annotated[
    str | None,
    typer.Option(
        help=f"Benchmarks in place of scenes, separated by commas: {TASKS}.",
        rich_help_panel=TASKS_PANEL,
    ),
]
Data = Annotated[
    Path | None,
    typer.Option(
        help="Folder of their files: LLaVA's playground/data/eval, Video-LLaVA's eval.",
        rich_help_panel=TASKS_PANEL,
    ),
]
Batch = Annotated[
    int | None,
    typer.Option(min=1, help="Questions answered together.", rich_help_panel=TASKS_PANEL),
]
Tokens = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Length of an answer, at most; default: as the authors have it.",
        rich_help_panel=TASKS_PANEL,
    ),
]
Paper = Annotated[
    bool,
    typer.Option(
        "--paper",
        help="Use the authors' published counts for --retain; what follows a method's name, as in "
        "sparsevlm:recycle=false, is changed beside them.",
        rich_help_panel=TASKS_PANEL,
    ),
]
JudgeUrl = Annotated[
    str | None,
    typer.Option(
        "--judge",
        help="OpenAI-compatible address that marks answers, such as http://127.0.0.1:8000/v1, or "
        "none. Its key is SPARSIGHT_JUDGE_KEY in the environment.",
        rich_help_panel=TASKS_PANEL,
    ),
]
JudgeModel = Annotated[
    str | None, typer.Option(help="Name of the judge.", rich_help_panel=TASKS_PANEL)
]
JudgePrompt = Annotated[
    Path | None,
    typer.Option(help="JSON file of what the judge is asked.", rich_help_panel=TASKS_PANEL),
]
Score = Annotated[
    Path | None,
    typer.Option(
        help="Folder whose answers are scored again, without model and data.",
        rich_help_panel=TASKS_PANEL,
    ),
]
Export = Annotated[
    Path | None,
    typer.Option(
        help="With --score: folder that workbooks for MMBench's server are written to.",
        rich_help_panel=TASKS_PANEL,
    ),
]


@app.command(name="eval")
@command
def eval_command(
    *,
    suite: Suite = None,
    methods: Methods = None,
    retain: Retain = BUDGETS,
    model: Model = None,
    families: Families = None,
    limit: Limit = None,
    control: Control = "none",
    dtype: Dtype = "float32",
    share_encoding: Share = False,
    seed: Seed = 0,
    out: Out = OUT,
    tasks: Tasks = None,
    data: Data = None,
    batch: Batch = None,
    max_new_tokens: Tokens = None,
    paper: Paper = False,
    judge: JudgeUrl = None,
    judge_model: JudgeModel = None,
    judge_prompt: JudgePrompt = None,
    score: Score = None,
    export: Export = None,
    as_json: Json = False,
    device: Device = None,
    verbose: Verbose = False,
) -> None:
    """Score scenes or benchmarks, dense and at each budget, side by side."""
    of_scenes = {
        "--suite": suite,
        "--families": families,
        "--control": control != "none",
        "--share-encoding": share_encoding,
    }
    of_tasks = {
        "--data": data,
        "--batch": batch,
        "--max-new-tokens": max_new_tokens,
        "--paper": paper,
    }
    judged = (judge, judge_model, judge_prompt)
    of_judge = dict(zip(("--judge", "--judge-model", "--judge-prompt"), judged, strict=True))
    shared: dict[str, Any] = {"limit": limit, "seed": seed, "dtype": dtype, "out": out}
    if score is not None:
        _refuse("--score", {"--tasks": tasks, **of_scenes, **of_tasks})
        from sparsight.cli.evaluate_tasks import score_again

        score_again(score, *judged, export=export, as_json=as_json)
    elif tasks is not None:
        _refuse("--tasks", {**of_scenes, "--export": export})
        shared |= {"model": model, "batch": batch or 1, "max_new_tokens": max_new_tokens}
        chosen = (tasks, data, methods, retain, paper)
        _evaluate_tasks(chosen, shared, judged, device, as_json=as_json, verbose=verbose)
    else:
        _refuse("scenes", {**of_tasks, **of_judge, "--export": export})
        shared |= {"control": control, "share_encoding": share_encoding}
        _evaluate_scenes((suite, families, methods, retain), shared, model, device, as_json)


def _evaluate_tasks(
    chosen: tuple[str, Path | None, str | None, str, bool],
    shared: dict[str, Any],
    judge: tuple[str | None, str | None, Path | None],
    device: str | None,
    *,
    as_json: bool,
    verbose: bool,
) -> None:
    from sparsight.cli import evaluate_tasks as benchmarks

    tasks, data, methods, retain, paper = chosen
    configurations = benchmarks.read_configurations(methods, retain, paper=paper)
    settings = benchmarks.read_settings(tasks, data, configurations, shared)
    model = shared["model"]
    benchmarks.evaluate_tasks(settings, judge, model, device, as_json=as_json, verbose=verbose)


def _evaluate_scenes(
    chosen: tuple[str | None, str | None, str | None, str],
    shared: dict[str, Any],
    model: str | None,
    device: str | None,
    as_json: bool,
) -> None:
    from sparsight.cli.evaluate import evaluate, read_configurations, read_families, read_suite
    from sparsight.cli.inputs import read_device
    from sparsight.cli.load import EMBEDDED
    from sparsight.cli.processes import refuse_several
    from sparsight.evaluate.settings import Settings

    refuse_several("scenes")

    suite, families, methods, retain = chosen
    settings = Settings(
        suite=read_suite(suite or SCENES),
        configurations=read_configurations(methods, retain, shared["control"]),
        families=read_families(families),
        model=model or EMBEDDED,
        **shared,
    )
    evaluate(settings, model, read_device(device), as_json)


def _refuse(where: str, options: dict[str, Any]) -> None:
    """Raise SettingError if an option is given that says nothing here."""
    given = [name for name, value in options.items() if value]
    if given:
        raise SettingError(f"{given[0]} says nothing about {where}; leave it out.")
