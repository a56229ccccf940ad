"""Runs the job that `sparsight run` describes, and prints its summary."""

import hashlib
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import typer

from sparsight.cli.ask import show_progress
from sparsight.cli.evaluate import show_answer_count
from sparsight.cli.inputs import as_text, read_device, read_dtype
from sparsight.cli.load import hash_files, load_model
from sparsight.cli.method import read_method, read_retain
from sparsight.cli.streams import INTERRUPTED, print_json, put, say
from sparsight.errors import SettingError, UnsupportedError
from sparsight.evaluate.asking import cast_weights
from sparsight.methods.method import Method
from sparsight.needs import check_package
from sparsight.serve.batch.answering import Answerer
from sparsight.serve.batch.cluster import Cluster
from sparsight.serve.batch.rows import Inputs, read_inputs
from sparsight.serve.batch.runner import Agreement, AnswerAll, compare, run_job
from sparsight.serve.batch.settings import DENSE, RETAIN, Asking, check_out, describe
from sparsight.serve.batch.store import Store

SHOWN = 5  # ids of differing answers that are printed


@dataclass(frozen=True)
class Job:
    """What the command line asks for.

    Args:
        inputs: table or folder.
        out: file of the answers.
        question: of all rows, or None.
        asking: how rows are answered.
        batch_size: rows answered together.
        check: rows that are answered dense too, or None.
        ray: address of a Ray cluster, "local", or None for no cluster.
        workers: models on the cluster.
    """

    inputs: Path
    out: Path
    question: str | None
    asking: Asking
    batch_size: int
    check: int | None
    ray: str | None
    workers: int


def run(job: Job, as_json: bool) -> None:
    """Run a job, or continue one that was stopped, and print its summary.

    Args:
        job: that is run.
        as_json: whether one JSON document is printed instead of lines for people.

    Raises: SparsightError: something is missing or does not fit. Whatever can be checked before a
        model is loaded is checked before.
    """
    method = read_chosen(job.asking)
    _check_options(job, method)
    read_dtype(job.asking.dtype)
    check_out(job.out)
    question = None if job.question is None else as_text(job.question)
    inputs = read_inputs(job.inputs, question)
    files = hash_model(job.asking.model)
    description = describe(job.asking, method, question, inputs, files)
    with Store(job.out, inputs.rows, description) as store:
        for note in (*inputs.notes, *store.notes):
            say(f"note: {note}")
        before = len(store.done)
        start = time.perf_counter()
        try:
            agreement, halved = _answer_all(job, method, inputs, store)
        except KeyboardInterrupt:
            say(
                f"stopped; {len(store.done)} of {len(inputs.rows)} rows are kept. "
                "Run the same command again to continue."
            )
            raise typer.Exit(INTERRUPTED) from None
        summary = {
            "out": str(job.out),
            **asdict(store.totals),
            "answered_before": before,
            "halved_batches": halved,
            "seconds": round(time.perf_counter() - start, 3),
            "check": None if agreement is None else _describe_agreement(agreement),
        }
    summary["visual_tokens_entering"] = round(summary["visual_tokens_entering"], 2)
    print_json(summary) if as_json else put(_write_summary(summary))


def read_chosen(asking: Asking) -> Method | None:
    """Return the method that prunes; None for the dense model, which takes no budget."""
    if asking.method.strip().lower() == DENSE:
        if asking.paper:
            raise UnsupportedError("dense has no published settings; leave --paper out.")
        if asking.retain is not None:
            read_retain(asking.retain)
            raise SettingError("method dense prunes nothing; leave --retain out.")
        return None
    retain = RETAIN if asking.retain is None else asking.retain
    return read_method(asking.method, retain, asking.paper)


def hash_model(name: str | None) -> str:
    """Return a SHA-256 of a model's files; "" for a hub id.

    Weights count by size and by the time they were written, as other weights mostly have one size.

    Args: name: folder or hub id; None for the embedded model.
    """
    files = hash_files(name)
    if name is None or not files:
        return files
    digest = hashlib.sha256(files.encode())
    for path in sorted(Path(name).glob("*.safetensors")):
        digest.update(f"{path.name} {path.stat().st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _check_options(job: Job, method: Method | None) -> None:
    if job.check is not None and method is None:
        raise SettingError("--check compares with the dense model; leave it or dense out.")
    if job.check is not None and job.ray is not None:
        raise SettingError("--check runs on this machine; run it without --ray first.")
    if job.ray is None and job.workers != 1:
        raise SettingError(f"--workers {job.workers} needs --ray; give --ray local.")
    if job.ray is None:
        read_device(job.asking.device)
    else:
        check_package("ray", "--ray")


def _answer_all(
    job: Job, method: Method | None, inputs: Inputs, store: Store
) -> tuple[Agreement | None, int]:
    """Answer what is left; return what the check showed, and how many batches were halved."""
    if store.finished and job.check is None:
        store.finish()
        return None, 0
    if job.ray is not None:
        cluster = Cluster(job.ray, job.workers, build_answerer, job.asking, inputs.base)
        _show_work(job, inputs, store, cluster.answer_all)
        return None, cluster.halved
    answerer, dense = _load(job, method, inputs)
    agreement = None
    if job.check is not None:
        with show_progress("checking"):
            agreement = compare(dense, answerer, inputs, job.check, job.batch_size)
        say(f"check: {_write_agreement(_describe_agreement(agreement))}")
        answerer.halved = 0
    _show_work(job, inputs, store, lambda batches: map(answerer.answer, batches))
    return agreement, answerer.halved


def _show_work(job: Job, inputs: Inputs, store: Store, answer: AnswerAll) -> None:
    with show_answer_count() as report:
        run_job(inputs, store, job.batch_size, answer, report)


def _load(job: Job, method: Method | None, inputs: Inputs) -> tuple[Answerer, Answerer]:
    """Return what answers, and what answers dense, with the same model."""
    with show_progress("loading the model"):
        answerer = build_answerer(job.asking, inputs.base)
    return answerer, answerer.without_pruning()


def build_answerer(asking: Asking, base: Path) -> Answerer:
    """Load a model, and return what answers with it.

    Args:
        asking: how rows are answered.
        base: folder that relative paths of images start from.
    """
    method = read_chosen(asking)
    model, processor = load_model(asking.model, read_device(asking.device))
    dtype = read_dtype(asking.dtype)
    if dtype is not None:
        cast_weights(model, dtype)
    return Answerer(
        model,
        processor,
        method,
        base=base,
        length=asking.max_new_tokens,
        frames=asking.frames,
    )


def _describe_agreement(agreement: Agreement) -> dict[str, Any]:
    ratio = agreement.time_ratio
    return {
        **asdict(agreement),
        "differing": list(agreement.differing),
        "dense_seconds": round(agreement.dense_seconds, 3),
        "sparse_seconds": round(agreement.sparse_seconds, 3),
        "time_ratio": None if ratio is None else round(ratio, 3),
    }


def _write_agreement(check: dict[str, Any]) -> str:
    text = f"{check['agree']} of {check['rows']} answers are those of the dense model"
    if check["time_ratio"] is not None:
        text += f", which takes {check['time_ratio']:.2f} times as long"
    if check["failed"]:
        text += f"; rows with an error: {check['failed']}"
    if check["differing"]:
        names = ", ".join(check["differing"][:SHOWN])
        more = ", ..." if len(check["differing"]) > SHOWN else ""
        text += f"; different: {names}{more}"
    return text + "."


def _write_summary(summary: dict[str, Any]) -> str:
    rows = summary["rows"]
    answered = rows - summary["errors"]
    lines = [f"{summary['out']}: {rows} rows, {summary['errors']} of them with an error."]
    if summary["answered_before"]:
        lines[0] += f" {summary['answered_before']} were there before."
    if answered:
        before = summary["visual_tokens"] / answered
        after = summary["visual_tokens_entering"] / answered
        lines.append(f"Visual tokens of a row: {before:.4g} before, {after:.4g} after pruning.")
    if summary["halved_batches"]:
        lines.append(
            f"{summary['halved_batches']} batches were too large for the memory, and were halved; "
            "a smaller --batch-size is faster."
        )
    if summary["check"] is not None:
        lines.append(f"Check: {_write_agreement(summary['check'])}")
    lines.append(f"{summary['seconds']:.1f} seconds.")
    return "\n".join(lines) + "\n"
