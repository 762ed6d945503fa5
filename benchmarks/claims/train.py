"""Train rows of docs/results.md: `python benchmarks/claims/train.py DIR NAME... --seed 0`.

DIR holds what `corpus.py` and `backbone.py` made; leaves DIR/models/NAME-SEED, and facts beside it. What is
there already is not trained again. In bfloat16 and compiled; on a CPU with plain attention, whose backward
pass is several times faster there at these lengths (docs/performance.md).
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import torch
from transformers import AutoTokenizer
from variants import BANK, VARIANTS

import hmt
from hmt.data import cut_samples
from hmt.training import train
from hmt.util.environment import run_facts


def documents(folder: Path) -> datasets.Dataset:
    lengths = json.loads((folder / "corpus.json").read_text())["memory"]["lengths"]
    ids = np.load(folder / "memory.npy").astype(np.int64)
    return datasets.Dataset.from_dict({"input_ids": np.split(ids, np.cumsum(lengths)[:-1])})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="+", choices=list(VARIANTS), metavar="NAME")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--scale", type=float, default=1.0, help="times the steps of both stages")
    parser.add_argument(
        "--begin", help="a row to go on from, by the last stage alone, instead of the backbone"
    )
    parser.add_argument("--suffix", default="", help="behind the names of the rows")
    parser.add_argument("--plain", action="store_true", help="in float32 and not compiled")
    a = parser.parse_args()
    attn = "sdpa" if torch.cuda.is_available() else "eager"
    text = documents(a.folder)
    for name in a.names:
        out = a.folder / "models" / f"{name}{a.suffix}-{a.seed}"
        if (out / "facts.json").exists():
            continue
        variant, begun = VARIANTS[name], time.monotonic()
        torch.manual_seed(a.seed)
        recipe = variant.recipe(a.seed, a.rate, a.scale)
        if a.plain:
            recipe = replace(recipe, bf16=False, compile=False)
        if a.begin:
            begin = a.folder / "models" / f"{a.begin}-{a.seed}"
            model = hmt.load_model(begin, attn_implementation=attn)
            recipe = replace(recipe, stages=recipe.stages[-1:])
            if "memory_size" in variant.fields:
                model.config.memory_size = variant.fields["memory_size"]
        else:
            kwargs = {"backbone_kwargs": {"attn_implementation": attn}}
            model = variant.system.from_backbone(a.folder / "backbone", **kwargs, **variant.fields)
        work = a.folder / "work" / out.name

        def samples(stage, length=variant.segment):
            return cut_samples(text, length, stage.segments, min_segments=stage.segments)

        result = train(model, None, samples, recipe, work, resume=True, progress=False)
        if hasattr(model.config, "memory_size"):
            model.config.memory_size = BANK
        model.save_pretrained(out)
        AutoTokenizer.from_pretrained(a.folder / "backbone").save_pretrained(out)
        shutil.move(work / "log.jsonl", out / "log.jsonl")
        shutil.rmtree(work)
        facts = {
            "seconds": time.monotonic() - begun,
            "stages": result.stages,
            "rate": a.rate,
            "begin": a.begin,
        }
        facts |= {"recipe": recipe.to_dict(), "setup": run_facts(a.seed)}
        (out / "facts.json").write_text(json.dumps(facts, indent=1) + "\n")
        losses = [(stage["name"], round(stage.get("loss", 0), 4)) for stage in result.stages]
        print(out.name, round(facts["seconds"]), losses, flush=True)


if __name__ == "__main__":
    main()
