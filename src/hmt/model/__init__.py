"""A model that reads in segments: what a system defines, and the driver written once for all of them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={"base": ["SegmentMemoryModel"]})
