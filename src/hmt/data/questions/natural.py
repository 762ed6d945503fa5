"""Short questions that a sentence of a document answers: who, when, where, how many, made by patterns.

A pattern fits a few sentences in a hundred; books and encyclopedias are long. Where English needs another
form of the verb ("When did he write") the question goes round it ("In which year was it that he wrote"), or
asks for the subject.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator

from hmt.data.questions.question import Question
from hmt.data.questions.text import FUNCTION_WORDS, MONTHS, Names, is_content, plain, sentences, words

_BE = r"(?:was|were|is|are)"
_DATE = rf"(?:\d{{1,2}} )?(?:(?:{'|'.join(MONTHS)}) )?(?:\d{{1,2}}, )?(?:1\d{{3}}|20\d{{2}})"
_SUBJECT = r"(?P<subject>(?:The |the |A |An )?[A-Z]?[\w'’.-]+(?: [\w'’.&-]+){0,6}?)"
_SAID = (
    "said|replied|cried|asked|answered|exclaimed|remarked|returned|observed|whispered"
    "|murmured|inquired|shouted"
)
_PLACE = r"(?P<answer>[A-Z][\w'’-]+(?:,? (?:of |the |and )?[A-Z][\w'’-]+){0,3})"
_PAST = (
    r"(?P<verb>(?:[a-z]{3,}ed|wrote|became|won|led|made|built|gave|took|began|found|told|came|left|held|met|sent"
    r"|saw|brought|fought|lost|went|bought|taught|ran|sold|drew|sang|spoke|struck|chose|rose|knew|grew|threw|wore))"
)

_BE_WHEN = re.compile(
    rf"^{_SUBJECT} (?P<be>was|were) (?P<rest>[a-z]+(?: [^,;:()]+?)?),? (?:in|on) (?P<answer>{_DATE})\b"
)
_IN_BE = re.compile(rf"^(?:In|On) (?P<answer>{_DATE}),? {_SUBJECT} (?P<be>was|were) (?P<rest>[^,;:()]+)")
_IN_DID = re.compile(rf"^(?:In|On) (?P<answer>{_DATE}),? (?P<clause>[^;:()]+?)(?:[,.]|$)")
_DID_IN = re.compile(rf"^(?P<clause>[A-Z][^,;:()]+ {_PAST} [^,;:()]+?),? (?:in|on) (?P<answer>{_DATE})\b")
_BE_WHERE = re.compile(
    rf"^{_SUBJECT} (?P<be>was|were|is|are) (?P<rest>(?:born|located|situated|buried|educated|held|built|found"
    rf"|killed|raised|based|published|discovered|married|stationed)(?: [^,;:()]+?)?),? (?:in|at|near) "
    rf"{_PLACE}"
)
_IS_WHAT = re.compile(
    rf"^{_SUBJECT} (?P<be>was|were|is|are) (?P<answer>(?:a|an|the) (?!most |least |[a-z]+est )[a-z]"
    r"[^,;:()]{4,60}?)(?=[,.;]| (?:who|which|that|in|at|from|for|on|of|by) )"
)
_SUBJECT_DID = re.compile(rf"^(?P<name>[A-Z][^,;:()]*?) (?P<tail>{_PAST} [^;:()]{{12,120}})")
_SPEECH = re.compile(
    rf"[\"“](?P<speech>[^\"“”]{{25,300}})[,!?.—-]*[\"”],? (?:(?P<verb>{_SAID}) (?P<after>[A-Z][\w.'’ -]*?)|"
    rf"(?P<before>[A-Z][\w.'’ -]*?) (?:{_SAID}))(?=[,.;:]| [a-z])"
)
_HOW_MANY = re.compile(
    r"^(?P<answer>(?:[Tt]wo|[Tt]hree|[Ff]our|[Ff]ive|[Ss]ix|[Ss]even|[Ee]ight|[Nn]ine|[Tt]en|[Tt]welve"
    r"|[Tt]wenty|[Ff]ifty|\d[\d,]*)) (?P<things>(?!days|weeks|months|years|times|hours|minutes)"
    r"[a-z]+s(?: [^,;:()]+?)?) (?P<tail>(?:was|were|are|had|have) [^;:()]{8,100})"
)

_MARKS = " ,.;:!?-\"“”'‘’"


def natural_questions(text: str, rng: random.Random, *, document: int = 0) -> Iterator[Question]:
    """At most one question for every sentence of `text`, in order."""
    names = Names(text)
    makers: list[Callable[[str, Names, random.Random], tuple[str, str, str] | None]]
    for span in sentences(text, shortest=25):
        sentence = plain(text[span.start : span.end])
        makers = [_when, _where, _speaker, _who, _what, _how_many]
        rng.shuffle(makers)
        for make in makers:
            made = make(sentence, names, rng)
            if made and _sound(*made[:2]):
                yield Question(*made, (span,), document)
                break


def _sound(question: str, answer: str) -> bool:
    """Whether a question says enough to be found by, is short, and does not hold its answer."""
    asked = words(question)
    return (
        len(asked) <= 40
        and 1 <= len(words(answer)) <= 12
        and sum(map(is_content, asked)) >= 3
        and not {word for word in words(answer) if is_content(word)} & set(asked)
        and question.count('"') % 2 == 0
    )


def _lower_first(clause: str) -> str:
    first = clause.split()[0].lower() if clause.split() else ""
    return clause[:1].lower() + clause[1:] if first in FUNCTION_WORDS and first != "i" else clause


def _end(rest: str) -> str:
    """The rest of a question, without a last word that wants another one."""
    kept = rest.rstrip(_MARKS).split()
    while kept and kept[-1].lower() in FUNCTION_WORDS:
        kept.pop()
    return " ".join(kept).rstrip(_MARKS) + "?"


def _clean_subject(subject: str, names: Names) -> str | None:
    """The subject of a question; None for one that says nothing ("It"), or is more than a subject."""
    asked = words(subject)
    if not asked or not any(word[0].isupper() and (i or word in names) for i, word in enumerate(asked)):
        return None
    if asked[0].lower() in {"and", "but", "or", "now", "then"}:
        return None
    if {word.lower() for word in asked} & {
        "when",
        "who",
        "which",
        "that",
        "was",
        "were",
        "is",
        "he",
        "she",
        "they",
        "it",
    }:
        return None
    return _lower_first(subject)


def _when(sentence: str, names: Names, rng: random.Random) -> tuple[str, str, str] | None:
    for pattern in (_BE_WHEN, _IN_BE):
        if match := pattern.match(sentence):
            subject = _clean_subject(match["subject"], names)
            if subject:
                form = rng.choice(("When {}", "In which year {}")) if match["answer"].isdigit() else "When {}"
                return form.format(f"{match['be']} {subject} {_end(match['rest'])}"), match["answer"], "when"
    for pattern in (_IN_DID, _DID_IN):
        if (match := pattern.match(sentence)) and len(words(match["clause"])) > 4:
            form = "In which year was it that {}" if match["answer"].isdigit() else "When was it that {}"
            return form.format(_end(_lower_first(match["clause"]))), match["answer"], "when"
    return None


def _where(sentence: str, names: Names, rng: random.Random) -> tuple[str, str, str] | None:
    match = _BE_WHERE.match(sentence)
    if not match or not (subject := _clean_subject(match["subject"], names)) or match["answer"] in MONTHS:
        return None
    return f"Where {match['be']} {subject} {_end(match['rest'])}", match["answer"], "where"


def _what(sentence: str, names: Names, rng: random.Random) -> tuple[str, str, str] | None:
    match = _IS_WHAT.match(sentence)
    if not match or not (subject := _clean_subject(match["subject"], names)):
        return None
    rest = sentence[match.end() :]
    hint = re.match(r" (?:who|which|that|in|at|from|for|on|of|by) [^,;:.()]{8,80}", rest)
    if hint and hint.group().split()[0] in {"in", "at", "from", "on"}:
        return f"What {match['be']} {subject}{_end(hint.group())}", match["answer"], "what"
    return f"What kind of thing or person {match['be']} {subject}?", match["answer"], "what"


def _who(sentence: str, names: Names, rng: random.Random) -> tuple[str, str, str] | None:
    match = _SUBJECT_DID.match(sentence)
    if not match:
        return None
    found = list(names.find(match["name"]))
    if len(found) != 1 or found[0] != (0, len(match["name"])):
        return None
    tail = re.split(r", (?:and|but|who|which|while|as|when) ", match["tail"])[0]
    tail = " ".join(tail.split()[: rng.randint(8, 16)])
    form = rng.choice(("Who {}", "Who or what {}", "Which one {}"))
    return form.format(_end(tail)), match["name"], "who"


def _speaker(sentence: str, names: Names, rng: random.Random) -> tuple[str, str, str] | None:
    match = _SPEECH.search(sentence)
    if not match:
        return None
    speaker = match["after"] or match["before"]
    found = list(names.find(speaker))
    if len(found) != 1 or found[0] != (0, len(speaker)):
        return None
    said = match["speech"].split()
    length = rng.randint(5, 10)
    start = rng.randint(0, max(0, len(said) - length))
    part = " ".join(said[start : start + length]).strip(" ,.;!?-—'‘’")
    form = rng.choice(
        ('Who said "{}"?', 'Who {verb} that "{}"?', 'Whose words are "{}"?', 'Who spoke of "{}"?')
    )
    return form.format(part, verb=rng.choice(("said", "remarked"))), speaker, "speaker"


def _how_many(sentence: str, names: Names, rng: random.Random) -> tuple[str, str, str] | None:
    match = _HOW_MANY.match(sentence)
    if not match:
        return None
    return f"How many {match['things']} {_end(match['tail'])}", match["answer"], "how many"
