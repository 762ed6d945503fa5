"""Text and pages of files of many formats; whatever else a file holds is one line of a ValueError."""

import gzip
import io
import sys
import zipfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_files import CHAPTERS, docx, epub, html, markdown, pdf

from hmt.data import extract, named_texts
from hmt.data.extract import Limits, Unreadable
from hmt.data.marks import Mark, label_at, label_between

WORDS = list(CHAPTERS.values())
MADE = {".pdf": pdf(), ".epub": epub(), ".docx": docx(), ".html": html(), ".md": markdown()}


@pytest.mark.parametrize(
    "suffix, labels",
    [
        (".pdf", [f"page {number}" for number in (1, 2, 3)]),
        (".epub", [f"chapter: {title}" for title in CHAPTERS]),
        (".docx", [f"section: {title}" for title in CHAPTERS]),
        (".html", [f"section: {title}" for title in CHAPTERS]),
        (".md", [*(f"section: {title}" for title in CHAPTERS), "section: Last"]),
    ],
)
def test_text_is_of_its_page_or_section(suffix, labels, tmp_path):
    found = extract(MADE[suffix], f"whales{suffix}")
    assert [mark.label for mark in found.marks] == labels
    flat = " ".join(found.text.split())
    assert all(words in flat for words in WORDS)
    for words, label in zip(WORDS, labels, strict=False):
        at = found.text.index(words[:15])
        assert label_at(found.marks, at) == label == label_between(found.marks, at, at + 15)
    assert found.lined == (suffix == ".md")
    (tmp_path / f"whales{suffix}").write_bytes(MADE[suffix])
    assert extract(tmp_path / f"whales{suffix}") == found
    (tmp_path / f"whales{suffix}.gz").write_bytes(gzip.compress(MADE[suffix]))
    assert extract(str(tmp_path / f"whales{suffix}.gz")) == found
    (one,) = named_texts(tmp_path / f"whales{suffix}")
    assert (one.text, one.marks, one.lined) == (found.text, found.marks, found.lined)


def test_html_is_what_is_seen():
    text = extract(MADE[".html"], "a.html").text
    assert text.startswith("Loomings\n\nCall me Ishmael.")
    assert text.endswith("one\ntwo bold, and more\n\n  kept\n   as it is")
    for unseen in ("alert", "color", "comment", "DOCTYPE", "Whales"):
        assert unseen not in text
    latin = '<html><head><meta charset="iso-8859-1"></head><body><p>na\xefve</p></body></html>'
    assert extract(latin.encode("latin-1"), "a.htm").text == "na\xefve"


def test_tables_of_word_are_rows():
    assert "cell 00\tcell 01\tcell 02\n" in extract(MADE[".docx"], "a.docx").text
    assert extract(MADE[".docx"], "a.docx").text.count("cell 10") == 1


def test_marks():
    marks = [Mark(5, "a"), Mark(9, "b")]
    assert [label_at(marks, at) for at in (0, 5, 8, 9, 99)] == [None, "a", "a", "b", "b"]
    assert [label_between(marks, *span) for span in ((0, 4), (0, 6), (5, 9), (5, 10))] == [
        None, "a", "a", "a to b",
    ]  # fmt: skip


def test_what_begins_like_a_pdf_or_epub_is_one():
    assert extract(MADE[".pdf"], "upload").marks[0].label == "page 1"
    assert extract(MADE[".epub"]).marks[0].label == "chapter: Loomings"
    assert (
        extract(b"Call me Ishmael.\r\nSome years ago.", "notes").text == "Call me Ishmael.\nSome years ago."
    )


def bomb():
    return epub(extra=[("OEBPS/zeros", b"\0" * 10**7)])


ENTITIES = (
    '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">'
    + "".join(f'<!ENTITY a{n} "{(f"&a{n - 1};" if n else "&a;") * 10}">' for n in range(12))
    + "]><container>&a11;</container>"
)


def with_container(text):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("mimetype", "application/epub+zip")
        file.writestr("META-INF/container.xml", text)
    return out.getvalue()


@pytest.mark.parametrize(
    "data, name, message",
    [
        (pdf(["", ""]), "scan.pdf", "scan.pdf has no text: its pages are images. Recognise"),
        (pdf(password="secret"), "locked.pdf", "locked.pdf is encrypted; save it without"),
        (pdf()[:400], "cut.pdf", "cut.pdf is damaged: "),
        (b"%PDF-1.7\n", "empty.pdf", "empty.pdf is damaged: "),
        (b"", "nothing.pdf", "nothing.pdf is damaged"),
        (b"", "nothing.txt", "nothing.txt holds no text"),
        (b"not a zip", "a.epub", "a.epub is damaged: File is not a zip file"),
        (b"not a zip", "a.docx", "a.docx is damaged: File is not a zip file"),
        (docx()[:-40], "a.docx", "a.docx is damaged: File is not a zip file"),
        (b"\xd0\xcf\x11\xe0" * 9, "old.docx", "encrypted, or of an older Word"),
        (epub(drm=True), "a.epub", r"encrypted \(DRM\)"),
        (epub({}), "a.epub", "its spine names no page"),
        (epub({"": " "}), "a.epub", "a.epub has no text"),
        (with_container(ENTITIES), "a.epub", "a.epub is damaged"),
        (with_container("<container/>"), "a.epub", "it has no $"),
        (b"<html><body><script>x</script></body></html>", "a.html", "a.html has no text"),
        (bomb(), "a.epub", "unpacks to more than 1,000,000 bytes"),
        (epub(extra=[(str(n), b"") for n in range(60)]), "a.epub", "holds 66 files, and 50 are the most"),
        (pdf(["a"] * 12), "a.pdf", "has 12 pages, and 9 are the most"),
        (html({"x": "word " * 60_000}), "a.html", "has more than 200,000 characters of text"),
        (b"x" * 2_000_001, "a.txt", "has 1.91 MiB, and 1.91 MiB are the most here"),
        (gzip.compress(b"x" * 9_000_000), "a.txt.gz", "has more, and 1.91 MiB are the most here"),
        (b"no gzip", "a.txt.gz", "is damaged, or not what its name says"),
        (b"caf\xe9 au lait", "a.txt", "a.txt:1:4 .byte 3. is not utf-8"),
        (b"\x89PNG\r\n\x1a\n" + bytes(99), "a.txt", "a.txt is an image; only text can be read"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_said_in_one_line(data, name, message):
    limits = Limits(bytes=2_000_000, unpacked=1_000_000, entries=50, pages=9, characters=200_000)
    with pytest.raises(ValueError, match=message) as told:
        extract(data, name, limits=limits)
    assert "\n" not in str(told.value)


def test_a_reader_that_is_not_installed_is_named(monkeypatch):
    for suffix, module in ((".pdf", "pypdf"), (".docx", "docx"), (".html", "bs4"), (".epub", "lxml")):
        with monkeypatch.context() as patch:
            for name in [name for name in sys.modules if name == module or name.startswith(f"{module}.")]:
                patch.delitem(sys.modules, name)
            patch.setitem(sys.modules, module, None)
            with pytest.raises(ValueError, match=r'not installed .*pip install "hmt-lm\[files\]"'):
                extract(MADE[suffix], f"a{suffix}")


def test_folders_leave_out_what_cannot_be_read(tmp_path, caplog):
    (tmp_path / "a.pdf").write_bytes(MADE[".pdf"])
    (tmp_path / "b.pdf").write_bytes(b"%PDF-1.4 broken")
    (tmp_path / "c.txt").write_text("Some words.")
    (tmp_path / "d.html").write_text("<p></p>")
    found = [one.name.rpartition("/")[2] for one in named_texts(tmp_path)]
    assert found == ["a.pdf", "c.txt"]
    assert "b.pdf is damaged" in caplog.text and "without text: 1 (d.html)" in caplog.text
    with pytest.raises(Unreadable, match="b.pdf is damaged"):
        list(named_texts(tmp_path / "b.pdf"))


SUFFIXES = sorted(MADE)
FUZZ = settings(
    max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None
)


def tried(data, name):
    try:
        found = extract(data, name, limits=Limits(bytes=10**6, unpacked=10**7, characters=10**6))
    except ValueError as error:
        assert "\n" not in str(error) and str(error)
        return
    assert found.text.strip() and found.text.encode()
    assert [mark.at for mark in found.marks] == sorted(mark.at for mark in found.marks)
    assert all(0 <= mark.at <= len(found.text) and mark.label for mark in found.marks)


@FUZZ
@given(data=st.binary(max_size=300), suffix=st.sampled_from([*SUFFIXES, ".txt", ""]), head=st.booleans())
def test_any_bytes_are_text_or_a_value_error(data, suffix, head):
    heads = {".pdf": b"%PDF-1.7\n", ".epub": b"PK\x03\x04", ".docx": b"PK\x03\x04", ".html": b"<html>"}
    tried(heads.get(suffix, b"") + data if head else data, f"a{suffix}")


@FUZZ
@given(st.data())
def test_mutated_files_are_text_or_a_value_error(data):
    suffix = data.draw(st.sampled_from(SUFFIXES))
    changed = bytearray(MADE[suffix])
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(changed) - 1))
        kind = data.draw(st.sampled_from(["flip", "cut", "double", "insert"]))
        if kind == "flip":
            changed[at] ^= 1 << data.draw(st.integers(0, 7))
        elif kind == "cut":
            del changed[at : at + data.draw(st.integers(1, 200))]
        elif kind == "double":
            changed[at:at] = changed[at : at + data.draw(st.integers(1, 200))]
        else:
            changed[at:at] = data.draw(st.binary(max_size=20))
        if not changed:
            break
    tried(bytes(changed), f"a{suffix}")


@FUZZ
@given(st.data())
def test_mutated_parts_of_archives_are_text_or_a_value_error(data):
    """Not the archive, which its checksums protect, but what is packed in it."""
    suffix = data.draw(st.sampled_from([".epub", ".docx"]))
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(MADE[suffix])) as source, zipfile.ZipFile(out, "w") as target:
        chosen = data.draw(st.sampled_from(source.namelist()))
        for name in source.namelist():
            part = bytearray(source.read(name))
            if name == chosen and part:
                at = data.draw(st.integers(0, len(part) - 1))
                part[at : at + data.draw(st.integers(0, 40))] = data.draw(st.binary(max_size=40))
            target.writestr(name, bytes(part))
    tried(out.getvalue(), f"a{suffix}")
