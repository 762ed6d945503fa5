"""Markdown tables of docs/results.md: `python benchmarks/claims/tables.py RESULTS.json --metric distant`.

Rows are models, columns amounts of history: perplexity, and how much lower or higher it is than the
baseline's in percent, with the 95% interval over documents. Models NAME-0, NAME-1, ... are seeds of one row:
their mean is shown, and the spread of their differences.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import statistics
from collections import defaultdict
from pathlib import Path


def percent(nats: float) -> str:
    return f"{100 * (math.exp(nats) - 1):+.1f}".replace("-", "−")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("--task", default="books")
    parser.add_argument("--metric", default="perplexity")
    parser.add_argument("--baseline", default="sensory")
    parser.add_argument("--histories", type=int, nargs="*")
    a = parser.parse_args()
    found = json.loads(a.results.read_text(encoding="utf-8"))
    task, facts = found["tasks"][a.task], found["readers"]
    seeds: dict[str, list[str]] = defaultdict(list)
    for name in task["readers"]:
        seeds[re.sub(r"-(\d)( |$)", r"\2", name)].append(name)
    base = seeds[a.baseline]
    first = next(iter(task["readers"].values()))["cells"]
    histories = a.histories or [cell["facts"]["history"] for cell in first]
    print("| row | bytes | ops per token | " + " | ".join(f"{h}" for h in histories) + " |")
    print("|---" * (3 + len(histories)) + "|")
    for row, names in seeds.items():
        cells = []
        for history in histories:
            means, gaps = [], []
            for number, name in enumerate(names):
                means.append(of(task["readers"][name]["cells"], history, a.metric)["mean"])
                other = base[number] if number < len(base) else base[0]
                if name != other:
                    gaps.append(of(task["paired_cells"][other][name], history, a.metric))
            text = f"{math.exp(statistics.fmean(means)):.2f}"
            if gaps:
                low, high = (statistics.fmean(g[k] for g in gaps) for k in ("low", "high"))
                text += f" ({percent(statistics.fmean(g['mean'] for g in gaps))}%; "
                text += f"{percent(low)} to {percent(high)})"
            cells.append(text)
        size = facts[names[0]]["bytes_carried"]
        ops = facts[names[0]]["flops_per_token"] / 1e6
        count = f" ×{len(names)}" if len(names) > 1 else ""
        kept = "grows" if size is None else f"{size:,}"
        print(f"| {row}{count} | {kept} | {ops:.0f} M | {' | '.join(cells)} |")


def of(cells: list, history: int, metric: str) -> dict:
    return next(cell["metrics"][metric] for cell in cells if cell["facts"]["history"] == history)


if __name__ == "__main__":
    main()
