"""`sparsight ask`: one question, answered dense and sparse on the same inputs, and what that cost."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console

from sparsight.bench.timing import collect_facts, interleave, time_generation
from sparsight.cli.inputs import read_device, read_dtype, split_words
from sparsight.cli.load import EMBEDDED, load_model
from sparsight.cli.method import cli_name, read_method
from sparsight.cli.report import Outcome, as_document, show
from sparsight.cli.streams import print_json
from sparsight.errors import InputError
from sparsight.evaluate.asking import cast_weights
from sparsight.families import family_of
from sparsight.images import find_source_file, name_source, read_image
from sparsight.inputs import check_question, prompt_inputs, user_message
from sparsight.methods.method import Method
from sparsight.picture import check_drawable, lay_out_panels
from sparsight.sparsify import Run, sparsify

MOST_STEPS = 16  # decode steps that are timed


@dataclass(frozen=True)
class Request:
    """What was asked for on the command line.

    Args:
        words: images, then the question.
        model: folder or hub id, None for the embedded model.
        method: name.
        retain: budget, as typed.
        paper: whether the published settings are wanted.
        max_new_tokens: length of the answers, at most.
        runs: timed runs of each kind.
        picture: PNG to write, or None.
        device: to run on, None for the GPU if there is one.
        dtype: number format of the weights, None for the one they have.
    """

    words: tuple[str, ...]
    model: str | None
    method: str
    retain: str
    paper: bool
    max_new_tokens: int
    runs: int
    picture: Path | None
    device: str | None = None
    dtype: str | None = None


def ask(request: Request, as_json: bool) -> None:
    """Answer, measure, report and draw.

    Raises: SparsightError: anything that is missing or does not fit, before the model runs where it
    can be known.
    """
    method = read_method(request.method, request.retain, request.paper)
    device, dtype = read_device(request.device), read_dtype(request.dtype)
    sources, question = split_words(request.words)
    images = [read_image(source) for source in sources]
    if request.picture is not None:
        check_target(request.picture, sources)
    with progress("loading the model"):
        model, processor = load_model(request.model, device)
        model = model if dtype is None else cast_weights(model, dtype)
    check_question(question, processor)
    inputs = prompt_inputs(model, processor, [user_message(question, images)])
    if request.picture is not None:
        lay_out_panels(
            check_drawable(family_of(model).layout(model.config, inputs)), images, processor
        )
    with progress("answering"):
        answer, run = answer_sparse(model, processor, inputs, method, request.max_new_tokens)
        dense = answer_dense(model, processor, inputs, request.max_new_tokens)
    outcome = Outcome(
        model=request.model or EMBEDDED,
        method=cli_name(type(method)),
        settings=repr(method),
        images=tuple(map(name_source, sources)),
        question=question,
        dense=dense,
        sparse=answer,
        stats=run.stats,
        timings=measure(model, inputs, method, request),
        facts=collect_facts(model.device, model.dtype),
        picture=None if request.picture is None else str(request.picture),
    )
    if as_json:
        print_json(as_document(outcome))
    else:
        show(outcome, Console())
    if request.picture is not None:  # last: a full disk loses no answer
        draw(outcome, run, images, processor)


def check_target(path: Path, sources: Sequence[str] = ()) -> None:
    """Check that a picture can be written, by opening its file or making one; nothing is left or changed.

    Args:
        path: of the picture.
        sources: images as given, none of which may be overwritten.
    Raises: InputError: it cannot, or lies where an image is.
    """
    if path.suffix.lower() != ".png":
        raise InputError(f"--picture {path} must end in .png.")
    target = Path(os.path.realpath(path))  # a link is followed, also one to what is not there yet
    try:
        if not target.parent.is_dir():
            raise InputError(f"--picture {path}: its folder does not exist.")
        if not target.exists():
            os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
            target.unlink()
            return
        if not target.is_file():
            raise InputError(f"--picture {path} is there and no regular file; give another name.")
        if any(
            file is not None and target.samefile(file) for file in map(find_source_file, sources)
        ):
            raise InputError(
                f"--picture {path} is one of the images, and would overwrite it; give another name."
            )
        os.close(os.open(target, os.O_WRONLY))
    except OSError as error:
        raise InputError(
            f"--picture {path} cannot be written: {error.strerror or error}."
        ) from error


def answer_sparse(
    model: Any, processor: Any, inputs: Mapping[str, Any], method: Method, length: int
) -> tuple[str, Run]:
    """Answer while pruning; comes before the dense answer, as it is what can be refused."""
    with sparsify(model, method) as run:
        answer = answer_dense(model, processor, inputs, length)
        return answer, run


def answer_dense(model: Any, processor: Any, inputs: Mapping[str, Any], length: int) -> str:
    """Answer greedily with the model as it is."""
    tokens = model.generate(**inputs, max_new_tokens=length, do_sample=False)
    new = tokens[0, inputs["input_ids"].shape[1] :]
    return str(processor.decode(new, skip_special_tokens=True)).strip()


def measure(model: Any, inputs: Mapping[str, Any], method: Method, request: Request) -> Any:
    """Time dense and sparse in turns."""
    steps = min(request.max_new_tokens, MOST_STEPS)

    def sparse() -> Mapping[str, float]:
        with sparsify(model, method):
            return time_generation(model, inputs, steps)

    with progress("measuring"):
        return interleave(
            {"dense": lambda: time_generation(model, inputs, steps), "sparse": sparse},
            runs=request.runs,
        )


def draw(outcome: Outcome, run: Run, images: Sequence[Image.Image], processor: Any) -> None:
    """Write the picture."""
    stats = outcome.stats
    answers = {
        f"dense, {stats.visual_tokens[0]} visual tokens": outcome.dense,
        f"sparse, {stats.mean_visual_tokens:.4g} on average": outcome.sparse,
    }
    try:
        run.picture(images, outcome.question, answers, processor).save(
            outcome.picture or "", format="PNG"
        )
    except OSError as error:
        raise InputError(
            f"--picture {outcome.picture} cannot be written: {error.strerror or error}."
        ) from error


@contextmanager
def progress(what: str) -> Iterator[None]:
    """Show on standard error what is going on, if somebody watches."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    with console.status(f"{what} ..."):
        yield
