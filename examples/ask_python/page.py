"""The page that the demo leaves: answers, the recall map, the ways beside each other, sizes."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from ask_python.compare import Reply
from ask_python.document import Question
from ask_python.show import verdict
from hmt.evaluation.plot_style import COLOURS, QUIET, new_figure, styled
from hmt.evaluation.report import Chapter, Part, Pictures, write_page
from hmt.evaluation.report.page import Cell

_LEAST = 0.01  # weight of recall that is drawn


@styled
def map_plot(
    questions: Sequence[Question],
    replies: Sequence[Reply],
    right: Sequence[Sequence[int]],
    length: int,
    reread: int,
) -> Figure:
    """Where in the text each question was answered from, a row for each.

    Dots are segments, as large as recall weighs them (from 1% on), in colour the `reread` first ones, which
    are read again; a ring is a segment with the answer. right: these, of each question. length: of a segment.
    """
    figure, axes = new_figure(width=9.0, height=1.4 + 0.5 * len(questions))
    for row, (reply, where) in enumerate(zip(replies, right, strict=True)):
        for rank, passage in enumerate(reply.passages):
            if passage.weight >= _LEAST or rank < reread:
                colour = COLOURS[0] if rank < reread else QUIET
                size = 12 + 120 * passage.weight
                axes.scatter([passage.segment * length], [row], s=size, color=colour, alpha=0.8, linewidths=0)
        at = [segment * length for segment in where]
        axes.scatter(at, [row] * len(at), s=190, facecolors="none", edgecolors=COLOURS[1], linewidths=1.5)
    names = [textwrap.shorten(question.text, 60, placeholder="…") for question in questions]
    axes.set_yticks(range(len(names)), [f"{name}  {i}" for i, name in enumerate(names, 1)])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_xlabel("Token of the text")
    axes.set_title("What was recalled (dots: by weight; ring: the answer stands there)")
    return figure


def write(
    folder: Path,
    facts: Mapping[str, str],
    asked: Sequence[tuple[Question, Reply]],
    figure: Figure,
    beside: tuple[Sequence[str], Sequence[Sequence[str]], str] | None,
    shown: int,
) -> Path:
    """Write `report.html` and `recall-map.png`; where the page is.

    facts: "Document", "Memory" and more. beside: header, rows and a note of the ways. shown: passages.
    """
    pictures = Pictures(folder)
    answers = Chapter("Answers")
    for number, (question, reply) in enumerate(asked, 1):
        answers.heading(f"{number}. {question.text}")
        rows = [("Answer", reply.said or "(nothing)")]
        if told := verdict(question, reply):
            rows.append(("", told))
        for passage in reply.passages[:shown]:
            rows.append((f"{passage.weight:.0%}", f"{passage.where}: {passage.context(question.text)}"))
        answers.parts.append(Part("facts", rows=rows))
    chapters = [answers]
    chapters.append(
        Chapter("What was recalled", [pictures(figure, figure.axes[0].get_title(), "recall-map")])
    )
    if beside is not None:
        header, rows_, note = beside
        chapter = Chapter("Beside other ways")
        columns = [[Cell(row[i]) for row in rows_] for i in range(1, len(header))]
        chapter.table(header, [row[0] for row in rows_], columns)
        chapter.note(note)
        chapters.append(chapter)
    chapters.append(Chapter("What it took", [Part("facts", rows=list(facts.items()))]))
    page = folder / "report.html"
    summary = [f"{facts['Document']}. Memory: {facts['Memory']}."]
    write_page(page, "hmt demo: what does it remember, and where was that?", summary, chapters)
    return page
