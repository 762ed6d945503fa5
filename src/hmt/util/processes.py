"""Processes that never outlive the one that started them, however it ends.

A child looks again and again whether its parent is still its parent: no signal has to reach it, so SIGKILL
leaves no orphan either, on any system. Signals that end a command are held back from `Workers`, whose parent
ends them. Nothing here owns a semaphore, which a killed process would leave behind.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from typing import Any

from hmt.util.signals import STOPPING

_PARENT = "HMT_PARENT"  # tells a child of `run_module` which process it belongs to
_LOOK = 0.2  # seconds between two looks at the parent

Event = tuple[str, str, Any]  # job, "post" or "done", what was posted or returned


def end_with_parent(parent: int | None = None) -> None:
    """End this process as soon as the process `parent` has ended.

    parent: process id; None: the one that `run_module` named, where this process is of its making.
    """
    named = os.environ.pop(_PARENT, "")
    if parent is None and named.isdigit():
        parent = int(named)
    if parent is not None:
        threading.Thread(target=_watch, args=(parent,), name="end-with-parent", daemon=True).start()


def _watch(parent: int) -> None:
    while _is_parent(parent):
        time.sleep(_LOOK)
    os._exit(1)


def _is_parent(process: int) -> bool:
    if os.name == "posix":  # an orphan gets another parent at once
        return os.getppid() == process
    import psutil

    return psutil.pid_exists(process)


def without_shared_locks() -> None:
    """Let tqdm, in whichever library, lock between the threads of this process only.

    Its lock between processes is a semaphore, reported as leaked where this process is killed.
    """
    from tqdm import tqdm

    tqdm.set_lock(threading.RLock())


def run_module(
    module: str, *words: str, environment: Mapping[str, str] | None = None, input: str | None = None
) -> subprocess.CompletedProcess[str]:
    """`python -m MODULE WORDS` to its end, with its output as text.

    The module calls `end_with_parent()` first of all. environment: variables, where they are not set already.
    """
    variables = {**(environment or {}), **os.environ, _PARENT: str(os.getpid())}
    variables["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    return subprocess.run(
        [sys.executable, "-m", module, *words], input=input, capture_output=True, env=variables,
        text=True, encoding="utf-8", errors="replace",
    )  # fmt: skip


class Workers:
    """Processes that do jobs, one after another each.

        with Workers(2) as workers:
            workers.submit("a", train, folder)      # train(post, folder), in another process
            for job, kind, value in workers.events(timeout=0.1):
                ...

    They are started as they are needed. An error or a signal inside the block kills them.

    Args:
        number: of processes at most.
        begin: called in each of them first.
    """

    def __init__(self, number: int, begin: Callable[[], None] | None = None):
        self.number, self.begin = number, begin
        self._context = multiprocessing.get_context("spawn")
        self._processes: list[Any] = []
        self._waiting: deque[tuple[str, Callable[..., Any], tuple[Any, ...]]] = deque()
        self._idle: list[Connection] = []
        self._busy: dict[Connection, str] = {}

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        for connection in [*self._idle, *self._busy]:
            connection.close()  # an idle worker ends by that
        for process in self._processes:
            if process.pid is None:  # interrupted before it was started
                continue
            if kind is not None or self._busy:
                process.kill()  # training answers gentler signals with a checkpoint
            process.join()

    def submit(self, job: str, function: Callable[..., Any], *args: Any) -> None:
        """Have `function(post, *args)` called as soon as a process is free; `post(value)` is an event."""
        self._waiting.append((job, function, args))
        self._assign()

    def events(self, timeout: float) -> Iterator[Event]:
        """What has happened since, waiting at most `timeout` seconds for the first of it.

        Raises what a job raised. ValueError where its process was killed.
        """
        for connection in wait(list(self._busy), timeout):
            assert isinstance(connection, Connection)
            job = self._busy[connection]
            try:
                kind, value = connection.recv()
            except (EOFError, OSError):
                raise ValueError(
                    f"the process of the job {job!r} was killed, which is what happens when memory runs out; "
                    "try again with fewer processes at a time"
                ) from None
            if kind == "failed":
                error, where = value
                raise error from RuntimeError(f"in the process of the job {job!r}:\n{where}")
            if kind == "done":
                del self._busy[connection]
                self._idle.append(connection)
                self._assign()
            yield job, kind, value

    def results(self) -> dict[str, Any]:
        """What the jobs return, once all of them are done; raises as `events` does."""
        found: dict[str, Any] = {}
        while self._busy:
            found |= {job: value for job, kind, value in self.events(timeout=1.0) if kind == "done"}
        return found

    def _assign(self) -> None:
        while self._waiting and (self._idle or len(self._processes) < self.number):
            connection = self._idle.pop() if self._idle else self._start()
            job, function, args = self._waiting.popleft()
            self._busy[connection] = job
            connection.send((function, args))

    def _start(self) -> Connection:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(theirs, os.getpid(), self.begin), daemon=True)
        self._processes.append(process)
        with _signals_held_back():
            process.start()
        theirs.close()
        return ours


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """Processes that are started inside never see the signals that end a command; this one will."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    from multiprocessing.resource_tracker import ensure_running

    ensure_running()  # it would be started by the first process, and let the signals through
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(connection: Connection, parent: int, begin: Callable[[], None] | None) -> None:
    """What a worker does."""
    end_with_parent(parent)
    without_shared_locks()

    def tell(kind: str, value: Any) -> None:
        try:
            connection.send((kind, value))
        except OSError:  # the parent is gone
            os._exit(1)

    while True:
        try:
            function, args = connection.recv()
        except (EOFError, OSError):
            return
        try:
            if begin is not None:
                begin()
                begin = None
            answer = "done", function(lambda value: tell("post", value), *args)
        except BaseException as error:
            answer = "failed", (_portable(error), traceback.format_exc())
        tell(*answer)


def _portable(error: BaseException) -> BaseException:
    """The error, or one that says the same where it cannot be sent to another process."""
    try:
        return pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
