"""The results as tables on the terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from hmt.util.format import byte_text, count_text

Results = dict[str, Any]
Row = dict[str, Any]


def label(system: str) -> str:
    """hmt-segment -> HMT segment, rmt -> RMT, full -> full attention."""
    if system == "full":
        return "full attention"
    kind, _, query = system.partition("-")
    return f"{kind.upper()} {query}".strip()


def show(results: Results, console: Console | None = None) -> None:
    """Print every part that was measured, what was left out, and where lines cross."""
    console = console or Console()
    if not console.is_terminal:  # a file or a pipe: nothing is cut off
        console = Console(file=console.file, width=160)
    parts: list[tuple[str, Callable[[Results], list[Table]]]] = [
        ("reading", _reading),
        ("decode", _decode),
        ("training", _training),
        ("memory", _memory),
    ]
    for name, tables in parts:
        for table in tables(results) if results[name] else ():
            title, table.title = table.title, None  # as a title it would be folded to the table's width
            console.print(f"\n[bold]{title}[/bold]", highlight=False, soft_wrap=True)
            console.print(table)
    console.print()
    for line in [*_crossover(results), *_skipped(results)]:
        console.print(line, highlight=False, soft_wrap=True)


def seconds_text(seconds: float) -> str:
    """Three figures: 12.3 ms, 1.23 s, 123 s."""
    return (
        f"{1000 * seconds:.3g} ms"
        if seconds < 1
        else f"{seconds:,.3g} s"
        if seconds < 100
        else f"{seconds:,.0f} s"
    )


def share_text(share: float | None) -> str:
    """Two decimals, or "-" for None."""
    return "-" if share is None else f"{share:.2f}"


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title)
    table.add_column("system", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _by_length(rows: list[Row], title: str, cell: Callable[[Row], str]) -> Table:
    lengths = sorted({row["length"] for row in rows})
    table = _table(title, [count_text(length) for length in lengths])
    for system in dict.fromkeys(row["system"] for row in rows):
        own = {row["length"]: row for row in rows if row["system"] == system}
        table.add_row(label(system), *(cell(own[n]) if n in own else "-" for n in lengths))
    return table


def _reading(results: Results) -> list[Table]:
    rows = results["reading"]
    kinds: list[tuple[str, Callable[[Row], str]]] = [
        ("Reading: tokens/s by length of text", lambda row: f"{row['tokens_per_second']:,.0f}"),
        ("Reading: share of the FLOP bound", lambda row: share_text(row["of_bound"])),
        ("Reading: share of the FLOP bound, by time of the CPU's cores", _processor_share),
        ("First token, nothing read before", lambda row: seconds_text(row["first_token_seconds"])),
        (
            f"First token of an answer, {results['settings']['question']} tokens asked to what was read",
            lambda row: seconds_text(row["question_seconds"]),
        ),
    ]
    if not any("of_bound_processor" in row for row in rows):
        kinds = [kind for kind in kinds if kind[1] is not _processor_share]
    if any("flop_utilisation" in row for row in rows):
        kinds.append(("Reading: FLOP utilisation", lambda row: share_text(row.get("flop_utilisation"))))
    return [_by_length(rows, title, cell) for title, cell in kinds]


def _processor_share(row: Row) -> str:
    return share_text(row.get("of_bound_processor"))


def _decode(results: Results) -> list[Table]:
    rows = results["decode"]
    after = sorted({row["after_segments"] for row in rows})
    table = _table(
        "Decoding: ms per token after so many segments (median / mean over a segment, closing it included)",
        [f"{n:,}" for n in after],
    )
    for system in dict.fromkeys(row["system"] for row in rows):
        own = {row["after_segments"]: row for row in rows if row["system"] == system}
        table.add_row(
            label(system),
            *(
                f"{1000 * own[n]['median_seconds']:.2f} / {1000 * own[n]['mean_seconds']:.2f}"
                if n in own
                else "-"
                for n in after
            ),
        )
    return [table]


def _training(results: Results) -> list[Table]:
    rows = results["training"]
    depths = sorted({row["segments"] for row in rows})
    table = _table(
        "Training: tokens/s by BPTT depth in segments (share of the FLOP bound)",
        [f"{n:,}{replay}" for n in depths for replay in ("", " replay")],
    )
    for system in dict.fromkeys(row["system"] for row in rows):
        own = {(row["segments"], row["replay"]): row for row in rows if row["system"] == system}
        cells = [
            f"{own[key]['tokens_per_second']:,.0f} ({share_text(own[key]['of_bound'])})"
            if key in own
            else "-"
            for key in [(n, replay) for n in depths for replay in (False, True)]
        ]
        table.add_row(label(system), *cells)
    return [table]


def _memory(results: Results) -> list[Table]:
    tables = []
    memory = results["memory"]
    if rows := memory.get("reading"):
        title = "Peak memory while reading, by length of text (before the text was read)"
        tables.append(_by_length(rows, title, _peak))
    if rows := memory.get("training"):
        depths = sorted({row["segments"] for row in rows})
        columns = [(n, replay) for n in depths for replay in (False, True)]
        table = _table(
            "Peak memory of a training step, by BPTT depth in segments (before it)",
            [f"{n:,}{' replay' if replay else ''}" for n, replay in columns],
        )
        for system in dict.fromkeys(row["system"] for row in rows):
            own = {(row["segments"], row["replay"]): row for row in rows if row["system"] == system}
            table.add_row(label(system), *(_peak(own[key]) if key in own else "-" for key in columns))
        tables.append(table)
    return tables


def _peak(row: Row) -> str:
    return f"{byte_text(row['peak'])} ({byte_text(row['before'])})"


def _crossover(results: Results) -> list[str]:
    found = results["crossover"]
    lines = [
        f"attention is half of full attention's operations at {found['half_attention']:,} tokens (computed)"
    ]
    for system, at in found.get("reading", {}).items():
        computed = found["flops"][system]
        said = "not reached"
        if at is not None:
            said = f"{'at most ' if at['at_most'] else ''}{at['tokens']:,} tokens"
        lines.append(
            f"{label(system)} reads faster than full attention from: {said} (measured); "
            f"with fewer operations from {computed:,} tokens (computed)"
        )
    return lines


def _skipped(results: Results) -> list[str]:
    lines = []
    for row in results["skipped"]:
        facts = {name: value for name, value in row.items() if name not in ("part", "system", "why")}
        at = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in facts.items())
        lines.append(f"skipped: {row['part']}, {label(row['system'])}, {at}: {row['why']}")
    return lines
