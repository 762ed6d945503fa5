"""What it costs that weights land at multiples of 64 bytes (`hmt.backbone.aligned`).

    python benchmarks/load_aligned.py --output benchmarks/results/load_aligned.json

Loads a random Llama of 135 M parameters (the shape of SmolLM2) as a model with memory, in new processes that
alternate: as the library does, and with the weights left where the mapping of the file put them. Each then
reads one segment, which touches every weight. Peaks are those of the process; the one without files leaves
out the pages of the mapped file, which the system takes back when it needs room.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch
from hmt.util.peak import peak_memory
from transformers import LlamaConfig, LlamaForCausalLM

from hmt import HMTForCausalLM
from hmt.backbone import aligned
from hmt.util.environment import run_facts

SHAPE = {"vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9}
SHAPE |= {"num_key_value_heads": 3, "max_position_embeddings": 2048, "tie_word_embeddings": True}


def save(folder: Path, layers: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    backbone = LlamaForCausalLM(LlamaConfig(**SHAPE, num_hidden_layers=layers)).to(dtype)
    model = HMTForCausalLM.from_backbone(backbone, segment_length=32)
    model.save_pretrained(folder)


class AnonymousPeak(threading.Thread):
    """The most memory of this process that no file backs, looked at fifty times a second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak, self.over = 0, threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.02):
            status = Path("/proc/self/status").read_text()
            found = re.search(r"^RssAnon:\s+(\d+) kB$", status, re.MULTILINE)
            self.peak = max(self.peak, 1024 * int(found[1]) if found else 0)


def load(folder: str, align: bool) -> dict:
    """One load in this process: seconds and bytes."""
    torch.set_num_threads(1)
    if not align:
        aligned.ALIGNMENT = 1  # every address is a multiple of it
    before, watch = peak_memory(), AnonymousPeak()
    watch.start()
    time.sleep(0.05)
    anonymous = watch.peak
    began = time.perf_counter()
    model = HMTForCausalLM.from_pretrained(folder, dtype="auto")
    loaded = time.perf_counter() - began
    peak_loaded = peak_memory() - before
    model.read(torch.arange(3, 35))
    read = time.perf_counter() - began
    watch.over.set()
    watch.join()
    return {
        "weights": sum(p.nbytes for p in model.parameters()),
        "parameters": sum(p.numel() for p in model.parameters()),
        "aligned": all(p.data_ptr() % 64 == 0 for p in model.parameters()),
        "seconds_load": loaded,
        "seconds_load_and_read": read,
        "peak_load": peak_loaded,
        "peak_load_and_read": peak_memory() - before,
        "peak_without_files": watch.peak - anonymous,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--load", help=argparse.SUPPRESS)  # in a new process: this folder
    parser.add_argument("--mapped", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.load:
        print(json.dumps(load(options.load, not options.mapped)))
        return
    result = {"setup": run_facts(0, threads_used=1), "shape": SHAPE | {"layers": options.layers}, "cases": []}
    for dtype in (torch.float32, torch.bfloat16):
        with tempfile.TemporaryDirectory() as folder:
            save(Path(folder), options.layers, dtype)
            runs: dict[str, list[dict]] = {"mapped": [], "aligned": []}
            for _ in range(options.repeats):
                for kind, found in runs.items():
                    words = [sys.executable, __file__, "--load", folder, *["--mapped"] * (kind == "mapped")]
                    answer = subprocess.run(words, capture_output=True, text=True, check=True).stdout
                    found.append(json.loads(answer.splitlines()[-1]))
        for kind, found in runs.items():
            median = {name: statistics.median(run[name] for run in found) for name in found[0]}
            result["cases"].append({"dtype": str(dtype), "weights_are": kind, **median, "runs": found})
            print(json.dumps({"dtype": str(dtype), "weights_are": kind, **median}), flush=True)
    if options.output:
        options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
