"""The hooks of one model: find new visual tokens, shorten what layers get after a site, clear up.

The base model's hook finds which tokens are visual, the text decoder's hook reads padding, past and
raters. Every decoder layer's hook shortens its input at a site, and gives it the mask, the rotary
tables and the cache ledger of the shortened sequence. State of a pass lives in a context variable.
Private details of transformers touched here: `self_attn` of decoder layers.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Never

import torch
from torch import nn

from sparsight.engine import checks
from sparsight.engine.cache import check_written, has_ledger
from sparsight.engine.caller import PerCaller
from sparsight.engine.compat import CACHE, named, output_cache, respelled, unknown_features
from sparsight.engine.deepstack import attach_deepstack
from sparsight.engine.image_scaling import ImageScaler
from sparsight.engine.layer_inputs import LayerInputs
from sparsight.engine.parts import Parts
from sparsight.engine.passes import (
    Padding,
    Pass,
    Pruning,
    close_pass,
    current_pass,
    drop_passes,
    open_pass,
)
from sparsight.engine.reader import Reader
from sparsight.engine.tap import attach_tap
from sparsight.errors import AttachError, PromptError, UnsupportedError
from sparsight.methods.method import Method
from sparsight.sequence.rater_rows import AttentionCall
from sparsight.sequence.slots import Batch
from sparsight.sequence.summary import Plan, summarise
from sparsight.sequence.trace import Stats, Trace

# what a pre-hook returns: other arguments, or None
Changed = tuple[tuple[Any, ...], dict[str, Any]] | None


class Engine:
    """Prunes the prefills of one model until detached.

    Args:
        parts: of a model that the method can prune.
        method: what to keep.
        marks: (B, L) bool, the visual tokens of a text model's next prefills; None if the model
            tells them itself.
    """

    def __init__(self, parts: Parts, method: Method, marks: torch.Tensor | None = None) -> None:
        self.parts, self.method = parts, method
        self.base, self.decoder = parts.base, parts.decoder
        self.sites = method.list_sites(len(parts.layers))
        self.scores = "attention" in method.signals
        self.inputs = LayerInputs(self, parts, method.positions)
        self.scaler = ImageScaler(self, parts, method) if method.scales_images else None
        self.reader = Reader(parts, method, self.inputs, self.scaler)
        self.attached = False
        self.finished: PerCaller[tuple[Stats, Trace] | None] = PerCaller(
            None, shared=True, inherited=False
        )
        self.marks = PerCaller(marks, shared=True, inherited=True)
        self._removers: list[Callable[[], None]] = []

    @property
    def running(self) -> bool:
        """Whether its model runs now, in this thread."""
        return current_pass(self) is not None

    def attach(self) -> None:
        """Put the hooks on the model."""
        model, decoder = self.parts.model, self.decoder
        if self.base is not model:
            handle = model.register_forward_pre_hook(self._on_model, with_kwargs=True)
            self._removers.append(handle.remove)
        self._hook(self.base, self._on_marked if self.parts.marked else self._on_base)
        handle = self.base.register_forward_hook(self._on_base_done, prepend=True)
        self._removers.append(handle.remove)
        self._hook(decoder, self._on_decoder)
        for index, layer in enumerate(self.parts.layers):
            on_layer = partial(self._on_layer, index)
            handle = layer.register_forward_pre_hook(on_layer, with_kwargs=True)
            self._removers.append(handle.remove)
        if self.parts.family.deepstack is not None:
            name = self.parts.family.deepstack
            self._removers.append(attach_deepstack(decoder, name, self._read_batch))
        if self.scaler is not None:
            self._removers.extend(self.scaler.attach())
        # code compiled before would go on without hooks, but notices another config: one layer is
        # always tapped
        for tapped in [site - 1 for site in self.sites] if self.scores else [0]:
            attention = self.parts.layers[tapped].get_submodule("self_attn")
            self._removers.append(attach_tap(attention, partial(self._on_attention, tapped)))
        self.attached = True

    def detach(self) -> None:
        """Take everything off the model again."""
        self.attached = False
        drop_passes(self)
        while self._removers:
            self._removers.pop()()

    def __reduce__(self) -> Never:
        """Refuse copies and pickles of the model: their generate() would still be this one's.

        Raises: AttachError: always.
        """
        raise AttachError(
            f"a sparsified {type(self.parts.model).__name__} cannot be copied or pickled as a "
            "whole; detach() first, or save its weights with save_pretrained() or state_dict()."
        )

    def add_remover(self, remove: Callable[[], None]) -> None:
        """Have `detach()` call `remove` as well."""
        self._removers.append(remove)

    def _hook(self, module: nn.Module, before: Callable[..., Any]) -> None:
        handles = (
            module.register_forward_pre_hook(before, with_kwargs=True),
            module.register_forward_hook(self._on_end, always_call=True),
        )
        self._removers.extend(handle.remove for handle in handles)

    def expect(self, input_ids: torch.Tensor, given: dict[str, Any]) -> None:
        """Plan a batch whose images may be encoded before its pass; `drop_passes` forgets it.

        Args:
            input_ids: (B, L) int64 on the host.
            given: arguments of generate().

        Raises:
            BudgetError: a sample's budget cannot be met.
            UnsupportedError: a cache that cannot be pruned.
        """
        self.reader.check_cache(given.get(CACHE), self.sites[0])
        state = self._new_pass(self.parts.model, given)
        self.reader.announce(state, input_ids, given)
        open_pass(state)

    def _new_pass(self, opener: nn.Module, given: dict[str, Any]) -> Pass:
        return Pass(self, opener, Padding(given.get("attention_mask")))

    def _on_model(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Changed:
        given = named(module, args, kwargs)
        if self.reader.brings_images(given):
            checks.refuse_scattered(given.get("labels"), given.get("logits_to_keep"))
        return respelled(module, args, kwargs)

    def _on_base(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Changed:
        given = named(module, args, kwargs)
        state, ids = self._new_pass(module, given), given.get("input_ids")
        if self.reader.brings_images(given):
            if ids is None:
                raise PromptError(checks.HIDDEN)
            checks.refuse_training(module, self.decoder)
            self.reader.check_cache(given.get(CACHE), self.sites[0])
            state.outline = self.reader.read_outline(state, ids, given, current_pass(self))
        elif ids is None:
            checks.refuse_hidden(given.get("inputs_embeds"))
        elif names := unknown_features(given):
            self.reader.planner.refuse_unknown_features(state.to_host(ids), names)
        open_pass(state)
        return respelled(module, args, kwargs)

    def _on_marked(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Changed:
        """Read which tokens of a text model's prompt its caller marked."""
        given = named(module, args, kwargs)
        state, marks = self._new_pass(module, given), self.marks.get()
        embeds, cache = given.get("inputs_embeds"), given.get(CACHE)
        if embeds is not None and embeds.shape[1] > 1 and marks is not None:
            checks.refuse_training(module)
            if cache is not None and cache.get_seq_length():
                raise PromptError(
                    "inputs_embeds behind a cache have no marks; give later turns as input_ids."
                )
            self.reader.check_cache(cache, self.sites[0])
            state.outline = self.reader.read_marked(marks, embeds)
        open_pass(state)
        return respelled(module, args, kwargs)

    def _on_decoder(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        state, given = current_pass(self), named(module, args, kwargs)
        if state is None:
            state = self._new_pass(module, given)
            open_pass(state)
        embeds, cache = given.get("inputs_embeds"), given.get(CACHE)
        state.length = (given["input_ids"] if embeds is None else embeds).shape[1]
        state.past = 0 if cache is None else int(cache.get_seq_length())
        prunes = state.brings_visual_tokens
        if not prunes and not has_ledger(cache):
            return
        checks.check_kernel(module)
        if state.outline is not None:
            checks.check_length(state.outline.visual, state.length)
        # the decoder may get one mask for each kind of layer; the base model's own shows padding
        mask = state.padding.given
        checks.check_mask(mask, state.past + state.length)
        positions = checks.packing_positions(given, mask, causal=self.parts.family.causal)
        if positions is not None:
            checks.refuse_packed(state.to_host(positions))
        state.read_mask(mask)
        if prunes and embeds is not None and state.outline is not None:
            self.reader.check_cache(cache, self.sites[0])
            state.pruning = self.reader.make_pruning(state, state.outline, embeds, cache)

    def _read_batch(self) -> Batch | None:
        state = current_pass(self)
        return None if state is None or state.pruning is None else state.pruning.compactor.batch

    def _on_attention(self, layer: int, call: AttentionCall) -> None:
        state = current_pass(self)
        if state is not None and state.pruning is not None and self.scores:
            state.pruning.calls[layer] = call

    def _on_layer(
        self, index: int, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Changed:
        del layer
        state = current_pass(self)
        if state is None:
            return None
        hidden, batch = args[0], None
        if state.pruning is not None:
            if index in self.sites:
                hidden = self._compact(state.pruning, index, hidden)
            batch = state.pruning.compactor.batch
        changed = self.inputs.shorten(state, index, hidden, kwargs, batch)
        return None if changed is None else ((hidden, *args[1:]), {**kwargs, **changed})

    def _compact(self, pruning: Pruning, site: int, hidden: torch.Tensor) -> torch.Tensor:
        def take_call() -> AttentionCall | None:
            if not self.scores:
                return None
            call = pruning.calls.pop(site - 1, None)
            if call is None:
                raise UnsupportedError(
                    f"decoder layer {site - 1} does not attend through transformers' attention "
                    "interface; its attention cannot be read."
                )
            return call

        pruning.sites += 1
        shortened = pruning.compactor.compact(site, hidden, take_call)
        pruning.calls.pop(site - 1, None)
        return shortened

    def _on_end(self, module: nn.Module, args: tuple[Any, ...], output: object) -> None:
        """Close the pass of a module that ends, also after an error: `output` is None then."""
        del args
        state = current_pass(self)
        if state is None:
            return
        if module is self.decoder and state.pruning is not None and output is not None:
            self._finish(state, state.pruning, output)
        if state.opener is module:
            close_pass(state)

    def _finish(self, state: Pass, pruning: Pruning, output: object) -> None:
        """Write down what a pruned pass did."""
        compactor = pruning.compactor
        if compactor.batch is not None and pruning.sites == len(self.sites):
            check_written(output_cache(output), self.sites[-1])
        value_bytes = self.decoder.dtype.itemsize
        plan = Plan(self.parts.shape, self.sites, value_bytes, pruning.windows)
        summary = summarise(compactor.samples, plan, state.host_reads)
        if summary is not None:
            self.finished.set(summary)

    def _on_base_done(self, module: nn.Module, args: tuple[Any, ...], output: object) -> None:
        """Check that nothing went around the hooks, in a pass that came to its end."""
        del module, args, output
        state = current_pass(self)
        if state is None or not state.brings_visual_tokens:
            return
        if state.pruning is None or state.pruning.sites != len(self.sites):
            raise UnsupportedError(
                "the decoder ran past its hooks, so that images were not pruned as planned: it was "
                "compiled before, runs fewer layers, or is called by its forward; sparsify before "
                "torch.compile, and call all layers."
            )
