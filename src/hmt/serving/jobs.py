"""What is asked of the engine: a read, an answer, a look at a memory. Made in one thread, done in another."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from hmt.memory.memory import Memory
    from hmt.memory.state import MemoryState
    from hmt.serving.sampling import Sampler


class Busy(RuntimeError):
    """More is waiting than the engine takes; try again after `retry_after` seconds."""

    def __init__(self, message: str, retry_after: float = 1.0):
        super().__init__(message)
        self.retry_after = retry_after


class Closed(RuntimeError):
    """The engine has been closed, or is closing and takes nothing new."""


class _Done:
    """The last thing that is heard of a job: its result, or what went wrong."""

    def __init__(self, result: Any = None, error: BaseException | None = None):
        self.result, self.error = result, error


@dataclass(eq=False)
class Job:
    """One piece of work. What the engine tells of it is heard by the thread that waits for it."""

    told: queue.SimpleQueue = field(default_factory=queue.SimpleQueue)
    cancelled: bool = False
    since: float = field(default_factory=time.monotonic)

    def tell(self, news: Any) -> None:
        """Something for `news`; called by the engine."""
        self.told.put(news)

    def finish(self, result: Any = None, error: BaseException | None = None) -> None:
        """Nothing more comes; called by the engine."""
        self.told.put(_Done(result, error))

    def news(self) -> Generator[Any, None, None]:
        """What is told, until the job has ended; then `result`, or the error is raised.

        Whoever stops listening cancels the job.
        """
        try:
            while not isinstance(one := self.told.get(), _Done):
                yield one
            if one.error is not None:
                raise one.error
            self.result = one.result
        except BaseException:
            self.cancelled = True
            raise
        finally:
            self.cancelled = True

    def wait(self, hear: Callable[[Any], Any] | None = None) -> Any:
        """The result. hear: called with everything that is told; what it raises cancels the job."""
        for one in self.news():
            if hear is not None:
                hear(one)
        return self.result


@dataclass(eq=False)
class Reading(Job):
    """Tokens to be read on top of a memory of one stream; `ending`: the open segment is closed behind them.

    Attributes:
        memory: as it was given; at the end the one with all that was read.
        ids: int64 [T], those of the open segment of `memory` in front.
        before: so many of `ids` were in the open segment.
        state, done: tensors of its own, and how many of `ids` are in it.
    """

    memory: Memory = None  # type: ignore[assignment]
    ids: Tensor = None  # type: ignore[assignment]
    before: int = 0
    ending: bool = False
    state: MemoryState | None = None
    done: int = 0

    def left(self, length: int) -> int:
        """Segments that are still to be read."""
        whole, rest = divmod(len(self.ids) - self.done, length)
        return whole + (self.ending and rest > 0)


@dataclass(eq=False)
class Answering(Job):
    """Tokens to be written behind a memory of one stream and the header int64 [1, n]."""

    memory: Memory = None  # type: ignore[assignment]
    header: Tensor = None  # type: ignore[assignment]
    sampler: Sampler = None  # type: ignore[assignment]


@dataclass(eq=False)
class Looking(Job):
    """A function that is called between two steps."""

    work: Callable[[], Any] = lambda: None
