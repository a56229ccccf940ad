"""Finds a method of the user's own, named as `my_file.py:NormTopK` or `my_module:NormTopK`."""

import importlib
import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType

from sparsight.errors import SettingError
from sparsight.methods.method import Method, check_declarations


def is_own(words: list[str]) -> bool:
    """Return whether the parts of a name between colons begin with a file or module and a class."""
    return len(words) > 1 and "=" not in words[1] and words[1].strip().isidentifier()


def load_own(where: str, name: str) -> type[Method]:
    """Return a class of the user's own.

    Args:
        where: a file that ends with .py, or a module that Python can import.
        name: of the class.
    Raises: SettingError: there is no such file, module or class, importing it fails, or the class
        is no method.
    """
    module = _load_file(Path(where)) if where.endswith(".py") else _import(where)
    found = getattr(module, name, None)
    if not inspect.isclass(found) or not issubclass(found, Method):
        kind = "no such class" if found is None else "no subclass of sparsight.Method by that name"
        raise SettingError(f"{where} has {kind}, {name!r}; it has {_list_methods(module)}.")
    if inspect.isabstract(found):
        raise SettingError(f"{name} of {where} has no select(); a method needs one.")
    check_declarations(found)
    return found


def _load_file(path: Path) -> ModuleType:
    """Return a file as a module, which is run once however often it is named."""
    if not path.is_file():
        raise SettingError(f"{path} is no file; give the path of a Python file, or a module.")
    name = f"sparsight_own_{path.stem}_{abs(hash(path.resolve()))}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise SettingError(f"{path} cannot be read as a Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # a script may end itself
        del sys.modules[name]
        raise SettingError(_explain(str(path), error)) from error
    return module


def _import(name: str) -> ModuleType:
    """Return a module by its name; the working folder is looked at too."""
    if not all(part.isidentifier() for part in name.split(".")):
        raise SettingError(f"{name!r} is no file that ends with .py, and no module's name.")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise SettingError(_explain(name, error)) from error
    finally:
        sys.path.remove(here)


def _explain(where: str, error: BaseException) -> str:
    return f"{where} cannot be imported: {type(error).__name__}: {error}".rstrip(".") + "."


def _list_methods(module: ModuleType) -> str:
    """Return the names of the methods that a module defines, for a message."""
    names = [
        name
        for name, value in vars(module).items()
        if inspect.isclass(value)
        and issubclass(value, Method)
        and value.__module__ == module.__name__
    ]
    return ", ".join(names) or "no method"
