"""What `hmt read` has read so far, in a file beside the one that it will write."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from hmt.util.files import exists, open_file, remove

Pieces = Iterable[tuple[list[int], float | None]]
_NOTE = "reading"  # in the metadata of the file


@dataclass(frozen=True)
class SoFar:
    """What was read: the memory, how many tokens of the text, and the SHA-256 of their ids (int64).

    Never changed, only replaced: whenever an interrupt comes, the three belong together.
    """

    memory: Any = None
    tokens: int = 0
    digest: Any = field(default_factory=hashlib.sha256)

    def then(self, ids: Sequence[int], memory: Any) -> SoFar:
        """After `ids` were read too, into `memory`."""
        digest = self.digest.copy()
        digest.update(_bytes(ids))
        return SoFar(memory, self.tokens + len(ids), digest)


class Unfinished:
    """OUT.part: a memory file of its own, whose metadata say what it is the beginning of.

    That is how many tokens of the text were read, their digest, and which memory they were read behind. The
    same command with the same text finds them again; OUT itself is touched when all of the text is read.

    Args:
        output: OUT, a path or URL. appended: whether the text is read behind the memory in OUT.
    """

    def __init__(self, output: str, appended: bool):
        self.output, self.path, self.before = output, f"{output}.part", ""
        if appended:
            with open_file(output) as file:
                self.before = hashlib.sha256(file.read()).hexdigest()

    def exists(self) -> bool:
        return exists(self.path)

    def save(self, now: SoFar) -> None:
        """Keep what was read so far; a kill while it is written leaves what was kept before."""
        note = {"tokens": now.tokens, "sha256": now.digest.hexdigest(), "before": self.before}
        now.memory.save(self.path, {_NOTE: json.dumps(note)})

    def remove(self) -> None:
        remove(self.path)

    def resume(self, pieces: Pieces, model: Any) -> tuple[SoFar, Pieces]:
        """What was read, and what is left of the text.

        ValueError where it is the beginning of another text, or was read by another model, or behind another
        memory.
        """
        from hmt.memory.file import read_safetensors
        from hmt.memory.memory import Memory

        anew = f"remove {self.path} (or --overwrite {self.output}) to begin anew"
        memory = Memory.load(self.path, model=model)
        try:
            note = json.loads(read_safetensors(self.path)[0][_NOTE])
            tokens, digest, before = int(note["tokens"]), str(note["sha256"]), str(note["before"])
        except (KeyError, TypeError, ValueError):
            raise ValueError(f"{self.path} is no reading that was interrupted; {anew}") from None
        if before != self.before:
            raise ValueError(
                f"{self.path} is an interrupted reading behind another memory than {self.output}; {anew}"
            )
        now, rest = SoFar(), iter(pieces)
        for ids, fraction in rest:
            old = ids[: tokens - now.tokens]
            now = now.then(old, memory)
            if now.tokens == tokens:
                rest = chain([(ids[len(old) :], fraction)], rest)
                break
        if (now.tokens, now.digest.hexdigest()) != (tokens, digest):
            raise ValueError(
                f"{self.path} is an interrupted reading of another text ({tokens:,} tokens of it): finish it "
                f"with the command that began it, or {anew}"
            )
        return now, rest


def steps(pieces: Pieces, tokens: int, limit: int | None, size: Iterator[int]) -> Iterator[Any]:
    """(ids, total) of as many ids as `size` says next, at most `limit` with the `tokens` read before.

    total: of the whole text, as far as it can be told; what is left has as many tokens per byte. None: not
    known.
    """
    rest: list[int] = []
    total: float | None = limit
    wanted = next(size)
    for ids, fraction in pieces:
        rest += ids if limit is None else ids[: limit - tokens - len(rest)]
        if fraction:
            total = max(1.0, (tokens + len(rest)) / fraction)
            total = total if limit is None else min(limit, total)
        while len(rest) >= wanted:
            yield rest[:wanted], total
            tokens, rest = tokens + wanted, rest[wanted:]
            wanted = next(size)
        if limit is not None and tokens + len(rest) >= limit:
            break
    if rest:
        yield rest, total


def _bytes(ids: Sequence[int]) -> bytes:
    import numpy as np

    return np.asarray(ids, dtype="<i8").tobytes()
