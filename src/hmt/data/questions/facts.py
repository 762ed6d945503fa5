"""Made-up facts hidden in a document, and questions about them in other words than the document's.

A document of one's own does not hold what nobody but its reader can know, so a model can neither guess the
answer nor have learnt it. Statements and questions of a relation share its subject and hardly a word besides;
a two-fact question names no subject at all of the fact that holds its answer: who owns the object stands in
one place, where the owner lives in another.
"""

from __future__ import annotations

import random

from hmt.data.questions.question import Question
from hmt.data.questions.relations import OF_HOUSES, OF_PERSONS, OF_THINGS
from hmt.data.questions.text import Span, sentences


def hide_facts(
    text: str, rng: random.Random, number: int, *, two_facts: float = 0.3, document: int = 0
) -> tuple[str, list[Question]]:
    """`text` with made-up facts between its sentences, and a question for each: of the kind "fact", or "two
    facts".

    Facts are spread evenly over the text, at random places; the two of a two-fact question stand anywhere, in
    either order, and the last of its `evidence` holds the answer. No subject is asked for twice.

    Args:
        number: questions.
        two_facts: share of the questions that need two facts.

    ValueError if the text has fewer sentences than there are facts to hide.
    """
    used: set[str] = set()
    made: list[tuple[str, str, str, list[str]]] = []  # question, answer, kind, statements
    while len(made) < number:
        if rng.random() < two_facts:
            first, second = rng.choice(OF_THINGS), rng.choice(OF_PERSONS)
            subject, person, answer = first.subject(rng), first.object(rng), second.object(rng)
            asked = rng.choice(second.questions).format(s=first.mention.format(s=subject))
            said = [
                rng.choice(first.statements).format(s=subject, o=person),
                rng.choice(second.statements).format(s=person, o=answer),
            ]
            kind = "two facts"
        else:
            first = rng.choice(OF_THINGS + OF_PERSONS + OF_HOUSES)
            subject, answer = first.subject(rng), first.object(rng)
            person = answer
            asked = rng.choice(first.questions).format(s=subject)
            said = [rng.choice(first.statements).format(s=subject, o=answer)]
            kind = "fact"
        if subject in used or person in used:
            continue
        used |= {subject, person} if kind == "two facts" else {subject}
        made.append((asked, answer, kind, said))

    places = [(index, part) for index, fact in enumerate(made) for part in range(len(fact[3]))]
    rng.shuffle(places)
    ends = [span.end for span in sentences(text)]
    if len(ends) < len(places):
        raise ValueError(
            f"There are {len(places)} facts to hide between {len(ends)} sentences: give a longer text, or "
            "ask for fewer."
        )
    pieces, length, before = list[str](), 0, 0
    spans: dict[tuple[int, int], Span] = {}
    for slot, place in enumerate(places):
        low, high = slot * len(ends) // len(places), (slot + 1) * len(ends) // len(places)
        cut = ends[rng.randrange(low, high)]
        statement = made[place[0]][3][place[1]]
        pieces += [text[before:cut], " ", statement]
        length += cut - before + 1
        spans[place] = Span(length, length + len(statement))
        length, before = length + len(statement), cut
    pieces.append(text[before:])
    questions = [
        Question(asked, answer, kind, tuple(spans[index, part] for part in range(len(said))), document)
        for index, (asked, answer, kind, said) in enumerate(made)
    ]
    return "".join(pieces), questions
