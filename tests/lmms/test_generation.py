"""generation_kwargs: what generate() gets, what is said, and what is refused."""

import pytest

from sparsight.errors import SettingError
from sparsight.lmms.generation import cut_answer, read_generation

DEFAULTS = {"max_new_tokens": 128, "num_beams": 1, "do_sample": False}


def read(**given):
    return read_generation(given, 128)


def test_nothing_given_is_greedy():
    assert read().options == DEFAULTS
    assert read(max_new_tokens=None, until=None, temperature=None).options == DEFAULTS


@pytest.mark.parametrize(
    ("given", "note"),
    [
        ({"temperature": 0, "top_p": 1.0, "do_sample": False, "num_beams": 1}, None),
        ({"temperature": 0.0, "top_p": 0, "top_k": 1, "seed": 0}, None),
        ({"temperature": 0.2, "do_sample": False}, "temperature=0.2 without do_sample"),
        ({"temperature": 0.7}, "temperature=0.7 without do_sample"),
        ({"do_sample": True}, "without a temperature above 0"),
        ({"do_sample": True, "temperature": 0}, "without a temperature above 0"),
    ],
)
def test_greedy_unless_both_are_said(given, note):
    generation = read(**given)
    assert generation.options == DEFAULTS
    assert (note is None) == (not generation.notes)
    assert note is None or note in generation.notes[0]


def test_drawing():
    options = read(do_sample=True, temperature=0.5).options
    drawing = {"do_sample": True, "temperature": 0.5, "top_p": 1, "top_k": 0}
    assert options == DEFAULTS | drawing
    options = read(do_sample=True, temperature=0.5, top_p=0.9, top_k=20).options
    assert options == DEFAULTS | drawing | {"top_p": 0.9, "top_k": 20}


def test_what_changes_answers_is_passed_on():
    given = {"max_new_tokens": 16, "num_beams": 3, "repetition_penalty": 1.2, "length_penalty": 0.5}
    assert read(**given).options == DEFAULTS | given


def test_keys_of_other_models_are_named():
    generation = read(image_aspect_ratio="pad", max_agentic_steps=8)
    assert generation.options == DEFAULTS
    assert generation.notes == ("image_aspect_ratio='pad' belongs to other models and is ignored",)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"logit_bias": {}, "best_of": 2}, "hold best_of, logit_bias, which"),
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"max_new_tokens": "many"}, "max_new_tokens='many'"),
        ({"num_beams": 1.5}, r"num_beams=1\.5"),
        ({"temperature": -1}, "temperature=-1"),
        ({"temperature": "hot"}, "temperature='hot'"),
        ({"temperature": float("nan"), "do_sample": True}, "temperature=nan"),
        ({"do_sample": "no"}, "do_sample='no'"),
        ({"do_sample": True, "temperature": 1, "top_p": 0}, "top_p=0"),
        ({"do_sample": True, "temperature": 1, "seed": 3}, "--seed"),
        ({"repetition_penalty": True}, "repetition_penalty=True"),
        ({"repetition_penalty": 0}, "repetition_penalty=0"),
        ({"no_repeat_ngram_size": 2.5}, r"no_repeat_ngram_size=2\.5"),
        ({"min_new_tokens": 5.5}, r"min_new_tokens=5\.5"),
        ({"min_new_tokens": 9, "max_new_tokens": 5}, "min_new_tokens=9 is more than"),
        ({"do_sample": True, "temperature": 1, "top_k": 0.5}, r"top_k=0\.5"),
        ({"until": 3}, "until=3"),
        ({"until": ["a", 3]}, "until="),
    ],
)
def test_what_is_refused(given, says):
    with pytest.raises(SettingError, match=says):
        read(**given)


def test_stops():
    assert read(until=["\n\n", "Q:", ""], stop_sequences="Q:").stops == ("\n\n", "Q:")
    assert read(until="</s>").stops == ("</s>",)
    assert read(until=[]).stops == ()
    assert read(until="\n\n").stops == ("\n\n",)


def test_what_lmms_eval_fills_in_cuts_no_answer():
    generation = read(until=["\n\n"])
    assert generation.stops == ()
    assert "fills in" in generation.notes[0]


@pytest.mark.parametrize(
    ("text", "stops", "answer"),
    [
        (" a red fish ", (), "a red fish"),
        ("red\n\nblue", ("\n\n",), "red"),
        ("\n\nred\n\nblue", ("\n\n",), "red"),
        ("red Q: blue ASSISTANT: green", ("ASSISTANT:", "Q:"), "red"),
        ("Q: red", ("Q:",), ""),
        (" \n", ("\n",), ""),
    ],
)
def test_answers_are_cut(text, stops, answer):
    assert cut_answer(text, stops) == answer
