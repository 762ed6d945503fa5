"""What is trained for docs/results.md: every row is one system, one recipe, the same backbone and the same
text.

All rows see the same number of tokens: what the backbone learns from more text must not be taken for memory.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import hmt

SEGMENT, SUMMARY, SENSORY, BANK = 64, 16, 4, 300  # k / L and 1 / 16 are the paper's 32 / 512
STEPS_1, STEPS_2, BATCH_1, BATCH_2, SEGMENTS = 50, 150, 32, 4, 16


@dataclass(frozen=True)
class Variant:
    """One row.

    Attributes:
        system: class of the model; None: window baselines. fields: of its configuration.
        stages: changes to the two stages, by name; a stage that is None is left out.
        recite: share of repeated segments in stage 1 and in the first half of stage 2.
        recall_targets: as in the recipe.
    """

    system: type
    fields: dict[str, Any] = field(default_factory=dict)
    stage1: dict[str, Any] | None = field(default_factory=dict)
    stage2: dict[str, Any] = field(default_factory=dict)
    recite: float = 0.0
    recall_targets: str | None = None


def hmt_(stage1=None, stage2=None, recite=0.0, recall_targets=None, one_stage=False, **fields) -> Variant:
    common = {
        "summary_length": SUMMARY,
        "sensory_length": SENSORY,
        "memory_size": SEGMENTS,  # the bank of a sample never holds more; BANK when it is used
        "memory_scale": "embedding",
    }
    first = None if one_stage else (stage1 or {})
    return Variant(hmt.HMTForCausalLM, {**common, **fields}, first, stage2 or {}, recite, recall_targets)


def rmt(stage2=None, **fields) -> Variant:
    common = {"sensory_length": SENSORY, "memory_scale": "embedding"}
    return Variant(hmt.RMTForCausalLM, {**common, **fields}, {}, stage2 or {})


def window(tokens: int) -> Variant:
    return Variant(hmt.WindowForCausalLM, {"window_length": tokens})


NGRAM = {"recall_loss_weight": 0.1, "recall_negatives": True}
VARIANTS: dict[str, Variant] = {
    "sensory": window(SENSORY),
    "hmt": hmt_(),
    "rmt": rmt(),
    "rmt-0": rmt(sensory_length=0),  # the paper's
    "hmt-inline": hmt_(recall_query="inline"),
    "hmt-previous": hmt_(recall_query="previous"),
    "hmt-memory": hmt_(recall_query="memory"),
    "hmt-norecall": hmt_(stage2={"recall": False}),
    # does the memory earn its keep?
    "hmt-4": hmt_(embeddings_per_segment=4),
    "hmt-16": hmt_(embeddings_per_segment=16),
    "rmt-4": rmt(num_memory_tokens=4),
    "rmt-16": rmt(num_memory_tokens=16),
    "hmt-ngram": hmt_(stage2=NGRAM, recall_targets="ngram"),
    "hmt-recite": hmt_(
        recite=0.3, stage2={"recall_loss_weight": 0.1, "recall_negatives": True}, recall_targets="given"
    ),
    "hmt-16-recite": hmt_(
        embeddings_per_segment=16,
        recite=0.3,
        stage2={"recall_loss_weight": 0.1, "recall_negatives": True},
        recall_targets="given",
    ),
    "hmt-unscaled": hmt_(memory_scale=1.0),
    # ablations
    "hmt-onestage": hmt_(one_stage=True),
    "hmt-j32": hmt_(summary_length=32),
    "hmt-j64": hmt_(summary_length=64),
    "hmt-k0": hmt_(sensory_length=0),
    "hmt-k1": hmt_(sensory_length=1),
    "hmt-k16": hmt_(sensory_length=16),
    "sensory-16": window(16),
    "alone": window(0),
    **{f"hmt-bptt{d}": hmt_(stage2={"bptt_depth": d}) for d in (2, 5)},
    **{f"rmt-bptt{d}": rmt(stage2={"bptt_depth": d}) for d in (2, 5)},
}
