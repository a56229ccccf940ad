"""Reads the attention calls that methods score by, of the layer before a site or of the site's own.

The layer before a site has run when the site is reached, and its call is noted on the way. The
layer whose entry the site is runs on the shortened sequence only. For methods that want its
attention on the sequence before, the layer's own forward is called ahead, with its hidden states
before anything is removed; it ends when it reaches its attention, and stores nothing in the cache.

Private details of transformers touched here: `self_attn` of decoder layers; that a layer gets its
hidden states as its only positional argument and changes its cache by nothing but `update`, whose
arguments are keys, values and the index of the layer; `layers` of a cache, `keys` and `values` of
these. Of torch: that a hook which is always called is not called for a BaseException.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from sparsight.engine.cache import count_stored
from sparsight.engine.compat import take_cache
from sparsight.engine.layer_inputs import LayerInputs
from sparsight.engine.ledger import Owner
from sparsight.engine.parts import Parts
from sparsight.engine.passes import Pass, Pruning, find_pass
from sparsight.engine.tap import AddRemover, attach_tap
from sparsight.errors import TESTED_WITH, UnsupportedError
from sparsight.methods.method import OF_LAYER, Method
from sparsight.sequence.rater_rows import AttentionCall

CallReader = Callable[[], AttentionCall | None]


class _Reached(BaseException):
    """Carries an attention call out of a layer, past all that handles exceptions on the way."""

    def __init__(self, call: AttentionCall) -> None:
        super().__init__()
        self.call = call


class AttentionReader:
    """Reads the attention calls of one model.

    Args:
        owner: the engine whose passes are read.
        parts: of the model.
        method: that scores by attention, or does not.
        inputs: shortens the arguments of decoder layers.
    """

    def __init__(self, owner: Owner, parts: Parts, method: Method, inputs: LayerInputs) -> None:
        self.owner, self.layers = owner, parts.layers
        self.inputs = inputs
        self.ahead = method.attention_of == "site"
        sites = method.list_sites(len(parts.layers)) if method.signals & OF_LAYER else ()
        self.sites = frozenset(site for site in sites if site >= method.first_rated_site())

    def attach(self, add_remover: AddRemover) -> None:
        """Put taps on the layers whose attention is read.

        The tap replaces the config of an attention module. A compiled layer ignores new hooks but
        is compiled anew when its config changes, so one layer is tapped in any case.

        Args: add_remover: takes a function that removes a tap, as soon as the tap is on.
        Raises: UnsupportedError: a layer does not choose its kernel as transformers' layers do.
        """
        tapped = sorted(self.sites) if self.ahead else [site - 1 for site in sorted(self.sites)]
        for index in tapped or [0]:
            attention = self.layers[index].get_submodule("self_attn")
            add_remover(attach_tap(attention, partial(self._on_attention, index)))

    def make_reader(
        self, state: Pass, site: int, hidden: torch.Tensor, kwargs: dict[str, Any]
    ) -> CallReader:
        """Return what reads the attention call that a site's scores are made of, if it is needed.

        Args:
            state: the pass, which is pruned.
            site: decoder layer on whose entry the sequence gets shorter.
            hidden: (B, n, D) input of that layer.
            kwargs: its other arguments by name, as the model gives them.
        """
        if state.pruning is None or site not in self.sites:
            return _read_nothing
        if self.ahead:
            return partial(self._call_ahead, state, state.pruning, site, hidden, kwargs)
        return partial(state.pruning.take_call, site - 1)

    def _on_attention(self, layer: int, call: AttentionCall) -> None:
        """Note a tapped attention call, or end a layer that is called ahead."""
        state = find_pass(self.owner)
        if state is None or state.pruning is None or not self.sites:
            return
        if not self.ahead:
            state.pruning.calls[layer] = call
        elif state.pruning.ahead == layer:
            raise _Reached(call)

    def _call_ahead(
        self,
        state: Pass,
        pruning: Pruning,
        site: int,
        hidden: torch.Tensor,
        kwargs: dict[str, Any],
    ) -> AttentionCall:
        """Return the attention call of a site's own layer on the sequence before the site.

        Raises: UnsupportedError: the layer's attention was not tapped.
        """
        batch = pruning.compactor.batch
        arguments = {**kwargs, **self.inputs.read(state, site, hidden, kwargs, batch)}
        cache = take_cache(arguments)
        if cache is not None:
            stand_in = _Unwritten(cache)
            arguments = {
                name: stand_in if value is cache else value for name, value in arguments.items()
            }
        for sample in pruning.compactor.samples:
            sample.ahead.append(sample.token_count)
        layer: nn.Module = self.layers[site]
        pruning.ahead = site
        try:
            with torch.no_grad():
                layer.forward(hidden, **arguments)  # hooks of ours are not for this call
        except _Reached as reached:
            return _move(reached.call, hidden.device)
        finally:
            pruning.ahead = None
        return pruning.take_call(site)  # raises, as the layer ended without a tapped call


class _Unwritten:
    """A cache as one layer sees it, which answers an update and stores nothing.

    It answers questions, `get_...()`, too, and refuses calls that may change the cache.

    Args: cache: that is read.
    """

    def __init__(self, cache: Any) -> None:
        self._cache = cache

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        layer_idx: int,
        *_: Any,
        **__: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what the layer would have stored, followed by what is new."""
        layers = self._cache.layers
        layer = layers[layer_idx] if layer_idx < len(layers) else None
        if layer is None or not count_stored(layer):
            return key_states, value_states
        return (
            torch.cat([layer.keys, key_states], dim=-2),
            torch.cat([layer.values, value_states], dim=-2),
        )

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._cache, name)
        if callable(value) and not name.startswith("get_"):
            raise UnsupportedError(
                f"decoder layers call {name}() of their cache, which may change it; {TESTED_WITH}."
            )
        return value


def _move(call: AttentionCall, device: torch.device) -> AttentionCall:
    """Return a call on the device of the hidden states, as a layer may bring them to its own."""
    mask = None if call.mask is None else call.mask.to(device)
    return replace(call, query=call.query.to(device), key=call.key.to(device), mask=mask)


def _read_nothing() -> None:
    """Return no attention call, for sites where none is read."""
