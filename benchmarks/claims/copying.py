"""Can a memory carry what a segment said? `python benchmarks/claims/copying.py DIR --embeddings 1 16 --output
JSON`.

Samples of two segments, the second a copy of the first. Reading it again is trivial for attention; here only
memory connects the two. Reported while training: nats per token of the copy's tail (after the summary) less
those of the same tokens read for the first time. 0: nothing was carried; the lowest possible is minus all of
it.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from train import documents
from variants import SEGMENT, SENSORY, SUMMARY

import hmt
from hmt.data import cut_samples
from hmt.facts import run_facts


def gain(model, rows: torch.Tensor) -> tuple[float, float]:
    """Nats per token of the tail, read first and as a copy. rows: int64 [B, L]."""
    with torch.no_grad():
        logits = model(torch.cat([rows, rows], dim=1)).logits.float()
    found = []
    for start in (0, SEGMENT):
        goal = rows[:, SUMMARY:]
        part = logits[:, start + SUMMARY - 1 : start + SEGMENT - 1]
        found.append(torch.nn.functional.cross_entropy(part.flatten(0, 1), goal.flatten()).item())
    return found[0], found[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--embeddings", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True)
    a = parser.parse_args()
    cut = cut_samples(documents(a.folder), SEGMENT, 1, min_segments=1)
    held_out = torch.stack([cut[-1 - 7 * i]["input_ids"] for i in range(64)])
    results = {}
    for number in a.embeddings:
        torch.manual_seed(a.seed)
        model = hmt.HMTForCausalLM.from_backbone(
            a.folder / "backbone",
            segment_length=SEGMENT,
            summary_length=SUMMARY,
            sensory_length=SENSORY,
            memory_size=2,
            memory_scale="embedding",
            embeddings_per_segment=number,
        ).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=a.rate, betas=(0.9, 0.95), weight_decay=0.0)
        order = torch.randperm(len(cut) - 500, generator=torch.Generator().manual_seed(a.seed)).tolist()
        curve, begun = [], time.monotonic()
        for step in range(a.steps + 1):
            if step % 25 == 0:
                first, copy = gain(model.eval(), held_out)
                curve.append({"step": step, "first": first, "copy": copy})
                print(
                    number, step, round(first, 3), round(copy, 3), round(time.monotonic() - begun), flush=True
                )
                model.train()
            for group in optimizer.param_groups:
                group["lr"] = a.rate * min(1, (step + 1) / 10)
            picked = [order[(step * a.batch + i) % len(order)] for i in range(a.batch)]
            rows = torch.stack([cut[i]["input_ids"] for i in picked])
            ids = torch.cat([rows, rows], dim=1)
            model(ids, labels=ids).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        results[str(number)] = curve
    a.output.parent.mkdir(parents=True, exist_ok=True)
    options = {name: value for name, value in vars(a).items() if name not in ("folder", "output")}
    facts = {"curves": results, "options": options, "setup": run_facts(a.seed)}
    a.output.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
