"""What every request passes: the key, the stop, and the counting of requests and responses."""

import asyncio
import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from sparsight.serve.server.errors import RequestError, stopping
from sparsight.serve.server.metrics import Metrics

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

OPEN = ("/health", "/metrics")  # need no key, and are answered until the end


class Door:
    """An ASGI application around another one.

    Args:
        app: inside.
        key: that requests must bring; None lets everybody in.
        metrics: of the server.
    """

    def __init__(self, app: App, key: str | None, metrics: Metrics) -> None:
        self._app = app
        self._key = None if key is None else key.encode("utf-8")
        self._metrics = metrics
        self._inside = 0
        self.stopping = False

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Let a request in, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def count(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._metrics.count_response(message["status"])
            await send(message)

        refused = None if scope["path"] in OPEN else self._refuse(scope)
        if refused is not None:
            await send_error(refused, count)
            return
        counted = scope["path"] not in OPEN
        self._inside += counted
        try:
            await self._app(scope, receive, count)
        finally:
            self._inside -= counted

    def _refuse(self, scope: Message) -> RequestError | None:
        if self.stopping:
            return stopping()
        if self._key is None:
            return None
        given = dict(scope["headers"]).get(b"authorization", b"")
        scheme, _, key = given.partition(b" ")
        if hmac.compare_digest(key.strip(), self._key) and scheme.lower() == b"bearer":
            return None
        message = "the API key is missing or wrong; send Authorization: Bearer KEY."
        headers = {"WWW-Authenticate": "Bearer", "Connection": "close"}
        return RequestError(401, message, code="invalid_api_key", headers=headers)

    async def drain(self, seconds: float) -> bool:
        """Wait until no request is inside; returns whether that is so.

        Args: seconds: to wait at most.
        """
        try:
            async with asyncio.timeout(seconds):
                while self._inside:
                    await asyncio.sleep(0.02)
        except TimeoutError:
            return False
        return True


async def send_error(error: RequestError, send: Send) -> None:
    """Send an error as a response."""
    body = error.encode()
    headers = {
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        **error.headers,
    }
    encoded = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})
