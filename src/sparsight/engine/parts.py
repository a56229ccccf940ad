"""The parts of a model that the engine touches, found once, before anything is built.

Private details of transformers touched here: `layers` of text decoders. Of PEFT: `get_base_model`
and `peft_config` of its wrappers.
"""

from dataclasses import dataclass
from typing import Any, cast

from torch import nn

from sparsight.counts.cost import DecoderShape
from sparsight.families import Family, decoder_shape, family_of, text_family


@dataclass(frozen=True, eq=False)
class Parts:
    """A model and where its parts are.

    Args:
        model: the whole model.
        family: its family.
        base: the part that merges image features into the text.
        decoder: the text decoder, within the base model.
        layers: the decoder's layers.
        marked: whether it is a text model whose caller marks the visual tokens.
    """

    model: nn.Module
    family: Family
    base: nn.Module
    decoder: Any  # its attributes are transformers' own
    layers: tuple[nn.Module, ...]
    marked: bool

    @property
    def config(self) -> Any:
        """The base model's config."""
        return vars(self.base)["config"]

    @property
    def shape(self) -> DecoderShape:
        """Sizes of the decoder."""
        return decoder_shape(self.decoder.config)


def find_parts(model: nn.Module, *, marked: bool = False) -> Parts:
    """Return the parts of a model.

    Args:
        model: a transformers model, or PEFT's wrapper of one.
        marked: whether it is a text model whose caller marks the visual tokens.
    Raises: UnsupportedError: no family knows the model, or this release of transformers keeps a
        part elsewhere.
    """
    model = unwrap(model)
    family = text_family(model) if marked else family_of(model)
    base = family.base_model(model)
    decoder = cast("Any", family.get_part(base, family.decoder))
    return Parts(model, family, base, decoder, tuple(getattr(decoder, "layers", ())), marked)


def unwrap(model: nn.Module) -> nn.Module:
    """Return the model within a wrapper that adds adapters to it, as PEFT's wrappers do."""
    inner = getattr(model, "get_base_model", None)
    return inner() if callable(inner) and hasattr(model, "peft_config") else model
