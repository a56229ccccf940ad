"""Two devices that do not exist: CPU tensors that refuse to meet those of another device.

A model split over them is a model with a `device_map`: each layer brings its arguments to its own
device, after every hook that stands before it. Numbers are the CPU's, so results compare bit by
bit.
"""

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only

FIRST, SECOND = torch.device("maia:0"), torch.device("maia:1")
HERE = torch.device("cpu")
LOOKS = {torch.Tensor.device.__get__, torch.Tensor.is_cuda.__get__}
FREE = {
    "to",
    "cpu",
    "copy_",
    "__repr__",
    "__format__",
    "__bool__",
    "__int__",
    "__float__",
    "__index__",
    "item",
    "tolist",
}
INDEX = {"__getitem__", "__setitem__"}


class Elsewhere(torch.Tensor):
    """A CPU tensor that says it is on `place`."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


def at(data, place):
    made = data.detach().as_subclass(Elsewhere)
    made.place = place
    return made


def place_of(x):
    return vars(x).get("place", HERE) if isinstance(x, Elsewhere) else HERE


def plain(x):
    return x.as_subclass(torch.Tensor) if isinstance(x, Elsewhere) else x


def run(func, args, kwargs):
    """Run a function where its tensors are, or fail."""
    name = getattr(func, "__name__", "")
    with torch._C.DisableTorchFunction():
        if func == torch.Tensor.device.__get__:
            return place_of(args[0])
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        places = {place_of(x) for x in tensors if x.ndim or isinstance(x, Elsewhere)}
        if name in INDEX:  # as CUDA does: indices on the CPU are welcome
            places = {place_of(args[0])} | (places - {HERE})
        if len(places) > 1 and name not in FREE:
            raise RuntimeError(f"{name}: tensors on {' and '.join(sorted(map(str, places)))} meet")
        asked = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.device)]
        place = asked[0] if asked else HERE if name == "cpu" else next(iter(places), HERE)
        if name in ("to", "copy_") and not asked:
            place = place_of(
                next((x for x in args[1:] if name == "to" and isinstance(x, torch.Tensor)), args[0])
            )
        args, kwargs = tree_map(
            lambda x: HERE if isinstance(x, torch.device) else plain(x), (args, kwargs)
        )
        result = func(*args, **kwargs)
        if place == HERE:
            return result
        return tree_map_only(torch.Tensor, lambda x: at(x, place), result)


class Places(TorchFunctionMode):
    """Makes new tensors where they are asked for."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


def send(x, place):
    """Bring tensors, in whatever they are packed, to a place."""
    return tree_map_only(torch.Tensor, lambda t: t.to(place), x)


def put(module, place):
    """Put a module's weights at a place; have it bring its arguments there, after all hooks."""
    for part in module.modules():
        for own in (part._parameters, part._buffers):
            for name, value in own.items():
                own[name] = None if value is None else at(value, place)
    forward = module.forward
    module.forward = lambda *args, **kwargs: forward(*send(args, place), **send(kwargs, place))
