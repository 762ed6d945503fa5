import pytest
import torch
from reader_oracles import LENGTH, VOCABULARY, direct, ids
from transformers import BloomConfig, BloomForCausalLM

from hmt.backbone.flops import BackboneFlops, causal_pairs
from hmt.evaluation.readers import FullReader, MemoryReader, WindowIdsReader


@pytest.mark.parametrize(("text", "tokens"), [(30, 11), (5, 11), (30, 0), (0, 11)])
def test_window_nats_and_answers_equal_a_plain_pass(backbone, text, tokens):
    reader, text, prompt, goal = WindowIdsReader(backbone, tokens=tokens), ids(text, 1), ids(3, 2), ids(9, 3)
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
    reader = WindowIdsReader(backbone, tokens=0)
    got = reader.nats(reader.read([4, 5, 6]), [], [7, 8])
    torch.testing.assert_close(got, direct(backbone, [6], [7, 8]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("histories", [0, 3])
def test_window_scores_targets_as_the_window_system_does(make_model, histories):
    model = make_model("window")
    windows = torch.stack([torch.tensor(ids((histories + 1) * LENGTH, seed)) for seed in range(5)])
    history, target = windows[:, :-LENGTH], windows[:, -LENGTH:]
    got = WindowIdsReader(model.backbone, tokens=11).target_nats(history, target)
    want = MemoryReader(model).target_nats(history, target)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4, equal_nan=True)
    assert got[:, 0].isnan().all() and not got[:, 1:].isnan().any()


def test_a_window_is_cut_to_the_positions_of_the_backbone(short_backbone):
    reader = WindowIdsReader(short_backbone, tokens=14)
    memory, prompt, goal = reader.read(ids(40, 1)), ids(4, 2), ids(6, 3)
    want = direct(short_backbone, ids(40, 1)[-7:] + prompt, goal)  # 7 + 4 + 5 inputs
    torch.testing.assert_close(reader.nats(memory, prompt, goal), want, rtol=1e-4, atol=1e-4)
    history, target = torch.tensor([ids(40, 1)]), torch.tensor([ids(LENGTH, 3)])
    got = reader.target_nats(history, target)[0, 1:].tolist()
    want = direct(short_backbone, ids(40, 1)[-9:] + target[0, :1].tolist(), target[0, 1:].tolist())
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="positions"):
        reader.target_nats(torch.zeros(1, 0, dtype=torch.long), torch.zeros(1, 32, dtype=torch.long))


@pytest.mark.parametrize("kind", [lambda b: WindowIdsReader(b, tokens=10), FullReader])
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
    assert len(WindowIdsReader(endless, tokens=9).nats(text, prompt, goal)) == 5


def test_bytes_and_work_of_windows(backbone):
    window = WindowIdsReader(backbone, 43)
    assert (window.tokens, window.bytes_carried, window.name) == (10, 40, "window-ids")
    assert WindowIdsReader(backbone, 3).tokens == 0
    backbone.config.max_position_embeddings = 64
    assert WindowIdsReader(backbone, 10**6).tokens == 64

    count = BackboneFlops.of(backbone)
    head = 2 * VOCABULARY * 32
    alone = WindowIdsReader(backbone, tokens=0).flops_per_token(LENGTH)
    assert alone == count.forward(LENGTH, causal_pairs(LENGTH)) / LENGTH + head
    assert window.flops_per_token(LENGTH) == count.forward(18, causal_pairs(18)) / LENGTH + head
    assert FullReader(backbone).flops_per_token(LENGTH) == count.full_attention(64) / 64 + head
    for wrong in ({}, {"budget_bytes": 5, "tokens": 5}, {"tokens": -1}, {"budget_bytes": -1}):
        with pytest.raises(ValueError, match="window"):
            WindowIdsReader(backbone, **wrong)
    with pytest.raises(ValueError, match="positions"):
        WindowIdsReader(backbone, tokens=3, positions=65)
