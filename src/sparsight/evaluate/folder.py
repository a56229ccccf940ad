"""What the folders of all evaluations have in common: run.json, which says what they are of."""

import hashlib
import inspect
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from sparsight.errors import InputError
from sparsight.methods.method import Method

RUN = "run.json"
RESULTS = "results.json"
KIND = "kind"  # of the evaluation; one without it is of a suite of scenes
SCENES = "scenes"
GROWING = ("methods", "tasks")  # may be added while an evaluation is continued


def describe_method(method: Method | None) -> str:
    """Return a method with its settings, and with the hash of its file if it is an own one.

    An own method can change between two runs without changing its name or settings.
    """
    kind = type(method)
    if method is None or kind.__module__.startswith("sparsight."):
        return repr(method)
    try:
        source = Path(inspect.getfile(kind)).read_bytes()
    except (OSError, TypeError):  # written in a notebook, or at a prompt
        return repr(method)
    return f"{method!r} of a file with SHA-256 {hashlib.sha256(source).hexdigest()[:16]}"


def read_description(folder: Path, answers: str) -> dict[str, Any] | None:
    """Return the description that a folder's answers were made with; None for a new folder.

    Args:
        folder: of the evaluation.
        answers: pattern of the names of its files of answers.

    Raises:
        InputError: the description is missing or damaged, or cannot be read.
    """
    path = folder / RUN
    if not path.exists():
        if any(folder.glob(answers)):
            raise InputError(
                f"{folder} holds answers without a {RUN} that says whose; give another --out."
            )
        return None
    try:
        description: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return {**description, "methods": dict(description["methods"])}
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}).") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} is damaged ({error}); give another --out.") from error


def check_same(folder: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Check that two descriptions agree in everything but methods and tasks that only one has.

    Raises:
        InputError: they do not.
    """
    kinds = [one.get(KIND, SCENES) for one in (before, now)]
    if kinds[0] != kinds[1]:
        raise InputError(
            f"{folder} holds an evaluation of {kinds[0]}, not of {kinds[1]}; give another --out."
        )
    differences = []
    for name in {**before, **now}:
        if name not in GROWING and before.get(name) != now.get(name):
            differences.append(f"{name} {before.get(name)!r} there, {now.get(name)!r} now")
    for name in GROWING:
        for key, value in now.get(name, {}).items():
            earlier = before.get(name, {}).get(key, value)
            if earlier != value:
                differences.append(f"{key} {earlier} there, {value} now")
    if differences:
        raise InputError(
            f"{folder} holds another evaluation ({'; '.join(differences)}); give another --out."
        )


def write_whole(path: Path, document: dict[str, Any]) -> None:
    """Write a JSON document whole or not at all: to a new file that then replaces the old one."""
    text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
    new = path.with_name(path.name + ".new")
    try:
        # a path that is no UTF-8 has characters that JSON escapes in the same way
        new.write_text(text, encoding="utf-8", errors="backslashreplace")
        new.replace(path)
    except OSError:
        with suppress(OSError):
            new.unlink()
        raise
