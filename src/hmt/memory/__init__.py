"""What is remembered: the state of a batch of streams as a Cache and as a file, and whose it is."""

from hmt.util.lazy import lazy_names

__getattr__, __dir__ = lazy_names(__name__, {"Memory": "memory", "MemoryState": "state"})
