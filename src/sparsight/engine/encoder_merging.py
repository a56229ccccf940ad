"""Merges tokens inside the blocks of an image encoder (ToMe), and spreads them over their patches.

In a block, attention comes first. Its keys say which tokens are merged, and the tap adds the
logarithm of how many patches a token stands for. What goes into the norm behind attention is
merged, so that the MLP sees few tokens, and what the MLP returns is spread again, as the block adds
it to what it did not merge. The block's output is merged in turn: the mean of sums whose second
term is equal for a whole group is the mean of the first terms plus that term. The last output that
features depend on is spread over the patches, so that nothing behind it notices.

Private details of transformers touched here: an encoder's block adds what its MLP makes of its
second norm's output to that norm's input; names of both stand in `families/encoders.py`. Blocks
return a tensor (images, tokens, width), and attention gets no mask.
"""

from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from math import ceil
from typing import Any

import torch
from torch import nn

from sparsight.engine.encoder_needs import find_attention, find_second
from sparsight.engine.encoder_tap import EncoderTap, Reading
from sparsight.engine.outline import Encoding, Outline
from sparsight.engine.passes import Pass, find_pass
from sparsight.engine.tap import AddRemover, attach_tap
from sparsight.errors import BudgetError, UnsupportedError
from sparsight.methods.encoder import EncoderNeed
from sparsight.sequence.encoded import Encoded
from sparsight.sequence.merging import Merging, average_heads
from sparsight.sequence.rater_rows import AttentionCall

MERGED = EncoderNeed("merged")


@dataclass
class Call:
    """One call of an encoder whose tokens are merged.

    Args:
        state: the pass that the call belongs to.
        merging: what was merged so far; None before the first block.
    """

    state: Pass
    merging: Merging | None = None


class MergingTap(EncoderTap):
    """Merges tokens in the image encoder of one model, and reads which ones.

    Args: as of `EncoderTap`.
    """

    @property
    def reads_alone(self) -> bool:
        """Whether it also reads images that are encoded outside of a pass: no."""
        return False

    def plan(self, outline: Outline) -> Outline:
        """Return an outline that says to how many tokens each picture of a batch is merged.

        Raises: BudgetError: the blocks cannot merge as many, as each merges half of them at most.
        """
        samples: list[tuple[int, ...]] = []
        merges = False
        for layout, schedule in zip(outline.layouts, outline.schedules, strict=True):
            if layout is None or not layout.grids or schedule is None:
                samples.append(())
                continue
            patches = layout.sizes[0][0] * layout.sizes[0][1]
            count = schedule.merged if schedule.prunes and schedule.merged else patches
            self._check_reachable(patches, count)
            samples.append((count,) * sum(grid.tiles for grid in layout.grids))
            merges = merges or count < patches
        return replace(outline, encoding=Encoding(MERGED.kind, tuple(samples)) if merges else None)

    def _check_reachable(self, patches: int, count: int) -> None:
        least = ceil(patches / 2 ** (self.encoder.source + 1))
        if count < least:
            raise BudgetError(
                f"{self.name} would leave {count} of the {patches} tokens of each picture or tile; "
                f"the image encoder, whose blocks halve them at most, leaves {least} at least. "
                f"Give retain={least} for each of them, or a fraction of "
                f"{ceil(least / patches * 1000) / 1000:g} or more."
            )

    def attach(self, add_remover: AddRemover) -> None:
        """Put hooks and taps on the encoder.

        Args: add_remover: takes a function that removes a hook, as soon as the hook is on.
        """
        super().attach(add_remover)
        for index in range(self.encoder.source + 1):
            block = self.blocks[index]
            norm, mlp = find_second(block, self.encoder)
            # before hooks of others, which collect what a block returns
            on_norm, on_mlp = partial(self._on_norm, index), partial(self._on_mlp, index)
            add_remover(norm.register_forward_pre_hook(on_norm).remove)
            add_remover(mlp.register_forward_hook(on_mlp, prepend=True).remove)
            on_block = partial(self._on_block, index)
            add_remover(block.register_forward_hook(on_block, prepend=True).remove)
            add_remover(attach_tap(find_attention(block), partial(self._on_call, index)))

    def _on_start(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Start merging, in a pass whose images are to be merged."""
        state = find_pass(self.owner)
        if state is None or not state.needs:
            return
        super()._on_start(module, args, kwargs)
        reading = self._current()
        if reading is not None:
            reading.change = Call(state)

    def _find_call(self) -> Call | None:
        """Return the running call; None if it merges nothing."""
        reading = self._current()
        call = None if reading is None else reading.change
        # an interrupted call may have left its own open
        if isinstance(call, Call) and call.state is find_pass(self.owner):
            return call
        return None

    def _find_merging(self) -> Merging | None:
        """Return what was merged so far in the running call; None if it merges nothing."""
        call = self._find_call()
        return None if call is None else call.merging

    def _on_call(self, index: int, attention: AttentionCall) -> torch.Tensor | None:
        """Choose what a block merges, and return the mask that weighs tokens by their sizes."""
        call = self._find_call()
        if call is None:
            return None
        self.check_mask(attention)
        with torch.autocast(attention.query.device.type, enabled=False):
            metric = average_heads(attention.key)
            if index == 0:
                call.merging = self._start_merging(call.state, metric)
            if call.merging is None:
                return None
            call.merging.match(index, metric)
            return call.merging.make_mask(attention.query.dtype)

    def _start_merging(self, state: Pass, metric: torch.Tensor) -> Merging:
        """Return the state before the first block.

        Args: metric: (I, N, d) keys of the first block.
        Raises: UnsupportedError: the call encodes other pictures than the prompt has.
        """
        images, tokens = metric.shape[:2]
        class_token = self.encoder.class_token
        counts = [tokens - class_token] * images
        if state.encoding is not None:
            samples = state.encoding.counts
            copies = max(1, sum(map(len, samples)) // images)  # samples may share their pictures
            counts = list(chain.from_iterable(samples[::copies]))
        if len(counts) != images or max(counts) > tokens - class_token:
            raise UnsupportedError(
                f"{images} pictures of {tokens - class_token} patches are encoded, and "
                f"{self.name} planned for {len(counts)}; give pixel_values with the prompt they "
                "belong to."
            )
        return Merging(metric, counts, class_token, self.encoder.source + 1)

    def _on_norm(
        self, index: int, module: nn.Module, args: tuple[Any, ...]
    ) -> tuple[Any, ...] | None:
        """Merge what goes to the MLP."""
        del module
        merging = self._find_merging()
        return None if merging is None else (merging.merge(index, args[0]), *args[1:])

    def _on_mlp(
        self, index: int, module: nn.Module, args: tuple[Any, ...], output: torch.Tensor
    ) -> torch.Tensor | None:
        """Spread what the MLP returns over the tokens that the block has not merged."""
        del module, args
        merging = self._find_merging()
        return None if merging is None else merging.split(index, output)

    def _on_block(
        self, index: int, module: nn.Module, args: tuple[Any, ...], output: torch.Tensor
    ) -> torch.Tensor | None:
        """Merge what a block returns; behind the last one, spread it over the patches."""
        del module, args
        merging = self._find_merging()
        if merging is None:
            return None
        hidden = merging.merge(index, output)
        merging.end_block(index)
        if index < self.encoder.source:
            return hidden
        self._note_places(merging)
        return merging.spread(hidden)

    def _note_places(self, merging: Merging) -> None:
        """Note which token of which picture each patch is part of."""
        first = int(self.encoder.class_token)
        places = merging.list_places()[:, first:] - first  # (I, N) of patches
        images, patches = places.shape
        places = places + torch.arange(images, device=places.device)[:, None] * patches
        reading = self._current()
        if reading is not None:
            reading.pieces[MERGED] = [places.flatten()]

    def _finish(self, reading: Reading, state: Pass | None) -> Encoded | None:
        """Return what was read, by visual tokens.

        Raises: UnsupportedError: attention was computed past its tap.
        """
        call = reading.change
        if call.merging is None or not call.merging.complete:
            raise UnsupportedError(
                f"{type(self.tower).__name__} attends past transformers' attention interface, so "
                f"{self.name} cannot merge its tokens."
            )
        return super()._finish(reading, state)
