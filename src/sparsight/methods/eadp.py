"""EADP: tokens that cover what the most telling words of the text point at.

Source: "EADP", ECCV 2026, arXiv 2607.02484; authors' code github.com/SJTU-DeepVisionLab/EADP.
Written from a description of the method, not from its code.
"""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal, Self

import torch

from sparsight.counts.layout import Layout, PatchGrid
from sparsight.counts.published import take_published
from sparsight.errors import SettingError
from sparsight.methods.clip import (
    ClipTower,
    check_tower,
    embed_images,
    embed_texts,
    list_tower_needs,
    read_words,
)
from sparsight.methods.encoder import EncoderNeed, TextSignal
from sparsight.methods.input_only import INPUT, check_input_only, require_text
from sparsight.methods.method import Method, Space, check_choice, require_grids
from sparsight.methods.parts.by_grid import choose_by_grid, scale_by_image, spread_by_grid
from sparsight.methods.parts.coverage import choose_coverage
from sparsight.methods.parts.words import score_eadp, smooth
from sparsight.methods.spaces import SPACES, compare_in, list_space_needs, read_points
from sparsight.methods.view import Selection, View

# one sample: its tokens (V, P), words (M, W, P) and sentences (M, P) of M segments of its text
Sample = tuple[torch.Tensor, torch.Tensor, torch.Tensor]

PAPER_BUDGETS = {128: (128,), 64: (64,), 32: (32,)}


@dataclass(frozen=True)
class EADP(Method):
    """EADP. It needs no class token.

    Source: a token's importance is minus its cosine to the sentence and to the words that single
        tokens out most, by the entropy of their softmax over the tokens; it is scaled, smoothed by
        a 3 x 3 Gaussian and raised to `beta`, and says how much each token wants to be covered. For
        LLaVA the authors compare in CLIP's space, for Qwen by input embeddings.
    Differs:
        The text is that behind the last image, with what the chat template writes there; the
        authors take the question.
        Images, tiles and frames share the count by their sizes (the authors share it among the
        tiles of LLaVA-NeXT by their importance, which a count known beforehand cannot). Each is
        chosen from for itself, on its own grid; importance is scaled over all of an image.
        No paper joins it with Cen-Prune: importance is multiplied by how distinctive a token is.
        Tokens keep their positions unless told otherwise; the authors renumber for LLaVA, as
        `paper()` does.

    Args:
        relevance: where tokens are compared with the text: by "embedding", for any model, or by
            "clip", for models whose image encoder is CLIP's.
        tower: CLIP with its words, for "clip" and nothing else.
        share: of the words that count, in (0, 1]; at least one does.
        beta: exponent of the importance, at least 0; published 1 for LLaVA, 2 for Qwen3-VL.
        space: where tokens are compared with each other: as "tokens" of the decoder, or as
            "features" of the image encoder before the projector.
        centred: Cen-Prune as for `DivPrune`.
    """

    name: ClassVar[str] = "eadp"
    summary: ClassVar[str] = "coverage of what the most telling words of the text point at"
    source: ClassVar[str] = "EADP, ECCV 2026, arXiv 2607.02484"
    published: ClassVar[tuple[int, ...]] = tuple(PAPER_BUDGETS)
    signals: ClassVar[frozenset[str]] = frozenset({"layout", "text", "encoder"})

    sites: tuple[int, ...] | None = INPUT
    relevance: Literal["embedding", "clip"] = "embedding"
    tower: ClipTower | None = None
    share: float = 0.2
    beta: float = 1.0
    space: Space = "tokens"
    centred: bool = False

    def __post_init__(self) -> None:
        """Check the settings that need no model."""
        super().__post_init__()
        check_input_only(self)
        check_choice("relevance", self.relevance, ("embedding", "clip"))
        check_choice("space", self.space, SPACES)
        check_tower(self, self.relevance, self.tower)
        if self.tower is not None:
            read_words(self.tower)
        if not 0.0 < self.share <= 1.0:
            raise SettingError(f"share={self.share!r} is out of range; give a share in (0, 1].")
        if not self.beta >= 0:
            raise SettingError(f"beta={self.beta!r} is out of range; give a number >= 0.")

    @classmethod
    def paper(cls, retain: int, tower: ClipTower | None = None) -> Self:
        """Return the authors' settings for LLaVA-1.5; they are the same at every budget.

        Args: tower: of the CLIP model whose image encoder the model has.

        Raises:
            BudgetError: no figures were published for the budget.
            SettingError: no tower is given.
        """
        take_published(cls.__name__, PAPER_BUDGETS, retain)
        return cls(retain=retain, relevance="clip", tower=tower, positions="renumber")

    @property
    def encoder_needs(self) -> tuple[EncoderNeed, ...]:
        """Features, where tokens are compared as such or in CLIP's space."""
        return *list_tower_needs(self.tower), *list_space_needs(self.space)

    @property
    def features_of(self) -> tuple[str, int] | None:
        """The image encoder whose features the tower takes."""
        return None if self.tower is None else self.tower.encoder

    def select(self, view: View) -> Selection:
        """Keep the tokens of each image that cover what is important."""
        layout, device = require_grids(self, view.layout), view.hidden.device
        points = read_points(view, self.space)
        scaled = scale_by_image(layout, self._rate(view, layout), above=1e-6, below=1e-6)
        rows = zip(layout.grids, scaled, strict=True)
        importance = {grid: smooth(score, grid.size) ** self.beta for grid, score in rows}

        def choose(grid: PatchGrid, count: int) -> torch.Tensor:
            tokens = grid.tokens.to(device, non_blocking=True)
            compared = compare_in(self.space, points[:, tokens], centred=self.centred)
            demand = compared.weigh(importance[grid])
            # cosines and (1 + cosine) / 2, which the authors cover from 0, give the same tokens
            return choose_coverage(compared.similarity.hold(), count, demand=demand, floor=-1.0)

        keep = choose_by_grid(layout, view.keep_count, len(points), device, choose)
        return Selection(keep, score=spread_by_grid(layout, list(importance.values())))

    def _rate(self, view: View, layout: Layout) -> list[torch.Tensor]:
        """Return how relevant the tokens of each grid are, (G, n)."""
        text, device = require_text(self, view), view.hidden.device
        places = [grid.tokens.to(device, non_blocking=True) for grid in layout.grids]
        if self.tower is not None:
            samples = _read_samples(self.tower, view, text)
            return [_rate_in_clip(samples, tokens, self.share) for tokens in places]
        read = partial(score_eadp, share=self.share, present=text.present)
        mean = text.mean()
        return [read(view.hidden[:, tokens], text.embeds, mean) for tokens in places]


def _read_samples(tower: ClipTower, view: View, text: TextSignal) -> list[Sample]:
    """Return what a tower makes of each sample of a view."""
    points = embed_images(tower, view)
    words, sentences = embed_texts(read_words(tower), text), embed_texts(tower.text, text)
    return list(zip(points, words, sentences, strict=True))


def _rate_in_clip(samples: list[Sample], tokens: torch.Tensor, share: float) -> torch.Tensor:
    """Return the relevance of some tokens (n,) in CLIP's space, mean over segments, (G, n)."""
    rated = [
        score_eadp(points[tokens], words, sentences[:, None], share=share).mean(dim=0)
        for points, words, sentences in samples
    ]
    return torch.stack(rated)
