"""The engine: whatever runs beside it, a session gets what it gets when it is run alone."""

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from cli.models import TEXT, make_tokenizer
from same_memory import same_state

from hmt import load_model
from hmt.model.asking import answer_header, question_ids
from hmt.serving import Busy, Closed, Engine
from hmt.sessions import DirectRunner, Options, Session

WORDS = TEXT.split()


@pytest.fixture
def engine(direct):
    engine = Engine(direct.model, direct.tokenizer, answers=4, segments=3)
    yield engine
    assert engine.shutdown(timeout=30)
    assert engine.load == {"answers": 0, "readings": 0, "jobs": 0}


def text_of(number: int, words: int) -> str:
    chosen = random.Random(number)
    return f"Document {number}. " + " ".join(chosen.choice(WORDS) for _ in range(words))


def life(runner, number: int) -> tuple[list, Session]:
    """What one session sees: documents read, questions asked, one forgotten. Drawn by its number alone."""
    draw = random.Random(number)
    session, seen = Session.new(f"s{number}", runner), []
    for step in range(4):
        session = session.append(text_of(100 * number + step, draw.randrange(5, 60)))
        options = Options(
            max_new_tokens=draw.choice([3, 9, 30]),
            temperature=draw.choice([0.0, 0.0, 0.8]),
            top_k=draw.choice([0, 7]),
            top_p=draw.choice([1.0, 0.9]),
            seed=draw.randrange(1000),
            stop=draw.choice([(), ("e",), ("whale", "\n")]),
        )
        tokens = []
        answer, session = session.ask(
            draw.choice(["Who?", "boat", "a smile", "seen by"]), options=options, on_token=tokens.append
        )
        seen.append((answer.answer, tokens, [found.segment for found in answer.passages]))
        seen.append([found.segment for found in session.recall(draw.choice(["whale", "night"]), top=2)])
        if step == 2:
            session = session.forget(session.documents[0].id)
    return seen, session


@pytest.mark.parametrize("seed", range(2))
def test_many_sessions_at_once_are_each_as_if_alone(direct, engine, seed):
    numbers = list(range(8 * seed, 8 * seed + 8))
    alone = {number: life(direct, number) for number in numbers}
    random.Random(seed).shuffle(numbers)
    with ThreadPoolExecutor(8) as pool:
        together = dict(zip(numbers, pool.map(lambda number: life(engine, number), numbers), strict=True))
    for number in numbers:
        assert together[number][0] == alone[number][0]
        same_state(together[number][1].memory, alone[number][1].memory)


@pytest.mark.parametrize("kind", ["learned", "plain"])
def test_models_whose_segments_depend_on_one_another(others, kind):
    model = load_model(others[kind])
    runner, engine = DirectRunner(model, make_tokenizer()), Engine(model, make_tokenizer(), answers=3)
    ids = [runner.tokenizer(text_of(number, 90)).input_ids for number in range(5)]

    def run(runner, ids):
        memory = runner.read(None, ids)
        if kind == "learned":
            memory = runner.close(memory)
        return memory, runner.generate(memory, [5, 6], Options(max_new_tokens=40))

    alone = [run(runner, one) for one in ids]
    with ThreadPoolExecutor(5) as pool:
        together = list(pool.map(lambda one: run(engine, one), ids))
    for (memory, written), (expected, tokens) in zip(together, alone, strict=True):
        same_state(memory, expected)
        assert written == tokens
    if kind == "plain":
        with pytest.raises(ValueError, match="cannot close a segment early"):
            engine.close(alone[0][0])
    assert engine.shutdown(timeout=30)


def test_steps_are_shared(direct, monkeypatch):
    model, rows, passes = direct.model, [], []
    real_write, real_run = type(model).write, type(model).run_pass

    def write(self, segments, lengths):
        if threading.current_thread().name == "hmt engine":
            rows.append(len(segments))
        return real_write(self, segments, lengths)

    def run_pass(self, embeds, *arguments, **options):
        if threading.current_thread().name == "hmt engine" and embeds.shape[1] == 1:
            passes.append(len(embeds))
        return real_run(self, embeds, *arguments, **options)

    ids = [direct.tokenizer(text_of(number, 120)).input_ids for number in range(4)]
    memories = [direct.close(direct.read(None, one)) for one in ids]
    monkeypatch.setattr(type(model), "write", write)
    monkeypatch.setattr(type(model), "run_pass", run_pass)
    gate, engine = threading.Event(), Engine(model, direct.tokenizer, segments=8)
    holding = threading.Thread(target=lambda: engine.call(gate.wait))
    holding.start()  # so that all jobs are there before the first step
    with ThreadPoolExecutor(4) as pool:
        read = [pool.submit(engine.read, None, one) for one in ids]
        while engine.load["jobs"] < 5:
            time.sleep(0.001)
        gate.set()
        for future in read:
            future.result()
        length = model.segment_length
        assert sum(rows) == sum(len(one) // length for one in ids) and max(rows) == 8
        gate.clear()
        holding.join()
        holding = threading.Thread(target=lambda: engine.call(gate.wait))
        holding.start()
        options = Options(max_new_tokens=12)
        written = [pool.submit(engine.generate, one, [5], options) for one in memories]
        while engine.load["jobs"] < 5:
            time.sleep(0.001)
        gate.set()
        expected = [direct.generate(memory, [5], options) for memory in memories]
        assert [future.result() for future in written] == expected
        holding.join()
    assert max(passes) == 4 and sum(passes) == sum(len(tokens) - 1 for tokens in expected)
    assert engine.shutdown(timeout=30)


def test_a_long_read_holds_no_answer_up(direct, monkeypatch):
    model, steps = direct.model, []
    real_write, real_run = type(model).write, type(model).run_pass

    def write(self, segments, lengths):
        steps.append(len(segments))
        return real_write(self, segments, lengths)

    def run_pass(self, embeds, *arguments, **options):
        if embeds.shape[1] == 1:
            steps.append("token")
        return real_run(self, embeds, *arguments, **options)

    engine = Engine(model, direct.tokenizer, segments=8, interleaved=2)
    memory = engine.close(engine.read(None, direct.tokenizer(text_of(1, 100)).input_ids))
    monkeypatch.setattr(type(model), "write", write)
    monkeypatch.setattr(type(model), "run_pass", run_pass)
    reading = threading.Thread(target=engine.read, args=(None, [7 + i % 50 for i in range(32 * 400)]))
    reading.start()
    while not steps:
        time.sleep(0.001)
    written = engine.generate(memory, [5], Options(max_new_tokens=8))
    assert reading.is_alive()
    reading.join()
    first = steps.index("token")
    last = len(steps) - 1 - steps[::-1].index("token")
    between = steps[first : last + 1]
    assert between == (["token", 2] * len(written))[: 2 * (len(written) - 1) - 1]  # in turn
    assert sum(step for step in steps if step != "token") == 400
    assert set(steps[last + 1 : -1]) == {8}  # and all it can as soon as nobody waits
    assert engine.shutdown(timeout=30)


def test_whoever_stops_listening_is_not_worked_for(direct, engine):
    ids = [7 + i % 50 for i in range(32 * 300)]

    def leave(done):
        raise ConnectionError(f"gone after {done}")

    with pytest.raises(ConnectionError, match="gone after 96"):
        engine.read(None, ids, progress=leave)
    memory = direct.read(None, ids[:100])
    seen = []
    written = engine.generate(
        memory, [5], Options(max_new_tokens=500), on_token=lambda t: seen.append(t) or len(seen) == 3
    )
    assert written == seen == direct.generate(memory, [5], Options(max_new_tokens=3))
    with pytest.raises(ZeroDivisionError):
        engine.generate(memory, [5], Options(max_new_tokens=500), on_token=lambda token: 1 // 0)
    deadline = time.monotonic() + 20
    while engine.load["jobs"] and time.monotonic() < deadline:
        time.sleep(0.01)
    assert engine.load["jobs"] == 0


def test_an_error_is_heard_by_its_own_job_alone(direct, engine, monkeypatch):
    model = direct.model
    real_write, real_run = type(model).write, type(model).run_pass

    def write(self, segments, lengths):
        if bool((segments == bad).any()):
            raise MemoryError("this text")
        return real_write(self, segments, lengths)

    good = [direct.tokenizer(text_of(number, 60)).input_ids for number in range(3)]
    bad = next(token for token in range(5, 300) if not any(token in one for one in good))
    poison = model.embed(torch.tensor([[bad]]))[0, 0]

    def run_pass(self, embeds, *arguments, **options):
        if embeds.shape[1] == 1 and bool((embeds[:, 0] == poison).all(-1).any()):
            raise MemoryError("this token")
        return real_run(self, embeds, *arguments, **options)

    memories = [direct.close(direct.read(None, one)) for one in good]
    options = Options(max_new_tokens=9)
    expected = [direct.generate(memory, [5], options) for memory in memories]
    monkeypatch.setattr(type(model), "write", write)
    monkeypatch.setattr(type(model), "run_pass", run_pass)
    gate = threading.Event()
    with ThreadPoolExecutor(9) as pool:
        held = pool.submit(engine.call, gate.wait)
        read = [pool.submit(engine.read, None, one) for one in good]
        broken = pool.submit(engine.read, None, [*good[0], *[bad] * 32])
        answers = [pool.submit(engine.generate, one, [5], options) for one in memories]
        wrong = pool.submit(engine.generate, memories[0], [5, bad], Options(max_new_tokens=2))
        while engine.load["jobs"] < 9:
            time.sleep(0.001)
        gate.set()
        held.result()
        with pytest.raises(MemoryError, match="this text"):
            broken.result()
        for future, memory in zip(read, [direct.read(None, one) for one in good], strict=True):
            same_state(future.result(), memory)
        assert [future.result() for future in answers] == expected
        wrong.result()


def test_busy_and_closed(direct):
    engine = Engine(direct.model, direct.tokenizer, waiting=2)
    gate = threading.Event()
    with ThreadPoolExecutor(3) as pool:
        held = [pool.submit(engine.call, gate.wait) for _ in range(2)]
        while engine.load["jobs"] < 2:
            time.sleep(0.001)
        with pytest.raises(Busy, match="2 requests"):
            engine.read(None, list(range(5, 40)))
        gate.set()
        assert all(future.result() for future in held)
        memory = engine.read(None, list(range(5, 40)))
        last = pool.submit(engine.generate, memory, [5], Options(max_new_tokens=30))
        while not engine.load["jobs"]:
            time.sleep(0.001)
        assert engine.shutdown(timeout=30)  # what has begun is finished
        assert last.result() == direct.generate(memory, [5], Options(max_new_tokens=30))
    with pytest.raises(Closed):
        engine.generate(memory, [5], Options())
    engine = Engine(direct.model, direct.tokenizer)
    with ThreadPoolExecutor(1) as pool:
        last = pool.submit(engine.read, None, [7] * 32 * 3000)
        while not engine.load["readings"]:
            time.sleep(0.001)
        assert engine.shutdown(finish=False, timeout=30)
        with pytest.raises(Closed):
            last.result()


def test_what_cannot_be_done_is_said_at_once(direct, engine):
    with pytest.raises(ValueError, match="vocabulary"):
        engine.read(None, [5, 300])
    with pytest.raises(ValueError, match="at least one token"):
        engine.generate(direct.model.new_memory(1), [], Options())
    with pytest.raises(ValueError, match="must be at least 1"):
        Engine(direct.model, direct.tokenizer, answers=0)
    asked = question_ids(direct.tokenizer, "Who?")
    memory = engine.close(engine.read(None, asked))
    assert engine.generate(memory, answer_header(direct.tokenizer), Options(max_new_tokens=2))
