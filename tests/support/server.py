"""A server over a tiny model, and a client that talks to it without a network."""

import asyncio
import base64
import io
import json
import time
from contextlib import contextmanager

import httpx
import torch
from PIL import Image

from sparsight.serve.server.app import Service
from sparsight.serve.server.settings import Settings
from tests.support import tiny, tiny_processor

QUESTION = "what color is the shape ?"
CHAT = "/v1/chat/completions"


def tiny_pair(seed=0):
    """Return a tiny model whose answers are as long as asked for, and its processor."""
    return tiny.tiny_llava(seed, dtype=torch.float32), tiny_processor.processor()


@contextmanager
def serving(model, processor, fetcher=None, **settings):
    """Yield a service whose model runs in its thread."""
    service = Service(model, processor, Settings(name="tiny", **settings), fetcher)
    service.worker.start()
    try:
        yield service
    finally:
        service.worker.stop()
        service.completions.close()


def picture(shade=90, size=(40, 30), kind="PNG"):
    """Return a data: URL of an image that is not of one colour."""
    image = Image.linear_gradient("L").resize(size).point(lambda value: (value + shade) % 256)
    return data_url(encode(image.convert("RGB"), kind), kind.lower())


def encode(image, kind="PNG", **options):
    """Return an image as a file in memory."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def data_url(data, kind="png"):
    """Return a data: URL of an image file."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def turn(text=QUESTION, *urls, role="user"):
    """Return one turn, with images in front of its text."""
    images = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return {"role": role, "content": [*images, {"type": "text", "text": text}]}


def asks(*urls, text=QUESTION, **fields):
    """Return the body of a request with one turn."""
    return {"model": "tiny", "max_tokens": 6, "messages": [turn(text, *urls)], **fields}


def post(service, *bodies, path=CHAT, headers=None):
    """Send requests at once, and return their responses."""

    async def send():
        transport = httpx.ASGITransport(service.door, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            kind = {"Content-Type": "application/json", **(headers or {})}
            sent = [
                body if isinstance(body, bytes) else json.dumps(body).encode() for body in bodies
            ]
            calls = [client.post(path, content=body, headers=kind) for body in sent]
            return await asyncio.gather(*calls)

    return asyncio.run(send())


def get(service, path, headers=None):
    """Return the response to a GET."""

    async def send():
        transport = httpx.ASGITransport(service.door, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            return await client.get(path, headers=headers)

    return asyncio.run(send())


def answer(response):
    """Return the text of an answer."""
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]["message"]["content"]


def events(response):
    """Return the documents of a stream; the last event ends it."""
    assert response.status_code == 200, response.text
    lines = [line for line in response.text.split("\n\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line[6:]) for line in lines[:-1]]


def streamed(response):
    """Return the text of a stream."""
    pieces = [choice["delta"] for event in events(response) for choice in event["choices"]]
    return "".join(piece.get("content", "") for piece in pieces)


def counted(service, name, **labels):
    """Return a metric's value."""
    value = service.metrics.registry.get_sample_value(name, labels)
    return 0 if value is None else value


def rest(service, seconds=10):
    """Wait until the model is at rest: an answer is told before its pass ends."""
    end = time.monotonic() + seconds
    while counted(service, "sparsight_running"):
        assert time.monotonic() < end, "the model still runs"
        time.sleep(0.01)


class Caller:
    """A client on the wire of ASGI, which can be slow, and can go away.

    Args:
        service: that is called.
        parts: of the body; a number waits so many seconds.
        leave_after: pieces of the response after which the client goes; None stays.
    """

    def __init__(self, service, parts, leave_after=None):
        self._service = service
        self._parts = list(parts)
        self._leave_after = leave_after
        self._left = asyncio.Event()
        self.status = None
        self.pieces = []

    def leave(self):
        """Go away."""
        self._left.set()

    async def call(self):
        """Send the request, and return the status of the response."""
        headers = [(b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": CHAT, "raw_path": CHAT.encode()}
        scope |= {"headers": headers, "query_string": b"", "http_version": "1.1", "scheme": "http"}
        scope |= {"server": ("here", 80), "client": ("there", 1), "root_path": ""}
        await self._service.door(scope, self._receive, self._send)
        return self.status

    async def _receive(self):
        while self._parts and isinstance(self._parts[0], float):
            await asyncio.sleep(self._parts.pop(0))
        if self._parts:
            part = self._parts.pop(0)
            return {"type": "http.request", "body": part, "more_body": bool(self._parts)}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message):
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif message["body"]:
            self.pieces.append(message["body"])
        if self._leave_after is not None and len(self.pieces) >= self._leave_after:
            self.leave()

    @property
    def error(self):
        """The error that was answered."""
        return json.loads(b"".join(self.pieces))["error"]


def send(service, attack):
    """Return the response to a request of `serve_hostile`."""

    async def call():
        transport = httpx.ASGITransport(service.door, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            return await client.request(
                attack.method, attack.path, content=attack.body, headers=attack.headers
            )

    return asyncio.run(call())
