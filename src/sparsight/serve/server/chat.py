"""Answers one chat completion: reads it, has it written and fetched, waits, replies."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from sparsight.methods.method import Method
from sparsight.serve.joining import Prompt
from sparsight.serve.server.bodies import Bodies, Gone
from sparsight.serve.server.errors import BUSY, RequestError
from sparsight.serve.server.fetching import Fetcher
from sparsight.serve.server.jobs import Done, Event, Failed, Job, Sampling, Text
from sparsight.serve.server.metrics import Metrics
from sparsight.serve.server.pictures import is_remote
from sparsight.serve.server.prompts import Writer
from sparsight.serve.server.replies import END, Reply, as_event
from sparsight.serve.server.settings import Settings
from sparsight.serve.server.wire import ChatRequest, read_request
from sparsight.serve.server.worker import Worker

CLIENT_GONE = 499  # nobody reads it; metrics count it


class Completions:
    """The endpoint /v1/chat/completions.

    Args:
        writer: of prompts.
        worker: that answers.
        settings: of the server.
        metrics: of the server.
        fetcher: of remote images.
    """

    def __init__(
        self,
        writer: Writer,
        worker: Worker,
        settings: Settings,
        metrics: Metrics,
        fetcher: Fetcher,
    ) -> None:
        self._writer = writer
        self._worker = worker
        self._settings = settings
        self._limits = settings.limits
        self._metrics = metrics
        self._fetcher = fetcher
        self._bodies = Bodies(settings.limits)
        self._waiting = 0
        # one thread, because tokenizers must not be used by two at once
        self._desk = ThreadPoolExecutor(1, "sparsight-prompts")

    async def answer(self, request: Request) -> Response:
        """Return the response to a request."""
        try:
            body = [await self._bodies.read(request)]
            gone = asyncio.create_task(_wait_until_gone(request))
            try:
                return await self._answer(body, gone)
            except BaseException:
                gone.cancel()
                raise
        except Gone:
            return Response(status_code=CLIENT_GONE)

    async def _answer(self, body: list[bytes], gone: asyncio.Task[None]) -> Response:
        asked, job = await self._enter(body, gone)
        try:
            events = self._follow(job, gone)
            reply = Reply(asked.model, job.prompt)
            if not asked.stream:
                response: Response = await _collect(events, reply)
                self.release(job, gone)
                return response
            # the first text, because the status tells what the model refuses
            first = await anext(events)
        except BaseException:
            self.release(job, gone)
            raise
        usage = asked.stream_options is not None and asked.stream_options.include_usage
        pieces = _write_pieces(first, events, reply, usage=usage)
        return EventStream(pieces, self._limits.answer_seconds, lambda: self.release(job, gone))

    async def _enter(self, body: list[bytes], gone: asyncio.Task[None]) -> tuple[ChatRequest, Job]:
        """Read a request, put it into the line, and wait until the model begins with it."""
        if self._waiting >= self._limits.queue:
            message = f"{self._limits.queue} requests wait already; try again."
            raise RequestError(429, message, code="queue_full", headers=BUSY)
        self._count_waiting(1)
        try:
            asked, prompt = await self._write(body)
            if gone.done():
                raise Gone
            job = Job(prompt, _read_sampling(asked), asked.stop)
            self._worker.line.put(job)
            try:
                await self._wait_for_start(job, gone)
            except BaseException:
                self.release(job, gone)
                raise
            return asked, job
        finally:
            self._count_waiting(-1)

    async def _wait_for_start(self, job: Job, gone: asyncio.Task[None]) -> None:
        """Wait until the model begins with a job."""
        seconds = self._limits.queue_seconds
        message = f"waited {seconds:g} seconds; try again."
        late = RequestError(503, message, code="queue_timeout", headers=BUSY)
        event = await _first_of(job, gone, seconds, late)
        if isinstance(event, Failed):
            raise event.error

    def _count_waiting(self, change: int) -> None:
        self._waiting += change
        self._metrics.waiting.set(self._waiting)

    async def _write(self, body: list[bytes]) -> tuple[ChatRequest, Prompt]:
        """Return the request without its turns, and its prompt.

        The body is taken out of its list: it may be large, and is not held while the request waits.
        """
        loop = asyncio.get_running_loop()
        asked, method = await loop.run_in_executor(self._desk, self._read, body.pop())
        urls = [url for turn in asked.messages for url in turn.urls if is_remote(url)]
        fetched = await self._fetcher.fetch_all(urls)
        prompt = await loop.run_in_executor(self._desk, self._writer.write, asked, method, fetched)
        return asked.model_copy(update={"messages": []}), prompt

    def _read(self, body: bytes) -> tuple[ChatRequest, Method | None]:
        asked = read_request(body)
        if asked.model != self._settings.name:
            message = f"model {asked.model[:60]!r} is not served; {self._settings.name!r} is."
            raise RequestError(404, message, param="model", code="model_not_found")
        return asked, self._writer.choose(asked)

    async def _follow(self, job: Job, gone: asyncio.Task[None]) -> AsyncIterator[Text | Done]:
        """Yield what a job is told, from its start to its end.

        Raises:
            RequestError: it failed, or takes too long.
            Gone: the client has gone.
        """
        loop = asyncio.get_running_loop()
        seconds = self._limits.answer_seconds
        end = loop.time() + seconds
        message = f"the answer took more than {seconds:g} seconds."
        late = RequestError(504, message, code="answer_timeout")
        while True:
            event = await _first_of(job, gone, end - loop.time(), late)
            if isinstance(event, Failed):
                raise event.error
            if isinstance(event, Text | Done):
                yield event
            if isinstance(event, Done):
                return

    def release(self, job: Job, gone: asyncio.Task[None]) -> None:
        """Take a job out of the line, or have the model stop with it."""
        self._worker.line.cancel(job)
        gone.cancel()

    def close(self) -> None:
        """Stop making prompts."""
        self._desk.shutdown(wait=False, cancel_futures=True)


class EventStream(Response):
    """A response that is sent piece by piece.

    Args:
        pieces: of the body.
        seconds: for all of them.
        release: called at the end, whatever happens.
    """

    media_type = "text/event-stream"

    def __init__(
        self, pieces: AsyncIterator[bytes], seconds: float, release: Callable[[], None]
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._pieces = pieces
        self._seconds = seconds
        self._release = release

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Send the response."""
        del scope, receive
        try:
            # a client that reads nothing blocks send()
            async with asyncio.timeout(self._seconds):
                head = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
                await send(head)
                async for piece in self._pieces:
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        except (Gone, TimeoutError):
            return
        finally:
            self._release()


async def _write_pieces(
    first: Text | Done, events: AsyncIterator[Text | Done], reply: Reply, *, usage: bool
) -> AsyncIterator[bytes]:
    """Yield an answer as server-sent events; an error in its middle is the last one."""
    yield as_event(reply.begin())
    event = first
    try:
        while isinstance(event, Text):
            yield as_event(reply.go_on(event.text))
            event = await anext(events)
    except RequestError as error:
        yield as_event(error.document)
        return
    yield as_event(reply.end(event))
    if usage:
        yield as_event(reply.tell_usage(event))
    yield END


async def _collect(events: AsyncIterator[Text | Done], reply: Reply) -> Response:
    """Return a whole answer as a response."""
    text = ""
    async for event in events:
        if isinstance(event, Done):
            document = reply.write(text, event)
            return Response(json.dumps(document), media_type="application/json")
        text += event.text
    raise RuntimeError("an answer ended without its end")


async def _first_of(
    job: Job, gone: asyncio.Task[None], seconds: float, late: RequestError
) -> Event:
    """Return what a job is told next.

    Raises:
        RequestError: `late`, where it is told nothing in time.
        Gone: the client has gone.
    """
    told = asyncio.create_task(job.events.get())
    try:
        waits = {told, gone}
        await asyncio.wait(waits, timeout=max(seconds, 0), return_when=asyncio.FIRST_COMPLETED)
        if told.done():
            return told.result()
        raise Gone if gone.done() else late
    finally:
        told.cancel()


async def _wait_until_gone(request: Request) -> None:
    """Return when the client has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _read_sampling(asked: ChatRequest) -> Sampling:
    """Return how tokens are drawn; without a seed, by one that nobody knows."""
    seed = secrets.randbits(62) if asked.seed is None else asked.seed
    return Sampling(asked.temperature, asked.top_p, seed)
