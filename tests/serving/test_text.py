"""Tokens to text as they are written, and messages to what is read and asked."""

import pytest
from cli.models import TEXT, make_tokenizer
from hypothesis import given
from hypothesis import strategies as st

from hmt.model.asking import question_ids
from hmt.serving.errors import ApiError
from hmt.serving.prompts import check_tokens, last_question, split_question, written
from hmt.serving.text import Writer

TOKENIZER = make_tokenizer()


def pieces(text, **options):
    """What a writer gives out for a text, token by token, and what it holds at the end."""
    writer = Writer(TOKENIZER, **options)
    found = []
    for token in TOKENIZER(text, add_special_tokens=False).input_ids:
        found.append(writer.add(token))
        if writer.stopped:
            break
    return [*found, writer.end()], writer


@given(st.text(alphabet="ab é東😀\n .", max_size=80))
def test_pieces_are_the_text(text):
    found, writer = pieces(text, strip=False)
    assert "".join(found) == text == writer.text
    assert "".join(pieces(text)[0]) == text.strip()


def test_long_answers_too():
    text = TEXT[:2500]
    found, _ = pieces(text, strip=False)
    assert "".join(found) == text and sum(map(bool, found)) > 500


@given(st.text(alphabet="ab \n", max_size=40), st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3))
def test_a_stop_text_ends_the_answer_and_is_never_shown(text, stop):
    found, writer = pieces(text, stop=stop, strip=False)
    ends = [at for one in stop if (at := text.find(one)) >= 0]
    # the first to be complete ends it; another may have begun before
    shown = "".join(found)
    assert text.startswith(shown) and not any(one in shown for one in stop)
    assert writer.stopped == bool(ends)
    if not ends:
        assert shown == text


def test_half_a_character_and_white_space_wait():
    found, _ = pieces("a 😀  b \n ")
    assert "\ufffd" not in "".join(found) and found[-1] == ""
    assert "".join(found) == "a 😀  b"
    cut = Writer(TOKENIZER, strip=False)
    half = TOKENIZER("😀", add_special_tokens=False).input_ids[:-1]
    assert [cut.add(token) for token in half] == [""] * len(half)
    assert cut.end() == "\ufffd"


def test_a_long_message_is_read_and_its_end_is_asked():
    assert split_question(TOKENIZER, "  Who? ", 40) == ("", "Who?")
    before, question = split_question(TOKENIZER, TEXT + "\n\nWho turned?\nAnd why?", 40)
    assert question == "Who turned?\nAnd why?" and before == TEXT.rstrip()
    before, question = split_question(TOKENIZER, TEXT, 40)
    assert (before + question).replace(" ", "") == TEXT.strip().replace(" ", "")
    assert 0 < len(question_ids(TOKENIZER, question)) <= 40
    before, question = split_question(TOKENIZER, "é" * 5000, 40)
    assert before + question == "é" * 5000 and 0 < len(question_ids(TOKENIZER, question)) <= 40


@given(st.text(alphabet="ab .\n😀", min_size=1, max_size=300).filter(str.strip))
def test_nothing_is_lost_where_a_message_is_cut(text):
    before, question = split_question(TOKENIZER, text, 30)
    assert question and len(question_ids(TOKENIZER, question)) <= 30
    assert "".join((before + question).split()) == "".join(text.split())


def test_messages_are_one_text():
    turns = [("developer", "Be short."), ("user", "Hi"), ("assistant", "Hello")]
    assert written(TOKENIZER, turns) == "System: Be short.\n\nUser: Hi\n\nAssistant: Hello\n\n"
    chatty = make_tokenizer()
    chatty.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    assert written(chatty, turns) == "<system>Be short.<user>Hi<assistant>Hello"
    strict = make_tokenizer()
    strict.chat_template = "{{ raise_exception('no system') }}"
    assert written(strict, turns) == written(TOKENIZER, turns)
    with pytest.raises(ApiError, match="last message"):
        last_question(turns)


def test_tokens_are_counted_where_they_may_be_too_many():
    check_tokens(TOKENIZER, TEXT, 10**6)
    tokens = len(TOKENIZER(TEXT, add_special_tokens=False).input_ids)
    check_tokens(TOKENIZER, TEXT, tokens)
    with pytest.raises(ApiError) as raised:
        check_tokens(TOKENIZER, TEXT, tokens - 1, "prompt")
    assert (raised.value.status, raised.value.param) == (413, "prompt")
