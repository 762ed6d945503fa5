"""The memories of one key: what the routes ask of sessions and their store. Everything here blocks."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from weakref import WeakValueDictionary

from hmt.asking.places import Document
from hmt.serving.appending import Appending, Told
from hmt.serving.errors import ApiError, not_found
from hmt.serving.opened import Opened
from hmt.serving.work import Cancel
from hmt.sessions import (
    Conflict,
    Damaged,
    Found,
    Full,
    Limits,
    Missing,
    Remembered,
    Runner,
    Session,
    Store,
    Stored,
    check_name,
)

Change = Callable[[Session], Session]

_TRIES = 4  # to write what another process writes, too


class _Lock:
    """A lock that can be held weakly."""

    def __init__(self) -> None:
        self.lock = threading.Lock()


class Memories:
    """One namespace of a store, on a runner.

    Args: save_seconds: see `Settings`. opened: of all namespaces; None: its own.
    """

    def __init__(
        self,
        url: str,
        namespace: str,
        limits: Limits,
        runner: Runner,
        save_seconds: float = 1.0,
        opened: Opened | None = None,
    ):
        self._opened = Opened() if opened is None else opened
        self.store = Store(url, namespace, limits)
        self.runner, self.save_seconds = runner, save_seconds
        self._locks: WeakValueDictionary[str, _Lock] = WeakValueDictionary()
        self._guard = threading.Lock()

    # -- looking --------------------------------------------------------------------------------------------

    def all(self) -> Sequence[Stored]:
        """All of them, by name."""
        with _storage(""):
            return self.store.list()

    def open(self, name: str) -> Session:
        """ApiError 404 where there is none, and for a name that none can have."""
        with _storage(name, opening=True):
            try:
                check_name(name)
            except ValueError:
                raise Missing from None
            there = self.store.stored(name)
            session = self._opened.get((self.store.namespace, name), there.uid, there.version)
            if session is None:
                session = self.store.open(name, self.runner)
                self._opened.put((self.store.namespace, name), session)
            return session

    def document(self, session: Session, document_id: str) -> Remembered:
        """ApiError 404 where there is none."""
        for one in session.documents:
            if one.id == document_id:
                return one
        raise not_found("document", document_id)

    def passage(self, session: Session, segment: int) -> Found:
        """A segment that the memory holds, as it is shown. ApiError 404 for any other number."""
        for one in session.documents:
            if segment in session.held(one):
                return one.found(_Segment(segment), None, self.runner.model.segment_length)
        raise not_found("segment", str(segment))

    def recall(self, name: str, text: str, top: int) -> list[Found]:
        """What is recalled for a text. ValueError as of `Session.recall`."""
        return self.open(name).recall(text, top)

    def check(self) -> None:
        """ApiError 503 where the store cannot be reached."""
        with _storage(""):
            self.store.exists("a")

    # -- changing -------------------------------------------------------------------------------------------

    def create(self, name: str | None, label: str | None = None) -> Session:
        """A new one. name: exactly that one, 409 where it is taken; label: one that is like it."""
        return self._new(name, label, lambda one: Session.new(one, self.runner))

    def _new(self, name: str | None, label: str | None, make: Callable[[str], Session]) -> Session:
        if name is not None:
            return self._saved(make(_checked(name)))
        wanted = slug(label or "")
        for attempt in range(100):
            one = f"memory-{secrets.token_hex(6)}"
            if wanted:
                one = f"{wanted}-{attempt + 1}" if attempt else wanted
            try:
                return self._saved(make(one))
            except ApiError as error:
                if error.status != 409:
                    raise
        raise ApiError(409, f"There are many memories named like {wanted!r}; give the id of another one.")

    def fork(self, name: str, new: str | None, label: str | None = None) -> Session:
        """A copy. new, label: as of `create`."""
        session = self.open(name)
        return self._new(new, label or f"{name}-copy", session.fork)

    def delete(self, name: str, cancel: Cancel) -> None:
        """Gone, with all versions."""
        self.open_name(name)
        with self._writing(name, cancel), _storage(name):
            self._opened.drop((self.store.namespace, name))
            self.store.delete(name)

    def open_name(self, name: str) -> None:
        """ApiError 404 where there is no such memory; it is not read."""
        with _storage(name):
            try:
                check_name(name)
            except ValueError:
                raise Missing from None
            if not self.store.exists(name):
                raise Missing

    def append(self, name: str, document: Document, cancel: Cancel, told: Told | None = None) -> Session:
        """With a document more. It is saved as it is read, and told when that is saved; what is cut off, by
        `Gone` too, stays as a shorter document."""
        mine = None  # the id that an attempt before has saved a beginning under
        with self._writing(name, cancel):
            for attempt in range(_TRIES):
                session = self.open(name)
                if mine is not None and any(one.id == mine for one in session.documents):
                    session = session.forget(mine)
                reading = Appending(session, document, self._saved, self.save_seconds)
                try:
                    return reading.run(cancel, told)
                except ApiError as error:
                    if error.status != 409 or attempt == _TRIES - 1:
                        raise
                    mine = reading.mine or mine
        raise AssertionError("unreachable")  # pragma: no cover

    def _saved(self, session: Session) -> Session:
        with _storage(session.name):
            session = self.store.save(session)
        self._opened.put((self.store.namespace, session.name), session)
        return session

    def change(self, name: str, change: Change, cancel: Cancel) -> Session:
        """The memory after `change`, saved; from a newer version again where somebody else has saved one."""
        with self._writing(name, cancel):
            for attempt in range(_TRIES):
                session = self.open(name)
                changed = change(session)
                cancel.check()
                try:
                    return self._saved(changed)
                except ApiError as error:
                    if error.status != 409 or attempt == _TRIES - 1:
                        raise
        raise AssertionError("unreachable")  # pragma: no cover

    def replace(self, name: str, document_id: str, document: Document, cancel: Cancel) -> Session:
        """With a document in the place of another: all of it, or none."""

        def change(session: Session) -> Session:
            before = self.document(session, document_id)
            name = document.name or before.name
            return session.replace(document_id, document._replace(name=name), progress=cancel.check)

        return self.change(name, change, cancel)

    def forget(self, name: str, document_id: str, cancel: Cancel) -> Session:
        """Without a document."""

        def change(session: Session) -> Session:
            self.document(session, document_id)
            return session.forget(document_id, progress=cancel.check)

        return self.change(name, change, cancel)

    def keep_turn(self, name: str, question: str, answer: str, found: list[Found], cancel: Cancel) -> Session:
        """With a turn that was answered."""
        return self.change(name, lambda one: one.with_turn(question, answer, tuple(found)), cancel)

    def import_(self, name: str, data: bytes) -> None:
        """A memory of a file that `export_bytes` made. ApiError 409 where the name is taken, 422 for anything
        else, and for a memory of another model, which is not kept."""
        name = _checked(name)
        with _storage(name, importing=True):
            self.store.import_(data, name)
        try:
            self.open(name)
        except ApiError:
            with _storage(name):
                self.store.delete(name)
            raise

    def export(self, name: str) -> bytes:
        """All of it in one file."""
        self.open_name(name)
        with _storage(name):
            return self.store.export_bytes(name)

    @contextmanager
    def _writing(self, name: str, cancel: Cancel) -> Iterator[None]:
        """One writer of a memory at a time."""
        with self._guard:
            held = self._locks.get(name)
            if held is None:
                held = self._locks[name] = _Lock()
        while not held.lock.acquire(timeout=0.1):
            cancel.check()
        try:
            yield
        finally:
            held.lock.release()


class _Segment:
    """A passage that nothing was recalled for."""

    weight = 0.0

    def __init__(self, segment: int):
        self.segment = segment


def slug(label: str) -> str:
    """A name like a label: "Moby Dick.txt" is moby-dick.txt."""
    kept = "".join(one if one.isascii() and one.isalnum() or one in "._-" else "-" for one in label.lower())
    while ".." in kept or "--" in kept:
        kept = kept.replace("..", ".").replace("--", "-")
    kept = kept.strip("._-")[:56].rstrip("._-")
    try:
        return check_name(kept)
    except ValueError:
        return ""


def _checked(name: str) -> str:
    try:
        return check_name(name, "memory")
    except ValueError as error:
        raise ApiError(400, str(error), param="id", code="invalid_name") from None


@contextmanager
def _storage(name: str, opening: bool = False, importing: bool = False) -> Iterator[None]:
    """What a store raises, as what a client is told; never with a path or a URL.

    opening: what is raised may be about the memory itself. importing: about what was sent.
    """
    try:
        yield
    except ApiError:
        raise
    except Missing:
        raise not_found("memory", name) from None
    except Conflict as error:
        raise ApiError(409, str(error).replace("session", "memory"), param="id") from None
    except Damaged as error:
        what = str(error).replace("session", "memory") if importing else f"Memory {name!r} is damaged."
        raise ApiError(422, what, code="damaged") from error
    except Full as error:
        raise ApiError(413, str(error).replace("session", "memory"), code="memory_full") from None
    except ValueError as error:
        if importing or (opening and error.__cause__ is None):
            raise ApiError(422, str(error).replace("session", "memory"), code="other_model") from error
        raise ApiError(503, "What is stored cannot be reached now; nothing was changed.") from error
