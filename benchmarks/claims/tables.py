"""Markdown tables of docs/results.md: `python benchmarks/claims/tables.py RESULTS --metric distant`.

RESULTS is a folder of `hmt eval` or `score.py`. Rows are models, columns amounts of history: perplexity, and
how much it differs from the baseline's in percent. Models NAME-0, NAME-1, ... are seeds of one row: scores
are averaged over seeds target by target and then compared, with the 95% interval over documents; behind it
stands the standard deviation of the difference over seeds.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import statistics
from collections import defaultdict
from pathlib import Path

from hmt.evaluation.summary import estimate, paired

Runs = list[list[dict]]  # records of every seed


def percent(nats: float) -> str:
    return f"{100 * (math.exp(nats) - 1):+.2f}".replace("-", "−")


def load(folder: Path, task: str) -> dict[str, Runs]:
    found: dict[str, Runs] = defaultdict(list)
    for path in sorted((folder / "predictions" / task).glob("*.jsonl")):
        header, *records = map(json.loads, path.read_text(encoding="utf-8").splitlines())
        found[re.sub(r"-\d+(?=$| )", "", header["reader"])].append(records)
    return found


def averaged(runs: Runs, history: int, metric: str) -> list[dict]:
    """One record per target: its score averaged over the runs."""
    by_target: dict[str, list[dict]] = defaultdict(list)
    for records in runs:
        for record in records:
            if record["facts"]["history"] == history:
                by_target[record["id"].rpartition("/")[0]].append(record)
    merged = []
    for target, same in by_target.items():
        scores = [record["scores"][metric] for record in same]
        score = None if None in scores or len(same) < len(runs) else statistics.fmean(scores)
        merged.append({**same[0], "id": target, "scores": {metric: score}})
    return merged


def difference(runs: Runs, base: Runs, metric: str, history: int, other: int) -> str:
    """`runs` after `history` segments less `base` after `other`, in percent of perplexity."""

    def gap(some: Runs, others: Runs) -> dict:
        return paired(averaged(some, history, metric), averaged(others, other, metric), metric)

    found = gap(runs, base)
    text = f"{percent(found['mean'])}%; {percent(found['low'])} to {percent(found['high'])}"
    if len(runs) > 1 and len(base) == len(runs):
        spread = statistics.stdev(gap([a], [b])["mean"] for a, b in zip(runs, base, strict=True))
        text += f"; σ {100 * spread:.2f}"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("--task", default="books")
    parser.add_argument("--metric", default="perplexity")
    parser.add_argument("--baseline", default="sensory")
    parser.add_argument("--histories", type=int, nargs="*")
    parser.add_argument("--instead", type=int, help="also what the longest history is worth, instead of this")
    a = parser.parse_args()
    rows = load(a.results, a.task)
    facts = json.loads((a.results / "results.json").read_text(encoding="utf-8"))["readers"]
    sizes = {re.sub(r"-\d+(?=$| )", "", name): value for name, value in facts.items()}
    every = {record["facts"]["history"] for runs in rows.values() for record in runs[0]}
    histories = a.histories or sorted(every)
    columns = [str(history) for history in histories]
    if a.instead is not None:
        columns.append(f"{histories[-1]} instead of {a.instead}")
    print("| row | bytes | Mops per token | " + " | ".join(columns) + " |")
    print("|---" * (3 + len(columns)) + "|")
    for row, runs in rows.items():
        cells = []
        for history in histories:
            mean = estimate(averaged(runs, history, a.metric), a.metric)["mean"]
            cell = f"{math.exp(mean):.2f}"
            if row != a.baseline:
                cell += f" ({difference(runs, rows[a.baseline], a.metric, history, history)})"
            cells.append(cell)
        if a.instead is not None:
            cells.append(difference(runs, runs, a.metric, histories[-1], a.instead))
        size = sizes.get(row, {})
        kept = "grows" if size.get("bytes_carried") is None else f"{size['bytes_carried']:,}"
        count = f" ×{len(runs)}" if len(runs) > 1 else ""
        print(f"| {row}{count} | {kept} | {size.get('flops_per_token', 0) / 1e6:.0f} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
