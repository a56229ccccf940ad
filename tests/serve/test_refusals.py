"""What cannot be done is refused by name, with the right status, as OpenAI's errors look."""

import json

import numpy as np
import pytest
from PIL import Image

from sparsight.serve.server.settings import Limits
from tests.support import server
from tests.support.server import CHAT, QUESTION, answer, asks, data_url, encode, get, picture, post


@pytest.fixture(scope="module")
def service():
    limits = Limits(
        body_bytes=200_000, pixels=100_000, images=3, tokens=20, text=2_000, body_seconds=0.5
    )
    with server.serving(*server.tiny_pair(), limits=limits) as running:
        yield running


def refused(reply, status, *parts, param=None):
    """The status, and an error that holds all of `parts`."""
    assert reply.status_code == status, reply.text
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    for part in parts:
        assert part in error["message"], error
    assert param is None or error["param"] == param, error


WRONG_BODIES = [
    (b"", "no JSON"),
    (b"{", "no JSON"),
    (b"[]", "give an object"),
    (b"null", "give an object"),
    (b"\xff\xfe{}", "no JSON"),
    (b'{"model": NaN}', "no JSON"),
    (b'{"model": "\\ud800"}', "no JSON"),
    (b"[" * 5_000, "no JSON"),
    (b'{"seed": ' + b"9" * 5_000 + b"}", ""),
]


@pytest.mark.parametrize(("body", "part"), WRONG_BODIES)
def test_no_json(service, body, part):
    refused(post(service, body)[0], 400, part)


WRONG_FIELDS = [
    ({"tools": [{"type": "function"}]}, "tools is not supported", "tools"),
    ({"logprobs": True}, "logprobs is not supported", "logprobs"),
    ({"n": 2}, "n is not supported", "n"),
    ({"n": True}, "n is not supported", "n"),
    ({"audio": {"voice": "x"}}, "audio is not supported", "audio"),
    ({"response_format": {"type": "json_object"}}, "response_format is not", "response_format"),
    ({"frequency_penalty": 0.5}, "frequency_penalty is not", "frequency_penalty"),
    ({"top_k": 3}, "top_k is not", "top_k"),
    ({"max_token": 3}, "max_token is not supported", "max_token"),
    ({"temperature": "1"}, "temperature", "temperature"),
    ({"temperature": -1}, "temperature", "temperature"),
    ({"temperature": 1e-30}, "give 0, or 0.001 to 2", "temperature"),
    ({"top_p": 0}, "top_p", "top_p"),
    ({"seed": 1.5}, "seed", "seed"),
    ({"seed": 2**70}, "seed", "seed"),
    ({"stream": "yes"}, "stream", "stream"),
    ({"stream_options": {"include_usage": True}}, "stream=true", "stream_options"),
    ({"stop": ""}, "stop", "stop"),
    ({"stop": ["a"] * 5}, "stop", "stop"),
    ({"stop": [1]}, "stop", "stop.0"),
    ({"max_tokens": 0}, "max_tokens", "max_tokens"),
    ({"max_tokens": True}, "max_tokens", "max_tokens"),
    ({"max_tokens": 21}, "this server allows 20", None),
    ({"max_completion_tokens": 5}, "not both", "max_tokens"),
    ({"messages": []}, "messages", "messages"),
    ({"messages": "what"}, "messages", "messages"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role", "messages.0.role"),
    ({"messages": [{"role": "user"}]}, "messages.0.content is missing", "messages.0.content"),
    ({"messages": [{"role": "user", "content": 7}]}, "messages.0.content", "messages.0.content"),
    ({"messages": [{"role": "user", "content": " "}]}, "needs words", "messages.0"),
    ({"messages": [{"role": "user", "content": "a", "name": "b"}]}, "messages.0.name", None),
    ({"messages": [{"role": "user", "content": "what <image>"}]}, "stands for an image", None),
    ({"messages": [server.turn(role="assistant")]}, "must be the user's", "messages"),
    (
        {"messages": [server.turn(), server.turn(role="system"), server.turn()]},
        "a system turn must be the first",
        "messages.1",
    ),
    ({"messages": [server.turn("w5 " * 700)]}, "characters; 2000 are allowed", None),
    ({"messages": [server.turn("w5 " * 600)]}, "model has positions for 512", None),
    ({"model": None}, "model is missing", "model"),
    ({"sparsight": "sparsevlm"}, "sparsight", "sparsight"),
    ({"sparsight": {"mehtod": "x"}}, "sparsight.mehtod is not", "sparsight.mehtod"),
    ({"sparsight": {"method": "x"}}, "method 'x' is not known; choose one of dense,", "sparsight"),
    ({"sparsight": {"method": "own.py:Own"}}, "is not known; choose", "sparsight"),
    ({"sparsight": {"method": "os:system"}}, "is not known; choose", "sparsight"),
    ({"sparsight": {"method": "dense", "retain": 3}}, "leave retain", "sparsight"),
    ({"sparsight": {"retain": 0}}, "retain=0", "sparsight"),
    ({"sparsight": {"retain": 1.5}}, "retain=1.5", "sparsight"),
    ({"sparsight": {"retain": True}}, "retain=True is no number", "sparsight"),
    ({"sparsight": {"retain": "64"}}, "retain='64' is no number", "sparsight"),
    ({"sparsight": {"settings": {"x": 1}}}, "setting 'x' is not known", "sparsight"),
    ({"sparsight": {"settings": {"retain": 1}}}, "setting 'retain' is not known", "sparsight"),
    (
        {"sparsight": {"method": "sparsevlm", "settings": {"tau": {"a": 1}}}},
        "tau=a dict is refused",
        "sparsight",
    ),
    ({"sparsight": {"method": "sparsevlm", "settings": {"tau": "a"}}}, "tau='a'", "sparsight"),
    ({"sparsight": {"settings": {"sites": [1.5]}}}, "whole numbers", "sparsight"),
    ({"sparsight": {"settings": {"sites": [99]}}}, "99", "sparsight"),
    ({"sparsight": {"settings": {"sites": "abc"}}}, "sites", "sparsight"),
    ({"sparsight": {"method": "evs", "retain": 9}}, "", "sparsight"),
    ({"sparsight": {"method": "random", "settings": {"seed": 2**40}}}, "seed", "sparsight"),
    (
        {"sparsight": {"method": "cdpruner", "settings": {"tower": "os:system"}}},
        "",
        "sparsight",
    ),
]


@pytest.mark.parametrize(
    ("fields", "part", "param"), WRONG_FIELDS, ids=lambda value: str(value)[:50]
)
def test_fields(service, fields, part, param):
    refused(post(service, asks(**fields))[0], 400, part, param=param)


def test_what_asks_for_nothing_is_accepted(service):
    quiet = {
        "n": 1,
        "logprobs": False,
        "tools": [],
        "presence_penalty": 0.0,
        "frequency_penalty": 0,
        "logit_bias": None,
        "response_format": {"type": "text"},
        "stop": None,
        "seed": None,
        "top_p": 1,
        "temperature": 0,
        "user": "somebody",
        "stream_options": None,
    }
    plain = post(service, asks())[0]
    assert answer(post(service, asks(**quiet))[0]) == answer(plain)
    earlier = {**plain.json()["choices"][0]["message"], "annotations": [], "tool_calls": None}
    turns = [server.turn(), earlier, {"role": "user", "content": QUESTION}]
    assert post(service, asks(messages=turns))[0].status_code == 200


def gif(frames):
    return encode(frames[0], "GIF", save_all=True, append_images=frames[1:])


BIG = Image.new("1", (20_000, 20_000))
NOISE = Image.effect_noise((60, 40), 90).convert("RGB")
WHOLE = encode(NOISE)
WRONG_IMAGES = {
    "no base64": ("data:image/png;base64,%%%", "is no base64"),
    "no image kind": ("data:text/plain;base64,aGk=", "holds no image"),
    "not encoded": ("data:image/png,abc", "holds no image"),
    "empty": ("data:image/png;base64,", "cannot be read as an image"),
    "text": (data_url(b"no picture"), "none of PNG, JPEG, WEBP, GIF"),
    "cut": (data_url(WHOLE[:900]), "cannot be read as an image"),
    "head": (data_url(WHOLE[:20]), "cannot be read as an image"),
    "bomb": (data_url(encode(BIG)), "too large"),
    "pixels": (data_url(encode(Image.new("1", (400, 300)))), "too large: 400 x 300"),
    "bmp": (data_url(encode(NOISE, "BMP")), "none of PNG"),
    "tiff": (data_url(encode(NOISE, "TIFF")), "none of PNG"),
    "eps": (data_url(encode(NOISE, "EPS"), "eps"), "none of PNG"),
    "svg": (data_url(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), "none of PNG"),
    "file": ("file:///etc/passwd", "it is no such URL"),
    "path": ("/etc/passwd", "it is no such URL"),
    "no comma": ("data:" + "x" * 100_000, "it is no such URL"),
    "empty url": ("", "it is no such URL"),
    "remote": ("https://example.org/a.png", "this server fetches no images"),
    "ftp": ("ftp://example.org/a.png", "it is no such URL"),
}


@pytest.mark.parametrize("name", WRONG_IMAGES)
def test_images(service, name):
    url, part = WRONG_IMAGES[name]
    refused(post(service, asks(url))[0], 400, part, param="messages")


def test_images_together(service):
    refused(post(service, asks(*[picture()] * 4))[0], 400, "4 images; 3 are allowed")
    half = picture(size=(300, 200))
    assert post(service, asks(half, max_tokens=1))[0].status_code == 200
    refused(post(service, asks(half, half))[0], 400, "image 2 is too large")
    refused(post(service, asks(half, detail=1))[0], 400, "detail is not supported")


@pytest.mark.filterwarnings("ignore:image 1 has several frames")
def test_kinds_of_images(service):
    frames = [Image.new("L", (30, 20), shade) for shade in (0, 255)]
    for kind in ("PNG", "JPEG", "WEBP", "GIF"):
        data = gif(frames) if kind == "GIF" else encode(NOISE, kind)
        # the name in the URL counts for nothing
        assert post(service, asks(data_url(data), max_tokens=1))[0].status_code == 200
    grey = Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30) * 100)
    assert post(service, asks(data_url(encode(grey)), max_tokens=1))[0].status_code == 200


def test_bodies(service):
    refused(post(service, b" " * 200_001)[0], 413, "200000 bytes")
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    refused(post(service, asks(), headers=form)[0], 415, "application/json")
    refused(post(service, asks(), headers={"Content-Encoding": "gzip"})[0], 415, "'gzip'")
    charset = {"Content-Type": "Application/JSON; charset=utf-8"}
    assert post(service, asks(max_tokens=1), headers=charset)[0].status_code == 200
    refused(post(service, b"[" + b"0," * 99_000 + b"0]")[0], 400, "give an object")


def test_paths(service):
    refused(get(service, "/v1/nothing"), 404)
    refused(get(service, CHAT), 405)
    refused(post(service, asks(), path="/v1/completions")[0], 404)
    refused(
        post(service, asks(model="gpt"))[0], 404, "'gpt' is not served; 'tiny' is", param="model"
    )
    refused(get(service, "/v1/models/gpt"), 404)
    assert get(service, "/v1/models").json()["data"][0]["id"] == "tiny"
    assert get(service, "/v1/models/tiny").json()["object"] == "model"
    assert get(service, "/docs").status_code == 404


def test_messages_quote_no_more_than_a_part(service):
    reply = post(service, asks(sparsight={"method": "x" * 250}))[0]
    refused(reply, 400, "is not known")
    assert len(reply.text) < 1_000
    reply = post(service, asks(**{"y" * 10_000: 1}))[0]
    refused(reply, 400, "is not supported")
    assert len(reply.text) < 1_500
    assert json.loads(reply.text)


def test_a_key():
    with server.serving(*server.tiny_pair(), api_key="s\u00e9same") as service:
        body = asks(max_tokens=1)
        refused(post(service, body)[0], 401, "API key is missing or wrong")
        for wrong in ("Bearer sesame", "Bearer", "s\u00e9same", "Basic s\u00e9same"):
            headers = {"Authorization": wrong.encode()}
            refused(post(service, body, headers=headers)[0], 401)
        right = {"Authorization": "Bearer s\u00e9same".encode()}
        assert post(service, body, headers=right)[0].status_code == 200
        refused(get(service, "/v1/models"), 401)
        assert get(service, "/v1/models", right).status_code == 200
        assert get(service, "/health").status_code == 200
        assert b"sparsight_responses_total" in get(service, "/metrics").content
