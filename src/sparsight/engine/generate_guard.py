"""The guard before generate(): refuses by name what cannot be pruned, before the images are encoded.

Hooks see one forward pass; these options only show in the call. The guard is an attribute of the
model's instance, removed with the hooks. Private details of transformers touched here: names of
fields of the generation config, and that of the model's own config filling what the given one
leaves open.
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
from sparsight.engine.compat import CACHE, arguments, spelled_for_generate, take_cache
from sparsight.engine.hooks import Engine
from sparsight.engine.passes import current_pass, drop_passes, open_pass
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
ALLOWED = {
    "cache_implementation": ("dynamic", "dynamic_full", "hybrid")
}  # transformers takes "hybrid" for dynamic
BATCHING = ("generate_batch", "init_continuous_batching")
DRAFTED = ("assistant_model", "prompt_lookup_num_tokens")


def guard_generate(model: nn.Module, engine: Engine) -> Callable[[], None]:
    """Check every call of `model.generate` first, and refuse continuous batching.

    Returns: a function that takes the guard off again.
    """
    if not hasattr(model, "generate"):
        return lambda: None
    _check_names(model)
    plain: Callable[..., Any] = getattr(model, "generate")  # noqa: B009 - a module's attribute has no known type
    signature = inspect.signature(plain)

    @wraps(plain)
    def generate(*args: Any, **kwargs: Any) -> Any:
        outer = current_pass(engine)
        if not engine.attached:  # of a copy that was made inside the block
            return plain(*args, **kwargs)
        kwargs = spelled_for_generate(kwargs)
        given = arguments(signature, args, kwargs)
        check_call(model, engine, {**given, CACHE: take_cache(given)})
        try:
            return plain(*args, **kwargs)
        finally:
            drop_passes(engine)
            if outer is not None and outer.announced is not None:
                open_pass(outer)  # a model that drafts for itself generates within generate()

    guards = {"generate": generate, **dict.fromkeys(BATCHING, _refuse_batching)}
    own = {name: vars(model)[name] for name in guards if name in vars(model)}
    vars(model).update(guards)

    def remove() -> None:
        for name in guards:
            vars(model).pop(name, None)
        vars(model).update(own)

    return remove


def _check_names(model: nn.Module) -> None:
    """Check that every option that is refused exists, so that a renamed one cannot go past.

    Raises: UnsupportedError: generate() or the generation config of this transformers knows one of
    them no more.
    """
    options = vars(GenerationConfig())  # type: ignore[no-untyped-call]
    known = {*inspect.signature(GenerationMixin.generate).parameters, *options}
    gone = sorted({*REFUSED, *DRAFTED, "use_cache"} - known)
    gone += [f"{name}()" for name in BATCHING if not hasattr(GenerationMixin, name)]
    if gone:
        raise UnsupportedError(
            f"transformers {transformers.__version__} knows no {', '.join(gone)} for generate(), so sparsight cannot "
            f"refuse what it must; {TESTED_WITH}."
        )
    if vars(model).get("generation_config") is None:
        raise UnsupportedError(
            f"{type(model).__name__} has no generation_config; load it with from_pretrained()."
        )


def _refuse_batching(*_: Any, **__: Any) -> Any:
    raise UnsupportedError(
        "continuous batching is not supported by sparsify: its paged cache is one row of many prompts; call generate()."
    )


def check_call(model: nn.Module, engine: Engine, given: dict[str, Any]) -> None:
    """Check the options and the budget of one generate() call, and announce its images.

    Args: given: arguments of the call, by name.

    Raises:
        UnsupportedError: an option that is not supported.
        BudgetError: the budget does not fit a sample's visual tokens.
    """
    configs = [given.get("generation_config"), vars(model)["generation_config"]]

    def option(name: str) -> Any:
        if name in given:
            return given[name]
        return next(
            (value for value in (getattr(own, name, None) for own in configs) if value is not None),
            None,
        )

    for name, reason in REFUSED.items():
        value = option(name)
        if value is not None and value is not False and value not in ALLOWED.get(name, ()):
            raise UnsupportedError(
                f"generate({name}={_short(value)}) is not supported by sparsify: {reason}."
            )
    cached = given["use_cache"] if "use_cache" in given else option("use_cache")
    if not cached and ("use_cache" in given or cached is not None):
        raise UnsupportedError(
            "generate(use_cache=False) is not supported: each step would prune a longer prompt."
        )
    images = engine.reader.brings_images(given)
    for name in DRAFTED:
        if option(name) is not None:
            _check_drafted(f"{name}={_short(option(name))}", engine, given, images=images)
    ids = given.get("input_ids", given.get("inputs"))
    if isinstance(ids, torch.Tensor) and images:
        sizes = {
            name: given[name].cpu()
            for name in engine.parts.family.sizes
            if given.get(name) is not None
        }
        engine.expect(ids.cpu(), {**given, **sizes})


def _check_drafted(what: str, engine: Engine, given: dict[str, Any], *, images: bool) -> None:
    """Check that candidate tokens can be told from the prompt, and taken back from the cache.

    Raises: UnsupportedError: they cannot.
    """
    if engine.inputs.slides or not engine.parts.family.causal:
        reason = "candidate tokens cannot be taken back from a sliding window, nor from a block that sees itself"
        raise UnsupportedError(
            f"generate({what}) is not supported for {engine.parts.family.name}: {reason}; leave it out."
        )
    cache = given.get(CACHE)
    if has_ledger(cache) or (images and cache is not None and int(cache.get_seq_length())):
        reason = "transformers drafts wrongly on a cache that holds tokens"
        raise UnsupportedError(
            f"generate({what}) is not supported in a later turn: {reason}; leave it out."
        )


def _short(value: object) -> str:
    return repr(value) if isinstance(value, (str, int, float)) else type(value).__name__
