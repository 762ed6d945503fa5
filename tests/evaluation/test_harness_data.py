"""Tasks of the harness on local files, by its own prompts and scores."""

import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("lm_eval")

import lm_eval
import yaml
from lm_eval.tasks import TaskManager

from hmt.evaluation.harness import HarnessLM, main, write_local_tasks
from hmt.evaluation.readers import baseline

ROWS = [
    {"input": "john went to the hall. mary went to the park.", "question": "where is john?", "target": "e"},
    {"input": "mary went to the hall. john went to the park.", "question": "where is mary?", "target": "zz"},
]


@pytest.fixture(scope="module", autouse=True)
def datasets_cache(tmp_path_factory):
    import datasets

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield


@pytest.fixture(scope="module")
def known():
    """Some of the harness's tasks: all of them take a minute to index."""
    tasks = Path(lm_eval.__file__).parent / "tasks"
    folders = [str(tasks / name) for name in ("babilong", "longbench", "pubmedqa", "scrolls")]
    return TaskManager(include_path=folders, include_defaults=False)


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def local(folder):
    """Only what stands in `folder`, which takes a moment; the harness's own tasks take many."""
    return TaskManager(include_path=str(folder), include_defaults=False)


def test_a_task_of_the_harness_reads_a_local_file(make_model, character_tokenizer, known, tmp_path):
    tokenizer = character_tokenizer
    data = write(tmp_path / "facts.jsonl", [{**row, "asked": row.pop("question")} for row in map(dict, ROWS)])
    for _ in range(2):  # its own file may be replaced
        names = write_local_tasks({"babilong_qa1": data}, tmp_path, {"question": "asked"}, known)
    assert names == ["babilong_qa1"]
    reader = baseline("window", make_model("plain").backbone, 4000, chunk=8)
    lm = HarnessLM(reader, tokenizer)
    found = lm_eval.simple_evaluate(lm, tasks=names, task_manager=local(tmp_path), bootstrap_iters=0)
    right = 0
    for row, sample in zip(ROWS, found["samples"]["babilong_qa1"], strict=True):
        asked = sample["arguments"][0][0]
        assert asked.endswith(f"{row['input']}\n{row['question']}")  # the harness's prompt, with its examples
        assert "Charlie is balcony" in asked
        new = reader.generate(
            reader.read(tokenizer(asked)["input_ids"]), [], 16, eos_token_id=tokenizer.eos_token_id
        )
        written = tokenizer.decode(new, skip_special_tokens=True)
        assert sample["resps"] == [[written]]
        right += row["target"] in written.lower()
    assert found["results"]["babilong_qa1"]["acc,none"] == right / 2


def test_files_of_a_folder_are_found_by_name(known, tmp_path):
    folder, out = tmp_path / "data", tmp_path / "yaml"
    out.mkdir()
    for name in ("qmsum.jsonl.xz", "2wikimqa.parquet", "notes.txt", "test.json"):
        write(folder / name, [])
    names = write_local_tasks({"longbench_*sum": folder, "longbench_2wiki*": folder}, out, manager=known)
    written = {name: yaml_of(out / f"{name}.yaml")["dataset_kwargs"]["files"] for name in names}
    # by the config on the hub, and where there is none of it by the split
    assert {name: Path(files["test"]).name for name, files in written.items()} == {
        "longbench_2wikimqa": "2wikimqa.parquet",
        "longbench_2wikimqa_e": "test.json",
        "longbench_qmsum": "qmsum.jsonl.xz",
        "longbench_samsum": "test.json",
        "longbench_vcsum": "test.json",
    }


def yaml_of(path):
    loader = type("Loader", (yaml.SafeLoader,), {})
    loader.add_constructor("!function", lambda loader, node: node.value)
    return yaml.load(path.read_text(), loader)


def test_what_cannot_be_local_is_refused(known, tmp_path):
    data = write(tmp_path / "rows.jsonl", [{"input": "a", "query": "b", "target": "c"}])
    for task, place, message in (
        ("nothing_of_this_name", data, "is no task of the harness"),
        ("longbench", data, "is a group; name its tasks"),
        ("scrolls_qmsum", data, "is a program that fetches its own data"),
        ("pubmedqa", tmp_path / "missing", "missing is not there"),
        ("pubmedqa", tmp_path, "has no .jsonl, .json or .parquet file for pubmedqa"),
    ):
        with pytest.raises(ValueError, match=message):
            write_local_tasks({task: place}, tmp_path, manager=known)
    names = write_local_tasks({"babilong_qa2": data}, tmp_path, manager=known)
    with pytest.raises(
        ValueError, match="lack question.*have input, query, target.*--rename question=COLUMN"
    ):
        local(tmp_path).load(names)


def test_the_command_line_takes_data(known, tmp_path, monkeypatch):
    seen = []

    def evaluate():
        folder = sys.argv[sys.argv.index("--include_path") + 1]
        seen.append((sys.argv[1:], local(folder).all_subtasks))

    monkeypatch.setattr("lm_eval.__main__.cli_evaluate", evaluate)
    monkeypatch.setattr("lm_eval.tasks.TaskManager", lambda: known)
    monkeypatch.setattr(sys, "argv", ["hmt-lm-eval"])
    data = write(tmp_path / "rows.jsonl", ROWS)
    own = ["--model", "hmt", "--model_args", "pretrained=DIR,reader=bm25,budget=64KiB"]
    main([*own, "--data", f"babilong_qa1={data}", "--rename", "question=query"])
    main([*own, "--data", f"babilong_qa1={data}", "--tasks", "wikitext"])
    (first, tasks), (second, _) = seen
    assert tasks == ["babilong_qa1"]
    assert first[:4] == second[:4] == own
    assert first[4] == "--include_path" and first[6:] == ["--tasks", "babilong_qa1"]
    assert second[4:6] == ["--tasks", "wikitext"] and second[6] == "--include_path" and len(second) == 8
    with pytest.raises(ValueError, match="--data and --include_path"):
        main([*own, "--data", f"babilong_qa1={data}", "--include_path", "."])
    with pytest.raises(ValueError, match="--data takes NAME=VALUE"):
        main([*own, "--data", "babilong_qa1"])
