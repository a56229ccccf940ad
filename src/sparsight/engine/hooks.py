"""Hook bodies: find new visual tokens, shorten the input of the layers after a site, clear up.

Hosted from outside, by hooks on one model's instances. Base model: which tokens are visual. Text
decoder: padding, past and raters. Every decoder layer: shorten its input at a site, and give it the
mask, rotary table and cache ledger of the shortened sequence. State of a pass lives in a context
variable. Private details of transformers touched here: the names of the arguments that base model
and text decoder get, and `layers` and `self_attn`.
"""

import functools
from collections.abc import Callable
from typing import Any, Never, cast

import torch
from torch import nn
from transformers import Cache

from sparsight.engine import checks
from sparsight.engine.cache import cache_windows, check_written, has_ledger
from sparsight.engine.caller import PerCaller
from sparsight.engine.compat import CACHE, named, output_cache, respelled, unknown_features
from sparsight.engine.deepstack import attach_deepstack
from sparsight.engine.image_scaling import ImageScaler
from sparsight.engine.layer_inputs import Beside
from sparsight.engine.outline import Planner
from sparsight.engine.passes import Pass, close_pass, current_pass, drop_passes, open_pass
from sparsight.engine.tap import attach_tap
from sparsight.errors import AttachError, PromptError, UnsupportedError
from sparsight.families import Family, decoder_shape
from sparsight.methods.method import Method
from sparsight.sequence.compactor import Compactor
from sparsight.sequence.prompt import marked_rows, read_prompts
from sparsight.sequence.rater_rows import AttentionCall
from sparsight.sequence.raters import choose_raters
from sparsight.sequence.sample import Sample
from sparsight.sequence.slots import Batch, read_slots
from sparsight.sequence.summary import Plan, summarise
from sparsight.sequence.trace import Stats, Trace

Changed = (
    tuple[tuple[Any, ...], dict[str, Any]] | None
)  # what a pre-hook returns: other arguments, or None


class Engine:
    """Prunes the prefills of one model until detached.

    Args:
        model: a supported model.
        family: where its parts are.
        method: what to keep.
        marks: (B, L) bool, the visual tokens of a text model's next prefills; None if the model
            tells them itself.
    """

    def __init__(
        self, model: nn.Module, family: Family, method: Method, marks: torch.Tensor | None = None
    ) -> None:
        self.model, self.family, self.method = model, family, method
        self.base = family.base_model(model)
        self.decoder = cast(
            "Any", family.part(self.base, family.decoder)
        )  # its attributes are transformers' own
        self.layers: list[nn.Module] = list(self.decoder.layers)
        self.shape = decoder_shape(self.decoder.config)
        self.sites = method.sites_for(len(self.layers))
        self.planner = Planner(model, family, vars(self.base)["config"], method, len(self.layers))
        self.beside = Beside(self, family, self.decoder, method.positions)
        self.scaler = ImageScaler(self, family, self.base, method) if method.scales_images else None
        self.attached = False
        self.finished: PerCaller[tuple[Stats, Trace] | None] = PerCaller(
            None, shared=True, inherited=False
        )
        self.marks = PerCaller(marks, shared=True, inherited=True)
        self.rating: PerCaller[int | None] = PerCaller(
            None, shared=False, inherited=True
        )  # as in Run.rating
        self._removers: list[Callable[[], None]] = []

    @property
    def running(self) -> bool:
        """Whether its model runs now, in this thread."""
        return current_pass(self) is not None

    def attach(self) -> None:
        """Put the hooks on the model."""
        if self.base is not self.model:
            self._removers.append(
                self.model.register_forward_pre_hook(self._on_model, with_kwargs=True).remove
            )
        self._hook(self.base, self._on_base if self.marks.get() is None else self._on_marked)
        self._removers.append(
            self.base.register_forward_hook(self._on_base_done, prepend=True).remove
        )
        self._hook(self.decoder, self._on_decoder)
        for index, layer in enumerate(self.layers):
            handle = layer.register_forward_pre_hook(
                functools.partial(self._on_layer, index), with_kwargs=True
            )
            self._removers.append(handle.remove)
        if self.family.deepstack is not None:
            self._removers.append(
                attach_deepstack(self.decoder, self.family.deepstack, self._batch)
            )
        if self.scaler is not None:
            self._removers.extend(self.scaler.attach())
        # code compiled before would go on without hooks, but notices another config: one layer is
        # always tapped
        for tapped in (
            [site - 1 for site in self.sites] if "attention" in self.method.signals else [0]
        ):
            attention = self.layers[tapped].get_submodule("self_attn")
            self._removers.append(
                attach_tap(attention, functools.partial(self._on_attention, tapped))
            )
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
            f"a sparsified {type(self.model).__name__} cannot be copied or pickled as a whole; detach() first, or save "
            "its weights with save_pretrained() or state_dict()."
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
        self._check_cache(given.get(CACHE))
        outline = self.planner.outline(input_ids, given)
        state = Pass(owner=self, opener=self.model, given_mask=given.get("attention_mask"))
        self.planner.check_questions(input_ids, outline, self.rating.get(), state.read_given)
        state.scale = None if self.scaler is None else self.scaler.scale(outline)
        state.announced = input_ids, outline.layouts
        open_pass(state)

    def _check_cache(self, cache: Cache | None) -> None:
        for layer in range(self.sites[0], len(self.layers)):
            if cache is not None:
                self.beside.cache_layer(cache, layer)

    def brings_images(self, given: dict[str, Any]) -> bool:
        """Return whether arguments of the model carry images; text-only prompts and decode steps do not."""
        return any(given.get(name) is not None for name in self.family.features)

    def _on_model(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Changed:
        given = named(module, args, kwargs)
        if self.brings_images(given):
            checks.refuse_scattered(given.get("labels"), given.get("logits_to_keep"))
        return respelled(module, args, kwargs)

    def _on_base(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Changed:
        given = named(module, args, kwargs)
        state, ids = (
            Pass(owner=self, opener=module, given_mask=given.get("attention_mask")),
            given.get("input_ids"),
        )
        if self.brings_images(given):
            if ids is None:
                raise PromptError(checks.HIDDEN)
            if module.training or self.decoder.training:
                raise UnsupportedError(
                    "pruning while training is not supported; call model.eval() first."
                )
            self._check_cache(given.get(CACHE))
            ids, before = state.to_host(ids).clone(), current_pass(self)
            announced = None if before is None else before.layouts_of(ids)
            unread = (
                []
                if announced
                else [name for name in self.family.sizes if given.get(name) is not None]
            )
            sizes = {name: state.to_host(given[name]) for name in unread}
            state.candidates = 0 if before is None else before.drafted(ids)
            ids[:, ids.shape[1] - state.candidates :] = -1  # a drafted placeholder brings no image
            outline = self.planner.outline(ids, {**given, **sizes}, announced)
            if announced is None:
                self.planner.check_questions(ids, outline, self.rating.get(), state.read_given)
            state.visual, state.schedules, state.layouts = (
                outline.visual,
                outline.schedules,
                outline.layouts,
            )
            if self.scaler is not None:
                state.scale = self.scaler.scale(outline)
                self.scaler.check_features(state.scale, given, before)
        elif (
            ids is None
            and (embeds := given.get("inputs_embeds")) is not None
            and embeds.shape[1] > 1
        ):
            raise PromptError(checks.HIDDEN)  # images may be merged in already
        elif ids is not None and (unknown := unknown_features(given)):
            self.planner.refuse_unknown(state.to_host(ids), unknown)
        open_pass(state)
        return respelled(module, args, kwargs)

    def _on_marked(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Changed:
        given = named(module, args, kwargs)
        state = Pass(owner=self, opener=module, given_mask=given.get("attention_mask"))
        embeds, cache, marks = given.get("inputs_embeds"), given.get(CACHE), self.marks.get()
        if embeds is not None and embeds.shape[1] > 1 and marks is not None:
            if module.training:
                raise UnsupportedError(
                    "pruning while training is not supported; call model.eval() first."
                )
            if cache is not None and cache.get_seq_length():
                raise PromptError(
                    "inputs_embeds behind a cache have no marks; give later turns as input_ids."
                )
            self._check_cache(cache)
            outline = self.planner.plan(marked_rows(marks, embeds), None)
            state.visual, state.schedules, state.layouts = (
                outline.visual,
                outline.schedules,
                outline.layouts,
            )
        open_pass(state)
        return respelled(module, args, kwargs)

    def _on_decoder(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        state, given = current_pass(self), named(module, args, kwargs)
        if state is None:
            state = Pass(owner=self, opener=module, given_mask=given.get("attention_mask"))
            open_pass(state)
        # what the decoder gets may be one mask for each kind of layer, made from the one that shows
        # padding
        embeds, cache, mask = given.get("inputs_embeds"), given.get(CACHE), state.given_mask
        state.length = (given["input_ids"] if embeds is None else embeds).shape[1]
        state.past = 0 if cache is None else int(cache.get_seq_length())
        prunes = state.visual is not None and bool(state.visual.any())
        if not prunes and not has_ledger(cache):
            return
        checks.check_kernel(module)
        if state.visual is not None:
            checks.check_length(state.visual, state.length)
        checks.check_mask(mask, state.past + state.length)
        places = checks.packing_positions(given, mask, causal=self.family.causal)
        if places is not None:
            checks.refuse_packed(state.to_host(places))
        state.read_mask(mask)
        if prunes and embeds is not None:
            state.compactor = self._compactor(state, embeds, cache)
            state.windows = cache_windows(cache)

    def _compactor(self, state: Pass, embeds: torch.Tensor, cache: Cache | None) -> Compactor:
        if state.visual is None:
            raise TypeError("a pass without visual tokens is not pruned")
        self._check_cache(cache)
        real = torch.ones_like(state.visual) if state.host_real is None else state.host_real
        prompts = read_prompts(state.visual, real, self.rating.get(), state.candidates)
        raters = choose_raters(self.method, state.schedules, prompts, embeds, state.to_host)
        rows = zip(prompts, state.schedules, state.layouts, raters, strict=True)
        samples, slots = (
            tuple(Sample(*row) for row in rows),
            read_slots(prompts, raters, embeds.device),
        )
        return Compactor(
            self.method, samples, slots, state.real, self.beside.frequencies(), state.to_host
        )

    def _batch(self) -> Batch | None:
        state = current_pass(self)
        return None if state is None or state.compactor is None else state.compactor.batch

    def _on_attention(self, layer: int, call: AttentionCall) -> None:
        state = current_pass(self)
        if state is not None and state.compactor is not None and "attention" in self.method.signals:
            state.calls[layer] = call

    def _on_layer(
        self, index: int, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Changed:
        del layer
        state = current_pass(self)
        if state is None:
            return None
        hidden, batch = args[0], None
        if state.compactor is not None:
            if index in self.sites:
                hidden = self._compact(state, state.compactor, index, hidden)
            batch = state.compactor.batch
        changed = self.beside.shorten(state, index, hidden, kwargs, batch)
        return None if changed is None else ((hidden, *args[1:]), {**kwargs, **changed})

    def _compact(
        self, state: Pass, compactor: Compactor, site: int, hidden: torch.Tensor
    ) -> torch.Tensor:
        def call() -> AttentionCall | None:
            if "attention" not in self.method.signals:
                return None
            found = state.calls.pop(site - 1, None)
            if found is None:
                raise UnsupportedError(
                    f"decoder layer {site - 1} does not attend through transformers' attention interface; "
                    "its attention cannot be read."
                )
            return found

        state.sites += 1
        result = compactor.compact(site, hidden, call)
        state.calls.pop(site - 1, None)
        return result

    def _on_end(self, module: nn.Module, args: tuple[Any, ...], output: object) -> None:
        del args
        state = current_pass(self)
        if state is None:
            return
        if (
            module is self.decoder and state.compactor is not None and output is not None
        ):  # None after an error
            if state.compactor.batch is not None and state.sites == len(self.sites):
                check_written(output_cache(output), self.sites[-1])
            found = summarise(state.compactor.samples, self._plan(state), state.host_reads)
            if found is not None:
                self.finished.set(found)
        if state.opener is module:
            close_pass(state)

    def _on_base_done(self, module: nn.Module, args: tuple[Any, ...], output: object) -> None:
        """Check that nothing went around the hooks, in a pass that came to its end."""
        del module, args, output
        state = current_pass(self)
        if state is None or state.visual is None or not bool(state.visual.any()):
            return
        if state.compactor is None or state.sites != len(self.sites):
            raise UnsupportedError(
                "the decoder ran past its hooks, so that images were not pruned as planned: it was compiled before, "
                "runs fewer layers, or is called by its forward; sparsify before torch.compile, and call all layers."
            )

    def _plan(self, state: Pass) -> Plan:
        return Plan(self.shape, self.sites, self.decoder.dtype.itemsize, state.windows)
