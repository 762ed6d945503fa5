import bz2
import gzip
import json
import lzma
import os

import datasets
import pytest

from hmt.data import load_documents, read_text
from hmt.data.files import text_pieces

TEXT = "Call me Ishmael.\nSome years ago – never mind how long\u2028precisely.\n"
RECORDS = [
    {"text": TEXT, "title": "Moby-Dick"},
    {"text": "Second.", "id": 7},
    {"text": "Third.", "title": ""},
]
COMPRESS = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


def json_lines(records=RECORDS) -> bytes:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()


def parquet(records=RECORDS) -> bytes:
    import io

    import pyarrow
    import pyarrow.parquet

    rows = [{"text": None, "title": None, "id": None, **record} for record in records]
    stream = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), stream)
    return stream.getvalue()


@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("suffix", [".txt", ".md", ".rst", ".py", ".nonsense", ""])
def test_text_file(tmp_path, suffix, compression):
    path = tmp_path / f"book{suffix}{compression}"
    path.write_bytes(COMPRESS[compression](TEXT.encode()))
    documents = load_documents(path)
    assert documents.column_names == ["text", "name"]
    assert documents[:] == {"text": [TEXT], "name": [path.name]}
    assert read_text(path) == TEXT


@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("suffix", [".jsonl", ".ndjson", ".json", ".parquet", "-lines.json"])
def test_record_file(tmp_path, suffix, compression):
    content = {".json": json.dumps(RECORDS).encode(), ".parquet": parquet()}.get(suffix, json_lines())
    path = tmp_path / f"books{suffix}{compression}"
    path.write_bytes(COMPRESS[compression](content))
    documents = load_documents(str(path))
    assert documents["text"][:] == [record["text"] for record in RECORDS]
    assert documents["name"][:] == ["Moby-Dick", "7", f"{path.name}:3"]


def test_other_text_field_and_single_object(tmp_path):
    path = tmp_path / "one.json"
    path.write_text(json.dumps({"story": "Once.", "text": 3}))
    assert load_documents(path, text_field="story")["text"][:] == ["Once."]
    with pytest.raises(ValueError, match="holds int, not a string"):
        load_documents(path)


def test_folder_is_sorted_and_says_what_it_left_out(tmp_path, caplog):
    root = tmp_path / "root"
    (root / "b" / ".git").mkdir(parents=True)
    (root / "b" / "2.txt").write_text("two")
    (root / "a.md").write_text("one")
    (root / "c.jsonl").write_bytes(json_lines([{"text": "three"}]))
    (root / "b" / ".git" / "hidden.txt").write_text("hidden")
    (root / ".hidden.txt").write_text("hidden")
    (root / "d.png").write_bytes(b"\x89PNG")
    (root / "e.py").write_text("\n")
    documents = load_documents(root)
    assert documents["text"][:] == ["one", "two", "three"]
    assert documents["name"][:] == ["a.md", "b/2.txt", "c.jsonl:1"]
    assert ".png (1)" in caplog.text and "without text: 1 (e.py)" in caplog.text


def test_list_of_files_and_folders_and_limit(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("x", "y"):
        (folder / f"{name}.txt").write_text(name)
    first = tmp_path / "first.jsonl"
    first.write_bytes(json_lines())
    assert load_documents([first, str(folder)])["name"][2:] == ["first.jsonl:3", "x.txt", "y.txt"]
    assert len(load_documents([first, folder], limit=4)) == 4
    assert len(load_documents(first, limit=99)) == 3
    with pytest.raises(ValueError, match="limit is 0"):
        load_documents(first, limit=0)


def test_second_load_reads_nothing_and_an_edit_is_noticed(tmp_path, monkeypatch):
    path = tmp_path / "book.txt"
    path.write_text("before")
    load_documents(path)
    with monkeypatch.context() as patch:
        patch.setattr("hmt.data.documents.read_text", lambda *_: pytest.fail("read again"))
        assert load_documents(path)["text"][:] == ["before"]
    path.write_text("after!")
    os.utime(path, ns=(1, 1))
    assert load_documents(path)["text"][:] == ["after!"]


def test_not_utf8_names_file_offset_and_choices(tmp_path):
    path = tmp_path / "latin.txt"
    path.write_bytes("naïve café".encode("latin-1"))
    for load in (load_documents, read_text):
        with pytest.raises(
            ValueError, match=r"latin\.txt:1:3 \(byte 2\) is not utf-8: 0xef.*encoding=.*errors='replace'"
        ):
            load(path)
        assert load(path, errors="replace")
    assert read_text(path, encoding="latin-1") == "naïve café"
    assert read_text(path, errors="replace") == "na\ufffdve caf\ufffd"
    with pytest.raises(ValueError, match="unknown encoding: klingon"):
        load_documents(path, encoding="klingon")
    with pytest.raises(ValueError, match="errors="):
        load_documents(path, errors="repalce")


def test_not_utf8_in_json_lines_counts_bytes_from_the_start_of_the_file(tmp_path):
    path = tmp_path / "latin.jsonl"
    path.write_bytes(b'{"text": "ok"}\n{"text": "caf\xe9"}\n')
    with pytest.raises(ValueError, match=r"latin\.jsonl:2:14 \(byte 28\) is not utf-8: 0xe9"):
        load_documents(path)
    assert load_documents(path, encoding="latin-1")["text"][:] == ["ok", "café"]
    path.write_bytes('{"text": "ok"}\r\n{"text": "café"}\n'.encode("utf-16"))
    assert load_documents(path, encoding="utf-16")["text"][:] == ["ok", "café"]


def test_fields_that_differ_and_texts_that_look_like_something_else(tmp_path):
    """What the JSON builder of datasets gets wrong."""
    records = [{"text": "2001-01-01", "meta": {"a": 1}}, {"text": "3", "meta": [1]}, {"text": "b", "x": {}}]
    (tmp_path / "a.jsonl").write_bytes(json_lines(records[:2]))
    (tmp_path / "b.jsonl").write_bytes(json_lines(records[2:]))
    documents = load_documents([tmp_path / "a.jsonl", tmp_path / "b.jsonl"])
    assert documents["text"][:] == ["2001-01-01", "3", "b"]


@pytest.mark.parametrize("size", [1, 7, 10**6])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_pieces_of_a_text(tmp_path, size, encoding):
    path = tmp_path / "book.txt"
    text = "\n \n" + "Café – 東京\r\nnaïve\r" * 9
    path.write_bytes(text.encode(encoding))
    pieces = list(text_pieces(path, encoding, size=size))
    assert "".join(piece for piece, _ in pieces) == text.replace("\r\n", "\n").replace("\r", "\n")
    shares = [share for _, share in pieces]
    assert shares == sorted(shares) and shares[-1] == 1 and (size > 9 or len(pieces) > 20)
    path.write_bytes(text.encode("utf-8") + b"\xff")
    at = len(text.encode("utf-8"))  # behind 2 + 18 line ends
    with pytest.raises(ValueError, match=rf"book\.txt:21:1 \(byte {at}\) is not utf-8: 0xff"):
        list(text_pieces(path, size=size))


def test_byte_order_mark_and_line_ends(tmp_path):
    path = tmp_path / "windows.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\ntwo\rthree\n")
    assert read_text(path) == "one\ntwo\nthree\n"
    path.write_bytes("one".encode("utf-16"))
    assert read_text(path, encoding="utf-16") == "one"
    lines = tmp_path / "windows.jsonl"
    lines.write_bytes(b"\xef\xbb\xbf" + json_lines())
    assert len(load_documents(lines, encoding="utf-8-sig")) == len(load_documents(lines)) == 3


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("empty.txt", b"", "empty.txt holds no text"),
        ("blank.txt", b" \n\n", "blank.txt holds no text"),
        ("empty.jsonl", b"", "empty.jsonl holds no text"),
        ("null.jsonl", b'{"text": null}', "null.jsonl:1: the field 'text' holds NoneType"),
        ("blank.jsonl", b'{"text": "a"}\n\n{"text": " "}', "blank.jsonl:3: the field 'text' is empty"),
        ("other.jsonl", b'{"body": "a", "id": 1}', "other.jsonl:1 has no field 'text'; it has: body, id"),
        ("list.jsonl", b"[1]", "list.jsonl:1: expected an object .* got list"),
        ("bad.jsonl", b'{"text": "a"}\n{"text": ', "bad.jsonl:2 is not JSON"),
        ("bad.json", b"{", "bad.json is not JSON"),
        ("strings.json", b'["a"]', "strings.json:1: expected an object"),
        (
            "other.parquet",
            parquet([{"body": "a"}]).replace(b"text", b"tixt"),
            "has no field 'text'; it has: ",
        ),
        ("bad.parquet", b"PAR2", "bad.parquet is not a Parquet file"),
        ("bad.txt.gz", b"not gzip", "Cannot read .*bad.txt.gz"),
        ("bad.txt.bz2", b"not bz2", "Cannot read .*bad.txt.bz2"),
        ("cut.txt.xz", lzma.compress(b"text" * 999)[:60], "Cannot read .*cut.txt.xz"),
        ("cut.jsonl.gz", gzip.compress(b'{"text": "a"}\n' * 999)[:40], "Cannot read .*cut.jsonl.gz"),
    ],
    # gzip's header holds the time: in a test's name it would differ between the workers that collect it.
    ids=lambda value: "bytes" if isinstance(value, bytes) else None,
)
def test_broken_files(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_documents(tmp_path / name)


def test_nothing_there(tmp_path):
    for source in (
        tmp_path / "none",
        "none.txt",
        "books/none.txt",
        "none",
        "a/b/c",
        [tmp_path / "none"],
        ["a/b"],
    ):
        with pytest.raises(ValueError, match="does not exist"):
            load_documents(source)
    with pytest.raises(ValueError, match="list of sources is empty"):
        load_documents([])
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match="holds no text"):
        load_documents(tmp_path / "folder")
    with pytest.raises(ValueError, match="a folder, not a file"):
        read_text(tmp_path)
    with pytest.raises(ValueError, match="not there"):
        read_text(tmp_path / "none")


def test_hub(monkeypatch, caplog):
    rows = datasets.Dataset.from_list(
        [{"text": "one", "title": "t"}, {"text": ""}, {"text": None}, {"text": "two"}]
    )
    calls = []

    def load_dataset(path, config, *, split):
        calls.append((path, config, split))
        return rows

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    documents = load_documents("org/na.me:con.fig", split="test")
    assert calls == [("org/na.me", "con.fig", "test")]
    assert documents[:] == {"text": ["one", "two"], "name": ["t", "org/na.me:con.fig:4"]}
    assert "left out 2 of 4 rows" in caplog.text
    assert load_documents("org/name", limit=1)["name"][:] == ["t"]
    with pytest.raises(ValueError, match="org/name has no field 'body'; it has: text, title"):
        load_documents("org/name", text_field="body")


def test_hub_failure_says_both_readings(monkeypatch):
    def load_dataset(*_, **__):
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(ValueError, match="'org/name' is not a file or folder here, .*no network"):
        load_documents("org/name")


def test_an_existing_path_is_never_taken_for_a_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org").mkdir()
    (tmp_path / "org" / "name").write_text("local")
    assert load_documents("org/name")["text"][:] == ["local"]


def test_import_is_cheap(run_python):
    code = "import sys, hmt; before = set(sys.modules); import hmt.data; print(*set(sys.modules) - before)"
    assert not {"torch", "datasets", "transformers", "numpy"} & set(run_python(code).split())
