"""The training demo over several seeds: perplexity against history, and recall of hidden values.

    python benchmarks/demo_seeds.py demo-train --seeds 0 1 2 --output benchmarks/results/demo_seeds.json

Takes the backbone and the tokens that `hmt demo --train` left in its folder, trains every system again for
each seed (other initial memory, other order of samples, the same steps), scores all of them on the same
held-out tokens, and writes the numbers with their spread, the command, commit, versions and hardware.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from math import exp
from pathlib import Path
from typing import Any

from hmt.cli.demo import add_examples
from hmt.evaluation.summary import cells, paired
from hmt.util.environment import run_facts
from hmt.util.files import write_atomically
from hmt.util.processes import Workers

add_examples()
from demo.settings import Settings  # noqa: E402


def job(post: Callable[[Any], None], name: str, folder: Path, settings: Settings, system: str) -> None:
    """One of the demo's jobs, in a process of its own."""
    import torch

    from demo import score, train

    torch.set_num_threads(1)
    function = getattr(train, name) if hasattr(train, name) else getattr(score, name)
    function(folder, settings, system, lambda done, total, text: None)
    print(folder.name, name, system, "done", flush=True)


def prepared(demo: Path, folder: Path) -> Path:
    """A demo's folder with its backbone and tokens, and nothing trained on them."""
    shutil.copytree(demo / "backbone", folder / "backbone")
    shutil.copytree(demo / "work" / "tokens", folder / "work" / "tokens")
    for name in ("train.jsonl", "held_out.jsonl"):
        shutil.copy(demo / "work" / name, folder / "work")
    return folder


def records(folders: Sequence[Path], part: str, reader: str) -> list[list[dict]]:
    """The records of a reader, per seed."""
    files = [next((folder / part / "predictions").rglob(f"{reader}.jsonl")) for folder in folders]
    return [[json.loads(line) for line in file.read_text("utf-8").splitlines()[1:]] for file in files]


def averaged(runs: list[list[dict]], metric: str) -> list[dict]:
    """One record per item: its score averaged over seeds, so that the interval is about the text."""
    known = [{record["id"]: record for record in run} for run in runs]
    return [
        {**one, "scores": {metric: statistics.fmean(run[one["id"]]["scores"][metric] for run in known)}}
        for one in runs[0]
    ]


def spread(values: list[float]) -> dict[str, float]:
    return {"mean": statistics.fmean(values), "std": statistics.stdev(values) if len(values) > 1 else 0.0}


def table(folders: Sequence[Path], part: str, task: str, metric: str) -> dict[str, dict]:
    """Reader -> value of the first axis -> mean and deviation over seeds."""
    found: dict[str, dict] = {}
    for folder in folders:
        results = json.loads((folder / part / "results.json").read_text("utf-8"))["tasks"][task]
        for reader, entry in results["readers"].items():
            for cell in entry["curve"]:
                place, mean = cell["facts"][results["axes"][0]], cell["metrics"][metric]["mean"]
                value = exp(mean) if metric == "perplexity" else mean
                found.setdefault(reader, {}).setdefault(place, []).append(value)
    return {reader: {place: spread(v) for place, v in row.items()} for reader, row in found.items()}


def differences(folders: Sequence[Path]) -> dict[str, dict]:
    """HMT less each other reader in nats per token, seeds averaged, with the interval over documents."""
    names = [path.stem for path in sorted((folders[0] / "text" / "predictions" / "text").glob("*.jsonl"))]
    rows = {name: averaged(records(folders, "text", name), "perplexity") for name in names}
    return {
        f"HMT - {name}": {
            facts["history"]: paired(some, rows[name], "perplexity")
            for facts, some in cells(rows["HMT"], ["history"])
        }
        for name in names
        if name != "HMT"
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("demo", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--parts", nargs="+", default=["keys", "text"], choices=["keys", "text"])
    parser.add_argument("--systems", nargs="+", default=["hmt", "rmt"])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()

    from demo.train import BASELINES

    # more targets than the demo takes time for: the differences between systems are small
    text = replace(Settings().text, targets_per_document=24)
    settings = Settings(text=text, systems=tuple(options.systems))
    trained = {"keys": options.systems, "text": [*options.systems, *BASELINES]}
    jobs = {"keys": ("key_memory", "score_keys"), "text": ("text_memory", "score_text")}
    report: dict = {"setup": run_facts(0, seeds=options.seeds), "settings": asdict(settings)}
    with tempfile.TemporaryDirectory() as root:
        folders = [prepared(options.demo, Path(root) / f"seed {seed}") for seed in options.seeds]
        with Workers(options.workers) as workers:
            for part in options.parts:
                for seed, folder in zip(options.seeds, folders, strict=True):
                    for system in trained[part]:
                        name = f"{part}, {system}, seed {seed}"
                        workers.submit(name, job, jobs[part][0], folder, replace(settings, seed=seed), system)
            workers.results()
            for part in options.parts:
                for folder in folders:  # every seed on the same items
                    workers.submit(f"score {part}, {folder.name}", job, jobs[part][1], folder, settings, "")
            workers.results()
        if "keys" in options.parts:
            report["recall_accuracy"] = table(folders, "keys", "key_value", "accuracy")
        if "text" in options.parts:
            report["perplexity"] = table(folders, "text", "text", "perplexity")
            if "hmt" in options.systems:
                report["paired"] = differences(folders)
    write_atomically(options.output, (json.dumps(report, indent=1) + "\n").encode())
    for name in ("recall_accuracy", "perplexity", "paired"):
        print(json.dumps({name: report.get(name)}, indent=1))


if __name__ == "__main__":
    main()
