"""Text tasks: numbers equal a plain pass over history and target, records can be scored again, probes see
fillers."""

import json
import math

import numpy as np
import pytest
import torch

from hmt.evaluation.readers.memory import MemoryReader
from hmt.evaluation.tasks import TASKS, make_task
from hmt.evaluation.tasks.base import Setting
from hmt.evaluation.tasks.distant import distant_tokens, words_of

TEXT = (
    "In 1849 the old sailor Barnaby came to Dover. He said: Never mind the rain! "
    "The harbour was full of boats, and nobody knew their names. "
)


@pytest.fixture(scope="module")
def tokenizer(make_tokenizer):
    return make_tokenizer(TEXT * 4 + "$ 0123456789")


@pytest.fixture
def books(tmp_path):
    path = tmp_path / "books.jsonl"
    rows = [{"text": TEXT[n:] * (n + 2), "name": f"book {n}"} for n in range(3)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def setting(tokenizer):
    return Setting(tokenizer, 8)


@pytest.mark.parametrize("system", ["hmt", "previous", "rmt", "window", "plain"])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_numbers_are_those_of_one_pass_over_history_and_target(
    make_model, tokenizer, setting, books, system, batch_size
):
    model, skip = make_model(system, vocab_size=len(tokenizer)).train(), 5
    task = make_task(
        "text", source=books, histories=(0, 2, 5), targets_per_document=2, skip=skip, batch_size=batch_size
    )
    records = list(task.run(MemoryReader(model), setting))
    assert model.training, "the mode of the model is left alone"
    model.eval()
    documents = {row["name"]: row["input_ids"] for row in task.documents(setting)}
    assert len({r["id"] for r in records}) == len(records) == 3 * 3 * 2
    for record in records:
        end = (record["segment"] + 1) * 8
        ids = torch.tensor([documents[record["group"]][end - (record["facts"]["history"] + 1) * 8 : end]])
        labels = torch.full_like(ids, -100)
        labels[:, -(8 - skip) :] = ids[:, -(8 - skip) :]
        with torch.no_grad():
            want = model(ids, labels=labels).loss.item()
        assert record["scores"]["perplexity"] == pytest.approx(want, rel=1e-4)
        assert record["weights"]["perplexity"] == 8 - skip


def test_only_what_was_read_before_changes(make_model, tokenizer, setting, books):
    task = make_task("text", source=books, histories=(0, 2, 5), skip=4)
    found = {}
    for system in ("plain", "window"):
        records = list(task.run(MemoryReader(make_model(system, vocab_size=len(tokenizer))), setting))
        for history in (0, 2, 5):
            own = [r for r in records if r["facts"] == {"history": history}]
            found[system, history] = np.array([r["nats"][4:] for r in own])
            places = [(r["group"], r["segment"]) for r in own]
            assert places == [(r["group"], r["segment"]) for r in records if r["facts"] == {"history": 0}]
    np.testing.assert_allclose(found["window", 0], found["plain", 0], rtol=1e-4)
    np.testing.assert_allclose(found["plain", 5], found["plain", 0], rtol=1e-4)  # no window, no history
    np.testing.assert_allclose(found["window", 5], found["window", 2], rtol=1e-4)  # 11 tokens end in two
    assert np.abs(found["window", 2] - found["window", 0]).max() > 1e-2


def test_records_are_scored_again_from_what_they_hold(make_model, tokenizer, setting, books):
    task = make_task("books", source=books, histories=(0, 2, 5), targets_per_document=3, skip=5)
    records = list(task.run(MemoryReader(make_model("hmt", vocab_size=len(tokenizer))), setting))
    again = [task.rescore(json.loads(json.dumps(r | {"scores": {}, "weights": {}}))) for r in records]
    assert again == records
    extra = task.extras(records)["by_position"]
    assert list(extra) == ["0", "2", "5"] and all(len(values) == 8 for values in extra.values())
    assert extra["2"][:2] == [None, None] and extra["2"][7] == pytest.approx(
        np.mean([r["nats"][7] for r in records if r["facts"]["history"] == 2])
    )


def test_bits_per_byte(make_model, tokenizer, setting, books):
    task = make_task("books", source=books, histories=(1,), skip=4)
    for record in task.run(MemoryReader(make_model("rmt", vocab_size=len(tokenizer))), setting):
        bits = sum(record["nats"][4:]) / math.log(2)
        assert record["scores"]["bits_per_byte"] * record["bytes"] == pytest.approx(bits)
        assert record["weights"]["bits_per_byte"] == record["bytes"] > 0


def test_finished_records_are_not_made_again(make_model, tokenizer, setting, books):
    reader = MemoryReader(make_model("rmt", vocab_size=len(tokenizer)))
    task, seen = make_task("books", source=books, histories=(0, 1), batch_size=3), []
    records = list(task.run(reader, setting))
    done = {record["id"] for record in records[:5]}
    rest = list(task.run(reader, setting, done, lambda *counts: seen.append(counts)))
    assert [r["id"] for r in rest] == [r["id"] for r in records[5:]]
    assert seen[-1] == (len(records), len(records)) and seen[0][0] == 6


def test_all_readers_are_scored_on_the_same_tokens(make_model, tokenizer, setting, books):
    task = make_task("books", source=books, histories=(1, 3))
    found = []
    for system in ("rmt", "plain"):
        found.append(list(task.run(MemoryReader(make_model(system, vocab_size=len(tokenizer))), setting)))
    keys = ("id", "group", "distant", "bytes", "skip")
    assert [[r[k] for k in keys] for r in found[0]] == [[r[k] for k in keys] for r in found[1]]


def test_refusals(make_model, tokenizer, setting, books):
    reader = MemoryReader(make_model("hmt", vocab_size=len(tokenizer)))

    def error(**settings):
        with pytest.raises(ValueError) as raised:
            list(make_task("books", **{"source": books, **settings}).run(reader, setting))
        return str(raised.value)

    assert "sees the first 4 tokens" in error(skip=3)
    assert "skip 1 to 7" in error(skip=8)
    assert "books.source" in error(source=None)
    assert "0 of 3 documents qualify" in error(histories=(9999,))
    assert "not both" in error(interleave=8, dilate=8)
    for histories in ((1, 1), (), (-1,)):
        assert "different numbers" in error(histories=histories)
    assert "max_targets" in error(max_targets=0)
    assert "one token" in error(dilate=8, filler="sailor Barnaby", histories=(1,))
    with pytest.raises(ValueError, match="has no setting 'history'"):
        make_task("books", history=3)
    with pytest.raises(ValueError, match="there is no task 'book'; choose from text, books, "):
        make_task("book")


def test_every_registered_task_can_be_imported_and_has_metrics():
    for name in TASKS:
        kind = type(make_task(name))
        assert kind.name == name and kind.metrics
        assert len({metric.name for metric in kind.metrics}) == len(kind.metrics)


def test_wikitext_is_cut_into_articles(setting, tmp_path):
    path = tmp_path / "wiki.test.tokens"
    path.write_text(
        " \n = Dover = \n \n A harbour . \n = = Boats = = \n Many . \n = Rain = \n \n Wet .\n",
        encoding="utf-8",
    )
    documents = make_task("wikitext", source=str(path)).load()
    assert documents["name"] == ["Dover", "Rain"] and " = = Boats = = " in documents["text"][0]
    assert len(make_task("wikitext", source=str(path), limit=1).load()) == 1
    path.write_text("no title", encoding="utf-8")
    with pytest.raises(ValueError, match="no article begins"):
        make_task("wikitext", source=str(path)).load()


def test_dilated_text_scores_no_filler(make_model, tokenizer, setting, books):
    task = make_task("books", source=books, histories=(2,), dilate=8, max_targets=99, targets_per_document=99)
    reader = MemoryReader(make_model("rmt", vocab_size=len(tokenizer)))
    records = list(task.run(reader, setting))
    filler = tokenizer("$")["input_ids"][0]
    for record in records:
        document = next(d for d in task.documents(setting) if d["name"] == record["group"])
        here = document["input_ids"][record["segment"] * 8 :][:8]
        assert here.count(filler) == 0
    assert {record["segment"] % 2 for record in records} == {0}


def test_interleaved_documents_take_turns(setting, books):
    task = make_task("books", source=books, interleave=8, limit=2)
    plain = make_task("books", source=books, limit=2).documents(setting)["input_ids"]
    (mixed,) = task.documents(setting)["input_ids"]
    assert mixed[:16] == [*plain[0][:8], *plain[1][:8]]


def test_recall_distance(make_model, tokenizer, setting, books):
    model = make_model("hmt", vocab_size=len(tokenizer), memory_size=6)
    task = make_task("recall_distance", source=books, segments=12, distances=4)
    records = list(task.run(MemoryReader(model), setting))
    assert [r["facts"]["distance"] for r in records[:4]] == [1, 2, 3, 4]
    first = task.documents(setting)["input_ids"][0][: 12 * 8]
    with torch.no_grad():
        out = model(torch.tensor([first]), output_recall=True)
    for record in records[:4]:
        want = []
        for now in range(4, 12):
            held = model.retrieval.held(torch.tensor([now]))[0].tolist()
            slot = held.index(now - record["facts"]["distance"])
            want.append(out.recall[0, now, slot].item())
        assert record["weight"] == pytest.approx(want, abs=1e-4)
        assert record["scores"]["recall"] == pytest.approx(np.mean(want), abs=1e-4)
        assert record["scores"]["recall_filler"] is None
        assert task.rescore(json.loads(json.dumps(record))) == record
    even = [1 / min(n, 6) for n in range(4, 12)]
    assert records[0]["even"] == pytest.approx(even, abs=1e-5)
    assert not list(task.run(MemoryReader(make_model("rmt", vocab_size=len(tokenizer))), setting))
    assert not list(task.run(MemoryReader(model), setting, {r["id"] for r in records}))


def test_recall_distance_tells_text_from_filler(make_model, tokenizer, setting, books):
    model = make_model("hmt", vocab_size=len(tokenizer), memory_size=30)
    task = make_task("recall_distance", source=books, segments=12, distances=4, dilate=8)
    for record in task.run(MemoryReader(model), setting):
        assert set(record["filler"]) == {record["facts"]["distance"] % 2 == 1}


@pytest.mark.parametrize("settings", [{"distances": 0}, {"distances": 128}])
def test_bad_distances(settings):
    with pytest.raises(ValueError, match="distances from 1"):
        make_task("recall_distance", **settings)


def spelled(tokenizer, text):
    return tokenizer(text)["input_ids"]


def test_words(tokenizer):
    ids = spelled(tokenizer, "It was Barnaby's 1849 boat. Dover said: “Boats”")
    words = list(words_of(tokenizer, ids))
    assert [w.text for w in words] == ["It", "was", "Barnaby", "1849", "boat", "Dover", "said", "Boats"]
    assert [w.text for w in words if w.names] == ["Barnaby", "1849"]
    for word in words:
        assert word.text in tokenizer.decode(ids[word.first : word.last + 1])


def test_distant_tokens(tokenizer):
    def found(far, near, target):
        history = [*spelled(tokenizer, far), *spelled(tokenizer, near)]
        ids = spelled(tokenizer, target)
        places = distant_tokens(tokenizer, history, ids, len(spelled(tokenizer, near)))
        words = [w for w in words_of(tokenizer, ids) if {*range(w.first, w.last + 1)} <= {*places}]
        assert sorted(places) == [p for w in words for p in range(w.first, w.last + 1)]
        return [w.text for w in words]

    assert found("old Barnaby in 1849", " the rain", " then Barnaby came to Dover in 1849") == [
        "Barnaby",
        "1849",
    ]
    assert found("old Barnaby in 1849", " the Barnaby", " then Barnaby came") == []
    assert found("old Barnaby", " the rain", " then Barnaby and Barnaby again") == ["Barnaby"]
    assert found("old sailor", " the rain", " the sailor again") == []
    assert found("the Dover boats", " the rain.", " Dover boats") == [], "a capital that opens a sentence"
    assert distant_tokens(tokenizer, [], spelled(tokenizer, "old Barnaby"), 8) == []
