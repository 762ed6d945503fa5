"""What is trained for docs/results.md: every row is one system and one recipe, on the same backbone and text.

All rows of a table see the same number of tokens: what the backbone learns from more text must not be taken
for memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import hmt
from hmt.systems import get
from hmt.training import Recipe, Stage

SEGMENT, SUMMARY, SENSORY, BANK = 64, 16, 4, 300  # k / L and 1 / 16 are the paper's 32 / 512
TOKENS = 8192  # per optimizer step
STEPS_1, STEPS_2, SEGMENTS = 40, 160, 16
RECALL = {"recall_loss_weight": 0.1, "recall_negatives": True}


@dataclass(frozen=True)
class Variant:
    """One row.

    Attributes:
        system: class of the model. fields: of its configuration.
        stages: what they differ in from `rates` below, each with its name, segments and steps.
        recall_targets: as in the recipe.
    """

    system: type
    fields: dict[str, Any]
    stages: tuple[dict[str, Any], ...]
    recall_targets: str | None = None

    @property
    def segment(self) -> int:
        return self.fields["segment_length"]

    def recipe(self, seed: int, rate: float, scale: float = 1.0) -> Recipe:
        """scale: of the number of steps of all stages."""
        rates = {"learning_rate": rate, "lr_schedule": "cosine", "warmup_steps": 10}
        stages = []
        for values in self.stages:
            batch = max(1, TOKENS // (values["segments"] * self.segment))
            stage = {**rates, "batch_size": batch, **values}
            stages.append(Stage(**{**stage, "steps": max(1, round(stage["steps"] * scale))}))
        return Recipe(
            stages=tuple(stages),
            seed=seed,
            bf16=True,
            compile=True,
            save_steps=10_000,
            recall_targets=self.recall_targets,
        )


# -- stages -----------------------------------------------------------------------------------------------


def recurrence(**changes: Any) -> dict[str, Any]:
    return {"name": "recurrence", "recall": False, "segments": 2, "steps": STEPS_1, **changes}


def memory(**changes: Any) -> dict[str, Any]:
    return {"name": "memory", "segments": SEGMENTS, "steps": STEPS_2, **changes}


# a segment and its copy: the second is only to be had from what the first left behind. Small batches: what it
# takes until writing and reading begin to fit each other is steps, not tokens. The recall loss tells the own
# segment from those of the other samples, so that recall is sharp before it has several to choose from.
COPY = memory(name="copy", segments=2, repetition=1.0, steps=200, batch_size=32, **RECALL)
# text in which a third of the segments stood earlier, and a recall loss that says where
RECITED = memory(name="repetition", repetition=0.3, steps=80, **RECALL)

TWO = (recurrence(), memory())
COPY_FIRST = (COPY, memory())
COPY_RECITE = (COPY, RECITED, memory())
COPY_KEEP = (COPY, RECITED, memory(repetition=0.1, **RECALL))  # recall goes on being taught beside the text


# -- systems ----------------------------------------------------------------------------------------------


def hmt_(stages=TWO, recall_targets=None, **fields) -> Variant:
    segment = fields.get("segment_length", SEGMENT)
    common = {
        "segment_length": segment,
        "summary_length": segment * SUMMARY // SEGMENT,
        "sensory_length": SENSORY,
        # the bank of a sample never holds more; BANK when it is used
        "memory_size": max(stage["segments"] for stage in stages),
        "memory_scale": "embedding",
    }
    return Variant(hmt.HMTForCausalLM, {**common, **fields}, stages, recall_targets)


def rmt(stages=TWO, recall_targets=None, **fields) -> Variant:
    common = {"segment_length": SEGMENT, "sensory_length": SENSORY, "memory_scale": "embedding"}
    return Variant(hmt.RMTForCausalLM, {**common, **fields}, stages, recall_targets)


def window(tokens: int, stages=TWO, recall_targets=None, segment: int = SEGMENT) -> Variant:
    fields = {"segment_length": segment, "window_length": tokens}
    return Variant(hmt.WindowForCausalLM, fields, stages, recall_targets)


def other(name: str, stages=TWO, recall_targets=None, **fields) -> Variant:
    """Any other system of the registry."""
    return Variant(get(name).model, {"segment_length": SEGMENT, **fields}, stages, recall_targets)


def depths(make: Callable[..., Variant]) -> dict[int, Variant]:
    """The same samples of 64 segments, gradients through 2 to 64 of them."""
    return {depth: make((recurrence(), memory(segments=64, bptt_depth=depth))) for depth in (2, 5, 16, 64)}


VARIANTS: dict[str, Variant] = {
    "sensory": window(SENSORY),
    "alone": window(0),
    "hmt": hmt_(),
    "rmt": rmt(),
    "rmt-paper": rmt(sensory_length=0),
    "armt": other("armt", sensory_length=SENSORY, num_memory_tokens=4, memory_dim=16),
    "transformer-xl": other("transformer_xl", memory_length=SEGMENT),
    "hmt-norecall": hmt_((recurrence(), memory(recall=False))),
    "hmt-4": hmt_(embeddings_per_segment=4),
    "rmt-4": rmt(num_memory_tokens=4),
    "hmt-16": hmt_(embeddings_per_segment=16),
    "rmt-16": rmt(num_memory_tokens=16),
    # taught to write first; the same for the row that has nothing to write to
    **{f"hmt-{m}-copy": hmt_(COPY_FIRST, "given", embeddings_per_segment=m) for m in (1, 4, 16)},
    **{f"hmt-{m}-repetition": hmt_(COPY_RECITE, "given", embeddings_per_segment=m) for m in (1, 4, 16)},
    **{f"rmt-{m}-copy": rmt(COPY_FIRST, "given", num_memory_tokens=m) for m in (1, 4, 16)},
    "rmt-16-repetition": rmt(COPY_RECITE, "given", num_memory_tokens=16),
    **{
        f"hmt-{m}-write": hmt_(COPY_RECITE, "given", embeddings_per_segment=m, write_prompt="learned")
        for m in (1, 4, 16)
    },
    "hmt-16-keep": hmt_(COPY_KEEP, "given", embeddings_per_segment=16, write_prompt="learned"),
    "sensory-copy": window(SENSORY, COPY_FIRST, "given"),
    "sensory-repetition": window(SENSORY, COPY_RECITE, "given"),
    # where the recall query comes from
    "hmt-previous": hmt_(recall_query="previous"),
    "hmt-memory": hmt_(recall_query="memory"),
    "hmt-inline": hmt_(recall_query="inline"),
    # ablations
    "hmt-onestage": hmt_((memory(steps=STEPS_1 + STEPS_2),)),
    "sensory-onestage": window(SENSORY, (memory(steps=STEPS_1 + STEPS_2),)),
    "hmt-unscaled": hmt_(memory_scale=1.0),
    "hmt-ngram": hmt_((recurrence(), memory(**RECALL)), "ngram"),
    "hmt-j32": hmt_(summary_length=32),
    "hmt-j64": hmt_(summary_length=64),
    "previous-j32": hmt_(recall_query="previous", summary_length=32),
    "previous-j64": hmt_(recall_query="previous", summary_length=64),
    **{f"hmt-bptt{depth}": row for depth, row in depths(hmt_).items()},
    **{f"rmt-bptt{depth}": row for depth, row in depths(rmt).items()},
    # raw tokens at the paper's segment length of its Table 8
    **{f"hmt-256-k{k}": hmt_(segment_length=256, sensory_length=k) for k in (0, 8, 16, 32, 64, 128)},
    **{f"sensory-256-k{k}": window(k, segment=256) for k in (0, 8, 16, 32, 64, 128)},
}
