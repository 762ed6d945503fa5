"""What is remembered: the state of a batch of streams as a Cache and as a file, and whose it is."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submod_attrs={"memory": ["Memory"], "state": ["MemoryState"]}
)
