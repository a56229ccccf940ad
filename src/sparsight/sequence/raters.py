"""Chooses the raters of each prompt: the text tokens whose attention rates its visual tokens.

The choice is made before the first layer; the attention that raters pay is read later, at sites.
"""

from collections.abc import Callable, Sequence

import torch

from sparsight.counts.schedule import Schedule
from sparsight.methods.answer import check_any_rater, check_raters
from sparsight.methods.method import OF_TEXT, Method
from sparsight.sequence.prompt import Prompt, require_raters


def choose_raters(
    method: Method,
    schedules: Sequence[Schedule | None],
    prompts: tuple[Prompt, ...],
    embeds: torch.Tensor,
    to_host: Callable[[torch.Tensor], torch.Tensor],
) -> list[torch.Tensor]:
    """Return the slots of each sample's raters, (B,) tensors (R,) int64 on the host.

    A sample that is not pruned has no raters, and with a method that reads no attention none has.

    Args:
        method: that chooses.
        schedules: (B,) planned counts, None for samples without visual tokens.
        prompts: (B,) where the tokens of each sample are.
        embeds: (B, L, D) input embeddings of the text decoder.
        to_host: reads a tensor on the host and counts the wait.
    Raises: PromptError: no text follows the last visual token of a sample.
    """
    pruned = [schedule is not None and schedule.prunes for schedule in schedules]
    raters = [prompt.text[:0] for prompt in prompts]
    if method.signals.isdisjoint(OF_TEXT) or not any(pruned):
        return raters
    require_raters(prompts)
    if "attention" not in method.signals:
        return raters
    rows = [row for row, is_pruned in enumerate(pruned) if is_pruned]
    with torch.autocast(embeds.device.type, enabled=False):
        flags = [_choose(method, prompts[row], embeds[row]) for row in rows]
    # one wait for the device for the whole batch
    on_host = torch.split(to_host(torch.cat(flags)), [len(flag) for flag in flags])
    for row, flag in zip(rows, check_any_rater(on_host, method), strict=True):
        raters[row] = prompts[row].text[flag]
    return raters


def _choose(method: Method, prompt: Prompt, embeds: torch.Tensor) -> torch.Tensor:
    """Return which of a sample's text tokens rate its visual tokens, (T,) bool on the device.

    Args: embeds: (L, D) input embeddings of the sample.
    """
    # copies that do not wait for the device
    visual = embeds[prompt.visual.to(embeds.device, non_blocking=True)]  # (V, D)
    text = embeds[prompt.text.to(embeds.device, non_blocking=True)]  # (T, D)
    return check_raters(method.raters(visual, text), method, text)
