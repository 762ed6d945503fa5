"""The results as tables on the terminal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.console import Console

from hmt.util.format import byte_text, count_text
from hmt.util.tables import print_table, stdout

Results = dict[str, Any]
Row = dict[str, Any]
Table = tuple[str, list[str], list[list[str]]]  # title, header and rows


def label(system: str) -> str:
    """hmt-segment -> HMT segment, rmt -> RMT, full -> full attention."""
    if system == "full":
        return "full attention"
    kind, _, query = system.partition("-")
    return f"{kind.upper()} {query}".strip()


def show(results: Results, console: Console | None = None) -> None:
    """Print every part that was measured, what was left out, and where lines cross."""
    console = console or stdout()
    parts: list[tuple[str, Callable[[Results], list[Table]]]] = [
        ("reading", _reading),
        ("decode", _decode),
        ("training", _training),
        ("memory", _memory),
    ]
    for name, tables in parts:
        for table in tables(results) if results[name] else ():
            console.print()
            print_table(*table, console)
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


def _by_length(rows: list[Row], title: str, cell: Callable[[Row], str]) -> Table:
    lengths = sorted({row["length"] for row in rows})
    table = []
    for system in dict.fromkeys(row["system"] for row in rows):
        own = {row["length"]: row for row in rows if row["system"] == system}
        table.append([label(system), *(cell(own[n]) if n in own else "-" for n in lengths)])
    return title, ["system", *map(count_text, lengths)], table


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
    title = "Decoding: ms per token after so many segments (median / mean over a segment with its closing)"
    table = []
    for system in dict.fromkeys(row["system"] for row in rows):
        own = {row["after_segments"]: row for row in rows if row["system"] == system}
        cells = [
            f"{1000 * own[n]['median_seconds']:.2f} / {1000 * own[n]['mean_seconds']:.2f}"
            if n in own
            else "-"
            for n in after
        ]
        table.append([label(system), *cells])
    return [(title, ["system", *(f"{n:,}" for n in after)], table)]


def _training(results: Results) -> list[Table]:
    rows = results["training"]
    depths = sorted({row["segments"] for row in rows})
    title = "Training: tokens/s by BPTT depth in segments (share of the FLOP bound)"
    table = []
    for system in dict.fromkeys(row["system"] for row in rows):
        own = {(row["segments"], row["replay"]): row for row in rows if row["system"] == system}
        cells = [
            f"{own[key]['tokens_per_second']:,.0f} ({share_text(own[key]['of_bound'])})"
            if key in own
            else "-"
            for key in [(n, replay) for n in depths for replay in (False, True)]
        ]
        table.append([label(system), *cells])
    header = [f"{n:,}{replay}" for n in depths for replay in ("", " replay")]
    return [(title, ["system", *header], table)]


def _memory(results: Results) -> list[Table]:
    tables = []
    memory = results["memory"]
    if rows := memory.get("reading"):
        title = "Peak memory while reading, by length of text (before the text was read)"
        tables.append(_by_length(rows, title, _peak))
    if rows := memory.get("training"):
        depths = sorted({row["segments"] for row in rows})
        columns = [(n, replay) for n in depths for replay in (False, True)]
        title = "Peak memory of a training step, by BPTT depth in segments (before it)"
        table = []
        for system in dict.fromkeys(row["system"] for row in rows):
            own = {(row["segments"], row["replay"]): row for row in rows if row["system"] == system}
            table.append([label(system), *(_peak(own[key]) if key in own else "-" for key in columns)])
        header = [f"{n:,}{' replay' if replay else ''}" for n, replay in columns]
        tables.append((title, ["system", *header], table))
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
