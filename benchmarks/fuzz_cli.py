"""Command lines with nasty values, as many as asked for: how many ended in a traceback.

    python benchmarks/fuzz_cli.py --examples 1000 --output benchmarks/results/fuzz_cli.json

Every command gets one to three of its options replaced by numbers out of range, words that are none, lists,
paths, encodings and devices that are not there, and whatever hypothesis makes up. Counts say, by command,
what became of them: done, refused in one line (exit code 2), stopped after a second as with Ctrl-C, or
a fault.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", HF_DATASETS_OFFLINE="1", MPLBACKEND="Agg")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from cli import fuzzing  # noqa: E402
from hypothesis import HealthCheck, Phase, given, seed, settings  # noqa: E402

from hmt.util.environment import run_facts  # noqa: E402
from hmt.util.files import write_atomically  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--examples", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()

    counts: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    faults: list[dict] = []
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        os.environ["HMT_CACHE"] = str(Path(name) / "cache")
        folder = Path(name) / "work"
        folder.mkdir()
        fuzzing.prepare(folder)

        @seed(options.seed)
        @settings(
            max_examples=options.examples, deadline=None, database=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(words=fuzzing.cases())
        def every(words: list[str]) -> None:
            outcome = fuzzing.run(words, folder)
            counts[words[0]][outcome.kind] += 1
            if outcome.kind == "fault":
                faults.append({"words": words, "told": outcome.told})
                print(words, outcome.told, flush=True)

        every()
    total = sum((counter for counter in counts.values()), collections.Counter())
    found = {
        "setup": run_facts(options.seed, examples=options.examples),
        "seconds": round(time.monotonic() - began),
        "total": {
            "cases": total.total(),
            **{kind: total[kind] for kind in ("done", "refused", "stopped", "fault")},
        },
        "commands": {name: dict(sorted(counter.items())) for name, counter in sorted(counts.items())},
        "faults": faults,
    }
    print(json.dumps(found["total"]))
    if options.output:
        write_atomically(options.output, (json.dumps(found, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
