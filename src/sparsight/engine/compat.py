"""Names in transformers: arguments that the engine reads, and names that releases have changed.

Hooks see arguments as the caller wrote them. `name_arguments` returns them under one set of names,
ours; `rename_cache` returns them under the names that a module's own forward takes. Both read the
signature of the forward, once for each class. `check_signatures` looks for every name when a model
is sparsified, so that a missing name is noticed then and never later.

Private details of transformers touched here: names of the arguments of base models, text decoders,
decoder layers and generate(), the field of a model's output that holds the cache, the table that
maps model types to classes, and how a release says its version.
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

CACHE = "cache"  # our name for the argument that holds the cache
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


def name_arguments(
    module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the arguments of a module's forward by name, the cache under the name `CACHE`.

    Raises: UnsupportedError: two different caches are given.
    """
    forward = type(module).forward
    arguments = bind_arguments(_signature(forward), (module, *args), kwargs)
    arguments.pop("self", None)
    check_one_cache(arguments)
    cache = take_cache(arguments, _cache_name(forward))
    by_name = {name: value for name, value in arguments.items() if name not in CACHE_NAMES}
    return by_name if cache is None else {**by_name, CACHE: cache}


def bind_arguments(
    signature: inspect.Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a call's arguments by name, those that the signature takes as **kwargs included."""
    arguments = dict(signature.bind_partial(*args, **kwargs).arguments)
    return {**arguments.pop("kwargs", {}), **arguments}


def check_one_cache(arguments: Mapping[str, Any]) -> None:
    """Check that a call does not give two different caches under two names.

    Raises: UnsupportedError: it does; releases of transformers differ in which of them counts.
    """
    caches = [arguments[name] for name in CACHE_NAMES if arguments.get(name) is not None]
    if len({id(cache) for cache in caches}) > 1:
        raise UnsupportedError(
            f"two different caches are given, as {' and '.join(CACHE_NAMES)}; give one."
        )


def take_cache(arguments: Mapping[str, Any], preferred: str | None = None) -> Any:
    """Return the cache among named arguments; None if there is none.

    Args:
        arguments: by name.
        preferred: name that counts if the cache is given under both names.
    """
    names = CACHE_NAMES if preferred is None else (preferred, *CACHE_NAMES)
    return next((arguments[name] for name in names if arguments.get(name) is not None), None)


def rename_cache(
    module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Return a call's arguments with the cache under the name that a module's forward takes.

    Returns: what a forward pre-hook returns: other arguments, or None if nothing has to be renamed.
    """
    renamed = _rename(kwargs, _cache_name(type(module).forward))
    return None if renamed is None else (args, renamed)


def rename_generate_cache(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the named arguments of generate() with the cache under the name that it takes.

    Raises: UnsupportedError: two different caches are given.
    """
    check_one_cache(kwargs)
    renamed = _rename(kwargs, _generate_name())
    return dict(kwargs) if renamed is None else renamed


def _generate_name() -> str:
    """Return the name under which generate() takes the cache in this release of transformers."""
    return _cache_name(GenerationMixin.prepare_inputs_for_generation) or CACHE


def _rename(kwargs: Mapping[str, Any], name: str | None) -> dict[str, Any] | None:
    """Return named arguments with the cache as `name`; None if nothing has to be renamed."""
    others = [other for other in CACHE_NAMES if other in kwargs and other != name]
    if name is None or name in kwargs or not others:
        return None
    kept = {key: value for key, value in kwargs.items() if key not in others}
    return {**kept, name: kwargs[others[0]]}


def cache_argument(module: nn.Module, cache: Any) -> dict[str, Any]:
    """Return a cache as the keyword argument that a module's forward takes."""
    # the forward of a wrapper may name no argument at all
    return {_cache_name(type(module).forward) or _generate_name(): cache}


def generate_cache_argument(cache: Any) -> dict[str, Any]:
    """Return a cache as the keyword argument that generate() takes."""
    return {_generate_name(): cache}


def output_cache(output: Any) -> Any:
    """Return the cache in what a model or a generate() call returned; None if there is none."""
    if isinstance(output, tuple):
        return next((part for part in output if isinstance(part, Cache)), None)
    fields = vars(output) if hasattr(output, "__dict__") else {}
    return next((fields[name] for name in CACHE_NAMES if fields.get(name) is not None), None)


def find_unknown_features(arguments: Mapping[str, Any]) -> list[str]:
    """Return the names of arguments that may hold images or features, though no family names them.

    Args: arguments: of a base model by name, none of them one that its family lists for images.
    """
    others = arguments.keys() - TEXT_ARGUMENTS
    return sorted(name for name in others if _holds_floats(arguments[name]))


def _holds_floats(value: Any) -> bool:
    """Return whether a value is, or contains, a float tensor of two dimensions or more."""
    if isinstance(value, torch.Tensor):
        return value.is_floating_point() and value.ndim > 1
    if isinstance(value, Mapping):
        return any(_holds_floats(part) for part in value.values())
    return isinstance(value, (list, tuple)) and any(_holds_floats(part) for part in value)


def check_signatures(
    base: nn.Module, decoder: nn.Module, layers: list[nn.Module], features: tuple[str, ...]
) -> None:
    """Check that the forwards of a model's parts take the arguments that the engine reads.

    Args:
        base: the part that merges image features into the text.
        decoder: the text decoder.
        layers: the decoder layers.
        features: names under which the base model may get images; () for a text model.
    Raises: UnsupportedError: an argument is missing; the message names it and the class.
    """
    _check_names(base, ("attention_mask",))
    if features and not set(features) & set(_read_parameters(base)):
        _refuse(base, f"images as {' or '.join(features)}")
    _check_names(decoder, DECODER_ARGUMENTS)
    for layer in {type(layer): layer for layer in layers}.values():  # one of each class
        _check_names(layer, LAYER_ARGUMENTS)
        if next(iter(_read_parameters(layer)[1:]), None) != "hidden_states":
            _refuse(layer, "hidden_states first")


def check_argument(module: nn.Module, name: str) -> None:
    """Check that a module's forward takes an argument.

    Raises: UnsupportedError: no argument has that name.
    """
    if name not in _read_parameters(module):
        _refuse(module, name)


def _read_parameters(module: nn.Module) -> tuple[str, ...]:
    """Return the names of what a module's forward takes, `self` first."""
    return tuple(_signature(type(module).forward).parameters)


def _check_names(module: nn.Module, wanted: tuple[str, ...]) -> None:
    """Check that a module's forward takes the arguments `wanted` and a cache."""
    missing = [name for name in wanted if name not in _read_parameters(module)]
    if _cache_name(type(module).forward) is None:
        missing.append(" or ".join(reversed(CACHE_NAMES)))
    if missing:
        _refuse(module, ", ".join(missing))


def _refuse(module: nn.Module, what: str) -> None:
    raise UnsupportedError(
        f"{type(module).__name__}.forward takes no {what} in transformers "
        f"{transformers.__version__}, so pruning would go wrong; {TESTED_WITH}."
    )


def read_class_name(config: Any) -> str:
    """Return the name of the model class that a config is for.

    Raises: UnsupportedError: neither the config nor transformers names a class that takes images.
    """
    architectures = getattr(config, "architectures", None)
    name = architectures[0] if architectures else None
    name = name or MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.get(config.model_type)
    if not isinstance(name, str):
        raise UnsupportedError(
            f"a {type(config).__name__} is not for a model that takes images and text; give the "
            "config of a vision-language model."
        )
    return name


@functools.cache
def warn_untested() -> None:
    """Warn once if the installed transformers is newer than the newest tested release."""
    release = tuple(int(part) for part in transformers.__version__.split(".")[:2])
    if release > TESTED:
        warnings.warn(
            f"transformers {transformers.__version__} is newer than the newest tested release: "
            f"{TESTED_WITH}, or compare answers with those of the dense model.",
            stacklevel=3,
        )
