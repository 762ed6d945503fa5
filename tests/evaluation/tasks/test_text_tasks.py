import json
import lzma

import pytest

from hmt.evaluation.tasks import make_task
from hmt.evaluation.tasks.base import Setting, check_items


class Characters:
    """A tokenizer of one token per character."""

    def __call__(self, text, add_special_tokens=False, verbose=False):
        return {"input_ids": [ord(letter) for letter in text]}


class Doubter:
    """Finds a continuation with an `m` unlikely; is never asked to write."""

    def read(self, ids):
        return ids

    def nats(self, memory, prompt, continuation):
        return [2.0 if chr(token) == "m" else 0.5 for token in continuation]


SETTING = Setting(tokenizer=Characters(), segment_length=8)


def paper(number, decision="yes"):
    return {
        "QUESTION": f"Does drug {number} help?",
        "CONTEXTS": [f"We tried drug {number}.", f"It cost {number}."],
        "LONG_ANSWER": f"SECRET conclusion {number}",
        "final_decision": decision,
    }


@pytest.fixture
def papers(tmp_path):
    """8 papers; "no" is right for 1, 4 and 7."""
    content = {str(n): paper(n, ("yes", "no", "maybe")[n % 3]) for n in range(8)}
    (tmp_path / "ori_pqal.json").write_text(json.dumps(content))
    return tmp_path


def pubmedqa(source, **settings):
    return make_task("pubmedqa", source=str(source), **{"fused": 3, **settings})


def test_each_question_is_asked_once_about_its_abstract(papers):
    items = pubmedqa(papers).items(SETTING)
    check_items("pubmedqa", items)
    assert sorted(item.id for item in items) == [str(n) for n in range(8)]
    for item in items:
        read = item.context.split("\n\n")
        assert len(read) == len(set(read)) == item.facts["contexts"] == 3
        assert read[item.facts["place"]] == f"We tried drug {item.id}.\nIt cost {item.id}."
        assert item.question.endswith(f"Question: Does drug {item.id} help?\nAnswer:")
        assert "SECRET" not in item.context + item.question
    groups = [item.group for item in items]
    assert sorted(map(groups.count, dict.fromkeys(groups))) == [2, 3, 3]
    places = [item.facts["place"] for item in items[:6]]
    assert sorted(places) == [0, 0, 1, 1, 2, 2]  # each place once in a full set
    again, other = (pubmedqa(papers, seed=seed).items(SETTING) for seed in (0, 1))
    assert again == items != other and pubmedqa(papers, limit=2).items(SETTING) == items[:2]


def test_the_test_ids_beside_the_file_are_used(papers):
    (papers / "test_ground_truth.json").write_text(json.dumps({"3": "yes", "5": "maybe"}))
    packed = papers / "packed"
    packed.mkdir()
    (packed / "ori_pqal.json.xz").write_bytes(lzma.compress((papers / "ori_pqal.json").read_bytes()))
    (packed / "mine.json").write_text(json.dumps(["1", 2]))
    for source, ids, wanted in (
        (papers, None, {"3", "5"}),
        (papers / "ori_pqal.json", None, {"3", "5"}),
        (packed, str(packed / "mine.json"), {"1", "2"}),
    ):
        task = pubmedqa(source, fused=2, test_ids=ids)
        assert {item.id for item in task.items(SETTING)} == wanted
    with pytest.raises(ValueError, match="fused is 3, but there are only 2 abstracts"):
        pubmedqa(papers).items(SETTING)


def test_likelihoods_are_scored_and_nothing_is_written(papers):
    task = pubmedqa(papers)
    records = list(task.run(Doubter(), SETTING))
    by_id = {record["id"]: record for record in records}
    # a character costs half a nat: " no" is the likeliest choice
    assert [by_id[str(n)]["scores"]["accuracy"] for n in range(8)] == [0, 1, 0, 0, 1, 0, 0, 1]
    record = by_id["3"]
    assert record["likely"] == " SECRET conclusion 3" and record["weights"] == {"nats": 20}
    assert record["scores"]["nats"] == 0.5 and record["choices"] == [" yes", " no", " maybe"]
    for record in records:
        saved = json.loads(json.dumps({**record, "scores": {}, "weights": {}}))
        assert task.rescore(saved) == record
    done = {records[0]["id"]}
    assert [r["id"] for r in task.run(Doubter(), SETTING, done=done)] == [r["id"] for r in records[1:]]


def test_the_hub_has_the_same_in_other_fields(papers, monkeypatch):
    import datasets

    rows = [
        {
            "pubid": int(key),
            "question": row["QUESTION"],
            "context": {"contexts": row["CONTEXTS"], "labels": [], "meshes": []},
            "long_answer": row["LONG_ANSWER"],
            "final_decision": row["final_decision"],
        }
        for key, row in json.loads((papers / "ori_pqal.json").read_text()).items()
    ]
    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *place, split: asked.append((*place, split)) or rows)
    found = make_task("pubmedqa", fused=3).items(SETTING)
    assert found == pubmedqa(papers).items(SETTING)
    assert asked == [("qiaojin/PubMedQA", "pqa_labeled", "train")]


def test_bad_sources_name_the_place(papers):
    def broken(**fields):
        path = papers / f"bad_{'_'.join(fields)}.json"
        path.write_text(json.dumps({"7": {**paper(7), **fields}}))
        return pubmedqa(path)

    (papers / "mine.json").write_text(json.dumps(["1", "99"]))
    (papers / "list.json").write_text("[1]")
    (papers / "none.json").write_text("[]")
    (papers / "cut.json").write_text("{")
    for task, message in (
        (broken(final_decision="perhaps"), "json, 7: 'final_decision' is 'perhaps'"),
        (
            broken(QUESTION=None),
            "json, 7: 'question', 'long_answer' and 'final_decision' should hold text",
        ),
        (broken(CONTEXTS="one text"), "json, 7: there should be a list of the parts"),
        (pubmedqa(papers, test_ids=str(papers / "mine.json")), "lacks 1 of the 2 test ids, such as 99"),
        (pubmedqa(papers, test_ids=str(papers / "none.json")), "a list of ids, with at least one"),
        (pubmedqa(papers / "list.json"), "expected an object of questions"),
        (pubmedqa(papers / "cut.json"), "cut.json is not JSON"),
        (pubmedqa(papers / "missing"), "missing does not exist"),
    ):
        with pytest.raises(ValueError, match=message):
            task.items(SETTING)
    with pytest.raises(ValueError, match="fused is 1.*task pubmedqa of lm-evaluation-harness"):
        pubmedqa(papers, fused=1)
