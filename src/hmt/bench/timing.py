"""Cases in turns: what disturbs the machine for a while disturbs all of them, and not one."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from hmt.util.oom import is_out_of_memory

Laps = dict[str, Any]  # name -> seconds, or a list of them


@dataclass
class Case:
    """One thing to measure.

    Attributes:
        facts: what it is (system, length, ...), as it stands in the results.
        run: measures once: laps by name, in seconds.
        warm: makes everything ready that only the first run pays for.
        work: tokens of one run, for the progress bar.
        laps: what was measured so far, one dict per round.
    """

    facts: dict[str, Any]
    run: Callable[[], Laps]
    warm: Callable[[], Any]
    work: int
    laps: list[Laps] = field(default_factory=list)


class Clock:
    """Seconds of a call; a GPU has finished before it and is waited for after it.

    `processor`: seconds that the last call kept this process's CPU cores busy, all its threads together. On a
    machine that others use too they say more about the work than the time that went by.
    """

    def __init__(self, device: str):
        self._wait = partial(torch.cuda.synchronize, device) if device.startswith("cuda") else lambda: None
        self.processor = 0.0

    def __call__(self, function: Callable[..., Any], *args: Any) -> tuple[Any, float]:
        self._wait()
        busy, start = time.process_time(), time.perf_counter()
        result = function(*args)
        self._wait()
        seconds, self.processor = time.perf_counter() - start, time.process_time() - busy
        return result, seconds


def take_turns(
    cases: list[Case],
    repeats: int,
    skip: Callable[[dict[str, Any], str], None],
    progress: Callable[[int, int], None],
) -> None:
    """Warm up every case, then run all of them `repeats` times round-robin, filling their `laps`.

    A case that does not fit into memory is told to `skip` and not run again.
    """
    live, done = list(cases), 0
    total = sum(case.work for case in cases) * (repeats + 1)
    gc.collect()  # once: it takes longer than many a case
    for turn in range(-1, repeats):
        for case in list(live):
            try:
                if turn < 0:
                    case.warm()
                else:
                    case.laps.append(case.run())
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                live.remove(case)
                skip(case.facts, "out of memory")
                del error  # its traceback holds the tensors of the frames it came through
                free()
            done += case.work
            progress(done, total)


def free() -> None:
    """Give back what nothing holds any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
