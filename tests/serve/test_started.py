"""The command itself: a process, sockets, signals; with OpenAI's client and curl."""

import json
import re
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path

import httpx
import openai
import pytest
from typer.testing import CliRunner

from sparsight import sparsify
from sparsight.cli import app
from sparsight.cli import serve as command
from sparsight.inputs import prompt_inputs, read_image, user_message
from sparsight.methods import DivPrune, SparseVLM
from sparsight.models import embedded
from tests.support import server, tiny_processor
from tests.support.server import asks, data_url
from tests.support.started import started

ROOT = Path(__file__).parents[2]
SCENE = ROOT / "examples" / "scene.png"
QUESTION = "What color is the fish?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_processor.save(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def tiny_server(folder):
    with started("--model", folder, "--name", "tiny", "--method", "dense") as running:
        yield running


def talk(port, *parts, wait=0.0):
    """Send bytes on a socket, and return what comes back until it is closed."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        for part in parts:
            connection.sendall(part)
            time.sleep(wait)
        got = b""
        while piece := connection.recv(65536):
            got += piece
        return got


def test_bytes_that_are_no_http(tiny_server):
    assert talk(tiny_server.port, b"\x00\xff\x00\r\n\r\n").startswith(b"HTTP/1.1 400")
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\n"
    assert talk(tiny_server.port, head, b"X: " + b"y" * 100_000).startswith(b"HTTP/1.1 400")
    large = head + b"Content-Type: application/json\r\nContent-Length: 99999999999\r\n\r\n"
    assert talk(tiny_server.port, large).startswith(b"HTTP/1.1 413")
    chunked = head + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    piece = b"100000\r\n" + b"1" * 0x100000 + b"\r\n"
    with pytest.raises(ConnectionError):  # closed while the rest is still being sent
        talk(tiny_server.port, chunked, *[piece] * 60)
    body = json.dumps(asks(max_tokens=1)).encode()
    sent = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    assert talk(tiny_server.port, chunked, sent).startswith(b"HTTP/1.1 200")


def test_sigterm_lets_a_stream_finish_and_ends_with_0(folder):
    with started("--model", folder, "--name", "tiny", SPARSIGHT_API_KEY="key") as running:
        headers = {"Authorization": "Bearer key"}
        body = asks(stream=True, max_tokens=300, sparsight={"method": "dense"})
        assert httpx.get(f"{running.url}/models").status_code == 401
        late = []
        with httpx.stream(
            "POST", f"{running.url}/chat/completions", json=body, headers=headers, timeout=30
        ) as reply:
            lines = reply.iter_lines()
            first = next(lines)
            running.stop()

            def come_late():
                time.sleep(0.2)
                late.append(httpx.get(f"{running.url}/models", headers=headers).status_code)

            thread = threading.Thread(target=come_late)
            thread.start()
            rest = list(lines)
            thread.join()
        assert first.startswith("data: ")
        assert rest[-2:] == ["data: [DONE]", ""]
        assert late == [503]
        assert running.process.wait(20) == 0
        assert running.process.stderr.read() == ""


def run(*words):
    return CliRunner().invoke(app, ["serve", *map(str, words)])


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--method", "nothing"], "method 'nothing' is not known"),
        (["--retain", "0"], "retain=0"),
        (["--api-key", " "], "API key is empty"),
        (["--device", "nowhere"], "--device 'nowhere' is not known"),
        (["--host", "no such host"], "cannot listen on no such host"),
        (["--port", "70000"], "--port"),
        (["--model", "no/where"], "no/where"),
    ],
)
def test_wrong_options_are_refused_in_one_line(words, part, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    result = run("--port", "0", *words)
    assert result.exit_code == 2
    assert part in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_port_that_is_taken(tiny_server):
    result = run("--port", tiny_server.port)
    assert result.exit_code == 2
    assert f"cannot listen on 127.0.0.1, port {tiny_server.port}: " in result.stderr


def test_without_the_extra_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr(command, "NEEDED", ("fastapi", "no_such_package"))
    result = run()
    assert result.exit_code == 2
    assert 'pip install "sparsight[serve]"' in result.stderr
    assert "no_such_package" in result.stderr


def test_limits_are_checked():
    from sparsight.errors import SettingError
    from sparsight.serve.server.settings import Limits, is_open

    with pytest.raises(SettingError, match="queue=0 lets nothing through"):
        Limits(queue=0)
    assert [is_open(host) for host in ("127.0.0.1", "::1", "localhost", "192.0.2.1", "a.org")] == [
        *[False] * 3,
        *[True] * 2,
    ]


# ---- with the embedded model


@pytest.fixture(scope="module")
def vlm():
    if not embedded.is_prepared():
        pytest.skip("the embedded model is not prepared; run `sparsight prepare`")
    return embedded.load()


@pytest.fixture(scope="module")
def embedded_server(vlm):
    with started() as running:
        yield running


def offline(vlm, method, length=12):
    model, processor = vlm
    inputs = prompt_inputs(model, processor, [user_message(QUESTION, [read_image(SCENE)])])

    def generate():
        tokens = model.generate(**inputs, max_new_tokens=length, do_sample=False)
        new = tokens[0, inputs["input_ids"].shape[1] :]
        return processor.decode(new, skip_special_tokens=True).strip()

    if method is None:
        return generate()
    with sparsify(model, method):
        return generate()


METHODS = {
    "dense": None,
    "sparsevlm": SparseVLM(retain=64),
    "divprune": DivPrune(retain=64),
}


@pytest.mark.embedded
def test_openai_s_client(vlm, embedded_server):
    client = openai.OpenAI(base_url=embedded_server.url, api_key="none", max_retries=0)
    assert [model.id for model in client.models.list()] == ["embedded"]
    messages = [server.turn(QUESTION, data_url(SCENE.read_bytes()))]
    for name, method in METHODS.items():
        field = {"method": name} if method is None else {"method": name, "retain": 64}
        asked = {"model": "embedded", "messages": messages, "max_tokens": 12}
        reply = client.chat.completions.create(**asked, extra_body={"sparsight": field})
        assert reply.choices[0].message.content == offline(vlm, method)
        assert reply.sparsight["visual_tokens"] == 576
        assert reply.sparsight["method"] == name
    chunks = client.chat.completions.create(
        **asked,
        extra_body={"sparsight": field},
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(chunks)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == reply.choices[0].message.content
    assert chunks[-1].usage == reply.usage
    with pytest.raises(openai.BadRequestError, match="n is not supported") as caught:
        client.chat.completions.create(**asked, n=2)
    assert caught.value.param == "n"
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(**{**asked, "model": "gpt"})


@pytest.mark.embedded
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl(vlm, embedded_server, tmp_path):
    body = asks(data_url(SCENE.read_bytes()), text=QUESTION, model="embedded", max_tokens=12)
    body["sparsight"] = {"retain": 64}
    (tmp_path / "body.json").write_text(json.dumps(body))
    address = f"{embedded_server.url}/chat/completions"
    words = ["curl", "-sS", "--fail-with-body", address, "-H", "Content-Type: application/json"]
    words += ["-d", f"@{tmp_path / 'body.json'}"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    text = json.loads(done.stdout)["choices"][0]["message"]["content"]
    assert text == offline(vlm, METHODS["sparsevlm"])


@pytest.mark.embedded
def test_a_batch_of_real_requests(vlm, embedded_server):
    field = {"retain": 64}
    body = asks(data_url(SCENE.read_bytes()), text=QUESTION, model="embedded", sparsight=field)
    other = {
        **body,
        "messages": [
            server.turn("What is this? Answer at length.", *[data_url(SCENE.read_bytes())])
        ],
    }
    bodies = [{**body, "max_tokens": 12}, other, {**body, "max_tokens": 12}]
    texts = []

    def send(sent):
        reply = httpx.post(f"{embedded_server.url}/chat/completions", json=sent, timeout=60)
        texts.append((sent is other, server.answer(reply)))

    threads = [threading.Thread(target=send, args=(sent,)) for sent in [bodies[0], *bodies]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    want = offline(vlm, METHODS["sparsevlm"])
    assert {text for is_other, text in texts if not is_other} == {want}


@pytest.mark.embedded
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_snippets_of_the_page_run(vlm, embedded_server, monkeypatch, capsys):
    page = (ROOT / "docs" / "serve.md").read_text(encoding="utf-8")
    page = page.replace("http://127.0.0.1:8000/v1", embedded_server.url)
    want = offline(vlm, METHODS["sparsevlm"])
    monkeypatch.chdir(ROOT)

    commands = re.findall(r"```bash\n(.*?)```", page, re.DOTALL)
    install, start = commands[0].strip().splitlines()
    assert install == 'pip install "sparsight[serve]"'
    assert run(*start.split()[2:], "--host", "no such host").exit_code == 2
    done = subprocess.run(["bash", "-c", commands[1]], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["choices"][0]["message"]["content"] == want

    exec(re.search(r"```python\n(.*?)```", page, re.DOTALL)[1], {})  # noqa: S102
    assert capsys.readouterr().out.startswith(f"{want} {{'method': 'sparsevlm', 'retain': 64")
