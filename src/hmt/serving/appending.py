"""A document that is read into a memory and saved while it is."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from hmt.asking.places import Document
from hmt.serving.errors import ApiError
from hmt.serving.work import Cancel
from hmt.sessions import Session, Step, append_steps

Told = Callable[[Step], None]

_PART = 0.1  # of the time, at most, goes into saving


class Appending:
    """One attempt.

    Args:
        session: as it is saved. save: writes a session, and returns it with its version.
        every: seconds between two saves, at least; 0: after every step.

    Attributes:
        mine: the id of the document, once any of it is saved.
    """

    def __init__(
        self, session: Session, document: Document, save: Callable[[Session], Session], every: float
    ):
        self._saved, self._document, self._save, self._every = session, document, save, every
        self.mine: str | None = None

    def run(self, cancel: Cancel, told: Told | None = None) -> Session:
        """Read to the end, or as far as it is wanted; what was read is saved either way, and then told."""
        since, took, unsaved = time.monotonic(), 0.0, None
        try:
            for step in append_steps(self._saved, self._document):
                unsaved = step
                pause = max(self._every, took / _PART) if self._every else 0.0
                if step.done or time.monotonic() - since >= pause:
                    unsaved, began = None, time.monotonic()
                    self._keep(step)
                    since = time.monotonic()
                    took = since - began
                    if told is not None:
                        told(step)
                cancel.check()
        except ApiError:
            raise
        except BaseException:
            if unsaved is not None:
                self._keep(unsaved)
            raise
        return self._saved

    def _keep(self, step: Step) -> None:
        now = replace(step.session, version=self._saved.version, uid=self._saved.uid)
        self._saved = self._save(now)
        self.mine = now.documents[-1].id
