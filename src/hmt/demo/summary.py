"""A few honest sentences about what the demo measured."""

from __future__ import annotations

from typing import Any

from hmt.demo.settings import Settings
from hmt.evaluation import HistoryResult, RecallResult
from hmt.evaluation.units import byte_text

# Names in tables and plots.
SYSTEMS = {
    "hmt": "HMT",
    "rmt": "RMT",
    "sensory": "sensory tokens only",
    "alone": "backbone, one segment",
    "window": "window of one segment",
}


def summarise(
    perplexity: HistoryResult, recall: dict[str, RecallResult], results: dict[str, Any], settings: Settings
) -> str:
    """Paragraphs separated by empty lines."""
    return "\n\n".join([_text(perplexity), _recall(recall, settings), _read(results["read"], settings)])


def _text(result: HistoryResult) -> str:
    longest = result.histories[-1]
    hmt, sensory, alone, window = (SYSTEMS[name] for name in ("hmt", "sensory", "alone", "window"))
    difference = result.paired(hmt, sensory, longest)
    interval = f"95% interval {difference.low:+.4f} to {difference.high:+.4f} nats per token"
    if difference.high < 0:
        verdict = f"is {100 * (1 - difference.perplexity_ratio):.2f}% lower ({interval})"
    elif difference.low > 0:
        verdict = f"is {100 * (difference.perplexity_ratio - 1):.2f}% higher ({interval})"
    else:
        verdict = f"cannot be told apart from it ({interval})"
    again = result.paired(window, sensory, longest)
    room = (
        "Reading the whole previous segment again, for the compute that HMT needs for its memory, brings "
        f"{100 * (1 - again.perplexity_ratio):.1f}% over the sensory tokens: a measure of how much there is "
        "to remember for a language model of this size and age."
    )
    return (
        f"On held-out documents, after {longest} segments of history, the perplexity of HMT is "
        f"{result.perplexity(hmt, longest):.2f}, of the backbone that sees one segment at a time "
        f"{result.perplexity(alone, longest):.2f}, and with nothing but the sensory tokens, without any "
        f"memory, {result.perplexity(sensory, longest):.2f}; HMT {verdict}. {room} All rows start from one "
        f"backbone, are trained equally long and are scored on the same {result.tokens:,} tokens, none of "
        "which was part of any input to its own prediction."
    )


def _recall(recall: dict[str, RecallResult], settings: Settings) -> str:
    hmt, rmt = recall[SYSTEMS["hmt"]], recall[SYSTEMS["rmt"]]
    trained = max(segments for segments, _, _ in settings.recall.curriculum)
    shown = [n for n in hmt.segments if n >= trained] or hmt.segments[-1:]
    answers = ", ".join(f"{100 * hmt.accuracy(n):.0f}% over {n}" for n in shown)
    return (
        f"A value hidden in one of many segments and asked for at the end: trained on at most {trained} "
        f"segments, HMT answers {answers} segments. RMT, which squeezes everything into one vector, answers "
        f"{100 * rmt.accuracy(shown[0]):.0f}% over {shown[0]} and {100 * rmt.accuracy(shown[-1]):.0f}% "
        f"over {shown[-1]} (guessing: {100 * hmt.chance:.0f}%)."
    )


def _read(read: dict[str, Any], settings: Settings) -> str:
    return (
        f"The held-out document {read['name']} ({read['tokens']:,} tokens, {read['segments']:,} segments) "
        f"was read into a memory file of {byte_text(read['file_bytes'])} and continued from that file by a "
        "new process. What it writes looks like the text it was trained on and means little: this language "
        "model has been trained for a minute or two."
    )
