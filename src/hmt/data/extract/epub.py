"""EPUB: its chapters in the order of its spine.

The readers that are kept up are AGPL; a book is a zip of XHTML, and read as such.
"""

from __future__ import annotations

import posixpath
from typing import Any
from urllib.parse import unquote

from hmt.data.extract.html import text_of
from hmt.data.extract.limits import Limits, Unreadable
from hmt.data.extract.packed import Packed, parsed
from hmt.data.marks import Mark

_CONTAINER, _ENCRYPTION = "META-INF/container.xml", "META-INF/encryption.xml"
_PAGES = ("application/xhtml+xml", "text/html", "text/x-oeb1-document")


def read(data: bytes, where: str, limits: Limits) -> tuple[str, list[Mark]]:
    """Text, and a mark at each chapter and heading."""
    packed = Packed(data, where, limits)
    place = next(iter(_all(parsed(packed.read(_CONTAINER)), "rootfile")), None)
    root = "" if place is None else place.get("full-path", "")
    package = parsed(packed.read(root))
    items = {item.get("id"): item for item in _all(package, "item")}
    pages = []
    for entry in _all(package, "itemref"):
        item = items.get(entry.get("idref"))
        if item is not None and item.get("media-type") in _PAGES:
            name = posixpath.normpath(posixpath.join(posixpath.dirname(root), unquote(item.get("href", ""))))
            pages.append(name)
    if not pages:
        raise Unreadable(f"{where} is damaged: its spine names no page")
    if _ENCRYPTION in packed.names:
        locked = _all(parsed(packed.read(_ENCRYPTION)), "CipherReference")
        hidden = {unquote(one.get("URI", "")) for one in locked}
        if hidden & set(pages):
            raise Unreadable(f"{where} is encrypted (DRM), and its text cannot be read")
    pieces: list[str] = []
    marks: list[Mark] = []
    at = 0
    for name in dict.fromkeys(pages):
        text, headings = text_of(packed.read(name))
        if not text.strip():
            continue
        labels = [Mark(at + one.at, one.label.replace("section: ", "chapter: ", 1)) for one in headings]
        if not labels or labels[0].at > at:
            stem = posixpath.splitext(posixpath.basename(name))[0]
            labels.insert(0, Mark(at, labels[0].label if labels else f"chapter: {stem[:80]}"))
        marks += labels
        pieces.append(text.rstrip() + "\n\n")
        at += len(pieces[-1])
        if at > limits.characters:
            break  # the caller says so
    return "".join(pieces), marks


def _all(tree: Any, name: str) -> list[Any]:
    """Elements of that name in any namespace."""
    return [one for one in tree.iter() if isinstance(one.tag, str) and one.tag.rpartition("}")[2] == name]
