"""What the demo puts on the terminal: answers with their passages, and a map of what was recalled."""

from __future__ import annotations

from collections.abc import Sequence

from ask_python.compare import Reply
from ask_python.document import Question
from hmt.cli.ask import show
from hmt.util.format import plural
from hmt.util.tables import stdout

LEGEND = "#: recalled, and the answer stands there   +: recalled   o: the answer stands there   .: neither"
_WIDEST = 100  # columns of the map


def verdict(question: Question, reply: Reply) -> str:
    """Whether the answer was given and found; nothing where it is not known."""
    if question.answer is None:
        return ""
    found = "stands" if reply.held else "does not stand"
    given = "is" if reply.given else "is not"
    return f"the answer, {question.answer}, {given} given, and {found} in the passages that were read again"


def show_reply(number: int, question: Question, reply: Reply, shown: int) -> None:
    """One question: what was said, and the first `shown` passages, as `hmt ask` shows them."""
    print(f"\n{number}. {question.text}")
    print(f"   {' '.join(reply.said.split()) or '(nothing)'}")
    told = verdict(question, reply)
    print(f"   ({told + '; ' if told else ''}{reply.seconds:.1f} s)")
    show(reply.passages[:shown], question.text)


def show_map(asked: Sequence[Reply], right: Sequence[Sequence[int]], segments: int, reread: int) -> None:
    """Which of the segments were read again for each question: the `reread` first. right: of `recall_map`."""
    chosen = [[passage.segment for passage in one.passages[:reread]] for one in asked]
    print(f"\nWhat was recalled, over the {plural(segments, 'segment')} of the text:")
    for line in recall_map(chosen, right, segments, min(stdout().width, _WIDEST) - 4):
        print(line)
    print(LEGEND if any(right) else "+: recalled")


def recall_map(
    recalled: Sequence[Sequence[int]], right: Sequence[Sequence[int]], segments: int, width: int
) -> list[str]:
    """A line for each question, `width` columns for all the segments.

    recalled, right: of each question, the segments that were read again, and those with the answer.
    """
    width = min(width, segments)
    lines = []
    for number, (chosen, where) in enumerate(zip(recalled, right, strict=True), 1):
        hit = {one * width // segments for one in chosen if one in where}
        taken, answer = ({one * width // segments for one in some} for some in (chosen, where))
        marks = [
            "#" if at in hit else "+" if at in taken else "o" if at in answer else "." for at in range(width)
        ]
        lines.append(f"{number:>2} {''.join(marks)}")
    return lines
