"""Who runs the model of a server."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from hmt.sessions import DirectRunner, Options, Runner


def make_runner(model: Any, tokenizer: Any, **options: Any) -> Runner:
    """The engine that batches requests. options: of it."""
    if find_spec("hmt.serving.engine") is not None:
        from importlib import import_module

        return import_module("hmt.serving.engine").Engine(model, tokenizer, **options)
    return OneAtATime(model, tokenizer)


class OneAtATime(DirectRunner):
    """`DirectRunner` for many threads: one call after another."""

    def __init__(self, model: Any, tokenizer: Any = None):
        super().__init__(model, tokenizer)
        self._lock = threading.Lock()

    def read(self, memory: Any, ids: Sequence[int], progress: Any = None) -> Any:
        """See `Runner.read`."""
        with self._lock:
            return super().read(memory, ids, progress)

    def close(self, memory: Any) -> Any:
        """See `Runner.close`."""
        with self._lock:
            return super().close(memory)

    def recalled(self, memory: Any, top: int) -> Any:
        """See `Runner.recalled`."""
        with self._lock:
            return super().recalled(memory, top)

    def generate(
        self, memory: Any, header_ids: Sequence[int], options: Options, on_token: Any = None
    ) -> list[int]:
        """See `Runner.generate`."""
        with self._lock:
            return super().generate(memory, header_ids, options, on_token)
