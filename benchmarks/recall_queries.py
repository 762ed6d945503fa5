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

from hmt.demo import keys
from hmt.demo.settings import Settings
from hmt.util.environment import run_facts


def one(query: str, seed: int) -> dict:
    """Accuracy by number of segments, and the seconds of training."""
    settings = Settings()
    settings = replace(settings, seed=seed, recall=replace(settings.recall, query=query))
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "work").mkdir()
        start = time.process_time()
        keys.train_recall(folder, "hmt", settings, _silent)
        seconds = time.process_time() - start
        result = keys.ask_recall(folder, "hmt", replace(settings, seed=0), _silent)
    return {**result, "query": query, "seed": seed, "train_cpu_seconds": seconds}


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
            summary = {
                q: {
                    length: {"mean": statistics.fmean(values), "values": values}
                    for length, values in by_length([r for r in runs if r["query"] == q]).items()
                }
                for q in args.queries
                if any(r["query"] == q for r in runs)
            }
            args.output.parent.mkdir(parents=True, exist_ok=True)
            report = {**run_facts(args.seeds[0], seeds=args.seeds), "accuracy": summary, "runs": runs}
            args.output.write_text(json.dumps(report, indent=1))


def by_length(runs: list[dict]) -> dict[str, list[float]]:
    return {n: [run["points"][n]["accuracy"] for run in runs] for n in runs[0]["points"]}


if __name__ == "__main__":
    main()
