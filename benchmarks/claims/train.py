"""Train rows of docs/results.md: `python benchmarks/claims/train.py DIR NAME... --seed 0`.

DIR holds what `corpus.py` and `backbone.py` made; leaves DIR/models/NAME-SEED, and facts beside it. What is
there already is not trained again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path

import datasets
import numpy as np
import torch
from transformers import AutoTokenizer
from variants import BANK, BATCH_1, BATCH_2, SEGMENT, SEGMENTS, STEPS_1, STEPS_2, VARIANTS, Variant

from hmt.data import RecitedSamples, cut_samples
from hmt.facts import run_facts
from hmt.training import Recipe, Stage, train


def documents(folder: Path) -> datasets.Dataset:
    lengths = json.loads((folder / "corpus.json").read_text())["memory"]["lengths"]
    ids = np.load(folder / "memory.npy").astype(np.int64)
    return datasets.Dataset.from_dict({"input_ids": np.split(ids, np.cumsum(lengths)[:-1])})


def recipe_of(variant: Variant, seed: int, rate: float, scale: float) -> Recipe:
    """Two stages with the same tokens for everybody; without stage 1 its tokens go to stage 2."""
    rates = {"learning_rate": rate, "lr_schedule": "cosine", "warmup_steps": 10}
    steps_1, steps_2 = round(STEPS_1 * scale), round(STEPS_2 * scale)
    stages = []
    if variant.stage1 is None:
        steps_2 += steps_1 * BATCH_1 * 2 // (BATCH_2 * SEGMENTS)
    else:
        first = {
            "name": "recurrence",
            "recall": False,
            "segments": 2,
            "steps": steps_1,
            "batch_size": BATCH_1,
        }
        stages.append(Stage(**{**rates, **first, **variant.stage1}))
    second = {"name": "memory", "segments": SEGMENTS, "steps": steps_2, "batch_size": BATCH_2}
    stages.append(Stage(**{**rates, **second, **variant.stage2}))
    targets = variant.recall_targets
    return Recipe(stages=tuple(stages), seed=seed, save_steps=10_000, recall_targets=targets)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="+", choices=list(VARIANTS), metavar="NAME")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--scale", type=float, default=1.0, help="times the steps of both stages")
    a = parser.parse_args()
    for name in a.names:
        out = a.folder / "models" / f"{name}-{a.seed}"
        if (out / "facts.json").exists():
            continue
        variant, begun = VARIANTS[name], time.monotonic()
        torch.manual_seed(a.seed)
        model = variant.system.from_backbone(a.folder / "backbone", segment_length=SEGMENT, **variant.fields)
        recipe = recipe_of(variant, a.seed, a.rate, a.scale)
        text = documents(a.folder)

        def samples(stage, share=variant.recite, text=text):
            cut = cut_samples(text, SEGMENT, stage.segments, min_segments=stage.segments)
            if not share:
                return cut
            return RecitedSamples(cut, SEGMENT, share, min_distance=1 if stage.segments == 2 else 2)

        work = a.folder / "work" / out.name
        shutil.rmtree(work, ignore_errors=True)
        result = train(model, None, samples if variant.recite else text, recipe, work, progress=False)
        if hasattr(model.config, "memory_size"):
            model.config.memory_size = BANK
        model.save_pretrained(out)
        AutoTokenizer.from_pretrained(a.folder / "backbone").save_pretrained(out)
        shutil.rmtree(work)
        facts = {"seconds": time.monotonic() - begun, "stages": result.stages, "rate": a.rate}
        facts |= {"recipe": recipe.to_dict(), "setup": run_facts(a.seed)}
        (out / "facts.json").write_text(json.dumps(facts, indent=1) + "\n")
        print(
            out.name, round(facts["seconds"]), [(s["name"], s.get("loss")) for s in result.stages], flush=True
        )


if __name__ == "__main__":
    main()
