"""`hmt eval`: models and baselines on tasks."""

from pathlib import Path
from typing import Annotated, Any

import typer

from hmt.cli.read import DeviceOption


def command(
    models: Annotated[
        list[str], typer.Argument(help="Folders or hub ids; NAME=FOLDER names a row.", metavar="MODEL")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.", metavar="DIR")],
    tasks: Annotated[
        str | None,
        typer.Option(help="Tasks with commas between them, such as books,passkey.", metavar="TASKS"),
    ] = None,
    pairs: Annotated[
        list[str] | None,
        typer.Option("--set", help="A setting of a task. Repeatable.", metavar="TASK.SETTING=VALUE"),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Documents of the text tasks; alone, of the task text.", metavar="PATH"),
    ] = None,
    history: Annotated[
        str | None, typer.Option(help="Segments read before what the text tasks score, such as 0,1,4.")
    ] = None,
    budgets: Annotated[
        str, typer.Option(help="Compare at so many bytes per stream, such as 16KiB,64KiB.", metavar="BYTES")
    ] = "",
    baselines: Annotated[
        str,
        typer.Option(
            help="Beside the models: alone, sensory, window, sinks, window-ids, bm25, full; or none."
        ),
    ] = "sensory,window,bm25,full",
    backbone: Annotated[
        str | None,
        typer.Option(help="Backbone of the baselines. Default: that of the first model.", metavar="PATH"),
    ] = None,
    context: Annotated[
        int | None, typer.Option(help="Longest input of the baselines, in tokens.", min=2)
    ] = None,
    segment_length: Annotated[
        int | None, typer.Option(help="Tokens that tasks call a segment. Default: the models'.", min=2)
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Answer again what DIR has.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of whatever is drawn.")] = 0,
    limit: Annotated[
        int | None, typer.Option(help="Use only the first so many documents or items.", min=1)
    ] = None,
    device: DeviceOption = None,
) -> None:
    """Measure what memory is worth, beside baselines of as many bytes.

    Every model and baseline does every task; with --data, perplexity of the same tokens after 0, 1, 4, ...
    segments of your documents. Answers are saved as they come; run again after Ctrl-C, it goes on where it
    stopped. `hmt report DIR` makes a page of it.
    """
    if tasks is None and data is None:
        raise ValueError("name --tasks, or --data for perplexity against history")
    names = [name.strip() for name in (tasks or "").split(",") if name.strip()]
    short = _of_text(names, {"source": data, "histories": history})
    from hmt.cli.eval_tasks import evaluate_tasks
    from hmt.evaluation.run import check_results

    check_results(output)  # before a model is loaded

    defaults: dict[str, Any] = {"seed": seed, **({} if limit is None else {"limit": limit})}
    evaluate_tasks(
        models, names, [*short, *(pairs or [])], defaults, output,
        budgets=budgets, baselines=baselines, backbone=backbone, context=context,
        segment_length=segment_length, device=device, overwrite=overwrite,
    )  # fmt: skip


def _of_text(names: list[str], settings: dict[str, str | None]) -> list[str]:
    """--data and --history as settings of the text tasks among `names`; without any, `text` is added."""
    from hmt.evaluation.tasks import task_class
    from hmt.evaluation.tasks.text import Text

    given = {key: value for key, value in settings.items() if value is not None}
    on_text = [name for name in names if issubclass(task_class(name), Text)]
    if given and not on_text:
        names.insert(0, "text")
        on_text = ["text"]
    return [f"{name}.{key}={value}" for name in on_text for key, value in given.items()]
