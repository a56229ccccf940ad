"""Which tokens of each prompt rate its images. Knows prompts and methods; the attention that raters pay comes later."""

import torch

from sparsight.answer import check_raters, check_some
from sparsight.method import Method
from sparsight.passes import Pass
from sparsight.prompt import Prompt, require_raters


def choose_raters(method: Method, state: Pass, prompts: tuple[Prompt, ...], embeds: torch.Tensor) -> list[torch.Tensor]:
    """Choose every sample's raters and return their slots, (R,) int64 on the host; none where none are needed.

    Args:
        method: that chooses.
        state: the pass, with every sample's schedule.
        prompts: (B,) of them.
        embeds: (B, L, D), what the text decoder gets.
    Raises: PromptError: no text follows the last visual token of a sample.
    """
    pruned = any(schedule is not None and method.prunes(schedule) for schedule in state.schedules)
    if not method.needs_attention or not pruned:
        return [prompt.text[:0] for prompt in prompts]
    require_raters(prompts)
    chosen = []
    with torch.autocast(embeds.device.type, enabled=False):
        for own, prompt in zip(embeds, prompts, strict=True):
            if len(prompt.visual):
                visual, text = own[prompt.visual.to(own.device)], own[prompt.text.to(own.device)]
                chosen.append(check_raters(method.raters(visual, text), method, text))
    flags = iter(check_some(torch.split(state.to_host(torch.cat(chosen)), [len(flag) for flag in chosen]), method))
    return [prompt.text[next(flags)] if len(prompt.visual) else prompt.text for prompt in prompts]
