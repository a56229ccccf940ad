"""Names that transformers has changed between releases, and the arguments that the engine reads: all in one place.

Hooks see arguments as the caller wrote them. `named` returns them under one set of names, ours;
`respelled` returns them under the names that a module's own forward takes. Both go by its
signature, read once for each class, so that a name that is not there is noticed when a model is
sparsified (`check_signatures`) and never later.

Private details of transformers touched here: names of the arguments of base models, text decoders
and decoder layers, the field of a model's output that holds the cache, and how a release says its
version.
"""

import functools
import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
import transformers
from torch import nn
from transformers import Cache, GenerationMixin
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from sparsight.errors import TESTED, TESTED_WITH, UnsupportedError

CACHE = "cache"  # our name for it
CACHE_NAMES = (CACHE, "past_key_values")  # transformers 5.24 renamed it; newer name first
TEXT_ARGUMENTS = frozenset(
    {"input_ids", "inputs_embeds", "attention_mask", "position_ids", "labels", CACHE}
)
DECODER_ARGUMENTS = ("inputs_embeds", "attention_mask", "position_ids")
LAYER_ARGUMENTS = ("attention_mask", "position_ids", "position_embeddings")


@functools.cache
def _signature(forward: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(forward)


@functools.cache
def _cache_name(forward: Callable[..., Any]) -> str | None:
    """Return the name under which a function takes the cache, None if it names none."""
    names = _signature(forward).parameters
    return next((name for name in CACHE_NAMES if name in names), None)


def named(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a module's forward by name, the cache as `CACHE`, those behind **kwargs included."""
    forward = type(module).forward
    given = arguments(_signature(forward), (module, *args), kwargs)
    given.pop("self", None)
    check_one_cache(given)
    found = take_cache(given, _cache_name(forward))
    rest = {name: value for name, value in given.items() if name not in CACHE_NAMES}
    return rest if found is None else {**rest, CACHE: found}


def arguments(
    signature: inspect.Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a call's arguments by name, those behind **kwargs included."""
    given = dict(signature.bind_partial(*args, **kwargs).arguments)
    return {**given.pop("kwargs", {}), **given}


def check_one_cache(given: Mapping[str, Any]) -> None:
    """Check that a call does not give two caches under two names.

    Raises: UnsupportedError: it does; releases of transformers differ in which of them counts.
    """
    if len({id(given[name]) for name in CACHE_NAMES if given.get(name) is not None}) > 1:
        raise UnsupportedError(
            f"two different caches are given, as {' and '.join(CACHE_NAMES)}; give one."
        )


def take_cache(given: Mapping[str, Any], wanted: str | None = None) -> Any:
    """Return the cache among arguments given by name; `wanted` is the name that counts where both are given."""
    names = CACHE_NAMES if wanted is None else (wanted, *CACHE_NAMES)
    return next((given[name] for name in names if given.get(name) is not None), None)


def respelled(
    module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Return a call's arguments with the cache under the name that a module's forward takes, for a pre-hook to return.

    Returns: None if there is nothing to rename.
    """
    renamed = _renamed(kwargs, _cache_name(type(module).forward))
    return None if renamed is None else (args, renamed)


def spelled_for_generate(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the named arguments of generate() with the cache under the name that this release of transformers uses.

    Raises: UnsupportedError: two different caches are given.
    """
    check_one_cache(kwargs)
    found = _renamed(kwargs, _generate_name())
    return dict(kwargs) if found is None else found


def _generate_name() -> str:
    return _cache_name(GenerationMixin.prepare_inputs_for_generation) or CACHE


def _renamed(kwargs: Mapping[str, Any], name: str | None) -> dict[str, Any] | None:
    others = [other for other in CACHE_NAMES if other in kwargs and other != name]
    if name is None or name in kwargs or not others:
        return None
    return {
        **{key: value for key, value in kwargs.items() if key not in others},
        name: kwargs[others[0]],
    }


def cache_argument(module: nn.Module, cache: Any) -> dict[str, Any]:
    """Return a cache as the keyword argument that a module's forward takes."""
    return {
        _cache_name(type(module).forward) or _generate_name(): cache
    }  # a wrapper may name nothing


def generate_cache_argument(cache: Any) -> dict[str, Any]:
    """Return a cache as the keyword argument that generate() takes."""
    return {_generate_name(): cache}


def output_cache(output: Any) -> Any:
    """Return the cache in what a model or a generate() call returned; None if there is none."""
    if isinstance(output, tuple):
        return next((part for part in output if isinstance(part, Cache)), None)
    fields = vars(output) if hasattr(output, "__dict__") else {}
    return next((fields[name] for name in CACHE_NAMES if fields.get(name) is not None), None)


def unknown_features(given: Mapping[str, Any]) -> list[str]:
    """Return which arguments of a base model may hold images or their features under a name that nobody registered.

    Args: given: its arguments by name, none of them known to carry images.
    """
    return sorted(
        name for name, value in given.items() if name not in TEXT_ARGUMENTS and _holds_floats(value)
    )


def _holds_floats(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        return value.is_floating_point() and value.ndim > 1
    parts = (
        value.values()
        if isinstance(value, Mapping)
        else value
        if isinstance(value, (list, tuple))
        else ()
    )
    return any(_holds_floats(part) for part in parts)


def check_signatures(
    base: nn.Module, decoder: nn.Module, layers: list[nn.Module], features: tuple[str, ...]
) -> None:
    """Check that a model's parts take the arguments that the engine reads, by the names that it knows.

    Args:
        base: the part that merges image features into the text.
        decoder: the text decoder.
        layers: its decoder layers.
        features: names under which the base model may get images; () for a text model.
    Raises: UnsupportedError: a name is not there; the message says which and of which class.
    """
    _check_names(base, ("attention_mask",))
    if features and not set(features) & set(_parameters(base)):
        _refuse(base, f"images as {' or '.join(features)}")
    _check_names(decoder, DECODER_ARGUMENTS)
    for layer in {type(layer): layer for layer in layers}.values():
        _check_names(layer, LAYER_ARGUMENTS)
        if next(iter(_parameters(layer)[1:]), None) != "hidden_states":
            _refuse(layer, "hidden_states first")


def check_argument(module: nn.Module, name: str) -> None:
    """Check that a module's forward takes an argument.

    Raises: UnsupportedError: it does not, by that name.
    """
    if name not in _parameters(module):
        _refuse(module, name)


def _parameters(module: nn.Module) -> tuple[str, ...]:
    return tuple(_signature(type(module).forward).parameters)


def _check_names(module: nn.Module, wanted: tuple[str, ...]) -> None:
    missing = [name for name in wanted if name not in _parameters(module)]
    if _cache_name(type(module).forward) is None:
        missing.append(" or ".join(reversed(CACHE_NAMES)))
    if missing:
        _refuse(module, ", ".join(missing))


def _refuse(module: nn.Module, what: str) -> None:
    raise UnsupportedError(
        f"{type(module).__name__}.forward takes no {what} in transformers {transformers.__version__}, so pruning would "
        f"go wrong; {TESTED_WITH}."
    )


def class_named_by(config: Any) -> str:
    """Return the class of model that a config is for.

    Raises: UnsupportedError: neither the config nor transformers names a class that takes images.
    """
    architectures = getattr(config, "architectures", None)
    name = architectures[0] if architectures else None
    name = name or MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.get(config.model_type)
    if not isinstance(name, str):
        raise UnsupportedError(
            f"a {type(config).__name__} is for no model that takes images and text; give the config "
            "of a vision-language model."
        )
    return name


@functools.cache
def warn_untested() -> None:
    """Say once, as a UserWarning, that the transformers in use is newer than the newest that was tested."""
    release = tuple(int(part) for part in transformers.__version__.split(".")[:2])
    if release > TESTED:
        warnings.warn(
            f"transformers {transformers.__version__} is newer than any that was tried: {TESTED_WITH}, or compare "
            "answers with those of the plain model.",
            stacklevel=3,
        )
