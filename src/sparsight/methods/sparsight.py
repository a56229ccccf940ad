"""Sparsight: the recommended method, put together from parts chosen on the development scenes.

Source: Cen-Prune (arXiv 2608.30263) for the geometry and the weight, CDPruner (NeurIPS 2025, arXiv
2506.10967) for the choice.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Literal

import torch

from sparsight.counts.budget import EPSILON, check_affordable, resolve_retain
from sparsight.counts.layout import Layout, count_tokens
from sparsight.counts.schedule import Schedule, check_sites, scale_sites
from sparsight.errors import BudgetError, SettingError
from sparsight.methods.encoder import EncoderNeed
from sparsight.methods.method import Method, Space, check_choice, require_grids
from sparsight.methods.parts.by_grid import choose_by_size, keep_order, share_by_grid
from sparsight.methods.parts.choosers import choose_determinantal, spread_if_equal
from sparsight.methods.parts.scores import share_distinct
from sparsight.methods.spaces import SPACES, compare_in, list_space_needs, read_points
from sparsight.methods.view import Selection, View

HORIZON = (28,)  # of 32 layers
LEFT = 1  # visual tokens of a sample that the layers behind the horizon see
MOST = 2  # times as many tokens for pictures full of text
STANDS_OUT = 0.7  # of the distance from the least to the most distinctive token of a grid
USUAL, FULL = 0.12, 0.18  # shares of tokens that stand out, up to and from which counts are fixed


@dataclass(frozen=True)
class Sparsight(Method):
    """Sparsight, the recommended method. It reads no text, so it serves every question alike.

    Source: before the decoder, tokens of each image, tile or frame are chosen one after the other,
        each adding most to the determinant of a kernel of cosines (CDPruner). Cosines are those of
        tokens from which their mean was taken, and are weighed by how distinctive the tokens at
        both ends are (Cen-Prune).
        Seven eighths down the decoder all visual tokens but one are dropped; what that saves is
        spent on more tokens in front. All tokens of a sample are chosen from together where it is
        not known where in their images they lie, or where there are fewer to keep than images.
    Differs: docs/recommended.md has the ablation of each component and what was tried and left out,
        such as the class token's attention and cuts by attention in the middle layers. All of it
        was measured on one small model.

    Args:
        retain: a layer mean. A mean that all tokens meet in front of the horizon drops none there.
        sites: the input and the horizon; None takes 28 of 32 layers, scaled to the model's depth.
        where: "both" sites, or the "input" alone, where the count is known from the image's size
            and nothing is touched in the decoder.
        level: "fixed" keeps the planned count. "adaptive" keeps up to twice as many tokens of
            images, tiles or frames in which many stand out, as on pages of text. It acts where
            twice the count is fewer than all.
        space: where tokens are compared: as "tokens" of the decoder, or as "features" of the image
            encoder before the projector; None takes what suits the model's family, as Cen-Prune
            does: "features" for Qwen-VL, "tokens" for others.
    """

    name: ClassVar[str] = "sparsight"
    summary: ClassVar[str] = (
        "recommended: distinctive tokens unlike each other, before the decoder; none in its end"
    )
    source: ClassVar[str] = "sparsight; parts of Cen-Prune, arXiv 2608.30263, and CDPruner"
    signals: ClassVar[frozenset[str]] = frozenset({"layout", "encoder"})  # features, if at all
    takes_any_layout: ClassVar[bool] = True
    adaptive: ClassVar[bool] = True  # with level="adaptive"

    where: Literal["both", "input"] = "both"
    level: Literal["fixed", "adaptive"] = "fixed"
    space: Space | None = None

    def __post_init__(self) -> None:
        """Check the settings that need no model."""
        super().__post_init__()
        if self.retain is None:
            raise BudgetError(
                "retain=None sets no bound; give a count >= 1 or a fraction in (0, 1]."
            )
        check_choice("where", self.where, ("both", "input"))
        check_choice("level", self.level, ("fixed", "adaptive"))
        if self.level == "adaptive" and self.where == "input":
            raise SettingError(
                "level='adaptive' counts by what an image shows, and where='input' promises a "
                "count that follows from its size; give one of them."
            )
        if self.space is not None:
            check_choice("space", self.space, SPACES)
        sites = 2 if self.where == "both" else 1
        if self.sites is not None and (len(self.sites) != sites or self.sites[0] != 0):
            raise SettingError(
                f"Sparsight with where={self.where!r} chooses at {sites} site(s), the input first; "
                f"sites={self.sites}, give {'(0, 28)' if sites == 2 else '(0,)'} or leave it out."
            )

    def for_space(self, space: Space) -> "Sparsight":
        """Return the method with the space of a family, unless one was given."""
        return self if self.space is not None else replace(self, space=space)

    @property
    def encoder_needs(self) -> tuple[EncoderNeed, ...]:
        """Features, where tokens are compared as such."""
        return list_space_needs(self._read_space())

    def list_sites(self, layers: int) -> tuple[int, ...]:
        """Return the input, and the horizon if it is one of the sites."""
        if self.sites is not None:
            return check_sites(self.sites, layers, first=0)
        return (0,) if self.where == "input" else (0, *scale_sites(layers, HORIZON))

    def plan(self, layout: Layout | int, layers: int) -> Schedule:
        """Plan the tokens kept at the input, and the one behind the horizon.

        With level="adaptive" the first is an upper bound.
        """
        visual_tokens, sites = count_tokens(layout), self.list_sites(layers)
        budget = resolve_retain(self.retain, visual_tokens)
        check_affordable(budget, visual_tokens, 0, layers)
        if budget >= visual_tokens:
            counts = (visual_tokens,) * len(sites)
            return Schedule(visual_tokens, layers, sites, counts, (0,) * len(sites))
        behind = 0 if self.where == "input" else layers - sites[1]
        room = budget * layers - behind * LEFT  # tokens times layers, in front of the horizon
        first = max(1, min(visual_tokens, int(room / (layers - behind) + EPSILON)))
        exact = self.level == "fixed" or MOST * first >= visual_tokens
        if not exact:
            require_grids(self, layout)
            first *= MOST
        counts = (first,) if self.where == "input" else (first, LEFT)
        return Schedule(visual_tokens, layers, sites, counts, (0,) * len(sites), exact=exact)

    def select(self, view: View) -> Selection:
        """Choose at the input; keep the first of the chosen tokens at the horizon."""
        if view.site:
            first = torch.arange(view.keep_count, device=view.hidden.device)
            return Selection(first.expand(len(view.hidden), -1))
        grids = () if view.layout is None else view.layout.grids
        count = view.keep_count if view.exact else view.keep_count // MOST
        if view.layout is None or count < len(grids) or not grids:
            every = torch.arange(view.hidden.shape[1], device=view.hidden.device)
            order = self._choose(view, every[None], count)[:, 0]  # (G, K)
            return Selection(keep_order(order, view.images)[0])
        patches = min(count, len(view.layout) - len(view.layout.others))
        shares = share_by_grid(view.layout, patches)
        if not view.exact:
            shares = self._stretch(view, view.layout, shares)
        choose = partial(self._choose, view)
        others = count - patches
        return Selection(choose_by_size(view.layout, shares, others, view.hidden, choose))

    def _choose(self, view: View, tokens: torch.Tensor, count: int) -> torch.Tensor:
        """Return `count` places in each of n grids whose tokens are (n, N), (G, n, count) int64."""
        space = self._read_space()
        points = read_points(view, space)[:, tokens]  # (G, n, N, D)
        compared = compare_in(space, points, centred=True)
        similarity = compared.similarity.hold()
        chosen = choose_determinantal(similarity, count, compared.weight)
        return spread_if_equal(chosen, similarity)

    def _stretch(self, view: View, layout: Layout, shares: tuple[int, ...]) -> tuple[int, ...]:
        """Return how many tokens each grid keeps, by how many of its tokens stand out.

        Args:
            view: of one sample.
            layout: of it.
            shares: what each grid keeps at a fixed level.
        """
        points, parts = read_points(view, self._read_space()), []
        for grid in layout.grids:
            tokens = grid.tokens.to(view.hidden.device, non_blocking=True)
            parts.append(share_distinct(points[:, tokens], STANDS_OUT))
        factors = stretch(view.to_host(torch.cat(parts))).tolist()
        return tuple(
            min(len(grid.tokens), round(share * factor))
            for grid, share, factor in zip(layout.grids, shares, factors, strict=True)
        )

    def _read_space(self) -> Space:
        """Return where tokens are compared: as "tokens" where no model has said otherwise."""
        return "tokens" if self.space is None else self.space


def stretch(share: torch.Tensor) -> torch.Tensor:
    """Return how many times its planned count an image keeps, 1 to MOST.

    Args: share: of its tokens that stand out, in 0..1.
    """
    return 1 + (MOST - 1) * ((share - USUAL) / (FULL - USUAL)).clamp(0, 1)
