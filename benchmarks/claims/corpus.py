"""Tokenizer and packed token files: `python benchmarks/claims/corpus.py --backbone FILES --memory FILES`.

Documents (one JSON object per line, field `text`; any of the formats `hmt.data.load_documents` reads) become
a byte-level BPE tokenizer, trained on a few of them, and one file of uint16 tokens per split. The backbone
and the memories are trained on different documents.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from hmt.cli.demo import add_examples
from hmt.data import load_documents, tokenize_documents

add_examples()
from demo.train import train_tokenizer  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", nargs="+", required=True, help="files the backbone is trained on")
    parser.add_argument("--memory", nargs="+", required=True, help="files the memories are trained on")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument(
        "--tokenizer-documents", type=int, default=200, help="evenly out of all of the backbone's"
    )
    a = parser.parse_args()

    parts = {"backbone": load_documents(a.backbone), "memory": load_documents(a.memory)}
    spread = np.linspace(0, len(parts["backbone"]) - 1, min(a.tokenizer_documents, len(parts["backbone"])))
    picked = [row["text"] for row in parts["backbone"].select(spread.astype(int).tolist())]
    tokenizer = train_tokenizer(picked, a.vocabulary, a.output / "tokenizer")
    facts = {}
    for name, documents in parts.items():
        tokens = tokenize_documents(documents, tokenizer, append_eos=True).with_format("numpy")
        ids = [row["input_ids"].astype(np.uint16) for row in tokens]
        np.save(a.output / f"{name}.npy", np.concatenate(ids))
        facts[name] = {
            "documents": len(ids),
            "tokens": int(sum(len(i) for i in ids)),
            "lengths": [len(i) for i in ids],
        }
    (a.output / "corpus.json").write_text(json.dumps(facts))
    print({name: (fact["documents"], fact["tokens"]) for name, fact in facts.items()})


if __name__ == "__main__":
    main()
