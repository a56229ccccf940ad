"""ClipTower: text and image features in CLIP's space, for methods that compare them there.

A caller builds one; `sparsight.families.clip` makes it of transformers' CLIP. Nothing here knows a
module.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch

from sparsight.errors import SettingError
from sparsight.methods.encoder import EncoderNeed, TextSignal
from sparsight.methods.method import Method
from sparsight.methods.view import View

Relevance = Literal["embedding", "clip", "none"]

# takes token ids of a text, as the vision-language model's tokenizer counts them
TextEncoder = Callable[[Sequence[int]], torch.Tensor]


@dataclass(frozen=True)
class ClipTower:
    """What CLIP makes of a text and of image features. P is the width of its common space.

    Args:
        text: takes the token ids of a text, as the vision-language model's tokenizer counts them,
            and returns the embeddings (M, P) of its segments: CLIP's positions hold no long text.
        image: takes features (..., N, D_enc) that the projector was given, and returns (..., N, P).
        words: takes token ids as `text` does, and returns the embeddings (M, W, P) of all W
            positions of each segment; None for methods that read no words.
        encoder: model type of the image encoder that the features are of, such as
            "clip_vision_model", and D_enc; None for any.
        name: of the model, by which settings are told apart.
    """

    text: TextEncoder = field(repr=False)
    image: Callable[[torch.Tensor], torch.Tensor] = field(repr=False)
    words: TextEncoder | None = field(default=None, repr=False)
    encoder: tuple[str, int] | None = None
    name: str = "CLIP"


def check_tower(method: Method, relevance: str, tower: ClipTower | None) -> None:
    """Check that a method has a tower if it compares in CLIP's space, and only then.

    Raises: SettingError: it has none, or one that it does not read.
    """
    name = type(method).__name__
    if relevance == "clip" and not isinstance(tower, ClipTower):
        raise SettingError(
            f"{name}(relevance='clip') needs CLIP's text tower, and tower={tower!r}; give "
            "tower=make_clip_tower(...) of sparsight.families.clip, or relevance='embedding'."
        )
    if relevance != "clip" and tower is not None:
        raise SettingError(
            f"{name}(relevance={relevance!r}) reads no tower, and one is given; give "
            "relevance='clip', or leave it out."
        )


def list_tower_needs(tower: ClipTower | None) -> tuple[EncoderNeed, ...]:
    """Return what is read of the image encoder for a tower; nothing without one."""
    return () if tower is None else (EncoderNeed("features"),)


def embed_images(tower: ClipTower, view: View) -> torch.Tensor:
    """Return the visual tokens of a view in CLIP's space, (G, V, P)."""
    features = view.encoder.features()
    with torch.no_grad():
        return tower.image(features).to(features.device)


def read_words(tower: ClipTower) -> TextEncoder:
    """Return what makes embeddings of single words.

    Raises: SettingError: the tower has none.
    """
    if tower.words is None:
        raise SettingError(f"single words are read, and {tower!r} has none; give it words=.")
    return tower.words


def embed_texts(encode: TextEncoder, text: TextSignal) -> tuple[torch.Tensor, ...]:
    """Return what one side of a tower makes of each sample's text; equal texts are read once.

    Args: encode: `text` or `words` of a tower.
    """
    ids, device = text.read_ids(), text.embeds.device
    with torch.no_grad():
        encoded = {own: encode(own).to(device) for own in dict.fromkeys(ids)}
    return tuple(encoded[own] for own in ids)
