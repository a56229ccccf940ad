"""LLaVA-NeXT in vLLM: an overview and a fine grid with row ends, and positions counted anew.

Private details of vLLM touched here: the classes imported below, and that the vision tower skips
the class token by `vision_feature_select_strategy`.
"""

from collections.abc import Mapping
from typing import Any

from vllm.model_executor.models.llava import LlavaDummyInputsBuilder
from vllm.model_executor.models.llava_next import (
    LlavaNextForConditionalGeneration,
    LlavaNextMultiModalProcessor,
    LlavaNextProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from sparsight.counts.layout import Layout, layout_of
from sparsight.errors import UnsupportedError
from sparsight.families.llava_next import tile_images
from sparsight.serve.vllm.hooks import require_hooks
from sparsight.serve.vllm.llava import TOWERS
from sparsight.serve.vllm.llava import check_config as check_tower
from sparsight.serve.vllm.processing import SparseProcessor
from sparsight.serve.vllm.pruning import HOOKS, SparseModel

require_hooks(LlavaNextForConditionalGeneration, HOOKS)


def read_layouts(config: Any, given: Mapping[str, Any]) -> list[Layout]:
    """Return the layout of each image: its overview, and its fine grid without the padding.

    Args:
        config: of the model.
        given: what the processor made of the images.
    """
    return [layout_of(tuple(blocks)) for blocks in tile_images(config, given)]


def check_config(config: Any) -> None:
    """Check a model's image encoder.

    Raises: UnsupportedError: it is of another kind, or its class token is a visual token.
    """
    check_tower(config)
    strategy = config.vision_feature_select_strategy
    if strategy == "full" and config.vision_config.model_type == TOWERS[0]:
        raise UnsupportedError(
            f"a LLaVA-NeXT with vision_feature_select_strategy={strategy!r} makes its class token "
            "a visual token, which is not supported in vLLM; 'default' is."
        )


class Processor(SparseProcessor, LlavaNextMultiModalProcessor):
    """Processor of LLaVA-NeXT."""

    read_layouts = staticmethod(read_layouts)
    check_config = staticmethod(check_config)
    placeholder = "image_token_index"


@MULTIMODAL_REGISTRY.register_processor(
    Processor, info=LlavaNextProcessingInfo, dummy_inputs=LlavaDummyInputsBuilder
)
class SparsightLlavaNext(SparseModel, LlavaNextForConditionalGeneration):
    """LLaVA-NeXT with fewer visual tokens."""

    read_layouts = staticmethod(read_layouts)
