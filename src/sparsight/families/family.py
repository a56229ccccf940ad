"""Family: where one kind of vision-language model keeps its parts.

Private details of transformers touched here: paths of modules, config fields and argument names, as
each family lists them, and the fields of text configs that hold sizes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig

from sparsight.counts.cost import DecoderShape
from sparsight.counts.layout import Layout
from sparsight.errors import TESTED_WITH, UnsupportedError
from sparsight.families.encoders import ImageEncoder
from sparsight.methods.method import Space

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
        base: path from a model with a head to the base model, which merges image features into the
            text; "" if the model has no head.
        decoder: path from the base model to the text decoder.
        visual_ids: config fields that hold the ids of visual placeholders.
        features: arguments of the base model that carry images or their features.
        fixed_positions: why positions cannot be renumbered; None if they can.
        rotary_axes: how many numbers make up a token's position: 1, or 3 for M-RoPE.
        encoder: path from the base model to an image encoder that takes images of any size; None if
            the encoder is not known to take them.
        projector: path from the base model to the module that turns the encoder's patches into
            visual tokens; None if `encoder` is None.
        probed: whether the class is unregistered, so that the engine probes the model first.
        video: whether the models take videos.
        mixed: whether one call may bring both images and videos.
        resampler: config field of a resampler, whose visual tokens answer learned queries and lie
            nowhere in the image; None if the family has none.
        causal: whether the text decoder makes causal masks of its own, also if a layer attends
            within a sliding window; if not, its masks may be bidirectional within blocks of tokens.
        layouts: takes config, ids (B, L) on the host and the base model's arguments by name, and
            returns (B,) layouts: where in its image each visual token of a sample lies, None for a
            sample whose images do not fit its visual tokens. None where this was never looked into.
        sizes: arguments of the base model that hold the sizes of its images; `layouts` needs them
            on the host.
        deepstack: method of the decoder that adds features to the visual tokens after its first
            layers; None if it has none.
        image_encoder: returns from the base model's config how the image encoder is built, for
            methods that read it; None for a family whose encoder was never looked into.
        space: where visual tokens are best compared with each other, for methods that leave it to
            the family.
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
    mixed: bool = True
    resampler: str | None = None
    causal: bool = True
    layouts: Callable[[Any, torch.Tensor, Mapping[str, Any]], tuple[Layout | None, ...]] | None = (
        None
    )
    sizes: tuple[str, ...] = ()
    deepstack: str | None = None
    image_encoder: Callable[[Any], ImageEncoder] | None = None
    space: Space = "tokens"

    def base_model(self, model: nn.Module) -> nn.Module:
        """Return the module that merges image features into the text: `model` if it has no head."""
        return model.get_submodule(self.base) if hasattr(model, self.base) else model

    def get_part(self, base: nn.Module, path: str) -> nn.Module:
        """Return the module at a path of the base model.

        Raises: UnsupportedError: there is none in this release of transformers.
        """
        try:
            return base.get_submodule(path)
        except AttributeError:
            raise UnsupportedError(
                f"{type(base).__name__} has no part {path!r}; {TESTED_WITH}."
            ) from None

    def check_placeholders(self, config: PretrainedConfig) -> None:
        """Check that a config names visual placeholders, without which no image is recognised.

        Raises: UnsupportedError: the config has none of the fields in `visual_ids`.
        """
        if not any(hasattr(config, field) for field in self.visual_ids):
            raise UnsupportedError(
                f"{type(config).__name__} names no visual placeholder as "
                f"{' or '.join(self.visual_ids)}; {TESTED_WITH}."
            )

    def is_resampled(self, config: PretrainedConfig) -> bool:
        """Return whether visual tokens are answers to learned queries and so lie nowhere."""
        return self.resampler is not None and getattr(config, self.resampler, None) is not None

    def placeholder_ids(self, config: PretrainedConfig) -> tuple[int, ...]:
        """Return the token ids that stand for visual tokens."""
        ids = (getattr(config, field, None) for field in self.visual_ids)
        return tuple(sorted({int(i) for i in ids if i is not None}))

    def layout(self, config: PretrainedConfig, inputs: Mapping[str, Any]) -> Layout | None:
        """Return the layout of a prompt's first sample; None if it is not known.

        Args:
            config: of the base model.
            inputs: of the model, by name; ids and sizes are copied to the host.
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
    """Return the sizes of a text decoder, from its Llama-like config."""
    heads = int(config.num_attention_heads)
    # experts that a token passes through, in a mixture of experts that names them like this (Aria)
    experts = int(getattr(config, "moe_topk", 0)) + int(
        getattr(config, "moe_num_shared_experts", 0)
    )
    return DecoderShape(
        layers=int(config.num_hidden_layers),
        width=int(config.hidden_size),
        heads=heads,
        kv_heads=int(getattr(config, "num_key_value_heads", None) or heads),
        head_dim=int(getattr(config, "head_dim", None) or config.hidden_size // heads),
        ffn_width=_read_ffn_width(config) * max(1, experts),
    )


def _read_ffn_width(config: Any) -> int:
    """Return the MLP width that a token passes through, as the mean over layers.

    In a layer with experts, it is the width of all experts that a token passes through.
    """
    layers, dense_width = int(config.num_hidden_layers), int(config.intermediate_size)
    experts = getattr(config, "num_experts_per_tok", None)
    expert_width = getattr(config, "moe_intermediate_size", None)
    if not expert_width and getattr(config, "num_local_experts", None):
        expert_width = dense_width  # Mixtral: every layer has experts, and names one width
    if not experts or not expert_width:
        return dense_width
    step = getattr(config, "decoder_sparse_step", None) or 1
    dense = getattr(config, "mlp_only_layers", None) or ()
    sparse = sum(layer not in dense and (layer + 1) % step == 0 for layer in range(layers))
    total = sparse * int(experts) * int(expert_width) + (layers - sparse) * dense_width
    return total // layers
