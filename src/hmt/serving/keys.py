"""API keys: a file that knows them by salted hashes, each with a namespace of its own in the store."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hmt.sessions.names import check_name
from hmt.util.files import output_file, write_atomically

KIND = "file of API keys"
_KEY = re.compile(r"hmt-([0-9a-f]{12})-([A-Za-z0-9_-]{43})")
_LOOK = 1.0  # seconds between two looks whether the file changed
_HEAD = "hmt-keys"


@dataclass(frozen=True)
class Key:
    """A key without its secret.

    Attributes:
        id: names it; not secret. name: what it is for. namespace: of the store, what it sees.
        salt, hash: in hex. created: seconds since 1970.
    """

    id: str
    name: str
    namespace: str
    salt: str
    hash: str
    created: float


class Keys:
    """The keys in a file. Changes of the file are seen within a second.

    Args: path: of a file that `add` made. ValueError for what is no such file.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self._lock = threading.Lock()
        self._keys: dict[str, Key] = {}
        self._seen: Any = None
        self._looked = 0.0
        _load(self.path)  # what is wrong with it shows at once
        self._read()

    def find(self, secret: str) -> Key | None:
        """The key that a client shows; None for any other text. Takes the same time for every wrong one."""
        self._refresh()
        found = _KEY.fullmatch(secret)
        key = self._keys.get(found[1]) if found else None
        shown = _hash(found[2] if found else "", key.salt if key else "00" * 16)
        right = hmac.compare_digest(shown, key.hash if key else "00" * 32)
        return key if key is not None and right else None

    def list(self) -> list[Key]:
        """All of them, oldest first."""
        self._refresh()
        return sorted(self._keys.values(), key=lambda key: key.created)

    def _refresh(self) -> None:
        now = time.monotonic()
        if now - self._looked < _LOOK:
            return
        with self._lock:
            try:
                self._read()
            except (OSError, ValueError):  # being replaced, or gone: what was known holds
                self._looked = now

    def _read(self) -> None:
        self._looked = time.monotonic()
        status = os.stat(self.path)
        seen = status.st_mtime_ns, status.st_size, status.st_ino
        if seen != self._seen:
            self._keys = {key.id: key for key in _load(self.path)}
            self._seen = seen


def add_key(path: str | os.PathLike, name: str = "", namespace: str | None = None) -> tuple[str, Key]:
    """A new key in a file, which is made if it is not there: the secret, which is kept nowhere, and the key.

    namespace: None gives it one of its own; that of another key lets both see the same memories. ValueError
    for a name that cannot be one, and for a file that is something else.
    """
    if any(not letter.isprintable() for letter in name) or len(name) > 100:
        raise ValueError("the name of a key is up to 100 printable characters")
    key_id, secret, salt = secrets.token_hex(6), secrets.token_urlsafe(32), secrets.token_hex(16)
    namespace = check_name(namespace or f"key-{key_id}", "namespace")
    key = Key(key_id, name, namespace, salt, _hash(secret, salt), time.time())
    with output_file(path, KIND):
        _save(path, [*(_load(path) if os.path.exists(path) else []), key])
    return f"hmt-{key_id}-{secret}", key


def revoke_key(path: str | os.PathLike, key_id: str) -> Key:
    """Take a key out of a file; its memories stay. ValueError for an id that is not there."""
    with output_file(path, KIND):
        keys = _load(path)
        gone = next((key for key in keys if key.id == key_id), None)
        if gone is None:
            raise ValueError(f"{path} has no key {key_id}; hmt keys list shows them")
        _save(path, [key for key in keys if key is not gone])
    return gone


def _hash(secret: str, salt: str) -> str:
    # the secret is 32 random bytes: nothing that a slow hash would protect from guessing
    return hashlib.sha256(bytes.fromhex(salt) + secret.encode()).hexdigest()


def _load(path: str | os.PathLike) -> list[Key]:
    try:
        found = json.loads(Path(path).read_bytes())
        if found["format"] != _HEAD:
            raise ValueError
        keys = [Key(**one) for one in found["keys"]]
        for key in keys:
            check_name(key.namespace, "namespace")
            bytes.fromhex(key.salt + key.hash)
    except FileNotFoundError:
        raise ValueError(f"{path} is not there; hmt keys add {path} makes it") from None
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path} is no {KIND}; hmt keys add makes one") from None
    return keys


def _save(path: str | os.PathLike, keys: list[Key]) -> None:
    if not os.path.exists(path):  # nobody else is to read it, from its first byte on
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    body = {"format": _HEAD, "keys": [asdict(key) for key in keys]}
    write_atomically(path, json.dumps(body, indent=1).encode(), KIND)
