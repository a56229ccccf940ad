"""Qwen2.5-VL in vLLM. Private details of vLLM touched here: the classes imported below."""

from vllm.model_executor.models.qwen2_5_vl import (
    Qwen2_5_VLDummyInputsBuilder,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLMultiModalProcessor,
    Qwen2_5_VLProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from sparsight.serve.vllm.hooks import require_hooks
from sparsight.serve.vllm.mrope import HOOKS, MRopeModel, MRopeProcessor, OnlyImages

require_hooks(Qwen2_5_VLForConditionalGeneration, HOOKS)
require_hooks(Qwen2_5_VLProcessingInfo, {"get_max_image_tokens": ()})


class Info(OnlyImages, Qwen2_5_VLProcessingInfo):
    """What Qwen2.5-VL takes."""


class Processor(MRopeProcessor, Qwen2_5_VLMultiModalProcessor):
    """Processor of Qwen2.5-VL."""


@MULTIMODAL_REGISTRY.register_processor(
    Processor, info=Info, dummy_inputs=Qwen2_5_VLDummyInputsBuilder
)
class SparsightQwen2_5_VL(MRopeModel, Qwen2_5_VLForConditionalGeneration):
    """Qwen2.5-VL with fewer visual tokens."""

    merger_norm = "ln_q"
