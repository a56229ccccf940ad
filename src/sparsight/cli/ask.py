"""`sparsight ask`: one question, answered and measured dense and sparse on the same inputs."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from sparsight.bench.timing import Timing, collect_facts, interleave, time_generation
from sparsight.cli.load import EMBEDDED, load_model
from sparsight.cli.method import cli_name
from sparsight.cli.report import Outcome, as_document, show
from sparsight.cli.shown import read_shown
from sparsight.cli.streams import print_json
from sparsight.errors import InputError
from sparsight.evaluate.asking import cast_weights
from sparsight.families import family_of
from sparsight.images import find_source_file, name_source
from sparsight.inputs import Shown, check_question, prompt_inputs, takes_videos, user_message
from sparsight.methods.method import Method
from sparsight.picture import check_drawable, lay_out_panels
from sparsight.run import Run
from sparsight.sparsify import sparsify
from sparsight.videos import FRAMES, Clip, is_video

MOST_STEPS = 16  # decode steps that are timed


def ask(
    sources: Sequence[str],
    question: str,
    method: Method,
    *,
    frames: int = FRAMES,
    model: str | None,
    device: torch.device,
    dtype: torch.dtype | None,
    max_new_tokens: int,
    runs: int,
    picture: Path | None,
    as_json: bool,
) -> None:
    """Answer a question dense and sparse, measure both, print the outcome and write the picture.

    Args:
        sources: paths or URLs of the images, and paths of videos.
        question: about them.
        method: that prunes.
        frames: of each video that are shown.
        model: folder or hub id; None for the embedded model.
        device: to run on.
        dtype: of the weights; None leaves them as they are.
        max_new_tokens: length of each answer, at most.
        runs: timed runs, dense and sparse each.
        picture: PNG to write, or None.
        as_json: whether one JSON document is printed instead of the page for people.

    Raises:
        SparsightError: something is missing or does not fit. Whatever can be checked before the
            model runs is checked before.
    """
    shown = read_shown(sources, frames)
    if picture is not None:
        check_target(picture, sources)
    vlm, processor = _load(model, device, dtype)
    inputs = _write_prompt(vlm, processor, question, shown)
    if picture is not None:
        _check_drawable(vlm, processor, inputs, shown)
    dense, sparse, run = _answer_both(vlm, processor, inputs, method, max_new_tokens)
    outcome = Outcome(
        model=model or EMBEDDED,
        method=cli_name(type(method)),
        settings=repr(method),
        images=tuple(name_source(source) for source in sources if not is_video(source)),
        clips=tuple(one for one in shown if isinstance(one, Clip)),
        as_videos=takes_videos(processor),
        question=question,
        dense=dense,
        sparse=sparse,
        stats=run.stats,
        timings=measure(vlm, inputs, method, min(max_new_tokens, MOST_STEPS), runs),
        facts=collect_facts(vlm.device, vlm.dtype),
        picture=None if picture is None else str(picture),
    )
    with ExitStack() as stack:
        if picture is not None:  # behind the answer, which must not be lost, even if none reads it
            stack.callback(write_picture, picture, outcome, run, shown, processor)
        _print(outcome, as_json)


def _load(name: str | None, device: torch.device, dtype: torch.dtype | None) -> tuple[Any, Any]:
    with show_progress("loading the model"):
        model, processor = load_model(name, device)
        return model if dtype is None else cast_weights(model, dtype), processor


def _write_prompt(
    model: Any, processor: Any, question: str, shown: Sequence[Shown]
) -> dict[str, Any]:
    """Return the model's inputs."""
    check_question(question, processor)
    message = user_message(question, shown, as_videos=takes_videos(processor))
    return prompt_inputs(model, processor, [message])


def _check_drawable(
    model: Any, processor: Any, inputs: Mapping[str, Any], shown: Sequence[Shown]
) -> None:
    """Raise, before the model runs, the error that drawing the picture would raise after it."""
    layout = family_of(model).layout(model.config, inputs)
    lay_out_panels(check_drawable(layout), shown, processor)


def _answer_both(
    model: Any, processor: Any, inputs: Mapping[str, Any], method: Method, length: int
) -> tuple[str, str, Run]:
    """Return the dense answer, the sparse answer, and the run that holds the counts."""
    with show_progress("answering"):
        # sparse first: it is the run that may be refused
        sparse, run = answer_sparse(model, processor, inputs, method, length)
        return answer_dense(model, processor, inputs, length), sparse, run


def _print(outcome: Outcome, as_json: bool) -> None:
    if as_json:
        print_json(as_document(outcome))
    else:
        show(outcome, Console())


def check_target(path: Path, sources: Sequence[str] = ()) -> None:
    """Check that a picture can be written, and leave the disk as it was.

    The check opens the file that is there, or creates one and removes it.

    Args:
        path: of the picture.
        sources: images and videos as given on the command line; none of them may be overwritten.

    Raises:
        InputError: the picture cannot be written, or its path is that of a source.
    """
    if path.suffix.lower() != ".png":
        raise InputError(f"--picture {path} must end in .png.")
    target = Path(os.path.realpath(path))  # follows a link, even to a file that is not there yet
    try:
        if not target.parent.is_dir():
            raise InputError(f"--picture {path}: its folder does not exist.")
        if not target.exists():
            os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
            target.unlink()
            return
        if not target.is_file():
            raise InputError(f"--picture {path} is there and no regular file; give another name.")
        files = map(find_source_file, sources)
        if any(file is not None and target.samefile(file) for file in files):
            raise InputError(
                f"--picture {path} is one of the images or videos, and would overwrite it; "
                "give another name."
            )
        os.close(os.open(target, os.O_WRONLY))
    except OSError as error:
        raise InputError(
            f"--picture {path} cannot be written: {error.strerror or error}."
        ) from error


def answer_sparse(
    model: Any, processor: Any, inputs: Mapping[str, Any], method: Method, length: int
) -> tuple[str, Run]:
    """Return the greedy answer of the pruned model, and the run that holds its counts."""
    with sparsify(model, method) as run:
        answer = answer_dense(model, processor, inputs, length)
        return answer, run


def answer_dense(model: Any, processor: Any, inputs: Mapping[str, Any], length: int) -> str:
    """Return the model's greedy answer of at most `length` tokens."""
    tokens = model.generate(**inputs, max_new_tokens=length, do_sample=False)
    new = tokens[0, inputs["input_ids"].shape[1] :]
    return str(processor.decode(new, skip_special_tokens=True)).strip()


def measure(
    model: Any, inputs: Mapping[str, Any], method: Method, steps: int, runs: int
) -> Mapping[str, Mapping[str, Timing]]:
    """Return the timings of the dense and the sparse model, which ran in turns."""

    def time_dense() -> Mapping[str, float]:
        return time_generation(model, inputs, steps)

    def time_sparse() -> Mapping[str, float]:
        with sparsify(model, method):
            return time_generation(model, inputs, steps)

    with show_progress("measuring"):
        return interleave({"dense": time_dense, "sparse": time_sparse}, runs=runs)


def write_picture(
    path: Path, outcome: Outcome, run: Run, shown: Sequence[Shown], processor: Any
) -> None:
    """Write the picture of what was kept.

    Raises:
        InputError: the file cannot be written.
    """
    stats = outcome.stats
    answers = {
        f"dense, {stats.visual_tokens[0]} visual tokens": outcome.dense,
        f"sparse, {stats.mean_visual_tokens:.4g} on average": outcome.sparse,
    }
    drawing = run.picture(shown, outcome.question, answers, processor)
    try:
        drawing.save(path, format="PNG")
    except OSError as error:
        raise InputError(
            f"--picture {path} cannot be written: {error.strerror or error}."
        ) from error


@contextmanager
def show_progress(what: str) -> Iterator[None]:
    """Show on a terminal's standard error what is being done."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    with console.status(f"{what} ..."):
        yield
