"""Checks of single calls: arguments of the model, of its text decoder or of a decoder layer.

Private details of transformers touched here: `_attn_implementation`, `layer_types` and
`sliding_window` of the text config.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from sparsight.engine.compat import CACHE
from sparsight.errors import PromptError, UnsupportedError

HIDDEN = "inputs_embeds hide where the visual tokens are; give input_ids, with the images."
FULL, SLIDING = "full_attention", "sliding_attention"
KERNELS = ("sdpa", "eager")
# arguments of a decoder layer that are shortened with the hidden states
PER_TOKEN = frozenset({"attention_mask", "position_embeddings", "position_ids"})


def read_kernel(decoder: nn.Module) -> str:
    """Return the name of a text decoder's attention implementation."""
    config: Any = decoder.config
    return str(config._attn_implementation)


def check_kernel(decoder: nn.Module) -> None:
    """Check that masks can be made for a text decoder's attention implementation.

    Raises: UnsupportedError: the implementation is not one of KERNELS.
    """
    kernel = read_kernel(decoder)
    if kernel not in KERNELS:
        raise UnsupportedError(
            f"attention implementation {kernel!r} is not supported yet; load the model "
            f"with attn_implementation={' or '.join(map(repr, KERNELS))}."
        )


def read_layer_kinds(config: Any, layers: int) -> tuple[str, ...]:
    """Return how each decoder layer attends, by transformers' names, from the text config.

    Args:
        config: of the text decoder.
        layers: how many decoder layers there are.
    """
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        kinds = (SLIDING if getattr(config, "sliding_window", None) else FULL,) * layers
    return tuple(kinds)[:layers]


def refuse_training(*modules: nn.Module) -> None:
    """Check that no module is in training mode.

    Raises: UnsupportedError: a module is in training mode.
    """
    if any(module.training for module in modules):
        raise UnsupportedError("pruning while training is not supported; call model.eval() first.")


def refuse_hidden(embeds: torch.Tensor | None) -> None:
    """Check that a call without input_ids is a decode step, as longer inputs may hide images.

    Args: embeds: (B, L, D) input embeddings; None if the call gives none.
    Raises: PromptError: the embeddings are those of more than one token.
    """
    if embeds is not None and embeds.shape[1] > 1:
        raise PromptError(HIDDEN)


def refuse_unknown(kwargs: Mapping[str, Any], length: int) -> None:
    """Check that a decoder layer gets no per-token argument but those of PER_TOKEN.

    Args:
        kwargs: named arguments of the layer.
        length: tokens of the unpruned sequence.
    Raises: UnsupportedError: another tensor argument has a dimension of the sequence's length.
    """
    for name, value in kwargs.items():
        if name not in PER_TOKEN and isinstance(value, torch.Tensor) and length in value.shape:
            raise UnsupportedError(
                f"decoder layers get a per-token argument {name!r} that sparsight cannot shorten."
            )


def refuse_scattered(labels: object, logits_to_keep: object) -> None:
    """Check that no outputs are asked for by their index in the unpruned sequence.

    Raises: UnsupportedError: labels, or logits_to_keep as a tensor.
    """
    if labels is not None:
        raise UnsupportedError(
            "labels are not supported: the pruned sequence is shorter than they are."
        )
    if isinstance(logits_to_keep, torch.Tensor):
        raise UnsupportedError(
            "logits_to_keep as a tensor names tokens that may be pruned; give an int."
        )


def check_length(visual: torch.Tensor, tokens: int) -> None:
    """Check that the text decoder gets as many tokens as there are token ids.

    Args:
        visual: (B, L) bool, which ids are visual placeholders.
        tokens: how many tokens the text decoder gets.
    Raises: UnsupportedError: the numbers differ.
    """
    if visual.shape[1] != tokens:
        raise UnsupportedError(
            f"{visual.shape[1]} token ids became {tokens} tokens in the text decoder; give a "
            "prompt with one placeholder for each visual token, as the model's processor writes it."
        )


def check_mask(mask: Any, tokens: int) -> None:
    """Check that a model's attention mask is 2-D and has one column for each token.

    Args:
        mask: that the base model was given, or None.
        tokens: of the whole sequence, those in the cache included.
    Raises: UnsupportedError: the mask has another type or shape.
    """
    if mask is None:
        return
    if not isinstance(mask, torch.Tensor):
        raise UnsupportedError(
            f"an attention mask of type {type(mask).__name__} cannot be pruned; give a 2-D tensor."
        )
    if mask.ndim != 2:
        raise UnsupportedError(
            f"an attention mask of {mask.ndim} dimensions cannot be pruned; give a 2-D one."
        )
    if mask.shape[1] != tokens:
        raise UnsupportedError(
            f"an attention mask of {mask.shape[1]} columns does not fit {tokens} tokens; give one "
            "column for each, those in the cache included."
        )


def find_packing_positions(
    arguments: Mapping[str, Any], mask: Any, *, causal: bool
) -> torch.Tensor | None:
    """Return the position ids from which transformers would infer packed prompts, else None.

    Packed prompts are several prompts in one row. transformers infers them when it gets position
    ids but neither mask nor cache. Bidirectional decoders build their mask before the cache exists,
    so they infer them even with use_cache=True. M-RoPE has text positions only in its four-row form
    (row 0).

    Args:
        arguments: of the text decoder, by name.
        mask: attention mask that the base model was given.
        causal: whether the decoder makes its own causal masks.
    Returns: (1 or B, L) int64 or None.
    """
    positions = arguments.get("position_ids")
    cached = arguments.get(CACHE) is not None or bool(arguments.get("use_cache"))
    if mask is not None or positions is None or positions.shape[-1] == 1 or (causal and cached):
        return None
    if positions.ndim == 3:
        return positions[0] if len(positions) == 4 else None
    text_positions: torch.Tensor = positions
    return text_positions


def refuse_packed(positions: torch.Tensor) -> None:
    """Check that each position is the one before plus 1.

    Args: positions: (1 or B, L) int64 on the host.
    Raises: UnsupportedError: positions start anew, which packs several prompts into one row.
    """
    if bool((positions.diff(dim=-1) != 1).any()):
        raise UnsupportedError(
            "packed prompts cannot be pruned: position_ids start anew; give one prompt per row."
        )
