"""What an error says on the command line: one line, in the words of the command line."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

from hmt.util.signals import Stopped


def exit_code(error: BaseException) -> int | None:
    """2 for what a user can put right, 128 + signal after one, None for a bug."""
    if isinstance(error, KeyboardInterrupt):
        return 128 + (error.signal if isinstance(error, Stopped) else 2)
    if isinstance(error, BrokenPipeError):  # `| head`: click ends quietly
        return None
    return 2 if isinstance(error, (ValueError, OSError)) or _too_large(error) or _no_memory(error) else None


def one_line(error: BaseException, params: Sequence[Any] = ()) -> str:
    """The error as it is shown. params: of the command, as click has them."""
    text = " ".join(str(error).split())
    if isinstance(error, KeyboardInterrupt):
        return as_typed(text, params) or "interrupted"
    if isinstance(error, FileNotFoundError) and error.filename is not None:
        text = f"no such file or folder: {error.filename}"
    elif isinstance(error, OSError) and error.strerror:
        text = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    elif _too_large(error):
        text = "a number is too large"
    elif not isinstance(error, (ValueError, OSError)):
        text = f"out of memory, something has to be smaller: {text}"
    text = as_typed(text, params) or type(error).__name__
    # a file may put anything into its names: no terminal is to obey it
    return "error: " + "".join(c if c.isprintable() else "\ufffd" for c in text)


def as_typed(text: str, params: Sequence[Any]) -> str:
    """The parameters of functions that a message names, as the options that they are on the command line.

    `text_field=` and `text_field must be` become --text-field, `limit=` becomes --limit. Fields (`--set`),
    and names in quotes or in a list, which are the user's, stay.
    """
    if text.startswith("--set"):
        return text
    for one in params:
        flag = next((opt for opt in one.opts if opt.startswith("--")), None)
        if flag is None:
            continue
        end = r"(?:=(?:True\b)?|(?= (?!and\b)))" if "_" in one.name else r"=(?:True\b)?"
        text = re.sub(rf"(?<![\w.'\"/`-]){one.name}{end}", partial(_spaced, flag), text)
    text = re.sub(r"\b(\w+)=(?=[\s,.;)]|$)", r"\1", text)  # what is none of its options
    return re.sub(r"\bNone\b", "none", text)


def _spaced(flag: str, found: re.Match[str]) -> str:
    """The flag, and a blank where a value follows."""
    follows = found.string[found.end() : found.end() + 1]
    return flag + " " if found[0].endswith("=") and follows.strip(" .,;:)") else flag


def _too_large(error: BaseException) -> bool:
    """Whether a number does not fit into 64 bits; PyTorch says so with errors of several kinds."""
    return isinstance(error, OverflowError) or "Overflow when unpacking" in str(error)


def _no_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError):
        return True
    if "torch" not in sys.modules:
        return False
    from hmt.util.oom import is_out_of_memory

    return is_out_of_memory(error)
