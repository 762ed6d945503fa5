"""Tokenizer and packed token files: `python benchmarks/claims/corpus.py BOOKS... --output DIR`.

Books (one JSON object per line, field `text`; any of the formats `hmt.data.load_documents` reads) become a
byte-level BPE tokenizer, trained on the first of them, and one file of uint16 tokens per split. The backbone
and the memories are trained on different books.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from hmt.data import load_documents, tokenize_documents
from hmt.demo.language import train_tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("books", nargs="+", help="files of books, in the order they are used")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--tokenizer-books", type=int, default=40)
    parser.add_argument("--backbone-books", type=int, default=220)
    parser.add_argument("--memory-books", type=int, default=60)
    arguments = parser.parse_args()

    number = arguments.backbone_books + arguments.memory_books
    books = load_documents(arguments.books, limit=number)
    first = [row["text"] for row in books.select(range(min(arguments.tokenizer_books, len(books))))]
    tokenizer = train_tokenizer(first, arguments.vocabulary, arguments.output / "tokenizer")
    tokens = tokenize_documents(books, tokenizer, append_eos=True).with_format("numpy")
    parts = {
        "backbone": range(arguments.backbone_books),
        "memory": range(arguments.backbone_books, len(tokens)),
    }
    facts = {}
    for name, rows in parts.items():
        ids = [tokens[i]["input_ids"] for i in rows]
        np.save(arguments.output / f"{name}.npy", np.concatenate(ids).astype(np.uint16))
        facts[name] = {
            "books": len(ids),
            "tokens": int(sum(len(i) for i in ids)),
            "lengths": [len(i) for i in ids],
        }
    (arguments.output / "corpus.json").write_text(json.dumps(facts))
    print({name: (fact["books"], fact["tokens"]) for name, fact in facts.items()})


if __name__ == "__main__":
    main()
