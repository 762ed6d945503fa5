"""Who runs the model of a server."""

from __future__ import annotations

from typing import Any

from hmt.serving.engine import Engine
from hmt.serving.settings import Settings


def make_runner(model: Any, tokenizer: Any, settings: Settings | None = None) -> Engine:
    """The engine that batches the requests of a server; `shutdown` ends it."""
    settings = settings or Settings()
    # every request has one job at a time, and one for each of several answers
    waiting = settings.max_running * settings.max_choices
    return Engine(model, tokenizer, waiting=waiting)
