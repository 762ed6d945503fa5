"""Files that are whole or untouched, belong to nobody else, and are written by one process at a time.

Everything that a command or `Memory.save` writes goes through here, by one rule:

* Nothing is overwritten but what this library wrote for the same purpose (`KINDS`), and empty files.
* Folders, devices and pipes are no output. No output is an input, under whatever name: paths, links and
  inodes are compared.
* A symbolic link stays and what it points at is replaced; a hard link keeps the old content. Permissions of
  what is replaced stay.
* A killed writer leaves `.NAME.XXXXXXXX.hmt-part` beside the file. The next write of that file removes it, if
  no process holds it.

Paths are local, or any URL that fsspec knows (`s3://...`); a store decides for itself who may write, and
writers behind a URL are not kept apart. Nothing here imports torch.
"""

from __future__ import annotations

import errno
import glob
import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout

try:
    import fcntl
except ImportError:  # Windows: a file that is open cannot be removed there, which is as good
    fcntl = None  # type: ignore[assignment]

PathLike = str | os.PathLike

LOCK = ".lock"  # of a folder
_HEAD = 2**16  # bytes of a file that are looked at
_BUSY = "another run is writing to {}; wait for it, or {}"
PART = ".hmt-part"  # of a file that is being written
# What a file begins with that may be replaced, by what it is called to the user.
KINDS = {
    "memory file": rb'.{8}\{.*"format": ?"hmt-memory"',
    "report": rb'.*<meta name="generator" content="hmt">',
    "figure": rb'\x89PNG.*tEXtSoftware\x00hmt|.*<dc:title>hmt</dc:title>',
    "result of hmt eval": rb'\{\s*"format": \d+,\s*"(readers|title)":',
    "result of hmt bench": rb'\{\s*"setup": \{\s*"command":',
    "session file": rb"hmt-session\n",
    "file of API keys": rb'\{\s*"format": "hmt-keys"',
    "recipe": rb'\{\s*"stages": \[',
    "task of the harness": rb'include: .*hmt\.evaluation\.harness',
}  # fmt: skip


# -- paths and URLs ----------------------------------------------------------------------------------------


def is_url(path: Any) -> bool:
    """Whether fsspec is to open it. ValueError for a URL that lost a slash in a `pathlib.Path`."""
    text = os.fspath(path) if isinstance(path, os.PathLike) else str(path)
    if isinstance(path, os.PathLike) and re.match(r"[A-Za-z][\w+.-]+:[/\\][^/\\]", text):
        raise ValueError(f"{text} was a URL before it became a Path; pass it as a string")
    return "://" in text


def local_path(path: PathLike) -> Path | None:
    """The path of a local file, of `file://...` too; None for what lies behind another URL."""
    if not is_url(path):
        return Path(path)
    fs, inside = remote(path)
    return Path(inside) if "file" in fs.protocol else None


def local_folder(path: PathLike) -> Path:
    """`path` where many files are to be written. ValueError for a URL: folders are local."""
    if re.match(r"[A-Za-z][\w+.-]+:[/\\]", str(path)):
        raise ValueError(f"{path} is a URL, and only single files can be written to one; name a local folder")
    return Path(path)


def remote(path: PathLike) -> tuple[Any, str]:
    """The file system of a URL, and the path in it."""
    from fsspec.core import url_to_fs

    with remote_errors(path):
        return url_to_fs(str(path))


@contextmanager
def remote_errors(path: PathLike, *plain: type[Exception]) -> Iterator[None]:
    """Whatever a store raises (a missing package, credentials, a time-out) as a ValueError with the URL.

    plain: what comes out as it is.
    """
    try:
        yield
    except plain:
        raise
    except Exception as error:  # stores share no class of errors
        raise ValueError(f"{path}: {error or type(error).__name__}") from error


def exists(path: PathLike) -> bool:
    """Whether there is anything at a path or URL."""
    local = local_path(path)
    if local is not None:
        return local.exists()
    fs, inside = remote(path)
    with remote_errors(path):
        return fs.exists(inside)


def size_of(path: PathLike) -> int:
    """Bytes of a file."""
    local = local_path(path)
    if local is not None:
        return local.stat().st_size
    fs, inside = remote(path)
    with remote_errors(path):
        return fs.size(inside)


def remove(path: PathLike) -> None:
    """Take a file away, if it is there."""
    local = local_path(path)
    if local is not None:
        local.unlink(missing_ok=True)
    elif exists(path):
        fs, inside = remote(path)
        with remote_errors(path):
            fs.rm_file(inside)


def version_of(path: PathLike) -> str:
    """A word that changes with what is behind a URL."""
    fs, inside = remote(path)
    with remote_errors(path):
        return fs.ukey(inside)


@contextmanager
def open_file(path: PathLike) -> Iterator[IO[bytes]]:
    """A regular file to read and seek in, local or behind a URL; ValueError where there is none."""
    local = local_path(path)
    if local is None:
        fs, inside = remote(path)
        with remote_errors(path):
            if not fs.isfile(inside):
                raise FileNotFoundError("there is no such file")
            file = fs.open(inside, "rb")
        with file:
            yield file
        return
    if not local.is_file():
        raise ValueError(f"there is no file {path}")
    with local.open("rb") as file:
        yield file


def is_kind(path: PathLike, kind: str) -> bool:
    """Whether a file begins like one of `KINDS`. ValueError where there is no file."""
    with open_file(path) as file:
        return re.match(KINDS[kind], file.read(_HEAD), re.DOTALL) is not None


# -- what may be written -------------------------------------------------------------------------------------


def check_output(path: PathLike, kind: str | None = None, inputs: Iterable[PathLike] = ()) -> None:
    """ValueError or OSError unless a file can be written at `path`, before there is anything to write.

    Args:
        kind: one of `KINDS`; a file that is there must be of it, or empty. None: of a folder that is ours.
        inputs: paths that are read; none of them may be this one. Folders are left out.
    """
    local = local_path(path)
    for source in inputs:
        if _same(path, source):
            raise ValueError(f"{path} is what is read ({source}); name another file to write")
    if local is None:
        _check_kind(path, kind)
        return
    try:
        found = os.stat(local)
    except FileNotFoundError:
        _check_room(Path(os.path.realpath(local)).parent, path)
        return
    if stat.S_ISDIR(found.st_mode):
        raise ValueError(f"{path} is a folder; name a file to write")
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"{path} is a device or a pipe; name a file to write")
    _check_kind(path, kind)
    if not os.access(local, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    _check_room(Path(os.path.realpath(local)).parent, path)


def check_folder(path: PathLike) -> Path:
    """The folder, in which files can be written; it may not be there yet. ValueError or OSError otherwise."""
    folder = local_folder(path)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{path} is a file; name a folder")
    _check_room(folder, path)
    return folder


def check_own_folder(path: PathLike, first: str, what: str) -> Path:
    """`check_folder` of one that is empty, or holds what a run of ours writes there first; else ValueError.

    A lock, and what is left of the first file where its writer was killed, do not count.
    """
    folder = check_folder(path)
    if folder.is_dir() and not (folder / first).is_file():
        names = [entry.name for entry in folder.iterdir()]
        if any(name != LOCK and not name.startswith(f".{first}.") for name in names):
            raise ValueError(f"{path} is not empty and holds no {what}; choose another folder")
    return folder


def _same(path: PathLike, source: PathLike) -> bool:
    if str(source) == "-":
        return False
    ours, theirs = local_path(path), local_path(source)
    if ours is None or theirs is None:
        return ours is theirs and str(path) == str(source)
    with suppress(OSError):
        return os.path.samefile(ours, theirs)
    return os.path.realpath(ours) == os.path.realpath(theirs)


def _check_kind(path: PathLike, kind: str | None) -> None:
    if kind is None or not exists(path):
        return
    if size_of(path) and not is_kind(path, kind):
        raise ValueError(f"{path} is there and is no {kind}, so it is not overwritten; name another file")


def _check_room(folder: Path, path: PathLike) -> None:
    """OSError, with the name `path`, where no file can be made in `folder`, or it could not be made."""
    while not os.path.lexists(folder) and folder != folder.parent:
        folder = folder.parent
    try:
        with suppress(FileNotFoundError):
            os.lstat(path)  # a name that cannot be, or lies behind a file
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


# -- writing -------------------------------------------------------------------------------------------------


def write_atomically(path: PathLike, data: bytes, kind: str | None = None) -> None:
    """Write `data` beside `path` and rename it into place: a crash or a full disk leaves the old file.

    kind: see `check_output`, whose errors this raises. Folders on the way are made. URLs go through fsspec,
    where an object appears whole or not at all on the usual stores.
    """
    check_output(path, kind)
    local = local_path(path)
    if local is None:
        fs, inside = remote(path)
        with remote_errors(path), fs.open(inside, "wb") as file:
            file.write(data)
        return
    target = Path(os.path.realpath(local))
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_parts(target)
    handle, temporary = _make_part(target)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            os.chmod(temporary, _mode(target))
            os.replace(temporary, target)  # while it is locked: nobody removes it in between
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _mode(target: Path) -> int:
    """Permissions of what is replaced, or those that any new file would have."""
    with suppress(FileNotFoundError):
        return stat.S_IMODE(os.stat(target).st_mode)
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask


def _prefix(target: Path) -> str:
    return f".{target.name[:40]}."  # the longest name that a file may have leaves no room for more


def _make_part(target: Path) -> tuple[int, str]:
    """A new file beside `target`, held by this process for as long as it is open."""
    while True:
        handle, name = tempfile.mkstemp(prefix=_prefix(target), suffix=PART, dir=target.parent)
        if _hold(handle) is not False:
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle), os.stat(name)):
                    return handle, name
        os.close(handle)  # another writer took it for a dead one's in the moment before it was held


def _remove_parts(target: Path) -> None:
    """Remove what killed writers of `target` left."""
    for name in glob.glob(glob.escape(str(target.parent / _prefix(target))) + "?" * 8 + PART):
        with suppress(OSError):
            handle = os.open(name, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
            try:
                if stat.S_ISREG(os.fstat(handle).st_mode) and _hold(handle):
                    os.unlink(name)
            finally:
                os.close(handle)
            if fcntl is None:
                os.unlink(name)


def _hold(handle: int) -> bool | None:
    """Whether an open file is now this process's; None where there are no such locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in (errno.EACCES, errno.EAGAIN) else None
    return True


def save_or_keep(path: PathLike, save: Callable[[Any], object]) -> None:
    """`save(path)`; where that fails, what would be lost goes to the folder for temporary files.

    ValueError then, which says where it is.
    """
    try:
        save(path)
    except (OSError, ValueError) as error:
        spare = Path(tempfile.mkdtemp(prefix="hmt-")) / Path(str(path)).name
        try:
            save(spare)
        except (OSError, ValueError):
            with suppress(OSError):
                spare.parent.rmdir()
            raise error from None
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ValueError(
            f"{path} could not be written ({why}). Nothing is lost: it is in {spare}, move it from there"
        ) from error


# -- one writer ----------------------------------------------------------------------------------------------


@contextmanager
def output_file(
    path: PathLike, kind: str, inputs: Iterable[PathLike] = (), taken: str | None = None
) -> Iterator[None]:
    """For as long as a file is being made: what `check_output` checks, and no other process that makes it.

    taken: what to do about a file that is there, if it is not to be replaced. ValueError with it then.
    """
    check_output(path, None, inputs)
    local = local_path(path)
    if local is None:
        _check_taken(path, kind, taken)
        yield
        return
    target = Path(os.path.realpath(local))
    target.parent.mkdir(parents=True, exist_ok=True)
    lock = target.parent / f"{_prefix(target)}lock"
    with locked(lock, _BUSY.format(path, "name another file")):
        _check_taken(path, kind, taken)
        yield


def _check_taken(path: PathLike, kind: str, taken: str | None) -> None:
    """Of another kind, and not to be replaced: in this order, so that nobody is told to overwrite a book."""
    _check_kind(path, kind)
    if taken is not None and exists(path) and size_of(path):
        raise ValueError(f"{path} is already there; {taken}")


@contextmanager
def disk_errors(folder: PathLike, advice: str) -> Iterator[None]:
    """What libraries raise of their own when a disk is full, as the OSError that it is, with `advice`."""
    try:
        yield
    except Exception as error:
        own = isinstance(error, OSError) and error.errno in (
            errno.ENOSPC,
            errno.EDQUOT,
            errno.EFBIG,
            errno.EIO,
        )
        theirs = re.search(r"I/O error|PytorchStreamWriter|inline_container|iostream error", str(error))
        if not own and (isinstance(error, (OSError, ValueError)) or not theirs):
            raise
        what = error.strerror if isinstance(error, OSError) else str(error).splitlines()[0]
        raise OSError(f"{folder} cannot be written to: {what}; {advice}") from error


@contextmanager
def only_writer(folder: PathLike, advice: str = "choose another folder") -> Iterator[None]:
    """Lets one process at a time write into `folder`, which is created if it is missing, and removed again if
    nothing is written.

    The lock ends with the process, however it ends. ValueError, with `advice`, while another one holds it.
    """
    folder = local_folder(folder)
    new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with locked(folder / LOCK, _BUSY.format(folder, advice)):
            yield
    finally:
        if new:
            with suppress(OSError):  # it is of use
                folder.rmdir()


@contextmanager
def locked(file: Path, refused: str, wait: float = 0) -> Iterator[None]:
    """A lock file is held. ValueError(refused) where somebody else holds it, and for `wait` seconds more."""
    lock = FileLock(file, timeout=wait)
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(refused) from None
    try:
        yield
    finally:
        with suppress(OSError):
            file.unlink()  # while it is held: filelock takes no lock of a file that is gone
        lock.release()
