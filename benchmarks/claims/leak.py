"""How much does the paper's recall query give away? `python benchmarks/claims/leak.py DIR --models NAME...`.

The paper's recall prompt is made from the first j tokens of the segment that it stands in front of. Reported
are nats per token of the tokens 1 to j - 1 of fixed target segments, once as a training pass predicts them
(the prompt has seen all j) and once with a prompt made only of the tokens before each (as decoding has it).
The difference is the leak.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoTokenizer

import hmt
from hmt.data import load_documents, tokenize_documents
from hmt.evaluation.readers.plain import token_nats
from hmt.evaluation.summary import estimate
from hmt.evaluation.targets import choose_targets, gather_windows
from hmt.util.environment import run_facts


def head_nats(model, state, target: Tensor) -> tuple[Tensor, Tensor]:
    """Nats [B, j - 1] of tokens 1 .. j - 1 of int64 [B, L]: seen by the recall prompt, and not."""
    j = model.config.summary_length
    shown = model.step(target, state).hidden[:, : j - 1]
    hidden = [model.step(target[:, :t], state).hidden[:, -1] for t in range(1, j)]
    fair, goal = torch.stack(hidden, dim=1), target[:, 1:j]
    return token_nats(model.backbone, shown, goal), token_nats(model.backbone, fair, goal)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", nargs="+", required=True)
    parser.add_argument("--books", required=True)
    parser.add_argument("--history", type=int, default=16)
    parser.add_argument("--targets", type=int, default=8, help="per book")
    parser.add_argument("--output", type=Path, required=True)
    a = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(a.folder / "backbone")
    books = tokenize_documents(load_documents(a.books), tokenizer).with_format("numpy")["input_ids"]
    results = {}
    for name in a.models:
        model = hmt.load_model(a.folder / "models" / name).eval()
        length = model.config.segment_length
        sizes = {"segment_length": length, "targets_per_document": a.targets, "max_targets": 10_000}
        targets = choose_targets([len(ids) for ids in books], a.history, seed=0, **sizes)
        windows = gather_windows(books, targets, a.history, length)
        pairs = []
        for part in windows.split(32):
            state = model.read(part[:, :-length]).state
            pairs.append([nats.mean(1) for nats in head_nats(model, state, part[:, -length:])])
        shown, fair = (torch.cat(one) for one in zip(*pairs, strict=True))
        records = [
            {
                "id": f"{target.document}/{target.segment}",
                "group": str(target.document),
                "scores": {"shown": seen, "fair": own, "leak": own - seen},
            }
            for target, seen, own in zip(targets, shown.tolist(), fair.tolist(), strict=True)
        ]
        found = {metric: estimate(records, metric) for metric in ("shown", "fair", "leak")}
        results[name] = {"summary_length": model.config.summary_length, **found}
        print(name, {metric: round(value["mean"], 4) for metric, value in found.items()}, flush=True)
    facts = {"results": results, "setup": run_facts(0)}
    a.output.parent.mkdir(parents=True, exist_ok=True)
    a.output.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
