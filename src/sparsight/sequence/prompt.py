"""Where the tokens of a prompt are: visual tokens, the text that may rate them, and padding.

A rater is a text token whose attention rates the visual tokens. All tensors are on the host.
"""

from dataclasses import dataclass

import torch

from sparsight.errors import PromptError


@dataclass(frozen=True)
class Prompt:
    """Where the tokens of one sample are in a pass of L tokens.

    A slot is the index of a token in this pass, padding included.

    Args:
        length: L.
        padding: how many padding tokens stand in front.
        visual: (V,) int64, slots of the visual tokens, ascending.
        images: (V,) int64, image of each visual token: the number, from 0, of its contiguous run of
            visual tokens.
        text: (T,) int64, slots of the real text behind the last visual token that may rate; empty
            without visual tokens.
        real: how many tokens are not padding.
        positions: (L,) int64, index of each token among the real tokens.
    """

    length: int
    padding: int
    visual: torch.Tensor
    images: torch.Tensor
    text: torch.Tensor
    real: int
    positions: torch.Tensor

    @property
    def image_count(self) -> int:
        """How many contiguous runs of visual tokens there are."""
        return int(self.images[-1]) + 1 if len(self.images) else 0


def check_marks(marks: object) -> torch.Tensor:
    """Return a copy of a caller's marks of visual tokens, (B, L) bool on the host.

    Raises: PromptError: the marks are not a 2-D bool tensor.
    """
    if not isinstance(marks, torch.Tensor):
        raise PromptError(_refuse_marks(type(marks).__name__))
    if marks.dtype != torch.bool or marks.ndim != 2:
        raise PromptError(_refuse_marks(f"{marks.dtype} of shape {tuple(marks.shape)}"))
    return marks.to("cpu", copy=True)  # so that later changes of the caller's tensor have no effect


def _refuse_marks(kind: str) -> str:
    return f"visual_mask is {kind}; give a bool tensor of shape (batch, tokens)."


def repeat_marks(marks: torch.Tensor, embeds: torch.Tensor) -> torch.Tensor:
    """Return the marks of each row of a prefill, (B * copies, L) bool on the host.

    Args:
        marks: (B, L) bool on the host.
        embeds: (B * copies, L, D); beam search makes copies of each sample.
    Raises: PromptError: the shapes do not fit.
    """
    rows, length = embeds.shape[:2]
    if marks.shape[1] != length or rows % len(marks):
        raise PromptError(
            f"visual_mask of shape {tuple(marks.shape)} does not fit inputs_embeds of {rows} rows "
            f"of {length} tokens; set run.visual_mask before a prompt of another shape, and give "
            "prompts without images as input_ids."
        )
    return marks.repeat_interleave(rows // len(marks), dim=0)


def _number_runs(slots: torch.Tensor) -> torch.Tensor:
    """Return the number, from 0, of the contiguous run of each of ascending slots (V,)."""
    return torch.cat([torch.zeros_like(slots[:1]), (slots.diff() != 1).long().cumsum(0)])


def read_prompts(
    visual: torch.Tensor, real: torch.Tensor, rating: int | None = None, candidates: int = 0
) -> tuple[Prompt, ...]:
    """Return where the tokens of every sample are.

    Args:
        visual: (B, L) bool on the host, which tokens are visual.
        real: (B, L) bool on the host, False for padding.
        rating: how many tokens at the end of a prompt may rate; None for all behind the images.
        candidates: how many tokens at the end of each row are drafted candidates of assisted
            decoding; they are no part of the prompt and rate nothing.
    Raises: PromptError: a visual token is masked out, or every token of a sample is.
    """
    end = visual.shape[1] - candidates
    rows = enumerate(zip(visual, real, strict=True))
    return tuple(_read_prompt(index, *row, rating, end) for index, row in rows)


def _read_prompt(
    index: int, visual: torch.Tensor, real: torch.Tensor, rating: int | None, end: int
) -> Prompt:
    """Return where the tokens of sample `index` are; raters stand before slot `end`."""
    slots = visual.nonzero().flatten()
    tokens = real.nonzero().flatten()
    if not len(tokens):
        raise PromptError(
            f"sample {index}: every token is masked out; leave the sample out of the batch."
        )
    padding = int(tokens[0])
    if bool((visual & ~real).any()):
        raise PromptError(
            f"sample {index}: the attention mask hides visual tokens; mask padding only."
        )
    behind = tokens[(tokens > slots[-1]) & (tokens < end)] if len(slots) else tokens[:0]
    return Prompt(
        length=len(real),
        padding=padding,
        visual=slots,
        images=_number_runs(slots),
        text=behind if rating is None else behind[-rating:],
        real=len(tokens),
        positions=(real.long().cumsum(0) - 1).clamp_min(0),
    )


def require_raters(prompts: tuple[Prompt, ...]) -> None:
    """Check that every sample with visual tokens has text that can rate them.

    Raises: PromptError: no text follows the last visual token of a sample.
    """
    for index, prompt in enumerate(prompts):
        if len(prompt.visual) and not len(prompt.text):
            raise PromptError(
                f"sample {index}: no text follows the last image, so no token can rate it; "
                "put the question after the image, and do not split the prompt into chunks."
            )
