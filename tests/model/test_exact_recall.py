"""Exact recall: passages that are read again, segments that are closed early, BM25."""

import math

import pytest
import torch
from backbones import random_ids, tiny_backbone

from hmt import HMTForCausalLM, Memory
from hmt.systems.hmt import passages as exact

L, V = 8, 97
FIELDS = {
    "segment_length": L,
    "summary_length": 4,
    "sensory_length": 5,
    "memory_size": 6,
    "recall_query": "previous",
    "passages": 2,
}


def build(**fields) -> HMTForCausalLM:
    torch.manual_seed(0)
    model = HMTForCausalLM.from_backbone(tiny_backbone("llama"), **FIELDS | fields)
    for parameter in (model.summary_prompt.weight, model.first_prompt.weight):
        torch.nn.init.normal_(parameter)
    return model.eval()


MODELS = [
    {"write_prompt": "alone", "lexical": 1.0, "hops": 2, "passages": 3, "recall_layer": 1},
    {"write_prompt": "alone", "lexical": 2.0, "recall_layer": 1},
    {"write_prompt": "alone", "lexical": 0.5, "recency": 0.7},
    {"write_prompt": "learned", "recency": 2.0},
    {},
]


def test_codes_keep_every_token_of_every_vocabulary():
    for vocabulary, dtype in ((97, torch.int16), (65535, torch.int16), (65536, torch.int32)):
        ids = torch.tensor([[0, vocabulary - 1, 3, 0]])
        codes = exact.encode_ids(ids, None, 6, vocabulary)
        assert codes.dtype == dtype and codes.shape == (1, 6)
        assert exact.decode_ids(codes).tolist() == [[0, 0, 1, vocabulary, 4, 1]]
        least, most = exact.code_limits(vocabulary)
        assert codes.min() == least and codes.max() == most
    short = exact.encode_ids(torch.tensor([[5, 6, 7], [8, 9, 9]]), torch.tensor([3, 1]), 4, V)
    assert exact.decode_ids(short).tolist() == [[0, 6, 7, 8], [0, 0, 0, 9]]


def brute_bm25(question, passages):
    n, mean = len(passages), sum(map(len, passages)) / len(passages)
    scores = []
    for passage in passages:
        score = 0.0
        for token in set(question):
            df, tf = sum(token in p for p in passages), passage.count(token)
            score += (
                math.log(1 + (n - df + 0.5) / (df + 0.5))
                * tf * 1.9 / (tf + 0.9 * (0.6 + 0.4 * len(passage) / mean))
            )  # fmt: skip
        scores.append(score)
    return scores


def test_bm25_is_the_formula():
    generator = torch.Generator().manual_seed(0)
    lengths = [8, 8, 3, 8, 5]
    rows, questions, codes = [], [], []
    for _ in range(3):
        passages = [torch.randint(0, 12, (n,), generator=generator) for n in lengths]
        question = torch.randint(0, 12, (6,), generator=generator)
        rows.append(brute_bm25(question.tolist(), [p.tolist() for p in passages]))
        questions.append(exact.encode_ids(question[None], None, L, V)[0])
        held = [exact.encode_ids(p[None], None, L, V)[0] for p in passages]
        codes.append(torch.stack([*held, held[0]]))  # the last slot is not filled, whatever it holds
    filled = torch.tensor([[True] * 5 + [False]] * 3)
    got = exact.Search(torch.stack(questions), torch.stack(codes), filled, V).bm25()
    torch.testing.assert_close(got[:, :5], torch.tensor(rows), atol=1e-5, rtol=1e-5)
    assert not got[:, 5].any()


def test_a_second_hop_asks_with_what_stands_around_the_words():
    """The window of the best passage in which rare words of the question stand, and nothing else of it."""
    length, vocabulary = 120, 400
    filler = [
        torch.randint(200, 300, (length,), generator=torch.Generator().manual_seed(i)) for i in range(4)
    ]
    best = filler[0].clone()
    best[70], best[75], best[20] = 7, 8, 9  # 9 stands in all passages
    others = [passage.clone() for passage in filler[1:]]
    for passage in others:
        passage[3] = 9
    question = torch.tensor([7, 8, 9, 5])
    codes = torch.stack([exact.encode_ids(p[None], None, length, vocabulary)[0] for p in [best, *others]])
    asked = exact.encode_ids(question[None], None, 6, vocabulary)
    filled = torch.ones(1, 4, dtype=torch.bool)
    got = exact.Search(asked, codes[None], filled, vocabulary).again(torch.tensor([0])).questions
    words = exact.decode_ids(got)[0]
    assert words[:6].tolist() == [0, 0, 8, 9, 10, 6]
    around = [word - 1 for word in words[6:].tolist() if word]
    assert len(around) == exact.WINDOW + 1 and 7 in around and 8 in around
    start = next(i for i in range(length) if best[i : i + 41].tolist() == around)
    assert start <= 70 and 75 < start + 41


def test_two_facts_are_found_by_two_hops():
    """The owner of a thing is named in one place, and what he eats in another."""
    text = torch.arange(5 * L)  # no word stands twice, but for these:
    text[L : L + 3] = torch.tensor([90, 91, 92])  # the casket (90, 91) is Jasper's (92)
    text[2 * L] = 91  # another casket
    text[4 * L : 4 * L + 3] = torch.tensor([92, 93, 94])  # Jasper (92) eats apricots (93, 94)
    question = torch.tensor([90, 91])
    for hops, expected in ((1, False), (2, True)):
        model = build(write_prompt="alone", lexical=100.0, hops=hops)
        asked = model.flush(model.read(question, memory=model.flush(model.read(text))))
        again = {passage.segment for passage in model.recalled(asked)[0] if passage.read_again}
        assert 1 in again and (4 in again) == expected


def test_the_later_of_equal_segments_is_recalled():
    """Whoever was in three places is where he went last; also when the oldest are forgotten."""
    text = torch.arange(8 * L) % 60
    for at in (1, 3, 6):
        text[at * L : (at + 1) * L] = torch.tensor([90, 91, *range(70, 70 + L - 2)])
    for size in (9, 7):  # after the question, all are there, and the oldest is forgotten
        for recency in (0.0, 1.0):
            model = build(write_prompt="alone", lexical=100.0, recency=recency, passages=1, memory_size=size)
            # what the untrained score says of equal tokens is equal
            asked = model.flush(model.read(torch.tensor([90, 91]), memory=model.read(text)))
            weights = {passage.segment: passage.weight for passage in model.recalled(asked, top=9)[0]}
            if recency:
                assert model.recalled(asked)[0][0].segment == 6 and weights[6] > 1.2 * weights[3]
            else:
                assert weights[6] == pytest.approx(weights[3], rel=1e-3)


def test_the_best_are_chosen_in_the_order_of_the_text():
    weights = torch.tensor([[0.1, 0.4, 0.2, 0.3], [0.7, 0.1, 0.1, 0.1]]).log()
    held = torch.tensor([[4, 5, 2, 3], [0, -1, -1, -1]])
    slots, there = exact.choose(weights, held, 2)
    assert slots[0].tolist() == [3, 1] and there[0].tolist() == [True, True]
    assert slots[1, 1] == 0 and there[1].tolist() == [False, True]


@pytest.mark.parametrize("fields", MODELS)
def test_a_flushed_memory_is_what_shorter_segments_leave(fields):
    """Closing early equals the equations: the next segment recalls what was closed, with its real tokens."""
    model = build(**fields)
    text, question, answer = random_ids(2 * L + 3, 1), random_ids(4, 2), random_ids(3, 3)
    memory = model.read(text)
    flushed = model.flush(memory)
    assert memory.open_lengths.tolist() == [3] and flushed.open_lengths.tolist() == [0]
    assert flushed.segments_read.tolist() == [3]
    assert flushed.tokens_read.tolist() == memory.tokens_read.tolist() == [2 * L + 3]
    asked = model.flush(model.read(question, memory=flushed))
    assert asked.tokens_read.tolist() == [2 * L + 7]
    held = model.remembered(asked, 0, [0, 1, 2, 3])
    whole = [*text.split(L), question]
    assert held == [part.tolist() for part in whole]

    with torch.no_grad():
        logits = model(answer[None], past_key_values=asked.copy()).logits[0]
        # by hand: P, the passages, the last five tokens, the answer
        found = [passage for passage in model.recalled(asked, top=6)[0] if passage.read_again]
        again = [whole[passage.segment] for passage in sorted(found, key=lambda p: p.segment)]
        assert len(again) == model.config.passages
        layout = model.layout(asked.state, None)
        prompt = layout.parts[0].vectors[0]
        before = torch.cat([*again, torch.cat(whole)[-5:], answer])
        inputs = torch.cat([prompt, model.embed(before)])[None]
        expected = model.backbone(inputs_embeds=inputs).logits[0, -3:]
    torch.testing.assert_close(logits, expected, atol=2e-5, rtol=1e-4)
    assert 3 not in [passage.segment for passage in model.recalled(asked, top=6)[0]]  # the question itself
    total = sum(passage.weight for passage in model.recalled(asked, top=6)[0])
    assert total == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("fields", MODELS)
def test_rows_are_flushed_as_if_alone(fields):
    model = build(**fields)
    rows = [random_ids(n, n) for n in (3, L, 2 * L + 5, L + 3)]
    together = model.flush(Memory.cat([model.read(row) for row in rows]))
    for index, row in enumerate(rows):
        alone, one = model.flush(model.read(row)), together.select([index])
        for name, tensor in alone.state.tensors.items():
            if tensor.is_floating_point():
                torch.testing.assert_close(one.state[name], tensor, atol=2e-5, rtol=1e-4)
            else:
                assert torch.equal(one.state[name], tensor), name


@pytest.mark.parametrize("fields", MODELS)
def test_decoding_behind_a_flushed_memory_equals_a_full_pass(fields):
    model = build(**fields)
    asked = model.flush(
        model.read(random_ids(4, 9), memory=model.flush(model.read(random_ids(3 * L + 2, 7))))
    )
    answer = random_ids(2 * L + 3, 5)
    with torch.no_grad():
        whole = model(answer[None], past_key_values=asked.copy(), labels=answer[None]).logits
        memory, steps = asked.copy(), []
        for token in answer:
            steps.append(model(token[None, None], past_key_values=memory).logits)
    torch.testing.assert_close(torch.cat(steps, 1), whole, atol=2e-5, rtol=1e-4)


def test_closing_rows_of_different_length_at_once():
    model = build(**MODELS[0])
    rows = [random_ids(n, n) for n in (5, 2, 0, 7)]
    ids = torch.stack([torch.nn.functional.pad(row, (0, 7 - len(row)), value=9) for row in rows])
    start = model.read(torch.stack([random_ids(2 * L, 20 + i) for i in range(4)])).state
    with torch.no_grad():
        state = model.close(ids, start, torch.tensor([5, 2, 0, 7]))
        for index, row in enumerate(rows):
            one = start.select(torch.tensor([index]))
            expected = model.close(row[None], one) if len(row) else one
            for name, tensor in expected.tensors.items():
                got = state[name][index : index + 1]
                if tensor.is_floating_point():
                    torch.testing.assert_close(got, tensor, atol=2e-5, rtol=1e-4)
                else:
                    assert torch.equal(got, tensor), name


def test_reading_takes_one_pass_of_the_segment_alone(monkeypatch):
    model = build(write_prompt="alone")
    passes = []
    original = type(model).run_pass

    def counted(self, embeds, state, **options):
        passes.append(embeds.shape[:2])
        return original(self, embeds, state, **options)

    monkeypatch.setattr(type(model), "run_pass", counted)
    model.read(random_ids(20 * L + 3), chunk=8)
    assert passes == [(8, L + 2), (8, L + 2), (4, L + 2)]
    assert model.reading_passes() == [L + 2]


def test_segments_without_labels_cost_no_pass_of_their_own_in_training(monkeypatch):
    model = build(write_prompt="alone").train()
    ids = random_ids(5 * L)[None]
    labels = ids.clone()
    labels[:, : 4 * L] = -100
    whole = model(ids, labels=labels, logits_to_keep=0).loss
    widths = []
    original = type(model).run_pass

    def counted(self, embeds, state, **options):
        widths.append(tuple(embeds.shape[:2]))
        return original(self, embeds, state, **options)

    monkeypatch.setattr(type(model), "run_pass", counted)
    loss = model(ids, labels=labels).loss
    torch.testing.assert_close(loss, whole, atol=1e-5, rtol=1e-5)
    # segments 3 and 4 are scored: the first token of the last is predicted by the last of the one before
    assert widths[:2] == [(3, L + 2), (1, 4 + 2)]
    loss.backward()
    assert model.write_prompt.weight.grad.abs().max() > 0


def test_what_cannot_be_asked_is_refused():
    with pytest.raises(ValueError, match="passages must not be negative"):
        build(passages=-1)
    with pytest.raises(ValueError, match="set passages to at least 1"):
        build(passages=0, lexical=0.1)
    with pytest.raises(ValueError, match="set passages to at least 1"):
        build(recall_query="segment", lexical=0.1)
    with pytest.raises(ValueError, match="hops must be 1 or 2"):
        build(hops=3)
    with pytest.raises(ValueError, match="set lexical, and passages to 2 or more"):
        build(hops=2)
    with pytest.raises(ValueError, match="lexical must not be negative"):
        build(lexical=-1.0)
    with pytest.raises(ValueError, match="recency must not be negative"):
        build(recency=-1.0)
    plain = build(passages=0)
    memory = plain.read(random_ids(2 * L + 1))
    with pytest.raises(ValueError, match="cannot close a segment early"):
        plain.flush(memory)
    assert plain.recalled(memory)[0][0].ids is None
    model = build()
    with pytest.raises(ValueError, match="at least 1, got 0"):
        model.recalled(model.read(random_ids(L)), top=0)
    asking = build(recall_query="segment")
    with pytest.raises(ValueError, match="read the question first"):
        asking.recalled(asking.read(random_ids(2 * L)))


def test_a_memory_file_keeps_the_passages(tmp_path):
    model = build(**MODELS[0])
    memory = model.flush(model.read(random_ids(5 * L + 3)))
    memory.save(tmp_path / "m.hmt")
    again = Memory.load(tmp_path / "m.hmt", model=model)
    for name, tensor in memory.state.tensors.items():
        assert torch.equal(again.state[name], tensor) and again.state[name].dtype == tensor.dtype
    # a token takes two bytes
    without = build(write_prompt="alone", passages=0, recall_query="memory").new_memory(1).nbytes
    assert model.new_memory(1).nbytes - without == 6 * L * 2 + 8


@pytest.mark.parametrize("where", ["right", "middle"])
def test_ends_inside_a_sample_are_flushed_memories(where):
    """Rows of several segments, some closed early, give what reading, flushing and reading on give."""
    model = build(**MODELS[0])
    rows = [[L, 3, 4, 5], [2 * L + 2, 6, 3], [4, 2 * L]]
    pieces = [[random_ids(n, 10 * r + i) for i, n in enumerate(row)] for r, row in enumerate(rows)]
    texts = [torch.cat(row) for row in pieces]
    width = max(map(len, texts)) + 2
    ids, mask, ends = torch.full((3, width), 7), torch.zeros(3, width).long(), torch.zeros(3, width).long()
    for row, text in enumerate(texts):
        columns = torch.arange(len(text)) if where == "right" else torch.arange(width - len(text), width)
        if where == "middle":
            columns[: len(text) // 2] -= 1
        ids[row, columns], mask[row, columns] = text, 1
        ends[row, columns[torch.tensor([len(p) for p in pieces[row]]).cumsum(0)[:-1] - 1]] = 1
    labels = torch.where(mask.bool(), ids, -100)
    with torch.no_grad():
        out = model(ids, mask, labels=labels, segment_ends=ends, use_cache=True)
        losses, count = 0.0, 0
        for row, parts in enumerate(pieces):
            memory, logits = None, []
            for index, part in enumerate(parts):
                alone = model(part[None], past_key_values=memory, use_cache=True)
                logits.append(alone.logits[0])
                memory = alone.past_key_values
                memory = model.flush(memory) if index + 1 < len(parts) else memory
            expected = torch.cat(logits)
            torch.testing.assert_close(out.logits[row, mask[row].bool()], expected, atol=2e-5, rtol=1e-4)
            losses += torch.nn.functional.cross_entropy(expected[:-1], texts[row][1:], reduction="sum")
            count += len(texts[row]) - 1
            one = out.past_key_values.select([row])
            assert torch.equal(one.open_ids, memory.open_ids)
            assert torch.equal(one.open_lengths, memory.open_lengths)
            for name, tensor in memory.state.tensors.items():
                if tensor.is_floating_point():
                    torch.testing.assert_close(one.state[name], tensor, atol=2e-5, rtol=1e-4)
                else:
                    assert torch.equal(one.state[name], tensor), name
    torch.testing.assert_close(out.loss, losses / count, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("replay", [False, True])
def test_a_question_is_trained_without_passes_over_what_it_asks_about(replay, monkeypatch):
    """Passages, a question and an answer in one sample: only the answer is a pass of its own."""
    widths = []
    original = HMTForCausalLM.run_pass

    def counted(self, embeds, state, **options):
        widths.append(tuple(embeds.shape[:2]))
        return original(self, embeds, state, **options)

    monkeypatch.setattr(HMTForCausalLM, "run_pass", counted)
    model = build(**MODELS[2], memory_scale=0.5).train()
    widths.clear()  # of trying out the backbone
    parts = [random_ids(n, n) for n in (2 * L, 5, 4)]
    ids = torch.cat(parts)[None].repeat(2, 1)
    ends, labels = torch.zeros_like(ids), ids.clone()
    ends[:, 2 * L + 4] = 1
    labels[:, : 2 * L + 6] = -100
    targets = torch.tensor([[-100, -100, -100, 0], [-100, -100, -100, 1]])
    options = {"recall_targets": targets, "recall_loss_weight": 0.5, "recall_negatives": True}
    out = model(ids, labels=labels, segment_ends=ends, replay=replay, **options)
    assert out.recall_loss > 0
    # passages and question are written, the question is summarised, the answer read behind all of them
    assert sorted(widths) == sorted([(4, L + 2), (2, 5 + 2), (2, 4 + 2), (2, 1 + 2 * L + 5 + 4)])
    out.loss.backward()
    slow = build(**MODELS[2], memory_scale=0.5).train()
    whole = slow(ids, labels=labels, segment_ends=ends, logits_to_keep=0, **options)
    whole.loss.backward()
    torch.testing.assert_close(out.loss, whole.loss, atol=1e-5, rtol=1e-5)
    for (name, ours), theirs in zip(model.named_parameters(), slow.parameters(), strict=True):
        if theirs.grad is not None:
            torch.testing.assert_close(ours.grad, theirs.grad, atol=2e-5, rtol=1e-3, msg=name)
    assert model.recall.query.weight.grad.abs().max() > 0 and model.summary_prompt.weight.grad.abs().max() > 0


def test_ends_are_refused_where_segments_cannot_be_closed():
    ids = random_ids(6)[None]
    with pytest.raises(ValueError, match="cannot close segments early inside a batch"):
        build(write_prompt="learned")(ids, segment_ends=torch.zeros_like(ids))
    with pytest.raises(ValueError, match="segment_ends must be"):
        build(**MODELS[2])(ids, segment_ends=torch.zeros(1, 4))
