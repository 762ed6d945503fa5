"""The app behind uvicorn, on one address."""

from __future__ import annotations

import asyncio
import contextvars
import ipaddress
import socket
from collections.abc import Callable
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from hmt.serving.errors import ApiError
from hmt.serving.settings import Settings

_HERE: contextvars.ContextVar[_Patient | None] = contextvars.ContextVar("connection", default=None)


def began(there: bool) -> None:
    """Told by `Guard` in the task of a request: it is there, or answered."""
    connection = _HERE.get()
    if connection is not None:
        connection.asked(there)


class _Patient(H11Protocol):
    """A connection that is let go when its client is slow: no whole request, or an answer that is not taken.

    uvicorn itself has a limit for idle connections only. A connection more than there may be gets its 503
    before anything is read from it.
    """

    slow = 30.0
    most = 1000
    _there = 0
    _timer: asyncio.TimerHandle | None = None
    _stuck: asyncio.TimerHandle | None = None
    _wire: Any = None

    def connection_made(self, transport: Any) -> None:
        """See asyncio.Protocol."""
        super().connection_made(transport)
        self._wire = transport
        type(self)._there += 1
        if type(self)._there > type(self).most:
            transport.write(_FULL)
            transport.close()
            return
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        type(self)._there -= 1
        self._calm()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if self._wire is None or self._wire.is_closing():
            return
        _HERE.set(self)
        super().data_received(data)

    def pause_writing(self) -> None:
        """See asyncio.Protocol."""
        super().pause_writing()
        loop = asyncio.get_running_loop()
        self._stuck = loop.call_later(self.slow, self._wire.abort)

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        super().resume_writing()
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None

    def asked(self, there: bool) -> None:
        """A request is there, or answered."""
        if there:
            self._calm()
        else:
            self._wait()

    def _wait(self) -> None:
        self._calm()
        self._timer = asyncio.get_running_loop().call_later(self.slow, self._wire.abort)

    def _calm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _raw(error: ApiError) -> bytes:
    body = error.response().body
    head = f"HTTP/1.1 {error.status} Service Unavailable\r\ncontent-type: application/json\r\n"
    head += f"retry-after: 1\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + bytes(body)


_FULL = _raw(ApiError(503, "There are too many connections; try again later.", code="connections"))


class Server(uvicorn.Server):
    """A server of an app that `create_app` made. Args: listens: called as soon as it does.

    When it is stopped it accepts nothing more; what is running has `grace_seconds`, then it is ended as if
    its clients had gone: what was read is saved, and told.
    """

    def __init__(
        self,
        app: Any,
        host: str,
        port: int,
        settings: Settings,
        listens: Callable[[], None] = lambda: None,
    ):
        self.app, self.settings, self.listens = app, settings, listens
        limits = {"slow": settings.slow_seconds, "most": settings.max_connections}
        protocol: Any = type("Connection", (_Patient,), limits)
        config = uvicorn.Config(
            app, host=host, port=port, http=protocol, loop="asyncio", ws="none", lifespan="on",
            log_config=None, access_log=False, server_header=False, proxy_headers=False,
            timeout_graceful_shutdown=int(settings.grace_seconds) + 10,
        )  # fmt: skip
        super().__init__(config)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn.Server."""
        await super().startup(sockets)
        self.listens()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See above."""
        services = self.app.state.services
        services.stopping = True
        ending = asyncio.get_running_loop().call_later(self.settings.grace_seconds, services.stop)
        try:
            await super().shutdown(sockets)
        finally:
            ending.cancel()


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens on an address. OSError, with the address, where that cannot be."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    place = socket.socket(family, socket.SOCK_STREAM)
    try:
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        place.bind((host, port))
    except OSError as error:
        place.close()
        raise OSError(error.errno, error.strerror, f"{host}:{port}") from None
    return place


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def address(host: str, port: int) -> str:
    """The URL of a server."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(app: Any, host: str = "127.0.0.1", port: int = 8000, settings: Settings | None = None) -> None:
    """Serve until a signal comes. OSError where the address is taken."""
    place = bound(host, port)
    Server(app, host, port, settings or Settings()).run([place])
