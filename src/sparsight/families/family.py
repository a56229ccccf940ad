"""Family: where one kind of vision-language model keeps its parts. Module names and config fields, no maths."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig

from sparsight.counts.cost import DecoderShape
from sparsight.counts.layout import Layout
from sparsight.errors import TESTED_WITH, UnsupportedError

IMAGE_IDS = ("image_token_id", "image_token_index")
BOTH_IDS = (*IMAGE_IDS, "video_token_id", "video_token_index")
IMAGE_FEATURES = ("pixel_values", "mm_encoder_outputs")
BOTH_FEATURES = ("pixel_values", "pixel_values_videos", "mm_encoder_outputs")


@dataclass(frozen=True)
class Family:
    """One family of vision-language models.

    Args:
        name: short name on the command line and in errors.
        classes: class names of the supported models, with or without a language-model head.
        base: path from a model with a head to the model that merges image features into the text;
            "" if it has none.
        decoder: path from the base model to the text decoder.
        visual_ids: config fields that hold the ids of visual placeholders.
        features: arguments of the base model that carry images or their features.
        fixed_positions: why positions cannot be renumbered; None if they can.
        rotary_axes: numbers that make up a token's position: 1, or 3 for M-RoPE.
        encoder: path from the base model to an image encoder that takes images of any size; None if
            it cannot.
        projector: path from the base model to what turns its patches into visual tokens.
        probed: whether nobody registered the class, so that it is probed before it is hooked.
        video: whether the models take videos.
        resampler: config field of a resampler, whose visual tokens answer learned queries and lie
            nowhere in the image; None if the family has none.
        causal: whether the text decoder makes causal masks of its own, less what a layer's window
            hides; if not, blocks of tokens may see each other both ways.
        layouts: reads from config, ids (B, L) on the host and the base model's arguments where each
            sample's visual tokens lie: (B,) layouts, None for a sample whose images do not fit its
            visual tokens. None for a family that was never looked at.
        sizes: arguments of the base model that say how large its images are; they are read on the
            host.
        deepstack: method of the decoder that adds features to its first layers' visual tokens; None
            if it has none.
    """

    name: str
    classes: tuple[str, ...]
    base: str
    decoder: str
    visual_ids: tuple[str, ...]
    features: tuple[str, ...]
    fixed_positions: str | None = None
    rotary_axes: int = 1
    encoder: str | None = None
    projector: str | None = None
    probed: bool = False
    video: bool = False
    resampler: str | None = None
    causal: bool = True
    layouts: Callable[[Any, torch.Tensor, Mapping[str, Any]], tuple[Layout | None, ...]] | None = (
        None
    )
    sizes: tuple[str, ...] = ()
    deepstack: str | None = None

    def base_model(self, model: nn.Module) -> nn.Module:
        """Return the module that merges image features into the text; `model` itself if it has no head."""
        return model.get_submodule(self.base) if hasattr(model, self.base) else model

    def part(self, base: nn.Module, path: str) -> nn.Module:
        """Return a part of the base model.

        Raises: UnsupportedError: this release of transformers keeps it elsewhere.
        """
        try:
            return base.get_submodule(path)
        except AttributeError:
            raise UnsupportedError(
                f"{type(base).__name__} has no part {path!r}; {TESTED_WITH}."
            ) from None

    def check_placeholders(self, config: PretrainedConfig) -> None:
        """Check that the config names visual placeholders; without them no image would be noticed.

        Raises: UnsupportedError: it has none of the fields that are known.
        """
        if not any(hasattr(config, field) for field in self.visual_ids):
            raise UnsupportedError(
                f"{type(config).__name__} names no visual placeholder as {' or '.join(self.visual_ids)}; {TESTED_WITH}."
            )

    def resampled(self, config: PretrainedConfig) -> bool:
        """Return whether visual tokens of a config's models answer learned queries."""
        return self.resampler is not None and getattr(config, self.resampler, None) is not None

    def placeholder_ids(self, config: PretrainedConfig) -> tuple[int, ...]:
        """Return the token ids that stand for visual tokens."""
        ids = (getattr(config, field, None) for field in self.visual_ids)
        return tuple(sorted({int(i) for i in ids if i is not None}))

    def layout(self, config: PretrainedConfig, inputs: Mapping[str, Any]) -> Layout | None:
        """Return where the visual tokens of a prompt's first sample lie; None if that is not known.

        Args:
            config: of the base model.
            inputs: of the model; ids and sizes are read on the host.
        """
        if self.layouts is None:
            return None
        on_host = {
            name: inputs[name].cpu()
            for name in ("input_ids", *self.sizes)
            if inputs.get(name) is not None
        }
        return self.layouts(config, on_host["input_ids"], {**inputs, **on_host})[0]


def decoder_shape(config: PretrainedConfig) -> DecoderShape:
    """Read a Llama-like text config's sizes."""
    heads = int(config.num_attention_heads)
    # of a mixture of experts, those that a token goes through
    experts = int(getattr(config, "moe_topk", 0)) + int(
        getattr(config, "moe_num_shared_experts", 0)
    )
    return DecoderShape(
        layers=int(config.num_hidden_layers),
        width=int(config.hidden_size),
        heads=heads,
        kv_heads=int(getattr(config, "num_key_value_heads", None) or heads),
        head_dim=int(getattr(config, "head_dim", None) or config.hidden_size // heads),
        ffn_width=_ffn_width(config) * max(1, experts),
    )


def _ffn_width(config: Any) -> int:
    """Width that a token passes through, mean over layers: of its experts where a layer has some."""
    experts, narrow = (
        getattr(config, name, None) for name in ("num_experts_per_tok", "moe_intermediate_size")
    )
    layers, wide = int(config.num_hidden_layers), int(config.intermediate_size)
    if not experts or not narrow:
        return wide
    step, dense = (
        getattr(config, "decoder_sparse_step", None) or 1,
        getattr(config, "mlp_only_layers", None) or (),
    )
    sparse = sum(layer not in dense and (layer + 1) % step == 0 for layer in range(layers))
    return (sparse * int(experts) * int(narrow) + (layers - sparse) * wide) // layers
