"""The text of an answer as its tokens come: what is held back, and where it ends."""

import pytest

from sparsight.serve.server.answers import Answer

END = 0


def answer(pieces, stops=(), most=50):
    """Pieces that were sent, and the answer; a piece is the text of one token."""
    grown = Answer(lambda tokens: "".join(pieces[at - 1] for at in tokens), {END}, most, stops)
    sent = []
    for token in [*range(1, len(pieces) + 1), END]:
        sent.append(grown.add(token))
        if grown.reason is not None:
            break
    return sent, grown


def test_white_space_around_it_is_left_out():
    sent, grown = answer(["\n ", "a", " ", " b", " ", "\n"])
    assert sent == ["", "a", "", "  b", "", "", ""]
    assert (grown.reason, grown.count) == ("stop", 7)


def test_it_ends_at_its_length():
    sent, grown = answer(["a", "b", "c"], most=2)
    assert (sent, grown.reason, grown.count) == (["a", "b"], "length", 2)


def test_half_a_character_waits_for_its_rest():
    whole = "\u20ac"
    made = Answer(lambda tokens: {1: "a\ufffd", 2: f"a{whole}"}.get(len(tokens), ""), {END}, 50, ())
    assert [made.add(7), made.add(8)] == ["a", whole]
    broken = Answer(lambda _: "a\ufffd", {END}, 1, ())
    assert broken.add(7) == "a\ufffd"


@pytest.mark.parametrize(
    ("stops", "want"),
    [
        (["cd"], ["a", "b", "", ""]),
        (["bcx"], ["a", "", "", "bcd", "e", ""]),
        (["d", "b"], ["a", ""]),
        (["a"], [""]),
        (["e!"], ["a", "b", "c", "d", "", "e"]),
    ],
)
def test_what_may_become_a_stop_text_waits(stops, want):
    sent, grown = answer(list("abcde"), stops)
    assert sent == want
    assert grown.reason == "stop"


def test_a_tokenizer_that_changes_what_it_wrote_repeats_nothing():
    texts = {1: "a .", 2: "a.", 3: "a. b"}
    grown = Answer(lambda tokens: texts[len(tokens)], {END}, 3, ())
    assert [grown.add(7) for _ in range(3)] == ["a .", "", ""]
