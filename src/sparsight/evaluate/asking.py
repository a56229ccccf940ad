"""Asks a model: builds the prompt of a question, answers it turn by turn, and counts the costs."""

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image

from sparsight.bench.timing import synchronize
from sparsight.chat import Chat
from sparsight.counts.cost import decoder_macs
from sparsight.counts.layout import Layout
from sparsight.engine.image_memory import remembered_images
from sparsight.errors import InputError
from sparsight.evaluate.evidence import find_evidence_tokens, measure_recall, shows_whole_images
from sparsight.evaluate.record import Recall, Record
from sparsight.evaluate.scenes import Question
from sparsight.evaluate.scenes.scene import SIZE
from sparsight.evaluate.scoring import is_right
from sparsight.evaluate.settings import Case, Configuration
from sparsight.families import family_of
from sparsight.families.family import decoder_shape
from sparsight.inputs import prompt_inputs, user_message
from sparsight.methods.method import Method
from sparsight.run import Run
from sparsight.sparsify import sparsify


@dataclass(frozen=True)
class Prompt:
    """A question, ready for the model.

    Args:
        question: asked.
        inputs: of the first turn, on the model's device.
        visual_tokens: number of them in the inputs.
        images: shown.
        evidence: for each turn, (V,) bool, the visual tokens that show what its answer rests on;
            None where they are not known.
    """

    question: Question
    inputs: Mapping[str, torch.Tensor]
    visual_tokens: int
    images: tuple[Image.Image, ...]
    evidence: tuple[torch.Tensor | None, ...]


def cast_weights(model: Any, dtype: torch.dtype) -> Any:
    """Change the dtype of a model's parameters, and return the model.

    Buffers, such as rotary frequencies, keep their dtype.
    """
    for weight in model.parameters():
        weight.data = weight.data.to(dtype)
    return model


@dataclass
class Examiner:
    """Asks one model.

    Args:
        model: of a supported family.
        processor: of the model, with a chat template.
        max_new_tokens: length of an answer, at most.
    """

    model: Any
    processor: Any
    max_new_tokens: int
    _encodable_sides: dict[int, bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check that there is a chat template, and find the parts of the model."""
        if not getattr(self.processor, "chat_template", None):
            raise InputError("the model's processor has no chat template; an evaluation needs one.")
        self.family = family_of(self.model)
        decoder: Any = self.family.base_model(self.model).get_submodule(self.family.decoder)
        self.shape = decoder_shape(decoder.config)
        self.ids = torch.tensor(self.family.placeholder_ids(self.model.config))

    def count_still_tokens(self) -> int:
        """Return how many visual tokens one still image of a suite has."""
        inputs = self._build_inputs([Image.new("RGB", (SIZE, SIZE))], "?", None)
        return self._count_visual(inputs["input_ids"])

    def build_prompt(self, case: Case, images: list[Image.Image], *, find_evidence: bool) -> Prompt:
        """Return the prompt of a question.

        Args:
            case: the question, and the one whose images are shown.
            images: that are shown.
            find_evidence: whether the images are those of the question, which show its evidence.
        """
        question = case.question
        side = None
        if images and question.frames and self._can_encode(images[0].width):
            side = images[0].width
        inputs = self._build_inputs(images, question.turns[0].question, side)
        layout = self.family.layout(self.model.config, inputs) if images else None
        return Prompt(
            question,
            inputs,
            self._count_visual(inputs["input_ids"]),
            tuple(images),
            _find_evidence(question, images, layout if find_evidence else None),
        )

    def share_images(self, prompt: Prompt, shared: bool) -> AbstractContextManager[None]:
        """Return a block inside which a prompt's images are encoded once for all, if `shared`."""
        if not shared or not prompt.images:
            return nullcontext()
        return remembered_images(self.family.base_model(self.model), {})

    def ask(self, prompt: Prompt, configuration: Configuration, method: Method | None) -> Record:
        """Return the record of a question whose turns are all answered.

        Raises:
            BudgetError: the method cannot meet its budget on this prompt.
            UnsupportedError: the method does not support this model or prompt.
        """
        context: Any = nullcontext() if method is None else sparsify(self.model, method)
        with context as run, torch.inference_mode():
            start = self._read_clock()
            answers = self._converse(prompt)
            seconds = self._read_clock() - start
            return self._record(prompt, configuration, run, answers, seconds)

    def _converse(self, prompt: Prompt) -> list[str]:
        """Return the answers of all turns; a later turn continues on the cache of the earlier."""
        options: dict[str, Any] = {"max_new_tokens": self.max_new_tokens, "do_sample": False}
        chat = Chat(self.model, self.processor, reuse="cache", **options)
        first, *later = (turn.question for turn in prompt.question.turns)
        return [chat.ask(first, prompt.images, inputs=dict(prompt.inputs)), *map(chat.ask, later)]

    def _build_inputs(
        self, images: list[Image.Image], question: str, side: int | None
    ) -> dict[str, torch.Tensor]:
        """Return the model's inputs; images are shown with `side` px, None for the default."""
        settings: dict[str, Any] = {"padding": True}
        if side is not None:
            settings["images_kwargs"] = {
                "size": {"shortest_edge": side},
                "crop_size": {"height": side, "width": side},
            }
        return prompt_inputs(self.model, self.processor, [user_message(question, images)], settings)

    def _can_encode(self, side: int) -> bool:
        """Return whether the image encoder takes images of this side, in px.

        Frames of a side that the encoder does not take are shown at its default side.
        """
        if side not in self._encodable_sides:
            pixels = torch.zeros(1, 3, side, side, device=self.model.device, dtype=self.model.dtype)
            try:
                with torch.inference_mode():
                    self.model.get_image_features(pixel_values=pixels)
                self._encodable_sides[side] = True
            except (ValueError, RuntimeError):  # what encoders raise on a size that does not fit
                self._encodable_sides[side] = False
        return self._encodable_sides[side]

    def _count_visual(self, ids: torch.Tensor) -> int:
        return int(torch.isin(ids.cpu(), self.ids).sum())

    def _read_clock(self) -> float:
        synchronize(self.model.device)
        return time.perf_counter()

    def _record(
        self,
        prompt: Prompt,
        configuration: Configuration,
        run: Run | None,
        answers: list[str],
        seconds: float,
    ) -> Record:
        question = prompt.question
        expected = tuple(turn.answer for turn in question.turns)
        recall = [_measure_recall(run, evidence) for evidence in prompt.evidence]
        if run is None:
            length = prompt.inputs["input_ids"].shape[1]
            flops = dense_flops = 2 * decoder_macs(self.shape, (length,) * self.shape.layers)
            mean_visual = float(prompt.visual_tokens)
            sites: tuple[int, ...] = ()
        else:
            flops = run.stats.prefill_flops
            dense_flops = run.stats.dense_prefill_flops
            mean_visual = run.stats.mean_visual_tokens
            sites = tuple(site.site for site in run.trace.samples[0])
        return Record(
            configuration=configuration.key,
            question=question.id,
            family=question.family,
            split=question.split,
            answers=tuple(answers),
            expected=expected,
            right=tuple(map(is_right, answers, expected)),
            visual_tokens=prompt.visual_tokens,
            mean_visual_tokens=mean_visual,
            prefill_flops=flops,
            dense_prefill_flops=dense_flops,
            seconds=round(seconds, 4),
            sites=sites,
            recall=tuple(present for present, _ in recall),
            recall_merged=tuple(merged for _, merged in recall),
        )


def _find_evidence(
    question: Question, images: list[Image.Image], layout: Layout | None
) -> tuple[torch.Tensor | None, ...]:
    """Return for each turn which visual tokens are evidence, (V,) bool; None if not known."""
    if layout is None or not shows_whole_images(layout, len(images)):
        return (None,) * len(question.turns)
    sizes = [image.size for image in images]
    return tuple(find_evidence_tokens(turn.boxes, sizes, layout) for turn in question.turns)


def _measure_recall(
    run: Run | None, evidence: torch.Tensor | None
) -> tuple[Recall | None, Recall | None]:
    """Return the recall of evidence at each site, without and with merged tokens.

    A run without sites loses nothing. A smaller image still shows all evidence, in fewer tokens.
    """
    if evidence is None:
        return None, None
    recall, merged = measure_recall(() if run is None else run.trace.samples[0], evidence)
    if merged is not None and run is not None and run.method.scales_images:
        merged = (1.0,) * len(merged)
    return recall, merged
