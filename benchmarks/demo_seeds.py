"""The demo's two comparisons over several seeds: perplexity against history, and recall of hidden values.

    python benchmarks/demo_seeds.py demo-output --seeds 0 1 2 --output benchmarks/results/demo_seeds.json

Takes the backbone and the tokens that `hmt demo` left in its folder, trains every system again for each seed
(other initial memory, other order of samples, the same steps), scores all of them on the same held-out
tokens, and writes the numbers with their spread, the command, commit, versions and hardware.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

from hmt.demo.run import RECALL, TRAINED
from hmt.demo.settings import Settings
from hmt.demo.summary import SYSTEMS
from hmt.evaluation import HistoryResult, RecallResult
from hmt.util.environment import run_facts


def one_seed(part: str, system: str, demo: str, seed: int) -> dict:
    """Train and score one system; runs in a process of its own."""
    import torch

    from hmt.demo import keys, language

    torch.set_num_threads(1)
    # more targets than the demo takes time for: the differences between systems are small
    text = replace(Settings().text, targets_per_document=24)
    settings = replace(Settings(), text=text, seed=seed)
    same_targets = replace(settings, seed=0)  # every seed is scored on the same tokens
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "work").mkdir()
        shutil.copytree(Path(demo) / "backbone", Path(folder) / "backbone")
        shutil.copy(Path(demo) / "work" / "tokens.json", Path(folder) / "work")
        if part == "recall":
            keys.train_recall(folder, system, settings, _silent)
            return {system: keys.ask_recall(folder, system, same_targets, _silent)}
        language.train_text(folder, system, settings, _silent)
        return {system: language.score_text(folder, system, same_targets, _silent)}


def _silent(done: int, total: int, text: str) -> None:
    pass


def spread(values: list[float]) -> dict[str, float]:
    return {"mean": statistics.fmean(values), "std": statistics.stdev(values) if len(values) > 1 else 0.0}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("demo", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--parts", nargs="+", default=["recall", "text"], choices=["recall", "text"])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()

    systems = {"recall": RECALL, "text": TRAINED}
    work = [
        (part, system, seed) for part in options.parts for seed in options.seeds for system in systems[part]
    ]
    raw: dict[str, dict] = {}
    with ProcessPoolExecutor(options.workers, get_context("spawn")) as pool:
        futures = {w: pool.submit(one_seed, w[0], w[1], str(options.demo), w[2]) for w in work}
        for (part, system, seed), future in futures.items():
            for name, result in future.result().items():
                raw.setdefault(part, {}).setdefault(name, {})[seed] = result
            print(part, system, seed, "done", flush=True)

    report: dict = {"setup": run_facts(0, seeds=options.seeds)}
    report["settings"] = Settings().to_dict()
    if "recall" in raw:
        report["recall_accuracy"] = {}
        for system, runs in raw["recall"].items():
            results = [RecallResult.from_dict(run) for run in runs.values()]
            report["recall_accuracy"][SYSTEMS[system]] = {
                n: spread([result.accuracy(n) for result in results]) for n in results[0].segments
            }
    if "text" in raw:
        results = {
            s: [HistoryResult.from_dict(run) for run in runs.values()] for s, runs in raw["text"].items()
        }
        first = results["hmt"][0]
        report["scored_tokens"] = first.tokens
        report["perplexity"] = {
            SYSTEMS[system]: {h: spread([run.perplexity(system, h) for run in runs]) for h in first.histories}
            for system, runs in results.items()
        }
        report["paired"] = paired(results, options.seeds)
    report["raw"] = raw
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    for name in ("recall_accuracy", "perplexity", "paired"):
        print(json.dumps({name: report.get(name)}, indent=1))


def paired(results: dict[str, list[HistoryResult]], seeds: list[int]) -> dict:
    """HMT minus each other system in nats per token, seeds averaged per target, bootstrap over documents."""
    nll = {f"{s}/{i}": run.nll[s] for s, runs in results.items() for i, run in enumerate(runs)}
    merged = replace(results["hmt"][0], nll=nll).merged(
        {system: [f"{system}/{i}" for i in range(len(runs))] for system, runs in results.items()}
    )
    return {
        f"HMT - {SYSTEMS[other]}": {
            h: merged.paired("hmt", other, h, by="document")._asdict() for h in merged.histories
        }
        for other in results
        if other != "hmt"
    }


if __name__ == "__main__":
    main()
