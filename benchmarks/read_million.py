"""One text of a million tokens, read in one go on a CPU: speed and resident memory along the way.

    python benchmarks/read_million.py --output benchmarks/results/read_million

Random ids through random weights of the benchmark's smallest shape: neither speed nor memory depends on what
they say. Writes results.json and memory.png, with what a KV cache of the same backbone would hold.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from hmt.util.environment import run_facts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--segment-length", type=int, default=256)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()

    import psutil
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from hmt import HMTForCausalLM
    from hmt.bench.shapes import SHAPES
    from hmt.util.environment import peak_memory

    torch.set_num_threads(1)
    torch.manual_seed(0)
    family, fields = SHAPES["tiny"]
    config = AutoConfig.for_model(family, **fields)
    backbone = AutoModelForCausalLM.from_config(config)
    model = HMTForCausalLM.from_backbone(
        backbone, segment_length=args.segment_length, sensory_length=16
    ).eval()
    ids = torch.randint(config.vocab_size, (1, args.tokens))
    process, curve = psutil.Process(), []

    def note(tokens: int) -> None:
        if not curve or tokens - curve[-1]["tokens"] >= args.tokens // 100:
            held, now = process.memory_info().rss, time.perf_counter()
            curve.append({"tokens": tokens, "rss": held, "seconds": now - start})

    model.read(ids[:, : 16 * args.segment_length])
    before, start = peak_memory(), time.perf_counter()
    memory = model.read(ids, progress=note)
    seconds = time.perf_counter() - start
    heads = getattr(config, "num_key_value_heads", config.num_attention_heads)
    per_token = 2 * 4 * config.num_hidden_layers * heads * (config.hidden_size // config.num_attention_heads)
    result = {
        **run_facts(0, tokens=args.tokens, segment_length=args.segment_length),
        "parameters": backbone.num_parameters(),
        "seconds": seconds,
        "tokens_per_second": args.tokens / seconds,
        "peak_after_16_segments": before,
        "peak": peak_memory(),
        "memory_bytes": memory.nbytes,
        "kv_cache_bytes": per_token * args.tokens,
        "segments": int(memory.segments_read[0]),
        "curve": curve,
    }
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "results.json").write_text(json.dumps(result, indent=1))
    draw(result, per_token, args.output / "memory.png")
    print({name: value for name, value in result.items() if name != "curve"})


def draw(result: dict, per_token: int, path: Path) -> None:
    from matplotlib.figure import Figure

    from hmt.evaluation.plot_style import COLOURS, QUIET, save, styled

    @styled
    def figure() -> Figure:
        made = Figure(figsize=(8, 4.5))
        axes = made.subplots()
        tokens = [point["tokens"] / 1e6 for point in result["curve"]]
        base = result["curve"][0]["rss"]
        axes.plot(tokens, [point["rss"] / 2**20 for point in result["curve"]], color=COLOURS[0])
        cached = [(base + per_token * 1e6 * n) / 2**20 for n in tokens]
        axes.plot(tokens, cached, color=QUIET, linestyle="--")
        last = tokens[-1]
        axes.annotate("HMT, measured", (last, result["curve"][-1]["rss"] / 2**20), (0, 8), ha="right",
                      textcoords="offset points", color=COLOURS[0])  # fmt: skip
        at = 0.62 * last
        above = (at, (base + per_token * 1e6 * at) / 2**20)
        axes.annotate("with a KV cache of every token, computed ", above, ha="right", color=QUIET)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("tokens read (millions)")
        axes.set_title("Resident memory of the process (MiB)")
        return made

    save(figure(), path)


if __name__ == "__main__":
    main()
