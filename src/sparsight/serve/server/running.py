"""Runs the application with uvicorn, and stops it without breaking off what runs."""

import asyncio
import logging
import socket
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from sparsight.errors import SettingError
from sparsight.serve.server.app import Service

LOG = logging.getLogger("uvicorn.error")
HEAD_SECONDS = 15  # until the head of a connection's first request has arrived
IDLE_SECONDS = 10  # that a connection stays open between two requests
AFTERWARDS = 2  # seconds that a request gets to tell that it was broken off


class Connection(H11Protocol):
    """A connection that is closed if no request arrives; uvicorn itself waits for ever."""

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._first = self.loop.call_later(HEAD_SECONDS, self._close_empty)

    def _close_empty(self) -> None:
        if self.cycle is None and not self.transport.is_closing():
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop to wait."""
        self._first.cancel()
        super().connection_lost(exc)


class Server(uvicorn.Server):
    """A server that answers what has begun before it stops.

    Args:
        config: of uvicorn.
        service: that is served.
        ready: called when requests are answered.
    """

    def __init__(self, config: uvicorn.Config, service: Service, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._service = service
        self._ready = ready
        self._asked = asyncio.Event()

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until a signal asks to stop."""
        self._loop = asyncio.get_running_loop()
        drain = self._loop.create_task(self._drain())
        try:
            await super().serve(sockets)
        finally:
            drain.cancel()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer, and say so."""
        await super().startup(sockets)
        self._ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop; the second signal stops at once."""
        del sig, frame
        if self._service.door.stopping:
            LOG.setLevel(logging.CRITICAL)  # what is broken off on purpose is no error
            self.force_exit = True
            self.should_exit = True
            return
        self._service.door.stopping = True
        self._loop.call_soon_threadsafe(self._asked.set)

    async def _drain(self) -> None:
        """Wait for what runs, then for what is broken off, and end the server."""
        await self._asked.wait()
        if not await self._service.door.drain(self._service.settings.limits.stop_seconds):
            await asyncio.to_thread(self._service.worker.stop)
            await self._service.door.drain(AFTERWARDS)
        self.should_exit = True


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that is bound and does not listen yet.

    Args:
        host: name or address.
        port: 0 for a free one.

    Raises: SettingError: it cannot be bound.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        bound = socket.socket(family, kind, protocol)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
        except BaseException:
            bound.close()
            raise
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SettingError(f"cannot listen on {host}, port {port}: {reason}.") from None
    return bound


def run(service: Service, bound: socket.socket, ready: Callable[[], None]) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Args:
        service: that is served.
        bound: where it listens.
        ready: called when requests are answered.
    """
    LOG.setLevel(logging.ERROR)  # a bad request is no event
    config = uvicorn.Config(
        service.door,
        http=Connection,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=service.settings.limits.connections,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=AFTERWARDS,
    )
    Server(config, service, ready).run([bound])
