"""Zip archives that somebody else made: read within limits."""

from __future__ import annotations

import io
import zipfile

from hmt.data.extract.limits import Limits, Unreadable


class Packed:
    """What is packed in a file. `Unreadable` for no archive, and for one that unpacks to too much.

    zipfile gives no more bytes of an entry than the archive says it has, so the sum of these is a bound.
    """

    def __init__(self, data: bytes, where: str, limits: Limits):
        self.where = where
        try:
            self.file = zipfile.ZipFile(io.BytesIO(data))
        except zipfile.BadZipFile as error:
            raise Unreadable(f"{where} is damaged: {error}") from None
        entries = self.file.infolist()
        if len(entries) > limits.entries:
            raise Unreadable(
                f"{where} holds {len(entries):,} files, and {limits.entries:,} are the most here"
            )
        if sum(entry.file_size for entry in entries) > limits.unpacked:
            raise Unreadable(f"{where} unpacks to more than {limits.unpacked:,} bytes, the most here")
        if any(entry.flag_bits & 1 for entry in entries):
            raise Unreadable(f"{where} is encrypted; save it without a password first")
        self.names = {entry.filename for entry in entries}

    def read(self, name: str) -> bytes:
        """An entry. `Unreadable` where it is not there."""
        if name not in self.names:
            raise Unreadable(f"{self.where} is damaged: it has no {name[:80]}")
        return self.file.read(name)


def parsed(data: bytes) -> object:
    """An XML document, without what its entities would grow to."""
    from lxml import etree

    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
    return etree.fromstring(data, parser)
