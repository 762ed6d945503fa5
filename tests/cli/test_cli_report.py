"""`hmt eval --tasks` and `hmt report`: from options to a page."""

import json
import math
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from typer.testing import CliRunner

from hmt import RMTForCausalLM
from hmt.cli import app
from hmt.cli.eval_tasks import common_length, named_models
from hmt.cli.task_options import chosen_tasks, parse_value
from hmt.evaluation import tasks
from hmt.evaluation.tasks.base import AnswerTask, Item, Metric, Task

from .models import TEXT, make_tokenizer, save_model


@dataclass(frozen=True, kw_only=True)
class Words(AnswerTask):
    """How likely the next words are, after so many words."""

    name = "qmsum"
    metrics = (Metric("nats", "lower", "perplexity"),)
    axes = ("words",)

    lengths: tuple[int, ...] = (5, 20)
    share: float = 0.5
    mode: Literal["plain", "loud"] = "plain"
    strict: bool = False
    place: tuple[int, str] | None = None

    max_new_tokens: int = 2

    def items(self, setting):
        words = TEXT.split()
        return [
            Item(
                id=f"{length}/{start}",
                context=" ".join(words[start : start + length]),
                question=" and",
                likely=" " + words[start + length],
                facts={"words": length},
                group=str(start),
            )
            for length in self.lengths
            for start in range(self.limit or 3)
        ]

    def score(self, record):
        return {"nats": math.fsum(record["likely_nats"]) / record["likely_tokens"]}


@dataclass(frozen=True, kw_only=True)
class Segments(Task):
    name = "musique"
    metrics = (Metric("x"),)

    def run(self, reader, setting, done=(), progress=None, shared=None):
        raise NotImplementedError

    def rescore(self, record):
        raise NotImplementedError


@pytest.fixture(autouse=True)
def own_tasks(monkeypatch):
    """Two tasks of this file under the names of others, so that no data set is needed."""
    classes = {"qmsum": Words, "musique": Segments}
    real = tasks.task_class
    monkeypatch.setattr(tasks, "task_class", lambda name: classes.get(name) or real(name))


def test_from_models_to_a_page(hmt, folders, workplace):
    arguments = ("eval", folders / "hmt", f"R={folders / 'rmt'}", "--tasks", "qmsum", "-o", "out")
    arguments += ("--set", "qmsum.lengths=3,9", "--limit", 2, "--budgets", "1KiB,4 KiB", "--seed", 7)
    arguments += ("--baselines", "sensory,window,full", "--context", 24)
    shown = hmt(*arguments).stdout
    results = json.loads((workplace / "out" / "results.json").read_text())
    names = ["hmt 1 KiB", "hmt 4 KiB", "R", "sensory", "window 1 KiB", "window 4 KiB", "full"]
    assert list(results["readers"]) == names and all(name in shown for name in names)
    task = results["tasks"]["qmsum"]
    assert (
        task["settings"]["lengths"] == [3, 9]
        and task["settings"]["seed"] == 7
        and task["settings"]["limit"] == 2
    )
    assert results["readers"]["full"]["limit"] == 24 and results["readers"]["full"]["bytes_carried"] is None
    assert 0 < results["readers"]["hmt 1 KiB"]["bytes_carried"] <= 1024
    for name in names:
        assert task["readers"][name]["n"] == 4
        mean = task["readers"][name]["metrics"]["nats"]["mean"]
        assert f"{math.exp(mean):.3f}" in shown or math.exp(mean) >= 1000
    saved = (workplace / "out" / "predictions" / "qmsum" / "full.jsonl").read_bytes()
    again = hmt(*arguments).stdout
    assert (
        again == shown and (workplace / "out" / "predictions" / "qmsum" / "full.jsonl").read_bytes() == saved
    )

    page = hmt(
        "report", "out", "-o", "page/index.html", "--pngs", "png", "--baseline", "full", "--title", "Mine"
    )
    text = (workplace / "page" / "index.html").read_text(encoding="utf-8")
    assert all(f"<td>{name}</td>" in text for name in names) and "<h1>Mine</h1>" in text
    assert "Difference to full" in text and "http" not in text and str(workplace) not in text
    assert "qmsum-nats.png" in page.stdout
    assert (workplace / "png" / "qmsum-nats.png").read_bytes().startswith(b"\x89PNG")


def test_several_results_on_one_page(hmt, folders, workplace):
    (workplace / "docs.jsonl").write_text(json.dumps({"text": TEXT}))
    few = ("--set", "text.max_targets=3", "--baselines", "none")
    hmt("eval", folders / "rmt", "--data", "docs.jsonl", "--history", "0,1", *few, "-o", "old")
    hmt("eval", folders / "rmt", "--tasks", "qmsum", "--baselines", "none", "--limit", 1, "-o", "new")
    hmt("report", "old", "new/results.json")
    text = (workplace / "report.html").read_text(encoding="utf-8")
    assert "<h2>text</h2>" in text and "<h2>qmsum</h2>" in text and "<h1>Memory evaluation</h1>" in text


@pytest.fixture
def evaluated(hmt, folders, workplace):
    """Runs `hmt eval` of the task `text` into `out`: 6 answers of each of two readers."""
    docs = "".join(json.dumps({"text": TEXT[start:]}) + "\n" for start in (0, 300))
    (workplace / "docs.jsonl").write_text(docs, encoding="utf-8")
    few = ("--set", "text.max_targets=3", "--baselines", "sensory")

    def run(**options):
        command = ("eval", folders / "hmt", "--data", "docs.jsonl", "--history", "0,1", *few, "-o", "out")
        return hmt(*command, **options)

    run()
    return run


def answers(workplace):
    """The file of the model's answers."""
    return next((workplace / "out" / "predictions" / "text").glob("hmt*.jsonl"))


def tables_of(workplace) -> str:
    page = (workplace / "report.html").read_text(encoding="utf-8")
    return page[page.index("<h2>text") : page.index("<h2>Setup")]


def test_answers_of_an_interrupted_run_are_shown(hmt, evaluated, workplace):
    hmt("report", "out")
    whole = tables_of(workplace)
    results, file = workplace / "out" / "results.json", answers(workplace)
    told = results.read_text()
    results.unlink()  # as if it had been killed at its end
    hmt("report", "out")
    assert tables_of(workplace) == whole
    assert "Made of the 12 answers" in (workplace / "report.html").read_text(encoding="utf-8")
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:4]) + lines[4][:-9])  # or in the middle
    hmt("report", "out")
    page = (workplace / "report.html").read_text(encoding="utf-8")
    assert "Made of the 9 answers" in page and "3 to 6 answers per reader" in page
    hmt("report", ".")  # a folder of results, such as that of an interrupted demo
    assert "Made of the 9 answers" in (workplace / "report.html").read_text(encoding="utf-8")
    results.write_text(told.replace('"n": 6', '"n": 2'))  # results of a run before
    hmt("report", "out")
    assert "Made of the 9 answers" in (workplace / "report.html").read_text(encoding="utf-8")


def test_an_interrupted_run_says_where_its_answers_are(evaluated, monkeypatch):
    from hmt.evaluation import run

    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "_answers", stop)
    error = evaluated(code=130).stderr
    assert error == (
        "interrupted: the answers so far are in out; the same command goes on from there, and hmt report out "
        "shows them\n"
    )


@pytest.mark.parametrize(
    "line, said",
    [
        (b"[1]", "TypeError"),
        (b"{}", "KeyError('id')"),
        (b'{"id": 3}', "should be a valid string"),
        (b'{"id": "x", "scores": {"perplexity": "low"}, "facts": {}}', "should be a valid number"),
        (b'{"id": "x", "scores": {}, "facts": {"history": [1]}}', "line 3 of"),
        (b'{"id": "x", "scores": {}, "facts": {"history": 1}}', "cannot be scored (KeyError("),
        (b"[" * 100_000, "line 3 of"),
        (b"\xff", "line 3 of"),
    ],
)
def test_damaged_answers(error_of, evaluated, workplace, line, said):
    file = answers(workplace)
    lines = file.read_bytes().splitlines()
    file.write_bytes(b"\n".join([*lines[:2], line, *lines[3:], b""]))
    (workplace / "out" / "results.json").unlink()
    message = error_of("report", "out")
    assert said in message and file.name in message and "--overwrite" in message
    with pytest.raises(AssertionError, match="exit code 2"):
        evaluated()


def test_damaged_results(evaluated, workplace):
    file = workplace / "out" / "results.json"
    whole = json.loads(file.read_text(encoding="utf-8"))

    def places(value, place=()):
        yield place
        if isinstance(value, (dict, list)) and not {"settings", "setup", "extras"} & set(place):
            for key in value if isinstance(value, dict) else range(min(1, len(value))):
                yield from places(value[key], (*place, key))

    every = [place for place in places(whole) if place]
    refused = 0
    for place in every[:: len(every) // 20]:
        results = json.loads(json.dumps(whole))
        inner = results
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = {"x": ["damaged"]}
        file.write_text(json.dumps(results), encoding="utf-8")
        found = CliRunner().invoke(app, ["report", "out"])
        assert found.exit_code in (0, 2), (place, found.exception)  # not everything is looked at
        assert found.exit_code == 0 or found.stderr.startswith("error: out/results.json ")
        refused += found.exit_code == 2
    assert refused > 15


def test_other_lengths_and_tokenizers(error_of, folders, workplace):
    save_model("short", RMTForCausalLM, make_tokenizer())
    config = json.loads((workplace / "short" / "config.json").read_text())
    (workplace / "short" / "config.json").write_text(json.dumps({**config, "segment_length": 8}))
    arguments = ("eval", folders / "rmt", "short", "-o", "out", "--baselines", "none", "--tasks")
    message = error_of(*arguments, "qmsum")
    assert "segment lengths differ (rmt: 16, short: 8)" in message and "--segment-length" in message
    message = error_of(*arguments, "musique", "--segment-length", 16)
    assert "musique scores segments of 16 tokens" in message
    message = error_of("eval", folders / "rmt", folders / "other", "-o", "out", "--tasks", "qmsum")
    assert "different tokenizers" in message
    assert common_length({"a": 16, "b": 8}, 32, [Words()]) == 32


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "name --tasks, or --data"),
        (("--tasks", ""), "names no task"),
        (("--tasks", "qmsum,bokks"), "there is no task 'bokks'"),
        (("--tasks", "qmsum,qmsum"), "names qmsum twice"),
        (("--tasks", "qmsum", "--set", "qmsum.size=3"), "qmsum has no setting 'size'; it has "),
        (("--tasks", "qmsum", "--set", "qmsum=3"), "TASK.SETTING=VALUE"),
        (("--tasks", "qmsum", "--set", "books.seed=3"), "books is not among --tasks qmsum"),
        (("--tasks", "qmsum", "--set", "qmsum.lengths=3,x"), "'x': Input should be a valid integer"),
        (("--tasks", "qmsum", "--set", "qmsum.limit=0"), "qmsum.limit is 0"),
        (("--tasks", "qmsum", "--budgets", "16 bananas"), "'16 bananas' is no number of bytes"),
        (("--tasks", "qmsum", "--baselines", "windows"), "there is no baseline 'windows'"),
        (
            ("--tasks", "qmsum,books", "--data", "x.txt", "--set", "books.skip=x"),
            "'x': Input should be a valid integer",
        ),
        (("--tasks", "qmsum", "--history", "0,1", "--set", "books.seed=1"), "not among --tasks text,qmsum"),
        (("--data", "x.txt", "--set", "books.seed=1"), "books is not among --tasks text"),
        (("--data", "x.txt", "--history=0,one"), "'one': Input should be a valid integer"),
        (("--data", "x.txt", "--history=2,2"), "such as 0,1,4"),
        (("--data", "x.txt", "--history=-1"), "such as 0,1,4"),
        (("--tasks", "qmsum"), "no-model is not there"),
    ],
)
def test_mistakes_show_before_a_model_is_loaded(error_of, arguments, said):
    assert said in error_of("eval", "no-model", "-o", "out", *arguments)


def test_results_that_cannot_be_shown(error_of, workplace):
    (workplace / "a.json").write_text("[1")
    (workplace / "b.json").write_text('{"timings": 1}')
    (workplace / "c.json").write_text('{"format": 99, "tasks": {}}')
    assert "nope is not there" in error_of("report", "nope", "-o", "p.html")
    assert "is no JSON file" in error_of("report", "a.json", "-o", "p.html")
    assert "no results of hmt eval" in error_of("report", "b.json", "-o", "p.html")
    assert "format 99" in error_of("report", "c.json", "-o", "p.html")
    assert "is named twice" in error_of("report", "c.json", "c.json", "-o", "p.html")


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("3", int, 3),
        ("0.5", float, 0.5),
        ("a=b, c", str, "a=b, c"),
        ("None", str | None, None),
        ("none.txt", str | None, "none.txt"),
        ("yes", bool, True),
        ("0", bool, False),
        ("4, 16", tuple[int, ...], (4, 16)),
        ("", tuple[str, ...], ()),
        ("1,x", tuple[int, str] | None, (1, "x")),
        ("loud", Literal["plain", "loud"], "loud"),
    ],
)
def test_values_of_settings(text: str, kind: Any, value: Any):
    assert parse_value("--set", text, kind) == value


@pytest.mark.parametrize(
    ("text", "kind"),
    [("x", int), ("1.5", int), ("maybe", bool), ("1,2", tuple[int]), ("None", int), ("l", Literal["loud"])],
)
def test_values_that_are_none(text, kind):
    with pytest.raises(ValueError, match=r"^--set a\.b: "):
        parse_value("--set a.b", text, kind)


def test_settings_of_one_task_beat_those_of_all():
    (task,) = chosen_tasks(
        ["qmsum"], ["qmsum.limit=None", "qmsum.mode=loud"], {"limit": 4, "seed": 2, "other": 1}
    )
    assert (task.limit, task.seed, task.mode) == (None, 2, "loud")


def test_names_of_rows(workplace):
    (workplace / "a=b").mkdir()
    assert named_models(["runs/0/hmt", "runs/1/hmt", "H=runs/2/hmt", "a=b"]) == {
        "hmt": "runs/0/hmt", "1/hmt": "runs/1/hmt", "H": "runs/2/hmt", "a=b": "a=b",
    }  # fmt: skip
    for twice in (["x", "x"], ["H=x", "H=y"], ["H=x", "I=x"]):
        with pytest.raises(ValueError, match="named twice"):
            named_models(twice)
