"""Answers rows in batches; what fails is tried in halves until the rows that fail stand alone."""

import gc
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from sparsight.bench.timing import synchronize
from sparsight.engine.parts import find_parts
from sparsight.engine.support import check
from sparsight.errors import InputError, InputWarning, SparsightError
from sparsight.images import MOST_PIXELS
from sparsight.inputs import check_question, find_positions, prompt_inputs, user_message
from sparsight.methods.method import Method
from sparsight.run import Run
from sparsight.serve.batch.media import open_media
from sparsight.serve.batch.record import Record, fail, succeed
from sparsight.serve.batch.rows import Row, clean, locate_images
from sparsight.serve.joining import Prompt, join
from sparsight.sparsify import sparsify
from sparsight.videos import FRAMES

MOST_ROW_PIXELS = 4 * MOST_PIXELS  # of all images together
# what errors say where memory is short and torch has no class of its own for it
SHORT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


class Answerer:
    """Answers batches of rows with one model.

    Args:
        model: of a supported family.
        processor: of the model.
        method: that prunes; None for the dense model.
        base: folder that relative paths of images start from.
        length: of an answer, at most, in tokens.
        frames: shown of a video, at most.

    Raises: SparsightError: the method does not fit the model.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        method: Method | None,
        *,
        base: Path,
        length: int,
        frames: int = FRAMES,
    ) -> None:
        parts = find_parts(model)
        if method is not None:
            check(parts, method)
        self._model = model
        self._processor = processor
        self._method = method
        self._base = base
        self._length = length
        self._frames = frames
        self._placeholders = torch.tensor(parts.family.placeholder_ids(parts.config))
        self._pad = _find_pad(model, processor)
        self.seconds = 0.0  # inside generate()
        self.halved = 0  # batches that were too large for the memory

    def without_pruning(self) -> "Answerer":
        """Return what answers with the same model dense."""
        return Answerer(
            self._model,
            self._processor,
            None,
            base=self._base,
            length=self._length,
            frames=self._frames,
        )

    def answer(self, rows: Sequence[Row]) -> list[Record]:
        """Return the records of rows, in any order. Rows that fail have an error.

        Raises: Exception: the device is broken, and no later row could be answered.
        """
        try:
            return self._answer_together(rows)
        except Exception as error:  # a model may raise anything
            if _has_broken_device(error):
                raise
            short = is_short_of_memory(error)
            reason = _explain(error, short)
        # from here on nothing holds the tensors of the failed batch any more
        if short:
            _free_memory()
        if len(rows) == 1:
            return [fail(rows[0], reason)]
        self.halved += short
        middle = len(rows) // 2
        return [*self.answer(rows[:middle]), *self.answer(rows[middle:])]

    def _answer_together(self, rows: Sequence[Row]) -> list[Record]:
        """Return the records of rows; one generate() for all whose inputs can be joined."""
        records: list[Record] = []
        groups: dict[Any, list[tuple[Row, Prompt, str | None]]] = {}
        for row in rows:
            try:
                with _collect_notes() as notes:
                    prompt = self._write(row)
            except Exception as error:
                if is_short_of_memory(error):
                    raise
                records.append(fail(row, _explain(error)))
                continue
            note = clean(" ".join(notes)) or None
            groups.setdefault(prompt.group, []).append((row, prompt, note))
        for group in groups.values():
            answers = self._generate([prompt for _, prompt, _ in group])
            for (row, _, note), values in zip(group, answers, strict=True):
                records.append(succeed(row, note=note, **values))
        return records

    def _write(self, row: Row) -> Prompt:
        """Return a row as the model takes it.

        Raises: InputError: an image or the question cannot be used, or the prompt is too long.
        """
        if row.fault is not None:
            raise InputError(row.fault)
        check_question(row.question, self._processor)
        images: list[Image.Image] = []
        for source in locate_images(row, self._base):
            images += open_media(source, self._frames)
            if sum(image.width * image.height for image in images) > MOST_ROW_PIXELS:
                raise InputError(
                    f"the images of the row have more than {MOST_ROW_PIXELS // 10**6} million "
                    "pixels; give fewer, or smaller ones."
                )
        message = user_message(row.question, images)
        inputs = prompt_inputs(self._model, self._processor, [message])
        ids = inputs["input_ids"]
        self._check_length(ids.shape[1])
        return Prompt(
            inputs=inputs,
            tokens=ids.shape[1],
            visual_tokens=int(torch.isin(ids.cpu(), self._placeholders).sum()),
            method=self._method,
            rating=None,
            most=self._length,
        )

    def _check_length(self, tokens: int) -> None:
        positions = find_positions(self._model)
        if positions is not None and tokens + self._length > positions:
            raise InputError(
                f"the prompt has {tokens} tokens and the answer may have {self._length}, but the "
                f"model has positions for {positions}; give fewer images, or ask for less."
            )

    def _generate(self, prompts: Sequence[Prompt]) -> list[Mapping[str, Any]]:
        """Return answer and costs of each prompt of a group."""
        inputs = join(prompts, self._pad)
        start = self._read_clock()
        context: Any = (
            nullcontext() if self._method is None else sparsify(self._model, self._method)
        )
        with context as run, torch.inference_mode():
            sequences = self._model.generate(
                **inputs, max_new_tokens=self._length, do_sample=False, pad_token_id=self._pad
            )
            costs = _list_costs(prompts, run)
        self.seconds += self._read_clock() - start
        new = sequences[:, inputs["input_ids"].shape[1] :].tolist()
        answers = self._processor.batch_decode(new, skip_special_tokens=True)
        return [
            {"answer": clean(str(answer).strip()), **cost}
            for answer, cost in zip(answers, costs, strict=True)
        ]

    def _read_clock(self) -> float:
        synchronize(self._model.device)
        return time.perf_counter()


def _find_pad(model: Any, processor: Any) -> int:
    """Return the token id of padding; without one, that of an end of answers."""
    pad = processor.tokenizer.pad_token_id
    ends = model.generation_config.eos_token_id
    several = ends if isinstance(ends, list) else [ends]
    return int(pad if pad is not None else min(filter(None, several), default=0))


@contextmanager
def _collect_notes() -> Iterator[list[str]]:
    """Yield a list that takes what is said about ignored parts of images; other warnings pass."""
    notes: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield notes
    for warning in caught:
        if issubclass(warning.category, InputWarning):
            notes.append(str(warning.message))
        else:
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )


def _list_costs(prompts: Sequence[Prompt], run: Run | None) -> list[dict[str, Any]]:
    """Return what was pruned of each prompt of the prefill that has just run."""
    if run is None:
        counts = [prompt.visual_tokens for prompt in prompts]
        return [_name_cost(count, float(count), 1.0) for count in counts]
    costs = []
    for number in range(len(prompts)):
        stats = run.stats.take_row(number)
        share = stats.prefill_flops / stats.dense_prefill_flops
        costs.append(_name_cost(stats.visual_tokens[0], stats.mean_visual_tokens, share))
    return costs


def _name_cost(before: int, entering: float, share: float) -> dict[str, Any]:
    return {
        "visual_tokens": before,
        "visual_tokens_entering": round(entering, 4),
        "prefill_flops_share": round(share, 6),
    }


def is_short_of_memory(error: BaseException) -> bool:
    """Return whether an error says that the memory of the device or the host is too small."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(part in text for part in SHORT_OF_MEMORY)


def _has_broken_device(error: BaseException) -> bool:
    """Return whether an error leaves the device unusable for whatever comes after it."""
    return isinstance(error, torch.AcceleratorError) and not is_short_of_memory(error)


def _explain(error: BaseException, short: bool = False) -> str:
    """Return why a row has no answer."""
    if isinstance(error, SparsightError):
        return str(error)
    said = str(error).strip().rstrip(".")
    if short:
        return f"the row alone needs more memory than there is ({said})."
    return f"unexpected {type(error).__name__}: {said}."


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
