"""`hmt read` and `hmt memory`: a text read in pieces is the text, and mistakes are one line."""

import gzip
import json
from functools import partial

import pytest
import torch
from transformers import AutoTokenizer

from hmt import Memory, load_model
from hmt.cli import read
from hmt.cli.progress import TokenProgress
from hmt.data import document_pieces, token_pieces
from hmt.util.environment import peak_memory

from .models import TEXT, make_tokenizer


def same(a: Memory, b: Memory) -> bool:
    """Ids and counters exactly; vectors closely, because pieces pass through products of other shapes."""
    tensors = [(a.open_ids, b.open_ids), (a.open_lengths, b.open_lengths)]
    tensors += [(a.state[name], b.state[name]) for name in a.state.tensors]
    close = {True: partial(torch.allclose, rtol=1e-4, atol=2e-5), False: torch.equal}
    return all(close[x.is_floating_point()](x, y) for x, y in tensors)


def whole(folder, text=TEXT) -> Memory:
    model, tokenizer = load_model(folder), AutoTokenizer.from_pretrained(folder)
    return model.read(tokenizer(text).input_ids)


@pytest.mark.parametrize("piece", [40, 333, 10**6])
def test_pieces_equal_the_whole(hmt, folders, monkeypatch, piece):
    monkeypatch.setattr(read, "_PIECE", piece)
    hmt("read", folders / "hmt", "book.txt", "--memory", "m.hmt")
    want = whole(folders / "hmt")
    assert same(Memory.load("m.hmt"), want) and want.segments_read.item() > 50


@pytest.mark.parametrize("size", [1, 7, 50, 400])
@pytest.mark.parametrize("bos", [True, False])
def test_ids_of_pieces_are_those_of_the_whole_text(monkeypatch, size, bos):
    monkeypatch.setattr(token_pieces, "_LONGEST", 200)
    tokenizer = make_tokenizer(bos=bos)
    pieces = [(TEXT[i : i + size], None) for i in range(0, len(TEXT), size)]
    found = [i for ids, _ in token_pieces.token_pieces(tokenizer, iter(pieces), start=True) for i in ids]
    assert found == tokenizer(TEXT).input_ids
    found = [i for ids, _ in token_pieces.token_pieces(tokenizer, iter(pieces), start=False) for i in ids]
    assert found == tokenizer(TEXT, add_special_tokens=False).input_ids


def test_text_without_words_is_cut_somewhere(monkeypatch):
    monkeypatch.setattr(token_pieces, "_LONGEST", 40)
    tokenizer = make_tokenizer()
    pieces = [("東" * 10, None)] * 20
    parts = [ids for ids, _ in token_pieces.token_pieces(tokenizer, iter(pieces), start=False)]
    assert len(parts) > 3 and tokenizer.decode(sum(parts, [])) == "東" * 200


def test_report_append_and_limit(hmt, folders):
    result = hmt("read", folders / "hmt", "book.txt", "-m", "m.hmt", "--limit", 100)
    assert "read 100 tokens" in result.stdout and "peak memory" in result.stdout
    assert "m.hmt: 6 segments, 100 tokens" in result.stdout
    result = hmt("read", folders / "hmt", "book.txt", "-m", "m.hmt", "--limit", 30, "--append")
    assert "m.hmt: 8 segments, 130 tokens" in result.stdout
    tokenizer = AutoTokenizer.from_pretrained(folders / "hmt")
    ids = tokenizer(TEXT).input_ids[:100] + tokenizer(TEXT, add_special_tokens=False).input_ids[:30]
    assert same(Memory.load("m.hmt"), load_model(folders / "hmt").read(ids))
    hmt("read", folders / "hmt", "book.txt", "-m", "m.hmt", "--limit", 1, "--overwrite")
    assert Memory.load("m.hmt").tokens_read.item() == 1
    hmt("read", folders / "hmt", "book.txt", "-m", "new.hmt", "--append")
    assert same(Memory.load("new.hmt"), whole(folders / "hmt"))


def test_encodings_line_ends_compression_and_stdin(hmt, folders, workplace):
    text = "Ça va?\nBien sûr.\n" * 9
    want = whole(folders / "rmt", text)
    (workplace / "a.txt").write_bytes(text.replace("\n", "\r\n").encode("latin-1"))
    (workplace / "b.txt").write_bytes(b"\xef\xbb\xbf" + text.encode())
    (workplace / "c.txt.gz").write_bytes(gzip.compress(text.encode()))
    hmt("read", folders / "rmt", "a.txt", "-m", "a.hmt", "--encoding", "latin-1")
    hmt("read", folders / "rmt", "b.txt", "-m", "b.hmt")
    hmt("read", folders / "rmt", "c.txt.gz", "-m", "c.hmt")
    hmt("read", folders / "rmt", "-", "-m", "d.hmt", input=text.encode())
    for name in "abcd":
        assert same(Memory.load(f"{name}.hmt"), want), name
    hmt("read", folders / "rmt", "a.txt", "-m", "e.hmt", "--errors", "replace")


def test_one_token_text(hmt, folders, workplace):
    (workplace / "a.txt").write_text("a")
    hmt("read", folders / "rmt", "a.txt", "-m", "a.hmt")
    assert Memory.load("a.hmt").tokens_read.item() == 2  # with <s>


def test_files_that_cannot_be_read(error_of, folders, workplace):
    def error(name, data=None, *options):
        if data is not None:
            (workplace / name).write_bytes(data)
        return error_of("read", folders / "rmt", name, "-m", "m.hmt", *options)

    assert "nope.txt does not exist" in error("nope.txt")
    assert "holds no text" in error("empty.txt", b"")
    assert "holds no text" in error("blank.txt", b" \n\t" * 9)
    message = error("latin.txt", "café".encode("latin-1"))
    assert (
        "latin.txt:1:4 (byte 3) is not utf-8" in message
        and "--encoding" in message
        and "--errors replace" in message
    )
    assert "suffix" in error("cut.gz", gzip.compress(b"x" * 99)[:20])
    assert "suffix" in error("text.gz", b"just text")
    assert "klingon" in error("book.txt", None, "--encoding", "klingon")
    assert "--limit must be at least 1" in error("book.txt", None, "--limit", 0)
    assert "--chunk must be at least 1" in error("book.txt", None, "--chunk", 0)
    assert not (workplace / "m.hmt").exists()


def test_models_and_memories_that_do_not_fit(hmt, error_of, folders, workplace):
    hmt("read", folders / "rmt", "book.txt", "-m", "m.hmt", "--limit", 20)
    before = (workplace / "m.hmt").read_bytes()
    assert "--append adds to it" in error_of("read", folders / "rmt", "book.txt", "-m", "m.hmt")
    both = ("--append", "--overwrite")
    assert "contradict" in error_of("read", folders / "rmt", "book.txt", "-m", "m.hmt", *both)
    assert "this is hmt" in error_of("read", folders / "hmt", "book.txt", "-m", "m.hmt", "--append")
    assert "other weights" in error_of("read", folders / "other", "book.txt", "-m", "m.hmt", "--append")
    assert (workplace / "m.hmt").read_bytes() == before
    assert "not there" in error_of("read", "./no-model", "book.txt", "-m", "n.hmt")
    assert "no tokenizer" in error_of("read", folders / "bare", "book.txt", "-m", "n.hmt")
    (workplace / "plain").mkdir()
    load_model(folders / "rmt").backbone.save_pretrained("plain")
    assert "plain llama model without memory" in error_of("read", "plain", "book.txt", "-m", "n.hmt")
    assert "--device" in error_of("read", folders / "rmt", "book.txt", "-m", "n.hmt", "--device", "abacus")


def test_memory_info(hmt, error_of, folders):
    hmt("read", folders / "hmt", "book.txt", "-m", "m.hmt", "--limit", 100)
    text = hmt("memory", "info", "m.hmt").stdout
    for word in ["segments read", "100", "hmt", "recall_query = segment", "[1, 5, 32]"]:
        assert word in text
    facts = json.loads(hmt("memory", "info", "m.hmt", "--json").stdout)
    assert facts["segments_read"] == [6] and facts["tokens_read"] == [100] and facts["open_tokens"] == [4]
    assert facts["bytes"] == Memory.load("m.hmt").nbytes < facts["file_bytes"]
    assert facts["fields"]["memory_size"] == 5
    assert "no file nope.hmt" in error_of("memory", "info", "nope.hmt")
    assert "not a safetensors file" in error_of("memory", "info", "book.txt")


def test_summary(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("hmt.cli.progress.time.monotonic", lambda: now[0])
    with TokenProgress("reading") as progress:
        progress.of(10)
        now[0] = 102.0
        progress.of(50, 100)
    now[0] = 109.0
    assert progress.summary().startswith("50 tokens, 25 tokens/s, peak memory ")
    assert peak_memory() > 50 * 2**20


@pytest.mark.parametrize("limit", [None, 1500])
def test_total_is_known_before_the_last_piece(folders, workplace, monkeypatch, limit):
    (workplace / "book.txt").write_text(TEXT * 6, encoding="utf-8")
    told = []
    monkeypatch.setattr(TokenProgress, "of", lambda self, tokens, total: told.append((tokens, total)))
    model, tokenizer = load_model(folders / "hmt"), AutoTokenizer.from_pretrained(folders / "hmt")
    pieces = token_pieces.token_pieces(tokenizer, document_pieces("book.txt", size=4000), start=True)
    done, _ = read.read_tokens(model, pieces, read.SoFar(), limit)
    number = int(done.memory.tokens_read)
    assert number == done.tokens
    early = [total for tokens, total in told if 1 < tokens < number / 2]
    assert told[-1] == (number, pytest.approx(number, rel=1e-3)) and len(early) > 2
    assert all(total == pytest.approx(number, rel=0.5) for total in early)
