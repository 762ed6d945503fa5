"""A session as one file: a line that says so, the manifest, and the parts behind it in its order."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hmt.sessions.record import Damaged, Snapshot, parse_record, record_bytes, sha256, to_snapshot
from hmt.util.files import write_atomically

if TYPE_CHECKING:
    from hmt.sessions.session import Session

_HEAD = b"hmt-session\n"
_SIZE = 8  # bytes of the length of the manifest
KIND = "session file"


def export_session(session: Session, path: Any) -> None:
    """See `Session.export`."""
    write_atomically(path, archived(to_snapshot(session)), KIND)


def archived(snapshot: Snapshot) -> bytes:
    """One file of a snapshot. It belongs to no store: it has no version and no files."""
    record, parts = snapshot
    told = {label: replace(part, file="") for label, part in sorted(record.parts.items())}
    manifest = record_bytes(replace(record, parts=told, version=0, uid=""))
    return b"".join([_HEAD, len(manifest).to_bytes(_SIZE, "little"), manifest, *(parts[one] for one in told)])


def unarchived(data: bytes, where: Any) -> Snapshot:
    """What `archived` made. `Damaged` for anything else."""
    if not data.startswith(_HEAD):
        raise Damaged(f"{where} is no session file")
    start = len(_HEAD) + _SIZE
    end = start + int.from_bytes(data[len(_HEAD) : start], "little")
    if end > len(data):
        raise Damaged(f"{where} is damaged: it ends before its manifest does")
    record, parts = parse_record(data[start:end], where), {}
    for label, part in sorted(record.parts.items()):
        parts[label] = data[end : end + max(0, part.size)]
        end += max(0, part.size)
        if sha256(parts[label]) != part.sha256:
            raise Damaged(f"{where} is damaged: its {label} is not what was written")
    if end != len(data):
        raise Damaged(f"{where} is damaged: there is something behind its end")
    return Snapshot(record, parts)
