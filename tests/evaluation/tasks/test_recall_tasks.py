import random
import re
from dataclasses import replace
from itertools import accumulate, islice

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from tokenizers import ByteLevelBPETokenizer
from transformers import PreTrainedTokenizerFast

from hmt.evaluation.readers.base import Reader
from hmt.evaluation.tasks import make_task, passkey
from hmt.evaluation.tasks.base import Setting, check_items, encode
from hmt.evaluation.tasks.filler import Sentences, sentences

LENGTH = 32


def bpe(texts):
    model = ByteLevelBPETokenizer()
    model.train_from_iterator(texts, vocab_size=700, special_tokens=["<|end|>"], show_progress=False)
    return PreTrainedTokenizerFast(tokenizer_object=model._tokenizer, eos_token="<|end|>")


class Words:
    """Words as tokens, with what sentence-wise counts cannot know: `each` per call, `seam` per end of a
    sentence that is followed by another."""

    def __init__(self, each=0, seam=0):
        self.each, self.seam = each, seam

    def __call__(self, texts, add_special_tokens, verbose):
        assert not add_special_tokens
        if isinstance(texts, list):
            return {"input_ids": [self(text, False, False)["input_ids"] for text in texts]}
        seams = len(re.findall(r"\.(?=\s+\S)", texts))
        return {"input_ids": [0] * (len(texts.split()) + self.each + self.seam * seams)}


@pytest.fixture(scope="module")
def tokenizer():
    class Letters:
        def __call__(self, texts, **_):
            return {"input_ids": [[0] * len(text) for text in texts]}

    return bpe([piece.text for piece in Sentences(Letters()).pieces])


@pytest.fixture(scope="module")
def setting(tokenizer):
    return Setting(tokenizer, LENGTH)


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("HMT_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def books(tmp_path):
    """Two books of numbered sentences: which part of which book a text is can be read off."""
    folder = tmp_path / "books"
    folder.mkdir()
    for name in ("alpha", "beta"):
        lines = (f"In {name} came guest {n} with much luggage." for n in range(300))
        (folder / f"{name}.txt").write_text("\n".join(lines))
    return str(folder)


def tokens(setting, item):
    return len(encode(setting.tokenizer, item.context)) + len(encode(setting.tokenizer, item.question))


# passkey ---------------------------------------------------------------------------------------------


@settings(max_examples=8)
@given(
    length=st.integers(5, 60),
    depth=st.floats(0, 1),
    seed=st.integers(0, 10**6),
    segment=st.sampled_from([20, 32, 50]),
)
def test_length_and_depth(tokenizer, length, depth, seed, segment):
    setting = Setting(tokenizer, segment)
    task = make_task("passkey", lengths=(length,), depths=(depth,), samples=1, seed=seed)
    (item,) = task.items(setting)
    (number,) = item.answers
    longest = max(piece.tokens for piece in Sentences(tokenizer).pieces)
    assert length * segment - longest <= tokens(setting, item) <= length * segment
    assert re.fullmatch(r"[1-9]\d{4}", number) and item.context.count(number) == 1
    assert number not in item.question and item.likely == f" {number}"
    before, after = item.context.split(f"The pass key is {number}. Remember it.")
    total = len(encode(tokenizer, before)) + len(encode(tokenizer, after))
    assert abs(len(encode(tokenizer, before)) - depth * total) <= longest
    assert (depth > 0 or before == "") and (depth < 1 or after == "")
    assert item.facts == {"segments": length, "depth": depth}


@pytest.mark.parametrize("name", ["passkey", "needles", "variables"])
def test_same_settings_same_items(name, setting, books):
    make = lambda seed: list(  # noqa: E731
        make_task(name, lengths=(15, 25), samples=3, source=books, seed=seed).items(setting)
    )
    first, again, other = make(0), make(0), make(1)
    assert first == again
    assert [item.id for item in first] == [item.id for item in other]
    assert all(mine.context != its.context for mine, its in zip(first, other, strict=True))
    assert len({item.context for item in first}) == len(first)


def test_cells_come_sample_by_sample(setting):
    task = make_task("passkey", lengths=(4, 8), depths=(0, 1), samples=2, limit=5)
    facts = [tuple(item.facts.values()) for item in task.items(setting)]
    assert facts == [(4, 0), (4, 1), (8, 0), (8, 1), (4, 0)]


def test_items_are_built_when_asked_for(setting):
    asked = []

    class Counting:
        def __call__(self, texts, **options):
            asked.append(sum(map(len, texts)) if isinstance(texts, list) else len(texts))
            return setting.tokenizer(texts, **options)

    items = make_task("passkey", lengths=(1000,)).items(Setting(Counting(), LENGTH))
    assert len(items) == len(items.ids) == 50
    assert max(asked[1:]) < 1000  # the sentences once, then only needles and questions
    last = items[-1]
    # the text as a whole is encoded once
    assert [length for length in asked[1:] if length > 1000] == [len(last.context)]
    assert last.id == items.ids[-1] and items[48:][1] == last
    with pytest.raises(IndexError):
        items[50]


@pytest.mark.parametrize("each, seam", [(0, 0), (1, 0), (2, 0), (0, 1), (0, 3), (1, 2)])
def test_tokens_that_do_not_add_up(each, seam):
    setting = Setting(Words(each, seam), 50)
    for item in make_task("passkey", lengths=(1, 20, 100), samples=1, seed=3).items(setting):
        wanted = 50 * item.facts["segments"]
        assert wanted - 30 <= tokens(setting, item) <= wanted


def test_filler_is_not_one_sentence_again_and_again(tokenizer):
    filler = Sentences(tokenizer)
    drawn = [piece.text for piece in islice(filler.stream(random.Random(0)), len(filler.pieces))]
    assert len(set(drawn)) == len(drawn) > 1000
    assert sum(piece.tokens for piece in filler.pieces) == len(encode(tokenizer, "".join(drawn)))
    words = set(re.findall(r"\w+", " ".join(drawn).lower()))
    places = {"kitchen", "garden", "office", "bathroom", "bedroom", "hallway", "milk", "apple", "football"}
    assert not words & (places | {"mary", "john", "sandra", "daniel", "number", "key", "var"})
    assert not any(character.isdigit() for text in drawn for character in text)


# books -----------------------------------------------------------------------------------------------


def test_books_are_read_on_from_a_drawn_place(setting, books):
    items = make_task("passkey", lengths=(10,), samples=8, depths=(0.5,), source=books).items(setting)
    starts = set()
    for item in items:
        guests = re.findall(r"In (\w+) came guest (\d+)", item.context)
        starts.add(guests[0])
        for (book, number), (next_book, following) in zip(guests, guests[1:], strict=False):
            assert (next_book, int(following)) in {(book, int(number) + 1), (next_book, 0)}
        assert re.search(r"luggage\. The pass key is \d+\. Remember it\.\nIn ", item.context)
    assert len(starts) > 4


def test_nothing_of_a_source_comes_twice(setting, books):
    total = 2 * 300 * len(encode(setting.tokenizer, "\nIn alpha came guest 100 with much luggage."))
    items = make_task("passkey", lengths=(total // LENGTH * 9 // 10,), samples=2, source=books).items(setting)
    guests = re.findall(r"In (\w+) came guest (\d+)", items[0].context)
    assert len(set(guests)) == len(guests) > 500


def test_too_little_text(setting, books):
    with pytest.raises(ValueError, match="tokens of text, and the longest item takes 320,000"):
        make_task("passkey", lengths=(4, 10_000), source=books).items(setting)


def test_filler_that_contains_the_needle_is_drawn_again(setting, tmp_path):
    found = make_task("passkey", lengths=(8,), samples=1, depths=(0.5,)).items(setting)[0].answers[0]
    source = tmp_path / "numbers.txt"
    source.write_text(" ".join(f"We counted {found} of {n} steps." for n in range(100)))
    (item,) = make_task("passkey", lengths=(8,), samples=1, depths=(0.5,), source=str(source)).items(setting)
    assert item.answers[0] != found and item.context.count(item.answers[0]) == 1 and found in item.context


def test_source_that_is_full_of_the_needle(setting, monkeypatch, tmp_path):
    source = tmp_path / "facts.txt"
    source.write_text("Sandra travelled to the kitchen. Mary moved to the bathroom. " * 100)
    hide = passkey._hide
    monkeypatch.setattr(passkey, "_hide", lambda *given: replace(hide(*given), absent=("kitchen",)))
    items = make_task("passkey", source=str(source), lengths=(8,)).items(setting)
    with pytest.raises(ValueError, match="'kitchen', wherever it is opened; name another source"):
        items[0]


@settings(max_examples=40)
@given(st.text(alphabet="abAB .!?\n\"'。Mr", max_size=3000) | st.text(max_size=50))
def test_sentences_are_the_text(text):
    pieces = sentences(text)
    assert "".join(pieces) == text and all(pieces) and max(map(len, pieces), default=0) <= 600


def test_where_sentences_end():
    text = 'Mr. T. Hall went. "Did he?" Yes! "No!" he said.\nAnd (so on.) No end 1.5 here'
    text += "\n\nA HEADING\n\nMore。又"
    ends = [
        "Mr. T. Hall went.",
        ' "Did he?"',
        " Yes!",
        ' "No!" he said.',
        "\nAnd (so on.)",
        " No end 1.5 here",
    ]
    assert sentences(text) == [*ends, "\n\nA HEADING", "\n\nMore。", "又"]
    assert sentences("x " * 700) == ["x" + " x" * 299, " x" * 300, " x" * 100 + " "]


# needles ---------------------------------------------------------------------------------------------


@settings(max_examples=8)
@given(keys=st.integers(1, 6), values=st.integers(1, 3), depth=st.floats(0, 1), seed=st.integers(0, 1000))
def test_needles(setting, keys, values, depth, seed):
    task = make_task(
        "needles", keys=keys, values=values, lengths=(30,), depths=(depth,), samples=1, seed=seed
    )
    (item,) = task.items(setting)
    hidden = re.findall(r"A special number for (\w+ \w+) is (\d+)\.", item.context)
    asked = re.search(r"special numbers? for (\w+ \w+)\?", item.question)[1]
    assert len(hidden) == keys * values and len({number for _, number in hidden}) == len(hidden)
    assert {key: [k for k, _ in hidden].count(key) for key, _ in hidden} == {
        key: values for key in {k for k, _ in hidden}
    }
    assert item.answers == tuple(number for key, number in hidden if key == asked)
    assert not any(number in item.question for _, number in hidden)
    assert all(item.context.count(number) == 1 for _, number in hidden)
    assert item.likely == " " + ", ".join(item.answers)
    if values == 1:  # the asked one is where it should be, among the filler
        plain = re.sub(r" ?A special number for [^.]*\.", "", item.context)
        before = re.sub(r" ?A special number for [^.]*\.", "", item.context.split(item.answers[0])[0])
        before = before.split("A special number")[0]
        assert abs(len(before) / len(plain) - depth) < 200 / len(plain)


def test_needles_are_spread(setting):
    items = make_task("needles", keys=6, lengths=(40,), depths=(0.0,), samples=10).items(setting)
    places = [m.start() / len(i.context) for i in items for m in re.finditer("A special number", i.context)]
    others = [place for place in places if place > 0]
    assert len(others) == 50 and min(others) < 0.2 and max(others) > 0.8
    assert 0.3 < sum(others) / len(others) < 0.7


# variables -------------------------------------------------------------------------------------------


@settings(max_examples=8)
@given(chains=st.integers(1, 4), hops=st.integers(0, 5), seed=st.integers(0, 1000))
def test_variables(setting, chains, hops, seed):
    more = {"samples": 1, "seed": seed, "max_new_tokens": 200}
    task = make_task("variables", chains=chains, hops=hops, lengths=(40,), **more)
    (item,) = task.items(setting)
    statements = re.findall(r"VAR ([A-Z]{5}) = (?:VAR )?([A-Z]{5}|\d{5})\.", item.context)
    assert len(statements) == chains * (hops + 1)
    holds = {}
    for name, what in statements:  # in the order of the text each is already known
        assert name not in holds
        holds[name] = what if what.isdigit() else holds[what]
    value = re.search(r"\d{5}", item.question)[0]
    assert set(item.answers) == {name for name, held in holds.items() if held == value}
    assert len(item.answers) == hops + 1 and len(set(holds.values())) == chains
    assert not any(name in item.question for name in holds)
    assert LENGTH * 39 < tokens(setting, item) <= LENGTH * 40


# errors and scores -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, wrong, message",
    [
        ("passkey", {"lengths": ()}, "passkey.lengths"),
        ("passkey", {"lengths": (0, 4)}, "1 or more"),
        ("passkey", {"lengths": (4, 4)}, "different"),
        ("passkey", {"depths": (0.5, 1.1)}, "passkey.depths"),
        ("needles", {"depths": (0, 0.0)}, "needles.depths"),
        ("needles", {"samples": 0}, "needles.samples"),
        ("needles", {"keys": 0}, "needles.keys"),
        ("needles", {"values": 101}, "needles.values"),
        ("needles", {"limit": 0}, "needles.limit"),
        ("variables", {"chains": 0}, "variables.chains"),
        ("variables", {"hops": -1}, "variables.hops"),
    ],
)
def test_wrong_settings(name, wrong, message):
    with pytest.raises(ValueError, match=message):
        make_task(name, **wrong)


@pytest.mark.parametrize(
    "name, wrong, message",
    [
        ("passkey", {"lengths": (1,)}, "1 segment of 32 have no room"),
        ("needles", {"values": 10, "lengths": (100,)}, "needles.max_new_tokens is 64, too few"),
        ("passkey", {"source": "not/here.txt"}, "does not exist"),
    ],
)
def test_what_cannot_be_built_is_an_error_at_once(name, wrong, message, setting):
    with pytest.raises(ValueError, match=message):
        make_task(name, **wrong).items(setting)


@pytest.mark.parametrize(
    "name, answers, generated, scores",
    [
        ("passkey", ["12345"], "is 12345.", {"accuracy": 1.0}),
        ("passkey", ["12345"], "123456", {"accuracy": 0.0}),
        ("needles", ["12345", "11111"], "11111, 22222", {"found": 0.5, "exact": 0.0}),
        ("needles", ["12345", "11111"], "11111 and 12345", {"found": 1.0, "exact": 1.0}),
        ("needles", ["12345"], "12345, 99999", {"found": 1.0, "exact": 0.0}),
        ("variables", ["ABCDE", "FGHIJ"], "VAR FGHIJ, VAR ABCDE", {"found": 1.0, "exact": 1.0}),
        ("variables", ["ABCDE", "FGHIJ"], "ABCDEFGHIJ", {"found": 0.0, "exact": 0.0}),
    ],
)
def test_scores(name, answers, generated, scores):
    task = make_task(name)
    record = {"answers": answers, "generated": generated, "likely_nats": [1.0, 2.0], "likely_tokens": 2}
    scored = task.rescore(record)
    assert scored["scores"] == {**scores, "nats": 1.5} and scored["weights"] == {"nats": 2}
    assert [metric.name for metric in task.metrics] == list(scored["scores"])


# from end to end -------------------------------------------------------------------------------------


class Oracle(Reader):
    """Remembers the text word for word and knows how the needles look."""

    name, bytes_carried = "oracle", None

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def flops_per_token(self, segment_length):
        return 0.0

    def read(self, ids):
        return self.tokenizer.decode(ids)

    def answer(self, text, question):
        if "pass key" in question:
            return re.search(r"The pass key is (\d+)\.", text)[1]
        if asked := re.search(r"special numbers? for (.*)\?", question):
            return ", ".join(re.findall(rf"number for {asked[1]} is (\d+)\.", text))
        found, last = [], re.search(r"hold the value (\d+)", question)[1]
        while following := re.search(rf"VAR (\w+) = (?:VAR )?{last}\.", text):
            found.append(f"VAR {following[1]}")
            last = following[1]
        return ", ".join(found)

    def logits(self, memory, prompt, continuation): ...

    def generate(self, memory, prompt, max_new_tokens, stop=None):
        answer = f" {self.answer(memory, self.tokenizer.decode(prompt))}.\nAnd 54321 on"
        ids = encode(self.tokenizer, answer)[:max_new_tokens]
        ends = (n for n in range(1, len(ids) + 1) if stop(ids[:n]))
        return ids[: next(ends, len(ids))]

    def nats(self, memory, prompt, continuation):
        right = f" {self.answer(memory, self.tokenizer.decode(prompt))}"
        return [0.0 if self.tokenizer.decode(continuation) == right else 9.0] * len(continuation)

    def target_nats(self, history, target):
        raise NotImplementedError


class Forgetful(Oracle):
    """Remembers nothing: answers something, and finds all likely alike."""

    name = "forgetful"

    def answer(self, text, question):
        return "10000 nowhere"

    def nats(self, memory, prompt, continuation):
        return [2.0] * len(continuation)


@pytest.mark.parametrize("name, values", [("passkey", 1), ("needles", 1), ("needles", 3), ("variables", 1)])
def test_end_to_end(name, values, setting):
    more = {"values": values, "max_new_tokens": 100} if name == "needles" else {}
    task = make_task(name, lengths=(20, 40), samples=4, **more)
    check_items(name, task.items(setting))
    good = list(task.run(Oracle(setting.tokenizer), setting))
    expected = {m.name: 1.0 if m.better == "higher" else 0.0 for m in task.metrics}
    assert [record["scores"] for record in good] == [expected] * len(good)
    assert all(set(task.axes) <= set(record["facts"]) for record in good)
    assert [task.rescore(record) for record in good] == good

    poor = list(task.run(Forgetful(setting.tokenizer), setting))
    for metric in task.metrics:
        mean = sum(record["scores"][metric.name] for record in poor) / len(poor)
        chance = 2.0 if metric.name == "nats" else 0.0
        assert mean == pytest.approx(chance)
    if name != "variables":
        rest = list(task.run(Oracle(setting.tokenizer), setting, done={record["id"] for record in good[1:]}))
        assert rest == good[:1]


def test_seams_are_where_the_counts_say(tokenizer):
    """A needle lies at the seam nearest to its depth, not merely near it."""
    setting = Setting(tokenizer, LENGTH)
    for item in make_task("passkey", lengths=(20,), depths=(0.1, 0.37, 0.9), samples=3).items(setting):
        before, after = item.context.split(" The pass key is ")
        after = after.split("Remember it.")[1]
        counts = [len(encode(tokenizer, part)) for part in re.split(r"(?<=\.)", before + after) if part]
        seams = [0, *accumulate(counts)]
        here = len(encode(tokenizer, before))
        wanted = item.facts["depth"] * seams[-1]
        assert abs(here - wanted) == min(abs(seam - wanted) for seam in seams)
