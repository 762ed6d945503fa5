"""What is no text is refused by what it is, and what is broken in a text by its place."""

import gzip
import io
import json
import os
import sys
import tarfile
import threading
import zipfile

import fsspec
import numpy as np
import pytest
import torch

from hmt.data import document_pieces, load_documents, read_text
from hmt.data.files import text_pieces

TEXT = "Call me Ishmael.\nSome years ago.\n"
LONG = TEXT * 9


def zipped() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("word/document.xml", TEXT)
    return stream.getvalue()


def tarred() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("book.txt"))
    return stream.getvalue()


def pickled() -> bytes:
    stream = io.BytesIO()
    torch.save([torch.zeros(2)], stream)
    return stream.getvalue()


def numbers() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.zeros(3))
    return stream.getvalue()


BINARY = {
    "book.pdf": (lambda: b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "a PDF; .*pdftotext"),
    "book.docx": (zipped, "a zip archive, as .docx"),
    "weights.pt": (pickled, "a zip archive"),
    "book": (lambda: gzip.compress(TEXT.encode()), "compressed with gzip; let its name end in .gz"),
    "book.txt.zst": (lambda: b"\x28\xb5\x2f\xfd\x04", "compressed with zstd"),
    "book.tar": (tarred, "a tar archive; unpack it"),
    "book.tar.gz": (lambda: gzip.compress(tarred()), "a tar archive; unpack it"),
    "book.png": (lambda: b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "an image; .*OCR"),
    "book.jpg.gz": (lambda: gzip.compress(b"\xff\xd8\xff\xe0\0\x10JFIF"), "an image"),
    "speech.wav": (lambda: b"RIFF\x24\0\0\0WAVEfmt ", "sound or a film; .*transcribe"),
    "film.mp4": (lambda: b"\0\0\0\x18ftypmp42", "sound or a film"),
    "table": (lambda: b"PAR1\x15\x04\x15\x10", "a Parquet file; let its name end in .parquet"),
    "numbers.npy": (numbers, "a file of numbers"),
    "weights.safetensors": (lambda: b'\x10\0\0\0\0\0\0\0{"a":{}}        ', "a file of numbers"),
    "data.db": (lambda: b"SQLite format 3\0\x10", "a database"),
    "program": (lambda: b"\x7fELF\x02\x01", "a program"),
    "other.bin": (lambda: b"text, and then\0\0\x01\x02", "is not text: there are zero bytes"),
    "windows.txt": (lambda: TEXT.encode("utf-16"), "is utf-16 and not utf-8: pass encoding='utf-16'"),
    "windows2.txt": (lambda: TEXT.encode("utf-16-le"), "utf-16-le and not utf-8: .*--encoding utf-16-le"),
    "java.txt": (lambda: TEXT.encode("utf-16-be"), "is utf-16-be and not"),
    "wide.txt": (lambda: TEXT.encode("utf-32-le"), "is utf-32-le and not"),
    "wide2.txt": (lambda: TEXT.encode("utf-32"), "is utf-32 and not"),
}


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize("errors", ["strict", "replace"])
def test_no_text_is_refused_by_kind(name, errors, tmp_path):
    make, message = BINARY[name]
    (tmp_path / name).write_bytes(make())
    for read in (read_text, load_documents):
        with pytest.raises(ValueError, match=f"{name} is .*{message}|{name} {message}"):
            read(tmp_path / name, errors=errors)


def test_text_that_begins_like_something_else_is_text(tmp_path):
    for text in (
        "BMW built it.",
        "PARIS",
        "RIFF RAFF",
        "MZ is a name of sixty letters and more, " * 3,
        "ID3 tags",
        "%PD",
    ):
        (tmp_path / "a.txt").write_text(text)
        assert read_text(tmp_path / "a.txt") == text
    for encoding in ("utf-16", "utf-16-le", "utf-32", "cp037"):
        (tmp_path / "a.txt").write_bytes(TEXT.encode(encoding))
        assert read_text(tmp_path / "a.txt", encoding=encoding) == TEXT


@pytest.mark.parametrize("size", [1, 3, 10**6])
@pytest.mark.parametrize(
    "encoding, data, place",
    [
        ("utf-8", "Aß\r\nöäü".encode() + b"\xff" + b"more\n", r"2:4 \(byte 11\) is not utf-8: 0xff"),
        ("utf-8", b"\xef\xbb\xbfab\n" + b"c\xed\xa0\x80", r"2:2 \(byte 7\) is not utf-8: 0xed"),
        ("utf-8", "ab\nü".encode()[:-1], r"2:1 \(byte 3\) is not utf-8: 0xc3, unexpected end"),
        ("utf-8-sig", b"\xef\xbb\xbfab\nc\xff", r"2:2 \(byte 7\)"),
        ("ascii", b"one\rtwo \xe9", r"2:5 \(byte 8\) is not ascii: 0xe9"),
        ("utf-16-le", "one\n".encode("utf-16-le") + b"\x00\xd8a\x00", r"2:1 \(byte 8\)"),
        ("unicode_escape", rb"one\ntwo \ud800", "2:5 is half a character, '.ud800'"),
    ],
)
def test_a_bad_byte_is_reported_where_it_is(tmp_path, encoding, data, place, size):
    (tmp_path / "book.txt").write_bytes(data)
    with pytest.raises(ValueError, match=rf"book\.txt:{place}"):
        list(text_pieces(tmp_path / "book.txt", encoding, size=size))


def test_utf_16_without_its_mark(tmp_path):
    (tmp_path / "book.txt").write_bytes(TEXT.encode("utf-16-le"))
    with pytest.raises(ValueError, match="book.txt is not utf-16: .*BOM"):
        read_text(tmp_path / "book.txt", encoding="utf-16")


@pytest.mark.parametrize("encoding", ["base64", "rot13", "klingon", "undefined", "idna2", "", "a\0b"])
def test_encodings_that_are_none(tmp_path, encoding):
    (tmp_path / "book.txt").write_text(TEXT)
    with pytest.raises(ValueError):
        read_text(tmp_path / "book.txt", encoding=encoding)
    with pytest.raises(ValueError, match="errors= takes 'strict' or 'replace'"):
        read_text(tmp_path / "book.txt", errors="surrogateescape")


HALF = [
    (".jsonl", '{"text": "whole"}\n\n{"text": "\\u00e9 \\ud83d\\ude00 \\\\ud800 \\ud800 b"}\n', "3:39"),
    (".jsonl", '{"a": "\\udc00", "text": "x \\udc00"}\n', "1:8"),
    (".json", '[\n {"text": "whole"},\n {"text": "ab \\udfff"}\n]', "3:15"),
    (".jsonl", '{"title": "\\ud800", "text": "whole"}', "1:12"),
]


@pytest.mark.parametrize("suffix, content, place", HALF)
def test_half_a_character_in_json_is_reported_where_it_is(tmp_path, suffix, content, place):
    path = tmp_path / f"books{suffix}"
    path.write_text(content)
    with pytest.raises(ValueError, match=rf"books{suffix}:{place} is half a character, '.u[0-9a-f]{{4}}'"):
        load_documents(path)
    documents = load_documents(path, errors="replace")
    assert "\ufffd" in "".join(documents["text"][:] + documents["name"][:])
    assert all(json.dumps(text).encode() for text in documents["text"])


def test_json_that_no_parser_survives(tmp_path):
    for name, content, message in [
        ("deep.jsonl", "[" * 10**5, "deep.jsonl:1 is nested too deeply"),
        ("deep.json", "[" * 10**5, "deep.json is nested too deeply"),
        ("long.jsonl", '{"text": "a", "n": ' + "9" * 5000 + "}", "long.jsonl:1 is not JSON"),
    ]:
        (tmp_path / name).write_text(content)
        with pytest.raises(ValueError, match=message):
            load_documents(tmp_path / name)


def test_parquet_with_bytes_that_are_no_text(tmp_path):
    import pyarrow
    import pyarrow.parquet

    binary = pyarrow.array([b"whole", b"caf\xe9"], pyarrow.binary())
    text = pyarrow.Array.from_buffers(pyarrow.string(), 2, binary.buffers())
    pyarrow.parquet.write_table(pyarrow.table({"text": text}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a\.parquet:2 is not utf-8: byte 3 of a field is 0xe9"):
        load_documents(tmp_path / "a.parquet")


# -- one reader for training and for reading -----------------------------------------------------------


def test_pieces_of_documents_are_the_documents(tmp_path):
    import pyarrow
    import pyarrow.parquet

    (tmp_path / "d").mkdir()
    (tmp_path / "a.txt").write_text(LONG)
    (tmp_path / "b.jsonl").write_text('{"text": "one"}\n{"text": "two\\n"}\n')
    pyarrow.parquet.write_table(pyarrow.table({"text": ["three", "four"]}), tmp_path / "c.parquet")
    (tmp_path / "d" / "empty.py").write_text("\n")
    (tmp_path / "d" / "e.md").write_text("five")
    sources = [tmp_path / "a.txt", tmp_path / "b.jsonl", tmp_path / "c.parquet", tmp_path / "d"]
    pieces = list(document_pieces(sources, size=50))
    assert "".join(text for text, _ in pieces) == "\n\n".join(load_documents(sources)["text"][:])
    shares = [share for _, share in pieces]
    assert shares == sorted(shares) and 0.99 < shares[-1] <= 1 and len(pieces) > 5
    assert all(len(text) >= 50 for text, _ in pieces[:-1])  # however short the records
    alone = [(text, share) for text, share in text_pieces(tmp_path / "a.txt", size=50) if text]
    assert list(document_pieces(tmp_path / "a.txt", size=50)) == alone


def test_every_file_is_looked_at_before_the_first_text_comes(tmp_path):
    (tmp_path / "a.txt").write_text(TEXT)
    for name, content, message in [
        ("b.pdf", b"%PDF-1.7", "a PDF"),
        ("b.jsonl", b'{"body": "a"}', "has no field 'text'; it has: body"),
        ("b.txt", b"", "holds no text"),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=message):
            next(document_pieces([tmp_path / "a.txt", tmp_path / name]))
    with pytest.raises(ValueError, match="no field 'story'"):
        next(document_pieces(tmp_path / "b.jsonl", text_field="story"))


def test_pipes_stdin_and_urls(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")

    def write():
        with open(tmp_path / "pipe", "w") as pipe:
            pipe.write(LONG)

    for read in (
        lambda path: "".join(text for text, _ in document_pieces(path)),
        lambda path: load_documents(path)["text"][0],
    ):
        writer = threading.Thread(target=write)
        writer.start()
        assert read(tmp_path / "pipe") == LONG
        writer.join()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(LONG.encode())))
        assert read("-") == LONG
        with fsspec.open("memory://texts/book.jsonl", "wt") as file:
            file.write(json.dumps({"text": LONG}))
        assert read("memory://texts/book.jsonl") == LONG
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(ValueError, match="stdin is closed"):
        load_documents("-")
    with pytest.raises(ValueError, match="memory://texts/none"):
        load_documents("memory://texts/none")
