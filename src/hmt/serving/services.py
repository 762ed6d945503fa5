"""What the routes share."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request

from hmt.serving.memories import Memories
from hmt.serving.metrics import Metrics
from hmt.serving.opened import Opened
from hmt.serving.settings import Settings
from hmt.serving.work import Work
from hmt.sessions import Limits, Runner


@dataclass
class Services:
    """One server's.

    Attributes:
        model_id: what the model is called. url: of the store. created: seconds since 1970.
        model: work that uses the model. light: work that does not.
    """

    runner: Runner
    url: Any
    model_id: str
    settings: Settings
    created: int
    metrics: Metrics
    model: Work = field(init=False)
    light: Work = field(init=False)
    stopping: bool = False
    _opened: Opened = field(default_factory=Opened)
    _memories: dict[str, Memories] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.model = Work(self.settings.max_running, self.settings.max_queue)
        self.light = Work(8, self.settings.max_connections)

    def memories(self, namespace: str) -> Memories:
        """The memories of a namespace."""
        with self._lock:
            if namespace not in self._memories:
                limits = Limits(
                    sessions=self.settings.max_memories,
                    bytes=self.settings.max_memory_bytes,
                )
                self._memories[namespace] = Memories(
                    self.url, namespace, limits, self.runner, self.settings.save_seconds, self._opened
                )
            return self._memories[namespace]

    def stop(self) -> None:
        """End what is at work, and begin nothing."""
        self.stopping = True
        self.model.stop()
        self.light.stop()


def services_of(request: Request) -> Services:
    """Those of the app."""
    return request.app.state.services


def memories_of(request: Request) -> Memories:
    """Those of who asks."""
    return services_of(request).memories(request.scope["hmt.namespace"])
