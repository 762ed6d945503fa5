"""The HTTP server: OpenAI's API, memories that last, and a page. See docs/serving.md."""

from typing import Any

__all__ = ["Busy", "Closed", "Engine", "Keys", "Settings", "create_app", "make_runner", "serve"]

_WHERE = {
    "Busy": "hmt.serving.jobs",
    "Closed": "hmt.serving.jobs",
    "Engine": "hmt.serving.engine",
    "Keys": "hmt.serving.keys",
    "Settings": "hmt.serving.settings",
    "create_app": "hmt.serving.app",
    "make_runner": "hmt.serving.running",
    "serve": "hmt.serving.server",
}


def __getattr__(name: str) -> Any:
    """What is asked for, imported when it is: most of it needs the extra `serve`."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_WHERE[name]), name)
