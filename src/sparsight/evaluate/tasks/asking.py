"""Asks a model the questions of benchmarks, in batches, under each configuration."""

import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from sparsight.bench.timing import synchronize
from sparsight.counts.cost import decoder_macs
from sparsight.errors import InputError
from sparsight.evaluate.tasks.lines import Reply
from sparsight.evaluate.tasks.prompts import (
    Wording,
    find_padding,
    find_wording,
    show,
    write_messages,
)
from sparsight.evaluate.tasks.store import hash_text
from sparsight.evaluate.tasks.task import Item, Task
from sparsight.families import family_of
from sparsight.families.family import decoder_shape
from sparsight.inputs import Shown, prompt_inputs
from sparsight.methods.method import Method
from sparsight.run import Run
from sparsight.sparsify import sparsify

LEFT = {"padding": True, "padding_side": "left"}


@dataclass(frozen=True)
class Cost:
    """What one prompt cost; see `Reply`."""

    visual_tokens: int
    mean_visual_tokens: float
    mean_visual_tokens_authors: float
    prefill_flops: int
    dense_prefill_flops: int


class Asker:
    """Asks one model.

    Args:
        model: of a supported family.
        processor: of the model, with a chat template.
        run: hash of the evaluation, for the record.
        most: tokens of an answer; None for the authors' of each benchmark.
    """

    def __init__(self, model: Any, processor: Any, run: str, most: int | None = None) -> None:
        if not getattr(processor, "chat_template", None):
            raise InputError("the model's processor has no chat template; an evaluation needs one.")
        self._model = model
        self._processor = processor
        self._run = run
        self._most = most
        family = family_of(model)
        decoder: Any = family.base_model(model).get_submodule(family.decoder)
        self._shape = decoder_shape(decoder.config)
        self._placeholders = torch.tensor(family.placeholder_ids(model.config))
        self.padding = find_padding(processor)

    def find_wording(self, task: Task) -> Wording:
        """Return how the prompts of a benchmark are written."""
        return find_wording(self._processor, video=bool(task.frames))

    def show(self, task: Task, items: Sequence[Item]) -> list[list[Shown]]:
        """Return the images or the video of each question.

        Raises: InputError: one cannot be read.
        """
        return [show(item, task.frames, self.padding) for item in items]

    def write(
        self, task: Task, items: Sequence[Item], shown: Sequence[list[Shown]]
    ) -> dict[str, Any]:
        """Return the model's inputs of questions, padded on the left."""
        wording = self.find_wording(task)
        rows = zip(items, shown, strict=True)
        messages = [write_messages(item, images, wording) for item, images in rows]
        return prompt_inputs(self._model, self._processor, messages, LEFT)

    def ask(
        self,
        task: Task,
        items: Sequence[Item],
        inputs: Mapping[str, Any],
        key: str,
        method: Method | None,
    ) -> list[Reply]:
        """Return the answers to questions whose inputs are written.

        Args:
            task: that the questions are of.
            items: the questions.
            inputs: of the model.
            key: of the configuration, for the record.
            method: that prunes; None for the dense model.

        Raises:
            BudgetError: the method cannot meet its budget on a prompt.
            UnsupportedError: the method does not support the model or a prompt.
        """
        context: Any = nullcontext() if method is None else sparsify(self._model, method)
        length = inputs["input_ids"].shape[1]
        with context as run, torch.inference_mode():
            synchronize(self._model.device)
            start = time.perf_counter()
            tokens = self._model.generate(
                **inputs,
                max_new_tokens=self._most or task.max_new_tokens,
                do_sample=False,
                num_beams=1,
                pad_token_id=self._find_pad(),
            )
            synchronize(self._model.device)
            seconds = (time.perf_counter() - start) / len(items)
            costs = self._list_costs(run, inputs)
        texts = self._processor.batch_decode(tokens[:, length:], skip_special_tokens=True)
        answers = [str(text).strip() for text in texts]
        rows = zip(items, answers, costs, strict=True)
        return [self._make_reply(item, answer, cost, key, seconds) for item, answer, cost in rows]

    def _make_reply(
        self, item: Item, answer: str, cost: Cost, configuration: str, seconds: float
    ) -> Reply:
        return Reply(
            run=self._run,
            configuration=configuration,
            id=item.id,
            part=item.part,
            group=item.group,
            question=item.question,
            kinds=item.kinds,
            target=item.target,
            prediction=answer,
            prompt=hash_text(item.text),
            seconds=round(seconds, 4),
            **vars(cost),
        )

    def _find_pad(self) -> int | None:
        tokenizer = self._processor.tokenizer
        pad = tokenizer.pad_token_id
        found = tokenizer.eos_token_id if pad is None else pad
        return None if found is None else int(found)

    def _list_costs(self, run: Run | None, inputs: Mapping[str, Any]) -> list[Cost]:
        """Return what each prompt of a batch cost."""
        if run is not None:
            return [_read_cost(run, row) for row in range(len(inputs["input_ids"]))]
        ids = inputs["input_ids"].cpu()
        visual = torch.isin(ids, self._placeholders).sum(dim=1).tolist()
        lengths = inputs["attention_mask"].sum(dim=1).tolist()
        costs = []
        for count, length in zip(visual, lengths, strict=True):
            flops = 2 * decoder_macs(self._shape, (length,) * self._shape.layers)
            costs.append(Cost(count, float(count), float(count), flops, flops))
        return costs


def _read_cost(run: Run, row: int) -> Cost:
    stats = run.stats.take_row(row)
    return Cost(
        stats.visual_tokens[0],
        stats.mean_visual_tokens,
        stats.mean_visual_tokens_authors,
        stats.prefill_flops,
        stats.dense_prefill_flops,
    )
