"""What is compared: memory models beside a window, retrieval and full attention, all with the same face.

    rows = rows_at(model, [parse_bytes("64KiB")], tokenizer)
    kept = rows[0].read(ids)
    rows[0].generate(kept, question, 32), rows[0].nats(kept, question, answer)

`base` says what a reader is; `memory` holds the models with memory, `rolling` caches of keys and values,
`plain` what readers of raw tokens share (`window`, `retrieval`); `budget` makes rows at equal bytes. Names
are imported when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hmt.util.lazy import lazy_names

if TYPE_CHECKING:
    from hmt.evaluation.readers.base import Reader as Reader
    from hmt.evaluation.readers.budget import baseline as baseline
    from hmt.evaluation.readers.budget import parse_bytes as parse_bytes
    from hmt.evaluation.readers.budget import rows_at as rows_at
    from hmt.evaluation.readers.memory import MemoryReader as MemoryReader
    from hmt.evaluation.readers.retrieval import BM25Reader as BM25Reader
    from hmt.evaluation.readers.rolling import RollingReader as RollingReader
    from hmt.evaluation.readers.window import FullReader as FullReader
    from hmt.evaluation.readers.window import WindowIdsReader as WindowIdsReader

_MODULE_OF = {
    "BM25Reader": "retrieval",
    "FullReader": "window",
    "MemoryReader": "memory",
    "Reader": "base",
    "RollingReader": "rolling",
    "WindowIdsReader": "window",
    "baseline": "budget",
    "parse_bytes": "budget",
    "rows_at": "budget",
}
__all__ = sorted(_MODULE_OF)
__getattr__, __dir__ = lazy_names(__name__, _MODULE_OF)
