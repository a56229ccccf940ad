"""Which tokens of each prompt rate its images. Knows prompts and methods; the attention that raters pay comes later."""

from collections.abc import Callable, Sequence

import torch

from sparsight.counts.schedule import Schedule
from sparsight.methods.answer import check_any_rater, check_raters
from sparsight.methods.method import Method
from sparsight.sequence.prompt import Prompt, require_raters


def choose_raters(
    method: Method,
    schedules: Sequence[Schedule | None],
    prompts: tuple[Prompt, ...],
    embeds: torch.Tensor,
    to_host: Callable[[torch.Tensor], torch.Tensor],
) -> list[torch.Tensor]:
    """Choose every sample's raters and return their slots, (R,) int64 on the host; none where none are needed.

    Args:
        method: that chooses.
        schedules: (B,) planned counts, None for samples without visual tokens.
        prompts: (B,) of them.
        embeds: (B, L, D), what the text decoder gets.
        to_host: reads a tensor on the host and counts the wait.
    Raises: PromptError: no text follows the last visual token of a sample.
    """
    pruned = [schedule is not None and schedule.prunes for schedule in schedules]
    if "attention" not in method.signals or not any(pruned):
        return [prompt.text[:0] for prompt in prompts]
    require_raters(prompts)
    chosen = []
    with torch.autocast(embeds.device.type, enabled=False):
        for own, prompt, rates in zip(embeds, prompts, pruned, strict=True):
            if rates:
                visual, text = own[prompt.visual.to(own.device)], own[prompt.text.to(own.device)]
                chosen.append(check_raters(method.raters(visual, text), method, text))
    flags = iter(
        check_any_rater(
            torch.split(to_host(torch.cat(chosen)), [len(flag) for flag in chosen]), method
        )
    )
    return [
        prompt.text[next(flags) if rates else slice(0)]
        for prompt, rates in zip(prompts, pruned, strict=True)
    ]
