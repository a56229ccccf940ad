"""Everything of a model that hosting could touch, to be compared before and after."""

HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
)
OWN = ("rope_deltas",)  # what models with M-RoPE note on themselves in every prefill


def snapshot(model):
    """Return hooks, attribute ids, classes and forwards of all modules, and both configs."""
    seen = {}
    for name, module in model.named_modules(remove_duplicate=False):
        own = vars(module)
        seen[name] = {
            "class": type(module),
            "attributes": {
                key: id(value) for key, value in own.items() if key not in HOOKS and key not in OWN
            },
            "hooks": {kind: list(own.get(kind, ())) for kind in HOOKS},
            "forward": getattr(module.forward, "__func__", None) or id(module.forward),
            "config": id(own.get("config")),
        }
    seen["generation_config"] = str(model.generation_config.to_dict())
    seen["config"] = str(model.config.to_dict())
    return seen


# ---- models that tests share

SHARED = []


def share(model, name):
    """Return a model that tests share, and note what it is for `altered`."""
    SHARED.append((name, model, essence(model)))
    return model


def altered():
    """Return the names of shared models that are no longer what they were."""
    return [name for name, model, before in SHARED if essence(model) != before]


def essence(model):
    """Return classes, forwards, modes, weights, added hooks and configs of a model.

    transformers puts hooks of its own on some modules when a model runs first; those are left out.
    """
    seen = {"config": str(model.config.to_dict())}
    seen["generation_config"] = str(model.generation_config.to_dict())
    for name, module in model.named_modules(remove_duplicate=False):
        own = vars(module)
        hooks = [hook for kind in HOOKS for hook in own.get(kind, {}).values()]
        seen[name] = {
            "class": type(module),
            "training": module.training,
            "forward": own.get("forward"),
            "hooks": [hook for hook in hooks if not comes_with_the_model(hook)],
            "weights": [
                (id(part), part._version)  # torch counts changes in place
                for part in own["_parameters"].values()
                if part is not None
            ],
        }
    return seen


def comes_with_the_model(hook):
    """Whether a hook is one that transformers or torch put there."""
    home = getattr(hook, "__module__", None) or type(hook).__module__
    return home.split(".")[0] in ("transformers", "torch")
