"""Names of sessions and namespaces: safe as folder names everywhere, and only one way to write each."""

from __future__ import annotations

import re

_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}[a-z0-9_-]|[a-z0-9]")
# what Windows keeps for devices, with or without a suffix
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?")


def check_name(name: str, what: str = "session") -> str:
    """The name; ValueError for one that could be another one, or a path, somewhere.

    Lower-case letters, digits, and `-`, `_` and `.` between them; 64 characters at most. There are file
    systems that do not tell A from a, or two spellings of é.
    """
    if not isinstance(name, str):
        raise ValueError(f"the name of a {what} is a string, not {type(name).__name__}")
    if not _NAME.fullmatch(name) or ".." in name or _RESERVED.fullmatch(name):
        raise ValueError(
            f"{name[:80]!r} cannot be the name of a {what}: take 1 to 64 lower-case letters, digits, '-', "
            "'_' and single '.' (a letter or digit first, no '.' last, none of the names that Windows keeps)"
        )
    return name
