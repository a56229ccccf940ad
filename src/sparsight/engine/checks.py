"""Whether a model, its options and its layer arguments can be hosted: every refusal that needs only a look.

Private details of transformers touched here: `_attn_implementation`, `layer_types`,
`sliding_window` and `rope_parameters` of the text config, and how a compiled module shows.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from sparsight.engine.compat import CACHE
from sparsight.errors import UnsupportedError
from sparsight.families import Family
from sparsight.methods.method import Method

HIDDEN = "inputs_embeds hide where the visual tokens are; give input_ids, with the images."
FULL, SLIDING = "full_attention", "sliding_attention"
KERNELS = ("sdpa", "eager")
MOVING_ROPE = ("dynamic", "longrope")  # tables that depend on the length seen
PER_TOKEN = frozenset(
    {"attention_mask", "position_embeddings", "position_ids"}
)  # layer arguments that get shortened


def kernel_of(decoder: nn.Module) -> str:
    """Return the name of the decoder's attention implementation."""
    config: Any = decoder.config
    return str(config._attn_implementation)


def check_kernel(decoder: nn.Module) -> None:
    """Check that masks can be made for the decoder's attention implementation.

    Raises: UnsupportedError: they cannot.
    """
    if kernel_of(decoder) not in KERNELS:
        raise UnsupportedError(
            f"attention implementation {kernel_of(decoder)!r} is not supported yet; load the model with "
            f"attn_implementation={' or '.join(map(repr, KERNELS))}."
        )


def check_host(model: nn.Module, decoder: Any, positions: str) -> None:
    """Check that a model can be hosted as it is.

    Raises: UnsupportedError: it cannot; the message names the option.
    """
    if any(
        module._compiled_call_impl is not None or hasattr(module, "_orig_mod")
        for module in model.modules()
    ):
        raise UnsupportedError(
            "the model is compiled, which ignores new hooks; sparsify it before torch.compile."
        )
    check_kernel(decoder)
    config, name = decoder.config, type(decoder).__name__
    kinds = set(layer_kinds(config, len(getattr(decoder, "layers", ()))))
    if kinds - {FULL, SLIDING}:
        raise UnsupportedError(
            f"the text model {name} has layers of kind {', '.join(sorted(kinds - {FULL, SLIDING}))}; only full "
            "attention and sliding windows are supported."
        )
    if positions == "renumber" and SLIDING in kinds:
        raise UnsupportedError(
            f"positions='renumber' is not defined for the {SLIDING} layers of the text model {name}, whose windows "
            "count original positions; use positions='keep', or a model of full attention."
        )
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if positions == "renumber" and rope in MOVING_ROPE:
        raise UnsupportedError(
            f"positions='renumber' is not defined for rope type {rope!r}; use positions='keep'."
        )
    if "llama_4_scaling_beta" in (getattr(config, "rope_parameters", None) or {}):
        raise UnsupportedError(
            f"the text model {type(decoder).__name__} scales queries by position, past the rotary table; it is not "
            "supported, use a model with another text model."
        )
    layers = getattr(decoder, "layers", ())
    if (
        not layers
        or not hasattr(decoder, "rotary_emb")
        or not all(hasattr(layer, "self_attn") for layer in layers)
    ):
        raise UnsupportedError(
            f"the text model {type(decoder).__name__} is not Llama-like: no rotary self-attention."
        )


def layer_kinds(config: Any, layers: int) -> tuple[str, ...]:
    """Return how each decoder layer attends."""
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        kinds = (SLIDING if getattr(config, "sliding_window", None) else FULL,) * layers
    return tuple(kinds)[:layers]


def refuse_unknown(kwargs: dict[str, Any], length: int) -> None:
    """Check that no layer argument runs beside the hidden states unknown to the engine.

    Raises: UnsupportedError: a tensor argument has a dimension of the sequence's length.
    """
    for name, value in kwargs.items():
        if name not in PER_TOKEN and isinstance(value, torch.Tensor) and length in value.shape:
            raise UnsupportedError(
                f"decoder layers get a per-token argument {name!r} that sparsight cannot shorten."
            )


def refuse_scattered(labels: object, logits_to_keep: object) -> None:
    """Check that nobody asks for outputs by their place in the unpruned sequence.

    Raises: UnsupportedError: labels, or logits_to_keep as a tensor.
    """
    if labels is not None:
        raise UnsupportedError(
            "labels are not supported: the pruned sequence is shorter than they are."
        )
    if isinstance(logits_to_keep, torch.Tensor):
        raise UnsupportedError(
            "logits_to_keep as a tensor names places that may be pruned; give an int."
        )


def check_length(visual: torch.Tensor, tokens: int) -> None:
    """Check that a base model leaves each token at its place.

    Raises: UnsupportedError: its text decoder gets another number of tokens than there are ids.
    """
    if visual.shape[1] != tokens:
        raise UnsupportedError(
            f"{visual.shape[1]} token ids became {tokens} tokens in the text decoder; give a prompt with one "
            "placeholder for each visual token, as the model's processor writes it."
        )


def check_mask(mask: Any, tokens: int) -> None:
    """Check that a model's attention mask has one column for each token.

    Raises: UnsupportedError: another kind, number of dimensions or columns.
    """
    if mask is None:
        return
    if not isinstance(mask, torch.Tensor):
        raise UnsupportedError(
            f"an attention mask of kind {type(mask).__name__} cannot be pruned; give a 2-D tensor."
        )
    if mask.ndim != 2:
        raise UnsupportedError(
            f"an attention mask of {mask.ndim} dimensions cannot be pruned; give a 2-D one."
        )
    if mask.shape[1] != tokens:
        raise UnsupportedError(
            f"an attention mask of {mask.shape[1]} columns does not fit {tokens} tokens; give one column for each, "
            "those in the cache included."
        )


def packing_positions(given: dict[str, Any], mask: Any, *, causal: bool) -> torch.Tensor | None:
    """Return the positions in which transformers looks for several prompts in one row; None where it does not.

    It does so given positions, but neither mask nor cache. Models that make masks before their
    decoder makes its cache do it even where there will be one. Of the rows of M-RoPE positions,
    only a first one of four counts as text.

    Args:
        given: arguments of the text decoder.
        mask: what the model was given.
        causal: whether the decoder makes its own masks.
    Returns: (1 or B, L) int64 or None.
    """
    places = given.get("position_ids")
    cached = given.get(CACHE) is not None or bool(given.get("use_cache"))
    if mask is not None or places is None or (causal and cached) or places.shape[-1] == 1:
        return None
    if places.ndim == 3:
        return places[0] if len(places) == 4 else None
    found: torch.Tensor = places
    return found


def refuse_packed(positions: torch.Tensor) -> None:
    """Check that positions on the host run on by one.

    Raises: UnsupportedError: they start anew, which packs several prompts into one row.
    """
    if bool((positions.diff(dim=-1) != 1).any()):
        raise UnsupportedError(
            "packed prompts cannot be pruned: position_ids start anew; give one prompt per row."
        )


def check_distances(family: Family, method: Method, frequencies: Sequence[object]) -> None:
    """Check that a method that reads rotary distances finds them.

    Raises: UnsupportedError: positions are not one number per token.
    """
    if "distance" in method.signals and None in frequencies:
        raise UnsupportedError(
            f"{type(method).__name__} divides attention by a prior of one rotary distance, and tokens of {family.name} "
            "are several apart at once; use SparseVLM instead."
        )
