"""Reads what a judge replied. Pure functions; a reply that cannot be read gives None."""

import ast
import json
import math
import re
from typing import Any

BRACES = re.compile(r"\{[^{}]*\}")
NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?![\w.]*\w)")
NO_MARK = re.compile(  # a negative number, or the number of an entry of a list
    r"[-\u2012\u2013\u2212]\d|^[\s>*_#(+-]*\d+[.)][*_]*[ \t]+\S", re.MULTILINE
)
HIGHEST = 5  # score of a video answer
LONGEST = 2000  # characters of a reply that are read


def mark_verdict(reply: str, target: str = "") -> list[float] | None:
    """Return yes (1) or no (0), and the score from 0 to 5, of a video answer.

    Source: Maaz et al., "Video-ChatGPT", ACL 2024, arXiv 2306.05424: yes wins where both words
        occur, and a score is cut to an integer.
    Differs: a reply that cannot be read is no answer; their scripts ask again without end.

    Args:
        reply: holds a dictionary with `pred` and `score`, of Python or JSON.
        target: not read.
    """
    del target
    for text in reversed(BRACES.findall(reply[:LONGEST])):
        found = _read_dictionary(text)
        said = None if found is None else _read_yes(found.get("pred"))
        score = None if found is None else _read_score(found.get("score"))
        if said is not None and score is not None:
            return [said, score]
    return None


def _read_dictionary(text: str) -> dict[str, Any] | None:
    for read in (ast.literal_eval, json.loads):
        try:
            found = read(text)
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            continue
        if isinstance(found, dict):
            return found
    return None


def _read_yes(value: Any) -> float | None:
    """Return 1 for yes or True, 0 for no or False."""
    if isinstance(value, bool):
        return float(value)
    if not isinstance(value, str):
        return None
    if "yes" in value.lower():
        return 1.0
    return 0.0 if "no" in value.lower() else None


def _read_score(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    if isinstance(value, bool) or not math.isfinite(number) or not 0 <= number <= HIGHEST:
        return None
    return float(int(number))


def mark_similarity(reply: str, target: str = "") -> float | None:
    """Return the score from 0 to 1 that a judge gave an answer of MM-Vet: the only such number.

    A reply with a negative number or a numbered list cannot be read.

    Source: Yu et al., "MM-Vet", ICML 2024, arXiv 2308.02490.

    Args:
        reply: holds the number.
        target: not read.
    """
    del target
    text = reply[:LONGEST]
    if NO_MARK.search(text):
        return None
    numbers = {float(number) for number in NUMBER.findall(text)}
    fitting = [number for number in numbers if 0 <= number <= 1]
    return fitting[0] if len(fitting) == 1 == len(numbers) else None
