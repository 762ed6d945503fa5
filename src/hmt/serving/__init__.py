"""Many sessions on one model: the engine that runs them side by side, and the server in front of it."""

from hmt.serving.engine import Engine
from hmt.serving.jobs import Busy, Closed

__all__ = ["Busy", "Closed", "Engine"]
