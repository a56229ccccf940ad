"""Qwen3-VL in vLLM, whose visual tokens carry features of later layers (DeepStack).

These are columns of a token's embedding, so that they are cut with it. Private details of vLLM
touched here: the classes imported below, and those columns.
"""

import torch
from vllm.model_executor.models.qwen3_vl import (
    Qwen3VLDummyInputsBuilder,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMultiModalProcessor,
    Qwen3VLProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from sparsight.serve.vllm.hooks import require_hooks
from sparsight.serve.vllm.mrope import HOOKS, MRopeModel, MRopeProcessor, OnlyImages

require_hooks(Qwen3VLForConditionalGeneration, {**HOOKS, "_compute_deepstack_embeds": ()})
require_hooks(Qwen3VLProcessingInfo, {"get_max_image_tokens": ()})


class Info(OnlyImages, Qwen3VLProcessingInfo):
    """What Qwen3-VL takes."""


class Processor(MRopeProcessor, Qwen3VLMultiModalProcessor):
    """Processor of Qwen3-VL."""


@MULTIMODAL_REGISTRY.register_processor(
    Processor, info=Info, dummy_inputs=Qwen3VLDummyInputsBuilder
)
class SparsightQwen3VL(MRopeModel, Qwen3VLForConditionalGeneration):
    """Qwen3-VL with fewer visual tokens."""

    merger_norm = "norm"

    def read_hidden(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the columns that enter the first layer, without those of later ones."""
        return tokens[:, : self.visual_dim]
