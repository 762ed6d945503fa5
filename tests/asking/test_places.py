"""Where segments begin, and which line of a passage is shown."""

import pytest

from hmt.asking.found import Found
from hmt.asking.places import Place, Places, ReadDocument


def test_segments_begin_where_their_first_token_does():
    document = ReadDocument()
    for begins in ([0, 2, 3], [5], [6, 9, 11, 12]):  # cut anywhere
        document = document.then(begins, 3)
    assert document == ReadDocument(8, (0, 5, 11))
    places = Places((document, ReadDocument(2, (0,))))
    assert places.tokens == 10
    assert places.of(1, 3) == (0, Place((3, 6), (5, 11)))
    assert places.of(2, 3) == (0, Place((6, 8), (11, None)))
    assert places.of(3, 3) == (1, Place((0, 2), (0, None)))
    assert places.of(4, 3) is None  # the question
    assert Places.from_json(places.to_json()) == places


def test_a_tokenizer_without_offsets_leaves_tokens_only():
    places = Places((ReadDocument().then([None] * 5, 3),), done=True)
    assert places.of(1, 3) == (0, Place((3, 5), None))
    assert Places.from_json(places.to_json()) == places


TEXT = (
    "It was a long day, and nobody spoke of the harbour or the storm. " * 3
    + "At dusk\n  Captain Ahab came on deck with his ivory leg. "
    + "Then it was a long night, and nobody spoke of the harbour. " * 3
)


@pytest.mark.parametrize("width", [40, 80, 160])
def test_the_line_of_context_is_about_the_question(width):
    found = Found(0.5, 3, TEXT, "moby.txt", (6, 9), (0, len(TEXT)), 12)
    shown = found.context("Who is captain AHAB?", width)
    assert "Captain Ahab" in shown and "\n" not in shown and "  " not in shown
    assert shown.startswith("…") and shown.endswith("…") and len(shown) <= width + 12
    assert found.where == "moby.txt:12, tokens 6-8"


def test_context_of_little():
    def shown(text, question="whale"):
        return Found(1.0, 0, text, None, (0, 3)).context(question, 20)

    assert shown(None) == shown("") == ""
    assert shown("No such word here") == "No such word here"
    assert shown(" a\n whale ") == "a whale"
    assert shown("a b c. And so on and on it went, is it?", "So is it in the ocean?").startswith("a b c.")
    assert "is it?" in shown("a b c. And so on and on it went, is it?", "is it?")
    assert shown("one two three four five six seven").startswith("one two")
    assert shown("x" * 60) == "x" * 60  # never cut inside a word
    assert Found(1.0, 0, None, None, (1000, 2000)).where == "tokens 1,000-1,999"
