"""EVS: of a video, the tokens that changed most since the frame before.

Source: "Efficient Video Sampling: Pruning Temporally Redundant Tokens for Faster VLM Inference",
arXiv 2510.14624, in the form that vLLM has of it. Written from a description of that form.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from sparsight.counts.layout import Layout
from sparsight.counts.schedule import Schedule
from sparsight.methods.input_only import INPUT, check_input_only
from sparsight.methods.method import Method
from sparsight.methods.parts.choosers import top_k
from sparsight.methods.parts.clips import Clip
from sparsight.methods.parts.video import score_change
from sparsight.methods.video_only import check_videos, keep_in_videos
from sparsight.methods.view import Selection, View


@dataclass(frozen=True)
class EVS(Method):
    """EVS. It prunes videos alone, and reads no text.

    Source: vLLM; a token's score is 1 - cosine to the token at the same place of the frame before,
        as both enter the decoder; the first frame stays whole. The paper compares pixels.
    Differs:
        The count is that of `retain`, where vLLM's product of floats may give one token less.
        Images, and videos of one frame, stay whole and count. Several videos share what is left by
        their sizes, each at least its first frame; a budget below that is refused, where vLLM
        keeps more than was asked for.
        Class tokens and other tokens of a video that are no patch go first.
    """

    name: ClassVar[str] = "evs"
    summary: ClassVar[str] = "of a video, what changed since the frame before"
    source: ClassVar[str] = "EVS, 2025, arXiv 2510.14624"
    signals: ClassVar[frozenset[str]] = frozenset({"layout"})
    videos_only: ClassVar[bool] = True

    sites: tuple[int, ...] | None = INPUT

    def __post_init__(self) -> None:
        """Check the settings that need no model."""
        super().__post_init__()
        check_input_only(self)

    def plan(self, layout: Layout | int, layers: int) -> Schedule:
        """Plan the tokens that stay.

        Raises:
            BudgetError: the budget is below the first frame of each video and all images.
            UnsupportedError: the sample has no video, or its layout is not known.
        """
        return check_videos(self, super().plan(layout, layers), layout, _count_first_frame)

    def select(self, view: View) -> Selection:
        """Keep the tokens of each video that changed most."""

        def choose(frames: torch.Tensor, count: int) -> torch.Tensor:
            return top_k(score_change(frames), count)

        return Selection(keep_in_videos(self, view, _count_first_frame, choose))


def _count_first_frame(clip: Clip) -> int:
    return clip.size
