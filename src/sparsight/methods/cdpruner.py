"""CDPruner: tokens unlike each other and relevant to the text, by a determinantal point process.

Source: "Beyond Attention or Similarity: Maximizing Conditional Diversity for Token Pruning in
MLLMs", NeurIPS 2025, arXiv 2506.10967; authors' code github.com/Theia-4869/CDPruner (Apache-2.0);
its port in OpenVINO GenAI (Apache-2.0). Written from a description of these.
"""

from dataclasses import dataclass
from typing import ClassVar, Self

import torch

from sparsight.counts.layout import Layout, PatchGrid
from sparsight.counts.published import take_published
from sparsight.errors import SettingError
from sparsight.methods.clip import (
    ClipTower,
    Relevance,
    check_tower,
    embed_images,
    embed_texts,
    list_tower_needs,
)
from sparsight.methods.encoder import EncoderNeed
from sparsight.methods.input_only import INPUT, check_input_only, require_text
from sparsight.methods.method import Method, Space, check_choice, require_grids
from sparsight.methods.parts.by_grid import choose_by_grid, scale_by_image, spread_by_grid
from sparsight.methods.parts.choosers import choose_determinantal
from sparsight.methods.parts.scores import scale_min_max
from sparsight.methods.parts.words import compare_words, score_segments
from sparsight.methods.spaces import SPACES, compare_in, list_space_needs, read_points
from sparsight.methods.view import Selection, View

PAPER_BUDGETS = {192: (192,), 128: (128,), 64: (64,), 32: (32,)}


@dataclass(frozen=True)
class CDPruner(Method):
    """CDPruner.

    Source: each step takes the token that adds most to the determinant of a kernel of cosines,
        weighed by how relevant the tokens at both ends are to the text. The authors' relevance is
        minus the cosine in CLIP's space, mean over the text's segments of 77, scaled over all crops
        of an image. OpenVINO's is the cosine to the mean of the text's input embeddings.
    Differs:
        The text is that behind the last image, with what the chat template writes there; the
        authors take the question alone, OpenVINO all text of the prompt.
        Exactly the count is kept. Images, tiles and frames share it by their sizes, and each is
        chosen from for itself (the authors keep as many of each tile of LLaVA-NeXT). Row ends are
        kept only where the count is higher than there are patches; the authors keep all of them
        beside the count.
        `make_clip_tower` gives each segment a start and an end of its own, as CLIP reads the end.
        Where tokens are nearly copies of each other, the choice goes on by distance, as
        `choose_determinantal` says.
        Tokens keep their positions unless told otherwise; the authors renumber, as `paper()` does.

    Args:
        relevance: what is relevant: "embedding", OpenVINO's, for any model; "clip", the authors',
            for models whose image encoder is CLIP's; "none", all tokens alike, which reads no text.
        tower: CLIP, for "clip" and nothing else.
        blend: share of the relevance in the kernel, in [0, 1]; None for 0.5 with "embedding", as
            OpenVINO has it, and for 1 otherwise.
        halves: whether each half of an image keeps half of its count, as OpenVINO has it by
            default; for "embedding" alone.
        space: where tokens are compared with each other: as "tokens" of the decoder, or as
            "features" of the image encoder before the projector.
        centred: Cen-Prune as for `DivPrune`; the relevance is multiplied by how distinctive a token
            is, which stands alone with relevance="none".
    """

    name: ClassVar[str] = "cdpruner"
    summary: ClassVar[str] = "tokens unlike each other and relevant to the text; Cen-Prune too"
    source: ClassVar[str] = "CDPruner, NeurIPS 2025, arXiv 2506.10967; Cen-Prune, arXiv 2608.30263"
    published: ClassVar[tuple[int, ...]] = tuple(PAPER_BUDGETS)
    signals: ClassVar[frozenset[str]] = frozenset({"layout", "text", "encoder"})

    sites: tuple[int, ...] | None = INPUT
    relevance: Relevance = "embedding"
    tower: ClipTower | None = None
    blend: float | None = None
    halves: bool = False
    space: Space = "tokens"
    centred: bool = False

    def __post_init__(self) -> None:
        """Check the settings that need no model."""
        super().__post_init__()
        check_input_only(self)
        check_choice("relevance", self.relevance, ("embedding", "clip", "none"))
        check_choice("space", self.space, SPACES)
        check_tower(self, self.relevance, self.tower)
        if self.halves and self.relevance != "embedding":
            raise SettingError(
                f"halves=True is not defined for relevance={self.relevance!r}; give "
                "relevance='embedding', or leave it out."
            )
        if self.blend is None:
            return
        if not 0.0 <= self.blend <= 1.0:
            raise SettingError(f"blend={self.blend!r} is out of range; give a share in [0, 1].")
        if self.relevance == "none" and not self.centred:
            raise SettingError(
                "blend has no use with relevance='none' unless centred=True; leave it out."
            )

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

    @property
    def reads_question(self) -> bool:
        """Whether relevance is that to the text."""
        return self.relevance != "none"

    def select(self, view: View) -> Selection:
        """Keep tokens of each image that are unlike each other and relevant."""
        layout, device = require_grids(self, view.layout), view.hidden.device
        points, relevance = read_points(view, self.space), self._rate(view, layout)

        def choose(grid: PatchGrid, count: int) -> torch.Tensor:
            tokens = grid.tokens.to(device, non_blocking=True)
            if not self.halves or count == 1:
                return self._choose(points, relevance, tokens, count)
            half = len(tokens) // 2
            first = self._choose(points, relevance, tokens[:half], count // 2)
            second = self._choose(points, relevance, tokens[half:], count - count // 2)
            return torch.cat([first, second + half], dim=-1)

        keep = choose_by_grid(layout, view.keep_count, len(view.hidden), device, choose)
        return Selection(keep, score=relevance)

    def _rate(self, view: View, layout: Layout) -> torch.Tensor | None:
        """Return how relevant each token is, (G, V); None where all are alike."""
        if self.relevance == "none":
            return None
        text = require_text(self, view)
        if self.tower is None:
            return compare_words(view.hidden, text.mean())[..., 0]
        points, segments = embed_images(self.tower, view), embed_texts(self.tower.text, text)
        rated = torch.stack([score_segments(*one) for one in zip(points, segments, strict=True)])
        grids = [rated[:, grid.tokens.to(rated.device, non_blocking=True)] for grid in layout.grids]
        return spread_by_grid(layout, scale_by_image(layout, grids, above=1e-6))

    def _choose(
        self,
        points: torch.Tensor,
        relevance: torch.Tensor | None,
        tokens: torch.Tensor,
        count: int,
    ) -> torch.Tensor:
        """Return `count` places among some tokens of an image, (G, count) int64."""
        quality = None if relevance is None else relevance[:, tokens]
        if quality is not None and self.tower is None:  # CLIP's is scaled over the whole image
            quality = scale_min_max(quality, below=1e-6)
        compared = compare_in(self.space, points[:, tokens], centred=self.centred)
        blend = 0.5 if self.relevance == "embedding" else 1.0
        return choose_determinantal(
            compared.similarity.hold(),
            count,
            compared.weigh(quality),
            blend=blend if self.blend is None else self.blend,
        )
