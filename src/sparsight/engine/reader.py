"""Reads the outline of a pass before images are encoded, and makes what is needed to prune it.

An outline says where the visual tokens of a batch are and how many stay (`outline.py`). Private
details of transformers touched here: that generate() hands on an empty `mm_encoder_outputs` with
text alone; hooks hand in arguments by name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from transformers import Cache

from sparsight.engine import checks
from sparsight.engine.cache import read_windows
from sparsight.engine.caller import PerCaller
from sparsight.engine.compat import CACHE
from sparsight.engine.encoder_tap import EncoderTap
from sparsight.engine.encoding import check_encoding
from sparsight.engine.final_norm import make_norm
from sparsight.engine.image_scaling import ImageScaler
from sparsight.engine.layer_inputs import LayerInputs
from sparsight.engine.outline import Outline, Planner
from sparsight.engine.parts import Parts
from sparsight.engine.passes import Pass, Pruning
from sparsight.methods.method import Method
from sparsight.sequence.compactor import Compactor
from sparsight.sequence.encoded import SampleSignals
from sparsight.sequence.prompt import Prompt, read_prompts, repeat_marks
from sparsight.sequence.raters import choose_raters
from sparsight.sequence.sample import Sample
from sparsight.sequence.sizes import Sizes
from sparsight.sequence.slots import read_slots


class Reader:
    """Reads the passes of one model.

    Args:
        parts: of the model.
        method: what to keep.
        inputs: shortens the arguments of decoder layers.
        scaler: scales images down before they are encoded; None if the method scales none.
        encoder: reads the image encoder, or changes what it computes; None if the method does
            neither.
    """

    def __init__(
        self,
        parts: Parts,
        method: Method,
        inputs: LayerInputs,
        scaler: ImageScaler | None,
        encoder: EncoderTap | None = None,
    ) -> None:
        self.parts = parts
        self.method = method
        self.inputs = inputs
        self.scaler = scaler
        self.encoder = encoder
        self.norm = make_norm(parts.decoder, method)
        self.planner = Planner(parts, method)
        # how many tokens at the end of a prompt may rate; None for all behind its images
        self.rating: PerCaller[int | None] = PerCaller(None, shared=False, inherited=True)

    def brings_images(self, arguments: dict[str, Any]) -> bool:
        """Return whether arguments of the model carry images or their features.

        Those of text-only prompts and decode steps do not. generate() hands on an empty
        `mm_encoder_outputs` with these; a placeholder in their text stands for no image.
        """
        given = (arguments.get(name) for name in self.parts.family.features)
        return any(value is not None and not _is_empty(value) for value in given)

    def check_cache(self, cache: Cache | None, first_site: int) -> None:
        """Check that a cache can be pruned from the first site on.

        Raises: UnsupportedError: a cache layer is of a kind that cannot be pruned.
        """
        if cache is not None:
            for layer in range(first_site, len(self.parts.layers)):
                self.inputs.get_cache_layer(cache, layer)

    def check_decoder(self, state: Pass, module: nn.Module, arguments: dict[str, Any]) -> None:
        """Check the text decoder's arguments in a pass that is pruned or has a pruned cache."""
        checks.check_kernel(module)
        if state.outline is not None:
            checks.check_length(state.outline.visual, state.length)
        # the decoder may get one mask for each kind of layer; the base model's 2-D mask shows
        # which tokens are padding
        mask = state.padding.base_mask
        checks.check_mask(mask, state.past + state.length)
        causal = self.parts.family.causal
        positions = checks.find_packing_positions(arguments, mask, causal=causal)
        if positions is not None:
            checks.refuse_packed(state.to_host(positions))

    def announce(self, state: Pass, ids: torch.Tensor, arguments: dict[str, Any]) -> None:
        """Set the outline of a generate() call, whose images may be encoded before its first pass.

        Args:
            state: the pass that stands for the call.
            ids: (B, L) int64 on the host.
            arguments: of generate(), by name.

        Raises:
            BudgetError: a sample's budget cannot be met.
            PromptError: no text that could rate a sample's images follows them.
        """
        outline = self.planner.outline(ids, arguments)
        self.inputs.calibrator.check_past(outline, arguments.get(CACHE), whole=True)
        self.planner.check_questions(ids, outline, self.rating.get(), state.read_base_mask)
        state.outline = self._plan_encoding(outline)
        state.announced = ids
        state.image_sizes = arguments.get("image_sizes")
        if self.encoder is not None and state.needs:
            self.encoder.check_call(arguments)

    def read_outline(
        self, state: Pass, ids: torch.Tensor, arguments: dict[str, Any], before: Pass | None
    ) -> Outline:
        """Return the outline of a pass that brings images, and set it.

        What was read of the image encoder for features that were encoded before is taken over.

        Args:
            state: the pass.
            ids: (B, L) int64 on the device.
            arguments: of the base model, by name.
            before: the pass that was running when this one was opened; None if there was none. If
                it stands for a generate() call with these ids, their layouts have been read and
                their questions checked.
        """
        ids = state.to_host(ids).clone()
        layouts = None if before is None else before.match_layouts(ids)
        candidates = 0 if before is None else before.count_candidates(ids)
        ids[:, ids.shape[1] - candidates :] = -1  # a drafted placeholder brings no image
        sizes: dict[str, torch.Tensor] = {}
        if layouts is None:
            names = [name for name in self.parts.family.sizes if arguments.get(name) is not None]
            sizes = {name: state.to_host(arguments[name]) for name in names}
        outline = self.planner.outline(ids, {**arguments, **sizes}, layouts, candidates)
        self.inputs.calibrator.check_past(outline, arguments.get(CACHE), whole=False)
        if layouts is None:
            self.planner.check_questions(ids, outline, self.rating.get(), state.read_base_mask)
        state.ids, state.image_sizes = ids, arguments.get("image_sizes")
        outline = self._plan_encoding(outline)
        if self.scaler is not None:
            self.scaler.check_features(outline.scale, arguments, before)
        check_encoding(arguments, outline.encoding)
        state.outline = outline
        if self.encoder is not None and state.needs:
            self.encoder.check_call(arguments)
            self.encoder.collect(state, arguments)
        return outline

    def _plan_encoding(self, outline: Outline) -> Outline:
        """Return the outline of a batch with what is done to its images before and in the encoder.

        Raises:
            BudgetError: the encoder cannot leave as few tokens as planned.
            UnsupportedError: the samples need images encoded in different ways.
        """
        if self.scaler is not None:
            outline = self.scaler.scale(outline)
        return outline if self.encoder is None else self.encoder.plan(outline)

    def _read_signals(
        self, state: Pass, prompts: Sequence[Prompt], outline: Outline, embeds: torch.Tensor
    ) -> list[SampleSignals]:
        """Return what the method reads of each sample besides hidden states and attention."""
        signals = [SampleSignals() for _ in prompts]
        if self.encoder is not None and state.needs:
            signals = self.encoder.read_samples(state, outline.counts)
        if self.norm is not None:
            signals = [replace(sample, norm=self.norm) for sample in signals]
        if "text" not in self.method.signals:
            return signals
        texts = [
            row[prompt.text.to(row.device)] for row, prompt in zip(embeds, prompts, strict=True)
        ]
        ids: list[tuple[int, ...] | None] = [None] * len(texts)
        if state.ids is not None:
            known = zip(state.ids, prompts, strict=True)
            ids = [tuple(row[prompt.text].tolist()) for row, prompt in known]
        rows = zip(signals, texts, ids, strict=True)
        return [replace(sample, text=text, ids=own) for sample, text, own in rows]

    def read_marked(self, marks: torch.Tensor, embeds: torch.Tensor) -> Outline:
        """Return the outline of a text model's pass, from the caller's marks of visual tokens.

        Args:
            marks: (B, L) bool on the host.
            embeds: (B * copies, L, D) input embeddings; beam search copies samples.
        Raises: PromptError: the shapes do not fit.
        """
        return self.planner.plan(repeat_marks(marks, embeds), None)

    def make_pruning(
        self, state: Pass, outline: Outline, embeds: torch.Tensor, cache: Cache | None
    ) -> Pruning:
        """Return the pruning state of a pass that brings visual tokens.

        Args:
            state: the pass, its padding read.
            outline: of the pass.
            embeds: (B, L, D) input embeddings of the text decoder.
            cache: of the pass, or None.
        Raises: PromptError: a sample's visual tokens cannot be rated, or are masked out.
        """
        real = state.padding.host
        real = torch.ones_like(outline.visual) if real is None else real
        prompts = read_prompts(outline.visual, real, self.rating.get(), outline.candidates)
        raters = choose_raters(self.method, outline.schedules, prompts, embeds, state.to_host)
        signals = self._read_signals(state, prompts, outline, embeds)
        rows = zip(prompts, outline.schedules, outline.layouts, raters, signals, strict=True)
        samples = tuple(Sample(*row) for row in rows)
        slots = read_slots(prompts, raters, embeds.device)
        frequencies = self.inputs.read_frequencies()
        sizes = None
        if self.method.calibration is not None or "sizes" in self.method.signals:
            ones = torch.ones(embeds.shape[:2], dtype=torch.float32, device=embeds.device)
            sizes = Sizes(ones)
        compactor = Compactor(
            self.method, samples, slots, state.real, frequencies, state.to_host, sizes
        )
        return Pruning(compactor, read_windows(cache))


def _is_empty(value: object) -> bool:
    """Return whether an argument is a mapping that holds nothing."""
    return isinstance(value, Mapping) and all(part is None for part in value.values())
