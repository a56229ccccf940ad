"""Reads what a pass brings: its outline before anything is encoded, and what pruning it needs.

Private details of transformers touched here: none; hooks hand in arguments by name.
"""

from typing import Any

import torch
from transformers import Cache

from sparsight.engine.cache import cache_windows
from sparsight.engine.caller import PerCaller
from sparsight.engine.image_scaling import ImageScaler
from sparsight.engine.layer_inputs import LayerInputs
from sparsight.engine.outline import Outline, Planner
from sparsight.engine.parts import Parts
from sparsight.engine.passes import Pass, Pruning
from sparsight.methods.method import Method
from sparsight.sequence.compactor import Compactor
from sparsight.sequence.prompt import read_prompts, repeat_marks
from sparsight.sequence.raters import choose_raters
from sparsight.sequence.sample import Sample
from sparsight.sequence.slots import read_slots


class Reader:
    """Reads the passes of one model.

    Args:
        parts: of the model.
        method: what to keep.
        inputs: shortens the arguments of decoder layers.
        scaler: scales images down before they are encoded; None if the method scales none.
    """

    def __init__(
        self, parts: Parts, method: Method, inputs: LayerInputs, scaler: ImageScaler | None
    ) -> None:
        self.parts, self.method = parts, method
        self.inputs, self.scaler = inputs, scaler
        self.planner = Planner(parts, method)
        # tokens at the end of a prompt that may rate; None for all behind its images
        self.rating: PerCaller[int | None] = PerCaller(None, shared=False, inherited=True)

    def brings_images(self, given: dict[str, Any]) -> bool:
        """Return whether arguments of the model carry images.

        Text-only prompts and decode steps do not.
        """
        return any(given.get(name) is not None for name in self.parts.family.features)

    def check_cache(self, cache: Cache | None, first_site: int) -> None:
        """Check that a cache can be pruned from the first site on.

        Raises: UnsupportedError: a cache layer of a kind that cannot be pruned.
        """
        for layer in range(first_site, len(self.parts.layers)):
            if cache is not None:
                self.inputs.cache_layer(cache, layer)

    def announce(self, state: Pass, ids: torch.Tensor, given: dict[str, Any]) -> None:
        """Set the outline of a generate() call, whose images may be encoded before its first pass.

        Args:
            state: the pass that stands for the call.
            ids: (B, L) int64 on the host.
            given: arguments of generate().

        Raises:
            BudgetError: a sample's budget cannot be met.
            PromptError: no words that could rate them follow a sample's images.
        """
        outline = self.planner.outline(ids, given)
        self.planner.check_questions(ids, outline, self.rating.get(), state.read_given_mask)
        state.outline = outline if self.scaler is None else self.scaler.scale(outline)
        state.announced = ids

    def read_outline(
        self, state: Pass, ids: torch.Tensor, given: dict[str, Any], before: Pass | None
    ) -> Outline:
        """Return the outline of a pass that brings images.

        Args:
            state: the pass.
            ids: (B, L) int64 on the device.
            given: arguments of the base model.
            before: the pass of a generate() call that may have announced this one. Its layouts are
                known then, and its questions are checked.
        """
        ids = state.to_host(ids).clone()
        layouts = None if before is None else before.layouts_of(ids)
        candidates = 0 if before is None else before.count_candidates(ids)
        ids[:, ids.shape[1] - candidates :] = -1  # a drafted placeholder brings no image
        sizes: dict[str, torch.Tensor] = {}
        if layouts is None:
            names = [name for name in self.parts.family.sizes if given.get(name) is not None]
            sizes = {name: state.to_host(given[name]) for name in names}
        outline = self.planner.outline(ids, {**given, **sizes}, layouts, candidates)
        if layouts is None:
            self.planner.check_questions(ids, outline, self.rating.get(), state.read_given_mask)
        if self.scaler is not None:
            outline = self.scaler.scale(outline)
            self.scaler.check_features(outline.scale, given, before)
        return outline

    def read_marked(self, marks: torch.Tensor, embeds: torch.Tensor) -> Outline:
        """Return the outline of a text model's pass whose visual tokens its caller marked.

        Args:
            marks: (B, L) bool on the host.
            embeds: (B * copies, L, D).
        Raises: PromptError: the shapes do not fit.
        """
        return self.planner.plan(repeat_marks(marks, embeds), None)

    def make_pruning(
        self, state: Pass, outline: Outline, embeds: torch.Tensor, cache: Cache | None
    ) -> Pruning:
        """Return what a pass needs to be pruned.

        Args:
            state: the pass, its padding read.
            outline: of the pass.
            embeds: (B, L, D), what the text decoder gets.
            cache: of the pass, or None.
        Raises: PromptError: a sample's tokens cannot be rated, or are masked out.
        """
        real = state.padding.host
        real = torch.ones_like(outline.visual) if real is None else real
        prompts = read_prompts(outline.visual, real, self.rating.get(), outline.candidates)
        raters = choose_raters(self.method, outline.schedules, prompts, embeds, state.to_host)
        rows = zip(prompts, outline.schedules, outline.layouts, raters, strict=True)
        samples = tuple(Sample(*row) for row in rows)
        slots = read_slots(prompts, raters, embeds.device)
        frequencies = self.inputs.read_frequencies()
        compactor = Compactor(self.method, samples, slots, state.real, frequencies, state.to_host)
        return Pruning(compactor, cache_windows(cache))
