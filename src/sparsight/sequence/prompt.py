"""Where a prompt's tokens are: visual tokens, their images, the text that may rate them, and padding. Host side."""

from dataclasses import dataclass

import torch

from sparsight.errors import PromptError


@dataclass(frozen=True)
class Prompt:
    """The layout of one sample in a pass of L tokens, in slots of that pass.

    Args:
        length: L, padding included.
        padding: leading padding tokens.
        visual: (V,) int64 slots of the visual tokens, ascending.
        images: (V,) int64, which contiguous run of visual tokens each belongs to, ascending from 0.
        text: (T,) int64 slots of the real text after the last visual token, the part that may rate;
            else empty.
        real: tokens that are no padding.
        places: (L,) int64, number of each slot among the real tokens.
    """

    length: int
    padding: int
    visual: torch.Tensor
    images: torch.Tensor
    text: torch.Tensor
    real: int
    places: torch.Tensor

    @property
    def image_count(self) -> int:
        """Contiguous runs of visual tokens."""
        return int(self.images[-1]) + 1 if len(self.images) else 0


def check_marks(marks: object) -> torch.Tensor:
    """Return marks of visual tokens, (B, L) bool, on the host.

    Raises: PromptError: they are no such tensor.
    """
    if not isinstance(marks, torch.Tensor) or marks.dtype != torch.bool or marks.ndim != 2:
        kind = (
            f"{marks.dtype} of shape {tuple(marks.shape)}"
            if isinstance(marks, torch.Tensor)
            else type(marks).__name__
        )
        raise PromptError(f"visual_mask is {kind}; give a bool tensor of shape (batch, tokens).")
    return marks.to("cpu", copy=True)  # what the caller does to theirs later changes nothing here


def marked_rows(marks: torch.Tensor, embeds: torch.Tensor) -> torch.Tensor:
    """Return the marks of a prefill whose rows may be copies, as beam search makes them.

    Args:
        marks: (B, L) bool on the host.
        embeds: (B * copies, L, D).
    Raises: PromptError: the shapes do not fit.
    """
    rows, length = embeds.shape[:2]
    if marks.shape[1] != length or rows % len(marks):
        raise PromptError(
            f"visual_mask of shape {tuple(marks.shape)} does not fit inputs_embeds of {rows} rows of {length} tokens; "
            "set run.visual_mask before a prompt of another shape, and give prompts without images as input_ids."
        )
    return marks.repeat_interleave(rows // len(marks), dim=0)


def _runs(slots: torch.Tensor) -> torch.Tensor:
    """Number the contiguous runs of ascending slots from 0."""
    return torch.cat([torch.zeros_like(slots[:1]), (slots.diff() != 1).long().cumsum(0)])


def read_prompts(
    visual: torch.Tensor, real: torch.Tensor, rating: int | None = None, candidates: int = 0
) -> tuple[Prompt, ...]:
    """Read the layout of every sample.

    Args:
        visual: (B, L) bool on the host.
        real: (B, L) bool on the host, False for padding.
        rating: how many tokens at the end of a prompt may rate; None for all behind the images.
        candidates: last tokens of each row that are no part of the prompt, so that they rate
            nothing.
    Raises: PromptError: a visual token is masked out, or no text follows the last one.
    """
    rows = enumerate(zip(visual, real, strict=True))
    return tuple(_read(v, r, index, rating, len(r) - candidates) for index, (v, r) in rows)


def _read(
    visual: torch.Tensor, real: torch.Tensor, index: int, rating: int | None, end: int
) -> Prompt:
    slots = visual.nonzero().flatten()
    text = real.nonzero().flatten()
    if not len(text):
        raise PromptError(
            f"sample {index}: every token is masked out; leave the sample out of the batch."
        )
    padding = int(text[0])
    if bool((visual & ~real).any()):
        raise PromptError(
            f"sample {index}: the attention mask hides visual tokens; mask padding only."
        )
    images = _runs(slots)
    after = text[(text > slots[-1]) & (text < end)] if len(slots) else text[:0]
    after = after if rating is None else after[-rating:]
    return Prompt(
        len(real),
        padding,
        slots,
        images,
        after,
        len(text),
        (real.long().cumsum(0) - 1).clamp_min(0),
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
