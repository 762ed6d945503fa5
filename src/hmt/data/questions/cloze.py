"""Cloze questions: a sentence with a name or a number left out, and so much else that its words alone do not
find it.

The sentence as it stands would be found by any lexical search: it shares a dozen words with its segment. So
content words are dropped, names first (they are the rarest words), and what stands away from the gap goes as
a whole.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

from hmt.data.questions.question import Question
from hmt.data.questions.text import Names, Span, is_content, numbers, plain, sentences, words

GAP = "____"
_FORMS = (
    "Fill in the gap: {}",
    "Which words are missing? {}",
    "Complete: {}",
    "What belongs in the gap? {}",
    "{}",
)
_KEPT = 2  # content words that a question keeps at least


def cloze_questions(
    text: str, rng: random.Random, *, drop: tuple[float, float] = (0.3, 0.6), document: int = 0
) -> Iterator[Question]:
    """At most one question for every sentence of `text`, in order.

    Args:
        drop: share of the content words that is dropped; each question draws its own from this range.
    """
    names = Names(text)
    for span in sentences(text, shortest=50):
        sentence = text[span.start : span.end]
        found = list(names.find(sentence))
        gaps = [(gap, "cloze name") for gap in found] + [(gap, "cloze number") for gap in numbers(sentence)]
        rng.shuffle(gaps)
        for gap, kind in gaps:
            answer = plain(sentence[gap.start : gap.end])
            rest = sentence[: gap.start] + " " + sentence[gap.end :]
            if len(words(answer)) > 5 or set(words(answer)) & set(words(rest)):
                continue
            thinned = _thin(sentence, gap, found, rng.uniform(*drop), rng)
            if thinned:
                form = rng.choice(_FORMS)
                yield Question(form.format(thinned), answer, kind, (span,), document)
                break


def _thin(sentence: str, gap: Span, names: list[Span], share: float, rng: random.Random) -> str | None:
    """The sentence around the gap without some of its content words; None if too little of it is left."""
    pieces = []  # (text, dropped, content)
    inside_name = {i for name in names if name != gap for i in range(name.start, name.end)}
    reach = rng.randint(6, 20)  # words on either side of the gap
    for before in (True, False):
        side = Span(0, gap.start) if before else Span(gap.end, len(sentence))
        found = [Span(*match.span()) for match in re.finditer(r"\S+", sentence[side.start : side.end])]
        found = found[-reach:] if before else found[:reach]
        for word in found:
            chunk = plain(sentence[side.start + word.start : side.start + word.end])
            core = "".join(words(chunk)[:1])
            content = is_content(core)
            odds = min(1.0, share * 1.5) if side.start + word.start in inside_name else share
            pieces.append((chunk, content and rng.random() < odds, content))
        if before:
            pieces.append((GAP, False, False))
    if sum(content and not dropped for _, dropped, content in pieces) < _KEPT:
        return None
    kept = ["..." if dropped else chunk for chunk, dropped, _ in pieces]
    return re.sub(r"(?:\.\.\.[\s,]*)+", "... ", " ".join(kept)).strip(" \"'“”‘’")
