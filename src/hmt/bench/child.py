"""One point of peak memory in a process of its own: JSON on stdin, its answer is the last line of stdout."""

from __future__ import annotations

import json
import sys

from hmt.util.processes import end_with_parent


def main() -> None:
    """Measure the point on stdin, `{"settings": ..., "point": ...}`, and print `peak_here` of it as JSON."""
    end_with_parent()
    task = json.load(sys.stdin)

    from hmt.bench.peaks import peak_here
    from hmt.bench.settings import Settings
    from hmt.bench.workbench import Workbench

    bench = Workbench.build(Settings.from_dict(task["settings"]))
    print(json.dumps(peak_here(bench, task["point"])))


if __name__ == "__main__":
    main()
