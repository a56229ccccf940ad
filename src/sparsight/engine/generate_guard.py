"""The guard of generate(): refuses options that cannot be pruned, before images are encoded.

Hooks see one forward pass, but these options appear only in the call of generate(). The guard is an
attribute of the model's instance and is removed with the hooks. Private details of transformers
touched here: names of generate()'s arguments and of GenerationConfig's fields, that generate()
takes unset fields from model.generation_config, and the methods that batch continuously.
"""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
import transformers
from torch import nn
from transformers import GenerationConfig, GenerationMixin

from sparsight.engine.cache import has_ledger
from sparsight.engine.compat import CACHE, bind_arguments, rename_generate_cache, take_cache
from sparsight.engine.hooks import Engine
from sparsight.engine.passes import drop_passes, find_pass, open_pass
from sparsight.errors import TESTED_WITH, UnsupportedError

REFUSED = {
    "use_mtp": "extra layers draft from hidden states that are not there",
    "speculation_type": "it drafts from hidden states of every token of the prompt",
    "assistant_early_exit": "it drafts with the model's first layers, on a cache of its own",
    "prefill_chunk_size": "a chunk may hold an image without its question",
    "penalty_alpha": "contrastive search needs remote code",
    "dola_layers": "DoLa needs remote code",
    "custom_generate": "a custom loop may not prefill once",
    "cache_implementation": "only the dynamic cache can be shortened layer by layer",
}
# values of these options that can be pruned all the same; transformers takes "hybrid" for dynamic
ALLOWED = {"cache_implementation": ("dynamic", "dynamic_full", "hybrid")}
BATCHING = ("generate_batch", "init_continuous_batching")
DRAFTED = ("assistant_model", "prompt_lookup_num_tokens")


def guard_generate(model: nn.Module, engine: Engine) -> Callable[[], None]:
    """Put a guard on the model that checks each generate() call and refuses continuous batching.

    Returns: a function that removes the guard.
    """
    if not hasattr(model, "generate"):
        return _remove_nothing
    _check_names(model)
    plain: Callable[..., Any] = getattr(model, "generate")  # noqa: B009 - a module's attribute has no known type
    signature = inspect.signature(plain)

    @wraps(plain)
    def generate(*args: Any, **kwargs: Any) -> Any:
        outer = find_pass(engine)
        if not engine.attached:  # a copy of the model, made inside the block, has this guard too
            return plain(*args, **kwargs)
        kwargs = rename_generate_cache(kwargs)
        arguments = bind_arguments(signature, args, kwargs)
        check_call(model, engine, {**arguments, CACHE: take_cache(arguments)})
        try:
            return plain(*args, **kwargs)
        finally:
            drop_passes(engine)
            if outer is not None and outer.announced is not None:
                open_pass(outer)  # a model that drafts for itself calls generate() in generate()

    guards = {"generate": generate, **dict.fromkeys(BATCHING, _refuse_batching)}
    before = {name: vars(model)[name] for name in guards if name in vars(model)}
    vars(model).update(guards)

    def remove() -> None:
        for name in guards:
            vars(model).pop(name, None)
        vars(model).update(before)

    return remove


def _remove_nothing() -> None:
    """Do nothing, for a model that has no generate()."""


def _check_names(model: nn.Module) -> None:
    """Check that every option that is refused exists, so that a renamed option is not missed.

    Raises: UnsupportedError: this release of transformers has no option of that name, or the model
    has no generation config.
    """
    fields = vars(GenerationConfig())  # type: ignore[no-untyped-call]
    options = {*inspect.signature(GenerationMixin.generate).parameters, *fields}
    missing = sorted({*REFUSED, *DRAFTED, "use_cache"} - options)
    missing += [f"{name}()" for name in BATCHING if not hasattr(GenerationMixin, name)]
    if missing:
        raise UnsupportedError(
            f"transformers {transformers.__version__} knows no {', '.join(missing)} for "
            f"generate(), so sparsight cannot refuse what it must; {TESTED_WITH}."
        )
    if vars(model).get("generation_config") is None:
        raise UnsupportedError(
            f"{type(model).__name__} has no generation_config; load it with from_pretrained()."
        )


def _refuse_batching(*_: Any, **__: Any) -> Any:
    raise UnsupportedError(
        "continuous batching is not supported by sparsify: its paged cache is one row of many "
        "prompts; call generate()."
    )


def check_call(model: nn.Module, engine: Engine, arguments: dict[str, Any]) -> None:
    """Check the options and the budget of one generate() call, and announce its images.

    Args:
        model: whose generate() is called.
        engine: of the model.
        arguments: of the call, by name.

    Raises:
        UnsupportedError: an option is not supported.
        BudgetError: the budget does not fit a sample's visual tokens.
    """
    for name, reason in REFUSED.items():
        value = _read_option(model, arguments, name)
        if value is not None and value is not False and value not in ALLOWED.get(name, ()):
            raise UnsupportedError(
                f"generate({name}={_shorten(value)}) is not supported by sparsify: {reason}."
            )
    # as an argument, None switches the cache off; in a generation config it is not set
    cached = _read_option(model, arguments, "use_cache")
    if not cached and ("use_cache" in arguments or cached is not None):
        raise UnsupportedError(
            "generate(use_cache=False) is not supported: each step would prune a longer prompt."
        )
    images = engine.reader.brings_images(arguments)
    for name in DRAFTED:
        value = _read_option(model, arguments, name)
        if value is not None:
            _check_drafting(f"{name}={_shorten(value)}", engine, arguments, images=images)
    if images:
        _announce(engine, arguments)


def _read_option(model: nn.Module, arguments: dict[str, Any], name: str) -> Any:
    """Return what an option of a generate() call is set to; None if it is not set.

    An argument counts before the call's generation config, and that before the model's own.
    """
    if name in arguments:
        return arguments[name]
    for config in (arguments.get("generation_config"), vars(model)["generation_config"]):
        value = getattr(config, name, None)
        if value is not None:
            return value
    return None


def _announce(engine: Engine, arguments: dict[str, Any]) -> None:
    """Have the engine plan a generate() call that brings images and token ids."""
    ids = arguments.get("input_ids", arguments.get("inputs"))
    if not isinstance(ids, torch.Tensor):
        return
    sizes = {
        name: arguments[name].cpu()
        for name in engine.parts.family.sizes
        if arguments.get(name) is not None
    }
    engine.expect(ids.cpu(), {**arguments, **sizes})


def _check_drafting(
    option: str, engine: Engine, arguments: dict[str, Any], *, images: bool
) -> None:
    """Check that drafted candidate tokens can be removed from the cache again.

    Args:
        option: that asks for drafting, with its value.
        engine: of the model.
        arguments: of the generate() call, by name.
        images: whether the call brings images.
    Raises: UnsupportedError: layers slide or attend both ways, or the cache holds tokens already.
    """
    name = engine.parts.family.name
    if engine.inputs.slides or not engine.parts.family.causal:
        raise UnsupportedError(
            f"generate({option}) is not supported for {name}: candidate tokens cannot be taken "
            "back from a sliding window, nor from a block that attends both ways; leave it out."
        )
    cache = arguments.get(CACHE)
    if has_ledger(cache) or (images and cache is not None and int(cache.get_seq_length())):
        raise UnsupportedError(
            f"generate({option}) is not supported in a later turn: transformers drafts wrongly on "
            "a cache that holds tokens; leave it out."
        )


def _shorten(value: object) -> str:
    """Return a value for a message: itself if it is short, else its type."""
    return repr(value) if isinstance(value, (str, int, float)) else type(value).__name__
