"""What precision and attention are worth in training: `python benchmarks/train_precision.py --output JSON`.

Forward and backward pass of one optimizer step of HMT (14 M parameters, random weights, samples of 16
segments), the cases in turn, several rounds; reported are medians and their ratio to float32 with fused
attention. On CPUs with bfloat16 matrix units (AMX) matrix products become several times faster; the backward
pass of PyTorch's fused attention does not.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import hmt
from hmt.util.environment import run_facts

# name -> attention, bfloat16, compiled
CASES = {
    "float32, sdpa": ("sdpa", False, False),
    "float32, eager": ("eager", False, False),
    "bfloat16, sdpa": ("sdpa", True, False),
    "bfloat16, eager": ("eager", True, False),
    "bfloat16, eager, compiled": ("eager", True, True),
}


def build(attn: str, compiled: bool, a) -> hmt.HMTForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=8192,
        hidden_size=384,
        intermediate_size=1024,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=6,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
    )
    backbone = LlamaForCausalLM(config)
    backbone.set_attn_implementation(attn)
    model = hmt.HMTForCausalLM.from_backbone(
        backbone,
        segment_length=a.segment,
        summary_length=a.segment // 4,
        sensory_length=a.segment // 16,
        memory_size=a.segments,
        memory_scale="embedding",
    ).train()
    if compiled:
        model.compile_steps()
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--segment", type=int, default=64)
    parser.add_argument("--segments", type=int, default=16)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, required=True)
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    models = {name: build(attn, compiled, a).to(device) for name, (attn, _, compiled) in CASES.items()}
    ids = torch.randint(8192, (a.batch, a.segments * a.segment), device=device)
    seconds: dict[str, list[float]] = {name: [] for name in CASES}
    for round_ in range(a.rounds + 1):
        for name, (_, half, _) in CASES.items():
            begun = time.perf_counter()
            with torch.autocast(device, torch.bfloat16, enabled=half):
                loss = models[name](ids, labels=ids).loss
            loss.backward()
            models[name].zero_grad()
            loss.item()
            if round_:  # the first one warms up, and compiles
                seconds[name].append(time.perf_counter() - begun)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    first = medians["float32, sdpa"]
    results = {
        name: {
            "seconds": seconds[name],
            "tokens_per_second": ids.numel() / median,
            "times_float32_sdpa": first / median,
        }
        for name, median in medians.items()
    }
    for name, found in results.items():
        print(f"{name}: {found['tokens_per_second']:.0f} tokens/s, {found['times_float32_sdpa']:.2f}x")
    options = {name: value for name, value in vars(a).items() if name != "output"}
    facts = {"results": results, "options": options, "setup": run_facts(0)}
    a.output.parent.mkdir(parents=True, exist_ok=True)
    a.output.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
