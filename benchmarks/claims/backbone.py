"""Pretrain a small Llama on packed books: `python benchmarks/claims/backbone.py DIR --tokens 12000000`.

DIR is what `corpus.py` made. Matrices are trained by Muon, the rest by AdamW, on random windows of `context`
tokens; leaves `DIR/backbone` (a Hugging Face folder with its tokenizer) and `DIR/backbone.json` (facts and
the loss curve).
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from hmt.util.environment import run_facts


def repeat_a_span(ids: torch.Tensor, draw: np.random.Generator, share: float) -> torch.Tensor:
    """Now and then a span of 16 to T / 3 tokens stands a second time, where other tokens were.

    A small model learns to look earlier text up much sooner from repetitions than from names alone.
    """
    if draw.random() >= share:
        return ids
    length = int(draw.integers(16, len(ids) // 3))
    first = int(draw.integers(0, len(ids) - 2 * length))
    second = int(draw.integers(first + length, len(ids) - length + 1))
    ids[second : second + length] = ids[first : first + length].clone()
    return ids


def backward(model, body, head_loss, ids: Tensor, chunk: int = 1024) -> float:
    """Gradients of the mean next-token loss of ids int64 [B, T]; logits of a chunk of tokens at a time."""
    hidden = body(input_ids=ids, use_cache=False).last_hidden_state[:, :-1].flatten(0, 1)
    goal = ids[:, 1:].flatten()
    weight = model.lm_head.weight.to(hidden.dtype)
    leaf, head = hidden.detach().requires_grad_(), weight.detach().requires_grad_()
    total = torch.zeros((), device=ids.device)
    for part, want in zip(leaf.split(chunk), goal.split(chunk), strict=True):
        loss = head_loss(part, head, want) / len(goal)
        loss.backward()
        total += loss.detach()
    torch.autograd.backward([hidden, weight], [leaf.grad, head.grad])
    return total.item()


def summed_loss(hidden: Tensor, head: Tensor, goal: Tensor) -> Tensor:
    return cross_entropy((hidden @ head.t()).float(), goal, reduction="sum")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tokens", type=int, default=12_000_000, help="tokens to train on")
    parser.add_argument("--minutes", type=float, default=1e9, help="end the schedule after so many minutes")
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--muon-rate", type=float, default=0.02)
    parser.add_argument("--adam-rate", type=float, default=3e-3)
    parser.add_argument("--init", type=Path, help="go on from this folder instead of random weights")
    parser.add_argument(
        "--repetition",
        type=float,
        default=0.0,
        help="share of windows with a span that repeats an earlier one",
    )
    parser.add_argument("--float32", action="store_true", help="not bfloat16")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    a = parser.parse_args()

    torch.manual_seed(a.seed)
    stream = torch.from_numpy(np.load(a.folder / "backbone.npy").astype(np.int32))
    tokenizer = AutoTokenizer.from_pretrained(a.folder / "tokenizer")
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=a.hidden,
        intermediate_size=-(-a.hidden * 8 // 3 // 16) * 16,
        num_hidden_layers=a.layers,
        num_attention_heads=max(1, a.hidden // 64),
        num_key_value_heads=max(1, a.hidden // 64),
        max_position_embeddings=2 * a.context,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM.from_pretrained(a.init) if a.init else LlamaForCausalLM(config)
    model = model.to(a.device)
    body, head_loss = torch.compile(model.model), torch.compile(summed_loss)
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    ours = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in ours]
    optimizers = [
        torch.optim.Muon(matrices, lr=a.muon_rate, weight_decay=0.01),
        torch.optim.AdamW(rest, lr=a.adam_rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    base = [group["lr"] for optimizer in optimizers for group in optimizer.param_groups]
    steps, draw = a.tokens // (a.batch * a.context), np.random.default_rng(a.seed)
    curve, begun, average = [], time.monotonic(), None
    for step in range(steps):
        done = max(step / steps, (time.monotonic() - begun) / 60 / a.minutes)
        if done >= 1:
            break
        scale = min(1, (step + 1) / 50) * (1 if done < 0.4 else max(0.02, (1 - done) / 0.6))
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        for group, rate in zip(groups, base, strict=True):
            group["lr"] = rate * scale
        starts = draw.integers(0, len(stream) - a.context - 1, a.batch)
        rows = [repeat_a_span(stream[s : s + a.context].long(), draw, a.repetition) for s in starts]
        ids = torch.stack(rows).to(a.device)
        with torch.autocast(a.device, torch.bfloat16, enabled=not a.float32):
            loss = backward(model, body, head_loss, ids)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        average = loss if average is None else 0.95 * average + 0.05 * loss
        if step % 25 == 0:
            rate = (step + 1) * a.batch * a.context / (time.monotonic() - begun)
            curve.append([step, round(average, 4)])
            print(f"{step}/{steps} loss {average:.3f} {rate:.0f} tokens/s done {done:.2f}", flush=True)
        if step % 250 == 249 and math.isfinite(average):
            model.save_pretrained(a.folder / "backbone-unfinished")
    model.save_pretrained(a.folder / "backbone")
    tokenizer.save_pretrained(a.folder / "backbone")
    facts = {
        "parameters": model.num_parameters(),
        "tokens": (step + 1) * a.batch * a.context,
        "loss": average,
        "curve": curve,
        "seconds": time.monotonic() - begun,
        "options": {k: v for k, v in vars(a).items() if k not in ("folder", "init")},
        "setup": run_facts(a.seed),
    }
    (a.folder / "backbone.json").write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
