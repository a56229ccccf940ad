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
