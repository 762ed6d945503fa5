"""Models that come with the library: what was trained beside a backbone of `hmt.backbone.PACKAGED`."""

from __future__ import annotations

from pathlib import Path


def shipped(name: object) -> Path | None:
    """The folder of a model that comes with the library, by its short name; None for any other name."""
    here = Path(__file__).parent
    names = {path.parent.name: path.parent for path in here.glob("*/config.json")}
    return names.get(str(name))
