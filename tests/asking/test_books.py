"""Books that are read once: what is recalled stands where it is said to stand, and nothing is read twice."""

import errno
import logging

import pytest
import torch
from cli.models import TEXT, save_model

import hmt
from hmt import Books, Memory, RMTForCausalLM
from hmt.asking import reading
from hmt.model.asking import answer_header, question_ids
from hmt.util.files import output_file


def cached(workplace):
    return sorted(path.name for path in (workplace / "cache" / "memories").iterdir())


def test_passages_are_what_stands_at_their_place(model, tokenizer):
    books = Books.open(["one.txt", "two.txt"], model, tokenizer)
    found = books.recall("a lighthouse?", top=300)
    length, read = model.segment_length, {one.name: one.text for one in books.documents}
    assert {one.file for one in found} == {"one.txt", "two.txt"}
    assert sum(one.weight for one in found) == pytest.approx(1.0, abs=1e-4)
    assert [one.weight for one in found] == sorted((one.weight for one in found), reverse=True)
    starts = {"one.txt": 0, "two.txt": None}
    for one in sorted(found, key=lambda one: one.segment):
        text = read[one.file]
        assert one.text == text[slice(*one.characters)]
        lead = len(one.text) - len(one.text.lstrip())
        assert one.line == text[: one.characters[0] + lead].count("\n") + 1
        ids = tokenizer(text, add_special_tokens=one.file == "one.txt").input_ids
        span = ids[slice(*one.tokens)]
        held = model.remembered(books.memory, 0, [one.segment])[0]
        assert span == held and 0 < len(span) <= length
        if starts[one.file] is None:
            starts[one.file] = one.segment
        assert one.tokens[0] == (one.segment - starts[one.file]) * length
    for name, text in read.items():  # nothing is missing, nothing twice
        parts = sorted((one for one in found if one.file == name), key=lambda one: one.segment)
        assert "".join(one.text for one in parts) == text


def test_an_answer_is_that_of_the_model(model, tokenizer):
    books = Books.open("one.txt", model, tokenizer)
    answer = books.ask("Who saw the whale?", top=3, max_new_tokens=7)
    assert answer.passages == books.recall("Who saw the whale?", top=3) and len(answer.passages) == 3
    memory = model.flush(model.read(tokenizer(TEXT).input_ids))
    memory = model.flush(model.read(question_ids(tokenizer, "Who saw the whale?"), memory=memory))
    header = torch.tensor([answer_header(tokenizer)])
    ids = model.generate(header, past_key_values=memory, max_new_tokens=7, do_sample=False)
    assert answer.answer == tokenizer.decode(ids[0, header.shape[1] :], skip_special_tokens=True).strip()
    assert books.ask("Who saw the whale?", top=3, max_new_tokens=7) == answer  # nothing was remembered of it


def test_what_was_read_is_not_read_again(model, tokenizer, counted, workplace, same):
    first = Books.open("one.txt", model, tokenizer)
    tokens = sum(counted)
    assert tokens == len(tokenizer(TEXT).input_ids) and len(cached(workplace)) == 2
    counted.clear()
    (workplace / "copy.txt").write_text(TEXT, encoding="utf-8")
    again = Books.open("copy.txt", model, tokenizer)
    assert not counted
    same(first.memory, again.memory)
    assert again.recall("whale")[0].file == "copy.txt"
    both = Books.open(["one.txt", "two.txt"], model, tokenizer)
    assert sum(counted) == len(
        tokenizer((workplace / "two.txt").read_text(), add_special_tokens=False).input_ids
    )
    counted.clear()
    same(both.memory, Books.open(["copy.txt", "two.txt"], model, tokenizer).memory)
    assert not counted
    Books.open(["two.txt", "one.txt"], model, tokenizer)  # another order is another memory
    assert counted
    counted.clear()
    (workplace / "one.txt").write_text(TEXT.replace("whale", "squid", 1), encoding="utf-8")
    Books.open("one.txt", model, tokenizer)
    assert counted


@pytest.mark.parametrize("after", [1, 3])
def test_an_interrupted_reading_goes_on(model, tokenizer, monkeypatch, counted, workplace, same, after):
    whole = Books.open(["one.txt", "two.txt"], model, tokenizer)
    steps = list(counted)
    for path in (workplace / "cache" / "memories").iterdir():
        path.unlink()
    counted.clear()
    real = type(model).read

    def stopping(*arguments, **options):
        if len(counted) == after:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(type(model), "read", stopping)
        with pytest.raises(KeyboardInterrupt, match=r"tokens are kept; the same again goes on"):
            Books.open(["one.txt", "two.txt"], model, tokenizer)
    again = Books.open(["one.txt", "two.txt"], model, tokenizer)
    assert counted == steps
    same(whole.memory, again.memory)
    assert again.recall("the whale", top=99)[3:] != [] and again._places == whole._places


def test_an_error_while_reading_keeps_what_was_read(model, tokenizer, monkeypatch, counted, caplog):
    real = type(model).read

    def failing(*arguments, **options):
        if len(counted) == 2:
            raise MemoryError
        return real(*arguments, **options)

    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING, "hmt"):
        patch.setattr(type(model), "read", failing)
        with pytest.raises(MemoryError):
            Books.open("one.txt", model, tokenizer)
    assert "768 tokens are kept" in caplog.text
    counted.clear()
    Books.open("one.txt", model, tokenizer)
    assert sum(counted) == len(tokenizer(TEXT).input_ids) - 768


def test_records_and_files_of_a_folder_are_named(model, tokenizer, workplace):
    folder = workplace / "shelf"
    folder.mkdir()
    (folder / "a.txt").write_text("The boat.\n", encoding="utf-8")
    (folder / "notes.jsonl").write_text('{"text": "The whale.", "title": "Whales"}\n{"text": "No name."}\n')
    found = Books.open("shelf", model, tokenizer).recall("whale", top=9)
    assert {one.file: one.text for one in found} == {
        "shelf/a.txt": "The boat.\n", "Whales": "The whale.", "notes.jsonl:2": "No name.",
    }  # fmt: skip


def test_the_cache_is_a_cache(model, tokenizer, counted, workplace, same):
    whole = Books.open("one.txt", model, tokenizer)
    memory, places = [workplace / "cache" / "memories" / name for name in cached(workplace)]
    before = memory.read_bytes(), places.read_bytes()
    damages = {
        memory: [b"", before[0][:-9]],
        places: [b"", b"{}", before[1].replace(b'"tokens": ', b'"tokens": 1')],
    }
    for path, contents in damages.items():
        for content in contents:
            path.write_bytes(content)
            counted.clear()
            same(Books.open("one.txt", model, tokenizer).memory, whole.memory)
            assert counted and (memory.read_bytes(), places.read_bytes()) == before


def test_a_full_disk_keeps_nobody_from_asking(model, tokenizer, monkeypatch, caplog, workplace):
    def full(self, path, notes=None):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Memory, "save", full)
        with caplog.at_level(logging.WARNING, "hmt"):
            assert Books.open("one.txt", model, tokenizer).recall("whale")
    assert "No space left on device" in caplog.text and not cached(workplace)


def test_two_do_not_read_the_same_at_once(model, tokenizer):
    name = reading.names(model, tokenizer, [[reading.Document("one.txt", TEXT)]])[0]
    with output_file(reading.Kept(model, name).path, "memory file"):
        with pytest.raises(ValueError, match="another run is writing"):
            Books.open("one.txt", model, tokenizer)


def test_a_memory_is_asked_where_no_text_is_known(model, tokenizer, folder):
    books = Books.open("one.txt", model, tokenizer)
    memory = model.read(tokenizer(TEXT).input_ids)
    memory.save("one.hmt")
    want = books.recall("the whale", top=5)
    for source in (memory, "one.hmt"):
        found = hmt.recall(source, "the whale", model=model, tokenizer=tokenizer, top=5)
        for one, other in zip(found, want, strict=True):
            assert (one.segment, one.tokens) == (other.segment, other.tokens) and one.file is one.line is None
            assert one.text.strip("\ufffd ") in TEXT  # it may begin inside a character
    assert hmt.ask("one.hmt", "the whale?", model=folder, max_new_tokens=3).passages


def test_a_memory_recalls_by_itself(model, tokenizer, folder, tmp_path):
    memory = model.read(tokenizer(TEXT).input_ids)
    text = TEXT.split(".")[2][:40]
    expected = Books.open(memory, model, tokenizer).recall(text, top=3)
    memory.save(tmp_path / "kept.hmt")
    again = Memory.load(tmp_path / "kept.hmt", model=model)
    found = memory.recall(text, tokenizer, top=3), memory.recall(text, top=3), again.recall(text, top=3)
    for passages in found:
        assert [(p.segment, p.text) for p in passages] == [(p.segment, p.text) for p in expected]
        assert [p.weight for p in passages] == pytest.approx([p.weight for p in expected], abs=1e-5)
    with pytest.raises(ValueError, match=r"loaded without its model: Memory.load\(path, model=model\)"):
        Memory.load(tmp_path / "kept.hmt").recall(text)
    with pytest.raises(ValueError, match=r"select\(\[row\]\)"):
        memory.select([0, 0]).recall(text)
    with pytest.raises(ValueError, match="empty"):
        memory.recall(" ")


def test_a_small_memory_forgets_and_says_so(model, tokenizer, caplog):
    small = model.resized(memory_size=6)
    with caplog.at_level(logging.WARNING, "hmt"):
        books = Books.open("one.txt", small, tokenizer)
    number = int(books.memory.segments_read[0])
    assert f"holds 6 segments: the first {number - 5} of {number} are no longer recalled" in caplog.text
    found = books.recall("the whale", top=9)
    assert sorted(one.segment for one in found) == list(range(number - 5, number))
    alone = Books(small, tokenizer, books.memory).recall("the whale", top=9)
    assert [one.tokens for one in alone] == [one.tokens for one in found]


def test_what_cannot_be_asked(model, tokenizer, workplace, tmp_path):
    books = Books.open("one.txt", model, tokenizer)
    with pytest.raises(ValueError, match="the question is empty"):
        books.ask(" ")
    with pytest.raises(ValueError, match="48 are the most"):
        books.recall("whale " * 60)
    with pytest.raises(ValueError, match="is not text: its character 3"):
        books.recall("ab\udcff")
    with pytest.raises(ValueError, match="at least 1, got 0"):
        books.recall("whale", top=0)
    (workplace / "blank.txt").write_text(" \n")
    with pytest.raises(ValueError, match="holds no text"):
        Books.open("blank.txt", model, tokenizer)
    with pytest.raises(ValueError, match="nothing to ask"):
        Books.open([], model, tokenizer)
    books.memory.save("one.hmt")
    with pytest.raises(ValueError, match="is a memory, which is asked alone"):
        Books.open(["one.txt", "one.hmt"], model, tokenizer)
    with pytest.raises(ValueError, match="holds 2 streams"):
        Books(model, tokenizer, Memory.cat([books.memory, books.memory]))
    rmt = save_model(tmp_path / "rmt", RMTForCausalLM, tokenizer)
    for source in ("one.txt", rmt.read([1, 2, 3])):
        with pytest.raises(ValueError, match="keeps no passages and cannot be asked"):
            Books.open(source, rmt, tokenizer)
    with pytest.raises(ValueError, match="belongs to a rmt model"):
        Books.open(rmt.read([1, 2, 3]), model, tokenizer)
    with pytest.raises(ValueError, match="nope is not there"):
        Books.open("one.txt", "./nope")
