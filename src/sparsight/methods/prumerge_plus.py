"""PruMerge+: PruMerge with patches spread evenly over the image beside the important ones.

Source: "LLaVA-PruMerge: Adaptive Token Reduction for Efficient Large Multimodal Models", ICCV 2025,
arXiv 2403.15388; authors' code github.com/42Shawn/LLaVA-PruMerge (Apache-2.0).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from sparsight.errors import SettingError
from sparsight.methods.parts.encoder_choices import (
    choose_prumerge,
    choose_prumerge_plus,
    count_outliers,
)
from sparsight.methods.prumerge import PruMerge


@dataclass(frozen=True)
class PruMergePlus(PruMerge):
    """PruMerge+. It reads no text.

    Source: authors' code; beside n outliers it takes every int(int(N / n) / 3)-th of N patches, and
        then merges as PruMerge does.
    Differs: as PruMerge, and a count is met exactly, of which the authors' step knows nothing: a
        share of the patches is important, and the others are the middles of equal stretches of what
        is left. The authors' step leaves about three spread patches to an important one, hence the
        share of a quarter. With level="outliers" the step is the authors', where the count allows
        all that it takes; else the patches are chosen by the count.

    Args: important: share of the patches that go by attention where the count decides, in [0, 1];
        at least one does.
    """

    name: ClassVar[str] = "prumerge-plus"
    summary: ClassVar[str] = "PruMerge with patches spread evenly over the image beside the best"
    source: ClassVar[str] = "PruMerge+, ICCV 2025, arXiv 2403.15388"

    important: float = 0.25

    def __post_init__(self) -> None:
        """Check the settings that need no model."""
        super().__post_init__()
        if not 0.0 <= self.important <= 1.0:
            raise SettingError(
                f"important={self.important!r} is out of range; give a share in [0, 1]."
            )

    def _choose(self, attention: torch.Tensor, most: int) -> torch.Tensor:
        """Return the important patches by falling attention, then the spread ones ascending."""
        if self.level == "outliers":  # counts depend on the sample, so it is a group of one
            chosen = choose_prumerge_plus(attention[0], int(count_outliers(attention)[0]))
            if len(chosen) <= most:
                return chosen[None]
        important = max(1, round(most * self.important))
        return choose_prumerge(attention, important, most - important)
