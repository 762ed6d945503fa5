"""Score what `train.py` left: `python benchmarks/claims/score.py DIR --books TEST.jsonl.xz --output RESULTS`.

Every trained model is one row; the baselines run on the backbone that was trained with the sensory tokens
alone, on the same text and for as long as the memories. One results.json with raw predictions beside it; what
is there already is not scored again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from transformers import AutoTokenizer

import hmt
from hmt.evaluation.readers.budget import SIZED, baseline, parse_bytes, rows_at
from hmt.evaluation.readers.memory import MemoryReader
from hmt.evaluation.run import evaluate
from hmt.evaluation.tasks import make_task
from hmt.evaluation.tasks.base import Setting
from hmt.systems import get
from hmt.util.format import byte_text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", nargs="+", required=True, help="names in DIR/models")
    parser.add_argument("--baselines", nargs="*", default=[])
    parser.add_argument("--untrained", nargs="*", default=[], help="systems that need no training, on it")
    parser.add_argument("--baseline-model", default="sensory-0")
    parser.add_argument("--budgets", nargs="*", default=[])
    parser.add_argument("--books", required=True)
    parser.add_argument("--task", default="books")
    parser.add_argument("--histories", type=int, nargs="+", default=[0, 1, 4, 16, 64])
    parser.add_argument("--targets", type=int, default=8, help="scored segments per book")
    parser.add_argument("--skip", type=int, default=16)
    parser.add_argument("--interleave", type=int, default=0)
    parser.add_argument("--dilate", type=int, default=0)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--banks", type=int, nargs="*", default=[], help="also with banks of these sizes")
    parser.add_argument("--context", type=int, default=512, help="longest input of the baselines")
    parser.add_argument("--output", type=Path, required=True)
    a = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(a.folder / "backbone")
    budgets = [parse_bytes(text) for text in a.budgets]
    readers = []
    for name in a.models:
        model = hmt.load_model(a.folder / "models" / name).eval()
        readers += (
            rows_at(model, budgets, tokenizer, (), name=name) if budgets else [MemoryReader(model, name)]
        )
        readers += [MemoryReader(model.resized(memory_size=size), f"{name} N={size}") for size in a.banks]
    if a.baselines:
        base = hmt.load_model(a.folder / "models" / a.baseline_model).eval()
        shared = {"tokenizer": tokenizer, "limit": a.context, "chunk": base.segment_length}
        for kind in a.baselines:
            for size in budgets if kind in SIZED else [None]:
                name = kind if size is None else f"{kind} {byte_text(size)}"
                readers.append(baseline(kind, base.backbone, size, name=name, **shared))
    for name in a.untrained:
        base = hmt.load_model(a.folder / "models" / a.baseline_model).eval()
        model = get(name).model.from_backbone(base.backbone, segment_length=base.segment_length).eval()
        for size in budgets:
            try:
                readers += rows_at(model, [size], tokenizer, (), name=f"{name}, untrained")
            except ValueError as error:  # sinks alone can be more than a budget
                print(error, flush=True)
    length = readers[0].model.config.segment_length
    text = {"source": a.books, "interleave": a.interleave, "dilate": a.dilate, "limit": a.limit}
    if a.task == "recall_distance":
        task = make_task(a.task, **text)
    else:
        sizes = {"targets_per_document": a.targets, "max_targets": 10_000, "batch_size": 32}
        task = make_task(a.task, **text, **sizes, histories=tuple(a.histories), skip=a.skip)
    results = evaluate(readers, [task], Setting(tokenizer, length), a.output)
    for name, found in results["tasks"][a.task]["readers"].items():
        cells = [
            {k: round(v["mean"], 4) for k, v in cell["metrics"].items() if v["mean"] is not None}
            for cell in found["cells"]
        ]
        print(name, cells[-1] if cells else None, flush=True)


if __name__ == "__main__":
    main()
