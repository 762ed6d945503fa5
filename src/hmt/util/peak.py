"""The most memory this process has held."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any


def peak_memory(device: Any = None) -> int:
    """Bytes so far: allocated by PyTorch on `device` if that is a CUDA device, else resident in RAM."""
    if device is not None and str(device).startswith("cuda"):
        import torch

        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.exists() and (found := re.search(r"^VmHWM:\s+(\d+) kB$", status.read_text(), re.MULTILINE)):
        return 1024 * int(found[1])  # Linux hands ru_maxrss on from the process that started this one
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return psutil.Process().memory_info().peak_wset
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
