"""ToMe: every block of the image encoder merges the tokens that are most alike.

Source: "Token Merging: Your ViT But Faster", ICLR 2023, arXiv 2210.09461. Written from the paper.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from sparsight.counts.budget import EPSILON, resolve_retain
from sparsight.counts.layout import Layout, count_tokens
from sparsight.counts.schedule import Schedule
from sparsight.errors import BudgetError
from sparsight.methods.encoder import EncoderNeed
from sparsight.methods.input_only import INPUT, check_input_only
from sparsight.methods.method import Method, require_grids
from sparsight.methods.parts.bipartite import find_middles
from sparsight.methods.view import Recycled, Selection, View


@dataclass(frozen=True)
class ToMe(Method):
    """ToMe. It reads no text, and shortens the encoder too.

    Source: in each block whose output the features depend on, between attention and MLP, tokens at
        even places each point to the one at an odd place whose keys, averaged over heads, are most
        alike; the most alike pairs become one token, the mean of both by how many patches they
        stand for. The logarithm of that number is added to the attention logits. A class token is
        never merged.
    Differs:
        The paper merges a constant number in each block of an image classifier. Here the sum is the
        count: blocks merge equal numbers, early ones take the remainder, and where half of the
        tokens is not enough later, earlier ones merge more.
        Blocks behind the one that makes the features merge nothing, as nobody reads what they do.
        Tokens stand in the order of the image, and a merged one at the place of the patch nearest
        to the middle of its own; the paper puts those that stayed before those that were merged
        into, which says nothing of where they lie.
        The pictures of a call, tiles among them, are merged to equal counts, so that `retain` is
        rounded down to a multiple of their number.
        LLaVA-NeXT cuts padding off after the encoder. Merged tokens that show nothing else are
        dropped, so that the count is an upper bound there, and so are row ends.
        Tokens keep their positions unless told otherwise.
    """

    name: ClassVar[str] = "tome"
    summary: ClassVar[str] = "like tokens merged in every block of the image encoder"
    source: ClassVar[str] = "ToMe, ICLR 2023, arXiv 2210.09461"
    signals: ClassVar[frozenset[str]] = frozenset({"layout", "encoder"})
    adaptive: ClassVar[bool] = True  # where padding is cut off

    sites: tuple[int, ...] | None = INPUT

    def __post_init__(self) -> None:
        """Check the settings that need no model."""
        super().__post_init__()
        check_input_only(self)
        if self.retain is None:
            raise BudgetError(
                "retain=None sets no count, and ToMe merges to one; give a count >= 1 or a "
                "fraction in (0, 1]."
            )

    @property
    def encoder_needs(self) -> tuple[EncoderNeed, ...]:
        """What was merged inside the encoder."""
        return (EncoderNeed("merged"),)

    def plan(self, layout: Layout | int, layers: int) -> Schedule:
        """Plan how many tokens the encoder leaves of each picture or tile.

        Raises:
            BudgetError: the budget leaves less than one token for each picture or tile.
            UnsupportedError: tokens are to be merged, and the layout is not known or shows no grid.
        """
        visual_tokens, sites = count_tokens(layout), self.list_sites(layers)
        budget = resolve_retain(self.retain, visual_tokens)
        if budget >= visual_tokens:
            return Schedule(visual_tokens, layers, sites, (visual_tokens,), (0,))
        layout = require_grids(self, layout)
        tiles = sum(grid.tiles for grid in layout.grids)
        patches = layout.sizes[0][0] * layout.sizes[0][1]  # of one picture or tile
        each = min(int(budget / tiles + EPSILON), patches)
        if each < 1:
            raise BudgetError(
                f"retain={self.retain} leaves less than one token for each of {tiles} pictures "
                f"that are encoded; give a count >= {tiles} or a larger fraction."
            )
        if each == patches:  # there is room for all patches, and row ends alone are too many
            kept = int(budget + EPSILON)
            return Schedule(visual_tokens, layers, sites, (kept,), (0,), merged=each)
        whole = len(layout) - len(layout.others) == tiles * patches
        counts = (0,), (tiles * each,)
        return Schedule(visual_tokens, layers, sites, *counts, exact=whole, merged=each)

    def select(self, view: View) -> Selection:
        """Keep one token for each merged one, at the patch nearest to the middle."""
        layout = require_grids(self, view.layout)
        patches = (layout.row >= 0).nonzero().flatten()  # (P,) on the host
        if view.keep_count:
            ends = layout.others[: view.keep_count - len(patches)]
            keep = torch.cat([patches, ends]).sort().values
            keep = keep.to(view.hidden.device, non_blocking=True)
            return Selection(keep.expand(len(view.hidden), -1))
        return Selection(*self._gather(view, layout, patches))

    def _gather(
        self, view: View, layout: Layout, patches: torch.Tensor
    ) -> tuple[torch.Tensor, Recycled]:
        """Return no kept token, and all merged ones.

        Args: patches: (P,) int64 on the host, the visual tokens that are patches.
        """
        device = view.hidden.device
        each = view.count // sum(grid.tiles for grid in layout.grids)
        tile = layout.sizes[0][0] * layout.sizes[0][1]
        pool = patches.to(device, non_blocking=True).expand(len(view.hidden), -1)  # (G, P)
        owner = view.encoder.merged().gather(1, pool)
        number = owner // tile - owner[:, :1] // tile  # of the picture in its sample
        owner = number * each + owner % tile
        rows, columns = (
            place[patches].to(device, non_blocking=True) for place in (layout.row, layout.column)
        )
        middles, order = find_middles(owner, rows, columns, view.count).sort(dim=-1)
        rank = torch.empty_like(order).scatter(
            1, order, torch.arange(view.count, device=device).expand_as(order)
        )
        if not view.exact:  # a group of one, some of whose merged tokens may lie in the padding
            middles = middles[:, : int((middles < len(patches)).sum())]
        centres = pool.gather(1, middles)  # (G, C)
        values = view.hidden.gather(1, centres[..., None].expand(-1, -1, view.hidden.shape[-1]))
        return pool[:, :0], Recycled(values, centres, pool, rank.gather(1, owner))
