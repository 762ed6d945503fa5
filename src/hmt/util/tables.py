"""Tables on the terminal whose cells are whole, however narrow it is."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

_PIPE = 10_000  # columns of a file or a pipe, which folds nothing
_FRAME = 3  # columns that stand around a cell


def stdout() -> Console:
    """The console of what a command puts out. Without a terminal it is as wide as what it shows."""
    from rich.console import Console

    console = Console()
    wide = not (console.is_terminal or "COLUMNS" in os.environ)
    return Console(width=_PIPE) if wide else console


def print_table(
    title: str, header: Sequence[str], rows: Sequence[Sequence[str]], console: Console | None = None
) -> None:
    """A table with a name in the first column of each row, and numbers in the others.

    Columns that do not fit beside the names follow in further tables below. Header and names are folded
    where they are long, other cells never.
    """
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    console = console or stdout()
    cells = [max((cell_len(row[i]) for row in rows), default=1) for i in range(len(header))]
    words = [max(map(cell_len, text.split()), default=1) for text in header]
    least = [max(pair) for pair in zip(cells, words, strict=True)]
    whole = [max(cell, cell_len(text)) for cell, text in zip(cells, header, strict=True)]
    if sum(whole) + _FRAME * len(whole) + 1 <= console.width:
        least = whole
    names = min(least[0], max(8, console.width // 3))
    room = console.width - names - _FRAME - 1
    groups: list[list[int]] = [[]]
    for column in range(1, len(header)):
        if groups[-1] and sum(least[i] + _FRAME for i in [*groups[-1], column]) > room:
            groups.append([])
        groups[-1].append(column)
    console.print(Text(title, style="bold"))
    for group in groups:
        table = Table()
        table.add_column(Text(header[0]), width=names, overflow="fold")
        for column in group:
            table.add_column(
                Text(header[column]), justify="right", width=min(least[column], room), overflow="fold"
            )
        for row in rows:
            table.add_row(Text(row[0]), *(Text(row[i]) for i in group))
        console.print(table)
