"""Makes the tower that methods compare in CLIP's space with, of transformers' CLIP.

The class is not named: what the tower reads of a model is looked for when it is made. Private
details of transformers touched here: of `CLIPModel`, `text_model`, `text_projection`,
`vision_model.post_layernorm` and `visual_projection`, `last_hidden_state` and `pooler_output` of
its text model, `max_position_embeddings` of its text config, `model_type` and `hidden_size` of its
vision config.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from sparsight.errors import TESTED_WITH, InputError, UnsupportedError
from sparsight.methods.clip import ClipTower

PARTS = ("text_model", "text_projection", "vision_model.post_layernorm", "visual_projection")


@dataclass(frozen=True, eq=False)
class ClipText:
    """CLIP's text side, fed with the words of a vision-language model.

    Args:
        model: CLIP.
        clip_tokenizer: of CLIP.
        tokenizer: of the vision-language model.
        positions: how many tokens CLIP's text model takes at once.
    """

    model: Any
    clip_tokenizer: Any
    tokenizer: Any
    positions: int

    def list_segments(self, ids: Sequence[int]) -> list[list[int]]:
        """Return a text in CLIP's token ids, cut into segments that fill CLIP's positions.

        Each segment has a start and an end of its own, and is filled up behind its end.
        """
        text = self.tokenizer.decode(list(ids), skip_special_tokens=True).strip()
        # not verbose: the tokenizer would warn of texts that it does not cut
        words = self.clip_tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        start, end = self.clip_tokenizer.bos_token_id, self.clip_tokenizer.eos_token_id
        fill, room = self.clip_tokenizer.pad_token_id, self.positions - 2
        segments = []
        for first in range(0, max(len(words), 1), room):
            segment = [start, *words[first : first + room], end]
            segments.append(segment + [fill] * (self.positions - len(segment)))
        return segments

    def read(self, ids: Sequence[int], *, words: bool) -> torch.Tensor:
        """Return the embeddings of a text's segments, (M, P); (M, W, P) of their `words`."""
        weight = next(self.model.text_model.parameters())
        segments = torch.tensor(self.list_segments(ids)).to(weight.device, non_blocking=True)
        # text looks back only, so that what stands behind an end changes no embedding before it
        output = self.model.text_model(input_ids=segments)
        read: torch.Tensor = output.last_hidden_state if words else output.pooler_output
        projected: torch.Tensor = self.model.text_projection(read)
        return projected


def make_clip_tower(clip: nn.Module, clip_tokenizer: Any, tokenizer: Any) -> ClipTower:
    """Return the tower of a CLIP model for a vision-language model with its image encoder.

    The model is left as it is, in evaluation mode; its image encoder does not run.

    Args:
        clip: transformers' `CLIPModel`, such as that of openai/clip-vit-large-patch14-336 for
            LLaVA-1.5, on the vision-language model's device.
        clip_tokenizer: of the CLIP model.
        tokenizer: of the vision-language model.

    Raises:
        UnsupportedError: the model is no CLIP, or is training, or this release of transformers
            keeps its parts elsewhere.
        InputError: something is no tokenizer, or CLIP's does not name start, end and filling.
    """
    name = type(clip).__name__
    missing = [path for path in PARTS if not _has_part(clip, path)]
    positions = getattr(
        getattr(getattr(clip, "config", None), "text_config", None), "max_position_embeddings", 0
    )
    if missing or positions < 3:
        what = ", ".join(missing) or "config.text_config.max_position_embeddings"
        raise UnsupportedError(
            f"{name} has no {what}, and a tower is made of transformers' CLIPModel; give one. "
            f"If this is one: {TESTED_WITH}."
        )
    if clip.training:
        raise UnsupportedError(f"{name} is in training mode; call eval() first.")
    _check_tokenizer(clip_tokenizer, "__call__", "bos_token_id", "eos_token_id", "pad_token_id")
    _check_tokenizer(tokenizer, "decode")
    text = ClipText(clip, clip_tokenizer, tokenizer, int(positions))
    vision: Any = clip.get_submodule("vision_model").config
    return ClipTower(
        partial(text.read, words=False),
        partial(_project_features, clip, name),
        partial(text.read, words=True),
        encoder=(str(vision.model_type), int(vision.hidden_size)),
        name=getattr(clip, "name_or_path", "") or name,
    )


def _project_features(clip: Any, name: str, features: torch.Tensor) -> torch.Tensor:
    """Return features (..., N, D_enc) in CLIP's common space, (..., N, P)."""
    norm, project = clip.vision_model.post_layernorm, clip.visual_projection
    weight = project.weight
    if features.shape[-1] != weight.shape[1]:
        raise UnsupportedError(
            f"features of width {features.shape[-1]} are given to {name}, which takes "
            f"{weight.shape[1]}; give the CLIP model whose image encoder the model has."
        )
    projected: torch.Tensor = project(norm(features.to(weight.device, weight.dtype)))
    return projected


def _has_part(model: nn.Module, path: str) -> bool:
    try:
        model.get_submodule(path)
    except AttributeError:
        return False
    return True


def _check_tokenizer(tokenizer: Any, *names: str) -> None:
    """Check that a tokenizer has what is read of it.

    Raises: InputError: it has not.
    """
    missing = [name for name in names if getattr(tokenizer, name, None) is None]
    if missing:
        raise InputError(
            f"{type(tokenizer).__name__} has no {', '.join(missing)}; give a tokenizer, such as "
            "processor.tokenizer."
        )
