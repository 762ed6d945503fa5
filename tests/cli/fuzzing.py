"""Every option of every command with nasty values, in this process, on models of a few thousand weights.

`benchmarks/fuzz_cli.py` runs it for long.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import strategies as st
from typer.testing import CliRunner

from hmt import HMTForCausalLM
from hmt.cli import app
from hmt.cli.demo import add_examples
from hmt.util.signals import Stopped, stop_signals

from .models import TEXT, make_tokenizer, save_model

# A command that works, on what `prepare` leaves: words, and what each of its arguments is.
BASE = {
    "read": "model book.txt --memory new.hmt --overwrite --limit 40 --device cpu",
    "generate": "model --prompt The --max-new-tokens 2 --device cpu",
    "ask": "book.txt whale --model asked --max-new-tokens 2 --device cpu",
    "recall": "book.txt whale --model asked --device cpu",
    "memory info": "book.hmt",
    "eval": "model --data docs.jsonl --output results --overwrite --baselines sensory --limit 1 "
    "--history 0,1 --set text.max_targets=2 --device cpu",
    "report": "saved --output page.html",
    "bench": "--shape tiny --segment-length 16 --lengths 32 --repeats 1 --parts decode --decode-after 1 "
    "--systems rmt --device cpu --out bench",
    "train": "backbone docs.jsonl --output run --segment-length 16 --stage1-steps 1 --stage2-steps 1 "
    "--bptt-depth 2",
    "demo": "--train --text docs.jsonl --output demo --smoke",
    "env": "",
}
NUMBERS = [
    "0",
    "-1",
    "1",
    "2",
    "3.5",
    "nan",
    "inf",
    "-inf",
    "1e400",
    "1k",
    "10" * 6,
    "1" + "0" * 12,
    "9" * 19,
    "9" * 40,
]
WORDS = [
    "",
    " ",
    "none",
    "true",
    "nope",
    "é",
    "東",
    "\udcff",
    "\0",
    "x" * 300,
    "[red]x[/]",
    "{x}",
    "%s",
    "-",
    "--",
    "~",
]
LISTS = [
    ",",
    "1,2",
    "2,1",
    "0,1,",
    "1,x",
    "64KiB",
    "-1B",
    "1,1",
    "hmt,rmt",
    "hmt,hmt",
    "a=b",
    "=",
    "a.b=c",
    "text.x=1",
]
PATHS = [
    ".",
    "..",
    "book.txt",
    "book.hmt",
    "docs.jsonl",
    "model",
    "backbone",
    "saved",
    "book.txt/x",
    "nope/deep/x",
]
PATHS += [
    "org/name",
    "org/name:x",
    "damaged.json",
    "damaged",
    "/proc/nope/x",
    "NAME=model",
    "empty.txt",
    "latin.txt",
]
KINDS = [
    "cuda",
    "cuda:99",
    "meta",
    "mps",
    "cpu:1",
    "base64",
    "rot13",
    "utf-16",
    "idna",
    "undefined",
    "ignore",
]
KINDS += [
    "xmlcharrefreplace",
    "surrogateescape",
    "float64",
    "bfloat16",
    "flash_attention_2",
    "eager",
    "hmt",
    "armt",
]
KINDS += [
    "passkey",
    "needles",
    "key_value",
    "books,text",
    "cosine",
    "steps",
    "lora",
    "frozen",
    "given",
    "ngram",
]
SETS = [
    "segment_length=1000000000000",
    "memory_size=-1",
    "memory_scale=nan",
    "memory_scale=embedding",
    "recall_dim=0",
]
SETS += [
    "summary_length=99",
    "text.targets_per_document=0",
    "text.histories=0,99",
    "text.source=nope",
    "text.skip=-1",
]

# a model that can be asked
ASKED = {"segment_length": 48, "sensory_length": 48, "recall_query": "previous", "passages": 1}

SECONDS = 1.0  # that a case may take; then it is stopped as with Ctrl-C
_MEMORY = 3 * 2**30  # bytes that a case may ask for


@dataclass(frozen=True)
class Outcome:
    """What became of a case: "done", "refused" (in one line, or as a usage error), "stopped", or "fault"."""

    kind: str
    told: str = ""


def commands() -> dict[str, Any]:
    """Name -> command, as click has it."""
    found: dict[str, Any] = {}
    for name in BASE:
        command: Any = typer.main.get_command(app)
        for word in name.split():
            command = command.commands[word]
        found[name] = command
    return found


def prepare(folder: Path) -> None:
    """What the cases work on: each gets a copy of the folder as its working directory.

    Every command is run once as it is: an import that is stopped halfway would leave half a module behind.
    """
    tokenizer = make_tokenizer()
    model = save_model(folder / "model", HMTForCausalLM, tokenizer, memory_size=5)
    model.backbone.save_pretrained(folder / "backbone")
    tokenizer.save_pretrained(folder / "backbone")
    save_model(folder / "asked", HMTForCausalLM, tokenizer, **ASKED)
    (folder / "book.txt").write_text(TEXT[:600], encoding="utf-8")
    (folder / "latin.txt").write_bytes("Ça va?".encode("latin-1"))
    (folder / "empty.txt").write_bytes(b"")
    docs = [json.dumps({"text": TEXT[start:1500]}) for start in (0, 100, 200)]
    (folder / "docs.jsonl").write_text("\n".join(docs), encoding="utf-8")
    (folder / "damaged.json").write_text('{"tasks": {"text": 3}}')
    (folder / "damaged").mkdir()
    (folder / "damaged" / "config.json").write_text("{")
    model.read(tokenizer(TEXT[:99]).input_ids).save(folder / "book.hmt")
    before = Path.cwd()
    os.chdir(folder)
    try:
        assert run(["eval", *BASE["eval"].split(), "--output", "saved"], None, seconds=120).kind == "done"
        for name, words in BASE.items():
            outcome = run([*name.split(), *words.split()], folder if name == "train" else None, seconds=120)
            assert outcome.kind == "done", (name, outcome)
    finally:
        os.chdir(before)


def cases() -> st.SearchStrategy[list[str]]:
    """Command lines: a command that works, with one to three of its parameters replaced."""
    found = commands()
    anything = st.sampled_from([*NUMBERS, *WORDS, *LISTS, *PATHS, *KINDS, *SETS]) | st.text(max_size=8)
    numbers = st.sampled_from(NUMBERS) | st.integers().map(str) | st.floats().map(str)
    paths = st.sampled_from(PATHS)
    own = {"<int>": numbers, "<float>": numbers, "=VALUE": st.sampled_from(SETS)}
    own |= dict.fromkeys(("<path>", "OUT", "FILE", "DIR", "FOLDER", "HTML", "PATH", "MODEL", "DATA"), paths)

    def values(name: str, param: Any) -> st.SearchStrategy[str]:
        """Three of four are of the kind that the parameter asks for."""
        shown = param.get_help_record(typer.Context(found[name]))[0]
        fitting = next((some for kind, some in own.items() if kind in shown), None)
        kind = st.sampled_from([*KINDS, *LISTS]) if fitting is None else fitting
        return st.integers(0, 3).flatmap(lambda number: kind if number else anything)

    def words(name: str) -> st.SearchStrategy[list[str]]:
        # a compiler that is stopped in the middle leaves a process that crashes later
        params = [one for one in found[name].params if one.name not in ("help", "compile")]
        if not params:
            return st.just(name.split())
        change = st.sampled_from(params).flatmap(lambda param: st.tuples(st.just(param), values(name, param)))
        changes = st.lists(change, min_size=1, max_size=3)
        return changes.map(lambda some: _changed(name, some))

    return st.sampled_from(list(BASE)).flatmap(words)


def _changed(name: str, changes: Sequence[tuple[Any, str]]) -> list[str]:
    argv = BASE[name].split()
    for param, value in changes:
        if param.param_type_name == "argument":
            place = 1 if len(argv) > 1 and param.name in ("file", "data") and argv[1][0] != "-" else 0
            argv[place] = value
        elif param.is_flag:
            argv.append((param.secondary_opts or param.opts)[-1])
        else:
            argv += (
                [f"{param.opts[-1]}={value}"] if param.opts[-1].startswith("--") else [param.opts[-1], value]
            )
    return [*name.split(), *argv]


def run(argv: Sequence[str], folder: Path | None, seconds: float = SECONDS) -> Outcome:
    """One case in a copy of `folder` (None: here), stopped after some seconds."""
    result: Any = None
    if folder is not None:
        before = Path.cwd()
        with tempfile.TemporaryDirectory() as name:
            os.chdir(shutil.copytree(folder, Path(name) / "work"))
            try:
                return run(argv, None, seconds)
            finally:
                os.chdir(before)
    with _stopped_after(seconds), _little_memory(), _no_demo():
        result = CliRunner().invoke(app, list(argv))
    if result is None:  # stopped at the very end
        return Outcome("stopped")
    last = (result.stderr.strip().splitlines() or [""])[-1]
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return Outcome("fault", f"{type(result.exception).__name__}: {result.exception}"[:300])
    if "Traceback" in result.stderr or result.exit_code not in (0, 2, 130):
        return Outcome("fault", f"exit code {result.exit_code}: {last}")
    if result.exit_code == 2 and not last.startswith(("error: ", "Error: ")):
        return Outcome("fault", f"no reason: {last}")
    return Outcome({0: "done", 2: "refused", 130: "stopped"}[result.exit_code], last)


@contextmanager
def _stopped_after(seconds: float) -> Iterator[None]:
    """Ctrl-C after some seconds."""

    def interrupt(number: int, frame: object) -> None:
        raise Stopped

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        with stop_signals():
            yield
    except KeyboardInterrupt:  # between the end of the command and here
        pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def _little_memory() -> Iterator[None]:
    """An absurd size is an error, and does not take the machine's memory."""
    status = Path("/proc/self/statm")
    if not status.exists():
        yield
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    now = int(status.read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + _MEMORY, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@contextmanager
def _no_demo() -> Iterator[None]:
    """`hmt demo`, of both kinds, up to where its work begins."""
    add_examples()
    from ask_python.run import AskDemo
    from demo.run import Demo

    with pytest.MonkeyPatch.context() as patch:
        for kind in (Demo, AskDemo):
            patch.setattr(kind, "run", lambda *arguments: None)
        yield
