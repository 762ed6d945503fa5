"""Is what recall finds put to use? `python benchmarks/claims/recited.py DIR --models NAME... --books TEST
--output JSON`.

In samples with repeated segments (`RepeatedSamples`, 30%): nats per token of the tails of repeated segments,
those of the same tokens where they stood first, and the share of recall weight on what is repeated.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from transformers import AutoTokenizer
from variants import SEGMENT, SEGMENTS, SUMMARY

import hmt
from hmt.data import RepeatedSamples, cut_samples, load_documents, tokenize_documents
from hmt.util.environment import run_facts


def nats(model, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """-log p of tokens 1 .. T - 1 of ids [T], and recall weights [S, N] where there is recall."""
    out = model(ids[None], output_recall=True)
    found = torch.nn.functional.cross_entropy(out.logits[0, :-1].float(), ids[1:], reduction="none")
    return found, None if out.recall is None else out.recall[0]


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", nargs="+", required=True)
    parser.add_argument("--books", required=True)
    parser.add_argument("--samples", type=int, default=24)
    parser.add_argument("--output", type=Path, required=True)
    a = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(a.folder / "backbone")
    books = cut_samples(
        tokenize_documents(load_documents(a.books), tokenizer), SEGMENT, SEGMENTS, min_segments=SEGMENTS
    )
    cut = [books[i * len(books) // a.samples] for i in range(a.samples)]
    recited = RepeatedSamples(cut, SEGMENT, 0.3, seed=9)
    results = {}
    for name in a.models:
        model = hmt.load_model(a.folder / "models" / name).eval()
        again, first, weight = [], [], []
        for index in range(a.samples):
            sample = recited[index]
            own, recall = nats(model, sample["input_ids"])
            plain, _ = nats(model, cut[index]["input_ids"])
            for now, source in enumerate(sample["recall_targets"].tolist()):
                if source < 0:
                    continue
                tail = slice(now * SEGMENT + SUMMARY, (now + 1) * SEGMENT - 1)
                again.append(own[tail].mean().item())
                stood = slice(source * SEGMENT + SUMMARY, (source + 1) * SEGMENT - 1)
                first.append(plain[stood].mean().item())
                if recall is None:
                    continue
                slots = model.retrieval.held(torch.tensor([now]))[0].tolist()
                weight.append(recall[now, slots.index(source)].item())
        means = [round(sum(v) / len(v), 4) if v else None for v in (again, first, weight)]
        results[name] = dict(zip(("repeated", "first", "weight"), means, strict=True), segments=len(again))
        print(name, results[name], flush=True)
    facts = {"results": results, "setup": run_facts(9)}
    a.output.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
