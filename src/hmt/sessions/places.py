"""Where a store keeps its files: a folder, or what fsspec knows by a URL. Files are whole or not there."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from hmt.util.files import PART, local_path, locked, remote, remote_errors, write_atomically

_WAIT = 60.0  # seconds for a writer before


class Files(Protocol):
    """Folders of files, by path within the store ("namespace/session/file")."""

    def names(self, folder: str) -> list[str]:
        """What is in a folder, sorted; nothing of one that is not there."""
        ...

    def read(self, path: str) -> bytes:
        """FileNotFoundError where there is none."""
        ...

    def write(self, path: str, data: bytes) -> None:
        """A new file, whole or not at all."""
        ...

    def create(self, path: str, data: bytes) -> None:
        """The same, and FileExistsError if there is one."""
        ...

    def remove(self, path: str) -> None:
        """Take a file away, if it is there."""
        ...

    def tidy(self, folder: str) -> None:
        """Take away what writers that were killed left half written; inside `locked`."""
        ...

    def remove_folder(self, folder: str) -> None:
        """Take an empty folder away, if it is there."""
        ...

    def locked(self, folder: str) -> Any:
        """A context in which nobody else writes to it, as far as the place can promise that."""
        ...


def files_at(url: str | os.PathLike) -> Files:
    """The files behind a path or URL. ValueError for a URL that nobody can open."""
    local = local_path(url)
    return LocalFiles(local.expanduser()) if local is not None else RemoteFiles(str(url))


class LocalFiles:
    """In a folder. One process at a time writes to a session; a file that is there survives a power cut."""

    def __init__(self, root: Path):
        self.root = root

    def names(self, folder: str) -> list[str]:
        """See `Files`."""
        try:
            return sorted(os.listdir(self.root / folder))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def read(self, path: str) -> bytes:
        """See `Files`."""
        return (self.root / path).read_bytes()

    def write(self, path: str, data: bytes) -> None:
        """See `Files`."""
        target = self.root / path
        self._make(target.parent)
        write_atomically(target, data)
        with suppress(OSError):  # of systems on which folders cannot be opened
            handle = os.open(target.parent, os.O_RDONLY)
            try:
                os.fsync(handle)  # its name is on the disk, too
            finally:
                os.close(handle)

    def _make(self, folder: Path) -> None:
        if not self.root.exists():  # what is remembered is nobody else's
            self.root.parent.mkdir(parents=True, exist_ok=True)
            self.root.mkdir(exist_ok=True, mode=0o700)
        folder.mkdir(parents=True, exist_ok=True)

    def create(self, path: str, data: bytes) -> None:
        """See `Files`; inside `locked`."""
        if os.path.lexists(self.root / path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(self.root / path))
        self.write(path, data)

    def remove(self, path: str) -> None:
        """See `Files`."""
        (self.root / path).unlink(missing_ok=True)

    def tidy(self, folder: str) -> None:
        """See `Files`."""
        for name in self.names(folder):
            if name.endswith(PART):
                self.remove(f"{folder}/{name}")

    def remove_folder(self, folder: str) -> None:
        """See `Files`."""
        self.tidy(folder)
        with suppress(FileNotFoundError):
            (self.root / folder).rmdir()

    @contextmanager
    def locked(self, folder: str) -> Iterator[None]:
        """See `Files`. ValueError where another process keeps it for a minute."""
        target = self.root / folder
        file = target.with_name(f".{target.name}.lock")
        self._make(file.parent)
        with locked(file, f"another process has been writing to {target} for a minute", _WAIT):
            yield


class RemoteFiles:
    """Behind a URL. Objects appear whole. `create` is exclusive where the file system of fsspec can do that
    (S3 and Google storage: a conditional put); else it is looked whether there is one, and then written."""

    def __init__(self, url: str):
        self.url = url.rstrip("/")
        self.fs, self.root = remote(self.url)
        self.root = self.root.rstrip("/")
        self.fs.use_listings_cache = False

    def _at(self, path: str) -> str:
        return f"{self.root}/{path}"

    def names(self, folder: str) -> list[str]:
        """See `Files`."""
        with remote_errors(self.url):
            self.fs.invalidate_cache()
            try:
                found = self.fs.ls(self._at(folder), detail=False)
            except (FileNotFoundError, NotADirectoryError):
                return []
        return sorted(path.rstrip("/").rpartition("/")[2] for path in found)

    def read(self, path: str) -> bytes:
        """See `Files`."""
        with remote_errors(self.url, FileNotFoundError):
            return self.fs.cat_file(self._at(path))

    def write(self, path: str, data: bytes) -> None:
        """See `Files`."""
        with remote_errors(self.url):
            self._folder(path)
            self.fs.pipe_file(self._at(path), data)

    def create(self, path: str, data: bytes) -> None:
        """See `Files`."""
        with remote_errors(self.url, FileExistsError):
            self._folder(path)
            try:
                self.fs.pipe_file(self._at(path), data, mode="create")
            except (TypeError, NotImplementedError):  # knows no modes
                self.fs.invalidate_cache()
                if self.fs.exists(self._at(path)):
                    raise FileExistsError(path) from None
                self.fs.pipe_file(self._at(path), data)

    def _folder(self, path: str) -> None:
        with suppress(Exception):  # stores of objects have no folders; elsewhere the write says what is wrong
            self.fs.makedirs(self._at(path).rpartition("/")[0], exist_ok=True)

    def remove(self, path: str) -> None:
        """See `Files`."""
        with remote_errors(self.url), suppress(FileNotFoundError):
            self.fs.rm_file(self._at(path))

    def tidy(self, folder: str) -> None:
        """Nothing: objects are there whole."""

    def remove_folder(self, folder: str) -> None:
        """See `Files`."""
        with suppress(Exception):  # most stores have none
            self.fs.rmdir(self._at(folder))

    @contextmanager
    def locked(self, folder: str) -> Iterator[None]:
        """Nothing: what keeps writers apart is `create`."""
        yield
