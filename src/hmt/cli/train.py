"""`hmt train`: give a backbone a memory with the paper's two-stage recipe."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from hmt.cli.fields import config_fields, fields_of, system_fields
from hmt.cli.options import Options, options, takes
from hmt.cli.values import parse_value
from hmt.data.documents import load_documents
from hmt.systems import names as system_names
from hmt.training.recipe import Recipe, Stage, paper_recipe
from hmt.training.start import (
    DEFAULT_SYSTEM,
    OF_THE_BACKBONE,
    load_text,
    open_for_training,
    read_recipe,
)
from hmt.util.files import local_folder

_MEMORY = "Memory (of a new model)"
_PANELS = {
    "Stages": "copy_steps repetition_steps stage1_steps stage2_steps bptt_depth segments curriculum tuning "
    "lora_r lora_alpha lora_dropout",
    "Optimization": "learning_rate lr_schedule lr_decay lr_decay_every warmup_steps batch_size "
    "gradient_accumulation max_grad_norm weight_decay bf16 replay compile",
    "Recall loss": "recall_loss_weight recall_loss_until recall_negatives recall_targets repetition",
    "Data": "min_segments eval_steps eval_samples",
    "Run": "seed save_steps keep_checkpoints logging_steps",
}
_NAMES = {
    "learning_rate": "--lr",
    "gradient_accumulation": "--accumulate",
    "recall_loss_weight": "--recall-loss",
}
_RECIPE = options(paper_recipe, Recipe, docs=[Stage], without=["stages"], names=_NAMES, panels=_PANELS)
_RECIPE.fields["eval_steps"] = replace(_RECIPE.fields["eval_steps"], default=100)
# a field whose name means something else here is left to --set
_TAKEN = [*_RECIPE.fields, *fields_of(Stage, load_documents, load_text, open_for_training)]
_TAKEN += ["model", "data", "output", "resume", "pairs", "eval_data", "report_to", "run_name"]
_FIELDS = system_fields(system_names(), without=[*OF_THE_BACKBONE, *_TAKEN])


@takes(
    memory=Options(_FIELDS, panels={_MEMORY: " ".join(_FIELDS)}),
    recipe=_RECIPE,
    reading=options(
        load_documents,
        only=["text_field", "encoding", "errors", "limit"],
        panels={"Data": "text_field encoding errors limit"},
    ),
    mixing=options(load_text, only=["interleave", "dilate"], panels={"Data": "interleave dilate"}),
    attention=options(open_for_training, only=["attn"], panels={"Optimization": "attn"}),
)
def command(
    *,
    context: typer.Context,
    model: Annotated[
        str,
        typer.Argument(
            help="Folder, GGUF file, hub id or short name of a causal LM; or a model with memory.",
            metavar="MODEL",
        ),
    ],
    data: Annotated[
        list[str],
        typer.Argument(help="Text, JSON or Parquet files, folders, or a hub dataset.", metavar="DATA"),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the run and of the trained model.")
    ],
    system: Annotated[
        str | None,
        typer.Option(
            help=f"Kind of memory. Default: {DEFAULT_SYSTEM}.",
            metavar="|".join(system_names()),
            rich_help_panel=_MEMORY,
        ),
    ] = None,
    pairs: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Any field of the system's configuration. Repeatable.",
            metavar="FIELD=VALUE",
            rich_help_panel=_MEMORY,
        ),
    ] = None,
    recipe_file: Annotated[
        Path | None,
        typer.Option(
            "--recipe",
            help="JSON file with system, fields and stages, instead of their options (docs/training.md).",
            metavar="FILE",
        ),
    ] = None,
    memory: dict[str, Any],
    recipe: dict[str, Any],
    attention: dict[str, Any],
    reading: dict[str, Any],
    mixing: dict[str, Any],
    eval_data: Annotated[
        str | None,
        typer.Option(help="File, folder or hub dataset of held-out text.", rich_help_panel="Data"),
    ] = None,
    report_to: Annotated[
        list[str] | None,
        typer.Option(
            help="Also report to tensorboard, wandb, mlflow, ... or all that is installed. Repeatable.",
            metavar="NAME",
            rich_help_panel="Run",
        ),
    ] = None,
    run_name: Annotated[
        str | None, typer.Option(help="Name of the run in what it reports to.", rich_help_panel="Run")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on with the run in OUTPUT, if there is one.", rich_help_panel="Run"
        ),
    ] = False,
) -> None:
    """Give a backbone a memory, or train a model with memory further, in the paper's two stages.

    Ctrl-C finishes the step and saves a checkpoint; the same command with --resume goes on from there.
    """
    memory |= set_fields(system, pairs or [])
    if eval_data is None:
        recipe["eval_steps"] = None
    if recipe["recall_targets"] is None:  # the stages that teach writing bring their own
        del recipe["recall_targets"]
    if recipe_file is None:
        chosen = paper_recipe(**recipe)
    else:
        _only_in_recipe(recipe_file, context)
        chosen, system, memory = read_recipe(recipe_file)
        if (chosen.eval_steps is None) != (eval_data is None):
            chosen = replace(chosen, eval_steps=None if eval_data is None else recipe["eval_steps"])

    from accelerate import PartialState
    from transformers.utils import logging

    from hmt.systems import load_config, load_tokenizer
    from hmt.training import train
    from hmt.training.checkpoints import check_folder

    check_folder(local_folder(output), resume)  # before text and model are loaded

    load_config(model)  # a model that is not there has no tokenizer either
    tokenizer = load_tokenizer(model)
    documents = load_text(data[0] if len(data) == 1 else data, tokenizer, **mixing, **reading)
    held_out = None
    if eval_data is not None:
        held_out = load_text(eval_data, tokenizer, **mixing, **{**reading, "limit": None})
    learner = open_for_training(model, chosen, system, memory, **attention)
    logging.disable_progress_bar()  # one for every checkpoint that is written
    result = train(
        learner,
        tokenizer,
        documents,
        chosen,
        output,
        resume=resume,
        eval_data=held_out,
        report_to=report_to or "none",
        run_name=run_name,
    )
    if PartialState().is_main_process:
        _report(result, output)


def _only_in_recipe(path: Path, context: typer.Context) -> None:
    """ValueError for options on the command line that a recipe file has in it."""
    named = {"system": "--system", "pairs": "--set"}
    named |= {name: _NAMES.get(name, one.option) for name, one in {**_RECIPE.fields, **_FIELDS}.items()}
    for name, option in named.items():
        source = context.get_parameter_source(name)
        if name != "eval_steps" and source is not None and source.name == "COMMANDLINE":
            raise ValueError(f"{option} is in the recipe: change it in {path}, or leave --recipe out")


def set_fields(system: str | None, pairs: list[str]) -> dict[str, Any]:
    """Fields of a system's configuration, of "FIELD=VALUE" each.

    ValueError for an unknown system or field, and for a value that cannot be read.
    """
    name = system or DEFAULT_SYSTEM
    if name not in system_names():
        raise ValueError(f"--system: there is no {name!r}; choose from {', '.join(system_names())}")
    known = {field: one for field, one in config_fields(name).items() if field not in OF_THE_BACKBONE}
    found = {}
    for pair in pairs:
        field, equals, text = pair.partition("=")
        if not equals:
            raise ValueError(f"--set takes FIELD=VALUE, such as segment_length=512; got {pair!r}")
        if field not in known:
            raise ValueError(f"--set {pair}: the system {name!r} has no {field!r}; it has {', '.join(known)}")
        found[field] = parse_value(f"--set {pair}", text, known[field].kind)
    return found


def _report(result, output: Path) -> None:
    for stage in result.stages:
        work = (
            f"{stage['seconds']:.0f} s, mean loss {stage['loss']:.4f}" if "loss" in stage else "done before"
        )
        samples = f"{stage['samples']:,} samples of up to {stage['segments']} segments"
        typer.echo(f"{stage['name']}: {stage['steps']} steps on {samples}; {work}")
    peaks = [("memory", result.peak_memory), ("GPU memory", result.peak_device_memory)]
    used = ", ".join(f"{name} {size / 2**20:,.0f} MiB" for name, size in peaks if size)
    typer.echo(f"peak {used}" if used else "")
    typer.echo(f"the model is in {output}: hmt.load_model({str(output)!r}), or hmt read {output} FILE")
