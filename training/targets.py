"""What each visual token should stand for: the words for what its patch shows, and where it is.

A visual token's target is the sum of vectors in the decoder's own space: the embedding of the name
of the thing, or of the character, under its patch, the embedding of its colour, and a weak code of
its row and column. Where a patch shows two characters, the right one is added at 0.6 of its length,
so that the sum says which comes first. The decoder's attention already knows how to find such
embeddings (`README.md`). The code takes little of that and says where things are, which
one-dimensional positions hardly do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from labels import GRID, NAME, NOTHING, PAINT, PAINTS, SECOND, SMALL, VOCABULARY

SECOND_WEIGHT = 0.6
_PLACE = 0.4  # length of the code of row and column, in lengths of an embedding


@dataclass(frozen=True)
class Names:
    """Words that visual tokens can stand for.

    Args:
        words: in the order of their numbers.
        embeddings: (W, D) what the decoder reads for them; 0 for NOTHING.
        directions: (W, D) the same, centred, of length 1.
    """

    words: tuple[str, ...]
    embeddings: torch.Tensor
    directions: torch.Tensor

    @classmethod
    def of(cls, words: tuple[str, ...], tokenizer: Any, embedding: torch.Tensor) -> Names:
        """Return the words' embeddings; a word of several tokens gives their mean.

        Words and letters are looked up as behind a space, digits and signs as they are.
        """
        texts = [f" {word}" if word[0].lower() in SMALL else word for word in words]
        ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        rows = torch.stack([embedding[i].float().mean(0) for i in ids])
        centred = rows - embedding.float().mean(0)
        shown = torch.tensor([[word != NOTHING] for word in words], device=rows.device)
        return cls(words, rows * shown, centred / centred.norm(dim=-1, keepdim=True))


def places(grid: int, width: int) -> torch.Tensor:
    """Return a code of length 1 per patch, (grid^2, width), near for patches that are near."""
    line = (torch.arange(grid) + 0.5) / grid * math.pi
    waves = torch.stack(
        [wave(turns * line) for turns in (1, 2) for wave in (torch.cos, torch.sin)], -1
    )  # (grid, 4)
    both = torch.cat([waves.repeat_interleave(grid, 0), waves.repeat(grid, 1)], -1) / 2
    basis = torch.linalg.qr(torch.randn(width, 8, generator=torch.Generator().manual_seed(0)))[0]
    codes: torch.Tensor = both @ basis.T  # (grid^2, 8) @ (8, width)
    return codes


class Dictionary:
    """Everything visual tokens can stand for, as vectors of one decoder.

    Args:
        tokenizer: its tokenizer.
        embedding: (vocabulary, D) its input embedding.
    """

    def __init__(self, tokenizer: Any, embedding: torch.Tensor) -> None:
        self.names = Names.of(VOCABULARY, tokenizer, embedding)
        self.paints = Names.of(PAINTS, tokenizer, embedding)
        self.length = float(embedding.float().norm(dim=-1).median())
        width, scale = embedding.shape[1], _PLACE * self.length
        self._places = {
            grid: scale * places(grid, width).to(embedding.device) for grid in (GRID, GRID // 2)
        }

    def meant(self, labels: torch.Tensor) -> torch.Tensor:
        """Return the targets, (b, grid^2, D), of labels, (b, grid^2, 6) int64."""
        where = self._places[round(labels.shape[1] ** 0.5)]
        words = self.names.embeddings
        shown = words[labels[..., NAME]] + SECOND_WEIGHT * words[labels[..., SECOND]]
        return shown + self.paints.embeddings[labels[..., PAINT]] + where
