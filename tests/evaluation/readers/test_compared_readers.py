import copy
import sys
from itertools import pairwise

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BloomConfig, BloomForCausalLM, PreTrainedTokenizerFast

from hmt import HMTForCausalLM
from hmt.backbone.flops import BackboneFlops, causal_pairs, segment_flops
from hmt.evaluation import history_perplexity
from hmt.evaluation.memory_use import kv_cache_bytes
from hmt.evaluation.readers import BM25Reader, FullReader, MemoryReader, WindowReader, parse_bytes, rows_at
from hmt.evaluation.targets import gather_windows

LENGTH, VOCABULARY = 8, 60
VARIANTS = {
    "segment": ("hmt", {}),
    "late summary": ("hmt", {"summary_length": 6}),
    "previous": ("hmt", {"recall_query": "previous"}),
    "memory": ("hmt", {"recall_query": "memory"}),
    "inline": ("hmt", {"recall_query": "inline"}),
    "stage 1": ("hmt", {"recall": False}),
    "rmt": ("rmt", {}),
    "window": ("window", {}),
    "plain": ("plain", {}),
}


def ids(number: int, seed: int = 0) -> list[int]:
    return torch.randint(VOCABULARY, (number,), generator=torch.Generator().manual_seed(seed)).tolist()


@pytest.fixture(params=VARIANTS)
def model(request, make_model):
    system, fields = VARIANTS[request.param]
    return make_model(system, **fields)


@pytest.fixture
def backbone(make_model):
    return make_model("plain").backbone


@pytest.fixture
def short_backbone(backbone):
    """One with 16 positions."""
    backbone.config.max_position_embeddings = 16
    return backbone


@pytest.fixture
def tokenizer():
    """Token n is the word wn."""
    words = Tokenizer(models.WordLevel({f"w{n}": n for n in range(VOCABULARY)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words)


@torch.no_grad()
def direct(backbone, before: list[int], continuation: list[int]) -> list[float]:
    """Nats of a continuation by one plain pass of the backbone."""
    logits = backbone(torch.tensor([before + continuation])).logits[0].float()
    nats = -logits.log_softmax(-1)
    return [nats[len(before) - 1 + place, token].item() for place, token in enumerate(continuation)]


@torch.no_grad()
def one_by_one(model, before: list[int], continuation: list[int]) -> list[float]:
    """Nats of a continuation by feeding a new memory token by token: nothing can be known too early."""
    memory, nats, tokens = model.new_memory(1), [], before + continuation
    for token, following in pairwise(tokens):
        logits = model(torch.tensor([[token]]), past_key_values=memory, use_cache=True).logits
        nats.append(-logits[0, -1].float().log_softmax(-1)[following].item())
    return nats[len(before) - 1 :]


def contents(memory) -> dict[str, torch.Tensor]:
    tensors = {**memory.state.tensors, "open": memory.open_ids, "lengths": memory.open_lengths}
    return {name: tensor.clone() for name, tensor in tensors.items()}


# -- models with memory -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "prompt"), [(0, 3), (16, 0), (21, 8)])
def test_memory_nats_equal_feeding_single_tokens(model, text, prompt):
    reader = MemoryReader(model)
    text, prompt, goal = ids(text, 1), ids(prompt, 2), ids(13, 3)
    got = reader.nats(reader.read(text), prompt, goal)
    torch.testing.assert_close(got, one_by_one(model, text + prompt, goal), rtol=1e-3, atol=1e-4)


def test_no_token_is_known_before_it_is_predicted(model):
    reader = MemoryReader(model)
    memory, prompt, goal = reader.read(ids(21, 1)), ids(2, 2), ids(9, 3)
    plain = reader.nats(memory, prompt, goal)
    for place in (0, 1, 2, 4, 6, 8):  # a segment begins at 1
        changed = goal[:place] + [(token + 7) % VOCABULARY for token in goal[place:]]
        got = reader.nats(memory, prompt, changed)
        torch.testing.assert_close(got[:place], plain[:place], rtol=1e-3, atol=1e-4)
        assert abs(got[place] - plain[place]) > 1e-4


@torch.no_grad()
def test_a_segment_in_one_call_would_leak(make_model):
    """The paper's query sees the head of the segment: the test above can fail."""
    model = make_model("hmt")
    memory = model.read(ids(16, 1))
    one, other = (
        model(torch.tensor([head + ids(4, 9)]), past_key_values=memory.copy(), use_cache=True).logits[0, 0]
        for head in ([1, 2, 3], [1, 2, 4])
    )
    assert (one - other).abs().max() > 1e-3


def test_memory_target_nats_equal_history_perplexity(model, documents):
    reader, skip = MemoryReader(model), 6
    for histories in ([0], [3]):
        result = history_perplexity({"m": model}, documents, histories, skip=skip)
        windows = gather_windows(documents, result.targets, histories[0], LENGTH)
        got = reader.target_nats(windows[:, :-LENGTH], windows[:, -LENGTH:])
        assert got.dtype == torch.float32
        assert got.isnan().sum() == len(windows) * reader.unscored_head
        assert got[:, : reader.unscored_head].isnan().all()
        torch.testing.assert_close(
            got[:, skip:].double().sum(1), torch.tensor(result.nll["m"][histories[0]]).double()
        )


def test_memory_target_nats_equal_nats(model):
    reader = MemoryReader(model)
    head = reader.unscored_head
    history, target = torch.tensor([ids(24, 1), ids(24, 2)]), torch.tensor([ids(LENGTH, 3), ids(LENGTH, 4)])
    got = reader.target_nats(history, target)
    for row, past, goal in zip(got, history.tolist(), target.tolist(), strict=True):
        want = reader.nats(reader.read(past), goal[:head], goal[head:])
        torch.testing.assert_close(row[head:].tolist(), want, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("text", [0, 16, 21])
def test_memory_generates_as_the_model_and_stays_as_it_was(model, text):
    reader, text, prompt = MemoryReader(model), ids(text, 1), ids(5, 2)
    model.generation_config.eos_token_id = None
    memory = reader.read(text)
    before = contents(memory.memory)
    got = reader.generate(memory, prompt, 12)
    own = model.read(text) if text else None
    options = {} if own is None else {"past_key_values": own}
    want = model.generate(
        torch.tensor([prompt]), max_new_tokens=12, do_sample=False, pad_token_id=0, **options
    )
    assert got == want[0, 5:].tolist()
    nats = reader.nats(memory, prompt, got)
    assert nats == reader.nats(memory, prompt, got)
    start = [] if text else [1]  # what stands before the answer is a single token
    assert reader.nats(memory, start, got) == reader.nats(memory, start, got)
    after = contents(memory.memory)
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("kind", ["memory", "window"])
def test_generation_ends_at_stop_and_at_the_end_of_text(make_model, backbone, kind):
    reader = MemoryReader(make_model("hmt")) if kind == "memory" else WindowReader(backbone, tokens=4)
    owner = reader.model if kind == "memory" else reader.backbone
    owner.generation_config.eos_token_id = None
    owner.generation_config.do_sample = True  # a checkpoint may ask for it; answers are greedy
    memory, prompt = reader.read(ids(9, 1)), ids(3, 2)
    free = reader.generate(memory, prompt, 9)
    assert len(free) == 9 and free == reader.generate(memory, prompt, 9)
    assert reader.generate(memory, prompt, 9, lambda new: len(new) == 4) == free[:4]
    assert reader.generate(memory, prompt, 0) == []
    owner.generation_config.eos_token_id = [free[3]]
    assert reader.generate(memory, prompt, 9) == free[: free.index(free[3])]


def test_what_a_memory_reader_says_of_itself(make_model):
    model = make_model("hmt")
    reader = MemoryReader(model)
    assert reader.name == "hmt" and reader.limit is None and reader.unscored_head == 4
    assert reader.bytes_carried == model.read(ids(50)).nbytes == reader.read(ids(50)).memory.nbytes
    own = sum(p.numel() for name, p in model.named_parameters() if not name.startswith("backbone."))
    assert reader.extra_parameters == own > 0
    head = 2 * VOCABULARY * 32
    assert reader.flops_per_token(LENGTH) == segment_flops(model.backbone, model.passes()) / LENGTH + head
    with pytest.raises(ValueError, match="segments of 8 tokens"):
        reader.flops_per_token(16)
    with pytest.raises(ValueError, match="segments of 8 tokens"):
        reader.target_nats(torch.zeros(1, 0, dtype=torch.long), torch.zeros(1, 16, dtype=torch.long))
    model.add_lora(r=2, target_modules=["q_proj"])
    lora = 2 * (2 * 32 + 2 * 32)  # two layers: 32 -> 2 -> 32
    assert MemoryReader(model).extra_parameters == own + lora


def test_questions_that_cannot_be_asked(make_model, backbone, tokenizer):
    pytest.importorskip("bm25s")
    for reader in (
        MemoryReader(make_model("hmt")),
        WindowReader(backbone, tokens=4),
        FullReader(backbone),
        BM25Reader(backbone, tokenizer, 1000),
    ):
        empty = reader.read([])
        with pytest.raises(ValueError, match="continuation"):
            reader.nats(reader.read([1]), [2], [])
        for ask in (
            lambda r=reader, e=empty: r.nats(e, [], [1]),
            lambda r=reader, e=empty: r.generate(e, [], 3),
        ):
            with pytest.raises(ValueError, match="neither the text nor the prompt"):
                ask()
        for history in (torch.zeros(1, 3, dtype=torch.long), torch.zeros(2, 8, dtype=torch.long)):
            with pytest.raises(ValueError, match="history"):
                reader.target_nats(history, torch.zeros(1, LENGTH, dtype=torch.long))
        # the first token behind a text is predicted from its last one
        assert len(reader.nats(reader.read([5]), [], [1, 2])) == 2


# -- window and full attention ----------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "tokens"), [(30, 11), (5, 11), (30, 0), (0, 11)])
def test_window_nats_and_answers_equal_a_plain_pass(backbone, text, tokens):
    reader, text, prompt, goal = WindowReader(backbone, tokens=tokens), ids(text, 1), ids(3, 2), ids(9, 3)
    before = (text[-tokens:] if tokens else []) + prompt
    memory = reader.read(text)
    torch.testing.assert_close(
        reader.nats(memory, prompt, goal), direct(backbone, before, goal), rtol=1e-4, atol=1e-4
    )
    backbone.generation_config.eos_token_id = None
    new = backbone.generate(torch.tensor([before]), max_new_tokens=6, do_sample=False, pad_token_id=0)
    assert reader.generate(memory, prompt, 6) == new[0, len(before) :].tolist()
    assert memory == reader.read(text)


def test_the_backbone_alone_starts_from_the_last_token_where_there_is_no_prompt(backbone):
    reader = WindowReader(backbone, tokens=0)
    got = reader.nats(reader.read([4, 5, 6]), [], [7, 8])
    torch.testing.assert_close(got, direct(backbone, [6], [7, 8]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("histories", [0, 3])
def test_window_scores_targets_as_the_window_system_does(make_model, histories):
    model = make_model("window")
    windows = torch.stack([torch.tensor(ids((histories + 1) * LENGTH, seed)) for seed in range(5)])
    history, target = windows[:, :-LENGTH], windows[:, -LENGTH:]
    got = WindowReader(model.backbone, tokens=11).target_nats(history, target)
    want = MemoryReader(model).target_nats(history, target)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4, equal_nan=True)
    assert got[:, 0].isnan().all() and not got[:, 1:].isnan().any()


def test_a_window_is_cut_to_the_positions_of_the_backbone(short_backbone):
    reader = WindowReader(short_backbone, tokens=14)
    memory, prompt, goal = reader.read(ids(40, 1)), ids(4, 2), ids(6, 3)
    want = direct(short_backbone, ids(40, 1)[-7:] + prompt, goal)  # 7 + 4 + 5 inputs
    torch.testing.assert_close(reader.nats(memory, prompt, goal), want, rtol=1e-4, atol=1e-4)
    history, target = torch.tensor([ids(40, 1)]), torch.tensor([ids(LENGTH, 3)])
    got = reader.target_nats(history, target)[0, 1:].tolist()
    want = direct(short_backbone, ids(40, 1)[-9:] + target[0, :1].tolist(), target[0, 1:].tolist())
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="positions"):
        reader.target_nats(torch.zeros(1, 0, dtype=torch.long), torch.zeros(1, 32, dtype=torch.long))


@pytest.mark.parametrize("kind", [lambda b: WindowReader(b, tokens=10), FullReader])
def test_nothing_is_too_long(short_backbone, kind):
    """Questions and answers longer than the backbone's positions: no pass goes beyond, and all is scored."""
    longest = []
    hook = short_backbone.base_model.register_forward_hook(
        lambda module, given, kwargs, out: longest.append(out.last_hidden_state.shape[1]), with_kwargs=True
    )
    reader = kind(short_backbone)
    memory, goal = reader.read(ids(40, 1)), ids(37, 3)
    got = reader.nats(memory, ids(30, 2), goal)
    assert len(got) == 37 and max(longest) <= 16
    assert len(reader.generate(memory, ids(30, 2), 40)) == 15
    assert max(longest) <= 16
    hook.remove()
    everything = ids(30, 2) + goal
    want = direct(
        short_backbone, everything[30 + 8 - 9 : 30 + 8], goal[8:16]
    )  # 9 + 7 inputs for the second block
    torch.testing.assert_close(got[8:16], want, rtol=1e-4, atol=1e-4)


def test_full_attention_reads_all_that_fits(backbone, short_backbone):
    text, prompt, goal = ids(40, 1), ids(3, 2), ids(5, 3)
    assert FullReader(short_backbone).limit == 16
    reader = FullReader(short_backbone, 12)
    want = direct(short_backbone, text[-5:] + prompt, goal)  # 5 + 3 + 4 inputs
    torch.testing.assert_close(reader.nats(reader.read(text), prompt, goal), want, rtol=1e-4, atol=1e-4)
    backbone.config.max_position_embeddings = 100
    reader = FullReader(backbone)
    torch.testing.assert_close(
        reader.nats(reader.read(text), prompt, goal),
        direct(backbone, text + prompt, goal),
        rtol=1e-4,
        atol=1e-4,
    )
    history, target = torch.tensor([text]), torch.tensor([ids(LENGTH, 4)])
    want = direct(backbone, text, target[0].tolist())[1:]
    torch.testing.assert_close(
        reader.target_nats(history, target)[0, 1:].tolist(), want, rtol=1e-4, atol=1e-4
    )
    assert reader.bytes_carried is None and reader.limit == 100
    with pytest.raises(ValueError, match="100"):
        FullReader(backbone, 101)
    endless = BloomForCausalLM(BloomConfig(vocab_size=VOCABULARY, hidden_size=8, n_layer=1, n_head=2)).eval()
    with pytest.raises(ValueError, match="limit="):
        FullReader(endless)
    assert FullReader(endless, 4000).limit == 4000
    assert len(WindowReader(endless, tokens=9).nats(text, prompt, goal)) == 5


def test_bytes_and_work_of_windows(backbone):
    token = kv_cache_bytes(backbone.config, 1, 4)
    window = WindowReader(backbone, 10 * token + 3)
    assert (window.tokens, window.bytes_carried) == (10, 10 * token)
    as_ids = WindowReader(backbone, 43, ids=True)
    assert (as_ids.tokens, as_ids.bytes_carried, as_ids.name) == (10, 40, "window-ids")
    assert WindowReader(backbone, token - 1).tokens == 0
    assert WindowReader(copy.deepcopy(backbone).bfloat16(), 10 * token).tokens == 20
    backbone.config.max_position_embeddings = 64
    assert WindowReader(backbone, 10**6, ids=True).tokens == 64

    count = BackboneFlops.of(backbone)
    head = 2 * VOCABULARY * 32
    alone = WindowReader(backbone, tokens=0).flops_per_token(LENGTH)
    assert alone == count.forward(LENGTH, causal_pairs(LENGTH)) / LENGTH + head
    assert window.flops_per_token(LENGTH) == alone + count.attention(10)
    assert as_ids.flops_per_token(LENGTH) == count.forward(18, causal_pairs(18)) / LENGTH + head
    assert FullReader(backbone).flops_per_token(LENGTH) == count.full_attention(64) / 64 + head

    backbone.config.layer_types, backbone.config.sliding_window = ["full_attention", "sliding_attention"], 4
    assert WindowReader(backbone, 10 * token).tokens == 16  # the second layer keeps 4 of them
    backbone.config.layer_types = ["linear_attention"] * 2
    with pytest.raises(ValueError, match="no KV cache"):
        WindowReader(backbone, 10 * token)
    for wrong in ({}, {"budget_bytes": 5, "tokens": 5}, {"tokens": -1}, {"budget_bytes": -1}):
        with pytest.raises(ValueError, match="window"):
            WindowReader(backbone, **wrong)
    with pytest.raises(ValueError, match="positions"):
        WindowReader(backbone, tokens=3, positions=65)


# -- retrieval --------------------------------------------------------------------------------------------


@pytest.fixture
def bm25():
    pytest.importorskip("bm25s")
    return BM25Reader


def story() -> list[int]:
    """80 tokens from 1 to 19 in passages of 8; 50 is in the third, 51 in the fifth and the seventh."""
    text = [1 + token % 19 for token in ids(80, 1)]
    text[18], text[35], text[52] = 50, 51, 51
    return text


def test_retrieval_finds_the_passages_with_the_words_that_are_asked_for(backbone, tokenizer, bm25, capfd):
    text = story()
    passages = [text[start : start + 8] for start in range(0, 80, 8)]
    reader = bm25(backbone, tokenizer, 10**6, passage_tokens=8, top=1, recent=4)
    memory = reader.read(text)
    assert list(map(list, memory.passages)) == [*passages[:9], text[72:76]]
    assert reader.chosen(memory, [50], 100) == passages[2] + text[-4:]
    two = bm25(backbone, tokenizer, 10**6, passage_tokens=8, top=2, recent=4)
    assert two.chosen(memory, [51, 50, 51], 100)[-4:] == text[-4:]
    assert two.chosen(memory, [51], 100) == passages[4] + passages[6] + text[-4:]  # in text order
    assert two.chosen(memory, [55], 100) == text[-4:]  # no passage has it
    assert two.chosen(memory, [51], 13) == reader.chosen(memory, [51], 100)  # room for the best one
    assert two.chosen(memory, [51], 3) == text[-3:] and two.chosen(memory, [51], 0) == []
    goal = ids(5, 3)
    want = direct(backbone, passages[2] + text[-4:] + [50], goal)
    torch.testing.assert_close(reader.nats(memory, [50], goal), want, rtol=1e-4, atol=1e-4)
    assert "".join(capfd.readouterr()) == ""  # no progress bars


def test_equal_scores_go_to_the_earlier_passage(backbone, tokenizer, bm25):
    reader = bm25(backbone, tokenizer, 10**6, passage_tokens=4, top=1, recent=1)
    memory = reader.read([1, 2, 3, 4] + [5, 6, 7, 8] * 3 + [9])
    assert reader.chosen(memory, [5], 10) == [5, 6, 7, 8, 9]
    assert reader._ranked(memory, [5]) == [1, 2, 3]


def test_retrieval_carries_the_last_bytes_of_the_text(backbone, tokenizer, bm25):
    text = [10 + token % 50 for token in ids(80, 1)]  # words of three letters: 4 n - 1 bytes for n of them
    reader = bm25(backbone, tokenizer, 100, passage_tokens=8, recent=4)
    memory = reader.read(text)
    # 19 for the last four tokens, behind a passage of four (19) and one of eight (35); another does not fit
    assert memory.passages == (tuple(text[64:72]), tuple(text[72:76]))
    assert reader.bytes_carried == 100
    kept = [*memory.passages, memory.recent]
    assert sum(len(tokenizer.decode(part).encode()) + 4 for part in kept) <= 100
    assert len(bm25(backbone, tokenizer, 12, recent=4).read(text).recent) == 2


def test_retrieval_scores_targets_without_looking_ahead(backbone, tokenizer, bm25):
    history = torch.tensor([story(), story()[::-1]])
    target = torch.tensor([ids(LENGTH, 5), [51, *ids(LENGTH - 1, 6)]])
    options = {"passage_tokens": 8, "top": 2, "recent": 4}
    for head, reader in (
        (1, bm25(backbone, tokenizer, 10**6, **options)),
        (3, bm25(backbone, tokenizer, 10**6, query_tokens=3, **options)),
    ):
        assert reader.unscored_head == head
        got = reader.target_nats(history, target)
        assert got[:, :head].isnan().all() and not got[:, head:].isnan().any()
        for row, past, goal in zip(got, history.tolist(), target.tolist(), strict=True):
            query = goal[:3] if head == 3 else past[-LENGTH:]
            context = reader.chosen(reader.read(past), query, 1000)
            want = direct(backbone, context + goal[:head], goal[head:])
            torch.testing.assert_close(row[head:].tolist(), want, rtol=1e-4, atol=1e-4)
        for place in range(head, LENGTH):
            changed = target.clone()
            changed[:, place:] = (changed[:, place:] + 7) % VOCABULARY
            again = reader.target_nats(history, changed)
            torch.testing.assert_close(again[:, head:place], got[:, head:place], rtol=1e-4, atol=1e-4)
    nothing = reader.target_nats(history[:, :0], target)
    torch.testing.assert_close(
        nothing[0, 3:].tolist(),
        direct(backbone, target[0, :3].tolist(), target[0, 3:].tolist()),
        rtol=1e-4,
        atol=1e-4,
    )


def test_retrieval_says_what_is_wrong(backbone, tokenizer, bm25, monkeypatch):
    for field in ("budget_bytes", "passage_tokens", "top", "recent", "query_tokens"):
        with pytest.raises(ValueError, match=field):
            bm25(backbone, tokenizer, **{"budget_bytes": 9, field: 0})
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(ValueError, match=r'pip install "hmt-lm\[eval\]"'):
        bm25(backbone, tokenizer, 100)


# -- rows at equal bytes ----------------------------------------------------------------------------------


def test_rows_carry_what_the_budget_allows(make_model, tokenizer):
    pytest.importorskip("bm25s")
    model = make_model("hmt")
    model.backbone.config.max_position_embeddings = 10**5
    budgets = [4096, 2048]
    every = ("full", "alone", "sensory", "window", "window-ids", "bm25")
    rows = {row.name: row for row in rows_at(model, budgets, tokenizer, every, name="HMT")}
    per_budget = ("HMT", "window", "window-ids", "bm25")
    assert set(rows) == {f"{name} {size} KiB" for name in per_budget for size in (2, 4)} | {
        "alone",
        "sensory",
        "full",
    }
    for name in per_budget:
        for budget in budgets:
            assert budget / 2 < rows[f"{name} {budget // 1024} KiB"].bytes_carried <= budget
    assert rows["sensory"].tokens == 2 and rows["alone"].tokens == rows["alone"].bytes_carried == 0
    bank = rows["HMT 4 KiB"].model
    assert bank is not model and model.config.memory_size == 4
    assert rows["HMT 4 KiB"].bytes_carried + bank.new_memory(1).state["bank"][0, 0].nbytes > 4096
    assert list(bank.parameters())[0] is list(model.parameters())[0]
    assert [row.name for row in rows_at(model, [], baselines=["window"])] == ["hmt 736 B", "window 736 B"]
    assert rows_at(model, [2048], baselines=["window-ids"], limit=30)[1].tokens == 30
    assert [row.name for row in rows_at(model, [10**6, 10**6 + 1], baselines=[])] == [
        "hmt 1000000 B",
        "hmt 1000001 B",
    ]


def test_a_bank_of_another_size_is_the_model_built_with_it(make_model):
    model = make_model("hmt", memory_size=2)
    model.compiled = "of the first bank"
    twin = model.resized(memory_size=7)
    assert twin.compiled is None and (model.config.memory_size, twin.config.memory_size) == (2, 7)
    built = HMTForCausalLM.from_backbone(
        model.backbone, segment_length=LENGTH, sensory_length=2, memory_size=7
    ).eval()
    built.load_state_dict(model.state_dict())
    model.compiled = None
    history, target = torch.tensor([ids(64, 1)]), torch.tensor([ids(LENGTH, 2)])
    small, large, want = (MemoryReader(each) for each in (model, twin, built))
    assert large.bytes_carried == want.bytes_carried > small.bytes_carried
    scores = [each.target_nats(history, target)[0, 4:] for each in (small, large, want)]
    assert torch.equal(scores[1], scores[2]) and not torch.allclose(scores[0], scores[1])
    answers = [each.generate(each.read(ids(64, 1)), ids(3, 2), 20) for each in (large, want)]
    assert answers[0] == answers[1]
    nats = [each.nats(each.read(ids(64, 1)), ids(3, 2), ids(9, 3)) for each in (large, want)]
    torch.testing.assert_close(nats[0], nats[1])
    with pytest.raises(ValueError, match="bank|shapes|configuration"):
        model.read([1, 2], memory=large.read(ids(64, 1)).memory)  # belongs to the other


def test_systems_of_one_size_have_one_row(make_model, tokenizer):
    rmt = make_model("rmt")
    rows = rows_at(rmt, [2048, 4096], tokenizer, ["sensory", "window"])
    assert [row.name for row in rows] == ["rmt", "sensory", "window 2 KiB", "window 4 KiB"]
    assert rows[0].bytes_carried == rmt.new_memory(1).nbytes and rows[0].model is rmt
    without = rows_at(make_model("rmt", sensory_length=0), [2048], None, ["sensory"])
    assert [row.name for row in without] == ["rmt"]


def test_rows_that_cannot_be(make_model):
    model = make_model("hmt")
    with pytest.raises(ValueError, match="no baseline 'lstm'"):
        rows_at(model, [2048], None, ["lstm"])
    with pytest.raises(ValueError, match="tokenizer"):
        rows_at(model, [2048], None, ["bm25"])
    least = model.resized(memory_size=1).new_memory(1).nbytes
    assert model.at_budget(least).config.memory_size == 1
    with pytest.raises(ValueError, match=f"{least}"):
        rows_at(model, [least - 1], None, [])


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("64KiB", 65536),
        ("1.5 mib", 3 * 2**19),
        ("100 KB", 100_000),
        ("2MB", 2_000_000),
        ("512 B", 512),
        ("7", 7),
    ],
)
def test_numbers_of_bytes(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "KiB", "-3", "64 kibi", "1e6", "0", "0.5 B", "1,000"])
def test_what_is_no_number_of_bytes(text):
    with pytest.raises(ValueError, match="byte"):
        parse_bytes(text)
