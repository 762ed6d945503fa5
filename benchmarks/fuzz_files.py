"""Forged memory files, their checksums right: each is refused in one line, or is what it says.

    python benchmarks/fuzz_files.py --seconds 240 --output benchmarks/results/fuzz_files.json

For every system, files are changed by up to three of: values, types, shapes, names, rows, metadata; and a
quarter of them in their bytes after that (`tests/conformance/forge.py`). An independent reading of the format
says of each whether a reading could have left it. Counted is what `Memory.load` makes of it:

* refused: a ValueError of one line that begins with the file's name, where no reading leaves such a file;
* equal: loaded where one does, every tensor as in the file, and text read behind it;
* traceback: anything but a ValueError of one line, at loading or in use;
* silent: loaded though no reading leaves such a file, something else than the file says, or a good file that
  is refused.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests")]

from backbones import random_ids  # noqa: E402
from conformance.cases import SYSTEMS, J, shared  # noqa: E402
from conformance.forge import forge, load, parse, seal  # noqa: E402
from conformance.test_forged_files import true_file  # noqa: E402

from hmt.util.environment import run_facts  # noqa: E402
from hmt.util.files import write_atomically  # noqa: E402

KINDS = ("refused", "equal", "traceback", "silent")


def of_version(data: bytes, version: str) -> bytes:
    metadata, tensors = parse(data)
    return seal({**metadata, "format_version": version}, tensors)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=240)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()

    question = random_ids(J, seed=5)[None]
    systems = [name for name in SYSTEMS if not name.startswith("toy")]
    counts: dict[str, Counter[str]] = {name: Counter() for name in systems}
    wrong: list[dict[str, Any]] = []
    number, began = 0, time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "forged.hmt"
        while time.monotonic() - began < args.seconds:
            name = systems[number % len(systems)]
            draw = Random(f"{args.seed}-{number}")
            true = of_version(true_file(name), draw.choice("12"))
            outcome = load(shared(name), question, forge(draw, true), true, path)
            counts[name][outcome.partition(":")[0]] += 1
            if outcome not in ("refused", "equal"):
                wrong.append({"number": number, "system": name, "outcome": outcome.replace(folder, "")})
            number += 1
    total = {kind: sum(count[kind] for count in counts.values()) for kind in KINDS}
    report = {
        "loads": number,
        **total,
        "systems": {name: {kind: count[kind] for kind in KINDS} for name, count in counts.items()},
        "wrong": wrong[:20],
        "seconds": round(time.monotonic() - began),
        "setup": run_facts(args.seed),
    }
    print({"loads": number, **total}, *wrong[:5], sep="\n")
    if args.output is not None:
        write_atomically(args.output, (json.dumps(report, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
