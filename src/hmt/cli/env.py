"""`hmt env`: the versions and the hardware a bug report or a benchmark needs beside it."""

import importlib.metadata
import json
import os
import platform
from typing import Annotated, Any

import typer

PACKAGES = ["torch", "transformers", "peft", "accelerate", "datasets"]


def command(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object instead of a table.")
    ] = False,
) -> None:
    """Show versions, cores, memory and accelerators."""
    facts = collect()
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return

    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False, title="hmt env", title_justify="left")
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(name, _readable(name, value))
    Console().print(table)


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


def version_of(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


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


def _readable(name: str, value: Any) -> str:
    if name == "devices":
        return "\n".join(_describe(device) for device in value) or "none (CPU only)"
    if value is None:
        return "not installed" if name in ("hmt", *PACKAGES) else "none"
    if name.startswith("memory"):
        return _gib(value)
    return str(value)


def _describe(device: dict[str, Any]) -> str:
    size = "" if device["memory"] is None else f", {_gib(device['memory'])}"
    return f"{device['device']}: {device['name']}{size}"


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
