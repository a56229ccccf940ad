"""Which words guide the choice among an image's tokens. Needs no vLLM."""

import pytest

from sparsight.errors import PromptError
from sparsight.serve.vllm.guides import find_guides, find_mark, split_turns

IMAGE, END = 3, 2
MARK = (40, 41)


def guides(ids, mark=MARK):
    return find_guides(ids, IMAGE, mark, frozenset({1, IMAGE, END}), frozenset({END}))


def test_the_mark_is_what_a_template_adds():
    assert find_mark(lambda opened: [1, 20, 21, *([40, 41] if opened else [])]) == MARK
    # a space in front of the mark may be a token of its own where nothing follows
    assert find_mark(lambda opened: [1, 20, 40, 41] if opened else [1, 20, 99]) == MARK
    assert find_mark(lambda opened: [1, 20]) == ()


def test_turns_end_with_the_mark():
    assert split_turns([1, 20, 40, 41, 7, 8], MARK) == [(1, 20, 40, 41), (7, 8)]
    assert split_turns([1, 20, 40, 41], MARK) == [(1, 20, 40, 41)]
    assert split_turns([40, 20, 41], MARK) == [(40, 20, 41)]
    assert split_turns([1, 20], ()) == [(1, 20)]


def test_the_guide_is_the_text_behind_the_images_of_the_turn():
    assert guides([1, 9, IMAGE, 20, 21, *MARK]) == [(20, 21, *MARK)]
    two = [1, IMAGE, 9, IMAGE, 20, 21, *MARK]
    assert guides(two) == [(20, 21, *MARK)] * 2


def test_the_guide_stays_when_the_conversation_goes_on():
    first = [1, IMAGE, 20, 21, *MARK]
    later = [*first, 30, END, 50, 51, *MARK]
    assert guides(later) == guides(first)
    again = [*later, 31, END, IMAGE, 60, 61, *MARK]
    assert guides(again) == [*guides(first), (60, 61, *MARK)]


def test_without_a_mark_the_guide_goes_to_the_end():
    assert guides([1, IMAGE, 20, 21, 22], mark=()) == [(20, 21, 22)]


@pytest.mark.parametrize("ids", [[1, 20, 21, 22, IMAGE, END], [1, 20, IMAGE], [IMAGE]])
def test_an_image_without_words_behind_it_is_refused(ids):
    with pytest.raises(PromptError, match="follow"):
        guides([*ids, *MARK] if END in ids else ids)


def test_a_prompt_without_images_has_no_guides():
    assert guides([1, 20, 21, *MARK]) == []
