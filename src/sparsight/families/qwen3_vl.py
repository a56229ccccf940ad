"""Qwen3-VL and its mixture of experts: as Qwen2-VL, with DeepStack and frames that stand apart between timestamps."""

from dataclasses import replace

from sparsight.families.qwen_vl import QWEN_VL

QWEN3_VL = replace(
    QWEN_VL,
    name="qwen3-vl",
    classes=(
        "Qwen3VLForConditionalGeneration",
        "Qwen3VLModel",
        "Qwen3VLMoeForConditionalGeneration",
        "Qwen3VLMoeModel",
    ),
    deepstack="_deepstack_process",
    video=True,
    refused=("SparseVLMPlus: its prior knows one distance between tokens, M-RoPE has three",),
)
