"""Sessions that were opened lately: opening one checks every byte of it, and takes as long as some tokens."""

from __future__ import annotations

import threading
from collections import OrderedDict

from hmt.sessions import Session

Where = tuple[str, str]  # namespace, name


class Opened:
    """Sessions by where they are, as of one version each; the oldest leave first.

    Args: most: bytes of all of them, about.
    """

    def __init__(self, most: int = 2**29):
        self._most, self._bytes = most, 0
        self._sessions: OrderedDict[Where, tuple[Session, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, where: Where, uid: str, version: int) -> Session | None:
        """The session, if it is of that version."""
        with self._lock:
            found = self._sessions.get(where)
            if found is None or (found[0].uid, found[0].version) != (uid, version):
                return None
            self._sessions.move_to_end(where)
            return found[0]

    def put(self, where: Where, session: Session) -> None:
        """In the place of any other version."""
        texts = sum(len(one.text or "") for one in session.documents)
        size = session.memory.nbytes + 2 * texts
        with self._lock:
            self._drop(where)
            self._sessions[where] = session, size
            self._bytes += size
            while self._bytes > self._most:
                self._drop(next(iter(self._sessions)))

    def drop(self, where: Where) -> None:
        """Forget one, if it is there."""
        with self._lock:
            self._drop(where)

    def _drop(self, where: Where) -> None:
        gone = self._sessions.pop(where, None)
        if gone is not None:
            self._bytes -= gone[1]
