"""HTML to text: blocks on lines of their own, what nobody sees left out, headings as sections."""

from __future__ import annotations

import re
from typing import Any

from hmt.data.extract.limits import Limits
from hmt.data.marks import Mark

_HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6")
_BLOCKS = frozenset(
    "address article aside blockquote body caption center dd details dialog div dl dt fieldset figcaption "
    "figure footer form h1 h2 h3 h4 h5 h6 header hr html legend li main nav ol optgroup option p pre section "
    "summary table tbody td tfoot th thead title tr ul".split()
)
_UNSEEN = frozenset("script style template noscript head object svg math iframe".split())
_XML = re.compile(rb"\s*(?:\xef\xbb\xbf)?<\?xml[^>]*?(?:encoding=[\"']([\w.-]+)[\"'][^>]*)?\?>")
_CLOSE = 64  # elements that are looked up through


def read(data: bytes, where: str, limits: Limits) -> tuple[str, list[Mark]]:
    """Text and sections of a page."""
    return text_of(data)


def text_of(data: bytes) -> tuple[str, list[Mark]]:
    """The text of HTML, or XHTML, and a mark at each heading."""
    from bs4 import BeautifulSoup, CData, NavigableString

    kinds = (NavigableString, CData)
    encoding = None
    if said := _XML.match(data):  # it is parsed as HTML, whatever it calls itself
        encoding = said[1].decode("ascii", "replace") if said[1] else None
        data = data[said.end() :]
    soup = BeautifulSoup(data, "lxml", from_encoding=encoding)
    for unseen in soup.find_all(_UNSEEN):
        unseen.decompose()
    pieces: list[str] = []
    marks: list[Mark] = []
    at, before, title = 0, None, None
    for node in soup.find_all(string=True):
        if type(node) not in kinds:  # comments, declarations
            continue
        block, heading, verbatim = _around(node)
        text = str(node) if verbatim else " ".join(_spaced(str(node)))
        if not text.strip() and not (text and pieces and block is before):
            continue
        if pieces and block is not before:
            pieces.append("\n" if block is not None and block.name in ("li", "tr", "td", "th") else "\n\n")
            at += len(pieces[-1])
        elif pieces and pieces[-1].endswith((" ", "\n")):
            text = text if verbatim else text.removeprefix(" ")
        if block is not before and not verbatim:
            text = text.removeprefix(" ")
        if heading is not None and heading is not title:
            label = " ".join(heading.get_text(" ").split())[:80]
            if label:
                marks.append(Mark(at, f"section: {label}"))
        before, title = block, heading
        pieces.append(text)
        at += len(text)
    return "".join(pieces), marks


def _spaced(text: str) -> list[str]:
    """Words, with an empty one where white space stands at an end."""
    words = text.split()
    if not words:
        return ["", ""] if text else []
    return [*([""] if text[0].isspace() else []), *words, *([""] if text[-1].isspace() else [])]


def _around(node: Any) -> tuple[Any, Any, bool]:
    """The block a string stands in, the heading, if it is one, and whether its white space counts."""
    block = heading = None
    for number, parent in enumerate(node.parents):
        if number == _CLOSE:
            break
        if block is None and parent.name in _BLOCKS:
            block = parent
        if parent.name in _HEADINGS:
            heading = parent
            break
        if parent.name == "pre":
            return block, None, True
        if parent.name in ("body", "html", "[document]"):
            break
    return block, heading, False
