"""Key-value recall by length and depth: `python benchmarks/claims/keys.py HMT RMT --output RESULTS`.

HMT and RMT are the folders `recall-hmt` and `recall-rmt` that `hmt demo --train` leaves, trained on 16
segments at most.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

import hmt
from hmt.evaluation.readers.memory import MemoryReader
from hmt.evaluation.run import evaluate
from hmt.evaluation.tasks import make_task
from hmt.evaluation.tasks.base import Setting


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--lengths", type=int, nargs="+", default=[4, 16, 64, 256, 1000])
    parser.add_argument("--samples", type=int, default=50)
    parser.add_argument("--output", type=Path, required=True)
    a = parser.parse_args()
    models = {path.name: hmt.load_model(path).eval() for path in a.models}
    first = next(iter(models.values()))
    words = {f"t{number}": number for number in range(first.config.vocab_size)}  # the task is made of ids
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(words, unk_token="t0")))
    for model in models.values():
        if hasattr(model.config, "memory_size"):
            model.config.memory_size = max(a.lengths)
    readers = [MemoryReader(model, name) for name, model in models.items()]
    task = make_task("key_value", lengths=tuple(a.lengths), samples=a.samples)
    results = evaluate(readers, [task], Setting(tokenizer, first.config.segment_length), a.output)
    for name, found in results["tasks"]["key_value"]["readers"].items():
        for cell in found["cells"]:
            print(name, cell["facts"], round(cell["metrics"]["accuracy"]["mean"], 3), cell["n"])


if __name__ == "__main__":
    main()
