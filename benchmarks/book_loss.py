"""What re-reading recalled segments is worth to the prediction of a book, beside as many tokens of window.

    python benchmarks/book_loss.py BOOKS.jsonl.xz --model smollm2-135m --documents 12 --targets 4

A book is read up to a segment, and the loss of that segment's tokens is taken, the same tokens in every row:

    nothing          sensory tokens only
    exact recall     the model as it is (learned score, BM25, second hop)
    one hop          without the second hop
    learned, bm25    one score alone
    random           segments drawn at random
    window           the backbone with as many of the last tokens in front as passages and sensory tokens take

Nats per token and 95% intervals over books, as differences to the first row.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from questions import Asker, lines
from torch.nn.functional import cross_entropy

import hmt
from hmt import backbone as bb
from hmt.systems import load_tokenizer
from hmt.util.environment import run_facts
from hmt.util.files import write_atomically

ROWS = ("nothing", "exact recall", "one hop", "learned", "bm25", "random", "window")


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--documents", type=int, default=12)
    parser.add_argument("--targets", type=int, default=4, help="of each book")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = hmt.load_model(args.model)
    tokenizer = load_tokenizer(args.model, model.config.base_model_name_or_path)
    tokenizer.model_max_length = 10**9
    asker, config = Asker(model, tokenizer, 1), copy.deepcopy(model.config)
    length = model.segment_length
    window = config.passages * length + config.sensory_length
    losses: dict[str, list[list[float]]] = defaultdict(list)
    for number, record in enumerate(lines(args.data)):
        if number >= args.documents:
            break
        ids = torch.tensor(tokenizer(record["text"], add_special_tokens=False).input_ids)
        last = len(ids) // length - 1
        rng = random.Random(number)
        targets = sorted(rng.sample(range(last // 2, last), min(args.targets, last - last // 2)))
        found: dict[str, list[float]] = defaultdict(list)
        memory, read = None, 0
        for target in targets:
            start = target * length
            memory, read = model.read(ids[read:start], memory=memory), start
            goal = ids[start : start + length]
            for row in ROWS:
                if row == "window":
                    before = ids[start - window : start + length][None]
                    with torch.no_grad():
                        hidden = bb.run(model.backbone, bb.embed(model.backbone, before)).hidden[0]
                        logits = bb.head(model.backbone, hidden[-length:]).float()
                else:
                    asker.choose_by(row)
                    model.config.hops = config.hops if row == "exact recall" else 1
                    model.config.recall = row != "nothing"
                    with torch.no_grad():
                        logits = model(goal[None], past_key_values=memory.copy()).logits[0].float()
                    model.config.recall = True
                found[row].append(float(cross_entropy(logits[:-1], goal[1:])))
        for row, values in found.items():
            losses[row].append(values)
        print(record.get("title"), {row: round(float(np.mean(v)), 3) for row, v in found.items()}, flush=True)
    rng_ = np.random.default_rng(0)
    results = {}
    for row in ROWS:
        means = np.array([np.mean(book) for book in losses[row]])
        gains = means - np.array([np.mean(book) for book in losses["nothing"]])
        picks = gains[rng_.integers(0, len(gains), (2000, len(gains)))].mean(1)
        low, high = np.quantile(picks, [0.025, 0.975])
        results[row] = {
            "nats": float(means.mean()),
            "difference": [float(gains.mean()), float(low), float(high)],
        }
        print(f"{row:14s} {means.mean():.3f}  {gains.mean():+.3f} [{low:+.3f}, {high:+.3f}]")
    if args.output:
        settings = {"data": args.data.name, "documents": args.documents, "targets": args.targets}
        result = {"run": run_facts(0), "settings": settings, "results": results}
        write_atomically(args.output, (json.dumps(result, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
