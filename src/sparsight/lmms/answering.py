"""Answers batches of questions with one model, pruned or not, and sums up what that cost.

Nothing is caught here: an error of the model or a refusal ends the run, since an empty answer in
its place would be scored as a wrong one. Knows no lmms-eval.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from sparsight.bench.timing import synchronize
from sparsight.cli.load import load_model
from sparsight.engine.parts import find_parts
from sparsight.engine.support import check
from sparsight.errors import SettingError
from sparsight.evaluate.asking import cast_weights
from sparsight.inputs import Messages, prompt_inputs
from sparsight.lmms.arguments import Arguments
from sparsight.lmms.costs import Costs
from sparsight.lmms.generation import Generation, cut_answer, find_end
from sparsight.lmms.turns import holds_video
from sparsight.run import Run
from sparsight.sparsify import sparsify


@dataclass(frozen=True)
class Reply:
    """An answer.

    Args:
        text: of it, cut where the task says so.
        prompt_tokens: before anything is pruned, without padding.
        new_tokens: that were generated, the one that ends the answer included.
    """

    text: str
    prompt_tokens: int
    new_tokens: int


class Ends(StoppingCriteria):
    """Ends a row as soon as its answer holds a text that ends it.

    Args:
        decode: returns the texts of token ids, (B, N).
        start: index of the first new token.
        stops: texts that end an answer.
    """

    def __init__(
        self, decode: Callable[[torch.Tensor], list[str]], start: int, stops: Sequence[str]
    ) -> None:
        self._decode = decode
        self._start = start
        self._stops = stops

    def __call__(
        self, input_ids: torch.Tensor, scores: torch.Tensor | None, **kwargs: Any
    ) -> torch.Tensor:
        """Return (B,) bool, which rows are done."""
        del scores, kwargs
        texts = self._decode(input_ids[:, self._start :])
        done = [find_end(text, self._stops) is not None for text in texts]
        return torch.tensor(done, device=input_ids.device)


class Answerer:
    """Owns the model of a run.

    Args:
        arguments: of the model, which is loaded, set up and checked with its method here.

    Raises:
        SettingError: the processor cannot do what the arguments ask for.
        SparsightError: the model cannot be loaded, or the method does not fit it.
    """

    def __init__(self, arguments: Arguments) -> None:
        model, processor = load_model(arguments.model, arguments.device)
        if arguments.dtype is not None:
            cast_weights(model, arguments.dtype)
        if arguments.attention is not None:
            model.set_attn_implementation(arguments.attention)
        parts = find_parts(model)
        if arguments.method is not None:
            check(parts, arguments.method)
        self.model: Any = model
        self.processor: Any = processor
        self.costs = Costs()
        self._arguments = arguments
        self._placeholders = torch.tensor(parts.family.placeholder_ids(parts.config))
        self._ends = _list_ends(model)
        self._pad = _find_padding(processor, self._ends, arguments.batch)
        _check_processor(processor, arguments)
        processor.tokenizer.padding_side = "left"

    @contextmanager
    def pruning(self) -> Iterator[Run | None]:
        """Prune the model inside the block, unless it is to be dense; yield the run."""
        if self._arguments.method is None:
            yield None
            return
        with sparsify(self.model, self._arguments.method) as run:
            yield run

    def answer(
        self, conversations: list[Messages], generation: Generation, run: Run | None
    ) -> list[Reply]:
        """Answer a batch of conversations.

        Args:
            conversations: of `read_turns`.
            generation: how answers are generated.
            run: of `pruning`.

        Raises: Exception: whatever the processor, the model or the method raises.
        """
        settings = {"padding": True, **self._arguments.images}
        if any(map(holds_video, conversations)):
            settings |= self._arguments.videos
        inputs = prompt_inputs(self.model, self.processor, conversations, settings)
        start = inputs["input_ids"].shape[1]
        options: dict[str, Any] = {**generation.options, "pad_token_id": self._pad}
        if generation.stops and options["num_beams"] == 1:  # beams are cut when all have ended
            options["stopping_criteria"] = StoppingCriteriaList(
                [Ends(self._decode, start, generation.stops)]
            )
        began = self._read_clock()
        with torch.inference_mode():
            output = self.model.generate(**inputs, **options)
        self.costs.seconds += self._read_clock() - began
        self._count(inputs["input_ids"], run)
        new = output[:, start:]
        lengths = [self._measure(row) for row in new.tolist()]
        whole = self._decode(new)
        texts = [cut_answer(text, generation.stops) for text in whole]
        self._count_ends(new, whole, generation)
        self.costs.new_tokens += sum(lengths)
        prompts = inputs["attention_mask"].sum(dim=1).tolist()
        return list(map(Reply, texts, prompts, lengths))

    def _decode(self, ids: torch.Tensor) -> list[str]:
        """Return the texts of token ids, (B, N), special tokens left out."""
        texts: list[str] = self.processor.batch_decode(ids, skip_special_tokens=True)
        return texts

    def _count(self, ids: torch.Tensor, run: Run | None) -> None:
        """Add the costs of a batch that was just answered, by its prompts, (B, N)."""
        visual = torch.isin(ids.cpu(), self._placeholders).sum(dim=1).tolist()
        if run is None:
            self.costs.add_dense(visual)
        elif any(visual):  # without one, the stats are those of an earlier batch
            self.costs.add_pruned(run.stats)

    def _count_ends(self, new: torch.Tensor, texts: list[str], generation: Generation) -> None:
        """Count how answers ended, by their tokens, (B, N), and their uncut texts."""
        full = new.shape[1] == generation.options["max_new_tokens"]
        for row, text in zip(new.tolist(), texts, strict=True):
            stopped = find_end(text, generation.stops) is not None
            ended = not full or not self._ends.union([self._pad]).isdisjoint(row)
            self.costs.answers += 1
            self.costs.stopped += stopped
            self.costs.unfinished += not stopped and not ended

    def _measure(self, tokens: list[int]) -> int:
        """Return how many tokens an answer has, up to its end or its padding."""
        for index, token in enumerate(tokens):
            if token in self._ends:
                return index + 1
            if token == self._pad:
                return index
        return len(tokens)

    def _read_clock(self) -> float:
        synchronize(self.model.device)
        return time.perf_counter()


def _list_ends(model: Any) -> frozenset[int]:
    """Return the ids of tokens that end an answer."""
    ends = model.generation_config.eos_token_id
    several = ends if isinstance(ends, list) else [ends]
    return frozenset(end for end in several if end is not None)


def _find_padding(processor: Any, ends: frozenset[int], batch: int) -> int:
    """Return the token id of padding.

    Raises: SettingError: the tokenizer has none, and batches need one.
    """
    pad = processor.tokenizer.pad_token_id
    if pad is None and batch > 1:
        raise SettingError(
            f"the model's tokenizer has no token to pad with; give --batch_size 1, not {batch}."
        )
    return int(pad) if pad is not None else min(ends, default=0)


def _check_processor(processor: Any, arguments: Arguments) -> None:
    """Check that the processor has the settings that the arguments name.

    Raises: SettingError: it has not.
    """
    parts = {"image_processor": arguments.images, "video_processor": arguments.videos}
    for part, settings in parts.items():
        for name, value in settings.items():
            if not hasattr(getattr(processor, part, None), name):
                raise SettingError(
                    f"{name}={value} has no effect: {type(processor).__name__} has no {part} with "
                    "such a setting; leave it out."
                )
