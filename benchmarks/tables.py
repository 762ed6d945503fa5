"""The tables of docs/results.md from result files.

    python benchmarks/tables.py benchmarks/results/babilong.json ...

Prints Markdown: for `babilong.py` accuracy by task and length, for `needles.py` by keys and length, for
`questions.py` found, exact match, F1 and recall@k by reader.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any


def percent(value: float) -> str:
    return f"{100 * value:.0f}"


def of_interval(row: dict[str, Any]) -> str:
    low, high = row["interval"]
    return f"{percent(row['right'])} [{percent(low)}, {percent(high)}]"


def length_name(tokens: int) -> str:
    return f"{tokens // 2**20}M" if tokens >= 2**20 else f"{tokens // 1024}k"


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def babilong(results: dict[str, Any]) -> str:
    """Tasks and rows down, lengths across: right (found)."""
    cells: dict[tuple[str, str], dict[int, str]] = {}
    for name, row in results.items():
        task, length, reader = name.split(" ", 2)
        text = f"{of_interval(row)} ({percent(row['found'])}; {row['questions']})"
        cells.setdefault((task, reader), {})[int(length)] = text
    lengths = sorted({length for found in cells.values() for length in found})
    rows = [
        [task, reader, *(found.get(length, "") for length in lengths)]
        for (task, reader), found in sorted(cells.items())
    ]
    return table(["task", "row", *map(length_name, lengths)], rows)


def needles(results: dict[str, Any]) -> str:
    """Keys down, lengths across, then right by depth over all lengths."""
    cells: dict[int, dict[int, dict[str, Any]]] = {}
    for name, row in results.items():
        keys, _, length = name.split()
        cells.setdefault(int(keys), {})[int(length)] = row
    lengths = sorted({length for found in cells.values() for length in found})
    rows = []
    for keys, found in sorted(cells.items()):
        rows.append([f"{keys}, right", *(of_interval(found[n]) if n in found else "" for n in lengths)])
        rows.append([f"{keys}, found", *(percent(found[n]["found"]) if n in found else "" for n in lengths)])
    depths = sorted({d for row in results.values() for d in row["found and right by depth"]}, key=float)
    by_depth = []
    for keys, found in sorted(cells.items()):
        each = {n: row["questions"] / len(depths) for n, row in found.items()}
        line = [str(keys)]
        for depth in depths:
            right = sum(row["found and right by depth"][depth][1] for row in found.values())
            line.append(f"{percent(right / sum(each.values()))}")
        by_depth.append(line)
    return (
        table(["keys", *map(length_name, lengths)], rows) + "\n\n" + table(["keys, depth", *depths], by_depth)
    )


def questions(results: dict[str, Any]) -> str:
    """Kinds down, readers across: found / exact / F1; then recall@k of all."""
    kinds = list(dict.fromkeys(name.split(" | ")[0] for name in results))
    readers = list(dict.fromkeys(name.split(" | ")[1] for name in results))
    rows = []
    for kind in kinds:
        line = [kind, str(results[f"{kind} | {readers[0]}"]["questions"])]
        for reader in readers:
            row = results[f"{kind} | {reader}"]
            cell = []
            for name in ("found", "exact", "f1"):
                mean, low, high = row[name]
                wide = kind == "all" and name != "f1"
                cell.append(f"{percent(mean)} [{percent(low)}, {percent(high)}]" if wide else percent(mean))
            line.append(" / ".join(cell))
        rows.append(line)
    first = [
        [reader, *(percent(results[f"all | {reader}"].get(f"recall@{k}", float("nan"))) for k in (1, 2, 4))]
        for reader in readers
        if "recall@1" in results[f"all | {reader}"]
    ]
    shown = table(["", "questions", *readers], rows)
    return shown + "\n\n" + table(["segment found", "@1", "@2", "@4"], first) if first else shown


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", type=Path)
    for path in parser.parse_args().files:
        results = json.loads(path.read_text())["results"]
        name = next(iter(results))
        show = questions if " | " in name else needles if " keys " in name else babilong
        print(f"{path.name}\n\n{show(results)}\n")


if __name__ == "__main__":
    main()
