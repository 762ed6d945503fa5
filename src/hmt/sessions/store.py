"""Store: sessions that last, in a folder or behind a URL.

    namespace/session/00000007.json          what version 7 is: a manifest, and the last thing to be written
    namespace/session/00000007-1f0c....part  what it holds; a version takes over what did not change

A session is its newest manifest. It is created and never replaced, so of two writers of a version one gets
a `Conflict`, and a writer that dies leaves parts that nothing names, which the next one removes.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hmt.sessions.archive import KIND, archived, unarchived
from hmt.sessions.names import check_name
from hmt.sessions.places import Files, files_at
from hmt.sessions.record import (
    Damaged,
    Part,
    Record,
    Snapshot,
    parse_record,
    record_bytes,
    sha256,
    to_session,
    to_snapshot,
)
from hmt.sessions.runner import Runner
from hmt.sessions.session import Session
from hmt.util.files import open_file, write_atomically

logger = logging.getLogger(__name__)

_KEPT = 2  # versions of a session
_TRIES = 5  # to read what is being replaced
_MANIFEST = re.compile(r"(\d{8,})\.json")
_PART = re.compile(r"(\d{8,})-[0-9a-f]+\.part")
_DAY = 86400.0


class Conflict(ValueError):
    """Somebody else saved, or deleted, the session in between."""


class Missing(ValueError):
    """There is no such session."""


@dataclass(frozen=True)
class Limits:
    """What one namespace may keep; None: any.

    Attributes:
        sessions: so many. bytes: of each, all its parts together. tokens: read by each.
        idle_days: a session that was not saved for so long is deleted when it is next looked at (`expire`).
    """

    sessions: int | None = None
    bytes: int | None = None
    tokens: int | None = None
    idle_days: float | None = None

    def check(self, record: Record, nbytes: int = 0) -> None:
        """ValueError for a session that is too large."""
        for what, number, most in (("tokens", record.tokens, self.tokens), ("bytes", nbytes, self.bytes)):
            if most is not None and number > most:
                raise ValueError(
                    f"session {record.name} has {number:,} {what}, and {most:,} are the most here; forget a "
                    "document"
                )


@dataclass(frozen=True)
class Stored:
    """A session in a store, without what it holds.

    bytes: of its newest version. created, updated: seconds since 1970. damaged: what is wrong with it.
    """

    name: str
    version: int = 0
    created: float = 0.0
    updated: float = 0.0
    bytes: int = 0
    documents: int = 0
    turns: int = 0
    tokens: int = 0
    model: str = ""
    damaged: str | None = None


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

    Errors are ValueErrors: `Missing`, `Conflict`, `Damaged`, and what a limit or a URL has to say; and
    OSErrors of a local disk. Whatever is raised, the session is as it was before.
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
        self._files: Files = files_at(self.url)

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
        return to_session(self._load(name, version), runner, reread)

    def save(self, session: Session) -> Session:
        """Write the next version; the session with its number.

        A new session (version 0) needs a free name. `Conflict` unless the version that `session` was made
        from is still the newest.
        """
        return replace(session, **self._save(to_snapshot(session)))

    def exists(self, name: str) -> bool:
        """Whether there is one."""
        return bool(self._versions(check_name(name)))

    def list(self) -> list[Stored]:
        """All sessions of the namespace, by name; damaged ones say so."""
        self.expire()
        return [self._stored(name) for name in self._names()]

    def delete(self, name: str) -> None:
        """Remove every version and everything in it."""
        folder = self._folder(name)
        with self._files.locked(folder):
            versions = self._versions(name)
            names = self._files.names(folder)
            # the newest last: a session that is half deleted is never an older one
            for version in versions:
                self._files.remove(f"{folder}/{_manifest(version)}")
            for one in names:
                if _PART.fullmatch(one):
                    self._files.remove(f"{folder}/{one}")
            self._files.remove_folder(folder)
        if not versions:
            raise self._missing(name)

    def fork(self, name: str, new: str) -> Stored:
        """The same session under another name that is free."""
        self._copy(self._load(name), new)
        return self._stored(new)

    def export(self, name: str, path: Any) -> None:
        """Write a session into one file, a path or URL. What is there is replaced only if it is one, too."""
        write_atomically(path, archived(self._load(name)), KIND)

    def export_bytes(self, name: str) -> bytes:
        """What `export` writes."""
        return archived(self._load(name))

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
        self._copy(snapshot, name)
        return self._stored(name)

    def expire(self) -> list[str]:
        """Delete the sessions that were idle for too long; their names."""
        gone = []
        if self.limits.idle_days is not None:
            for name in self._names():
                one = self._stored(name)
                if one.damaged is None and self._expired(one.updated):
                    self.delete(name)
                    gone.append(name)
        return gone

    # -- reading --------------------------------------------------------------------------------------------

    def _folder(self, name: str) -> str:
        return f"{self.namespace}/{check_name(name)}"

    def _names(self) -> Iterator[str]:
        for name in self._files.names(self.namespace):
            try:
                check_name(name)
            except ValueError:
                continue  # a lock, or what somebody else put there
            if self._versions(name):
                yield name

    def _versions(self, name: str) -> list[int]:
        """The versions that are there, oldest first."""
        found = (_MANIFEST.fullmatch(one) for one in self._files.names(self._folder(name)))
        return sorted(int(one[1]) for one in found if one)

    def _record(self, name: str, version: int) -> Record:
        where = f"{self._folder(name)}/{_manifest(version)}"
        record = parse_record(self._files.read(where), where)
        if record.name != name or record.version != version:
            raise Damaged(f"{where} is damaged: it is version {record.version} of session {record.name}")
        return record

    def _load(self, name: str, version: int | None = None) -> Snapshot:
        folder = self._folder(name)
        for attempt in range(_TRIES):
            versions = self._versions(name)
            if not versions:
                raise self._missing(name)
            wanted = versions[-1] if version is None else version
            if wanted not in versions:
                told = ", ".join(map(str, versions))
                raise Missing(f"session {name} has no version {wanted}; there are {told}")
            try:
                record = self._record(name, wanted)
                if version is None and self._expired(record.updated):
                    self.delete(name)
                    raise self._missing(name)
                parts = {}
                for label, part in record.parts.items():
                    parts[label] = self._files.read(f"{folder}/{part.file}")
                    if sha256(parts[label]) != part.sha256:
                        raise self._damage(name, f"its {label}", versions, wanted)
            except FileNotFoundError as error:  # a newer version took its place meanwhile
                if self._versions(name) == versions or attempt == _TRIES - 1:
                    what = Path(str(error.filename or error)).name
                    raise self._damage(name, f"{what}, which is missing,", versions, wanted) from None
            except Damaged as error:
                if str(error).startswith("session "):
                    raise
                raise self._damage(name, "its manifest", versions, wanted) from error
            else:
                return Snapshot(record, parts)
        raise AssertionError("unreachable")  # pragma: no cover

    def _damage(self, name: str, what: str, versions: list[int], wanted: int) -> Damaged:
        older = [version for version in versions if version != wanted]
        told = f"; version {older[-1]} is there, too, and may be whole" if older else ""
        return Damaged(f"session {name} is damaged: {what} is not what was written{told}")

    def _stored(self, name: str) -> Stored:
        versions = self._versions(name)
        if not versions:
            raise self._missing(name)
        try:
            record = self._record(name, versions[-1])
        except (ValueError, FileNotFoundError) as error:
            return Stored(name, versions[-1], damaged=str(error))
        return Stored(
            name, record.version, record.created, record.updated, _bytes(record), len(record.documents),
            len(record.turns), record.tokens, record.model,
        )  # fmt: skip

    def _missing(self, name: str) -> Missing:
        return Missing(f"there is no session {name}")

    def _expired(self, updated: float) -> bool:
        days = self.limits.idle_days
        return days is not None and time.time() - updated > days * _DAY

    # -- writing --------------------------------------------------------------------------------------------

    def _copy(self, snapshot: Snapshot, name: str) -> None:
        record = replace(snapshot.record, name=check_name(name), uid="", version=0, updated=time.time())
        self._save(Snapshot(record, snapshot.parts))

    def _save(self, snapshot: Snapshot) -> dict[str, Any]:
        """Write the next version; its version and uid."""
        record, parts = snapshot
        folder = self._folder(record.name)
        self.limits.check(record, sum(part.size for part in record.parts.values()))
        if not record.version and self.limits.sessions is not None:
            self.expire()
            if sum(1 for _ in self._names()) >= self.limits.sessions:
                raise ValueError(f"there are {self.limits.sessions} sessions, the most here; delete one")
        with self._files.locked(folder):
            before = self._before(record)
            version, token = record.version + 1, secrets.token_hex(8)
            known = {} if before is None else {part.sha256: part for part in before.parts.values()}
            told, written = {}, []
            try:
                for number, (label, part) in enumerate(sorted(record.parts.items())):
                    if part.sha256 not in known:
                        file = f"{version:08}-{token}{number:04x}.part"
                        written.append(f"{folder}/{file}")
                        self._files.write(written[-1], parts[label])
                        known[part.sha256] = Part(file, part.size, part.sha256)
                    told[label] = known[part.sha256]
                uid = record.uid if before is not None else token
                now = replace(record, version=version, uid=uid, parts=told)
                self._files.create(f"{folder}/{_manifest(version)}", record_bytes(now))
            except FileExistsError:
                self._take_back(folder, written)
                raise Conflict(f"session {record.name}: {_LATER}") from None
            except BaseException:
                self._take_back(folder, written)
                raise
            self._prune(folder, now, before)
        return {"version": version, "uid": uid}

    def _before(self, record: Record) -> Record | None:
        """The manifest that a snapshot was made from, None of a new one. `Conflict` if there is a newer."""
        versions = self._versions(record.name)
        if not record.version:
            if versions:
                raise Conflict(f"there is a session {record.name} already; open it, or take another name")
            self._remove_left(self._folder(record.name))
            return None
        if not versions:
            raise Conflict(f"session {record.name} was deleted since it was opened")
        newest = self._record(record.name, versions[-1])
        if newest.version != record.version or newest.uid != record.uid:
            raise Conflict(f"session {record.name}: {_LATER}")
        return newest

    def _remove_left(self, folder: str) -> None:
        """Remove what a deletion that was killed left of a session that is no more."""
        names = self._files.names(folder)
        if any(_MANIFEST.fullmatch(one) for one in names):
            return
        for one in names:
            part = _PART.fullmatch(one)
            if part and int(part[1]) > 1:  # a first version may be being written
                self._files.remove(f"{folder}/{one}")

    def _take_back(self, folder: str, written: list[str]) -> None:
        """Remove the parts of a version that there will not be."""
        try:
            for path in written:
                self._files.remove(path)
            if not self._files.names(folder):
                self._files.remove_folder(folder)
        except (OSError, ValueError) as error:  # the next version removes them
            logger.warning("What was begun in %s is not removed yet: %s.", folder, error)

    def _prune(self, folder: str, now: Record, before: Record | None) -> None:
        """Remove what no version needs, and versions that are too old, or hold what was forgotten.

        Only what is named after this version or older ones: another writer may be at the next one.
        """
        kept = [now]
        if before is not None and _holds(before) <= _holds(now):
            kept.append(before)
        manifests = {_manifest(record.version) for record in kept[:_KEPT]}
        parts = {part.file for record in kept[:_KEPT] for part in record.parts.values()}
        try:
            self._files.tidy(folder)
            for one in self._files.names(folder):
                manifest, part = _MANIFEST.fullmatch(one), _PART.fullmatch(one)
                old = manifest and int(manifest[1]) <= now.version and one not in manifests
                if old or (part and int(part[1]) <= now.version and one not in parts):
                    self._files.remove(f"{folder}/{one}")
        except (OSError, ValueError) as error:  # it is saved all the same
            logger.warning("Old versions in %s are not removed yet: %s.", folder, error)


_LATER = "it was saved by somebody else since it was opened; open it again"


def _manifest(version: int) -> str:
    return f"{version:08}.json"


def _holds(record: Record) -> set[tuple]:
    """Documents and turns, by what they say."""
    turns = {(turn.question, turn.answer, turn.created) for turn in record.turns}
    return {(one.id, one.digest, one.keep) for one in record.documents} | turns


def _bytes(record: Record) -> int:
    """Of all files of a version."""
    files = {part.file: part.size for part in record.parts.values()}
    return sum(files.values()) + len(record_bytes(record))
