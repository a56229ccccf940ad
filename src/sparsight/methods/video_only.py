"""Plans and steps that methods share which prune videos alone, before the decoder."""

import math
from collections.abc import Callable

import torch

from sparsight.counts.layout import Layout
from sparsight.counts.schedule import Schedule
from sparsight.errors import BudgetError, UnsupportedError
from sparsight.methods.method import Method, require_grids
from sparsight.methods.parts.clips import (
    CountLeast,
    list_clips,
    list_stills,
    share_by_clip,
)
from sparsight.methods.view import View

INSTEAD = "use DivPrune, SparseVLM or Uniform, which prune images and videos alike"

# takes a video's tokens (G, T, n, D) and a count k, and answers (G, k) int64 places among the T n
FrameChooser = Callable[[torch.Tensor, int], torch.Tensor]


def check_videos(
    method: Method, plan: Schedule, layout: Layout | int, count_least: CountLeast
) -> Schedule:
    """Return a plan, if the sample has a video and the count is enough for it.

    Raises:
        BudgetError: the count is below what stays of stills and videos in any case.
        UnsupportedError: the sample has no video.
    """
    if not plan.prunes:
        return plan
    placed, name = require_grids(method, layout), type(method).__name__
    clips = list_clips(placed)
    if not clips:
        raise UnsupportedError(f"{name} prunes videos alone, and the prompt has none; {INSTEAD}.")
    stills = len(list_stills(placed, clips))
    least, (count,) = stills + sum(map(count_least, clips)), plan.kept
    if count < least:
        fraction = math.ceil(least / plan.visual_tokens * 1000) / 1000
        raise BudgetError(
            f"{name} keeps at least {least} of the {plan.visual_tokens} visual tokens: {stills} of "
            f"stills, which stay whole, and {least - stills} of videos; {count} are too few. Give "
            f"retain={least} or more, or the fraction {fraction:g}."
        )
    return plan


def keep_in_videos(
    method: Method, view: View, count_least: CountLeast, choose: FrameChooser
) -> torch.Tensor:
    """Return the tokens that stay, (G, K): all of stills, and each video's chosen for itself.

    Args: count_least: how many tokens of a video stay at least.
    Raises: UnsupportedError: no token of the view is a patch.
    """
    layout, hidden = require_grids(method, view.layout), view.hidden
    whole, parts = share_by_clip(layout, view.keep_count, count_least)
    keep = [whole.to(hidden.device, non_blocking=True).expand(len(hidden), -1)]
    for clip, count in parts:
        tokens = clip.tokens.to(hidden.device, non_blocking=True)
        frames = hidden[:, tokens].view(len(hidden), clip.frames, clip.size, -1)
        keep.append(tokens[choose(frames, count)])
    return torch.cat(keep, dim=-1).sort(dim=-1).values
