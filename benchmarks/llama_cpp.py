"""Reading and decoding of one language model on one core: HMT, its plain backbone, and llama.cpp.

    OMP_NUM_THREADS=1 python benchmarks/llama_cpp.py --llama-python VENV/bin/python --output FILE

`--llama-python` is an interpreter that has `xllamacpp` (the prebuilt wheel, without its dependencies), which
runs the same GGUF file in a process of its own. All are asked in turn, in every round, at every length;
each waits while another works. What else the machine does is not controlled (`load` is noted), so speeds are
tokens per second for which the core was busy with it (`read`, `decode`); by the clock they are `..._clock`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

import psutil

CHILD = """
import json, sys
import xllamacpp as x
p = x.CommonParams()
p.model.path, p.n_ctx, p.n_parallel, p.warmup, p.n_predict = sys.argv[1], 8192, 1, True, 32
p.cpuparams.n_threads = p.cpuparams_batch.n_threads = 1
p.verbosity = -1
server = x.Server(p)
print(json.dumps({"ready": x.get_system_info()}), flush=True)
for line in sys.stdin:
    server.handle_completions({"temperature": 0, "ignore_eos": True, "cache_prompt": True} | json.loads(line))
    print(json.dumps({"done": True}), flush=True)
"""


class Timer:
    """Seconds by the clock, and seconds that a process kept cores busy."""

    def __init__(self, pid: int | None = None):
        self.process = psutil.Process(pid)
        self.began = self.now()

    def now(self) -> tuple[float, float]:
        used = self.process.cpu_times()
        return time.perf_counter(), used.user + used.system

    def __call__(self) -> tuple[float, float]:
        clock, core = self.now()
        return clock - self.began[0], core - self.began[1]


def speeds(name: str, tokens: int, took: tuple[float, float]) -> dict[str, float]:
    return {name: tokens / max(took[1], 0.01), f"{name}_clock": tokens / took[0]}


def timed(work: Any) -> tuple[tuple[float, float], Any]:
    timer = Timer()
    result = work()
    return timer(), result


class LlamaCpp:
    """llama.cpp in another process."""

    def __init__(self, python: str, file: Path):
        self.process = subprocess.Popen(
            [python, "-c", CHILD, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        self.asked = 0
        self.system = self.answer()["ready"]

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(('{"ready"', '{"done"')):
                return json.loads(line)
        raise RuntimeError("llama.cpp ended")

    def ask(self, ids: list[int], new: int) -> tuple[float, float]:
        assert self.process.stdin is not None
        timer = Timer(self.process.pid)
        self.process.stdin.write(json.dumps({"prompt": ids, "n_predict": new}) + "\n")
        self.process.stdin.flush()
        self.answer()
        return timer()

    def run(self, ids: list[int], new: int) -> dict[str, float]:
        """A text that it has not seen, and then, with the text in its cache, new tokens behind it."""
        self.asked += 1
        ids = [1000 + self.asked, *ids[1:]]  # no prefix of it is in the cache
        read = self.ask(ids, 1)
        return speeds("read", len(ids), read) | speeds("decode", new + 1, self.ask(ids, new + 1))


def plain(backbone: Any, ids: Any, new: int) -> dict[str, float]:
    """The backbone as transformers runs it: one pass over the text, then token by token on its cache."""
    from transformers import DynamicCache

    cache = DynamicCache(config=backbone.config)
    took, out = timed(lambda: backbone(ids, past_key_values=cache, logits_to_keep=1))
    token = out.logits[:, -1:].argmax(-1)

    def decode() -> None:
        nonlocal token
        for _ in range(new):
            token = backbone(token, past_key_values=cache).logits[:, -1:].argmax(-1)

    return speeds("read", ids.shape[1], took) | speeds("decode", new, timed(decode)[0])


def answer(model: Any, memory: Any, question: Any, new: int) -> tuple[float, float]:
    """Seconds for so many tokens behind a question."""
    options = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False, "pad_token_id": 2}
    return timed(lambda: model.generate(question, past_key_values=memory, **options))[0]


def with_memory(model: Any, ids: Any, question: Any, new: int) -> dict[str, float]:
    from hmt import Memory

    took, memory = timed(lambda: model.read(ids))
    with tempfile.TemporaryDirectory() as folder:
        memory.save(Path(folder) / "m.hmt")
        timer = Timer()
        memory = Memory.load(Path(folder) / "m.hmt", model=model)
        first = answer(model, memory, question, 1)
        whole = timer()
    more = answer(model, memory, question, new + 1)
    rest = (more[0] - first[0], more[1] - first[1])
    found = {"first_token_s": whole[1], "first_token_s_clock": whole[0]}
    return speeds("read", ids.shape[1], took) | found | speeds("decode", new, rest)


def bound(model: Any) -> dict[str, float]:
    """Tokens per second of a whole segment if only the backbone's passes over it took time."""
    import torch

    from hmt import backbone as bb

    width = bb.embedding_table(model.backbone).embedding_dim
    rows = [torch.randn(1, n, width, dtype=model.dtype) for n in model.passes()]
    took = timed(lambda: [bb.run(model.backbone, row) for row in rows])[0]
    return speeds("read", model.config.segment_length, took)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--llama-python", required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--lengths", type=int, nargs="+", default=[2048, 4096, 7900])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--new", type=int, default=32)
    a = parser.parse_args()

    import pydoc_data.topics

    import torch

    from hmt import HMTForCausalLM
    from hmt.backbone import PACKAGED, load_backbone
    from hmt.systems import load_tokenizer
    from hmt.util.environment import run_facts

    torch.set_num_threads(1)
    name = "smollm2-135m"
    entry = PACKAGED[name]
    file = Path(str(metadata.distribution(entry.package).locate_file(entry.file)))
    tokenizer = load_tokenizer(name)
    text = "\n\n".join(pydoc_data.topics.topics[key] for key in sorted(pydoc_data.topics.topics))
    ids = tokenizer(text, return_tensors="pt", verbose=False).input_ids
    question = tokenizer("\n\nQuestion: what does an assignment do?\nAnswer:", return_tensors="pt").input_ids
    llama = LlamaCpp(a.llama_python, file)
    models: dict[str, Any] = {}
    fields = {"segment_length": 512, "sensory_length": 32, "memory_size": 300}
    for query in ("segment", "memory"):
        for kind in ("", ", packed"):
            model = HMTForCausalLM.from_backbone(name, recall_query=query, **fields).eval()
            if kind:
                packed = model.pack_weights()
            models[f"HMT {query}{kind}"] = model
    backbone = load_backbone(name).eval()
    facts = run_facts(
        0, threads_used=1, llama_cpp=llama.system, text="pydoc_data.topics", sha256=entry.sha256
    )
    facts |= {"dtype": str(backbone.dtype), "attention": backbone.config._attn_implementation}
    facts |= {"packed": packed, "started": time.strftime("%F %T"), **fields}
    rows: list[dict[str, Any]] = []
    with torch.inference_mode():
        warm = ids[:, :1100]
        plain(backbone, warm, 4)
        for model in models.values():
            with_memory(model, warm, question, 4)
            bound(model)
        for round_ in range(a.rounds):
            for length in a.lengths:
                some = ids[:, :length]
                todo: list[tuple[str, Any]] = [
                    ("llama.cpp", partial(llama.run, some[0].tolist(), a.new)),
                    ("transformers", partial(plain, backbone, some, a.new)),
                ]
                for key, model in models.items():
                    if "packed" not in key:
                        todo.append((f"bound of {key}", partial(bound, model)))
                    todo.append((key, partial(with_memory, model, some, question, a.new)))
                for key, work in todo if round_ % 2 == 0 else todo[::-1]:
                    row = {"what": key, "tokens": length, "round": round_, **work()}
                    row["load"] = os.getloadavg()[0]
                    rows.append(row)
                    print(json.dumps(row), flush=True)
                a.output.write_text(
                    json.dumps({"setup": facts, "rows": rows, "medians": medians(rows)}, indent=1)
                )
    llama.process.terminate()
    print(json.dumps(medians(rows), indent=1), file=sys.stderr)


def medians(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Over rounds, by what and tokens."""
    found: dict[str, Any] = {}
    for what, tokens in dict.fromkeys((row["what"], row["tokens"]) for row in rows):
        same = [row for row in rows if (row["what"], row["tokens"]) == (what, tokens)]
        keys = [key for key in same[0] if key.startswith(("read", "decode", "first"))]
        found.setdefault(what, {})[tokens] = {key: round(median(row[key] for row in same), 3) for key in keys}
    return found


if __name__ == "__main__":
    main()
