"""What changed in speed and memory since another commit: the same cases, run in turn by both source trees.

    git worktree add OLD 1e0dc90
    python benchmarks/against_commit.py OLD --output benchmarks/results/against_commit.json

Every case runs in a process of its own, one tree after the other, as often as asked; medians are compared.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

MEASURED = ("seconds", "processor", "peak")

# name: (width, layers, segment length, bank, what to do, number of segments, recall query)
CASES = {
    "read, 1 M parameters, L 32": (128, 4, 32, 300, "read", 200, "segment"),
    "read, 1 M parameters, L 32, bank 65,536": (128, 4, 32, 65536, "read", 50, "segment"),
    "read, 26 M parameters, L 512": (512, 8, 512, 300, "read", 8, "segment"),
    "train, 1 M parameters, L 32, bank 300": (128, 4, 32, 300, "train", 64, "segment"),
    "train with replay, 1 M parameters, L 32, bank 300": (128, 4, 32, 300, "replay", 64, "segment"),
    "decode, 1 M parameters, L 128, query previous": (128, 4, 128, 300, "decode", 4, "previous"),
    "decode, 1 M parameters, L 128, query segment": (128, 4, 128, 300, "decode", 4, "segment"),
    "peak of training, 8 segments, replay": (256, 6, 128, 300, "replay", 8, "segment"),
    "peak of training, 64 segments, replay": (256, 6, 128, 300, "replay", 64, "segment"),
}


def case(name: str) -> dict:
    """Seconds of one run after a warm-up, and the most memory the process has held."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from hmt import HMTForCausalLM

    torch.set_num_threads(1)
    torch.manual_seed(0)
    width, layers, length, bank, what, segments, query = CASES[name]
    config = LlamaConfig(
        vocab_size=2048,
        hidden_size=width,
        intermediate_size=width * 11 // 4,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        num_key_value_heads=width // 32,
    )
    model = HMTForCausalLM.from_backbone(
        LlamaForCausalLM(config),
        segment_length=length,
        sensory_length=length // 16,
        memory_size=bank,
        recall_query=query,
    )
    ids = torch.randint(0, 2048, (1, length * segments))

    def run(ids) -> None:
        if what == "read":
            model.eval().read(ids)
        elif what == "decode":
            memory = model.eval().read(ids[:, : 2 * length])
            model.generate(
                ids[:, :1], past_key_values=memory, min_new_tokens=2 * length, max_new_tokens=2 * length
            )
        else:
            model.train()(ids, labels=ids, replay=what == "replay").loss.backward()

    run(ids[:, : 2 * length])
    start, used = time.perf_counter(), time.process_time()
    run(ids)
    seconds, processor = time.perf_counter() - start, time.process_time() - used
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": seconds, "processor": processor, "peak": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", type=Path, nargs="?", help="the other source tree")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=[], help="words of the cases to run; others are kept")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--case", help="run one case here, and print what it gives")
    args = parser.parse_args()
    if args.case:
        print(json.dumps(case(args.case)))
        return

    from hmt.util.environment import run_facts

    trees = {"before": args.old, "now": Path(__file__).resolve().parents[1]}
    known = args.output is not None and args.only and args.output.exists()
    results: dict[str, dict] = json.loads(args.output.read_text())["results"] if known else {}
    for name in CASES:
        if args.only and not any(word in name for word in args.only):
            continue
        runs: dict[str, list[dict]] = {which: [] for which in trees}
        for _ in range(args.repeats):
            for which, tree in trees.items():
                environment = os.environ | {"PYTHONPATH": str(tree.resolve() / "src"), "OMP_NUM_THREADS": "1"}
                command = [sys.executable, __file__, "--case", name]
                done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
                runs[which].append(json.loads(done.stdout.splitlines()[-1]))
        medians = {
            which: {key: statistics.median(run[key] for run in of) for key in MEASURED}
            for which, of in runs.items()
        }
        ratio = {key: medians["now"][key] / medians["before"][key] for key in MEASURED}
        # how fast it is now beside before, pair by pair: neighbours in time have the same neighbours
        pairs = zip(runs["before"], runs["now"], strict=True)
        ratio["speed"] = statistics.median(old["processor"] / new["processor"] for old, new in pairs)
        results[name] = {**medians, "ratio": ratio, "repeats": args.repeats}
        print(name, json.dumps(results[name]), flush=True)
    before = subprocess.run(
        ["git", "-C", str(args.old), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    facts = run_facts(0, before=before, repeats=args.repeats)
    facts["command"] = "python benchmarks/against_commit.py OLD"
    if args.output:
        args.output.write_text(json.dumps({**facts, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
