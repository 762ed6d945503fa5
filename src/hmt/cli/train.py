"""`hmt train`: give a backbone a memory with the paper's two-stage recipe."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer


def _panel(title: str):
    def option(help: str, *names: str, **limits):
        return typer.Option(*names, help=help, rich_help_panel=title, **limits)

    return option


_memory = _panel("Memory (of a new model)")
_stages = _panel("Stages")
_steps = _panel("Optimization")
_recall = _panel("Recall loss")
_data = _panel("Data")
_run = _panel("Run")

System = Literal["hmt", "rmt", "window"]
Scale = Literal["embedding", "1"]
Query = Literal["segment", "previous", "memory", "inline"]
Tuning = Literal["full", "lora", "frozen"]
Targets = Literal["none", "ngram", "given"]


def command(
    model: Annotated[
        str,
        typer.Argument(help="Folder or hub id of a causal LM, or of a model with memory.", metavar="MODEL"),
    ],
    data: Annotated[
        list[str],
        typer.Argument(help="Text, JSON or Parquet files, folders, or a hub dataset.", metavar="DATA..."),
    ],
    output: Annotated[Path, _run("Folder of the run and of the trained model.", "--output", "-o")],
    # -- memory: None is the system's own default
    system: Annotated[System | None, _memory("Kind of memory. Default: hmt.")] = None,
    segment_length: Annotated[int | None, _memory("New tokens read per step. Default: 512.", min=1)] = None,
    memory_size: Annotated[
        int | None, _memory("Memory embeddings kept (hmt: 300), or memory tokens (rmt: 1).", min=1)
    ] = None,
    sensory_length: Annotated[
        int | None,
        _memory(
            "Last tokens of what came before, read again. Default: 32 (hmt), 0 (rmt), 512 (window).", min=0
        ),
    ] = None,
    summary_length: Annotated[
        int | None, _memory("hmt: leading tokens that make the query. Default: half a segment.", min=1)
    ] = None,
    recall_query: Annotated[
        Query | None,
        _memory("hmt: segment (default, the paper: its head), previous, memory or inline (strictly causal)."),
    ] = None,
    embeddings_per_segment: Annotated[
        int | None, _memory("hmt: vectors that a segment leaves behind. Default: 1.", min=1)
    ] = None,
    write_prompt: Annotated[
        Literal["recall", "learned"] | None,
        _memory("hmt: recall (default, the paper: what was recalled stands at the end too) or learned."),
    ] = None,
    memory_scale: Annotated[
        Scale | None,
        _memory("embedding: memory vectors are fed in at the size of token embeddings. Default: 1."),
    ] = None,
    # -- stages
    writing_steps: Annotated[
        int,
        _stages("Steps ahead of all, on copies: teaches to write content. With several embeddings.", min=0),
    ] = 0,
    recited_steps: Annotated[
        int, _stages("Steps after those, on text that repeats itself: teaches to find it again.", min=0)
    ] = 0,
    stage1_steps: Annotated[int, _stages("Steps without recall, on 2 segments.", min=0)] = 200,
    stage2_steps: Annotated[int, _stages("Steps with recall.", min=0)] = 500,
    bptt_depth: Annotated[int, _stages("Segments that gradients flow through in stage 2.", min=1)] = 8,
    segments: Annotated[
        int | None, _stages("Segments of a sample in stage 2. Default: the BPTT depth.", min=1)
    ] = None,
    curriculum: Annotated[
        str | None, _stages("Depths that share the steps of stage 2.", metavar="2,4,8,...")
    ] = None,
    tuning: Annotated[
        Tuning, _stages("Train everything, memory and LoRA adapters, or memory alone.")
    ] = "full",
    lora_r: Annotated[int, _stages("Rank of the adapters.", min=1)] = 8,
    # -- optimization
    learning_rate: Annotated[float, _steps("At the first step.", "--learning-rate", "--lr")] = 1e-5,
    lr_schedule: Annotated[
        str, _steps("steps (times LR_DECAY every 100 steps), constant, linear, cosine, ...")
    ] = "steps",
    lr_decay: Annotated[float, _steps("The paper: 0.9 or 0.7.")] = 0.9,
    warmup_steps: Annotated[int, _steps("Linear warm-up of both stages.", min=0)] = 0,
    batch_size: Annotated[int, _steps("Samples at a time, per device.", min=1)] = 2,
    accumulate: Annotated[int, _steps("Batches per optimizer step.", min=1)] = 1,
    max_grad_norm: Annotated[float, _steps("Gradient clipping, 0 for none.", min=0)] = 1.0,
    weight_decay: Annotated[float, _steps("Of AdamW.", min=0)] = 0.0,
    bf16: Annotated[bool, _steps("Compute in bfloat16.", "--bf16")] = False,
    replay: Annotated[
        bool, _steps("Recompute segments in the backward pass: slower, in constant memory.", "--replay")
    ] = False,
    attn: Annotated[
        str | None,
        _steps("Attention of transformers: sdpa, eager, flash_attention_2. In bf16 on a CPU take eager."),
    ] = None,
    compile: Annotated[bool, _steps("Compile the pass over a segment: minutes once.", "--compile")] = False,
    # -- recall loss
    recall_loss: Annotated[float, _recall("Its weight in stage 2.", min=0)] = 0.0,
    recall_loss_until: Annotated[
        float, _recall("Fraction of stage 2 after which it ends.", min=0, max=1)
    ] = 1.0,
    recall_negatives: Annotated[
        bool,
        _recall("The batch's other samples give wrong answers too: sharper recall.", "--recall-negatives"),
    ] = False,
    recall_targets: Annotated[
        Targets,
        _recall("ngram: the earlier segment that shares the rarest words; given: the one that is recited."),
    ] = "none",
    recite: Annotated[
        float, _recall("Share of segments that repeat an earlier one of their sample.", min=0, max=1)
    ] = 0.0,
    # -- data
    interleave: Annotated[int, _data("Mix pairs of documents, so many tokens of each in turn.", min=0)] = 0,
    dilate: Annotated[int, _data('Insert so many "$" after every so many tokens.', min=0)] = 0,
    text_field: Annotated[str, _data("Field of JSON and Parquet records.")] = "text",
    encoding: Annotated[str, _data("Encoding of text files.")] = "utf-8",
    errors: Annotated[str, _data("What to do with undecodable bytes: strict or replace.")] = "strict",
    limit: Annotated[int | None, _data("Use only the first documents.", min=1)] = None,
    min_segments: Annotated[int, _data("Shortest sample, in segments; 0 keeps short texts too.", min=0)] = 1,
    eval_data: Annotated[str | None, _data("File, folder or hub dataset of held-out text.")] = None,
    eval_steps: Annotated[int, _data("Steps between held-out losses.", min=1)] = 100,
    # -- run
    resume: Annotated[bool, _run("Go on with the run in OUTPUT, if there is one.", "--resume")] = False,
    seed: Annotated[int, _run("Of new weights, the order of samples, and dropout.", min=0)] = 0,
    save_steps: Annotated[int, _run("Steps between checkpoints.", min=1)] = 100,
    logging_steps: Annotated[int, _run("Steps between lines of the log.", min=1)] = 10,
) -> None:
    """Give a backbone a memory, or train a model with memory further, in the paper's two stages.

    Ctrl-C finishes the step and saves a checkpoint; the same command with --resume goes on from there.
    """
    from transformers.utils import logging

    from hmt.systems import load_tokenizer
    from hmt.training import TrainingStopped, paper_recipe, train
    from hmt.training.start import load_text, open_for_training

    targets: dict[str, Any] = {} if recall_targets == "none" else {"recall_targets": recall_targets}
    recipe = paper_recipe(
        stage1_steps=stage1_steps,
        stage2_steps=stage2_steps,
        bptt_depth=bptt_depth,
        segments=segments,
        curriculum=_depths(curriculum),
        recall_loss_weight=recall_loss,
        recall_loss_until=recall_loss_until,
        recall_negatives=recall_negatives,
        recite=recite,
        writing_steps=writing_steps,
        recited_steps=recited_steps,
        learning_rate=learning_rate,
        lr_schedule=lr_schedule,
        lr_decay=lr_decay,
        warmup_steps=warmup_steps,
        tuning=tuning,
        lora_r=lora_r,
        batch_size=batch_size,
        gradient_accumulation=accumulate,
        max_grad_norm=max_grad_norm,
        weight_decay=weight_decay,
        bf16=bf16,
        replay=replay,
        compile=compile,
        **targets,
        min_segments=min_segments,
        seed=seed,
        save_steps=save_steps,
        logging_steps=logging_steps,
        eval_steps=None if eval_data is None else eval_steps,
    )
    fields = {
        "segment_length": segment_length,
        "memory_size": memory_size,
        "sensory_length": sensory_length,
        "summary_length": summary_length,
        "recall_query": recall_query,
        "embeddings_per_segment": embeddings_per_segment,
        "write_prompt": write_prompt,
        "memory_scale": 1.0 if memory_scale == "1" else memory_scale,
    }
    tokenizer = load_tokenizer(model)
    options = {"text_field": text_field, "encoding": encoding, "errors": errors}
    source = data[0] if len(data) == 1 else data
    documents = load_text(source, tokenizer, interleave, dilate, limit=limit, **options)
    held_out = None if eval_data is None else load_text(eval_data, tokenizer, interleave, dilate, **options)
    learner = open_for_training(model, recipe, system, fields, attn)
    logging.disable_progress_bar()  # one for every checkpoint that is written
    try:
        result = train(learner, tokenizer, documents, recipe, output, resume=resume, eval_data=held_out)
    except TrainingStopped as stop:
        typer.secho(str(stop), fg=typer.colors.YELLOW, err=True)
        raise typer.Exit(128 + stop.signal) from None
    _report(result, output)


def _depths(text: str | None) -> list[int]:
    try:
        depths = [int(part) for part in text.split(",")] if text else []
    except ValueError:
        depths = [0]
    if any(depth < 1 for depth in depths):
        raise ValueError(f"--curriculum takes depths from 1 on, such as 2,4,8; got {text!r}")
    return depths


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
