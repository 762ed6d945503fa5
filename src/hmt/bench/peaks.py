"""Peak memory against length of text (reading) and BPTT depth (training).

On a CPU every point is a process of its own, because the resident peak of a process never falls again. glibc
keeps freed blocks of some MiB and cuts them up, which looks like memory that grows with every replayed
segment: it is asked to give large blocks back at once, so that what is counted is what PyTorch holds. On a
GPU the allocator's peak is reset before every point.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import psutil
import torch

from hmt.bench.timing import free
from hmt.bench.training import no_room, training_step
from hmt.bench.workbench import Progress, Workbench
from hmt.util.environment import peak_memory
from hmt.util.oom import is_out_of_memory
from hmt.util.processes import run_module

Point = dict[str, Any]


def measure_peaks(bench: Workbench, progress: Progress) -> None:
    """Points of `bench.peaks`, by "reading" and "training": `before`, `peak_before` and `peak`, in bytes."""
    points = all_points(bench)
    for done, point in enumerate(points):
        progress(done, len(points))
        if point["kind"] == "training":
            if why := no_room(bench, bench.models[point["system"]], point["segments"], point["replay"]):
                bench.skip(_facts(point), why)
                continue
        found, why = _on_gpu(bench, point) if bench.on_gpu else _in_child(bench, point)
        if found is None:
            bench.skip(_facts(point), why)
        else:
            kept = {name: value for name, value in point.items() if name != "kind"}
            bench.peaks.setdefault(point["kind"], []).append({**kept, **found})
    progress(len(points), len(points))


def all_points(bench: Workbench) -> list[Point]:
    """What is to be measured: every reader at every length, every system at every depth, replay off and on.

    Texts that are too long for full attention are noted as skipped.
    """
    settings, points = bench.settings, []
    for length in settings.lengths:
        for name in bench.readers:
            point = {"kind": "reading", "system": name, "length": length}
            if not bench.too_long(_facts(point), length):
                points.append(point)
    for segments in settings.train_segments:
        for name in bench.models:
            for replay in (False, True):
                points.append({"kind": "training", "system": name, "segments": segments, "replay": replay})
    return points


def do_work(bench: Workbench, point: Point, segments: int | None = None) -> None:
    """The work of a point, or the same work on a text of so many segments."""
    length = bench.settings.segment_length
    if point["kind"] == "reading":
        bench.readers[point["system"]].read(
            bench.ids(point["length"] if segments is None else segments * length)
        )
    else:
        model = bench.models[point["system"]]
        training_step(model, bench.ids((segments or point["segments"]) * length), point["replay"])
        model.zero_grad(set_to_none=True)


def peak_here(bench: Workbench, point: Point) -> dict[str, int]:
    """What this process holds before the work of a point, and the most it holds during it."""
    do_work(bench, point, segments=1)
    if bench.on_gpu:
        free()
        torch.cuda.reset_peak_memory_stats(bench.device)
        before = torch.cuda.memory_allocated(bench.device)
    else:
        before = psutil.Process().memory_info().rss
    peak_before = peak_memory(bench.device)
    do_work(bench, point)
    return {"before": before, "peak_before": peak_before, "peak": peak_memory(bench.device)}


def _on_gpu(bench: Workbench, point: Point) -> tuple[dict[str, int] | None, str]:
    try:
        return peak_here(bench, point), ""
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    bench.backbone.zero_grad(set_to_none=True)
    free()
    return None, "out of memory"


def _in_child(bench: Workbench, point: Point) -> tuple[dict[str, int] | None, str]:
    settings = replace(bench.settings, systems=(point["system"],))
    task = json.dumps({"settings": settings.to_dict(), "point": point})
    child = run_module("hmt.bench.child", input=task, environment={"MALLOC_MMAP_THRESHOLD_": "65536"})
    if child.returncode == 0:
        return json.loads(child.stdout.splitlines()[-1]), ""
    if child.returncode == -9:
        return None, "its process was killed, which is what happens when memory runs out"
    if "can't allocate memory" in child.stderr:
        return None, "out of memory"
    raise RuntimeError(f"the process that measures {point} failed:\n{child.stderr[-4000:]}")


def _facts(point: Point) -> dict[str, Any]:
    facts = {name: value for name, value in point.items() if name != "kind"}
    return {"part": f"memory, {point['kind']}", **facts}
