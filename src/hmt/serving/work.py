"""Blocking work beside the event loop: in threads, so many at once, ended when nobody waits for it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any, TypeVar

import anyio.to_thread
from anyio import CapacityLimiter
from fastapi import Request

from hmt.serving.errors import ApiError, Gone

T = TypeVar("T")
Emit = Callable[[Any], None]


class Cancel:
    """Whether a piece of work is still wanted; it looks by itself, between two tokens or segments."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """It is not wanted any more."""
        self._event.set()

    def check(self, *_: object) -> None:
        """`Gone` where it is not."""
        if self._event.is_set():
            raise Gone


class Work:
    """Threads that use the model.

    Args: running: at once. waiting: further calls at most; more of them are told to come back (429).
    """

    def __init__(self, running: int, waiting: int):
        self._limiter = CapacityLimiter(running)
        self._most = running + waiting
        self._cancels: set[Cancel] = set()
        self._stopping = False

    @property
    def there(self) -> int:
        """Calls that run or wait."""
        return len(self._cancels)

    def stop(self) -> None:
        """End all that is at work, as if its clients had gone; from now on nothing is begun."""
        self._stopping = True
        for cancel in list(self._cancels):
            cancel.set()

    async def run(self, cancel: Cancel, function: Callable[[], T]) -> T:
        """What a function returns, called in a thread. ApiError 429 where too many wait already."""
        if self._stopping:
            raise ApiError(503, "The server is being stopped.", code="stopping")
        if self.there >= self._most:
            raise ApiError(429, f"{self.there} requests are waiting already; try again later.")

        def call() -> T:
            cancel.check()
            return function()

        self._cancels.add(cancel)
        try:
            return await anyio.to_thread.run_sync(call, limiter=self._limiter)
        finally:
            self._cancels.discard(cancel)

    async def answer(self, request: Request, function: Callable[[Cancel], T]) -> T:
        """What a function returns; its `Cancel` is set as soon as the client goes away."""
        cancel = Cancel()
        watcher = asyncio.ensure_future(_watch(request, cancel))
        try:
            return await self.run(cancel, lambda: function(cancel))
        finally:
            watcher.cancel()

    async def stream(
        self, request: Request, function: Callable[[Cancel, Emit], None]
    ) -> tuple[Any, AsyncIterator[Any]]:
        """What a function emits: the first of it, once it is there, and what comes behind.

        Errors before the first come out here, later ones of the iterator. Closing that ends the function.
        """
        cancel, loop = Cancel(), asyncio.get_running_loop()
        told: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()

        def emit(value: Any) -> None:
            cancel.check()
            loop.call_soon_threadsafe(told.put_nowait, ("value", value))

        async def work() -> None:
            try:
                await self.run(cancel, lambda: function(cancel, emit))
            except BaseException as error:
                told.put_nowait(("error", error))
                if not isinstance(error, Exception):
                    raise
            else:
                told.put_nowait(("end", None))

        async def next_one() -> tuple[str, Any]:
            kind, value = await told.get()
            if kind == "error":
                raise value
            return kind, value

        task = asyncio.ensure_future(work())

        async def end() -> None:
            cancel.set()
            with suppress(Exception):
                await asyncio.shield(task)

        watcher = asyncio.ensure_future(_watch(request, cancel))
        try:
            kind, first = await next_one()
        except BaseException:
            cancel.set()
            raise
        finally:
            watcher.cancel()

        async def rest() -> AsyncIterator[Any]:
            ended = kind == "end"
            try:
                while not ended:
                    more, value = await next_one()
                    if more == "end":
                        ended = True
                    else:
                        yield value
            finally:
                if not ended:
                    await end()

        return first, rest()


async def _watch(request: Request, cancel: Cancel) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    cancel.set()
