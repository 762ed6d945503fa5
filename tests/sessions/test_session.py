"""Sessions as values: what is read, asked, replaced and forgotten."""

import pytest
import torch
from cli.models import SENTENCES, TEXT, make_tokenizer, save_asked, save_model
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from hmt import HMTForCausalLM, load_model
from hmt.data.marks import Mark
from hmt.model.asking import answer_header, question_ids
from hmt.sessions import DirectRunner, Document, Options, Session

ONE, TWO, THREE = SENTENCES[0] * 2, SENTENCES[1] + " " + SENTENCES[2], SENTENCES[3]


def test_documents_are_read_from_segments_of_their_own(session, plain, same):
    both = session.append(ONE, name="one.txt").append(Document("two.txt", TWO))
    same(plain.memory(plain.segments(ONE) + plain.segments(TWO)), both.memory)
    assert [(one.id, one.name, one.kind) for one in both.documents] == [
        ("d1", "one.txt", "document"),
        ("d2", "two.txt", "document"),
    ]
    for one, text in zip(both.documents, (ONE, TWO), strict=True):
        assert one.tokens == len(plain.ids(text)) and one.segments == len(plain.segments(text))
    assert session.documents == () and int(session.memory.segments_read) == 0  # a value


def test_what_is_recalled_stands_where_it_is_said_to_stand(session):
    marks = (Mark(0, "page 1"), Mark(30, "page 2"))
    now = session.append(Document("one.txt", ONE, marks)).append(TWO, name="two.txt")
    texts = {"d1": ONE, "d2": TWO}
    found = now.recall("the boat", top=99)
    assert sum(one.weight for one in found) == pytest.approx(1, abs=1e-4)
    for one in found:
        assert one.text == texts[one.document][slice(*one.characters)]
        assert one.file == {"d1": "one.txt", "d2": "two.txt"}[one.document]
        assert one.section == (None if one.document == "d2" else now_label(one.characters))
    for id, text in texts.items():
        parts = sorted((one for one in found if one.document == id), key=lambda one: one.segment)
        assert "".join(one.text for one in parts) == text
    assert any("page 1 to page 2" in one.where for one in found)


def now_label(characters):
    begin, end = characters
    if end <= 30:
        return "page 1"
    return "page 2" if begin >= 30 else "page 1 to page 2"


def test_an_answer_is_that_of_the_model(session, runner):
    now = session.append(TEXT[:400])
    heard, shown = [], []
    answer, after = now.ask(
        "Who saw the whale?", top=3, options=Options(max_new_tokens=7), on_token=heard.append,
        on_passages=shown.extend,
    )  # fmt: skip
    model, tokenizer = runner.model, runner.tokenizer
    asked = model.flush(model.read(question_ids(tokenizer, "Who saw the whale?"), memory=now.memory))
    header = torch.tensor([answer_header(tokenizer)])
    ids = model.generate(header, past_key_values=asked, max_new_tokens=7, do_sample=False)
    ids = ids[0, header.shape[1] :].tolist()
    assert list(answer.ids) == heard == ids and len(ids) == 7
    assert answer.answer == tokenizer.decode(ids, skip_special_tokens=True).strip()
    assert answer.passages == shown == now.recall("Who saw the whale?", top=3)
    (turn,) = after.turns
    assert (turn.question, turn.answer, list(turn.passages)) == (answer.question, answer.answer, shown)
    assert after.memory is now.memory and turn.remembered is None  # nothing was remembered of it
    again, _ = after.ask("Who saw the whale?", top=3, options=Options(max_new_tokens=7))
    assert again.ids == answer.ids


def test_an_answer_can_be_stopped_and_given_up(session):
    now = session.append(TEXT[:400])
    whole, _ = now.ask("Who?", options=Options(max_new_tokens=9))
    heard = []

    def third(token):
        heard.append(token)
        return len(heard) == 3

    answer, after = now.ask("Who?", options=Options(max_new_tokens=9), on_token=third)
    assert list(answer.ids) == heard == list(whole.ids[:3]) and len(after.turns) == 1

    def fails(token):
        raise RuntimeError("the client went away")

    with pytest.raises(RuntimeError, match="went away"):
        now.ask("Who?", on_token=fails)


def test_sampling_by_a_seed_leaves_the_seeds_of_others_alone(session):
    now = session.append(TEXT[:200])
    wild = Options(max_new_tokens=12, temperature=5.0, seed=3)
    before = torch.get_rng_state()
    first, _ = now.ask("Who?", options=wild)
    assert torch.equal(torch.get_rng_state(), before)
    assert now.ask("Who?", options=wild)[0].ids == first.ids
    other = Options(max_new_tokens=12, temperature=5.0, seed=4, top_p=0.99, top_k=200)
    assert now.ask("Who?", options=other)[0].ids != first.ids
    words = [now.runner.tokenizer.decode(id) for id in first.ids]
    stop = next(word for word in words if word.isascii())
    stopped, _ = now.ask("Who?", options=Options(max_new_tokens=12, temperature=5.0, seed=3, stop=(stop,)))
    assert stopped.ids == first.ids[: words.index(stop) + 1] and len(stopped.ids) < 12


@pytest.mark.parametrize(
    "wrong", [{"max_new_tokens": 0}, {"temperature": -1.0}, {"temperature": float("nan")}, {"top_p": 0.0},
              {"top_p": float("nan")}, {"top_k": -1}, {"stop": ("",)}],
)  # fmt: skip
def test_options_without_sense_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong)).split("_")[0]):
        Options(**wrong)


def test_a_turn_is_remembered_when_it_is_asked_for(session, plain, same):
    now = session.append(ONE)
    answer, after = now.ask("Who turned?", remember=True, options=Options(max_new_tokens=5))
    said = f"Who turned?\n{answer.answer}\n"
    same(plain.memory(plain.segments(ONE) + plain.segments(said)), after.memory)
    assert after.documents[-1].kind == "turn" and after.turns[0].remembered == after.documents[-1].id == "d2"
    edited = after.edit_turn(0, answer="The whale.")
    changed = plain.segments("Who turned?\nThe whale.\n")
    same(plain.memory(plain.segments(ONE) + changed), edited.memory)
    assert edited.turns[0].answer == "The whale." and edited.turns[0].remembered == "d2"
    for one in (after, edited):
        undone = one.undo()
        same(plain.memory(plain.segments(ONE)), undone.memory)
        assert undone.turns == () and [d.id for d in undone.documents] == ["d1"]
    assert undone.append(TWO).documents[-1].id == "d3"  # no id is given twice


def test_history_is_edited(session):
    now = session.append(ONE)
    for question in ("One?", "Two?", "Three?"):
        _, now = now.ask(question, options=Options(max_new_tokens=3))
    assert [turn.question for turn in now.undo(2).turns] == ["One?"]
    edited = now.edit_turn(1, question=" Zwei? ")
    assert [turn.question for turn in edited.turns] == ["One?", "Zwei?", "Three?"]
    assert edited.turns[1].answer == now.turns[1].answer and edited.memory is now.memory
    for wrong in (0, 4):
        with pytest.raises(ValueError, match=f"3 turns, so {wrong} of them"):
            now.undo(wrong)
    for wrong in (-1, 3):
        with pytest.raises(ValueError, match=f"none with the number {wrong}"):
            now.edit_turn(wrong, answer="")
    with pytest.raises(ValueError, match="question is empty"):
        now.edit_turn(0, question=" ")


def test_passages_of_what_was_forgotten_leave_the_history(session):
    now = session.append(ONE, name="one").append(TWO, name="two")
    _, now = now.ask("the whale, the boat", top=9, options=Options(max_new_tokens=2))
    assert {one.document for one in now.turns[0].passages} == {"d1", "d2"}
    assert {one.document for one in now.forget("d1").turns[0].passages} == {"d2"}
    assert {one.document for one in now.replace("d2", THREE).turns[0].passages} == {"d1"}
    assert len(now.forget("d1").turns) == 1


def test_a_replaced_document_is_the_newest_under_its_id(session, plain, same):
    now = session.append(ONE, name="one").append(TWO, name="two").replace("d1", THREE)
    same(plain.memory(plain.segments(TWO) + plain.segments(THREE)), now.memory)
    assert [(one.id, one.name, one.text) for one in now.documents] == [
        ("d2", "two", TWO), ("d1", "one", THREE),
    ]  # fmt: skip
    assert now.replace("d1", Document("three", THREE)).documents[-1].name == "three"


def test_what_is_kept_of_a_document_is_a_choice(session):
    for keep in ("offsets", "nothing"):
        now = session.append(Document("one", ONE, (Mark(0, "page 1"),)), keep=keep)
        (one,) = now.documents
        assert one.text is None and ONE not in repr(now)
        found = now.recall("the whale", top=99)
        assert "".join(p.text for p in sorted(found, key=lambda p: p.segment)) == ONE  # by its tokens
        assert all(p.line is None for p in found)
        assert all((p.section == "page 1") == (keep == "offsets") for p in found)
        same_places = [p.characters for p in session.append(ONE).recall("the whale", top=99)]
        for p, place in zip(found, same_places, strict=True):
            assert p.characters == (None if keep == "nothing" else place) or place[1] == len(ONE)
        with pytest.raises(ValueError, match="its text was not kept"):
            now.reread()
    with pytest.raises(ValueError, match="keep is one of text, offsets, nothing"):
        session.append(ONE, keep="all")


def test_of_other_systems_the_rest_is_read_again(unforgetting, same):
    session = Session.new("a", unforgetting)
    now = session.append(ONE, name="one").append(TWO, name="two").append(THREE, name="three")
    left = now.forget("d2")
    same(session.append(ONE).append(THREE).memory, left.memory)
    assert [one.id for one in left.documents] == ["d1", "d3"] and left.append(TWO).documents[-1].id == "d4"
    same(session.append(ONE).append(THREE).append(TWO).memory, now.replace("d2", TWO).memory)
    unkept = session.append(ONE, name="one", keep="offsets").append(TWO)
    with pytest.raises(
        ValueError, match=r"one \(d1\) would have to be read again, and its text was not kept"
    ):
        unkept.forget("d2")
    same(session.append(TWO).memory, unkept.forget("d1").memory)


def test_what_the_memory_lost_is_said_and_comes_back_when_read_again(session, plain, same):
    now = session
    for number in range(7):
        now = now.append(f"{number} " + ONE, name=str(number))
    info = now.info()
    assert info["segments_held"] == info["segments_most"] == 12 < info["segments"]
    assert info["tokens"] == sum(len(plain.ids(f"{n} " + ONE)) for n in range(7))
    lost = [one["name"] for one in info["documents"] if not one["held"]]
    assert lost[0] == "0" and info["kv_cache_bytes"] == info["tokens"] * 2 * 2 * 8 * 4
    left = now.forget("d7")  # the newest
    held = {one.document for one in left.recall("the whale", top=99)}
    assert held == {"d2", "d3", "d4", "d5", "d6"}
    again = left.reread()
    same(plain.memory([s for n in range(6) for s in plain.segments(f"{n} " + ONE)]), again.memory)
    assert [one.id for one in again.documents] == ["d1", "d2", "d3", "d4", "d5", "d6"]


def test_progress_counts_tokens(session, plain):
    heard = []
    now = session.append(TEXT, progress=lambda tokens, total: heard.append((tokens, total)))
    tokens = len(plain.ids(TEXT))
    assert heard[-1] == (tokens, tokens) and [one for one, _ in heard] == sorted(one for one, _ in heard)
    assert now.documents[0].tokens == tokens and len(heard) > tokens // 24


def test_what_cannot_be_is_refused(session, runner, tmp_path_factory):
    for text in ("", " \n"):
        with pytest.raises(ValueError, match="d1 holds no text"):
            session.append(text)
    with pytest.raises(ValueError, match="one.txt is not text: its character 3 is"):
        session.append("ab\ud800", name="one.txt")
    with pytest.raises(ValueError, match=r"has no document 'd9'; it has d1 \(d1\)"):
        session.append(ONE).forget("d9")
    with pytest.raises(ValueError, match="question is empty"):
        session.ask(" ")
    with pytest.raises(ValueError, match="ask a shorter one"):
        session.ask("whale " * 200)
    with pytest.raises(ValueError, match="top is a number of passages"):
        session.append(ONE).recall("whale", top=0)
    with pytest.raises(ValueError, match="cannot be the name of a session"):
        session.fork("../x")
    plain = save_model(tmp_path_factory.mktemp("plain"), HMTForCausalLM, None)
    with pytest.raises(ValueError, match="keeps no passages and cannot be asked"):
        Session.new("a", DirectRunner(plain, runner.tokenizer))


def test_nothing_read_is_asked_too(session):
    answer, after = session.ask("Who?", options=Options(max_new_tokens=2))
    assert answer.passages == [] and len(answer.ids) == 2 and len(after.turns) == 1


def test_a_fork_is_another_session(session):
    now = session.append(ONE)
    fork = now.fork("boats")
    assert (fork.name, fork.version, fork.documents) == ("boats", 0, now.documents)
    assert len(fork.append(TWO).documents) == 2 and len(now.documents) == 1


def test_another_runner_of_the_model_goes_on(session, folder, tmp_path_factory):
    now = session.append(ONE, name="one")
    other = now.on(DirectRunner(load_model(folder)))
    found = [one.recall("whale", top=9) for one in (now, other)]
    assert [p.text for p in found[0]] == [p.text for p in found[1]]
    stranger = DirectRunner(load_model(save_asked(tmp_path_factory, segment_length=8)), make_tokenizer())
    with pytest.raises(ValueError, match="session whales was made with another configuration"):
        now.on(stranger)
    moved = now.reread(runner=stranger)
    assert moved.runner is stranger and moved.documents[0].segments > now.documents[0].segments


class Machine(RuleBasedStateMachine):
    """Any run of operations against a list of documents, read from scratch.

    Each document is (id, segments that the memory may still hold); what fell out of the ring is dropped.
    """

    runner = plain = same = None
    texts = st.text(alphabet="ab é\n東.", min_size=1, max_size=90).filter(str.strip)

    def __init__(self):
        super().__init__()
        self.session, self.held, self.texts_of = Session.new("a", self.runner), [], {}
        self.turns, self.made = [], 0

    def push(self, id, text):
        self.texts_of[id] = text
        self.held.append((id, self.plain.segments(text)))
        over = sum(len(segments) for _, segments in self.held) - 12
        for index, (one, segments) in enumerate(self.held):
            drop = min(max(over, 0), len(segments))
            self.held[index] = one, segments[drop:]
            over -= drop

    def drop(self, id):
        self.held = [one for one in self.held if one[0] != id]
        del self.texts_of[id]

    @rule(text=texts, keep=st.sampled_from(["text", "offsets", "nothing"]))
    def append(self, text, keep):
        self.session = self.session.append(text, keep=keep)
        self.made += 1
        self.push(f"d{self.made}", text)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def forget(self, data):
        id = data.draw(st.sampled_from(sorted(self.texts_of)))
        self.session = self.session.forget(id)
        self.drop(id)
        self.turns = [(turn, None if of == id else of) for turn, of in self.turns]

    @precondition(lambda self: any(one.kind == "document" for one in self.session.documents))
    @rule(data=st.data(), text=texts)
    def replace(self, data, text):
        ids = [one.id for one in self.session.documents if one.kind == "document"]
        id = data.draw(st.sampled_from(sorted(ids)))
        self.session = self.session.replace(id, text)
        self.drop(id)
        self.push(id, text)

    @rule(remember=st.booleans())
    def ask(self, remember):
        options = Options(max_new_tokens=2)
        answer, self.session = self.session.ask("Who?", remember=remember, options=options)
        of = None
        if remember:
            self.made += 1
            of = f"d{self.made}"
            self.push(of, f"Who?\n{answer.answer}\n")
        self.turns.append((answer.answer, of))

    @precondition(lambda self: self.turns)
    @rule()
    def undo(self):
        self.session = self.session.undo()
        _, of = self.turns.pop()
        if of is not None:
            self.drop(of)

    @invariant()
    def it_is_the_list_read_from_scratch(self):
        session = self.session
        assert {one.id: one.text or self.texts_of[one.id] for one in session.documents} == self.texts_of
        assert [(turn.answer, turn.remembered) for turn in session.turns] == self.turns
        segments = [ids for _, held in self.held for ids in held]
        expected = self.plain.memory(segments)
        if int(session.memory.segments_read) == len(segments):  # nothing has fallen out since
            self.same(expected, session.memory)
        model = self.runner.model
        slots = model.retrieval.held(session.memory.segments_read)[0]
        order = slots.argsort()[-len(segments) :] if segments else slots[:0]
        assert model.remembered(session.memory, 0, order.tolist()) == segments
        # every segment that is held is known by its document
        for one, (id, held) in zip(session.documents, self.held, strict=True):
            assert one.id == id and len(one.held(session._oldest)) == len(held)
        for found in session.recall("ab", top=12):
            if found.characters is not None:
                assert self.texts_of[found.document][slice(*found.characters)] == found.text


def test_any_run_of_operations_is_the_list_read_from_scratch(runner, plain, same):
    Machine.runner, Machine.plain, Machine.same = runner, plain, staticmethod(same)
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=12, stateful_step_count=12, deadline=None,
            suppress_health_check=list(HealthCheck), derandomize=True,
        ),
    )  # fmt: skip
