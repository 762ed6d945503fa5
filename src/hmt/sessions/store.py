"""Store: sessions that last, in a folder or behind a URL. What lies there is `hmt.sessions.shelf`'s."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from hmt.sessions.archive import KIND, archived, unarchived
from hmt.sessions.names import check_name
from hmt.sessions.places import files_at
from hmt.sessions.record import to_session, to_snapshot
from hmt.sessions.runner import Runner
from hmt.sessions.session import Session
from hmt.sessions.shelf import Limits, Shelf, Stored
from hmt.util.files import open_file, write_atomically


def default_url() -> str:
    """`$HMT_HOME/sessions`, else `sessions` in the folder of a user's data: `$XDG_DATA_HOME/hmt`, or
    `~/.local/share/hmt`. Not in the cache, which may be deleted."""
    home = os.environ.get("HMT_HOME")
    if not home:
        home = os.path.join(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share", "hmt")
    return os.path.join(home, "sessions")


class Store:
    """Sessions of one namespace.

    Args:
        url: a folder, or a URL that fsspec knows (`s3://bucket/sessions`, `gs://...`, `hf://...`,
            `memory://...`); None: `default_url`.
        namespace: sessions of others are neither seen nor named. See `check_name`.
        limits: see there.

    Errors are ValueErrors: `Missing`, `Conflict`, `Damaged`, `Full`, and what a URL has to say; and OSErrors
    of a local disk. Whatever is raised, the session is as it was before.
    """

    def __init__(
        self,
        url: str | os.PathLike | None = None,
        namespace: str = "default",
        limits: Limits | None = None,
    ):
        self.url = default_url() if url is None else url
        self.namespace = check_name(namespace, "namespace")
        self.limits = limits or Limits()
        self._shelf = Shelf(files_at(self.url), self.namespace, self.limits)

    # -- sessions -------------------------------------------------------------------------------------------

    def create(self, name: str, runner: Runner) -> Session:
        """A new session that has read nothing, saved. ValueError for a name that is taken."""
        return self.save(Session.new(name, runner))

    def open(self, name: str, runner: Runner, *, version: int | None = None, reread: bool = False) -> Session:
        """The session as it was saved last.

        Args:
            version: an older one that is still there (the one before).
            reread: read its texts again if its memory is of another model.
        """
        return to_session(self._shelf.load(name, version), runner, reread)

    def save(self, session: Session) -> Session:
        """Write the next version; the session with its number.

        A new session (version 0) needs a free name. `Conflict` unless the version that `session` was made
        from is still the newest.
        """
        return replace(session, **self._shelf.save(to_snapshot(session)))

    def exists(self, name: str) -> bool:
        """Whether there is one."""
        return bool(self._shelf.versions(name))

    def stored(self, name: str) -> Stored:
        """What its newest version is; what it holds is not read."""
        return self._shelf.stored(name)

    def list(self) -> Sequence[Stored]:
        """All sessions of the namespace, by name; damaged ones say so."""
        self.expire()
        return [self._shelf.stored(name) for name in self._shelf.names()]

    def describe(self, name: str) -> dict[str, Any]:
        """Plain values of what its newest version holds, texts left out; no model is needed. `Damaged` as of
        `open`."""
        record = self._shelf.load(name).record
        fields = ("id", "name", "kind", "tokens", "segments", "keep", "digest")
        return {
            **asdict(self._shelf.stored(name)),
            "documents": [{field: getattr(one, field) for field in fields} for one in record.documents],
            "turns": [
                {"question": turn.question, "answer": turn.answer, "created": turn.created}
                for turn in record.turns
            ],
        }

    def delete(self, name: str) -> None:
        """Remove every version and everything in it."""
        self._shelf.delete(name)

    def fork(self, name: str, new: str) -> Stored:
        """The same session under another name that is free."""
        self._shelf.copy(self._shelf.load(name), new)
        return self._shelf.stored(new)

    def export(self, name: str, path: Any) -> None:
        """Write a session into one file, a path or URL. What is there is replaced only if it is one, too."""
        write_atomically(path, archived(self._shelf.load(name)), KIND)

    def export_bytes(self, name: str) -> bytes:
        """What `export` writes."""
        return archived(self._shelf.load(name))

    def import_(self, source: Any, name: str | None = None) -> Stored:
        """A session of a file that was exported, under a name that is free.

        source: a path or URL, or bytes. name: None takes the one it had. `Damaged` for anything else.
        """
        from hmt.memory.memory import Memory

        if isinstance(source, bytes):
            data, where = source, "what is imported"
        else:
            with open_file(source) as file:
                data, where = file.read(), source
        snapshot = unarchived(data, where)
        Memory.from_bytes(snapshot.parts["memory"], source=f"the memory in {where}")
        name = snapshot.record.name if name is None else name
        self._shelf.copy(snapshot, name)
        return self._shelf.stored(name)

    def expire(self) -> Sequence[str]:
        """Delete the sessions that were idle for too long; their names."""
        return self._shelf.expire()
