"""VidCom2: of a video, the tokens least like the mean of the video and of their frame.

Source: "Video Compression Commander: Plug-and-Play Inference Acceleration for Video Large Language
Models", EMNLP 2025, arXiv 2505.14454; authors' code github.com/xuyang-liu16/VidCom2 (Apache-2.0).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from sparsight.counts.layout import Layout
from sparsight.counts.schedule import Schedule
from sparsight.methods.input_only import INPUT, check_input_only
from sparsight.methods.method import Method
from sparsight.methods.parts.clips import Clip
from sparsight.methods.parts.video import choose_vidcom2
from sparsight.methods.video_only import check_videos, keep_in_videos
from sparsight.methods.view import Selection, View


@dataclass(frozen=True)
class VidCom2(Method):
    """VidCom2. It prunes videos alone, and reads no text.

    Source: authors' code with vLLM's exact total; on the half of the channels that vary least,
        tokens as they enter the decoder are compared with the mean of the video and with that of
        their frame; frames far from the video's mean keep more tokens, each the least common ones.
    Differs:
        The count is that of `retain`: where the frames' counts do not sum up to it, the most common
        kept tokens go or the least common others come, as in vLLM. The authors' counts may miss it
        by a few.
        Images, and videos of one frame, stay whole and count. Several videos share what is left by
        their sizes, each at least one token a frame; a budget below that is refused, where vLLM
        keeps more than was asked for.
        Class tokens and other tokens of a video that are no patch go first.
    """

    name: ClassVar[str] = "vidcom2"
    summary: ClassVar[str] = "of a video, what is least common in it, more of unusual frames"
    source: ClassVar[str] = "VidCom2, EMNLP 2025, arXiv 2505.14454"
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
            BudgetError: the budget is below one token of each frame and all images.
            UnsupportedError: the sample has no video, or its layout is not known.
        """
        return check_videos(self, super().plan(layout, layers), layout, _count_frames)

    def select(self, view: View) -> Selection:
        """Keep the tokens of each video that are least common in it."""

        def choose(frames: torch.Tensor, count: int) -> torch.Tensor:
            rate = 1 - count / frames.shape[1:3].numel()
            return choose_vidcom2(frames, rate, count)

        return Selection(keep_in_videos(self, view, _count_frames, choose))


def _count_frames(clip: Clip) -> int:
    return clip.frames
