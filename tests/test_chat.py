"""Several questions about one set of images: what is encoded, computed, rated, left behind."""

from contextlib import contextmanager, nullcontext

import pytest
import torch
from PIL import Image

from sparsight import Chat, SparseVLM, SparseVLMPlus, sparsify
from sparsight.engine.image_memory import remembered_images
from sparsight.errors import BudgetError, InputError, PromptError, SettingError, UnsupportedError
from sparsight.sequence.prompt import read_prompts
from tests.evaluate.test_evaluate import TURNS
from tests.support import tiny, tiny_processor

FIRST, SECOND = "what color is the shape ?", "w30 w31 w32"
METHOD = SparseVLM(retain=12)


@pytest.fixture
def model():
    return tiny.tiny_llava()


@pytest.fixture(scope="module")
def processor():
    return tiny_processor.processor(TURNS)


def picture(seed=0):
    pixels = torch.randint(
        0, 256, (tiny.SIDE, tiny.SIDE, 3), generator=torch.Generator().manual_seed(seed)
    )
    return Image.fromarray(pixels.to(torch.uint8).numpy())


def chat(model, processor, reuse, **more):
    return Chat(model, processor, reuse=reuse, max_new_tokens=4, do_sample=False, **more)


@contextmanager
def passes(module):
    """Collect the lengths of what a module gets."""
    seen = []

    def note(module, args, kwargs):
        given = args[0] if args else kwargs.get("pixel_values", kwargs.get("inputs_embeds"))
        seen.append(given.shape[1])

    handle = module.register_forward_pre_hook(note, with_kwargs=True)
    yield seen
    handle.remove()


@pytest.mark.parametrize(
    "method", [METHOD, SparseVLMPlus(retain=12)], ids=lambda method: type(method).__name__
)
def test_a_later_turn_is_pruned_for_its_own_question(model, processor, method):
    with sparsify(model, method) as run:
        talk = chat(model, processor, "image")
        talk.ask(FIRST, [picture()])
        first = run.trace
        talk.ask(SECOND)
        found = run.trace
        inputs = processor.apply_chat_template(
            talk.messages[:-1],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
        inputs["pixel_values"] = inputs["pixel_values"].double()
        with run.rating(last=5):  # three words and the two of the template
            model.generate(**inputs, max_new_tokens=1, do_sample=False)
        alone = run.trace
        model.generate(**inputs, max_new_tokens=1, do_sample=False)
    kept = []
    for trace in (first, found, alone, run.trace):
        kept.append([site.keep.tolist() for site in trace.samples[0]])
    assert kept[1] == kept[2]
    assert kept[1] != kept[0]
    assert kept[1] != kept[3], "the first question rates as well"


@pytest.mark.parametrize("pruned", [True, False])
def test_without_history_a_later_question_is_as_good_as_a_first(model, processor, pruned):
    with (
        sparsify(model, METHOD) if pruned else nullcontext() as run,
        passes(model.model.vision_tower) as seen,
    ):
        talk = chat(model, processor, "image", history=False)
        said = [talk.ask(FIRST, [picture()]), talk.ask(SECOND), talk.ask(FIRST)]
        assert len(seen) == 1
        kept = [site.keep.tolist() for site in run.trace.samples[0]] if pruned else []
        first = [
            chat(model, processor, "image").ask(question, [picture()])
            for question in (SECOND, FIRST)
        ]
        assert said == [first[1], first[0], first[1]]
        assert kept == ([site.keep.tolist() for site in run.trace.samples[0]] if pruned else [])
    assert len(talk.messages) == 6


def test_without_history_later_images_are_shown_with_the_first_ones(model, processor):
    talk = chat(model, processor, "image", history=False)
    talk.ask(FIRST, [picture()])
    both = chat(model, processor, "image").ask(SECOND, [picture(), picture(1)])
    assert talk.ask(SECOND, [picture(1)]) == both


def test_images_are_encoded_once(model, processor):
    with sparsify(model, METHOD), passes(model.model.vision_tower) as seen:
        talk = chat(model, processor, "image")
        for question, images in ((FIRST, [picture()]), (SECOND, []), (FIRST, [])):
            talk.ask(question, images)
        assert len(seen) == 1
        talk.ask(SECOND, [picture(1)])
        assert len(seen) == 2
    assert "get_image_features" not in vars(model.model)


def test_another_image_of_the_same_size_is_encoded(model, processor, monkeypatch):
    talk, expected = (
        chat(model, processor, "image"),
        chat(model, processor, "image").ask(FIRST, [picture(1)]),
    )
    with monkeypatch.context() as broken:
        broken.setattr(model.model.language_model, "forward", refuse)
        with pytest.raises(ValueError, match="out of memory"):
            talk.ask(FIRST, [picture()])  # encoded, but not answered
    with passes(model.model.vision_tower) as seen:
        assert talk.ask(FIRST, [picture(1)]) == expected
    assert len(seen) == 1


def refuse(*_, **__):
    raise ValueError("out of memory")


@pytest.mark.parametrize(
    "then",
    [
        {"pixel_values": torch.ones(1, 2)},
        {"pixel_values": torch.zeros(1, 3)},
        {"pixel_values": torch.zeros(1, 2).half()},
        {"pixel_values": torch.zeros(1, 2), "layer": -2},
        {"pixel_values": [torch.zeros(1, 2)]},
        {"pixel_values": None},
    ],
)
def test_only_the_same_arguments_are_remembered(then):
    base = torch.nn.Module()
    memory = {}
    calls = []
    base.get_image_features = lambda **given: calls.append(given) or len(calls)
    first = {"pixel_values": torch.zeros(1, 2)}
    with remembered_images(base, memory):
        assert [
            base.get_image_features(**given) for given in (first, first, then, then, first)
        ] == [1, 1, 2, 2, 3]


def test_the_cache_computes_the_new_turn_alone(model, processor):
    with sparsify(model, METHOD), passes(model.model.language_model) as seen:
        talk = chat(model, processor, "cache")
        talk.ask(FIRST, [picture()])
        first = len(seen)
        talk.ask(SECOND)
    assert seen[0] == tiny.VISUAL + 8
    assert seen[first] < 10  # the last answer's end, three words, the template's


@pytest.mark.parametrize(
    "ends", [{}, {"eos_token_id": 2, "forced_eos_token_id": 2}], ids=["cut off", "ended"]
)
@pytest.mark.parametrize("reuse", ["image", "cache"])
def test_an_unpruned_model_says_the_same_with_either_reuse(model, processor, reuse, ends):
    talk = chat(model, processor, reuse, **ends)
    said = [talk.ask(FIRST, [picture()]), talk.ask(SECOND), talk.ask(FIRST)]
    messages, expected = [], []
    for question, images in ((FIRST, [picture()]), (SECOND, []), (FIRST, [])):
        content = [
            *({"type": "image", "image": image} for image in images),
            {"type": "text", "text": question},
        ]
        messages.append({"role": "user", "content": content})
        inputs = processor.apply_chat_template(
            messages,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
        inputs["pixel_values"] = inputs["pixel_values"].double()
        ids = model.generate(**inputs, max_new_tokens=4, do_sample=False, **ends)[
            0, inputs["input_ids"].shape[1] :
        ]
        expected.append(processor.decode(ids, skip_special_tokens=True).strip())
        messages.append({"role": "assistant", "content": [{"type": "text", "text": expected[-1]}]})
    assert said == expected
    assert talk.messages == messages


def test_an_error_leaves_the_conversation_where_it_stood(model, processor):
    with sparsify(model, SparseVLM(retain=12)) as run:
        talk = chat(model, processor, "image")
        talk.ask(FIRST, [picture()])
        before = talk.messages
        broken = chat(model, processor, "image", prefill_chunk_size=4)
        with pytest.raises(UnsupportedError, match="prefill_chunk_size"):
            broken.ask(FIRST, [picture()])
        assert broken.messages == []
        with pytest.raises(ValueError, match="no such file"):
            talk.ask(SECOND, ["no picture"])
        assert talk.messages == before
        talk.ask(SECOND)
        assert run._engine.reader.rating.get() is None
    assert "get_image_features" not in vars(model.model)


def test_refusals(model, processor):
    with pytest.raises(SettingError, match=r"reuse='kv'.*'image' or 'cache'"):
        Chat(model, processor, reuse="kv")
    with pytest.raises(SettingError, match="history=False needs reuse='image'"):
        Chat(model, processor, reuse="cache", history=False)
    with pytest.raises(InputError, match="chat template"):
        Chat(model, tiny_processor.processor(template=None))
    with pytest.raises(UnsupportedError):
        Chat(torch.nn.Linear(2, 2), processor)
    talk = chat(model, processor, "cache")
    talk.ask(FIRST, [picture()])
    with pytest.raises(PromptError, match=r"no new image.*reuse='image'"):
        talk.ask(SECOND, [picture(1)])
    for last in (0, -1, 1.5, "2", None, True):
        with (
            sparsify(model, METHOD) as run,
            pytest.raises(SettingError, match="rating"),
            run.rating(last),
        ):
            pass
    with sparsify(model, SparseVLM(retain=1)), pytest.raises(BudgetError):
        chat(model, processor, "image").ask(FIRST, [picture()])


def test_rating_takes_the_last_real_tokens_behind_the_images():
    visual = torch.tensor([[0, 1, 1, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0, 0]]).bool()
    real = torch.ones_like(visual)
    texts = [prompt.text.tolist() for prompt in read_prompts(visual, real, 2)]
    assert texts == [[5, 6], [5, 6]]
    assert [len(prompt.text) for prompt in read_prompts(visual, real, 9)] == [4, 3]
