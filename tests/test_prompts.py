"""How a prompt is built: one BOS token, images first, and every loss refused by its cause."""

import re

import numpy as np
import pytest
import torch
from PIL import Image

from sparsight import Chat, SparseVLM, sparsify
from sparsight.errors import InputError
from sparsight.evaluate.asking import Examiner
from sparsight.inputs import check_question, prompt_inputs, user_message
from tests.support import tiny, tiny_processor

QUESTION = "what color is the shape ?"
RED = (255, 0, 0)
BOS = 1


@pytest.fixture(scope="module")
def model():
    return tiny.tiny_llava(dtype=torch.float32)


@pytest.fixture(scope="module")
def processor():
    return tiny_processor.processor()


def squares(count):
    return [Image.new("RGB", (tiny.SIDE, tiny.SIDE), RED)] * count


@pytest.mark.parametrize("begins", [False, True], ids=["template", "template and tokenizer"])
def test_the_first_token_stands_once(model, begins):
    processor = tiny_processor.processor(tiny_processor.BEGINS, begins)
    written = processor.apply_chat_template(
        [user_message(QUESTION, squares(1))], add_generation_prompt=True
    )
    twice = processor(images=squares(1), text=written)["input_ids"][0]
    assert twice[:2].count(BOS) == 1 + begins, "what the two steps do, which nothing here takes"
    ids = prompt_inputs(model, processor, [user_message(QUESTION, squares(1))])["input_ids"][
        0
    ].tolist()
    assert (ids[0], ids.count(BOS)) == (BOS, 1)


def test_a_tokenizer_that_begins_alone_is_left_to_it(model):
    for template in (tiny_processor.TEMPLATE, None):
        ids = prompt_inputs(
            model, tiny_processor.processor(template, True), [user_message(QUESTION, squares(1))]
        )
        assert ids["input_ids"][0].tolist().count(BOS) == 1


def test_later_turns_begin_nothing(model):
    """A template that marks the first turn alone is rendered anew for a later turn."""
    odd = "{{- bos_token -}}{{- messages | length -}}" + tiny_processor.TEMPLATE
    talk = Chat(
        model, tiny_processor.processor(odd, True), reuse="cache", max_new_tokens=2, eos_token_id=0
    )
    talk.ask(QUESTION, squares(1))
    before = talk._sequence.shape[1]
    talk.ask(QUESTION)
    assert BOS not in talk._sequence[0, before:].tolist()
    assert talk._sequence[0].tolist().count(BOS) == 1


def words(processor, inputs):
    return processor.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0])


def test_every_caller_builds_the_same_prompt(model, processor, monkeypatch, tmp_path):
    """Chat, ask and eval: images first, and the same tokens and pixels."""
    from sparsight.cli import ask as cli

    image, seen = Image.new("RGB", (60, 40), RED), []
    image.save(tmp_path / "red.png")
    monkeypatch.setattr(
        type(model), "generate", lambda _, **given: seen.append(given) or given["input_ids"]
    )
    with pytest.raises(AttributeError):  # the answer of this `generate` is no output
        Chat(model, processor).ask(QUESTION, [image])
    monkeypatch.setattr(cli, "load_model", lambda *_: (model, processor))
    monkeypatch.setattr(
        cli, "answer_sparse", lambda _, __, inputs, *more: seen.append(inputs) or more[9]
    )
    with pytest.raises(IndexError):
        cli.ask(
            [str(tmp_path / "red.png")],
            QUESTION,
            SparseVLM(retain=12),
            model=None,
            device=torch.device("cpu"),
            dtype=None,
            max_new_tokens=1,
            runs=1,
            picture=None,
            as_json=True,
        )
    seen.append(Examiner(model, processor, 1)._build_inputs([image], QUESTION, None))
    assert words(processor, seen[0])[: tiny.VISUAL + 1] == ["<image>"] * tiny.VISUAL + ["what"]
    for other in seen[1:]:
        assert torch.equal(other["input_ids"], seen[0]["input_ids"])
        assert torch.equal(other["pixel_values"], seen[0]["pixel_values"])
    assert len(seen) == 3


def test_a_chat_takes_what_a_file_holds(model, processor, tmp_path):
    values = np.random.default_rng(0).integers(0, 65536, (tiny.SIDE, tiny.SIDE), dtype=np.uint16)
    image = Image.fromarray(values)
    image.save(tmp_path / "deep.png")
    with sparsify(model, SparseVLM(retain=12)):
        chats = [Chat(model, processor, max_new_tokens=2) for _ in range(4)]
        answers = {
            talk.ask(QUESTION, given)
            for talk, given in zip(
                chats, (image, [image], values, tmp_path / "deep.png"), strict=True
            )
        }
    assert len(answers) == 1
    shown = [np.asarray(talk.messages[0]["content"][0]["image"]) for talk in chats]
    assert all(np.array_equal(one, shown[0]) for one in shown)
    assert len(np.unique(shown[0])) > 100, "not white"


def test_answers_without_a_chat_template(model):
    processor = tiny_processor.processor(template=None)
    found = words(processor, prompt_inputs(model, processor, [user_message(QUESTION, squares(2))]))
    assert found[:2] == ["USER", ":"]
    assert found[-2:] == ["ASSISTANT", ":"]
    assert found.count("<image>") == 2 * tiny.VISUAL
    with pytest.raises(InputError, match="several turns needs one"):
        prompt_inputs(model, processor, [user_message(QUESTION, [])] * 2)


@pytest.mark.parametrize(
    ("question", "part"),
    [
        ("", "question is empty"),
        (" \n", "question is empty"),
        (None, "question is of type NoneType; give a str"),
        (["what"], "question is of type list"),
        ("what is <image> ?", "'<image>', which stands for an image or a video"),
    ],
)
def test_questions_are_checked_before_anything_runs(model, processor, monkeypatch, question, part):
    monkeypatch.setattr(type(processor), "__call__", lambda *_, **__: pytest.fail("it runs"))
    talk = Chat(model, processor)
    with pytest.raises(InputError, match=part):
        talk.ask(question, squares(1))
    assert talk.messages == []


def test_placeholders_of_a_processor_are_known():
    class Gemma:
        image_token, boi_token = "<image_soft_token>", "<start_of_image>"

    for token in ("<image_soft_token>", "<start_of_image>"):
        with pytest.raises(InputError, match=re.escape(token)):
            check_question(f"what is {token}", Gemma())
    check_question("what is <image>", Gemma())


@pytest.mark.parametrize(
    ("template", "images", "settings", "part"),
    [
        ("{{- '<image> what' -}}", 2, {}, "a place for 1 of 2 images"),
        (
            "{{- raise_exception('turns must alternate') -}}",
            1,
            {},
            "no prompt of this .*turns must alternate",
        ),
        (tiny_processor.TEMPLATE, 1, {"truncation": True, "max_length": 9}, "truncation would cut"),
        (tiny_processor.TEMPLATE, 1, {"text_kwargs": {"truncation": True}}, "truncation would cut"),
        (
            {"rag": tiny_processor.TEMPLATE},
            1,
            {},
            r"chat templates \(rag\), but none named default",
        ),
        (tiny_processor.TEMPLATE, 1, {"padding": "odd"}, "no prompt of this .*odd"),
    ],
)
def test_prompts_that_lose_something_are_refused_by_their_cause(
    model, template, images, settings, part
):
    processor = tiny_processor.processor(template)
    with pytest.raises(InputError, match=part):
        prompt_inputs(model, processor, [user_message(QUESTION, squares(images))], settings)


@pytest.mark.parametrize(
    ("ids", "images", "part"),
    [
        ([5, 6], 2, r"no place for its images \(2\): the processor's chat template writes none"),
        ([tiny.IMAGE, 5], 0, "holds places of images, but no image was given"),
    ],
)
def test_prompts_of_processors_that_do_not_count_are_checked(model, ids, images, part):
    class Careless:
        chat_template = "odd"

        @staticmethod
        def apply_chat_template(*_, tokenize, **__):
            return {"input_ids": torch.tensor([ids])} if tokenize else "no places"

    with pytest.raises(InputError, match=part):
        prompt_inputs(model, Careless(), [user_message(QUESTION, squares(images))])


def test_lists_of_tensors_move_and_other_things_stay(model):
    class Lists:
        chat_template = "odd"

        @staticmethod
        def apply_chat_template(*_, tokenize, **__):
            ids, pixels = torch.tensor([[tiny.IMAGE, 5]]), [torch.zeros(3, dtype=torch.float64)]
            return (
                {"input_ids": ids, "pixel_values": pixels, "names": ["a"], "none": None}
                if tokenize
                else ""
            )

    found = prompt_inputs(model, Lists(), [user_message(QUESTION, squares(1))])
    assert set(found) == {"input_ids", "pixel_values"}
    assert found["pixel_values"][0].dtype == torch.float32


def test_a_prompt_longer_than_the_positions_is_refused(model, processor, monkeypatch):
    monkeypatch.setattr(model.config.text_config, "max_position_embeddings", 40)
    with pytest.raises(
        InputError,
        match=r"prompt has 44 tokens, but the model has positions for 40; give a shorter question",
    ):
        prompt_inputs(model, processor, [user_message(QUESTION, squares(1))])
    prompt_inputs(model, processor, [user_message("what", squares(1))])
    model.config.text_config.rope_parameters["rope_type"] = "yarn"
    try:
        prompt_inputs(model, processor, [user_message(QUESTION, squares(1))])
    finally:
        model.config.text_config.rope_parameters["rope_type"] = "default"


def test_batches(model, processor):
    rows = [[user_message(QUESTION, squares(count))] for count in (1, 2)]
    found = prompt_inputs(model, processor, rows, {"padding": True})
    assert found["input_ids"].shape[0] == 2
    assert found["pixel_values"].shape[0] == 3
