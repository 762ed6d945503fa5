"""A model that reads in segments: what a system defines, and the driver written once for all of them."""

from hmt.util.lazy import lazy_names

__getattr__, __dir__ = lazy_names(
    __name__, {"BackboneMemory": "base", "StreamingLM": "streaming", "BackboneWrapper": "checkpoint"}
)
