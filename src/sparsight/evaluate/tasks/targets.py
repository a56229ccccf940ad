"""Whether a target that a line of answers holds can be compared with an answer. Pure functions."""

from typing import Any

from sparsight.evaluate.tasks.scoring import LETTERS


def is_text(target: Any) -> bool:
    """Return whether a target is a text that is not empty."""
    return isinstance(target, str) and bool(target.strip())


def is_yes_no(target: Any) -> bool:
    """Return whether a target is yes or no."""
    return target in ("yes", "no")


def is_letter(target: Any) -> bool:
    """Return whether a target is the letter of one of four options."""
    return target in ("A", "B", "C", "D")


def is_texts(target: Any) -> bool:
    """Return whether a target is a list of texts that is not empty."""
    if not isinstance(target, list) or not target:
        return False
    return all(isinstance(text, str) for text in target)


def is_of_mmbench(target: Any) -> bool:
    """Return whether a target has options by letter, and one of the letters as its answer."""
    if not isinstance(target, dict) or not isinstance(target.get("options"), dict):
        return False
    options = target["options"]
    if not all(isinstance(text, str) for text in options.values()):
        return False
    return isinstance(target.get("answer"), str) and target["answer"] in options


def is_of_scienceqa(target: Any) -> bool:
    """Return whether a target has a number of choices, and the letter of one as its answer."""
    if not isinstance(target, dict) or type(target.get("choices")) is not int:
        return False
    return target.get("answer") in list(LETTERS[: max(target["choices"], 0)])
