"""The signals that end a command: Ctrl-C, `kill`, and a terminal that is closed."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# SIGHUP is not known on Windows
STOPPING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
_AGAIN = 0.05  # seconds until a signal that was lost is raised again


class Stopped(KeyboardInterrupt):
    """Stopped by a signal; what there is to say about it is the message. Attributes: signal (number)."""

    def __init__(self, number: int = signal.SIGINT, message: str = "interrupted"):
        self.signal = int(number)
        super().__init__(message)


@contextmanager
def stop_signals() -> Iterator[None]:
    """Inside, SIGTERM and SIGHUP raise `Stopped` as Ctrl-C does, so that what cleans up after it always does.

    Signals that are ignored (nohup, a job in the background) stay ignored. Where a signal comes in a place
    that cannot raise (a weak reference's callback), Python would print a traceback and go on: it comes again.
    """
    before = {number: signal.getsignal(number) for number in STOPPING}
    hook = sys.unraisablehook
    late: list[threading.Timer] = []

    def again(lost: Any) -> None:
        if not isinstance(lost.exc_value, KeyboardInterrupt):
            hook(lost)
            return
        number = getattr(lost.exc_value, "signal", signal.SIGINT)
        late.append(threading.Timer(_AGAIN, os.kill, (os.getpid(), number)))
        late[-1].daemon = True
        late[-1].start()

    sys.unraisablehook = again
    for number, handler in before.items():
        if handler in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _stop)
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for timer in late:
            timer.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)


def end_at_once() -> None:
    """From now on each of the signals ends the process, without a word: nothing is left to clean up."""
    for number in STOPPING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


def _stop(number: int, frame: object) -> None:
    raise Stopped(number)
