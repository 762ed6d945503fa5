"""Where prepared data is kept between runs, and the hashes that name it.

Everything here can be deleted at any time: it is rebuilt from its sources.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

# Part of every hash: raise it when the meaning or layout of what is cached changes.
CACHE_VERSION = 1


def cache_directory(cache_dir: str | os.PathLike | None = None) -> Path:
    """`cache_dir` if given, else `$HMT_CACHE`, else `~/.cache/hmt`; it is created if it is missing."""
    chosen = Path(cache_dir or os.environ.get("HMT_CACHE") or Path.home() / ".cache" / "hmt").expanduser()
    try:
        chosen.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"Cannot create the cache folder {chosen} ({error}); set HMT_CACHE to a folder that is writable."
        ) from error
    return chosen


def digest(parts: Iterable[str | bytes]) -> str:
    """32 hex digits that name the sequence `parts`: ("ab", "c") and ("a", "bc") differ."""
    hasher = hashlib.blake2b(f"hmt-{CACHE_VERSION}".encode(), digest_size=16)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        hasher.update(len(data).to_bytes(8, "little"))
        hasher.update(data)
    return hasher.hexdigest()
