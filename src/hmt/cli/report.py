"""`hmt report`: one page of any number of results."""

from pathlib import Path
from typing import Annotated

import typer


def command(
    results: Annotated[
        list[str],
        typer.Argument(help="Folders of hmt eval or demo --train, or their results.json.", metavar="RESULTS"),
    ],
    output: Annotated[
        str, typer.Option("--output", "-o", help="The page to write, a URL too.", metavar="HTML")
    ] = "report.html",
    pngs: Annotated[
        Path | None, typer.Option(help="Folder for the figures as PNG files too.", metavar="DIR")
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(
            help="Row that the others are compared with. Default: the first window.", metavar="NAME"
        ),
    ] = None,
    title: Annotated[str | None, typer.Option(help="Heading of the page.")] = None,
) -> None:
    """Make one HTML page of what `hmt eval` found: tables, curves, heat maps, differences.

    Rows of the same name in several results are taken as runs of one system, such as its seeds, and shown
    as mean ± standard deviation.
    """
    if repeated := [path for path in results if results.count(path) > 1]:
        raise ValueError(f"{repeated[0]} is named twice")
    from hmt.evaluation.report import load_runs, write_runs
    from hmt.util.files import check_output, local_folder

    check_output(output, "report", results)
    pngs = None if pngs is None else local_folder(pngs)
    runs = [run for path in results for run in load_runs(path)]
    files = write_runs(runs, output, baseline=baseline, pngs=pngs, title=title)
    typer.echo(output if pngs is None else f"{output}\n{pngs}: {', '.join(files)}")
