"""Reads bodies of requests under limits of size and time."""

import asyncio

from starlette.requests import ClientDisconnect, Request

from sparsight.serve.server.errors import BUSY, RequestError
from sparsight.serve.server.settings import Limits

AT_ONCE = 8  # bodies of the largest size that may be held in memory while they arrive
CLOSE = {"Connection": "close"}  # the rest of a body is not read


class Gone(Exception):
    """The client has gone."""


class Bodies:
    """Reads bodies, and knows how many bytes of unfinished ones are held."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._held = 0

    async def read(self, request: Request) -> bytes:
        """Return the whole body.

        Raises:
            RequestError: it is of another type, too large or too slow, or too many arrive at once.
            Gone: the client has gone.
        """
        _check_kind(request)
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length[:20]) > self._limits.body_bytes:
            raise self._too_large()
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                return await self._collect(request)
        except TimeoutError:
            message = f"the body did not arrive in {self._limits.body_seconds:g} seconds."
            raise RequestError(408, message, code="slow_body", headers=CLOSE) from None
        except ClientDisconnect:
            raise Gone from None

    async def _collect(self, request: Request) -> bytes:
        parts = bytearray()
        try:
            async for part in request.stream():
                parts += part
                self._held += len(part)
                if len(parts) > self._limits.body_bytes:
                    raise self._too_large()
                if self._held > AT_ONCE * self._limits.body_bytes:
                    message = "too many large requests arrive at once; try again."
                    raise RequestError(429, message, code="busy", headers={**BUSY, **CLOSE})
            return bytes(parts)
        finally:
            self._held -= len(parts)

    def _too_large(self) -> RequestError:
        message = f"the body has more than {self._limits.body_bytes} bytes, which are allowed."
        return RequestError(413, message, code="too_large", headers=CLOSE)


def _check_kind(request: Request) -> None:
    """Check that a body is plain JSON, by the headers.

    A page of another site cannot send this type without asking first, which is refused.
    """
    kind = request.headers.get("content-type", "application/json").partition(";")[0]
    packed = request.headers.get("content-encoding", "identity")
    wrong = kind if kind.strip().lower() != "application/json" else packed
    if wrong is packed and packed.strip().lower() == "identity":
        return
    message = f"the body is {wrong[:60]!r}; send plain JSON with Content-Type: application/json."
    raise RequestError(415, message, code="unsupported_media_type", headers=CLOSE)
