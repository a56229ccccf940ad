"""Answers over HTTP equal those of `sparsify` and generate(), alone, in batches and in streams."""

import pytest
import torch

from sparsight import sparsify
from sparsight.inputs import count_last_turn, prompt_inputs, read_image, user_message
from sparsight.methods import DivPrune, SparseVLM
from sparsight.serve.joining import Prompt, join
from tests.support import server, tiny, tiny_rotary
from tests.support.footprint import essence
from tests.support.server import (
    QUESTION,
    answer,
    asks,
    counted,
    events,
    picture,
    post,
    rest,
    streamed,
)

LONG = "what color is the shape what shape is the color ?"
CHOICES = {
    "dense": (None, {"method": "dense"}),
    "sparsevlm": (SparseVLM(retain=12), {"method": "sparsevlm", "retain": 12}),
    "divprune": (DivPrune(retain=0.25), {"method": "divprune", "retain": 0.25}),
}


@pytest.fixture(scope="module")
def pair():
    return server.tiny_pair()


@pytest.fixture(scope="module")
def twin():
    """The same model once more: that of the server may still be sparsified."""
    return server.tiny_pair()


@pytest.fixture(scope="module")
def service(pair):
    with server.serving(*pair) as running:
        yield running


def offline(pair, messages, method, length=6):
    """The answer without any server."""
    model, processor = pair
    inputs = prompt_inputs(model, processor, messages)

    def generate():
        tokens = model.generate(**inputs, max_new_tokens=length, do_sample=False)
        new = tokens[0, inputs["input_ids"].shape[1] :]
        return processor.decode(new, skip_special_tokens=True).strip()

    if method is None:
        return generate()
    with sparsify(model, method) as run:
        if len(messages) == 1:
            return generate()
        with run.rating(count_last_turn(processor, messages)):
            return generate()


def message(text, *urls):
    return user_message(text, [read_image(url) for url in urls])


@pytest.mark.parametrize("name", CHOICES)
def test_alone_in_a_batch_and_streamed_as_offline(twin, service, name):
    method, field = CHOICES[name]
    first, second = picture(10), picture(160, (30, 70))
    prompts = [(QUESTION, [first]), (LONG, [second]), (QUESTION, [second]), (LONG, [first])]
    want = [offline(twin, [message(text, *urls)], method) for text, urls in prompts]
    assert len(set(want)) > 1
    bodies = [asks(*urls, text=text, sparsight=field) for text, urls in prompts]
    alone = [answer(post(service, body)[0]) for body in bodies]
    assert alone == want

    before = counted(service, "sparsight_batch_size_count")
    mixed = [bodies[0], {**bodies[1], "stream": True}, bodies[2], {**bodies[3], "stream": True}]
    replies = post(service, *mixed)
    assert [
        read(reply) for reply, read in zip(replies, [answer, streamed] * 2, strict=True)
    ] == want
    assert counted(service, "sparsight_batch_size_count") - before < len(bodies)


def test_several_images_and_several_turns(twin, service):
    urls = picture(10), picture(160, (30, 70)), picture(60)
    method, field = CHOICES["sparsevlm"]
    two = post(service, asks(*urls[:2], sparsight=field))[0]
    assert answer(two) == offline(twin, [message(QUESTION, *urls[:2])], method)
    assert two.json()["sparsight"]["visual_tokens"] == 72

    turns = [server.turn(QUESTION, urls[2]), server.turn("w40 w41", role="assistant")]
    turns.append(server.turn(LONG))
    sent = post(service, asks(sparsight=field, messages=turns))[0]
    told = [{"type": "text", "text": "w40 w41"}]
    earlier = [message(QUESTION, urls[2]), {"role": "assistant", "content": told}]
    assert answer(sent) == offline(twin, [*earlier, message(LONG)], method)


def test_text_alone_is_answered_and_never_pruned(twin, service):
    sent = post(service, asks(), asks(sparsight={"method": "fastv", "retain": 4}))
    want = offline(twin, [message(QUESTION)], None)
    assert [answer(reply) for reply in sent] == [want, want]
    assert sent[0].json()["sparsight"]["method"] == "dense"


def test_the_reply_tells_what_was_pruned_and_counted(service):
    reply = post(service, asks(picture(), sparsight={"method": "uniform", "retain": 9}))[0].json()
    cost = reply["sparsight"]
    assert cost.pop("prefill_flops_share") < 0.6
    assert cost == {
        "method": "uniform",
        "retain": 9,
        "visual_tokens": 36,
        "visual_tokens_entering": 9,
    }
    assert reply["usage"]["completion_tokens"] == 6
    assert reply["usage"]["prompt_tokens"] > 36
    assert reply["choices"][0]["finish_reason"] == "length"
    dense = post(service, asks(picture(), sparsight={"method": "dense"}))[0].json()["sparsight"]
    assert dense["prefill_flops_share"] == 1
    assert dense["visual_tokens_entering"] == 36


def test_costs_of_a_batch_are_those_of_each_row(service):
    field = {"method": "sparsevlm", "retain": 12}
    bodies = [asks(picture(10), sparsight=field), asks(picture(60), text=LONG, sparsight=field)]
    alone = [post(service, body)[0].json()["sparsight"] for body in bodies]
    together = [reply.json()["sparsight"] for reply in post(service, *bodies)]
    assert together == alone
    assert alone[0] != alone[1]


def test_one_token_is_not_everything(service):
    """In Python 1 == 1.0, so that requests for both must not fall into one batch."""
    fields = [{"method": "divprune", "retain": retain} for retain in (1, 1.0)]
    replies = post(service, *[asks(picture(), sparsight=field) for field in fields] * 2)
    kept = [reply.json()["sparsight"]["visual_tokens_entering"] for reply in replies]
    assert kept == [1, 36, 1, 36]


def test_a_stream_has_its_chunks(service):
    body = asks(picture(), stream=True, stream_options={"include_usage": True})
    first, *middle, last, usage = events(post(service, body)[0])
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert len(middle) > 1
    assert last["choices"][0]["finish_reason"] == "length"
    assert last["sparsight"]["method"] == "sparsight"
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 6
    assert {event["id"] for event in [first, *middle, last]} == {usage["id"]}


def test_a_seed_gives_its_answer_again_in_any_company(service):
    warm = asks(picture(), temperature=1.5, top_p=0.9, seed=7, max_tokens=12)
    alone = answer(post(service, warm)[0])
    rest(service)
    state = torch.get_rng_state()
    others = [asks(picture(20)), {**warm, "seed": 8}, asks(picture(40))]
    replies = post(service, others[0], warm, *others[1:], warm)
    assert [answer(replies[at]) for at in (1, 4)] == [alone, alone]
    assert answer(replies[2]) != alone
    rest(service)
    assert torch.equal(torch.get_rng_state(), state)
    drawn = {answer(reply) for reply in post(service, *[{**warm, "seed": None}] * 3)}
    assert len(drawn) > 1


def test_stop_texts_end_an_answer(service):
    words = answer(post(service, asks(picture()))[0]).split()
    stop = words[3]
    want = " ".join(words[: words.index(stop)])
    for body in (asks(picture(), stop=stop), asks(picture(), stop=["nothing", stop])):
        reply = post(service, body)[0]
        assert answer(reply) == want
        assert reply.json()["choices"][0]["finish_reason"] == "stop"
        assert streamed(post(service, {**body, "stream": True})[0]) == want


def test_every_method_is_served_or_refused_in_the_library_s_words(pair, service):
    from sparsight.methods import methods

    bodies = [
        asks(picture(), max_tokens=1, sparsight={"method": m.name, "retain": 0.5})
        for m in methods()
    ]
    replies = post(service, *bodies)
    assert {reply.status_code for reply in replies} == {200, 400}
    refused = {reply.json()["error"]["message"] for reply in replies if reply.status_code == 400}
    assert all(
        "not supported" in text or "is out of range" in text or "video" in text for text in refused
    ), refused
    assert sum(reply.status_code == 200 for reply in replies) > 20


def test_the_model_is_left_as_it_was(pair, service):
    post(service, asks(picture(), max_tokens=1))
    rest(service)
    before = essence(pair[0])
    post(service, *[asks(picture(at), sparsight={"retain": 5 + at % 2}) for at in range(4)])
    rest(service)
    assert essence(pair[0]) == before


def test_prompts_of_other_shapes_are_no_group():
    ids = {"input_ids": torch.ones(1, 4, dtype=torch.long)}
    small, large = (
        Prompt({**ids, "pixel_values": torch.zeros(1, 3, side, side)}, 4, 1, None, None, 5)
        for side in (4, 8)
    )
    listed = Prompt({**ids, "pixel_values": [torch.zeros(3, 4, 4)]}, 4, 1, None, None, 5)
    assert len({small.group, large.group, listed.group}) == 3


@pytest.mark.parametrize("kind", ["qwen25", "qwen3", "gemma3"])
def test_prompts_are_joined_as_a_processor_pads_them(kind):
    made = tiny_rotary.batch(kind, tiny_rotary.rows(kind), torch.float32)
    prompts = [
        Prompt(inputs, inputs["input_ids"].shape[1], 1, None, None, 5) for inputs in made.alone
    ]
    joined = join(prompts, tiny.PAD)
    assert joined.keys() == made.inputs.keys()
    for name, value in made.inputs.items():
        assert torch.equal(joined[name], value), name
