"""The guard before generate(): refuses by name what cannot be pruned, before the images are encoded.

Hooks see one forward pass; these options only show in the call. The guard is an attribute of the model's instance,
removed with the hooks. Private detail of transformers touched here: names of fields of the generation config.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import nn

from sparsight.engine import Engine
from sparsight.errors import UnsupportedError
from sparsight.passes import drop_passes

REFUSED = {
    "assistant_model": "candidate tokens would rate the image",
    "prompt_lookup_num_tokens": "candidate tokens would rate the image",
    "use_mtp": "candidate tokens would rate the image",
    "assistant_early_exit": "candidate tokens would rate the image",
    "prefill_chunk_size": "a chunk may hold an image without its question",
    "penalty_alpha": "contrastive search needs remote code",
    "dola_layers": "DoLa needs remote code",
    "custom_generate": "a custom loop may not prefill once",
    "cache_implementation": "only the dynamic cache can be shortened layer by layer",
}
ALLOWED = {"cache_implementation": ("dynamic", "dynamic_full")}


def guard_generate(model: nn.Module, engine: Engine) -> Callable[[], None]:
    """Check every call of `model.generate` first.

    Returns: a function that takes the guard off again.
    """
    if not hasattr(model, "generate"):
        return lambda: None
    plain: Callable[..., Any] = getattr(model, "generate")  # noqa: B009 - a module's attribute has no known type

    @wraps(plain)
    def generate(*args: Any, **kwargs: Any) -> Any:
        check_call(model, engine, args, kwargs)
        try:
            return plain(*args, **kwargs)
        finally:
            drop_passes(engine)

    own = vars(model).get("generate")
    vars(model)["generate"] = generate

    def remove() -> None:
        if own is None:
            vars(model).pop("generate", None)
        else:
            vars(model)["generate"] = own

    return remove


def check_call(model: nn.Module, engine: Engine, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Check the options and the budget of one generate() call, and announce its images.

    Raises:
        UnsupportedError: an option that is not supported.
        BudgetError: the budget does not fit a sample's visual tokens.
    """
    second = args[1] if len(args) > 1 and not isinstance(args[1], torch.Tensor) else None  # Janus has its mask there
    config = kwargs.get("generation_config") or second or vars(model)["generation_config"]
    for name, reason in REFUSED.items():
        value = kwargs.get(name, getattr(config, name, None))
        if value is not None and value is not False and value not in ALLOWED.get(name, ()):
            raise UnsupportedError(f"generate({name}={_short(value)}) is not supported by sparsify: {reason}.")
    if kwargs.get("use_cache", getattr(config, "use_cache", True)) is False:
        raise UnsupportedError("generate(use_cache=False) is not supported: each step would prune a longer prompt.")
    ids = kwargs.get("input_ids", kwargs.get("inputs", args[0] if args else None))
    if isinstance(ids, torch.Tensor) and engine.brings_images(kwargs):
        sizes = {name: kwargs[name].cpu() for name in engine.family.sizes if kwargs.get(name) is not None}
        engine.expect(ids.cpu(), {**kwargs, **sizes})


def _short(value: object) -> str:
    return repr(value) if isinstance(value, (str, int, float)) else type(value).__name__
