"""The hooks of one model: find new visual tokens, shorten the input of layers, close the pass.

The base model's hook finds which tokens are visual. The text decoder's hook reads padding, the
cache's length and the raters: text tokens whose attention rates the visual tokens. The hook of each
decoder layer shortens its input at a site, the layer on whose entry the sequence gets shorter. From
there on the hooks give each layer the mask, the rotary tables and the cache ledger of the shortened
sequence. State of a pass lives in a context variable.

Private details of transformers touched here: `self_attn` of decoder layers, and that a layer gets
its hidden states as its only positional argument.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Never

import torch
from torch import nn

from sparsight.engine import checks
from sparsight.engine.attention_reader import AttentionReader, CallReader
from sparsight.engine.cache import check_written, has_ledger
from sparsight.engine.caller import PerCaller
from sparsight.engine.compat import (
    CACHE,
    find_unknown_features,
    name_arguments,
    output_cache,
    rename_cache,
)
from sparsight.engine.deepstack import attach_deepstack
from sparsight.engine.encoding import make_tap
from sparsight.engine.image_scaling import ImageScaler
from sparsight.engine.layer_inputs import LayerInputs
from sparsight.engine.parts import Parts
from sparsight.engine.passes import (
    Padding,
    Pass,
    Pruning,
    close_pass,
    drop_passes,
    find_pass,
    open_pass,
)
from sparsight.engine.reader import Reader
from sparsight.errors import AttachError, PromptError, UnsupportedError
from sparsight.methods.method import Method
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
        marks: (B, L) bool, the visual tokens of a text model's next prefills; None for a
            vision-language model, whose token ids show them.
    """

    def __init__(self, parts: Parts, method: Method, marks: torch.Tensor | None = None) -> None:
        self.parts, self.method = parts, method
        self.base, self.decoder = parts.base, parts.decoder
        self.sites = method.list_sites(len(parts.layers))
        self.inputs = LayerInputs(self, parts, method)
        self.attention = AttentionReader(self, parts, method, self.inputs)
        self.scaler = ImageScaler(self, parts, method) if method.scales_images else None
        self.encoder = make_tap(self, parts, method)
        self.encoder_needs = () if self.encoder is None else self.encoder.needs
        self.reader = Reader(parts, method, self.inputs, self.scaler, self.encoder)
        self.attached = False
        self.finished: PerCaller[tuple[Stats, Trace] | None] = PerCaller(
            None, shared=True, inherited=False
        )
        self.marks = PerCaller(marks, shared=True, inherited=True)
        self._removers: list[Callable[[], None]] = []

    @property
    def running(self) -> bool:
        """Whether its model runs now, in this thread."""
        return find_pass(self) is not None

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
        for part in (self.scaler, self.encoder):
            if part is not None:
                part.attach(self.add_remover)
        self.attention.attach(self.add_remover)
        self.attached = True

    def detach(self) -> None:
        """Remove all hooks and patches from the model."""
        self.attached = False
        drop_passes(self)
        while self._removers:
            self._removers.pop()()

    def __reduce__(self) -> Never:
        """Refuse to copy or pickle the model, as a copy's generate() would run this model.

        Raises: AttachError: always.
        """
        raise AttachError(
            f"a sparsified {type(self.parts.model).__name__} cannot be copied or pickled as a "
            "whole; detach() first, or save its weights with save_pretrained() or state_dict()."
        )

    def add_remover(self, remove: Callable[[], None]) -> None:
        """Add a function that `detach()` calls."""
        self._removers.append(remove)

    def _hook(self, module: nn.Module, before: Callable[..., Any]) -> None:
        """Put a hook before a module and one that closes its pass after it."""
        self.add_remover(module.register_forward_pre_hook(before, with_kwargs=True).remove)
        self.add_remover(module.register_forward_hook(self._on_end, always_call=True).remove)

    def expect(self, input_ids: torch.Tensor, arguments: dict[str, Any]) -> None:
        """Plan the batch of a generate() call and open a pass that announces it.

        Its images may be encoded before its first pass. `drop_passes` closes the announcing pass.

        Args:
            input_ids: (B, L) int64 on the host.
            arguments: of generate(), by name.

        Raises:
            BudgetError: a sample's budget cannot be met.
            UnsupportedError: the cache cannot be pruned.
        """
        self.reader.check_cache(arguments.get(CACHE), self.sites[0])
        state = self._make_pass(self.parts.model, arguments)
        self.reader.announce(state, input_ids, arguments)
        open_pass(state)

    def _make_pass(self, opener: nn.Module, arguments: dict[str, Any]) -> Pass:
        return Pass(self, opener, Padding(arguments.get("attention_mask")))

    def _on_model(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Changed:
        """Refuse outputs that would name tokens of the unpruned sequence."""
        arguments = name_arguments(module, args, kwargs)
        if self.reader.brings_images(arguments):
            checks.refuse_scattered(arguments.get("labels"), arguments.get("logits_to_keep"))
        return rename_cache(module, args, kwargs)

    def _on_base(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Changed:
        """Open a pass and, if it brings images, plan it before they are encoded."""
        arguments = name_arguments(module, args, kwargs)
        ids = arguments.get("input_ids")
        state = self._make_pass(module, arguments)
        if self.reader.brings_images(arguments):
            if ids is None:
                raise PromptError(checks.HIDDEN)
            checks.refuse_training(module, self.decoder)
            self.reader.check_cache(arguments.get(CACHE), self.sites[0])
            state.outline = self.reader.read_outline(state, ids, arguments, find_pass(self))
        elif ids is None:
            checks.refuse_hidden(arguments.get("inputs_embeds"))
        elif names := find_unknown_features(arguments):
            self.reader.planner.refuse_unknown_features(state.to_host(ids), names)
        open_pass(state)
        return rename_cache(module, args, kwargs)

    def _on_marked(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Changed:
        """Open a pass of a text model and plan it from the caller's marks of visual tokens."""
        arguments = name_arguments(module, args, kwargs)
        state = self._make_pass(module, arguments)
        marks = self.marks.get()
        embeds, cache = arguments.get("inputs_embeds"), arguments.get(CACHE)
        if embeds is not None and embeds.shape[1] > 1 and marks is not None:
            checks.refuse_training(module)
            if cache is not None and cache.get_seq_length():
                raise PromptError(
                    "inputs_embeds behind a cache have no marks; give later turns as input_ids."
                )
            self.reader.check_cache(cache, self.sites[0])
            state.outline = self.reader.read_marked(marks, embeds)
        open_pass(state)
        return rename_cache(module, args, kwargs)

    def _on_decoder(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Read the pass's length, past and padding, and prepare its pruning."""
        arguments = name_arguments(module, args, kwargs)
        state = find_pass(self)
        if state is None:
            state = self._make_pass(module, arguments)
            open_pass(state)
        embeds, cache = arguments.get("inputs_embeds"), arguments.get(CACHE)
        state.length = (arguments["input_ids"] if embeds is None else embeds).shape[1]
        state.past = 0 if cache is None else int(cache.get_seq_length())
        if not state.brings_visual_tokens and not has_ledger(cache):
            return
        self.reader.check_decoder(state, module, arguments)
        state.read_mask(state.padding.base_mask)
        if state.brings_visual_tokens and embeds is not None and state.outline is not None:
            self.reader.check_cache(cache, self.sites[0])
            state.pruning = self.reader.make_pruning(state, state.outline, embeds, cache)

    def _read_batch(self) -> Batch | None:
        """Return the stored order of the running pass; None while nothing has been removed."""
        state = find_pass(self)
        return None if state is None or state.pruning is None else state.pruning.compactor.batch

    def _on_layer(
        self, index: int, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Changed:
        """Shorten a layer's hidden states at a site, and its other arguments after one."""
        del layer
        state = find_pass(self)
        if state is None:
            return None
        hidden = args[0]
        batch = None
        if state.pruning is not None:
            if index in self.sites:
                read_call = self.attention.make_reader(state, index, hidden, kwargs)
                hidden = self._compact(state.pruning, index, hidden, read_call)
            batch = state.pruning.compactor.batch
        changed = self.inputs.shorten(state, index, hidden, kwargs, batch)
        return None if changed is None else ((hidden, *args[1:]), {**kwargs, **changed})

    def _compact(
        self, pruning: Pruning, site: int, hidden: torch.Tensor, read_call: CallReader
    ) -> torch.Tensor:
        """Return the hidden states (B, n', D) that are left at one site."""
        pruning.sites += 1
        shortened = pruning.compactor.compact(site, hidden, read_call)
        pruning.calls.pop(site - 1, None)  # not taken where no sample is pruned
        return shortened

    def _on_end(self, module: nn.Module, args: tuple[Any, ...], output: object) -> None:
        """Close the pass that a module opened; after an error, `output` is None."""
        del args
        state = find_pass(self)
        if state is None:
            return
        if module is self.decoder and state.pruning is not None and output is not None:
            self._finish(state, state.pruning, output)
        if state.opener is module:
            close_pass(state)

    def _finish(self, state: Pass, pruning: Pruning, output: object) -> None:
        """Set stats and trace of a pass that was pruned."""
        compactor = pruning.compactor
        if compactor.batch is not None and pruning.sites == len(self.sites):
            check_written(output_cache(output), self.sites[-1])
        value_bytes = self.decoder.dtype.itemsize
        plan = Plan(self.parts.shape, self.sites, value_bytes, pruning.windows)
        summary = summarise(compactor.samples, plan, state.host_reads)
        if summary is not None:
            self.finished.set(summary)

    def _on_base_done(self, module: nn.Module, args: tuple[Any, ...], output: object) -> None:
        """Check that a pass that ended without error has been pruned at every site."""
        del module, args, output
        state = find_pass(self)
        if state is None or not state.brings_visual_tokens:
            return
        if state.pruning is None or state.pruning.sites != len(self.sites):
            raise UnsupportedError(
                "the decoder ran past its hooks, so that images were not pruned as planned: it was "
                "compiled before, runs fewer layers, or is called by its forward; sparsify before "
                "torch.compile, and call all layers."
            )
