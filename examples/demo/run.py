"""The demo from beginning to end: what runs when, what is kept, and the page about it."""

from __future__ import annotations

import hashlib
import json
import os
import textwrap
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from demo.corpus import Document, make_corpus
from demo.settings import Settings, smoke
from hmt.cli.eval_tasks import show
from hmt.util.files import check_own_folder, only_writer, write_atomically
from hmt.util.processes import Workers, run_module
from hmt.util.progress import Bars

FIRST = "hmt-demo.json"  # what a demo writes first: its folder is known by it


@dataclass
class Demo:
    """One folder of results. A job whose result is there, made with the same settings, is not run again.

    Args:
        folder: everything is left here. workers: processes; each gets its share of the cores.
    """

    folder: Path
    train: list[Document]
    held_out: list[Document]
    settings: Settings = Settings()
    workers: int = 2
    results: dict[str, Any] = field(default_factory=dict)

    def run(self) -> None:
        """Do everything; leaves models, `text/`, `keys/`, `document.hmt`, `results.json`, `report.html`."""
        began = time.perf_counter()
        self.prepare()
        with Bars() as bars:
            self._jobs(bars)
        for part in ("score text", "score keys"):
            show(self.results[part])
        read = self._read_and_continue()
        self._report(read, time.perf_counter() - began)

    def prepare(self) -> None:
        work = self.folder / "work"
        settings = json.dumps(asdict(self.settings), indent=1) + "\n"
        write_atomically(self.folder / FIRST, settings.encode())
        work.mkdir(parents=True, exist_ok=True)
        key = hashlib.sha256(json.dumps(asdict(self.settings)).encode())
        for name, documents in (("train", self.train), ("held_out", self.held_out)):
            data = "".join(json.dumps(document) + "\n" for document in documents).encode()
            write_atomically(work / f"{name}.jsonl", data)
            key.update(data)
        self.key = key.hexdigest()[:16]

    # -- training and scoring, in worker processes --------------------------------------------------------

    def _jobs(self, bars: Bars) -> None:
        """The two halves share the processor: text waits for its backbone, keys begin at once."""
        from demo.train import BASELINES

        trained = [*self.settings.systems, *BASELINES]
        plan: dict[str, tuple[str, str, list[str]]] = {"backbone": ("train.backbone", "", [])}
        plan |= {f"keys, {s}": ("train.key_memory", s, []) for s in self.settings.systems}
        plan |= {f"text, {s}": ("train.text_memory", s, ["backbone"]) for s in trained}
        plan["score keys"] = ("score.score_keys", "", [f"keys, {s}" for s in self.settings.systems])
        plan["score text"] = ("score.score_text", "", [f"text, {s}" for s in trained])
        threads = max(1, (os.cpu_count() or 1) // self.workers)
        with Workers(self.workers, partial(_begin, threads)) as workers:
            started: set[str] = set()
            while len(self.results) < len(plan):
                for job, (function, system, after) in plan.items():
                    if job not in started and all(name in self.results for name in after):
                        started.add(job)
                        if not self.kept(job):
                            workers.submit(job, _work, function, self.folder, self.settings, system)
                for job, kind, value in workers.events(timeout=0.1):
                    if kind == "done":
                        self.keep(job, value)
                    else:
                        bars(job, *value)

    def kept(self, job: str) -> bool:
        """Whether a run with the same settings and text has kept the result of a job, which is taken over."""
        path = self._file(job)
        stored = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if stored.get("key") != self.key:
            return False
        self.results[job] = stored["result"]
        return True

    def keep(self, job: str, result: Any) -> None:
        self.results[job] = result
        write_atomically(self._file(job), json.dumps({"key": self.key, "result": result}).encode())

    def _file(self, job: str) -> Path:
        return self.folder / "work" / f"{job.replace(', ', '-').replace(' ', '-')}.json"

    # -- what came of it ----------------------------------------------------------------------------------

    def _read_and_continue(self) -> dict[str, Any]:
        """The longest held-out document into a memory file, by the commands a user types."""
        from hmt import load_model
        from hmt.memory.memory import Memory
        from hmt.util.kv_cache import kv_cache_bytes

        longest = max(self.held_out, key=lambda document: len(document["text"]))
        document, memory = self.folder / "document.txt", self.folder / "document.hmt"
        document.write_text(longest["text"], encoding="utf-8")
        model = self.folder / self.settings.systems[0]
        prompt = "\n    def " if longest["name"].endswith(".py") else "\n"
        _hmt("read", model, document, "--memory", memory, "--overwrite")
        tokens = min(96, 3 * self.settings.text.segment)
        written = _hmt("generate", model, "--memory", memory, "--prompt", prompt, "--max-new-tokens", tokens)
        info = Memory.load(memory).info()
        read = {
            "name": longest["name"],
            "tokens": info["tokens_read"][0],
            "segments": info["segments_read"][0],
            "file_bytes": memory.stat().st_size,
            "kv_bytes": kv_cache_bytes(load_model(model).config.text_config, info["tokens_read"][0], 4),
            "prompt": prompt,
            "continuation": written,
        }
        size = f"{read['file_bytes']:,} bytes"
        print(f"read {read['name']}: {read['tokens']:,} tokens into a memory file of {size}")
        print("continued in a new process:")
        print(textwrap.indent(written.strip("\n"), "  | "))
        return read

    def _report(self, read: dict[str, Any], seconds: float) -> None:
        from demo.score import summarise
        from hmt.evaluation import load_runs, write_runs

        text, keys = self.results["score text"], self.results["score keys"]
        results = {
            "format": 1,
            "title": "hmt demo: does it remember?",
            "summary": summarise(text, keys, read, self.settings),
            "runs": ["text", "keys"],
            "backbone": self.results["backbone"],
            "read": read,
            "settings": asdict(self.settings),
            "seconds": round(seconds),
        }
        write_atomically(self.folder / "results.json", (json.dumps(results, indent=1) + "\n").encode())
        page = self.folder / "report.html"
        write_runs(load_runs(self.folder), page, baseline="sensory tokens only")
        print(f"report: {page}")


def main(
    output: Path, text: Sequence[str], systems: Sequence[str], seed: int, workers: int, quick: bool
) -> None:
    """What `hmt demo --train` runs. ValueError for a system that is not in the registry."""
    from hmt.systems import get

    for name in systems:  # refused before work starts
        if why := get(name).model.cannot.get("train"):
            raise ValueError(f"--systems: {name} cannot train: {why}")
    check_own_folder(output, FIRST, "demo")
    settings = Settings(seed=seed, systems=tuple(systems))
    train, held_out = make_corpus(text, seed)
    demo = Demo(output, train, held_out, smoke(settings) if quick else replace(settings), workers)
    words = f"{len(train)} documents to train on, {len(held_out)} held out"
    print(f"hmt demo: {words}; everything is left in {output}/")
    with only_writer(output):
        demo.run()


def _hmt(*words: Any) -> str:
    """What an `hmt` command prints in a new process; ValueError with its words if it failed."""
    # a model this small is faster on one thread than on several that wait for each other
    done = run_module("hmt", *map(str, words), environment={"OMP_NUM_THREADS": "1"})
    if done.returncode:
        raise ValueError(f"`hmt {' '.join(map(str, words))}` failed: {done.stderr.strip()[-500:]}")
    return done.stdout


def _begin(threads: int) -> None:
    """What a worker does first."""
    import datasets
    import torch
    from transformers.utils import logging

    torch.set_num_threads(threads)
    logging.disable_progress_bar()
    datasets.disable_progress_bars()


def _work(post: Callable[[Any], None], function: str, folder: Path, settings: Settings, system: str) -> Any:
    last = 0.0

    def tell(done: int, total: int, text: str) -> None:
        nonlocal last
        now = time.monotonic()
        if done in (0, total) or now - last > 0.2:
            last = now
            post((done, total or None, text))

    tell(0, 0, "starting")
    module, _, name = function.partition(".")
    return getattr(import_module(f"demo.{module}"), name)(folder, settings, system, tell)
