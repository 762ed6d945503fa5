"""What stands before every route: who asks, from where, how much, how slowly; and what is noted of it."""

from __future__ import annotations

import ipaddress
import logging
import re
import secrets
import time
from collections.abc import Callable, Collection
from typing import Any
from urllib.parse import urlsplit

import anyio
from starlette.datastructures import Headers

from hmt.serving.errors import ApiError, to_api_error
from hmt.serving.keys import Keys
from hmt.serving.metrics import Metrics
from hmt.serving.settings import Settings

logger = logging.getLogger("hmt.serving")

OPEN = {"/", "/health", "/ready", "/openapi.json"}  # without a key
_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_LEAST = 10_000  # bytes a second that a body must come with, over all of it
_JSON = "application/json"
_FILES = {"multipart/form-data", "application/octet-stream"}
SECURITY = {
    b"content-security-policy": b"default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; "
    b"base-uri 'none'; form-action 'self'",
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-resource-policy": b"same-origin",
}


class Guard:
    """ASGI middleware.

    Args:
        keys: None lets everybody in, as the namespace "default".
        hosts: names that the server goes by; None: any. Addresses, and localhost, always are.
        began: called with a scope when its request is there, and with None when it is answered.
    """

    def __init__(
        self,
        app: Any,
        settings: Settings,
        metrics: Metrics,
        keys: Keys | None = None,
        hosts: Collection[str] | None = None,
        began: Callable[[bool], None] = lambda there: None,
    ):
        self.app, self.settings, self.metrics, self.keys = app, settings, metrics, keys
        self.hosts = None if hosts is None else {host.lower() for host in hosts}
        self.began = began

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        since, headers = time.monotonic(), Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if _ID.fullmatch(given) else f"req_{secrets.token_hex(12)}"
        scope["hmt.request_id"], scope["hmt.since"] = request_id, since
        status = 0

        async def answer(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = dict(message)
                own = [(b"x-request-id", request_id.encode()), *SECURITY.items()]
                message["headers"] = [*message.get("headers", ()), *own]
            await send(message)

        self.metrics.running.inc()
        self.began(True)
        try:
            try:
                self._check(scope, headers)
                await self.app(scope, self._counted(scope, headers, receive), answer)
            except Exception as error:
                told = to_api_error(error)
                if status:
                    raise
                await told.response()(scope, receive, answer)
        finally:
            self.began(False)
            self.metrics.running.dec()
            self._note(scope, status, time.monotonic() - since)

    def _check(self, scope: Any, headers: Headers) -> None:
        """ApiError for a request that is not let in; else the scope has its namespace."""
        host = headers.get("host", "")
        if self.hosts is not None and not self._known(host):
            raise ApiError(403, "The server does not go by this name; see --allow-host.", code="bad_host")
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            raise ApiError(403, "Requests from other sites are refused.", code="bad_origin")
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            if scope["method"] not in ("GET", "HEAD") or scope["path"].startswith("/v1"):
                raise ApiError(403, "Requests from other sites are refused.", code="bad_origin")
        scope["hmt.namespace"] = "default"
        path = scope["path"]
        if self.keys is not None and path not in OPEN and not path.startswith("/page/"):
            kind, _, secret = headers.get("authorization", "").partition(" ")
            key = self.keys.find(secret.strip()) if kind.lower() == "bearer" else None
            if key is None:
                raise ApiError(401, "An API key is needed: Authorization: Bearer hmt-...")
            scope["hmt.namespace"], scope["hmt.key"] = key.namespace, key.id
        self._check_body(scope, headers)

    def _known(self, host: str) -> bool:
        try:
            name = (urlsplit(f"//{host}").hostname or "").lower()
        except ValueError:
            return False
        assert self.hosts is not None
        if name == "localhost" or name in self.hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def _check_body(self, scope: Any, headers: Headers) -> None:
        length = headers.get("content-length")
        if length == "0" or (length is None and "transfer-encoding" not in headers):
            return
        if scope["method"] not in ("POST", "PUT"):
            return
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != _JSON and kind not in _FILES:
            raise ApiError(415, f"Send {_JSON}, or a file as multipart/form-data.")
        if length is not None and length.isdigit() and int(length) > self._most(headers):
            raise ApiError(413, f"The body has more than {self._most(headers):,} bytes, the most here.")

    def _most(self, headers: Headers) -> int:
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        most = self.settings.max_upload_bytes if kind in _FILES else self.settings.max_body_bytes
        return most + (2**16 if kind in _FILES else 0)  # the marks of a form

    def _counted(self, scope: Any, headers: Headers, receive: Any) -> Any:
        """`receive` for a body that is not too large and does not come too slowly."""
        most, slow, since = self._most(headers), self.settings.slow_seconds, time.monotonic()
        got, whole = 0, False

        async def counted() -> Any:
            nonlocal got, whole
            if whole:  # the next is that the client goes
                return await receive()
            try:
                with anyio.fail_after(slow):
                    message = await receive()
            except TimeoutError:
                raise ApiError(408, "The body comes too slowly.", headers={"Connection": "close"}) from None
            if message["type"] == "http.request":
                got += len(message.get("body", b""))
                whole = not message.get("more_body", False)
                if got > most:
                    told = f"The body has more than {most:,} bytes, the most here."
                    raise ApiError(413, told, headers={"Connection": "close"})
                if not whole and time.monotonic() - since > slow + got / _LEAST:
                    raise ApiError(408, "The body comes too slowly.", headers={"Connection": "close"})
            return message

        return counted

    def _note(self, scope: Any, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "other")
        method = scope["method"] if scope["method"] in ("GET", "POST", "PUT", "DELETE", "HEAD") else "other"
        self.metrics.requests.labels(route, method, str(status)).inc()
        self.metrics.seconds.labels(route).observe(seconds)
        who = scope.get("hmt.key", "-")
        logger.info(
            "%s %s %s %.0f ms, key %s, %s", method, route, status or "gone", 1000 * seconds, who,
            scope["hmt.request_id"],
        )  # fmt: skip
