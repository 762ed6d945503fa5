"""The gap between rows while they learn: `python benchmarks/claims/learning.py DIR --rows hmt --output PNG`.

Rows of one seed see the same samples in the same order, so their training losses can be subtracted step by
step. Drawn, and written beside the figure as JSON, is how much the perplexity of a row differs from the
baseline's in the last stage, in percent, against tokens of that stage: the mean over `--window` lines of the
log, and the range over seeds.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from hmt.evaluation.plot_style import QUIET, draw_lines, name_lines, new_figure, save, styled

COLUMNS = ("tokens", "lm_loss")


def read(folder: Path) -> np.ndarray:
    """[steps logged, 2] of the last stage: tokens since its begin, loss of the language model."""
    entries = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    entries = [entry for entry in entries if "lm_loss" in entry]
    rows = np.array([[e[c] for c in COLUMNS] for e in entries if e["stage"] == entries[-1]["stage"]])
    rows[:, 0] = rows[:, 0].cumsum()
    return rows


def curve(folder: Path, name: str, baseline: str, window: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens [n] and differences [seeds, n] in percent, smoothed over `window` log lines."""
    models = folder / "models"
    pairs = [
        (read(row), read(path))
        for path in sorted(models.glob(f"{baseline}-[0-9]"))
        if (row := models / f"{name}-{path.name.rpartition('-')[2]}").is_dir()
    ]
    if not pairs:
        raise ValueError(f"{models} has no seed of both {name} and {baseline}: train them first")
    kernel = np.ones(window) / window
    gaps = [np.convolve(row[:, 1] - base[:, 1], kernel, mode="valid") for row, base in pairs]
    return pairs[0][0][window - 1 :, 0], 100 * np.expm1(gaps)


@styled
def draw(lines: dict[str, tuple[np.ndarray, np.ndarray]], baseline: str) -> Figure:
    figure, axes = new_figure()
    draw_lines(axes, {name: (x / 1e6, rows) for name, (x, rows) in lines.items()})
    axes.axhline(0, color=QUIET, linewidth=1)
    axes.set_xlabel("tokens of stage 2, millions")
    axes.set_ylabel("training perplexity, %")
    axes.set_title(f"Difference to {baseline}")
    name_lines(axes, {name: (x[-1] / 1e6, rows.mean(0)[-1]) for name, (x, rows) in lines.items()})
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", nargs="+", required=True)
    parser.add_argument("--baseline", default="sensory")
    parser.add_argument("--window", type=int, default=4, help="log lines (of ten steps each) averaged over")
    parser.add_argument("--output", type=Path, required=True)
    a = parser.parse_args()
    lines = {name: curve(a.folder, name, a.baseline, a.window) for name in a.rows}
    save(draw(lines, a.baseline), a.output)
    facts = {name: {"tokens": x.tolist(), "percent": rows.tolist()} for name, (x, rows) in lines.items()}
    a.output.with_suffix(".json").write_text(json.dumps(facts, indent=1) + "\n")
    for name, (x, rows) in lines.items():
        print(name, int(x[-1]), rows.mean(0).round(2).tolist())


if __name__ == "__main__":
    main()
