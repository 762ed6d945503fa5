"""`hmt bench`: speed and memory of every system beside full attention, in one run."""

from pathlib import Path
from typing import Annotated, Any

import typer

from hmt.bench.settings import PARTS, Settings, names, token_counts
from hmt.cli.progress import TokenProgress, no_bars_in_logs

_D = Settings()  # the defaults, said once


def _text(values: tuple[int, ...]) -> str:
    return ",".join(f"{n // 1024}k" if n % 1024 == 0 else str(n) for n in values)


def command(
    backbone: Annotated[
        str | None, typer.Option(help="Folder or hub id of trained weights.", metavar="PATH_OR_ID")
    ] = None,
    shape: Annotated[
        str | None,
        typer.Option(
            help="Random weights of this shape: tiny, small (default on a CPU), qwen3-0.6b (on a GPU), "
            "llama-3.2-1b.",
            metavar="NAME",
        ),
    ] = None,
    systems: Annotated[
        str, typer.Option(help="Such as hmt-segment,rmt,full; default: all.", metavar="NAMES")
    ] = "",
    lengths: Annotated[
        str, typer.Option(help="Tokens of text, multiples of the segment length.", metavar="TOKENS")
    ] = _text(_D.lengths),
    segment_length: Annotated[int, typer.Option(help="New tokens per segment.")] = _D.segment_length,
    sensory_length: Annotated[int, typer.Option(help="Raw tokens read again, HMT.")] = _D.sensory_length,
    memory_size: Annotated[int, typer.Option(help="Memory embeddings kept, HMT.")] = _D.memory_size,
    batch: Annotated[int, typer.Option(help="Streams side by side.")] = _D.batch,
    chunk: Annotated[int, typer.Option(help="Segments whose summaries run in one batch.")] = _D.chunk,
    parts: Annotated[str, typer.Option(help="What to measure.", metavar="NAMES")] = ",".join(PARTS),
    decode_after: Annotated[
        str, typer.Option(help="Segments read before decoding.", metavar="SEGMENTS")
    ] = _text(_D.decode_after),
    decode_read: Annotated[
        int | None,
        typer.Option(
            help="How many of them are really read; the memory is filled with random vectors for the rest "
            "[default: 16 on a CPU, all on a GPU]."
        ),
    ] = None,
    train_segments: Annotated[
        str, typer.Option(help="Segments of a training sample (BPTT depth).", metavar="SEGMENTS")
    ] = _text(_D.train_segments),
    full_attention_max: Annotated[
        str | None,
        typer.Option(
            help="Longest text for full attention [default: 32k on a CPU, 128k on a GPU].", metavar="TOKENS"
        ),
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float32 (default on a CPU), bfloat16 (on a GPU) or float16.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1. Default: a GPU if there is one.")
    ] = None,
    attn: Annotated[
        str | None, typer.Option(help="Attention of transformers: sdpa, eager, flash_attention_2.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of PyTorch on a CPU.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of weights and text.")] = _D.seed,
    repeats: Annotated[int, typer.Option(help="Rounds; every case runs once in each.")] = _D.repeats,
    compile: Annotated[
        bool, typer.Option("--compile", help="Compile the steps of the systems, and the plain backbone.")
    ] = False,
    peak_tflops: Annotated[
        float | None, typer.Option(help="Peak of the device; known for A100, H100 and H200 in 16 bits.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the results.", metavar="FOLDER")] = Path(
        "bench-output"
    ),
) -> None:
    """Measure speed and memory: HMT, RMT and full attention, side by side."""
    settings = Settings(
        backbone=backbone,
        shape=shape,
        systems=names(systems),
        lengths=token_counts("--lengths", lengths),
        segment_length=segment_length,
        sensory_length=sensory_length,
        memory_size=memory_size,
        batch=batch,
        chunk=chunk,
        parts=names(parts),
        decode_after=token_counts("--decode-after", decode_after),
        decode_read=decode_read,
        train_segments=token_counts("--train-segments", train_segments),
        full_attention_max=(
            None
            if full_attention_max is None
            else token_counts("--full-attention-max", full_attention_max)[0]
        ),
        dtype=dtype,
        device=device,
        attn=attn,
        threads=threads,
        seed=seed,
        repeats=repeats,
        compile=compile,
        peak_tflops=peak_tflops,
    )

    from hmt.bench.plots import bench_plot, save
    from hmt.bench.run import run
    from hmt.bench.show import show

    with _Bars(device) as bars, no_bars_in_logs():
        results = run(settings, save=lambda results: _write(results, out), progress=bars)
    show(results)
    save(bench_plot(results), out / "bench.png")
    typer.echo(f"{out}: bench.json, bench.png")


def _write(results: dict[str, Any], out: Path) -> None:
    from hmt.bench.run import to_json
    from hmt.util.files import write_atomically

    write_atomically(out / "bench.json", to_json(results).encode())


class _Bars:
    """One bar after the other, one for each part."""

    def __init__(self, device: str | None):
        self.device = device
        self.part, self.bar = "", TokenProgress("", device)

    def __enter__(self) -> "_Bars":
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.__exit__(*error)

    def __call__(self, part: str, done: int, total: int) -> None:
        if part != self.part:
            self.bar.__exit__()
            self.part, self.bar = part, TokenProgress(part, self.device)
        self.bar.of(done, total)
