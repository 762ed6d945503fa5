import pytest
import torch
from reader_oracles import LENGTH, VOCABULARY, ids, one_by_one

from hmt.backbone.flops import segment_flops
from hmt.evaluation.readers import BM25Reader, FullReader, MemoryReader, RollingReader, WindowIdsReader

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


@pytest.fixture(params=VARIANTS)
def model(request, make_model):
    system, fields = VARIANTS[request.param]
    return make_model(system, **fields)


def contents(memory) -> dict[str, torch.Tensor]:
    tensors = {**memory.state.tensors, "open": memory.open_ids, "lengths": memory.open_lengths}
    return {name: tensor.clone() for name, tensor in tensors.items()}


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


@pytest.mark.parametrize("segments", [0, 3])
def test_memory_target_nats_are_those_of_one_pass_over_history_and_target(model, segments):
    reader = MemoryReader(model)
    windows = torch.tensor([ids((segments + 1) * LENGTH, seed) for seed in (1, 2, 3)])
    got = reader.target_nats(windows[:, :-LENGTH], windows[:, -LENGTH:])
    assert got.dtype == torch.float32
    assert got.isnan().sum() == len(windows) * reader.unscored_head
    assert got[:, : reader.unscored_head].isnan().all()
    with torch.no_grad():
        scores = model(windows).logits.float().log_softmax(-1)[:, :-1]
    want = -scores.gather(2, windows[:, 1:, None])[..., 0]
    torch.testing.assert_close(got[:, 6:], want[:, 6 - LENGTH :], rtol=1e-4, atol=1e-4)


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


@pytest.mark.parametrize("kind", ["memory", "window-ids", "window"])
def test_generation_ends_at_stop_and_at_the_end_of_text(make_model, backbone, kind):
    readers = {
        "memory": lambda: MemoryReader(make_model("hmt")),
        "window-ids": lambda: WindowIdsReader(backbone, tokens=4),
        "window": lambda: RollingReader(backbone, tokens=4),
    }
    reader = readers[kind]()
    owner = reader.model
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
        WindowIdsReader(backbone, tokens=4),
        RollingReader(backbone, tokens=4, sinks=1),
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
