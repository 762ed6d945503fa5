"""What is trained for docs/results.md: every row is one system and one recipe, on the same backbone and text.

All rows of a table see the same number of tokens: what the backbone learns from more text must not be taken
for memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import hmt
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
        stage1, stage2: changes to the two stages; a stage1 of None is left out, and its tokens go to stage 2.
        recall_targets: as in the recipe.
    """

    system: type
    fields: dict[str, Any] = field(default_factory=dict)
    stage1: dict[str, Any] | None = field(default_factory=dict)
    stage2: dict[str, Any] = field(default_factory=dict)
    recall_targets: str | None = None

    @property
    def segment(self) -> int:
        return self.fields["segment_length"]

    def recipe(self, seed: int, rate: float, scale: float = 1.0) -> Recipe:
        """Two stages of as many tokens as those of every other row. scale: of their number of steps."""
        rates = {"learning_rate": rate, "lr_schedule": "cosine", "warmup_steps": 10}
        steps_1, steps_2 = round(STEPS_1 * scale), round(STEPS_2 * scale)
        stages = []
        if self.stage1 is None:
            steps_2 += steps_1
        else:
            first = {"name": "recurrence", "recall": False, "segments": 2, "steps": steps_1}
            stages.append(self._stage({**rates, **first, **self.stage1}))
        second = {"name": "memory", "segments": SEGMENTS, "steps": steps_2}
        stages.append(self._stage({**rates, **second, **self.stage2}))
        return Recipe(
            stages=tuple(stages),
            seed=seed,
            bf16=True,
            compile=True,
            save_steps=10_000,
            recall_targets=self.recall_targets,
        )

    def _stage(self, values: dict[str, Any]) -> Stage:
        values.setdefault("batch_size", max(1, TOKENS // (values["segments"] * self.segment)))
        return Stage(**values)


def hmt_(stage1=None, stage2=None, recall_targets=None, one_stage=False, **fields) -> Variant:
    common = {
        "segment_length": SEGMENT,
        "summary_length": fields.get("segment_length", SEGMENT) * SUMMARY // SEGMENT,
        "sensory_length": SENSORY,
        # the bank of a sample never holds more; BANK when it is used
        "memory_size": (stage2 or {}).get("segments", SEGMENTS),
        "memory_scale": "embedding",
    }
    first = None if one_stage else (stage1 or {})
    return Variant(hmt.HMTForCausalLM, {**common, **fields}, first, stage2 or {}, recall_targets)


def rmt(stage1=None, stage2=None, **fields) -> Variant:
    common = {"segment_length": SEGMENT, "sensory_length": SENSORY, "memory_scale": "embedding"}
    return Variant(hmt.RMTForCausalLM, {**common, **fields}, stage1 or {}, stage2 or {})


def window(tokens: int, segment: int = SEGMENT) -> Variant:
    return Variant(hmt.WindowForCausalLM, {"segment_length": segment, "window_length": tokens})


def depths(make: Callable[..., Variant]) -> dict[int, Variant]:
    """The same samples of 64 segments, gradients through 2 to 64 of them."""
    return {d: make(stage2={"segments": 64, "batch_size": 2, "bptt_depth": d}) for d in (2, 5, 16, 64)}


VARIANTS: dict[str, Variant] = {
    "sensory": window(SENSORY),
    "alone": window(0),
    "hmt": hmt_(),
    "rmt": rmt(),
    "rmt-paper": rmt(sensory_length=0),
    "hmt-norecall": hmt_(stage2={"recall": False}),
    "hmt-4": hmt_(embeddings_per_segment=4),
    "rmt-4": rmt(num_memory_tokens=4),
    # where the recall query comes from
    "hmt-previous": hmt_(recall_query="previous"),
    "hmt-memory": hmt_(recall_query="memory"),
    "hmt-inline": hmt_(recall_query="inline"),
    # ablations
    "hmt-onestage": hmt_(one_stage=True),
    "hmt-unscaled": hmt_(memory_scale=1.0),
    "hmt-ngram": hmt_(stage2=RECALL, recall_targets="ngram"),
    "hmt-j32": hmt_(summary_length=32),
    "hmt-j64": hmt_(summary_length=64),
    "previous-j32": hmt_(recall_query="previous", summary_length=32),
    "previous-j64": hmt_(recall_query="previous", summary_length=64),
    **{f"hmt-bptt{depth}": row for depth, row in depths(hmt_).items()},
    **{f"rmt-bptt{depth}": row for depth, row in depths(rmt).items()},
    # raw tokens at the paper's segment length of its Table 8
    **{f"hmt-256-k{k}": hmt_(segment_length=256, sensory_length=k) for k in (0, 8, 16, 32, 64, 128)},
    **{f"sensory-256-k{k}": window(k, 256) for k in (0, 8, 16, 32, 64, 128)},
}
