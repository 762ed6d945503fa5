"""Long-term memory for causal language models: the Hierarchical Memory Transformer and its peers.

Importing this package is light: torch and transformers load when a name is first used. The Auto classes of
transformers learn about the systems here at that moment (or at once, if transformers is already loaded);
`hmt.register()` does it explicitly.
"""

import sys
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("hmt-lm")
except PackageNotFoundError:  # running from a source tree that was never installed
    __version__ = "0+unknown"

_PUBLIC = {
    "HMTConfig": "hmt.systems.hmt.config",
    "HMTForCausalLM": "hmt.systems.hmt.model",
    "RMTConfig": "hmt.systems.rmt.config",
    "RMTForCausalLM": "hmt.systems.rmt.model",
    "WindowConfig": "hmt.systems.window.config",
    "WindowForCausalLM": "hmt.systems.window.model",
    "Memory": "hmt.memory.memory",
    "MemoryState": "hmt.memory.state",
    "BackboneMemory": "hmt.model.base",
    "Books": "hmt.asking",
    "DirectRunner": "hmt.sessions",
    "Session": "hmt.sessions",
    "Store": "hmt.sessions",
    "StreamingLM": "hmt.model.streaming",
    "ask": "hmt.asking",
    "load_model": "hmt.systems",
    "recall": "hmt.asking",
    "register": "hmt.systems",
}

__all__ = [*_PUBLIC, "__version__"]


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module 'hmt' has no attribute {name!r}")
    import_module("hmt.systems").register()
    value = getattr(import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted(__all__)


if "transformers.models.auto.modeling_auto" in sys.modules:  # already paid for: AutoModel must know us
    import_module("hmt.systems").register()
