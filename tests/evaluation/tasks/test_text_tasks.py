import bz2
import gzip
import json
import lzma
import zipfile

import pytest

from hmt.evaluation.tasks import make_task
from hmt.evaluation.tasks.base import Setting, check_items
from hmt.evaluation.tasks.rows import load_rows


class Characters:
    """A tokenizer of one token per character."""

    def __call__(self, text, add_special_tokens=False, verbose=False):
        return {"input_ids": [ord(letter) for letter in text]}

    def decode(self, ids, skip_special_tokens=True):
        return "".join(map(chr, ids))


class Parrot:
    """Writes one and the same text; finds a continuation with an `m` unlikely. Notes what it was asked."""

    def __init__(self, text=""):
        self.text, self.asked = text, []

    def read(self, ids):
        return "".join(map(chr, ids))

    def generate(self, memory, prompt, max_new_tokens, stop=None):
        self.asked.append((memory, "".join(map(chr, prompt)), max_new_tokens))
        ids = []
        for letter in self.text[:max_new_tokens]:
            ids.append(ord(letter))
            if stop is not None and stop(ids):
                break
        return ids

    def nats(self, memory, prompt, continuation):
        return [2.0 if chr(token) == "m" else 0.5 for token in continuation]


SETTING = Setting(tokenizer=Characters(), segment_length=8)


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def meeting(number):
    return {
        "topic_list": [{"topic": "SECRET topic"}],
        "general_query_list": [{"query": f"What was it about {number}?", "answer": "SECRET whole"}],
        "specific_query_list": [{"query": f"Who spoke {number}?", "answer": "SECRET part"}],
        "meeting_transcripts": [
            {"speaker": "Ann", "content": f"Hello {number}."},
            {"speaker": "Bob", "content": ""},
            {"speaker": "Ann", "content": "Bye."},
        ],
    }


def paper(number, decision="yes"):
    return {
        "QUESTION": f"Does drug {number} help?",
        "CONTEXTS": [f"We tried drug {number}.", f"It cost {number}."],
        "LABELS": ["METHODS", "RESULTS"],
        "LONG_ANSWER": f"SECRET conclusion {number}",
        "final_decision": decision,
        "reasoning_required_pred": decision,
    }


def hotpot(number):
    return {
        "_id": f"h{number}",
        "question": f"Which river is number {number}?",
        "answer": "SECRET river",
        "context": [
            ["Elbe", ["The Elbe flows.", " It is long."]],
            ["Oder", ["The Oder flows."]],
            ["Ems", ["So."]],
        ],
        "supporting_facts": [["Elbe", 0]],
    }


def musique(number):
    return {
        "id": f"2hop_{number}",
        "question": f"Which hill is number {number}?",
        "answer": "SECRET hill",
        "answer_aliases": ["SECRET mount"],
        "answerable": True,
        "question_decomposition": [{"answer": "SECRET step"}],
        "paragraphs": [
            {"idx": 0, "title": "Brocken", "paragraph_text": "A hill.", "is_supporting": True},
            {"idx": 1, "title": "Etna", "paragraph_text": "A mountain.", "is_supporting": False},
        ],
    }


def story(number):
    return {
        "input": f"Who is hero {number}?",
        "context": "Once upon a time\n\nthere was a hero.",
        "answers": ["SECRET hero", "SECRET knight"],
        "all_classes": None,
        "dataset": "narrativeqa",
    }


# task, rows, questions in order
CASES = {
    "qmsum": (
        [meeting(0), meeting(1)],
        ["What was it about 0?", "Who spoke 0?", "What was it about 1?", "Who spoke 1?"],
    ),
    "pubmedqa": ([{"id": str(n), **paper(n, "no")} for n in range(3)], None),
    "narrativeqa": ([story(0), story(1)], ["Who is hero 0?", "Who is hero 1?"]),
    "longbench": ([story(0), story(1)], ["Who is hero 0?", "Who is hero 1?"]),
    "hotpotqa": ([hotpot(0), hotpot(1)], ["Which river is number 0?", "Which river is number 1?"]),
    "2wikimultihopqa": ([hotpot(0), hotpot(1)], ["Which river is number 0?", "Which river is number 1?"]),
    "musique": ([musique(0), musique(1)], ["Which hill is number 0?", "Which hill is number 1?"]),
}


@pytest.fixture(params=CASES)
def case(request, tmp_path):
    rows, questions = CASES[request.param]
    return request.param, write(tmp_path / "rows.jsonl", rows), questions


def test_question_is_asked_once_at_the_end_and_answers_stay_out(case):
    name, path, questions = case
    items = make_task(name, source=str(path)).items(SETTING)
    check_items(name, items)
    if questions is None:  # drawn order
        questions = [f"Does drug {item.id} help?" for item in items]
    assert len(items) == len(questions)
    for item, question in zip(items, questions, strict=True):
        assert (item.context + item.question).count(question) == 1
        assert item.question.endswith(f"{question}\nAnswer:")
        assert "SECRET" not in item.context + item.question
        assert item.answers and (item.likely or all("SECRET" in answer for answer in item.answers))


def test_records_keep_all_that_scores_need(case):
    name, path, _ = case
    task = make_task(name, source=str(path))
    records = list(task.run(Parrot(" the SECRET thing\n\nand more"), SETTING))
    headline = task.metrics[0].name
    assert records and all(set(record["scores"]) == {m.name for m in task.metrics} for record in records)
    assert all(0 < record["scores"][headline] <= 1 for record in records)
    for record in records:
        saved = json.loads(json.dumps({**record, "scores": {}, "weights": {}}))
        assert task.rescore(saved) == record
    assert [r["id"] for r in task.run(Parrot(), SETTING, done={records[0]["id"]})] == [
        r["id"] for r in records[1:]
    ]


def test_limit_counts_items(case):
    name, path, _ = case
    every, first = (make_task(name, source=str(path), limit=limit).items(SETTING) for limit in (None, 1))
    assert first == every[:1]


def test_bad_sources_name_the_place(case, tmp_path):
    name, path, _ = case
    lines = path.read_text().splitlines()

    def message(content=None, source=None):
        if content is not None:
            source = tmp_path / "bad.jsonl"
            source.write_text(content)
        with pytest.raises(ValueError) as error:
            make_task(name, source=str(source)).items(SETTING)
        return str(error.value)

    assert "no/such/file.jsonl does not exist" in message(source="no/such/file.jsonl")
    assert "bad.jsonl holds no text" in message("")
    assert "bad.jsonl:2 is not JSON" in message(lines[0] + '\n{"a": \n')
    assert (
        f"bad.jsonl:2: {name} needs the fields" in (text := message(lines[0] + '\n{"other": 1}\n'))
        and "other" in text
    )
    assert "bad.jsonl:1: expected an object" in message("3\n")
    folder = tmp_path / "folder"
    write(folder / "elsewhere.jsonl", [{}])
    assert "folder has no file" in (text := message(source=folder)) and "elsewhere" in text


def test_secret_answers_are_an_error(tmp_path):
    for name, row, field in (
        ("hotpotqa", hotpot(0), "answer"),
        ("musique", {**musique(0), "answer_aliases": []}, "answer"),
        ("narrativeqa", story(0), "answers"),
    ):
        path = write(tmp_path / "rows.jsonl", [{**row, field: None}])
        with pytest.raises(
            ValueError, match="rows.jsonl:1: the field 'answers?' has no answer; choose a split"
        ):
            make_task(name, source=str(path)).items(SETTING)


# ---- rows


@pytest.mark.parametrize(
    "suffix, compress", [("", bytes), (".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)]
)
def test_rows_from_compressed_files(tmp_path, suffix, compress):
    rows = [{"a": 1, "b": "x\u2028y"}, {"a": 2, "b": ""}]
    lines = "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    for name, content in (("r.jsonl", lines), ("r.json", json.dumps(rows)), ("s.json", lines)):
        path = tmp_path / f"{name}{suffix}"
        path.write_bytes(compress(content.encode()))
        assert load_rows(str(path), "test", ["a", "b"], "it") == rows
    path.write_bytes(compress(lines.encode())[:-9] if suffix else b"\xff")
    with pytest.raises(ValueError, match="s.json"):
        load_rows(str(path), "test", ["a"], "it")


def test_rows_from_parquet_with_all_columns(tmp_path):
    import pyarrow
    import pyarrow.parquet

    rows = [{"a": number, "b": {"c": ["x"]}} for number in range(100)]
    path = tmp_path / "r.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    found = load_rows(str(path), "test", ["a", "b"], "it")
    assert found == rows and found[70].where == f"{path}:71"
    assert load_rows(str(path), "test", ["a"], "it", limit=3) == rows[:3]
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match="not a whole Parquet file"):
        load_rows(str(path), "test", ["a"], "it")


def test_an_object_of_objects_is_rows_by_id(tmp_path):
    path = tmp_path / "r.json"
    path.write_text(json.dumps({"7": {"a": 1}, "8": {"a": 2}}))
    assert load_rows(str(path), "test", ["a"], "it") == [{"id": "7", "a": 1}, {"id": "8", "a": 2}]
    path.write_text(json.dumps({"a": {"b": 1}}))  # but not one that has the fields itself
    assert load_rows(str(path), "test", ["a"], "it") == [{"a": {"b": 1}}]


def test_folders_give_the_named_file_or_the_split(tmp_path):
    for name in ("val", "test", "special"):
        write(tmp_path / f"{name}.jsonl", [{"a": name}])

    def get(split, *names):
        return load_rows(str(tmp_path), split, ["a"], "it", names)[0]["a"]

    assert (get("test"), get("validation"), get("test", "special")) == ("test", "val", "special")
    with pytest.raises(
        ValueError, match="no file called 'train'; it has special.jsonl, test.jsonl, val.jsonl"
    ):
        get("train")


def test_rows_with_one_of_several_layouts(tmp_path):
    path = write(tmp_path / "r.jsonl", [{"a": 1}, {"b": 1, "c": 2}, {"b": 1}])
    assert len(load_rows(str(path), "test", [("a",), ("b", "c")], "it", limit=2)) == 2
    with pytest.raises(ValueError, match="r.jsonl:3: it needs the fields 'a'; or 'b', 'c'; the row has: b"):
        load_rows(str(path), "test", [("a",), ("b", "c")], "it")


def test_files_of_other_kinds_are_refused(tmp_path):
    (tmp_path / "r.csv").write_text("a,b")
    with pytest.raises(ValueError, match=r"r.csv: rows are read from .jsonl"):
        load_rows(str(tmp_path / "r.csv"), "test", ["a"], "it")


def test_hub_rows(monkeypatch):
    import datasets

    asked = []

    def load_dataset(path, config, split):
        asked.append((path, config, split))
        if path == "org/script":
            raise RuntimeError("Dataset scripts are no longer supported")
        return [{"a": 1}] if path == "org/set" else []

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert load_rows("org/set:small", "test", ["a"], "it")[0].where == "org/set:small, test 1"
    assert load_rows("org/set", "dev", ["a"], "it") == [{"a": 1}]
    assert asked == [("org/set", "small", "test"), ("org/set", None, "dev")]
    with pytest.raises(ValueError, match="org/script.*could not be loaded.*no longer supported"):
        load_rows("org/script", "test", ["a"], "it")
    with pytest.raises(ValueError, match="org/empty has no rows for it in the split 'test'"):
        load_rows("org/empty", "test", ["a"], "it")


def test_web_rows(monkeypatch, tmp_path):
    import datasets

    cached = tmp_path / "0a1b2c"
    cached.write_text(json.dumps(meeting(0)))
    asked = []
    monkeypatch.setattr(
        datasets.DownloadManager, "download_and_extract", lambda self, url: asked.append(url) or str(cached)
    )
    assert len(make_task("qmsum", split="val").items(SETTING)) == 2
    assert asked[0].startswith("https://") and asked[0].endswith("/val.jsonl")


# ---- each task


def test_qmsum_groups_by_meeting_and_answers_end_at_a_blank_line(tmp_path):
    path = write(tmp_path / "test.jsonl", [meeting(0), {**meeting(1), "meeting_id": "Bed1"}])
    task = make_task("qmsum", source=str(tmp_path))
    items = task.items(SETTING)
    assert [(i.id, i.group) for i in items] == [
        ("meeting-0-0", "meeting-0"),
        ("meeting-0-1", "meeting-0"),
        ("Bed1-0", "Bed1"),
        ("Bed1-1", "Bed1"),
    ]
    assert items[0].context == "Ann: Hello 0.\nBob:\nAnn: Bye."
    reader = Parrot("SECRET\nwhole\n\nSECRET whole")
    record = next(iter(task.run(reader, SETTING)))
    assert record["generated"] == "SECRET\nwhole" and record["scores"]["rougeL"] == 1
    assert reader.asked[0][2] == 200
    # rows of queries, as in LongBench: the same questions on the same text are one group
    rows = [{"input": f"Why {n}?", "context": f"Ann: {n // 2}", "answers": ["So."]} for n in range(4)]
    items = make_task("qmsum", source=str(write(path, rows))).items(SETTING)
    assert [i.group for i in items] == ["meeting-0", "meeting-0", "meeting-2", "meeting-2"]


@pytest.fixture
def papers(tmp_path):
    content = {str(n): paper(n, ("yes", "no", "maybe")[n % 3]) for n in range(8)}
    (tmp_path / "ori_pqal.json").write_text(json.dumps(content))
    return tmp_path


def test_pubmedqa_asks_each_question_once_about_its_abstract(papers):
    items = make_task("pubmedqa", source=str(papers), fused=3).items(SETTING)
    assert sorted(item.id for item in items) == [str(n) for n in range(8)]
    for item in items:
        read = item.context.split("\n\n")
        assert len(read) == len(set(read)) == item.facts["contexts"] == 3
        assert read[item.facts["place"]] == f"We tried drug {item.id}.\nIt cost {item.id}."
    groups = [item.group for item in items]
    assert sorted(map(groups.count, dict.fromkeys(groups))) == [2, 3, 3]
    places = [item.facts["place"] for item in items[:6]]
    assert sorted(places) == [0, 0, 1, 1, 2, 2]  # each place once in a full set
    again, other = (make_task("pubmedqa", source=str(papers), fused=3, seed=s).items(SETTING) for s in (0, 1))
    assert again == items != other


def test_pubmedqa_uses_the_test_ids_beside_the_file(papers):
    (papers / "test_ground_truth.json").write_text(json.dumps({"3": "yes", "5": "maybe"}))
    for source in (papers, papers / "ori_pqal.json"):
        assert {i.id for i in make_task("pubmedqa", source=str(source)).items(SETTING)} == {"3", "5"}
    (papers / "mine.json").write_text(json.dumps(["1", 2]))
    task = make_task("pubmedqa", source=str(papers), test_ids=str(papers / "mine.json"))
    assert {i.id for i in task.items(SETTING)} == {"1", "2"}
    (papers / "mine.json").write_text(json.dumps(["1", "99"]))
    with pytest.raises(ValueError, match="lacks 1 of the 2 test ids, such as 99"):
        task.items(SETTING)
    with pytest.raises(ValueError, match="fused is 3, but there are only 2 abstracts"):
        make_task("pubmedqa", source=str(papers), fused=3).items(SETTING)
    with pytest.raises(ValueError, match="fused is 0"):
        make_task("pubmedqa", fused=0)


def test_pubmedqa_scores(papers):
    task = make_task("pubmedqa", source=str(papers))
    reader = Parrot()
    by_id = {record["id"]: record for record in task.run(reader, SETTING)}
    assert reader.asked == []  # nothing is generated
    # a character costs half a nat: " no" is the likeliest choice, and right for 1, 4 and 7
    assert [by_id[str(n)]["scores"]["accuracy"] for n in range(8)] == [0, 1, 0, 0, 1, 0, 0, 1]
    record = by_id["3"]
    assert record["likely"] == " SECRET conclusion 3" and record["weights"] == {"nats": 20}
    assert record["scores"]["nats"] == 0.5
    assert record["choices"] == [" yes", " no", " maybe"]


def test_pubmedqa_on_the_hub(monkeypatch):
    import datasets

    row = {
        "pubid": 21,
        "question": "Does it help?",
        "context": {"contexts": ["We tried.", "It did."], "labels": ["A", "B"], "meshes": []},
        "long_answer": "It helps.",
        "final_decision": "maybe",
    }
    monkeypatch.setattr(
        datasets,
        "load_dataset",
        lambda path, config, split: (
            [row] * ((path, config, split) == ("qiaojin/PubMedQA", "pqa_labeled", "train"))
        ),
    )
    (item,) = make_task("pubmedqa").items(SETTING)
    assert (item.id, item.context, item.answers, item.likely) == (
        "21",
        "We tried.\nIt did.",
        ("maybe",),
        " It helps.",
    )
    row["final_decision"] = "perhaps"
    with pytest.raises(ValueError, match="train 1: 'final_decision' is 'perhaps'"):
        make_task("pubmedqa").items(SETTING)


def test_narrativeqa_on_the_hub_holds_a_story_once(monkeypatch):
    import datasets

    def row(document, number):
        return {
            "document": {
                "id": document,
                "text": "".join(["A tale of ", document]),
                "summary": {"text": "SECRET"},
            },
            "question": {"text": f"Who is {number}?", "tokens": []},
            "answers": [{"text": "A king", "tokens": []}, {"text": "the ruler", "tokens": []}],
        }

    rows = [row("x", 0), row("x", 1), row("y", 2)]
    monkeypatch.setattr(datasets, "load_dataset", lambda path, config, split: rows)
    task = make_task("narrativeqa")
    items = task.items(SETTING)
    assert [(i.group, i.context) for i in items] == [
        ("story-0", "A tale of x"),
        ("story-0", "A tale of x"),
        ("story-1", "A tale of y"),
    ]
    assert items[0].context is items[1].context and items[0].answers == ("A king", "the ruler")
    record = next(iter(task.run(Parrot("ruler\n"), SETTING)))
    assert record["scores"] == {"f1": 1, "em": 1, "rougeL": pytest.approx(2 / 3)}
    rows[0]["document"]["text"] = None
    with pytest.raises(ValueError, match="test 1: the field 'text' holds NoneType"):
        task.items(SETTING)


def test_hotpotqa_layouts_are_the_same_items(tmp_path):
    pairs = hotpot(0)
    titles, sentences = zip(*pairs["context"], strict=True)
    for context in (
        {"title": titles, "sentences": sentences},
        {"title": titles, "content": sentences},
        json.dumps(pairs["context"]),
    ):
        path = write(tmp_path / "rows.jsonl", [pairs, {**pairs, "_id": "other", "context": context}])
        first, second = make_task("hotpotqa", source=str(path)).items(SETTING)
        assert first.context == second.context
    assert first.context == "Elbe\nThe Elbe flows. It is long.\n\nOder\nThe Oder flows.\n\nEms\nSo."
    assert first.facts == {"paragraphs": 3}
    path = write(tmp_path / "rows.jsonl", [{**pairs, "context": ["Elbe"]}])
    with pytest.raises(ValueError, match="rows.jsonl:1: 'context' should hold titles"):
        make_task("hotpotqa", source=str(path)).items(SETTING)


def test_shuffled_paragraphs_are_the_same_ones_for_each_seed(tmp_path):
    rows = [{**hotpot(n), "context": [[f"T{k}", [f"S{k}."]] for k in range(9)]} for n in range(2)]
    path = str(write(tmp_path / "hotpotqa.jsonl", rows))

    def contexts(**settings):
        return [i.context for i in make_task("hotpotqa", source=path, **settings).items(SETTING)]

    given = contexts()
    mixed = contexts(shuffle=True)
    assert given[0] == given[1] and mixed[0] != mixed[1]  # drawn anew for each question
    assert all(sorted(a.split("\n\n")) == sorted(b.split("\n\n")) for a, b in zip(given, mixed, strict=True))
    assert contexts(shuffle=True, limit=1) == mixed[:1] and contexts(shuffle=True, seed=1) != mixed


def test_musique_accepts_aliases_and_leaves_out_the_unanswerable(tmp_path):
    path = write(tmp_path / "musique.jsonl", [musique(0), {**musique(1), "answerable": False}])
    task = make_task("musique", source=str(tmp_path))
    (record,) = task.run(Parrot(" SECRET mount"), SETTING)
    assert record["id"] == "2hop_0" and record["scores"] == {"f1": 1, "em": 1}
    write(path, [{**musique(0), "paragraphs": [{"text": "x"}]}])
    with pytest.raises(ValueError, match="musique.jsonl:1: 'paragraphs' should hold objects"):
        task.items(SETTING)


def test_questions_without_paragraphs_are_left_out_with_a_warning(tmp_path, caplog):
    bare = hotpot(1)
    del bare["context"]
    path = write(tmp_path / "rows.jsonl", [hotpot(0), bare, {**hotpot(2), "context": []}])
    assert [i.id for i in make_task("2wikimultihopqa", source=str(path)).items(SETTING)] == ["h0"]
    assert "left out 2 of 3 rows, without paragraphs" in caplog.text
    write(path, [bare])
    with pytest.raises(ValueError, match="no row has paragraphs in the field 'context'"):
        make_task("2wikimultihopqa", source=str(path)).items(SETTING)


# ---- LongBench

PROMPTS = {
    "narrativeqa": "Story.\n\nStory: {context}\n\nNow, answer the question based on the story briefly."
    "\n\nQuestion: {input}\n\nAnswer:",
    "hotpotqa": "The following are given passages.\n{context}\n\nAnswer the question based on the "
    "given passages. Be short.\n\nQuestion: {input}\nAnswer:",
    "multifieldqa_en": "Read and answer briefly.\n\n{context}\n\nNow, answer the following "
    "question.\n\nQuestion: {input}\nAnswer:",
    "qmsum": "A meeting.\n\nTranscript:\n{context}\n\nNow, answer the query.\n\nQuery: {input}\nAnswer:",
    "gov_report": "A report.\n\nReport:\n{context}\n\nNow, write a one-page summary.\n\nSummary:",
    "multi_news": "Passages.\n\nNews:\n{context}\n\nNow, write a one-page summary.\n\nSummary:\n",
    "trec": "Here are some examples of questions.\n\n{context}\n{input}",
    "triviaqa": "The following are some examples.\n\n{context}\n\n{input}",
    "samsum": "The following are some examples.\n\n{context}\n\n{input}",
    "passage_count": "How many in total?\n\n{context}\n\nPlease enter the final count.\n\nIt is: ",
    "passage_retrieval_en": "Where the abstract is from.\n\n{context}\n\nThe following is an abstract."
    "\n\n{input}\n\nPlease enter the number.\n\nThe answer is: ",
    "lcc": "Please complete the code given below. \n{context}Next line of code:\n",
}
FEW = {
    "trec": ("Question: Why ?\nType: Reason\nQuestion: When ?\nType: Date", "Question: Who ?\nType:"),
    "triviaqa": ("Passage:\nA.\nQuestion:\nB?\nAnswer:\nC", "Passage:\nD.\nQuestion:\nE?\nAnswer:\n"),
    "samsum": ("Dialogue: A\nSummary: B", "Dialogue: C\nSummary: "),
    "lcc": ("def f():\n    x = 1\n", ""),
    "gov_report": ("One.\n\nTwo.", ""),
    "multi_news": ("One.\n\nTwo.\n\n", ""),
    "passage_count": ("Paragraph 1: A\n\nParagraph 2: B", ""),
}


@pytest.mark.parametrize("subset", PROMPTS)
def test_longbench_prompts_are_the_same_items_as_its_rows(subset, tmp_path):
    context, given = FEW.get(subset, ("Passage 1:\nA.\n\nPassage 2:\nB.", "What is 3.\n\nThen?"))
    gold = {"all_classes": ["X", "Y"], "answers": ["X"]} if subset == "trec" else ["SECRET 1"]
    answers, classes = ["X"] if subset == "trec" else ["SECRET 1"], ["X", "Y"] if subset == "trec" else None
    rows = [
        {"input": given, "context": context, "answers": answers, "all_classes": classes, "dataset": subset},
        {
            "id": 1,
            "task": subset,
            "prompt": PROMPTS[subset].format(context=context, input=given),
            "gold": gold,
        },
    ]
    path = write(tmp_path / "rows.jsonl", rows)
    row, prompt = make_task("longbench", source=str(path), subset=subset).items(SETTING)
    assert (prompt.context, prompt.question, prompt.answers) == (row.context, row.question, row.answers)
    assert row.group == prompt.group == f"{subset}-0"
    assert row.context.strip() == context.strip() and row.facts == {"subset": subset}
    assert given.strip() in row.question and "SECRET" not in row.context + row.question


def test_longbench_prompts_of_another_form_end_with_the_question(tmp_path):
    path = write(tmp_path / "rows.jsonl", [{"prompt": "A text.\n\nMore.\n\nWhy?\n", "gold": "So"}])
    (item,) = make_task("longbench", source=str(path)).items(SETTING)
    assert (item.context, item.question, item.answers) == ("A text.\n\nMore.", "\n\nWhy?", ("So",))


# subset -> what is written, accepted answer, score, longest answer in tokens
SCORED = {
    "narrativeqa": (" black cat\nSECRET", "the cat", 2 / 3, 128),
    "hotpotqa": ("cat", "cat", 1, 32),
    "gov_report": ("red green\n\nblue", "red green car", 2 / 3, 512),
    "samsum": ("red\ngreen", "red green", 2 / 3, 128),
    "trec": ("X or Y", "X", 0.5, 64),
    "passage_count": ("12 or 13", "12", 0.5, 32),
    "passage_retrieval_en": (" 4", "Paragraph 4", 1, 32),
    "lcc": ("# so\n    x = 2\n", "    x = 2", 1, 64),
}


@pytest.mark.parametrize("subset", SCORED)
def test_longbench_scores_and_lengths_by_subset(subset, tmp_path):
    written, answer, score, length = SCORED[subset]
    row = {"input": "Why?", "context": "Text.", "answers": [answer], "all_classes": ["X", "Y"]}
    write(tmp_path / f"{subset}.jsonl", [row])
    for chosen in (subset, "all"):
        task, reader = make_task("longbench", source=str(tmp_path), subset=chosen), Parrot(written)
        (record,) = task.run(reader, SETTING)
        assert record["scores"] == {"score": pytest.approx(score)}
        assert reader.asked[0][2] == length
        assert task.rescore(json.loads(json.dumps({**record, "scores": None}))) == record
    reader = Parrot(written)
    list(make_task("longbench", source=str(tmp_path), subset=subset, max_new_tokens=3).run(reader, SETTING))
    assert reader.asked[0][2] == 3


def test_longbench_sources(tmp_path, monkeypatch):
    rows = {
        name: [{"input": f"Q{n}", "context": name, "answers": ["1"]} for n in range(3)]
        for name in ("musique", "lcc")
    }
    for name, content in rows.items():
        write(tmp_path / "data" / f"{name}.jsonl", content)
    write(tmp_path / "data" / "notes.jsonl", [{}])
    archive = tmp_path / "data.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in (tmp_path / "data").iterdir():
            file.write(path, f"data/{path.name}")
        file.write(tmp_path / "data" / "lcc.jsonl", "data/lcc_e.jsonl")

    def ids(**settings):
        return [i.id for i in make_task("longbench", **settings).items(SETTING)]

    some = ["musique-0", "musique-1", "lcc-0", "lcc-1"]
    assert ids(source=str(tmp_path / "data"), subset="all", limit=2) == some
    assert ids(source=str(archive), subset="all", limit=2) == some
    assert ids(source=str(archive), subset="lcc_e", limit=1) == ["lcc_e-0"]

    import huggingface_hub

    fetched = []
    monkeypatch.setattr(
        huggingface_hub,
        "hf_hub_download",
        lambda repo, name, repo_type: fetched.append((repo, name)) or str(archive),
    )
    assert ids(subset="musique", limit=1) == ["musique-0"] and fetched == [("zai-org/LongBench", "data.zip")]

    import datasets

    asked = []
    monkeypatch.setattr(
        datasets,
        "load_dataset",
        lambda path, config, split: asked.append((path, config, split)) or rows["lcc"],
    )
    assert len(ids(source="org/copy", subset="lcc")) == 3 and asked == [("org/copy", "lcc", "test")]

    for settings, message in (
        (
            {"source": str(tmp_path / "data"), "subset": "qasper"},
            "no file of LongBench's qasper; its files: lcc, musique",
        ),
        ({"source": str(archive), "subset": "qasper"}, "no file of LongBench's qasper"),
        ({"source": "org/copy", "subset": "all"}, "subset=all takes a folder or a data.zip"),
        ({"subset": "dureader"}, "LongBench has no subset 'dureader' here"),
    ):
        with pytest.raises(ValueError, match=message):
            ids(**settings)
    archive.write_bytes(b"no zip")
    with pytest.raises(ValueError, match="not a whole zip file"):
        ids(source=str(archive))


def test_longbench_refuses_rows_of_another_subset_and_without_classes(tmp_path):
    path = write(tmp_path / "rows.jsonl", [story(0)])
    with pytest.raises(ValueError, match="is a row of narrativeqa, not of qasper; set subset=narrativeqa"):
        make_task("longbench", source=str(path), subset="qasper").items(SETTING)
    write(path, [{"input": "Q", "context": "C", "answers": ["X"]}])
    with pytest.raises(ValueError, match="rows.jsonl:1: trec needs the names of all classes"):
        make_task("longbench", source=str(path), subset="trec").items(SETTING)
