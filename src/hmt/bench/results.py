"""Raw times -> numbers: medians, rates, shares of the bound, lengths where lines cross. All plain values."""

from __future__ import annotations

import math
import shlex
import sys
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch

from hmt.backbone.flops import (
    BackboneFlops,
    peak_flops,
)
from hmt.bench.timing import Case
from hmt.bench.workbench import BACKBONE, Workbench
from hmt.util.environment import run_facts

Row = dict[str, Any]


def collect(bench: Workbench) -> dict[str, Any]:
    """Everything measured so far, as it is written to bench.json. Times in seconds, memory in bytes."""
    settings = bench.settings
    reading = reading_rows(bench)
    facts = run_facts(settings.seed)
    facts["command"] = command_without_paths()
    return {
        "setup": facts,
        "settings": settings.published(),
        "backbone": backbone_facts(bench),
        "systems": {name: system_facts(bench, name) for name in bench.readers},
        "finished": bench.finished,
        "skipped": bench.skipped,
        "bound": {part: rate for part in ("reading", "training") if (rate := backbone_rate(bench, part))},
        "reading": reading,
        "crossover": crossover(bench, reading),
        "decode": decode_rows(bench),
        "training": training_rows(bench),
        "memory": bench.peaks,
    }


def command_without_paths() -> str:
    """The command line, with the last name of every absolute path only."""
    words = [Path(sys.argv[0]).name]
    for word in sys.argv[1:]:
        option, equals, value = word.rpartition("=")
        words.append(option + equals + (Path(value).name if Path(value).is_absolute() else value))
    return shlex.join(words)


def backbone_facts(bench: Workbench) -> Row:
    """Sizes and attention of the backbone that everything was measured on."""
    config, count = bench.backbone.config.get_text_config(), BackboneFlops.of(bench.backbone)
    names = ("model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    return {
        **{name: getattr(config, name, None) for name in names},
        "parameters": sum(p.numel() for p in bench.backbone.parameters()),
        "matrix_parameters": count.matrices,
        "attention": getattr(config, "_attn_implementation", None),
    }


def system_facts(bench: Workbench, name: str) -> Row:
    """Passes and operations per segment of a reader, and the bytes of its memory for the whole batch."""
    settings = bench.settings
    if name == "full":
        return {
            "positions_per_segment": settings.segment_length,
            "passes_per_segment": [settings.segment_length],
            "compiled": settings.compile,
        }
    model = bench.models[name]
    passes = model.passes()
    return {
        "positions_per_segment": sum(passes),
        "passes_per_segment": passes,
        "flops_per_segment": model.flops_per_segment(),
        "memory_bytes": model.new_memory(settings.batch).nbytes,
        "compiled": settings.compile and hasattr(model, "compile_steps"),
    }


# -- bounds -------------------------------------------------------------------------------------------------


def measured(cases: list[Case]) -> list[Case]:
    """The cases that have laps."""
    return [case for case in cases if case.laps]


def times(case: Case, lap: str) -> list[float]:
    """Seconds of every round of the lap of that name."""
    return [float(laps[lap]) for laps in case.laps]


def backbone_rate(bench: Workbench, part: str) -> Row | None:
    """Tokens per second of the plain backbone on [B, L]; None before it was measured."""
    lap = {"reading": "read", "training": "step"}[part]
    for case in measured(bench.cases.get(part, [])):
        if case.facts["system"] == BACKBONE:
            seconds = times(case, lap)
            tokens = bench.settings.batch * bench.settings.segment_length
            found = {"tokens_per_second": tokens / median(seconds), **spread("seconds", seconds)}
            return found | (
                {} if bench.on_gpu else spread("processor_seconds", times(case, f"{lap}_processor"))
            )
    return None


def against_bound(bench: Workbench, part: str, case: Case, rate: float, tokens: int) -> Row:
    """The bound: the backbone's positions cost what they cost alone, and nothing else costs anything.

    Replay runs the forward pass twice: 4 units instead of 3. On a CPU the same ratio is also taken of the
    seconds that its cores were busy.
    """
    alone, system = backbone_rate(bench, part), case.facts["system"]
    if alone is None or system == "full":
        return {"bound_tokens_per_second": None, "of_bound": None}
    length = bench.settings.segment_length
    model = bench.models[system]
    passes = model.reading_passes() if part == "reading" else model.passes()
    share = length / sum(passes) * (3 / 4 if case.facts.get("replay") else 1)
    best = alone["tokens_per_second"] * share
    found: Row = {"bound_tokens_per_second": best, "of_bound": rate / best}
    if not bench.on_gpu:
        busy = times(case, {"reading": "read", "training": "step"}[part] + "_processor")
        segments = tokens / (bench.settings.batch * length)
        least = alone["processor_seconds"] * segments / share
        found |= spread("processor_seconds", busy) | {"of_bound_processor": least / median(busy)}
    return found


def utilisation(bench: Workbench, flops: float, seconds: float) -> Row:
    """Share of the device's peak; nothing where that is not known."""
    settings = bench.settings
    name = torch.cuda.get_device_name(bench.device) if bench.on_gpu else ""
    peak = peak_flops(name, settings.dtype or "", settings.peak_tflops)
    return {"flops": flops} | ({} if peak is None else {"flop_utilisation": flops / seconds / peak})


# -- rows ---------------------------------------------------------------------------------------------------


def spread(name: str, seconds: list[float]) -> Row:
    """Median, minimum and all of some seconds: `name`, `name_min` and `name_raw`."""
    return {name: median(seconds), f"{name}_min": min(seconds), f"{name}_raw": [round(s, 7) for s in seconds]}


def reading_rows(bench: Workbench) -> list[Row]:
    """One row per system and length: seconds, tokens per second, shares of the bound, first tokens."""
    rows, batch = [], bench.settings.batch
    for case in measured(bench.cases.get("reading", [])):
        system = case.facts["system"]
        if system == BACKBONE:
            continue
        length = case.facts["length"]
        seconds = times(case, "read")
        rate = batch * length / median(seconds)
        rows.append(
            {
                "system": system,
                "length": length,
                **spread("seconds", seconds),
                "tokens_per_second": rate,
                **against_bound(bench, "reading", case, rate, batch * length),
                **utilisation(bench, batch * reading_flops(bench, system, length), median(seconds)),
                **spread("first_token_seconds", times(case, "first_token")),
                **spread("question_seconds", times(case, "question")),
            }
        )
    return rows


def reading_flops(bench: Workbench, system: str, length: int) -> int:
    """Operations of one row of the batch for a text of `length` tokens, whole segments, without the head."""
    if system == "full":
        return BackboneFlops.of(bench.backbone).full_attention(length)
    return length // bench.settings.segment_length * bench.models[system].flops_per_segment()


def decode_rows(bench: Workbench) -> list[Row]:
    """Per token: the median, and the mean over a whole segment with its opening and closing."""
    rows = []
    for case in measured(bench.cases.get("decode", [])):
        runs = [laps["tokens"] for laps in case.laps]
        means = [fmean(run) for run in runs]
        rows.append(
            {
                **{name: value for name, value in case.facts.items() if name != "part"},
                "median_seconds": median(median(run) for run in runs),
                "mean_seconds": median(means),
                "mean_seconds_min": min(means),
                "slowest_seconds": median(max(run) for run in runs),
                "seconds_raw": [[round(s, 7) for s in run] for run in runs],
            }
        )
    return rows


def training_rows(bench: Workbench) -> list[Row]:
    """One row per system, BPTT depth and replay: seconds of a step, rate, shares of the bound."""
    rows, settings = [], bench.settings
    head = BackboneFlops.of(bench.backbone).logits(settings.segment_length)
    for case in measured(bench.cases.get("training", [])):
        system = case.facts["system"]
        if system == BACKBONE:
            continue
        segments, replay = case.facts["segments"], case.facts["replay"]
        seconds = times(case, "step")
        tokens = settings.batch * segments * settings.segment_length
        rate = tokens / median(seconds)
        # what the model needs: a recomputed forward pass is no use of the device
        flops = 3 * settings.batch * segments * (bench.models[system].flops_per_segment() + head)
        rows.append(
            {
                "system": system,
                "segments": segments,
                "replay": replay,
                **spread("seconds", seconds),
                "tokens_per_second": rate,
                **against_bound(bench, "training", case, rate, tokens),
                **utilisation(bench, flops, median(seconds)),
            }
        )
    return rows


# -- where lines cross --------------------------------------------------------------------------------------


def crossover(bench: Workbench, reading: list[Row]) -> Row:
    """Lengths in tokens; None for one that was not reached.

    half_attention: attention is half of full attention's operations (computed). flops: by system, full
    attention takes more operations than it (computed). reading: by system, it reads faster (measured).
    """
    count, length = BackboneFlops.of(bench.backbone), bench.settings.segment_length
    found: Row = {
        "half_attention": count.half_attention(),
        "flops": {
            name: count.overtaken(model.flops_per_segment(), length) for name, model in bench.models.items()
        },
    }
    if "reading" in bench.cases and bench.full is not None:
        seconds = {(row["system"], row["length"]): row["seconds"] for row in reading}
        full = {at: value for (system, at), value in seconds.items() if system == "full"}
        found["reading"] = {
            name: crossing({at: full[at] / seconds[name, at] for at in full if (name, at) in seconds})
            for name in bench.models
        }
    return found


def crossing(ratios: dict[int, float]) -> Row | None:
    """Where a ratio (full attention's seconds over a system's) first reaches 1.

    ratios: by length, ascending. Between two lengths it is a straight line on logarithmic axes. `at_most`: it
    was there at the shortest length already.
    """
    points = [(math.log(length), math.log(ratio)) for length, ratio in ratios.items()]
    if points and points[0][1] >= 0:
        return {"tokens": min(ratios), "at_most": True}
    for (x0, y0), (x1, y1) in zip(points, points[1:], strict=False):
        if y1 >= 0:
            return {"tokens": round(math.exp(x0 - y0 * (x1 - x0) / (y1 - y0))), "at_most": False}
    return None
