"""Reads a task's `generation_kwargs`: what generate() gets, and where an answer is cut.

Tasks are written for many models. They hold keys of other models, and keys that contradict each
other, such as `temperature: 0.2` beside `do_sample: false`. What has an effect is applied; what
belongs to others is named in a note; what is not known is refused, as it may change answers.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sparsight.errors import SettingError
from sparsight.lmms.arguments import read_count, read_flag

STOPS = ("until", "stop_sequences")
DRAWN = ("top_p", "top_k", "seed")  # without effect on greedy decoding
PASSED = ("repetition_penalty", "length_penalty", "no_repeat_ngram_size", "min_new_tokens")
APPLIED = ("max_new_tokens", "do_sample", "temperature", "num_beams", *DRAWN, *PASSED, *STOPS)
OTHERS = ("image_aspect_ratio",)  # of models whose images are cut up by their own code
WHOLE = ("min_new_tokens", "no_repeat_ngram_size", "top_k")  # counts
FRAMEWORK = ("max_agentic_steps",)  # read by lmms-eval itself
FILLED_IN = ["\n\n"]  # `until`, written by lmms-eval 0.7.3 where a task names no text that ends it


@dataclass(frozen=True)
class Generation:
    """How the answers of a group of questions are generated.

    Args:
        options: arguments of generate().
        stops: texts in front of which an answer ends.
        notes: what a task asks for and does not get, a sentence each.
    """

    options: Mapping[str, Any]
    stops: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())


def read_generation(given: Mapping[str, Any], most: int) -> Generation:
    """Return how answers are generated.

    Args:
        given: the task's `generation_kwargs`; a value of None counts as not given.
        most: new tokens where the task does not say.

    Raises: SettingError: a key is not known, or its value not allowed.
    """
    values = {name: value for name, value in given.items() if value is not None}
    unknown = sorted(set(values) - {*APPLIED, *OTHERS, *FRAMEWORK})
    if unknown:
        raise SettingError(
            f"the task's generation_kwargs hold {', '.join(unknown)}, which --model sparsight does "
            f"not know and which may change answers; it knows {', '.join(APPLIED)}."
        )
    draws, notes = _read_drawing(values)
    if values.get("until") == FILLED_IN:
        del values["until"]
        notes.append(
            "until=['\\n\\n'] is what lmms-eval fills in where a task names no text that ends an "
            "answer, and is not applied"
        )
    notes += [
        f"{name}={values[name]!r} belongs to other models and is ignored"
        for name in OTHERS
        if name in values
    ]
    options = {
        "max_new_tokens": read_count("max_new_tokens", values.get("max_new_tokens", most)),
        "num_beams": read_count("num_beams", values.get("num_beams", 1)),
        **draws,
        **{name: _read_number(name, values[name]) for name in PASSED if name in values},
    }
    if options.get("min_new_tokens", 0) > options["max_new_tokens"]:
        raise SettingError(
            f"min_new_tokens={options['min_new_tokens']} is more than "
            f"max_new_tokens={options['max_new_tokens']}; give no more."
        )
    return Generation(options, _read_stops(values), tuple(notes))


def _read_drawing(values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the arguments that say how tokens are drawn, and notes on contradictions.

    Tokens are drawn only where the task says both do_sample and a temperature above 0.
    """
    temperature = _read_number("temperature", values.get("temperature", 0))
    asked = read_flag("do_sample", values.get("do_sample", False))
    if not asked or temperature == 0:
        notes = []
        if asked:
            notes = ["do_sample=True without a temperature above 0 is decoded greedily"]
        elif temperature:
            notes = [f"temperature={temperature:g} without do_sample is decoded greedily"]
        return {"do_sample": False}, notes
    if "seed" in values:
        raise SettingError(
            f"generation_kwargs seed={values['seed']!r} is not supported where tokens are drawn; "
            "give lmms-eval --seed."
        )
    top_p = _read_number("top_p", values.get("top_p", 1))
    if not 0 < top_p <= 1:
        raise SettingError(f"top_p={top_p:g} is not allowed; give a share in (0, 1].")
    top_k = _read_number("top_k", values.get("top_k", 0))
    draws = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": top_k}
    return draws, []


def _read_number(name: str, value: Any) -> float:
    """Return a number of 0 or more, as it is.

    Raises: SettingError: the value is none.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value < 0:
        raise SettingError(f"{name}={value!r} is not allowed; give a number of 0 or more.")
    if name in WHOLE and value != int(value):
        raise SettingError(f"{name}={value!r} is not allowed; give a whole number.")
    if name == "repetition_penalty" and not value:
        raise SettingError(f"{name}={value!r} is not allowed; give a number above 0.")
    checked: float = int(value) if name in WHOLE else value
    return checked


def _read_stops(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the texts that end an answer; an empty one ends none."""
    stops: list[str] = []
    for name in STOPS:
        given = values.get(name, [])
        texts = [given] if isinstance(given, str) else given
        if not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in texts):
            raise SettingError(f"{name}={given!r} is not allowed; give a text or a list of them.")
        stops += [text for text in texts if text and text not in stops]
    return tuple(stops)


def find_end(text: str, stops: Sequence[str]) -> int | None:
    """Return where the first text that ends an answer begins; None where there is none.

    White space in front of the answer ends nothing, even where a stop text is a line break.
    """
    start = len(text) - len(text.lstrip())
    places = [text.find(stop, start) for stop in stops]
    return min((place for place in places if place >= 0), default=None)


def cut_answer(text: str, stops: Sequence[str]) -> str:
    """Return an answer up to the first text that ends it, without white space around it."""
    return text[: find_end(text, stops)].strip()
