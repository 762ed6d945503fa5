"""Does every recall query learn to recall? The hidden key-value task, the same recipe for all of them.

    python benchmarks/recall_queries.py --queries segment inline --seeds 0 1 2 \
        --output benchmarks/results/recall_queries.json

Trains the demo's small HMT on few segments and asks it over up to 256. The question stands in the segment
that is being read, so "previous" and "memory", whose queries come from before it, can only stay near chance.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from hmt.cli.demo import add_examples
from hmt.util.environment import run_facts
from hmt.util.files import write_atomically

add_examples()
from demo.score import rows, score_keys  # noqa: E402
from demo.settings import Settings  # noqa: E402
from demo.train import key_memory  # noqa: E402


def one(query: str, seed: int) -> dict:
    """Accuracy by number of segments, and the seconds of training."""
    settings = Settings(systems=("hmt",), seed=seed)
    settings = replace(settings, keys=replace(settings.keys, query=query))
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        key_memory(Path(folder), settings, "hmt", _silent)
        seconds = time.process_time() - start
        results = score_keys(Path(folder), replace(settings, seed=0), "", _silent)
    accuracy = rows(results, "key_value", "accuracy")["HMT"]
    return {"accuracy": accuracy, "query": query, "seed": seed, "train_cpu_seconds": seconds}


def _silent(done: int, total: int, text: str) -> None:
    pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--queries", nargs="+", default=["segment", "inline"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()

    import torch

    torch.set_num_threads(1)
    runs: list[dict] = []
    for seed in args.seeds:
        for query in args.queries:
            runs.append(one(query, seed))
            print(query, seed, json.dumps(runs[-1]), flush=True)
            summary = {}
            for name in args.queries:
                own = [run["accuracy"] for run in runs if run["query"] == name]
                summary[name] = {
                    length: {"mean": statistics.fmean(v), "values": v}
                    for length, v in ((n, [run[n] for run in own]) for n in (own[0] if own else ()))
                }
            report = {**run_facts(args.seeds[0], seeds=args.seeds), "accuracy": summary, "runs": runs}
            write_atomically(args.output, json.dumps(report, indent=1).encode())


if __name__ == "__main__":
    main()
