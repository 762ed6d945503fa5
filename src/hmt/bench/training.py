"""One training step: forward through all segments of a sample and backward through all of them.

Everything is trained, without an optimizer step: weights, gradients and what the backward pass needs is held,
no optimizer state. No recall loss, which is a few vectors per segment.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psutil
import torch
from torch import Tensor

from hmt import backbone as bb
from hmt.bench.timing import Case, Laps, take_turns
from hmt.bench.workbench import BACKBONE, Progress, Workbench
from hmt.model.base import BackboneMemory
from hmt.util.format import byte_text


def measure_training(bench: Workbench, progress: Progress) -> None:
    """Laps `step`: forward and backward of one sample per stream, with replay off and on."""
    settings = bench.settings
    cases = bench.cases["training"] = [_backbone(bench)]
    for segments in settings.train_segments:
        ids = bench.ids(segments * settings.segment_length)
        for name, model in bench.models.items():
            for replay in (False, True):
                facts = {"part": "training", "system": name, "segments": segments, "replay": replay}
                if why := no_room(bench, model, segments, replay):
                    bench.skip(facts, why)
                else:
                    cases.append(_step(bench, model, facts, ids, replay))
    take_turns(cases, settings.repeats, bench.skip, progress)


def training_step(model: BackboneMemory, ids: Tensor, replay: bool) -> None:
    """Forward and backward; gradients are left in the parameters."""
    model.train()
    model(ids, labels=ids, replay=replay).loss.backward()
    model.eval()


def _step(bench: Workbench, model: BackboneMemory, facts: dict[str, Any], ids: Tensor, replay: bool) -> Case:
    short = ids[:, : 2 * bench.settings.segment_length]

    def run(ids: Tensor = ids) -> Laps:
        model.zero_grad(set_to_none=True)
        _, seconds = bench.clock(training_step, model, ids, replay)
        model.zero_grad(set_to_none=True)
        return {"step": seconds, "step_processor": bench.clock.processor}

    return Case(facts, run, run if bench.warms_whole else lambda: run(short), work=ids.numel())


def _backbone(bench: Workbench) -> Case:
    """The backbone alone with its head and the same loss, on [B, L] at a time; the lap is the mean of one.

    As often as the shortest sample has segments, the gradients adding up, as they do over the segments.
    """
    settings, backbone = bench.settings, bench.backbone
    ids, hidden = bench.ids(settings.segment_length), bench.plain_pass()
    times = settings.train_segments[0]
    loss = loss_of(backbone)

    def several() -> None:
        backbone.train()
        for _ in range(times):
            loss(hidden(ids), ids).backward()
        backbone.eval()

    def run() -> Laps:
        backbone.zero_grad(set_to_none=True)
        _, seconds = bench.clock(several)
        backbone.zero_grad(set_to_none=True)
        return {"step": seconds / times, "step_processor": bench.clock.processor / times}

    return Case({"part": "training", "system": BACKBONE}, run, run, ids.numel() * times)


def loss_of(backbone: Any) -> Callable[[Tensor, Tensor], Tensor]:
    """(outputs [B, L, d], targets [B, L]) -> the loss that systems apply to each of their segments."""

    def loss(hidden: Tensor, targets: Tensor) -> Tensor:
        logits = bb.head(backbone, hidden)
        return backbone.loss_function(
            logits=logits, labels=None, vocab_size=logits.shape[-1], shift_labels=targets
        )

    return loss


def no_room(bench: Workbench, model: BackboneMemory, segments: int, replay: bool) -> str | None:
    """Why a step cannot be held in RAM, or None. A GPU says so by itself; a CPU's process would be killed."""
    if bench.on_gpu or replay:
        return None
    if model not in bench.stored:
        bench.stored[model] = stored_per_segment(model, bench.ids(2 * bench.settings.segment_length))
    needed = segments * bench.stored[model]
    free = psutil.virtual_memory().available
    if needed < 0.8 * free:
        return None
    return f"would store about {byte_text(needed)} for the backward pass; {byte_text(free)} are free"


def stored_per_segment(model: BackboneMemory, two_segments: Tensor) -> int:
    """Bytes that one more segment keeps for the backward pass, counted on the first two."""

    def stored(ids: Tensor) -> int:
        sizes: dict[int, int] = {}  # what is stored stays alive, so an address names one block of memory

        def pack(tensor: Tensor) -> Tensor:
            block = tensor.untyped_storage()
            sizes[block.data_ptr()] = block.nbytes()
            return tensor

        model.train()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = model(ids, labels=ids).loss
        model.eval()
        del loss
        return sum(sizes.values())

    return stored(two_segments) - stored(two_segments[:, : two_segments.shape[1] // 2])
