"""What a method may read of the image encoder, and how it says what it needs. Tensors only."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Never, Protocol, runtime_checkable

import torch

from sparsight.counts.layout import Grid
from sparsight.errors import MethodError
from sparsight.methods.parts.tensors import widen

EncoderKind = Literal[
    "features",
    "class_attention",
    "received",
    "keys",
    "wide_class_attention",
    "wide_keys",
    "projector",
    "merged",
    "encoded",
]

Block = int | float  # see EncoderNeed

# what a view's tokens are turned into visual tokens by, (..., D_enc) to (..., D)
Projector = Callable[[torch.Tensor], torch.Tensor]

PLAIN = {
    "features": "the features that the projector was given",
    "class_attention": "the attention that the class token pays to patches",
    "received": "the attention that patches receive",
    "keys": "the keys of patches",
    "wide_class_attention": "the attention that the class token pays to patches by one wide head",
    "wide_keys": "the keys of patches by one wide head",
    "projector": "the projector, for features that are no patch's own",
    "merged": "which token each patch was merged into inside the image encoder",
    "encoded": "which patches the image encoder was given",
}
WHOLE = ("features", "projector", "merged", "encoded")  # kinds that name no block
BY_CLASS = ("class_attention", "wide_class_attention")  # kinds that need a class token
CHANGES = ("merged", "encoded")  # kinds whose need changes how images are encoded


@dataclass(frozen=True)
class EncoderNeed:
    """One thing that a method reads of the image encoder, averaged over a token's patches.

    Args:
        kind: "features", what the projector was given, (V, D_enc); "class_attention", the row of
            the class token, mean over heads, (V,); "received", the attention that each patch
            receives, mean over heads and over all rows of its image, the class token's included,
            (V,); "keys", mean over heads, (V, d); "wide_class_attention" and "wide_keys", the same
            of one head as wide as all heads together, (V,) and (V, H d); "projector", which turns
            features into visual tokens; "merged", after which each block merges tokens until a
            schedule's `merged` are left, which of them each patch is part of, (V,); "encoded",
            after which the blocks get those patches alone that the method marks, which ones these
            are, (V,).
        block: an int counts back from the block that made the features: 0 is that block, 1 the one
            before it, -1 the one behind it. A float in 0..1 is a share of the encoder's depth,
            rounded to the nearest block that sees the whole image. Features and projector have no
            block.
    """

    kind: EncoderKind
    block: Block = 0
    is_share: bool = field(init=False, repr=False)  # 1 and 1.0 are equal, and name other blocks

    def __post_init__(self) -> None:
        """Note whether the block is a share of the depth."""
        object.__setattr__(self, "is_share", isinstance(self.block, float))

    @property
    def description(self) -> str:
        """What is needed, in words."""
        if self.kind in WHOLE:
            return PLAIN[self.kind]
        if self.is_share:
            return f"{PLAIN[self.kind]} at {self.block:g} of the encoder's depth"
        where = "in the block that made the features"
        if self.block:
            side = "before" if self.block > 0 else "behind"
            where = f"{abs(self.block)} blocks {side} the one that made the features"
        return f"{PLAIN[self.kind]} {where}"


@dataclass(frozen=True, eq=False)
class EncoderSignals:
    """What the image encoder computed for the visual tokens of a view, one row for each.

    A class token is no visual token and has no row; attention is not scaled up for its share. A
    token that ends a row has what the last patch of its row has.

    Args:
        values: (G, V, ...) of each need that the method declared, attention and keys in float32 or
            wider; the projector is none of them.
        projector: turns features (..., D_enc) into visual tokens (..., D); None if not declared.
    """

    values: Mapping[EncoderNeed, torch.Tensor] = field(default_factory=dict)
    projector: Projector | None = None

    def features(self) -> torch.Tensor:
        """Return what the projector was given, (G, V, D_enc).

        Raises: MethodError: the method did not declare it.
        """
        return self._read(EncoderNeed("features"))

    def class_attention(self, block: Block = 0) -> torch.Tensor:
        """Return the attention that the class token pays to each patch, mean over heads, (G, V).

        Args: block: as in `EncoderNeed`.
        Raises: MethodError: the method did not declare it.
        """
        return self._read(EncoderNeed("class_attention", block))

    def received(self, block: Block = 0) -> torch.Tensor:
        """Return the attention that each patch receives, mean over heads and rows, (G, V).

        Args: block: as in `EncoderNeed`.
        Raises: MethodError: the method did not declare it.
        """
        return self._read(EncoderNeed("received", block))

    def keys(self, block: Block = 0) -> torch.Tensor:
        """Return the keys of the patches, mean over heads, (G, V, d).

        Args: block: as in `EncoderNeed`.
        Raises: MethodError: the method did not declare it.
        """
        return self._read(EncoderNeed("keys", block))

    def wide_class_attention(self, block: Block = 0) -> torch.Tensor:
        """Return the attention that the class token pays to each patch by one wide head, (G, V).

        Args: block: as in `EncoderNeed`.
        Raises: MethodError: the method did not declare it.
        """
        return self._read(EncoderNeed("wide_class_attention", block))

    def wide_keys(self, block: Block = 0) -> torch.Tensor:
        """Return the keys of the patches with all heads side by side, (G, V, H d).

        Args: block: as in `EncoderNeed`.
        Raises: MethodError: the method did not declare it.
        """
        return self._read(EncoderNeed("wide_keys", block))

    def merged(self) -> torch.Tensor:
        """Return which token each patch was merged into, (G, V) int64.

        Of each picture, or tile, tokens are counted from its number times the number of its
        patches. The pictures of a call are numbered in order, so those of a sample follow each
        other. All patches of a merged token have its features.

        Raises: MethodError: the method did not declare it.
        """
        return self._read(EncoderNeed("merged"))

    def encoded(self) -> torch.Tensor:
        """Return which tokens' patches the encoder was given, (G, V) bool.

        The features of the others have no meaning.

        Raises: MethodError: the method did not declare it.
        """
        return self._read(EncoderNeed("encoded")) > 0

    def project(self, features: torch.Tensor) -> torch.Tensor:
        """Return visual tokens (..., D) for features (..., D_enc).

        Raises: MethodError: the method did not declare the projector.
        """
        if self.projector is None:
            _refuse(EncoderNeed("projector"))
        return self.projector(features)

    def drop_group(self) -> "EncoderSignals":
        """Return the signals of a group of one without the dimension G."""
        rows = {need: value[0] for need, value in self.values.items()}
        return EncoderSignals(rows, self.projector)

    def _read(self, need: EncoderNeed) -> torch.Tensor:
        if need not in self.values:
            _refuse(need)
        return self.values[need]


def _refuse(need: EncoderNeed) -> Never:
    raise MethodError(
        f"{need.description} is read without being declared; declare the signal 'encoder', and "
        f"have encoder_needs return {need}."
    )


@runtime_checkable
class MarksPatches(Protocol):
    """A method that declares "encoded" and so says which patches the encoder is given."""

    def mark_patches(self, pixels: torch.Tensor, grid: Grid) -> torch.Tensor:
        """Return which visual tokens of images of one size the encoder is given.

        Args:
            pixels: (F, V, P) float in 0..1, the pixels of each token's patches in a row, in raster
                order; F images or frames.
            grid: rows and columns of visual tokens.
        Returns: (F, V) bool, at least one of each image.
        """


@dataclass(frozen=True, eq=False)
class TextSignal:
    """The text behind the images, as input embeddings and as token ids.

    Args:
        embeds: (G, T, D); samples with fewer tokens than others are filled up with zeros behind
            their own.
        present: (G, T) bool, False for rows that fill up; None if there are none.
        ids: token ids of each sample on the host, one tuple for each, also in a view of one sample;
            () where they are not known, as a text model is given embeddings.
    """

    embeds: torch.Tensor
    present: torch.Tensor | None = None
    ids: tuple[tuple[int, ...], ...] = ()

    def mean(self) -> torch.Tensor:
        """Return the mean embedding of each sample's tokens, (G, 1, D) float32 or wider."""
        wide = widen(self.embeds)
        if self.present is None:
            return wide.mean(dim=-2, keepdim=True)
        return wide.sum(dim=-2, keepdim=True) / self.present.sum(dim=-1)[..., None, None]

    def read_ids(self) -> tuple[tuple[int, ...], ...]:
        """Return the token ids of each sample.

        Raises: MethodError: they are not known.
        """
        if not self.ids:
            raise MethodError(
                "token ids are read, and a text model is given embeddings alone; read the "
                "embeddings of the text, or prune a vision-language model."
            )
        return self.ids

    def drop_group(self) -> "TextSignal":
        """Return the text of a group of one without the dimension G."""
        return TextSignal(self.embeds[0], None, self.ids)
