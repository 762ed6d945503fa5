"""Read one long text into a memory file and watch the process's memory while it reads.

    python benchmarks/read_book.py demo-train/hmt book.txt --output benchmarks/results/read_book.json

Notes resident memory every few thousand tokens, saves the memory beside the output, and continues from the
file in a new process.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import torch

from hmt import load_model
from hmt.data import read_text
from hmt.systems import load_tokenizer
from hmt.util.environment import peak_memory, run_facts


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("text", type=Path)
    parser.add_argument("--every", type=int, default=8192, help="tokens between two readings")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    model, tokenizer = load_model(options.model), load_tokenizer(options.model)
    ids = tokenizer(read_text(options.text), verbose=False)["input_ids"]
    memory, curve = model.read(ids[: options.every]), []
    began = time.perf_counter()
    for start in range(options.every, len(ids), options.every):
        memory = model.read(ids[start : start + options.every], memory=memory)
        resident = psutil.Process().memory_info().rss
        curve.append({"tokens": int(memory.tokens_read[0]), "rss": resident, "peak": peak_memory()})
    seconds = time.perf_counter() - began

    file = options.output.with_suffix(".hmt")
    memory.save(file)
    words = ["generate", options.model, "--memory", str(file), "--prompt", "The ", "--max-new-tokens", "64"]
    continued = subprocess.run(
        [sys.executable, "-m", "hmt", *words, "--seed", "0"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ).stdout
    result = {
        "setup": run_facts(0, threads_used=options.threads),
        "text": options.text.name,
        "tokens": len(ids),
        "segments": int(memory.segments_read[0]),
        "tokens_per_second": (len(ids) - options.every) / seconds,
        "state_bytes": memory.nbytes,
        "file_bytes": file.stat().st_size,
        "peak_first": curve[0]["peak"],
        "peak_last": curve[-1]["peak"],
        "peak_ratio": curve[-1]["peak"] / curve[0]["peak"],
        "continued_in_a_new_process": continued,
        "curve": curve,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({name: value for name, value in result.items() if name != "curve"}, indent=1))


if __name__ == "__main__":
    main()
