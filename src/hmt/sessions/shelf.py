"""Versions of the sessions of one namespace, as files. Nothing here needs a model.

    namespace/session/00000007.json          what version 7 is: a manifest, and the last thing to be written
    namespace/session/00000007-1f0c....part  what it holds; a version takes over what did not change

A session is its newest manifest. It is created and never replaced, so of two writers of a version one gets
a `Conflict`, and a writer that dies leaves parts that nothing names, which the next one removes.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hmt.sessions.names import check_name
from hmt.sessions.places import Files
from hmt.sessions.record import Damaged, Part, Record, Snapshot, parse_record, record_bytes, sha256

logger = logging.getLogger(__name__)

_KEPT = 2  # versions of a session
_TRIES = 5  # to read what is being replaced
_MANIFEST = re.compile(r"(\d{8,})\.json")
_PART = re.compile(r"(\d{8,})-[0-9a-f]+\.part")
_DAY = 86400.0
_LATER = "it was saved by somebody else since it was opened; open it again"


class Conflict(ValueError):
    """Somebody else saved, or deleted, the session in between."""


class Missing(ValueError):
    """There is no such session."""


class Full(ValueError):
    """A limit of the store is reached."""


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
        """`Full` for a session that is too large."""
        for what, number, most in (("tokens", record.tokens, self.tokens), ("bytes", nbytes, self.bytes)):
            if most is not None and number > most:
                raise Full(
                    f"session {record.name} has {number:,} {what}, and {most:,} are the most here; forget a "
                    "document"
                )


@dataclass(frozen=True)
class Stored:
    """A session in a store, without what it holds.

    bytes: of its newest version. created, updated: seconds since 1970. damaged: what is wrong with it.
    uid: of the session, another one where it was deleted and made again.
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
    uid: str = ""


class Shelf:
    """The sessions of one namespace. Args: files: all of the store. Errors as of `Store`."""

    def __init__(self, files: Files, namespace: str, limits: Limits):
        self.files, self.namespace, self.limits = files, namespace, limits

    # -- reading --------------------------------------------------------------------------------------------

    def _folder(self, name: str) -> str:
        return f"{self.namespace}/{check_name(name)}"

    def names(self) -> Iterator[str]:
        """Of the sessions that are there, sorted."""
        for name in self.files.names(self.namespace):
            try:
                check_name(name)
            except ValueError:
                continue  # a lock, or what somebody else put there
            if self.versions(name):
                yield name

    def versions(self, name: str) -> list[int]:
        """The versions that are there, oldest first."""
        found = (_MANIFEST.fullmatch(one) for one in self.files.names(self._folder(name)))
        return sorted(int(one[1]) for one in found if one)

    def record(self, name: str, version: int) -> Record:
        """The manifest of a version. `Damaged` for one of anything else."""
        where = f"{self._folder(name)}/{_manifest(version)}"
        record = parse_record(self.files.read(where), where)
        if record.name != name or record.version != version:
            raise Damaged(f"{where} is damaged: it is version {record.version} of session {record.name}")
        return record

    def load(self, name: str, version: int | None = None) -> Snapshot:
        """A version, None: the newest, every byte of it checked."""
        folder = self._folder(name)
        for attempt in range(_TRIES):
            versions = self.versions(name)
            if not versions:
                raise self._missing(name)
            wanted = versions[-1] if version is None else version
            if wanted not in versions:
                told = ", ".join(map(str, versions))
                raise Missing(f"session {name} has no version {wanted}; there are {told}")
            try:
                record = self.record(name, wanted)
                if version is None and self._expired(record.updated):
                    self.delete(name)
                    raise self._missing(name)
                parts = {}
                for label, part in record.parts.items():
                    parts[label] = self.files.read(f"{folder}/{part.file}")
                    if sha256(parts[label]) != part.sha256:
                        raise self._damage(name, f"its {label}", versions, wanted)
            except FileNotFoundError as error:  # a newer version took its place meanwhile
                if self.versions(name) == versions or attempt == _TRIES - 1:
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

    def stored(self, name: str) -> Stored:
        """What the newest manifest says."""
        versions = self.versions(name)
        if not versions:
            raise self._missing(name)
        try:
            record = self.record(name, versions[-1])
        except (ValueError, FileNotFoundError) as error:
            return Stored(name, versions[-1], damaged=str(error))
        return Stored(
            name, record.version, record.created, record.updated, _bytes(record), len(record.documents),
            len(record.turns), record.tokens, record.model, uid=record.uid,
        )  # fmt: skip

    def delete(self, name: str) -> None:
        """See `Store.delete`."""
        folder = self._folder(name)
        with self.files.locked(folder):
            versions = self.versions(name)
            names = self.files.names(folder)
            # the newest last: a session that is half deleted is never an older one
            for version in versions:
                self.files.remove(f"{folder}/{_manifest(version)}")
            for one in names:
                if _PART.fullmatch(one):
                    self.files.remove(f"{folder}/{one}")
            self.files.remove_folder(folder)
        if not versions:
            raise self._missing(name)

    def expire(self) -> list[str]:
        """See `Store.expire`."""
        gone = []
        if self.limits.idle_days is not None:
            for name in self.names():
                one = self.stored(name)
                if one.damaged is None and self._expired(one.updated):
                    self.delete(name)
                    gone.append(name)
        return gone

    def _missing(self, name: str) -> Missing:
        return Missing(f"there is no session {name}")

    def _expired(self, updated: float) -> bool:
        days = self.limits.idle_days
        return days is not None and time.time() - updated > days * _DAY

    # -- writing --------------------------------------------------------------------------------------------

    def copy(self, snapshot: Snapshot, name: str) -> None:
        """Save a snapshot as a new session."""
        record = replace(snapshot.record, name=check_name(name), uid="", version=0, updated=time.time())
        self.save(Snapshot(record, snapshot.parts))

    def save(self, snapshot: Snapshot) -> dict[str, Any]:
        """Write the next version; its version and uid."""
        record, parts = snapshot
        folder = self._folder(record.name)
        self.limits.check(record, sum(part.size for part in record.parts.values()))
        if not record.version and self.limits.sessions is not None:
            self.expire()
            if sum(1 for _ in self.names()) >= self.limits.sessions:
                raise Full(f"there are {self.limits.sessions} sessions, the most here; delete one")
        with self.files.locked(folder):
            before = self._before(record)
            version, token = record.version + 1, secrets.token_hex(8)
            known = {} if before is None else {part.sha256: part for part in before.parts.values()}
            told, written = {}, []
            try:
                for number, (label, part) in enumerate(sorted(record.parts.items())):
                    if part.sha256 not in known:
                        file = f"{version:08}-{token}{number:04x}.part"
                        written.append(f"{folder}/{file}")
                        self.files.write(written[-1], parts[label])
                        known[part.sha256] = Part(file, part.size, part.sha256)
                    told[label] = known[part.sha256]
                uid = record.uid if before is not None else token
                now = replace(record, version=version, uid=uid, parts=told)
                self.files.create(f"{folder}/{_manifest(version)}", record_bytes(now))
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
        versions = self.versions(record.name)
        if not record.version:
            if versions:
                raise Conflict(f"there is a session {record.name} already; open it, or take another name")
            self._remove_left(self._folder(record.name))
            return None
        if not versions:
            raise Conflict(f"session {record.name} was deleted since it was opened")
        newest = self.record(record.name, versions[-1])
        if newest.version != record.version or newest.uid != record.uid:
            raise Conflict(f"session {record.name}: {_LATER}")
        return newest

    def _remove_left(self, folder: str) -> None:
        """Remove what a deletion that was killed left of a session that is no more."""
        names = self.files.names(folder)
        if any(_MANIFEST.fullmatch(one) for one in names):
            return
        for one in names:
            part = _PART.fullmatch(one)
            if part and int(part[1]) > 1:  # a first version may be being written
                self.files.remove(f"{folder}/{one}")

    def _take_back(self, folder: str, written: list[str]) -> None:
        """Remove the parts of a version that there will not be."""
        try:
            for path in written:
                self.files.remove(path)
            if not self.files.names(folder):
                self.files.remove_folder(folder)
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
            self.files.tidy(folder)
            for one in self.files.names(folder):
                manifest, part = _MANIFEST.fullmatch(one), _PART.fullmatch(one)
                old = manifest and int(manifest[1]) <= now.version and one not in manifests
                if old or (part and int(part[1]) <= now.version and one not in parts):
                    self.files.remove(f"{folder}/{one}")
        except (OSError, ValueError) as error:  # it is saved all the same
            logger.warning("Old versions in %s are not removed yet: %s.", folder, error)


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
