"""The signals that end a command: Ctrl-C, `kill`, and a terminal that is closed."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

# SIGHUP is not known on Windows
STOPPING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Stopped(KeyboardInterrupt):
    """Stopped by a signal; what there is to say about it is the message. Attributes: signal (number)."""

    def __init__(self, number: int, message: str = "interrupted"):
        self.signal = int(number)
        super().__init__(message)


@contextmanager
def stop_signals() -> Iterator[None]:
    """Inside, SIGTERM and SIGHUP raise `Stopped` as Ctrl-C does, so that what cleans up after it always does.

    Signals that are ignored (nohup, a job in the background) stay ignored. Afterwards each ends the process
    at once: nothing is left to clean up, and the interpreter would answer Ctrl-C with a traceback.
    """
    ours = [n for n in STOPPING if signal.getsignal(n) in (signal.SIG_DFL, signal.default_int_handler)]
    for number in ours:
        signal.signal(number, _stop)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def _stop(number: int, frame: object) -> None:
    raise Stopped(number)
