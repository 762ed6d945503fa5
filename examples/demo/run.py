"""The demo from beginning to end: what runs when, what is kept, and the page about it."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from queue import Empty
from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from demo.corpus import Document, make_corpus
from demo.settings import Settings, smoke
from hmt.cli.eval_tasks import show
from hmt.util.files import check_own_folder, only_writer, write_atomically
from hmt.util.progress import Bars

FIRST = "hmt-demo.json"  # what a demo writes first: its folder is known by it
_queue: Any = None  # of a worker process


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
    console: Console = field(default_factory=Console)
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
        context = multiprocessing.get_context("spawn")
        self.events = context.Queue()
        threads = max(1, (os.cpu_count() or 1) // self.workers)
        pool = ProcessPoolExecutor(self.workers, context, _start_worker, (self.events, threads))
        running: dict[str, Future] = {}
        try:
            while plan or running:
                for name, (function, system, after) in list(plan.items()):
                    if all(job in self.results for job in after):
                        work = partial(pool.submit, _work, name, function, self.folder, self.settings, system)
                        running[name] = self.submit(name, work)
                        del plan[name]
                self._show(bars, 0.1)
                for name in [name for name, future in running.items() if future.done()]:
                    self.keep(name, running.pop(name).result())
        except BaseException:
            processes = list((getattr(pool, "_processes", None) or {}).values())
            pool.shutdown(wait=False, cancel_futures=True)
            for process in processes:
                process.kill()  # training answers SIGTERM with a checkpoint, and its worker then waits
            raise
        pool.shutdown()

    def submit(self, job: str, work: Callable[[], Future]) -> Future:
        """`work()`, unless its result was kept by a run with the same settings and text."""
        path = self._file(job)
        stored = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if stored.get("key") != self.key:
            return work()
        future: Future = Future()
        future.set_result(stored["result"])
        return future

    def keep(self, job: str, result: Any) -> None:
        self.results[job] = result
        write_atomically(self._file(job), json.dumps({"key": self.key, "result": result}).encode())

    def _file(self, job: str) -> Path:
        return self.folder / "work" / f"{job.replace(', ', '-').replace(' ', '-')}.json"

    def _show(self, bars: Bars, wait: float) -> None:
        """Move the bars by what the workers have posted, waiting a moment for the first of it."""
        try:
            while True:
                bars(*self.events.get(timeout=wait))
                wait = 0.001
        except Empty:
            pass

    # -- what came of it ----------------------------------------------------------------------------------

    def _read_and_continue(self) -> dict[str, Any]:
        """The longest held-out document into a memory file, by the commands a user types."""
        from hmt import load_model
        from hmt.evaluation.memory_use import kv_cache_bytes
        from hmt.memory.memory import Memory

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
        self.console.print(
            f"read {read['name']}: {read['tokens']:,} tokens "
            f"into a memory file of {read['file_bytes']:,} bytes"
        )
        self.console.print(Panel(Text(written.strip("\n")), title="continued in a new process"))
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
        self.console.print(f"report: [bold]{page}[/bold]")


def main(
    output: Path, text: Sequence[str], systems: Sequence[str], seed: int, workers: int, quick: bool
) -> None:
    """What `hmt demo` runs. ValueError for a system that is not in the registry."""
    from hmt.systems import get

    for name in systems:  # refused before work starts
        if why := get(name).model.cannot.get("train"):
            raise ValueError(f"--systems: {name} cannot train: {why}")
    check_own_folder(output, FIRST, "demo")
    settings = Settings(seed=seed, systems=tuple(systems))
    train, held_out = make_corpus(text, seed)
    demo = Demo(output, train, held_out, smoke(settings) if quick else replace(settings), workers)
    words = f"{len(train)} documents to train on, {len(held_out)} held out"
    demo.console.print(f"[bold]hmt demo[/bold]  {words}; everything is left in {output}/")
    with only_writer(output):
        demo.run()


def _hmt(*words: Any) -> str:
    """What an `hmt` command prints in a new process; ValueError with its words if it failed."""
    command = [sys.executable, "-m", "hmt", *map(str, words)]
    # a model this small is faster on one thread than on several that wait for each other
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, encoding="utf-8", errors="replace", env=environment
    )
    if done.returncode:
        raise ValueError(f"`hmt {' '.join(map(str, words))}` failed: {done.stderr.strip()[-500:]}")
    return done.stdout


def _start_worker(queue: Any, threads: int) -> None:
    global _queue
    _queue = queue
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the main process, which ends the workers
    import datasets
    import torch
    from transformers.utils import logging

    torch.set_num_threads(threads)
    logging.disable_progress_bar()
    datasets.disable_progress_bars()


def _work(job: str, function: str, folder: Path, settings: Settings, system: str) -> Any:
    from importlib import import_module

    last = 0.0

    def post(done: int, total: int, text: str) -> None:
        nonlocal last
        now = time.monotonic()
        if done in (0, total) or now - last > 0.2:
            last = now
            _queue.put((job, done, total or None, text))

    post(0, 0, "starting")
    module, _, name = function.partition(".")
    return getattr(import_module(f"demo.{module}"), name)(folder, settings, system, post)
