"""`hmt bench`: speed and memory of every system beside full attention, in one run."""

from pathlib import Path
from typing import Annotated, Any

import typer

from hmt.bench.settings import Settings
from hmt.cli.options import options, takes
from hmt.cli.progress import Bars, library_bars


@takes(settings=options(Settings, without=["question"]))
def command(
    settings: dict[str, Any],
    out: Annotated[Path, typer.Option(help="Folder for the results.", metavar="FOLDER")] = Path(
        "bench-output"
    ),
) -> None:
    """Measure speed and memory: HMT, RMT and full attention, side by side."""
    chosen = Settings(**settings)

    from hmt.bench.plots import bench_plot, save
    from hmt.bench.run import run, to_json
    from hmt.bench.show import show
    from hmt.util.files import check_folder, check_output, only_writer, save_or_keep, write_atomically

    check_folder(out)
    check_output(out / "bench.json", "result of hmt bench")
    check_output(out / "bench.png", "figure")

    def keep(results: dict[str, Any]) -> None:
        data = to_json(results).encode()
        save_or_keep(out / "bench.json", lambda path: write_atomically(path, data, "result of hmt bench"))

    with only_writer(out):
        with Bars() as bars, library_bars():
            results = run(chosen, save=keep, progress=bars)
        show(results)
        save(bench_plot(results), out / "bench.png")
    typer.echo(f"{out}: bench.json, bench.png")
