"""Finds what a method reads of an image encoder in a model, and why a model cannot give it.

A config tells most of it, before any image is encoded. Private details of transformers touched
here: lists of encoder blocks, names of parts of a block, and `config`, `_attn_implementation` and
`is_causal` of attention modules.
"""

from collections.abc import Iterator
from dataclasses import fields
from typing import Any, cast

from torch import nn

from sparsight.engine.checks import check_kernel
from sparsight.engine.compat import check_argument
from sparsight.engine.parts import Parts
from sparsight.errors import TESTED_WITH, UnsupportedError
from sparsight.families import Family
from sparsight.families.encoders import ImageEncoder
from sparsight.methods.encoder import BY_CLASS, CHANGES, WHOLE, EncoderNeed
from sparsight.methods.method import Method
from sparsight.sequence.encoded import Encoded

KEPT = "_sparsight_encoded"  # attribute of an encoder's output
OTHERS = "use DivPrune, SparseVLM or Uniform, which read no image encoder"


def list_needs(method: Method) -> tuple[EncoderNeed, ...]:
    """Return what a method declares to read of the image encoder, each thing once."""
    needs = method.encoder_needs if "encoder" in method.signals else ()
    return tuple(dict.fromkeys(needs))


def read_encoder(family: Family, config: Any) -> ImageEncoder:
    """Return how the image encoder of a family is built.

    Raises: UnsupportedError: it was never looked at, or cannot be read; the message is the reason.
    """
    if family.image_encoder is None:
        raise UnsupportedError("what its image encoder computes is not read")
    return family.image_encoder(config)


def list_unmet_needs(family: Family, config: Any, method: Method) -> Iterator[tuple[str, str]]:
    """Yield why a family's models cannot give what a method reads of the encoder, and what to do.

    Args: config: of the base model.
    """
    needs = list_needs(method)
    if not needs:
        return
    if method.scales_images:
        yield "images that are scaled down are not read in the encoder", OTHERS
    try:
        encoder = read_encoder(family, config)
    except UnsupportedError as error:
        yield str(error), OTHERS
        return
    changes = [need for need in needs if need.kind in CHANGES]
    if changes and len(needs) > 1:
        yield "what its image encoder computes is read or changed, not both", "declare one need"
        return
    settings = {setting.name for setting in fields(method)}
    if method.features_of not in (None, (encoder.kind, encoder.width)):
        kind, width = method.features_of
        yield (
            f"its image encoder is a {encoder.kind} of width {encoder.width}, and the tower takes "
            f"features of a {kind} of width {width}",
            "give the tower of its own image encoder, or relevance='embedding'",
        )
    for need in needs:
        reason = _find_reason(need, encoder, family, settings)
        if reason is not None:
            yield reason


def _find_reason(
    need: EncoderNeed, encoder: ImageEncoder, family: Family, settings: set[str]
) -> tuple[str, str] | None:
    """Return why an encoder cannot give what is needed, and what to do; None if it can."""
    if need.kind in BY_CLASS and not encoder.class_token:
        instead = "give score='received'" if "score" in settings else "use HiPrune or DivPrune"
        return "its image encoder has no class token", instead
    if need.kind == "projector" and (encoder.merge > 1 or family.projector is None):
        instead = "give merge='tokens'" if "merge" in settings else OTHERS
        return "its projector merges patches, and takes no features one by one", instead
    if need.kind in CHANGES:
        return _find_reason_against_change(need, encoder)
    try:
        encoder.find_block(need.block)
    except UnsupportedError as error:
        last = "block" in settings and need.block < 0
        return str(error), "give block=0" if last else "name another block"
    return None


def _find_reason_against_change(need: EncoderNeed, encoder: ImageEncoder) -> tuple[str, str] | None:
    """Return why an encoder cannot be changed as needed, and what to do; None if it can."""
    if need.kind == "encoded":
        if encoder.packed:
            return None
        return "its image encoder takes whole images, not lists of patches", "use ToMe or DivPrune"
    if encoder.features is not None:
        return "a second encoder is asked for each patch, so none may be merged before", OTHERS
    if encoder.second is None:
        why = "its image encoder makes one visual token of neighbouring patches, none of which may "
        return f"{why}be merged before", OTHERS
    if encoder.skip != int(encoder.class_token):
        return "its config drops a patch instead of a class token", OTHERS
    return None


def check_encoder(parts: Parts, method: Method) -> None:
    """Check that a model's image encoder is built as its config says, and can be tapped.

    Raises: UnsupportedError: it is not, in this release of transformers, or with its kernel.
    """
    needs = list_needs(method)
    if not needs or any(list_unmet_needs(parts.family, parts.config, method)):
        return  # refused by its config already
    encoder = read_encoder(parts.family, parts.config)
    tower = parts.family.get_part(parts.base, encoder.path)
    blocks = list_blocks(tower, encoder)
    check_kernel(tower)
    if encoder.features is not None:
        parts.family.get_part(tower, encoder.features)
    for index in group_by_block(needs, encoder):
        find_attention(blocks[index])
    _check_changes(parts, encoder, blocks, needs)


def _check_changes(
    parts: Parts, encoder: ImageEncoder, blocks: list[nn.Module], needs: tuple[EncoderNeed, ...]
) -> None:
    """Check that an encoder has the parts that are hooked to change what it computes.

    Raises: UnsupportedError: not in this release of transformers.
    """
    if EncoderNeed("encoded") in needs:
        for name in ("hidden_states", "cu_seqlens", "position_embeddings"):
            check_argument(blocks[0], name)
        for path in encoder.mergers:
            parts.family.get_part(parts.base, f"{encoder.path}.{path}")
    if EncoderNeed("merged") in needs:
        for block in blocks[: encoder.source + 1]:
            find_attention(block)
            find_second(block, encoder)


def group_by_block(
    needs: tuple[EncoderNeed, ...], encoder: ImageEncoder
) -> dict[int, tuple[EncoderNeed, ...]]:
    """Return what is needed of the attention of each block that is needed."""
    groups: dict[int, tuple[EncoderNeed, ...]] = {}
    for need in needs:
        if need.kind not in WHOLE:
            index = encoder.find_block(need.block)
            groups[index] = (*groups.get(index, ()), need)
    return groups


def list_blocks(tower: nn.Module, encoder: ImageEncoder) -> list[nn.Module]:
    """Return the blocks of an image encoder.

    Raises: UnsupportedError: this release of transformers keeps them elsewhere.
    """
    try:
        blocks = list(cast("nn.ModuleList", tower.get_submodule(encoder.blocks)))
    except AttributeError:
        blocks = []
    if len(blocks) != encoder.depth:
        raise UnsupportedError(
            f"{type(tower).__name__} has not its {encoder.depth} blocks at {encoder.blocks!r}; "
            f"{TESTED_WITH}."
        )
    return blocks


def find_attention(block: nn.Module) -> nn.Module:
    """Return the attention module of an encoder's block.

    Raises: UnsupportedError: none, or more than one, is like those of transformers.
    """
    attentions = [
        part
        for part in block.modules()
        if hasattr(part, "is_causal")
        and hasattr(getattr(part, "config", None), "_attn_implementation")
    ]
    if len(attentions) != 1:
        raise UnsupportedError(
            f"{type(block).__name__} has {len(attentions)} attention modules that can be read; "
            f"{TESTED_WITH}."
        )
    return attentions[0]


def find_second(block: nn.Module, encoder: ImageEncoder) -> tuple[nn.Module, nn.Module]:
    """Return the norm behind a block's attention, and its MLP.

    Raises: UnsupportedError: this release of transformers calls them otherwise.
    """
    names = encoder.second or ()
    parts = dict(block.named_children())
    if not names or any(name not in parts for name in names):
        raise UnsupportedError(
            f"{type(block).__name__} has no {' and '.join(names)} behind its attention; "
            f"{TESTED_WITH}."
        )
    return parts[names[0]], parts[names[1]]


def has_signals(output: Any, needs: tuple[EncoderNeed, ...]) -> bool:
    """Return whether an encoder's output brings what is needed besides its features."""
    if not needs:
        return True
    encoded = getattr(output, KEPT, None)
    return isinstance(encoded, Encoded) and all(
        need.kind == "projector" or need in encoded.values for need in needs
    )
