"""`sparsight run`: the command and its options; what it needs is imported when it runs."""
# ruff: noqa: PLC0415

from pathlib import Path
from typing import Annotated

import typer

from sparsight.cli.app import Device, Dtype, Json, Model, Verbose, app, command
from sparsight.cli.choices import METHOD_NAMES

Where = Annotated[
    Path,
    typer.Argument(
        metavar="INPUTS",
        help="A .csv or .jsonl file with a question a row, or a folder of images.",
    ),
]
Out = Annotated[
    Path, typer.Option(help="Answers, .jsonl or .parquet; the same command continues a job.")
]
Question = Annotated[str | None, typer.Option(help="Of all rows, where they have none.")]
MethodOption = Annotated[str, typer.Option(help=f"What prunes: dense, {METHOD_NAMES}.")]
Retain = Annotated[
    str | None,
    typer.Option(help="Visual tokens to keep, layer mean: a count, or a fraction; default: 192."),
]
Paper = Annotated[
    bool, typer.Option("--paper", help="Use the authors' published counts for --retain.")
]
Tokens = Annotated[int, typer.Option(min=1, help="Length of the answers, at most.")]
Size = Annotated[int, typer.Option(min=1, help="Rows answered together.")]
Frames = Annotated[int, typer.Option(min=1, help="Shown of a video.")]
Check = Annotated[
    int | None,
    typer.Option(min=1, help="Rows that are answered dense too, first; shows how many agree."),
]
Ray = Annotated[
    str | None,
    typer.Option(metavar="ADDRESS", help="Answer on a Ray cluster; local starts one here."),
]
Workers = Annotated[int, typer.Option(min=1, help="Models on the cluster, with --ray.")]


@app.command(name="run")
@command
def run_command(
    inputs: Where,
    *,
    out: Out,
    question: Question = None,
    model: Model = None,
    method: MethodOption = "sparsight",
    retain: Retain = None,
    paper: Paper = False,
    max_new_tokens: Tokens = 16,
    batch_size: Size = 8,
    frames: Frames = 8,
    check: Check = None,
    ray: Ray = None,
    workers: Workers = 1,
    as_json: Json = False,
    device: Device = None,
    dtype: Dtype = None,
    verbose: Verbose = False,
) -> None:
    """Answer questions about many images, in batches, into one file; a stopped job continues."""
    from sparsight.cli.batch_job import Job, run
    from sparsight.serve.batch.settings import Asking

    del verbose
    asking = Asking(
        model=model,
        method=method,
        retain=retain,
        paper=paper,
        max_new_tokens=max_new_tokens,
        frames=frames,
        device=device,
        dtype=dtype,
    )
    run(Job(inputs, out, question, asking, batch_size, check, ray, workers), as_json)
