"""Finds every reason why a method cannot prune a model, before anything is built.

`supports` is the one source of these reasons: `sparsify` raises them, the command line and the
documentation print them. A config alone is enough for most of them. Private details of transformers
touched here: `get_text_config`, `num_hidden_layers` and `rope_parameters` of configs, `rotary_emb`
of text decoders, `self_attn` of decoder layers. Of torch: `_compiled_call_impl` and `_orig_mod`, by
which a compiled module is recognised.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from sparsight.engine.cache import check_cache_classes
from sparsight.engine.calibrator import find_unturned
from sparsight.engine.checks import FULL, SLIDING, check_kernel, read_layer_kinds
from sparsight.engine.compat import check_signatures, read_class_name
from sparsight.engine.encoder_needs import check_encoder, list_unmet_needs
from sparsight.engine.final_norm import find_norm
from sparsight.engine.image_scaling import check_scaling
from sparsight.engine.layer_inputs import read_rotary_frequencies
from sparsight.engine.parts import Parts
from sparsight.errors import SettingError, SparsightError, UnsupportedError
from sparsight.families import Family, family_named
from sparsight.methods.method import Method

MOVING_ROPE = ("dynamic", "longrope")  # rotary tables that depend on the sequence's length


@dataclass(frozen=True)
class Refusal:
    """One reason why a method cannot prune a model.

    Args:
        what: what is refused; a whole message if `where`, `why` and `instead` are empty.
        where: the family, or the class of the model or config, for which `what` is refused.
        why: the reason.
        instead: what to do instead.
        error: class of the error that `check` raises.
    """

    what: str
    where: str = ""
    why: str = ""
    instead: str = ""
    error: type[SparsightError] = UnsupportedError

    @property
    def message(self) -> str:
        """The whole refusal as one sentence."""
        if not self.where:
            return self.what
        return f"{self.what} is not supported for {self.where}: {self.why}; {self.instead}."


@dataclass(frozen=True)
class Described:
    """A model as its config describes it, without weights.

    Args:
        name: class of the model.
        family: its family.
        config: of the base model.
        text: config of the text decoder.
        text_name: class of the text decoder, or of its config.
        marked: whether it is a text model whose caller marks the visual tokens.
    """

    name: str
    family: Family
    config: Any
    text: Any
    text_name: str
    marked: bool = False


def describe(config: Any) -> Described:
    """Return a model as its config describes it, without building it.

    Args: config: of a vision-language model, as `AutoConfig.from_pretrained` returns it.
    Raises: UnsupportedError: no family knows the class of model that the config names.
    """
    name = read_class_name(config)
    text = config.get_text_config(decoder=True)
    return Described(name, family_named(name), config, text, type(text).__name__)


def supports(subject: Parts | Described, method: Method) -> tuple[Refusal, ...]:
    """Return every reason why a method cannot prune a model; none if it can.

    Args:
        subject: the parts of a model, or what its config says. A config does not tell whether a
            model is compiled, which attention kernel it uses and whether this release of
            transformers keeps its parts where the engine looks for them.
        method: with its settings.
    """
    method = method.for_space(subject.family.space)
    if isinstance(subject, Described):
        return tuple(_check_config(subject, method))
    name, decoder = type(subject.model).__name__, subject.decoder
    config = decoder.config if subject.marked else subject.config
    text_name = type(decoder).__name__
    described = Described(name, subject.family, config, decoder.config, text_name, subject.marked)
    return (*_check_config(described, method), *_check_modules(subject, method))


def check(subject: Parts | Described, method: Method) -> None:
    """Check that a method can prune a model.

    Raises:
        UnsupportedError: the model, or an option of it, is not supported; the message names every
            reason.
        SettingError: the method's sites do not fit the model.
    """
    refusals = supports(subject, method)
    if refusals:
        message = " ".join(dict.fromkeys(refusal.message for refusal in refusals))
        raise refusals[0].error(message)


def _check_config(described: Described, method: Method) -> Iterator[Refusal]:
    """Yield every reason that a config alone tells."""
    if not described.marked:
        yield from _catch(described.family.check_placeholders, described.config)
    yield from _check_pair(described, method)
    yield from _check_text_decoder(described, method)
    yield from _catch(method.list_sites, int(described.text.num_hidden_layers))


def _check_pair(described: Described, method: Method) -> Iterator[Refusal]:
    """Yield why a method's settings are not defined for a family."""
    name, family = type(method).__name__, described.family
    if method.scales_images and family.encoder is None:
        why = "its image encoder is not known to take images of any size"
        yield Refusal(name, family.name, why, "use Pool or Uniform")
    if method.videos_only and not family.video:
        why = "its models are not known to take videos, and it prunes nothing else"
        yield Refusal(name, family.name, why, "use DivPrune, SparseVLM or Uniform")
    for why, instead in list_unmet_needs(family, described.config, method):
        yield Refusal(name, family.name, why, instead)
    if method.positions == "renumber" and family.fixed_positions is not None:
        yield _refuse_renumbering(family.name, family.fixed_positions)
    if "distance" in method.signals and family.rotary_axes > 1:
        yield _refuse_distance(name, family)
    if method.needs_grids and family.is_resampled(described.config):
        why = "its visual tokens answer learned queries and lie nowhere in the image"
        yield Refusal(name, described.name, why, "use SparseVLM")


def _check_text_decoder(described: Described, method: Method) -> Iterator[Refusal]:
    """Yield every feature in a text decoder's config that cannot be pruned."""
    config, name = described.text, described.text_name
    kinds = set(read_layer_kinds(config, int(config.num_hidden_layers)))
    others = sorted(kinds - {FULL, SLIDING})
    another = "use a model with another text model"
    if others:
        why = f"layers of kind {', '.join(others)} cannot be shortened"
        yield Refusal("pruning", name, f"{why}, only full attention and sliding windows", another)
    if method.positions == "renumber" and SLIDING in kinds:
        instead = "use positions='keep', or a model of full attention"
        why = "its sliding_attention layers count original positions"
        yield Refusal("positions='renumber'", name, why, instead)
    rope = getattr(config, "rope_parameters", None) or {}
    rope_type = rope.get("rope_type", "default")
    if method.positions == "renumber" and rope_type in MOVING_ROPE:
        yield _refuse_renumbering(name, f"rope type {rope_type!r} depends on the length seen")
    calibration = method.calibration
    if calibration is not None and calibration.distance is not None and find_unturned(config):
        what = f"{type(method).__name__} with its calibration"
        yield Refusal(what, name, find_unturned(config), "give calibrate=False")
    if "llama_4_scaling_beta" in rope:
        why = "it scales queries by position, past the rotary table"
        yield Refusal("pruning", name, why, another)


def _refuse_renumbering(where: str, why: str) -> Refusal:
    return Refusal("positions='renumber'", where, why, "use positions='keep'")


def _refuse_distance(name: str, family: Family) -> Refusal:
    why = "its prior knows one distance between tokens, and M-RoPE has three"
    return Refusal(name, family.name, why, "use SparseVLM")


def _check_modules(parts: Parts, method: Method) -> Iterator[Refusal]:
    """Yield every reason that only the modules of a model tell."""
    if any(_is_compiled(module) for module in parts.model.modules()):
        yield Refusal(
            "the model is compiled, which ignores new hooks; sparsify it before torch.compile."
        )
    yield from _catch(check_kernel, parts.decoder)
    if not _is_llama_like(parts):
        yield Refusal(
            f"the text model {type(parts.decoder).__name__} is not Llama-like: no rotary "
            "self-attention."
        )
        return
    features = () if parts.marked else parts.family.features
    yield from _catch(check_cache_classes)
    yield from _catch(check_signatures, parts.base, parts.decoder, list(parts.layers), features)
    if method.scales_images and parts.family.encoder is not None:
        yield from _catch(check_scaling, parts, method)
    yield from _catch(check_encoder, parts, method)
    if "norm" in method.signals:
        yield from _catch(find_norm, parts.decoder)
    kinds = read_layer_kinds(parts.decoder.config, len(parts.layers))
    if "distance" in method.signals and None in read_rotary_frequencies(parts.decoder, kinds):
        yield _refuse_distance(type(method).__name__, parts.family)


def _is_compiled(module: nn.Module) -> bool:
    return module._compiled_call_impl is not None or hasattr(module, "_orig_mod")


def _is_llama_like(parts: Parts) -> bool:
    attends = all(hasattr(layer, "self_attn") for layer in parts.layers)
    return bool(parts.layers) and attends and hasattr(parts.decoder, "rotary_emb")


def _catch(check_one: Callable[..., object], *arguments: Any) -> Iterator[Refusal]:
    """Yield the error that a check raises as a refusal; nothing if it raises none."""
    try:
        check_one(*arguments)
    except (UnsupportedError, SettingError) as error:
        yield Refusal(str(error), error=type(error))
