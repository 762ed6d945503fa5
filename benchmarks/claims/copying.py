"""Can a memory carry what a segment said? `python benchmarks/claims/copying.py DIR --embeddings 1 16 --output
JSON`.

Samples of two segments, every other one a segment and its copy: only memory connects the two. Reported while
training: nats per token of held-out segments behind another text and behind themselves, without the summary
and without the last tokens, which stand in front of the copy raw. The difference is what memory carries.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from torch import Tensor
from train import documents
from variants import SEGMENT, SENSORY, SUMMARY

import hmt
from hmt.data import RepeatedSamples, cut_samples
from hmt.evaluation.readers.plain import token_nats
from hmt.util.environment import run_facts


@torch.no_grad()
def behind(model, before: Tensor, rows: Tensor) -> float:
    """Nats per token of int64 [B, L] rows, read after the segments `before`."""
    state = model.step(before, model.initial_state(len(rows))).state
    hidden = model.step(rows, state).hidden[:, SUMMARY - 1 : -1 - SENSORY]
    return token_nats(model.backbone, hidden, rows[:, SUMMARY:-SENSORY]).mean().item()


def train(a, text, held_out: Tensor, number: int) -> list[dict[str, float]]:
    """The curve of a model with so many embeddings per segment."""
    torch.manual_seed(a.seed)
    cpu = not torch.cuda.is_available()
    model = hmt.HMTForCausalLM.from_backbone(
        a.folder / "backbone",
        backbone_kwargs={"attn_implementation": "eager" if cpu else "sdpa"},
        segment_length=SEGMENT,
        summary_length=SUMMARY,
        sensory_length=SENSORY,
        memory_size=2,
        memory_scale="embedding",
        embeddings_per_segment=number,
    ).train()
    model.compile_steps()
    samples = RepeatedSamples(text, SEGMENT, 0.5, min_distance=1, seed=a.seed)
    order = torch.randperm(len(text), generator=torch.Generator().manual_seed(a.seed)).tolist()
    optimizer = torch.optim.AdamW(model.parameters(), lr=a.rate, betas=(0.9, 0.95), weight_decay=0.0)
    curve, begun = [], time.monotonic()
    for step in range(a.steps + 1):
        if step % a.every == 0:
            model.eval()
            other, same = behind(model, held_out.roll(1, 0), held_out), behind(model, held_out, held_out)
            model.train()
            tokens = step * a.batch * 2 * SEGMENT
            curve.append({"step": step, "tokens": tokens, "other": other, "same": same})
            print(number, curve[-1], round(time.monotonic() - begun), flush=True)
        rate = a.rate * min(1, (step + 1) / 20, max(0.05, 2 - 2 * step / a.steps))
        for group in optimizer.param_groups:
            group["lr"] = rate
        picked = [order[(step * a.batch + i) % len(order)] for i in range(a.batch)]
        ids = torch.stack([samples[i]["input_ids"] for i in picked])
        with torch.autocast("cpu" if cpu else "cuda", torch.bfloat16):
            loss = model(ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return curve


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--embeddings", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--every", type=int, default=25)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True)
    a = parser.parse_args()
    documents_, results = documents(a.folder), {}
    last = documents_.select(range(len(documents_) - 40, len(documents_)))
    text = cut_samples(documents_.select(range(len(documents_) - 40)), SEGMENT, 2, min_segments=2)
    alone = cut_samples(last, SEGMENT, 1, min_segments=1)
    held_out = torch.stack([alone[i * len(alone) // 256]["input_ids"] for i in range(256)])
    for number in a.embeddings:
        results[str(number)] = train(a, text, held_out, number)
        options = {name: value for name, value in vars(a).items() if name not in ("folder", "output")}
        facts = {"curves": results, "options": options, "setup": run_facts(a.seed)}
        a.output.parent.mkdir(parents=True, exist_ok=True)
        a.output.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
