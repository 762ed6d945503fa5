"""A rolling window of keys and values beside the same window of ids read again, on a backbone as it is.

    python benchmarks/windows.py MODEL BOOKS.jsonl.xz --output benchmarks/results/windows.json

MODEL is a plain causal LM with its tokenizer. The same target tokens are scored in every row, after the same
history; differences are paired, with 95% intervals over books.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from hmt.data import load_documents
from hmt.evaluation.readers import FullReader, RollingReader, WindowIdsReader
from hmt.util.environment import run_facts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("books")
    parser.add_argument("--number", type=int, default=16, help="books; one target of each")
    parser.add_argument("--history", type=int, default=512, help="tokens before a target")
    parser.add_argument("--target", type=int, default=64, help="tokens of a target, which are read at once")
    parser.add_argument("--skip", type=int, default=16, help="first tokens of a target that are not scored")
    parser.add_argument("--windows", type=int, nargs="+", default=[4, 16, 64])
    parser.add_argument("--sinks", type=int, default=4)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()

    model = AutoModelForCausalLM.from_pretrained(a.model).eval()
    tokenizer = AutoTokenizer.from_pretrained(a.model)
    draw, rows = np.random.default_rng(a.seed), []
    for book in load_documents(a.books).select(range(a.number)):
        begin = int(draw.integers(20_000, len(book["text"]) - 20_000))
        ids = tokenizer(book["text"][begin : begin + 8 * (a.history + a.target)])["input_ids"]
        rows.append(ids[: a.history + a.target])
    history, target = torch.tensor(rows).split([a.history, a.target], dim=1)

    readers = [WindowIdsReader(model, tokens=0, name="alone"), FullReader(model, name="full")]
    for size in a.windows:
        readers.append(WindowIdsReader(model, tokens=size, name=f"ids, {size} read again"))
        readers.append(RollingReader(model, tokens=size, chunk=a.target, name=f"keys and values, {size}"))
        if size > a.sinks:
            name = f"keys and values, {size}, {a.sinks} of them sinks"
            readers.append(RollingReader(model, tokens=size, sinks=a.sinks, chunk=a.target, name=name))
    found: dict[str, dict] = {}
    alone: np.ndarray | None = None
    for reader in readers:
        parts = [
            reader.target_nats(h[None], t[None])[0, a.skip :] for h, t in zip(history, target, strict=True)
        ]
        nats = torch.stack(parts).mean(1).numpy()
        alone = nats if alone is None else alone
        picks = np.random.default_rng(0).integers(len(nats), size=(2000, len(nats)))
        low, high = np.quantile((nats - alone)[picks].mean(1), [0.025, 0.975])
        found[reader.name] = {
            "nats": float(nats.mean()),
            "against_alone": [float((nats - alone).mean()), float(low), float(high)],
            "bytes": reader.bytes_carried,
            "by_book": nats.tolist(),
        }
        print(reader.name, {k: v for k, v in found[reader.name].items() if k != "by_book"}, flush=True)
    if a.output:
        options = {k: v for k, v in vars(a).items() if k not in ("model", "books", "output")}
        facts = run_facts(a.seed, options=options)
        facts["command"] = "python benchmarks/windows.py MODEL BOOKS.jsonl.xz"
        a.output.write_text(json.dumps({**facts, "readers": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
