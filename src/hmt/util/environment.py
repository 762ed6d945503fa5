"""Versions, hardware, commit and peak memory: what a bug report or a published number needs.

Importing this imports no torch.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

PACKAGES = ["torch", "transformers", "peft", "accelerate", "datasets"]


def collect() -> dict[str, Any]:
    """Everything `hmt env` shows, as plain JSON values: sizes in bytes, None for a missing package."""
    import psutil

    memory = psutil.virtual_memory()
    return {
        "hmt": version_of("hmt-lm"),
        "python": platform.python_version(),
        **{name: version_of(name) for name in PACKAGES},
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "memory_total": memory.total,
        "memory_available": memory.available,
        **_torch_facts(),
    }


def run_facts(seed: int, **more: Any) -> dict[str, Any]:
    """What a published number carries: command, commit, seed, versions and hardware, as plain values."""
    facts = collect()
    facts.pop("memory_available")
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    return {"command": command, "commit": commit(), "seed": seed, **more, **facts}


def commit() -> str | None:
    """The commit of the source tree this runs from, with "-dirty" if files differ; None if installed."""
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():
        return None
    call = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(call, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def version_of(distribution: str) -> str | None:
    """Version of an installed distribution, such as "hmt-lm"; None if there is none."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


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


def _torch_facts() -> dict[str, Any]:
    # A torch that is installed and cannot be loaded (a missing driver library, a build for another machine)
    # is what this command is asked to find, so it is reported and not raised.
    try:
        import torch
    except (ImportError, OSError) as error:
        return {"torch_error": str(error), "threads": None, "cuda": None, "devices": []}

    devices = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        devices.append(
            {"device": f"cuda:{index}", "name": properties.name, "memory": properties.total_memory}
        )
    if torch.backends.mps.is_available():
        devices.append({"device": "mps", "name": platform.processor() or platform.machine(), "memory": None})
    return {"threads": torch.get_num_threads(), "cuda": torch.version.cuda, "devices": devices}
