"""Asks a model: builds the prompt of a question, answers it greedily turn by turn, times it and counts its work."""

import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image

from sparsight.bench.timing import synchronize
from sparsight.chat import Chat
from sparsight.counts.cost import decoder_macs
from sparsight.errors import InputError
from sparsight.evaluate.evidence import evidence_tokens, recalls, shows_whole_images
from sparsight.evaluate.record import Recall, Record
from sparsight.evaluate.scenes import Question
from sparsight.evaluate.scenes.scene import SIZE
from sparsight.evaluate.scoring import normalised
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
        visual_tokens: in them.
        images: shown.
        evidence: for each turn, (V,) bool, the visual tokens that show what its answer rests on;
            None if unknown.
    """

    question: Question
    inputs: Mapping[str, torch.Tensor]
    visual_tokens: int
    images: tuple[Image.Image, ...]
    evidence: tuple[torch.Tensor | None, ...]


def cast_weights(model: Any, dtype: torch.dtype) -> Any:
    """Give a model's weights another number format; tables such as rotary frequencies keep theirs."""
    for weight in model.parameters():
        weight.data = weight.data.to(dtype)
    return model


@dataclass
class Examiner:
    """Asks one model.

    Args:
        model: of a supported family.
        processor: its processor, with a chat template.
        max_new_tokens: length of an answer, at most.
    """

    model: Any
    processor: Any
    max_new_tokens: int
    _sides: dict[int, bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check that there is a chat template."""
        if not getattr(self.processor, "chat_template", None):
            raise InputError("the model's processor has no chat template; an evaluation needs one.")
        self.family = family_of(self.model)
        decoder: Any = self.family.base_model(self.model).get_submodule(self.family.decoder)
        self.shape = decoder_shape(decoder.config)
        self.ids = torch.tensor(self.family.placeholder_ids(self.model.config))

    def still_tokens(self) -> int:
        """Return the visual tokens of one still image of a suite's size."""
        inputs = self._inputs([Image.new("RGB", (SIZE, SIZE))], "?", None)
        return self._visual(inputs["input_ids"])

    def prompt(self, case: Case, images: list[Image.Image], *, known: bool) -> Prompt:
        """Prepare a question.

        Args:
            case: what is asked.
            images: of the question that is shown.
            known: whether the question's evidence is in them.
        """
        question = case.question
        own_side = (
            images[0].width if images and question.frames and self._takes(images[0].width) else None
        )
        inputs = self._inputs(images, question.turns[0].question, own_side)
        visual, layout = (
            self._visual(inputs["input_ids"]),
            self.family.layout(self.model.config, inputs) if images else None,
        )
        evidence: tuple[torch.Tensor | None, ...] = (None,) * len(question.turns)
        if known and layout is not None and shows_whole_images(layout, len(images)):
            sizes = [image.size for image in images]
            evidence = tuple(evidence_tokens(turn.boxes, sizes, layout) for turn in question.turns)
        return Prompt(question, inputs, visual, tuple(images), evidence)

    def ask(self, prompt: Prompt, configuration: Configuration, method: Method | None) -> Record:
        """Answer all turns of a question.

        Raises:
            BudgetError: the budget cannot be met on this prompt.
            UnsupportedError: the method does not support this model or prompt.
        """
        context: Any = nullcontext() if method is None else sparsify(self.model, method)
        with context as run, torch.inference_mode():
            began = self._now()
            answers = self._converse(prompt)
            seconds = self._now() - began
            return self._record(prompt, configuration, run, answers, seconds)

    def _converse(self, prompt: Prompt) -> list[str]:
        """Answer turn by turn; later turns continue on the cache of the earlier ones."""
        options: dict[str, Any] = {"max_new_tokens": self.max_new_tokens, "do_sample": False}
        chat = Chat(self.model, self.processor, reuse="cache", **options)
        first, *later = (turn.question for turn in prompt.question.turns)
        return [chat.ask(first, prompt.images, inputs=dict(prompt.inputs)), *map(chat.ask, later)]

    def _inputs(
        self, images: list[Image.Image], question: str, side: int | None
    ) -> dict[str, torch.Tensor]:
        """Return the model's inputs; `side` px shows images at that size instead of the processor's."""
        settings: dict[str, Any] = {"padding": True}
        if side is not None:
            settings["images_kwargs"] = {
                "size": {"shortest_edge": side},
                "crop_size": {"height": side, "width": side},
            }
        return prompt_inputs(self.model, self.processor, [user_message(question, images)], settings)

    def _takes(self, side: int) -> bool:
        """Tell whether the image encoder takes images of this side; frames of a side it does not take are enlarged."""
        if side not in self._sides:
            pixels = torch.zeros(1, 3, side, side, device=self.model.device, dtype=self.model.dtype)
            try:
                with torch.inference_mode():
                    self.model.get_image_features(pixel_values=pixels)
                self._sides[side] = True
            except (
                ValueError,
                RuntimeError,
            ):  # what image encoders say to a size that they do not know
                self._sides[side] = False
        return self._sides[side]

    def _visual(self, ids: torch.Tensor) -> int:
        return int(torch.isin(ids.cpu(), self.ids).sum())

    def _now(self) -> float:
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
        stats = None if run is None else run.stats
        dense = 2 * decoder_macs(
            self.shape, (prompt.inputs["input_ids"].shape[1],) * self.shape.layers
        )
        found = [_recalls(run, evidence) for evidence in prompt.evidence]
        return Record(
            configuration=configuration.key,
            question=question.id,
            family=question.family,
            split=question.split,
            answers=tuple(answers),
            expected=expected,
            right=tuple(
                normalised(a) == normalised(b) for a, b in zip(answers, expected, strict=True)
            ),
            visual_tokens=prompt.visual_tokens,
            mean_visual_tokens=float(prompt.visual_tokens)
            if stats is None
            else stats.mean_visual_tokens,
            prefill_flops=dense if stats is None else stats.prefill_flops,
            dense_prefill_flops=dense if stats is None else stats.dense_prefill_flops,
            seconds=round(seconds, 4),
            sites=() if run is None else tuple(site.site for site in run.trace.samples[0]),
            recall=tuple(recall for recall, _ in found),
            recall_merged=tuple(merged for _, merged in found),
        )


def _recalls(run: Run | None, evidence: torch.Tensor | None) -> tuple[Recall | None, Recall | None]:
    """Return recall at each site; no sites, no loss. A smaller image still shows all evidence, in fewer tokens."""
    if evidence is None:
        return None, None
    recall, merged = recalls(() if run is None else run.trace.samples[0], evidence)
    if merged is not None and run is not None and run.method.scales_images:
        merged = (1.0,) * len(merged)
    return recall, merged
