"""A question in front of its image cannot rate it: refused, or a warning where unsure."""

import warnings

import pytest
import torch

from sparsight import SparseVLM, SparseVLMPlus, sparsify
from sparsight.errors import PromptError, RaterWarning
from sparsight.methods import Uniform
from sparsight.sequence.question import SpecialIds, check_questions, read_special_ids
from tests.support import tiny, tiny_rotary

# of a turn, and of an image
START = 90
END = 91
VISION_END = 92
IMAGE = 3
BOS = 1
PAD = 0
MARKS = SpecialIds(frozenset({START, END, VISION_END, IMAGE, BOS, PAD}), frozenset({END}))
PICTURE, WORDS = [IMAGE] * 4, [*range(20, 30)]
CHAT_TAIL = [
    END,
    5,
    START,
    6,
    5,
]  # <|im_end|>, a line break, <|im_start|>, "assistant", a line break
PLAIN_TAIL = [7, 8, 9, 10, 11]  # "ASSISTANT:"


def look(row, marks=MARKS, rating=None):
    ids = torch.tensor([row])
    check_questions(ids, ids == IMAGE, marks, rating)


@pytest.mark.parametrize(
    "row",
    [
        [BOS, START, *PICTURE, VISION_END, *WORDS, *CHAT_TAIL],
        [
            BOS,
            START,
            12,
            *WORDS,
            END,
            START,
            12,
            *PICTURE,
            VISION_END,
            20,
            *CHAT_TAIL,
        ],  # one word, a system prompt
        [BOS, *PICTURE, *WORDS, *PLAIN_TAIL],
        [BOS, 12, 13, *PICTURE, 14, 20, *PLAIN_TAIL],  # "USER:", image, a line break, one word
        [BOS, *WORDS, *WORDS, *WORDS, *PICTURE, 14, 20, *PLAIN_TAIL],  # a long system prompt
        [BOS, *PICTURE, VISION_END, END, START, *WORDS],  # nobody closes the last turn
        [BOS, *WORDS, *CHAT_TAIL],  # no image
        [PAD, PAD, PAD, BOS, 12, *PICTURE, *WORDS, *PLAIN_TAIL],
        [*[-1] * 20, BOS, 12, *PICTURE, 20, 21, *PLAIN_TAIL],  # padding that no config names
        [
            BOS,
            *WORDS,
            END,
            START,
            12,
            13,
            *PICTURE,
            20,
            *CHAT_TAIL,
        ],  # few words, but more than the turn's head
        [BOS, START, *WORDS, *PICTURE, *CHAT_TAIL, *WORDS, *WORDS],  # an answer has begun
    ],
    ids=str,
)
def test_images_first_pass_without_a_word(row):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        look(row)


@pytest.mark.parametrize(
    "row",
    [
        [BOS, START, *WORDS, *PICTURE, VISION_END, *CHAT_TAIL],
        [BOS, START, *WORDS, *PICTURE, *CHAT_TAIL],
        [BOS, START, *WORDS, *PICTURE, VISION_END, END],
        [BOS, *WORDS, *PICTURE, PAD, PAD],
        [BOS, *WORDS, *PICTURE, -1, -1],  # candidates of assisted decoding are no question
    ],
    ids=str,
)
def test_a_question_in_front_is_refused(row):
    with pytest.raises(
        PromptError,
        match=r"sample 0: no (words|text) follows? the last image"
        r".*put the image before its question",
    ):
        look(row)


def test_a_question_in_front_of_a_template_without_ends_is_told():
    with pytest.warns(
        RaterWarning,
        match=r"5 tokens follow the last image and 10 stand before it.*put the image before",
    ):
        look([BOS, *WORDS, *PICTURE, *PLAIN_TAIL])


@pytest.mark.parametrize(
    "row",
    [
        [BOS, START, *WORDS, *PICTURE, VISION_END, 5, *CHAT_TAIL],  # a line break behind the image
        [BOS, START, *WORDS, *PICTURE, 88, 5, *CHAT_TAIL],  # a mark that no config names
        [BOS, START, *WORDS, *PICTURE, *CHAT_TAIL, *WORDS[:5]],  # the answer's first words
    ],
    ids=str,
)
def test_marks_behind_an_image_are_no_question(row):
    with pytest.warns(RaterWarning, match="put the image before its question"):
        look(row)


def test_only_what_may_rate_counts():
    row = [
        BOS,
        START,
        *PICTURE,
        VISION_END,
        *WORDS,
        END,
        START,
        6,
        20,
        21,
        END,
        START,
        12,
        22,
        *CHAT_TAIL,
    ]
    look(row, rating=len([START, 12, 22, *CHAT_TAIL]))
    with pytest.raises(PromptError, match="no words follow"):
        look(row, rating=len(CHAT_TAIL))


@pytest.mark.parametrize("method", [SparseVLM(retain=0.5), SparseVLMPlus(retain=0.5)], ids=repr)
@pytest.mark.parametrize("generate", [False, True], ids=["forward", "generate"])
def test_refused_before_an_image_is_encoded(monkeypatch, method, generate):
    model = tiny.tiny_llava()
    inputs = tiny.batch([["image"]]).inputs
    inputs["input_ids"] = torch.cat(
        [torch.tensor([[1, 20, 21, 22]]), inputs["input_ids"][:, 1:], torch.tensor([[2]])], 1
    )
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    model.config.text_config.eos_token_id = 2
    monkeypatch.setattr(
        model.model, "get_image_features", lambda *_, **__: pytest.fail("an image was encoded")
    )
    with (
        sparsify(model, method),
        pytest.raises(PromptError, match="no words follow the last image"),
    ):
        model.generate(**inputs, max_new_tokens=2) if generate else model(**inputs)


def test_methods_that_read_no_question_do_not_mind():
    model = tiny.tiny_llava()
    inputs = tiny.batch([["image"]]).inputs
    with torch.no_grad(), sparsify(model, Uniform(retain=0.5)) as run:
        model(**inputs)
        assert run.stats.mean_visual_tokens == 18
    with torch.no_grad(), sparsify(model, SparseVLM(retain=1.0)):
        model(**inputs)


def test_a_model_names_its_marks(monkeypatch):
    model = tiny_rotary.model("qwen25")
    monkeypatch.setattr(model.config.text_config, "eos_token_id", [2, 9])
    marks = read_special_ids(model, model.config)
    assert marks.special >= {tiny_rotary.IMAGE, tiny_rotary.START, tiny_rotary.END, 2, 9}
    assert marks.ends >= {2, 9}
