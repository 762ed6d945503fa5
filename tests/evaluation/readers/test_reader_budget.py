import pytest
import torch
from reader_oracles import LENGTH, ids

from hmt import HMTForCausalLM
from hmt.evaluation.readers import MemoryReader, baseline, parse_bytes, rows_at


def test_rows_carry_what_the_budget_allows(make_model, tokenizer):
    pytest.importorskip("bm25s")
    model = make_model("hmt")
    model.backbone.config.max_position_embeddings = 10**5
    budgets = [4096, 2048]
    every = ("full", "alone", "sensory", "window", "sinks", "window-ids", "bm25")
    rows = {row.name: row for row in rows_at(model, budgets, tokenizer, every, name="HMT")}
    per_budget = ("HMT", "window", "sinks", "window-ids", "bm25")
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
    with pytest.raises(ValueError, match="sinks needs a number of bytes"):
        baseline("sinks", model.backbone)
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
