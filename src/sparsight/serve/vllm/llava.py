"""LLaVA-1.5 in vLLM: one grid an image, and positions that are counted anew.

Private details of vLLM touched here: the classes imported below, and that the vision tower skips
the class token by `vision_feature_select_strategy`.
"""

from collections.abc import Mapping
from typing import Any

from vllm.model_executor.models.llava import (
    LlavaDummyInputsBuilder,
    LlavaForConditionalGeneration,
    LlavaMultiModalProcessor,
    LlavaProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from sparsight.counts.layout import Block, Layout, layout_of
from sparsight.errors import UnsupportedError
from sparsight.serve.vllm.hooks import require_hooks
from sparsight.serve.vllm.processing import SparseProcessor
from sparsight.serve.vllm.pruning import HOOKS, SparseModel

TOWERS = ("clip_vision_model", "siglip_vision_model")

require_hooks(LlavaForConditionalGeneration, HOOKS)


def read_layouts(config: Any, given: Mapping[str, Any]) -> list[Layout]:
    """Return the layout of each image.

    Args:
        config: of the model.
        given: what the processor made of the images.
    """
    vision = config.vision_config
    side = vision.image_size // vision.patch_size
    with_class = config.vision_feature_select_strategy == "full" and vision.model_type == TOWERS[0]
    layout = layout_of((Block(side, side, before=int(with_class)),))
    return [layout] * len(given.get("pixel_values", ()))


def check_config(config: Any) -> None:
    """Check a model's image encoder.

    Raises: UnsupportedError: it takes images of any size.
    """
    kind = config.vision_config.model_type
    if kind not in TOWERS:
        raise UnsupportedError(
            f"a LLaVA with an image encoder of type {kind!r} is not supported in vLLM; those with "
            f"{', '.join(TOWERS)} are."
        )


class Processor(SparseProcessor, LlavaMultiModalProcessor):
    """Processor of LLaVA-1.5."""

    read_layouts = staticmethod(read_layouts)
    check_config = staticmethod(check_config)
    placeholder = "image_token_index"


@MULTIMODAL_REGISTRY.register_processor(
    Processor, info=LlavaProcessingInfo, dummy_inputs=LlavaDummyInputsBuilder
)
class SparsightLlava(SparseModel, LlavaForConditionalGeneration):
    """LLaVA-1.5 with fewer visual tokens."""

    read_layouts = staticmethod(read_layouts)
