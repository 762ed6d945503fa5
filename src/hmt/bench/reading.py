"""Reading a text, and the first token after it; and decoding from what was kept."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hmt.bench.readers import FullAttentionReader, MemoryReader, Reader
from hmt.bench.timing import Case, Laps, take_turns
from hmt.bench.workbench import BACKBONE, Progress, Workbench


def measure_reading(bench: Workbench, progress: Progress) -> None:
    """Laps of every length: `read`, `first_token` (nothing was read before) and `question` (the text was)."""
    lengths = bench.settings.lengths
    ids = bench.ids(lengths[-1])
    cases = bench.cases["reading"] = [_backbone(bench)]
    for length in lengths:
        for name, reader in bench.readers.items():
            facts = {"part": "reading", "system": name, "length": length}
            if not bench.too_long(facts, length):
                cases.append(_reading(bench, reader, facts, ids[:, :length], ids[:, : lengths[0]]))
    take_turns(cases, bench.settings.repeats, bench.skip, progress)


def _reading(bench: Workbench, reader: Reader, facts: dict[str, Any], ids: Tensor, short: Tensor) -> Case:
    question = bench.ids(bench.settings.question)

    def run(ids: Tensor = ids) -> Laps:
        clock = bench.clock
        kept, read = clock(reader.read, ids)
        busy = clock.processor
        if isinstance(
            reader, FullAttentionReader
        ):  # prefilling and reading are the same work: not done twice
            first = read + clock(reader.token_after, kept)[1]
        else:
            first = clock(reader.first_token, ids)[1]
        own: Any = reader.copy(kept)  # type: ignore[arg-type]
        asked = clock(reader.first_token, question, own)[1]
        return {"read": read, "read_processor": busy, "first_token": first, "question": asked}

    warm = run if bench.warms_whole else lambda: run(short)
    return Case(facts, run, warm, work=ids.numel() * (1 if isinstance(reader, FullAttentionReader) else 2))


def _backbone(bench: Workbench) -> Case:
    """As many plain passes over [B, L] as `read` has in a chunk; the lap is the mean of one."""
    settings = bench.settings
    ids, call, passes = bench.ids(settings.segment_length), bench.plain_pass(), settings.chunk

    @torch.no_grad()
    def several() -> None:
        for _ in range(passes):
            call(ids)

    def run() -> Laps:
        seconds = bench.clock(several)[1]
        return {"read": seconds / passes, "read_processor": bench.clock.processor / passes}

    return Case({"part": "reading", "system": BACKBONE}, run, several, ids.numel() * passes)


def measure_decoding(bench: Workbench, progress: Progress) -> None:
    """Laps `tokens`: seconds of each token of one whole segment, the last of which closes it."""
    settings = bench.settings
    cases = bench.cases["decode"] = []
    for segments in settings.decode_after:
        for name, reader in bench.readers.items():
            facts = {"part": "decode", "system": name, "after_segments": segments}
            if not bench.too_long(facts, segments * settings.segment_length):
                cases.append(_decoding(bench, reader, facts, segments))
    take_turns(cases, settings.repeats, bench.skip, progress)


def _decoding(bench: Workbench, reader: Reader, facts: dict[str, Any], segments: int) -> Case:
    settings = bench.settings
    length = settings.segment_length
    held: list[Any] = []  # what was kept of the text: made when warming up, outside of all clocks

    def decode(tokens: int) -> Laps:
        own, token, laps = reader.copy(held[0]), bench.ids(1), []  # type: ignore[arg-type]
        for _ in range(tokens):
            token, seconds = bench.clock(reader.next_token, token, own)
            laps.append(seconds)
        return {"tokens": laps}

    def warm() -> None:
        if isinstance(reader, MemoryReader):
            read = min(segments, max(1, settings.decode_read or 1))
            facts["really_read"] = read
            held.append(reader.after(segments, read, bench.ids(read * length)))
        else:
            facts["really_read"] = segments
            held.append(reader.read(bench.ids(segments * length)))
        decode(length if bench.warms_whole else min(length, 4))

    return Case(facts, lambda: decode(length), warm, work=length * settings.batch)
