"""`hmt eval`: models and baselines on tasks; or perplexity against history, without `--tasks`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from hmt.cli.options import DeviceOption, EncodingOption, ErrorsOption

# options of perplexity against history alone, which tasks have as settings
_HISTORY_ONLY = {
    "window": "baselines have --baselines",
    "skip": "set books.skip",
    "targets_per_document": "set books.targets_per_document",
    "max_targets": "set books.max_targets",
    "batch_size": "set books.batch_size",
    "text_field": "set books.text_field",
    "split": "set TASK.split",
    "encoding": "convert the file",
    "errors": "convert the file",
}
_TASKS_ONLY = ("pairs", "budgets", "baselines", "backbone", "context", "overwrite", "segment_length")


def command(
    ctx: typer.Context,
    models: Annotated[
        list[str], typer.Argument(help="Folders or hub ids; NAME=FOLDER names a row.", metavar="MODEL...")
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
    budgets: Annotated[
        str, typer.Option(help="Compare at so many bytes per stream, such as 16KiB,64KiB.", metavar="BYTES")
    ] = "",
    baselines: Annotated[
        str, typer.Option(help="Beside the models: alone, sensory, window, window-ids, bm25, full; or none.")
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
    data: Annotated[
        str | None,
        typer.Option(help="Documents: perplexity against history, or books.source.", metavar="PATH"),
    ] = None,
    history: Annotated[str, typer.Option(help="Segments read before the scored ones.")] = "0,1,4,16,64",
    window: Annotated[
        str | None,
        typer.Option(help="Without --tasks: windows of so many raw tokens, such as 0,32.", metavar="TOKENS"),
    ] = None,
    skip: Annotated[int | None, typer.Option(help="Tokens at the head of a segment not scored.")] = None,
    targets_per_document: Annotated[int, typer.Option(help="Scored segments per document.", min=1)] = 4,
    max_targets: Annotated[int, typer.Option(help="Scored segments in all.", min=1)] = 256,
    batch_size: Annotated[int, typer.Option(help="Segments scored side by side.", min=1)] = 8,
    seed: Annotated[int, typer.Option(help="Seed of whatever is drawn.")] = 0,
    limit: Annotated[
        int | None, typer.Option(help="Use only the first so many documents or items.", min=1)
    ] = None,
    text_field: Annotated[str, typer.Option(help="Field with the text, in .jsonl and .parquet.")] = "text",
    split: Annotated[str, typer.Option(help="Split of a hub data set.")] = "train",
    encoding: EncodingOption = "utf-8",
    errors: ErrorsOption = "strict",
    device: DeviceOption = None,
) -> None:
    """Measure what memory is worth, beside baselines of as many bytes.

    With --tasks: every model and baseline does every task. Answers are saved as they come; run again after
    Ctrl-C, it goes on where it stopped. `hmt report DIR` makes a page of it.

    Without: perplexity of the same tokens after 0, 1, 4, ... segments of the documents in --data.
    """
    given = {name for name in ctx.params if _is_given(ctx, name)}
    if tasks is None:
        if data is None:
            raise ValueError("name --tasks, or --data for perplexity against history")
        if wrong := [name for name in _TASKS_ONLY if name in given]:
            raise ValueError(f"{_option(wrong[0])} goes with --tasks, such as --tasks books")
        from hmt.cli.history import evaluate_history

        evaluate_history(
            models, data, output, history=history, window=window or "", skip=skip,
            targets_per_document=targets_per_document, max_targets=max_targets, batch_size=batch_size,
            seed=seed, limit=limit, text_field=text_field, split=split, encoding=encoding, errors=errors,
            device=device,
        )  # fmt: skip
        return
    if wrong := [name for name in _HISTORY_ONLY if name in given]:
        raise ValueError(f"{_option(wrong[0])} does not go with --tasks: {_HISTORY_ONLY[wrong[0]]}")
    from hmt.cli.eval_tasks import evaluate_tasks

    names = [name.strip() for name in tasks.split(",") if name.strip()]
    short = _shorthand(names, data, history if "history" in given else None)
    defaults: dict[str, Any] = {"seed": seed, **({} if limit is None else {"limit": limit})}
    evaluate_tasks(
        models, names, [*short, *(pairs or [])], defaults, output,
        budgets=budgets, baselines=baselines, backbone=backbone, context=context,
        segment_length=segment_length, device=device, overwrite=overwrite,
    )  # fmt: skip


def _shorthand(names: list[str], data: str | None, history: str | None) -> list[str]:
    """--data and --history as settings of the task books."""
    pairs = [("--data", "source", data), ("--history", "histories", history)]
    for option, key, value in pairs:
        if value is not None and "books" not in names:
            raise ValueError(f"{option} is of the task books; name --set TASK.{key}=... for others")
    return [f"books.{key}={value}" for _, key, value in pairs if value is not None]


def _is_given(ctx: typer.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name in ("COMMANDLINE", "ENVIRONMENT")


def _option(name: str) -> str:
    return "--set" if name == "pairs" else "--" + name.replace("_", "-")
