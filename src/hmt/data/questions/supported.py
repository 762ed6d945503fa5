"""Question sets that come with their paragraphs, and say which ones hold the answer: HotpotQA,
2WikiMultihopQA, MuSiQue, as their authors publish them."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from typing import Any

from hmt.data.files import raw_records
from hmt.data.questions.question import Question
from hmt.data.questions.text import Span

logger = logging.getLogger(__name__)


def read_supported(path: str | os.PathLike) -> Iterator[tuple[str, Question]]:
    """(text, question) of every record of a .json, .jsonl or .ndjson file, plain or compressed.

    The text is all paragraphs of the record in their order, each behind its title, with empty lines between;
    the evidence is the paragraphs that the record calls supporting, title included. A record has `question`,
    `answer`, and `context` ([title, [sentence, ...]] each) with `supporting_facts` ([title, sentence] each),
    or `paragraphs` ({"title", "paragraph_text", "is_supporting"} each). ValueError, naming the record, for
    any other form, and where no paragraph supports the answer.
    """
    without = 0
    for number, record, _, _ in raw_records(os.fspath(path)):
        where = f"{path}:{number}"
        if isinstance(record, dict) and not record.keys() & {"context", "paragraphs"}:
            without += 1  # as in the published 2WikiMultihopQA, where some lost theirs
            continue
        try:
            paragraphs = list(_paragraphs(record))
            question, answer = record["question"], record["answer"]
        except (KeyError, TypeError, ValueError, AttributeError):
            raise ValueError(
                f"{where}: a record needs 'question', 'answer', and 'context' with "
                "'supporting_facts' (HotpotQA) or 'paragraphs' (MuSiQue)."
            ) from None
        text, evidence = "", list[Span]()
        for paragraph, supports in paragraphs:
            text += "\n\n" if text else ""
            if supports:
                evidence.append(Span(len(text), len(text) + len(paragraph)))
            text += paragraph
        if not evidence:
            raise ValueError(f"{where}: none of the {len(paragraphs)} paragraphs supports the answer.")
        yield text, Question(str(question), str(answer), "supported", tuple(evidence), int(number) - 1)
    if without:
        logger.warning("%s: left out %d records without paragraphs.", path, without)


def _paragraphs(record: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    if "paragraphs" in record:
        for paragraph in record["paragraphs"]:
            yield (
                f"{paragraph['title']}\n{paragraph['paragraph_text'].strip()}",
                bool(paragraph["is_supporting"]),
            )
    else:
        supporting = {title for title, _ in record["supporting_facts"]}
        for title, lines in record["context"]:
            yield f"{title}\n{' '.join(line.strip() for line in lines)}", title in supporting
