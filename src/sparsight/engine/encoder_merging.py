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

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from math import ceil
from typing import Any

import torch
from torch import nn

from sparsight.engine.encoder_needs import find_attention, find_second
from sparsight.engine.encoder_tap import EncoderTap
from sparsight.engine.outline import Encoding, Outline
from sparsight.engine.passes import Pass, find_pass
from sparsight.engine.tap import attach_tap
from sparsight.errors import BudgetError, UnsupportedError
from sparsight.methods.encoder import EncoderNeed
from sparsight.methods.parts.bipartite import (
    match_bipartite,
    merge_by_size,
    merge_sizes,
    plan_merges,
)
from sparsight.methods.parts.tensors import widen
from sparsight.sequence.rater_rows import AttentionCall

MERGED = EncoderNeed("merged")


@dataclass
class Merging:
    """What was merged so far in one call of an encoder.

    Args:
        state: the pass that the call belongs to.
        class_token: how many class tokens stand in front, 0 or 1.
        merges: how many tokens each block merges; () before the first block.
        sizes: (I, n) float, how many patches each token of the running block stands for.
        place: (I, N) int64, which of them each token of the first block is part of; None while
            nothing has been merged.
        owner: (I, n) int64, which token each one becomes part of in the running block; None where
            it merges none.
    """

    state: Pass
    class_token: int
    merges: tuple[int, ...] = ()
    sizes: torch.Tensor | None = None
    place: torch.Tensor | None = None
    owner: torch.Tensor | None = None

    def match(self, index: int, key: torch.Tensor) -> None:
        """Choose what the running block merges.

        Args:
            index: of the block.
            key: (I, H, n, d) of its attention.
        """
        metric = widen(key).mean(dim=1)  # (I, n, d)
        if self.sizes is None:
            self.sizes = metric.new_ones(metric.shape[:2])
        if self.merges[index]:
            self.owner = match_bipartite(metric, self.merges[index], bool(self.class_token))

    def make_mask(self, dtype: torch.dtype) -> torch.Tensor | None:
        """Return what is added to attention logits, (I, 1, 1, n); None while all sizes are 1."""
        if self.sizes is None or self.place is None:
            return None
        return self.sizes.log().to(dtype)[:, None, None]

    def merge(self, index: int, hidden: torch.Tensor) -> torch.Tensor:
        """Return hidden states (I, n, D) merged as the running block does it, (I, n', D)."""
        if self.owner is None or self.sizes is None:
            return hidden
        count = hidden.shape[1] - self.merges[index]
        return merge_by_size(hidden, self.sizes, self.owner, count)

    def end_block(self, index: int) -> None:
        """Note what the running block has merged."""
        if self.owner is not None and self.sizes is not None:
            count = self.sizes.shape[1] - self.merges[index]
            self.sizes = merge_sizes(self.sizes, self.owner, count)
            self.place = self.owner if self.place is None else self.owner.gather(1, self.place)
        self.owner = None


def spread(hidden: torch.Tensor, owner: torch.Tensor | None) -> torch.Tensor:
    """Return rows (I, n', D) for the tokens that were merged into them, (I, n, D).

    Args: owner: (I, n) int64; None where nothing was merged.
    """
    if owner is None:
        return hidden
    return hidden.gather(1, owner[..., None].expand(-1, -1, hidden.shape[-1]))


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

        Raises:
            BudgetError: the blocks cannot merge as many, as each merges half of them at most.
            UnsupportedError: samples would need different counts.
        """
        counts: set[tuple[int, int]] = set()
        for layout, schedule in zip(outline.layouts, outline.schedules, strict=True):
            if layout is not None and layout.grids and schedule is not None:
                patches = layout.sizes[0][0] * layout.sizes[0][1]
                merged = schedule.merged if schedule.prunes else None
                counts.add((patches, patches if merged is None else merged))
        if all(patches == count for patches, count in counts):
            return outline
        if len(counts) > 1:
            raise UnsupportedError(
                "samples with different numbers of images get different numbers of tokens for each "
                "image from one count, and they cannot share a batch; give retain as a fraction."
            )
        ((patches, count),) = counts
        self._check_reachable(patches, count)
        return replace(outline, encoding=Encoding(MERGED.kind, count))

    def _check_reachable(self, patches: int, count: int) -> None:
        blocks = self.encoder.source + 1
        least = ceil(patches / 2**blocks)
        if count < least:
            raise BudgetError(
                f"{self.name} would leave {count} of the {patches} tokens of each picture or tile, "
                f"and {blocks} blocks of the image encoder, each of which may halve them, leave "
                f"{least} at least; give retain={least} for each of them, or a fraction of at "
                f"least {ceil(least / patches * 1000) / 1000:g}."
            )

    def attach(self) -> list[Callable[[], None]]:
        """Put hooks and taps on the encoder, and return what removes them."""
        removers = super().attach()
        for index in range(self.encoder.source + 1):
            block = self.blocks[index]
            norm, mlp = find_second(block, self.encoder)
            # before hooks of others, which collect what a block returns
            handles = [
                norm.register_forward_pre_hook(partial(self._on_norm, index)),
                mlp.register_forward_hook(self._on_mlp, prepend=True),
                block.register_forward_hook(partial(self._on_block, index), prepend=True),
            ]
            removers.extend(handle.remove for handle in handles)
            removers.append(attach_tap(find_attention(block), partial(self._on_call, index)))
        return removers

    def _on_start(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Start merging, in a pass whose images are to be merged."""
        state = find_pass(self.owner)
        if state is None or not state.needs:
            return
        super()._on_start(module, args, kwargs)
        reading = self._current()
        if reading is not None:
            reading.change = Merging(state, int(self.encoder.class_token))

    def _find_merging(self) -> Merging | None:
        """Return what was merged so far in the running call; None if it merges nothing."""
        reading = self._current()
        merging = None if reading is None else reading.change
        # an interrupted call may have left its own open
        if isinstance(merging, Merging) and merging.state is find_pass(self.owner):
            return merging
        return None

    def _on_call(self, index: int, call: AttentionCall) -> torch.Tensor | None:
        """Choose what a block merges, and return the mask that weighs tokens by their sizes."""
        merging = self._find_merging()
        if merging is None:
            return None
        self.check_mask(call)
        if index == 0:
            patches = call.key.shape[2] - merging.class_token
            encoding = merging.state.encoding
            wanted = patches if encoding is None else encoding.count
            merging.merges = plan_merges(patches, wanted, self.encoder.source + 1)
        with torch.autocast(call.query.device.type, enabled=False):
            merging.match(index, call.key)
        return merging.make_mask(call.query.dtype)

    def _on_norm(
        self, index: int, module: nn.Module, args: tuple[Any, ...]
    ) -> tuple[Any, ...] | None:
        """Merge what goes to the MLP."""
        del module
        merging = self._find_merging()
        return None if merging is None else (merging.merge(index, args[0]), *args[1:])

    def _on_mlp(
        self, module: nn.Module, args: tuple[Any, ...], output: torch.Tensor
    ) -> torch.Tensor | None:
        """Spread what the MLP returns over the tokens that the block has not merged."""
        del module, args
        merging = self._find_merging()
        return None if merging is None else spread(output, merging.owner)

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
        return self._finish_merging(merging, hidden)

    def _finish_merging(self, merging: Merging, hidden: torch.Tensor) -> torch.Tensor:
        """Return the last output (I, n, D) spread over the patches, and note what was merged.

        Raises: UnsupportedError: a block attended past its tap.
        """
        images, count = hidden.shape[:2]
        if not merging.merges or merging.sizes is None or merging.sizes.shape[1] != count:
            raise UnsupportedError(
                f"{type(self.tower).__name__} attends past transformers' attention interface, so "
                f"{self.name} cannot merge its tokens."
            )
        place = merging.place
        if place is None:
            place = torch.arange(count, device=hidden.device).expand(images, -1)
        first = torch.arange(images, device=hidden.device)[:, None] * (count - merging.class_token)
        names = place[:, merging.class_token :] - merging.class_token + first
        reading = self._current()
        if reading is not None:
            reading.pieces[MERGED] = [names.flatten()]
        return spread(hidden, merging.place)
