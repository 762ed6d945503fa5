"""The loss in chunks: equal to the plain one, and never more logits than a chunk's."""

import sys
from types import SimpleNamespace

import pytest
import torch
from backbones import FAMILIES, VOCAB, tiny_backbone
from transformers.loss.loss_utils import ForCausalLMLoss

import hmt.model.losses as module
from hmt.backbone import head
from hmt.model.losses import default_chunk, token_loss

B, W = 2, 11
COUNT = torch.tensor(17)


def sample(backbone, scored: float = 0.6, dtype=torch.float32):
    """hidden [B, W, d] with a gradient, goal int64 [B, W] with -100 here and there."""
    width = backbone.get_output_embeddings().weight.shape[1]
    hidden = torch.randn(B, W, width, dtype=dtype).requires_grad_()
    goal = torch.randint(VOCAB, (B, W)).masked_fill(torch.rand(B, W) > scored, -100)
    return hidden, goal


def plain(backbone, hidden, goal, count, loss_function=ForCausalLMLoss):
    logits = head(backbone, hidden)
    return loss_function(
        logits=logits, labels=None, vocab_size=VOCAB, num_items_in_batch=count, shift_labels=goal
    )


def gradients(backbone, loss, hidden):
    return torch.autograd.grad(loss, [hidden, *backbone.get_output_embeddings().parameters()])


def compare(backbone, hidden, goal, loss_function=ForCausalLMLoss, atol=1e-6, rtol=1e-5, **options):
    want = plain(backbone, hidden, goal, COUNT, loss_function)
    loss = token_loss(backbone, hidden, goal, COUNT, loss_function, **options)
    assert loss.shape == ()
    torch.testing.assert_close(loss, want, atol=atol, rtol=rtol)
    pairs = zip(gradients(backbone, loss, hidden), gradients(backbone, want, hidden), strict=True)
    for got, expected in pairs:
        torch.testing.assert_close(got, expected, atol=atol, rtol=rtol)


@pytest.fixture
def shapes(monkeypatch):
    """The shapes of all logits, those of the backward pass too."""
    seen = []

    def recorded(backbone, hidden):
        logits = head(backbone, hidden)
        seen.append(logits.shape)
        return logits

    monkeypatch.setattr(module, "head", recorded)
    return seen


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("chunk", [1, 4, 7, B * W, 1000, None])
def test_equals_the_plain_loss(chunk, recompute):
    backbone = tiny_backbone()
    compare(backbone, *sample(backbone), chunk=chunk, recompute=recompute)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(family):
    """With the scalings after the head: gemma2 caps its logits."""
    backbone = tiny_backbone(family)
    compare(backbone, *sample(backbone), chunk=5)


@pytest.mark.parametrize("scored", [0.0, 1.0])
@pytest.mark.parametrize("chunk", [4, None])
def test_nothing_or_everything_is_scored(scored, chunk):
    backbone = tiny_backbone()
    hidden, goal = sample(backbone, scored)
    compare(backbone, hidden, goal, chunk=chunk)
    if not scored:
        assert token_loss(backbone, hidden, goal, COUNT, ForCausalLMLoss).item() == 0


@pytest.mark.parametrize("dropping", [True, False])  # False: as on a GPU
def test_chunks_without_a_scored_token(dropping, monkeypatch):
    if not dropping:
        monkeypatch.setattr(module, "_scored", lambda hidden, goal: (hidden, goal))
    backbone = tiny_backbone()
    hidden, goal = sample(backbone, 1.0)
    goal[0] = -100
    compare(backbone, hidden, goal, chunk=3)


@pytest.mark.parametrize("chunk", [1, 3, 8])
def test_never_more_logits_than_a_chunk(chunk, shapes):
    backbone = tiny_backbone()
    hidden, goal = sample(backbone, 1.0)
    token_loss(backbone, hidden, goal, COUNT, ForCausalLMLoss, chunk=chunk).backward()
    assert max(shape.numel() for shape in shapes) <= chunk * VOCAB
    assert sum(shape.numel() for shape in shapes) == 2 * B * W * VOCAB  # computed again, and not a third time


def test_logits_are_not_stored(shapes):
    """What the graph keeps is as large without the chunks' logits as the hidden vectors."""
    backbone = tiny_backbone()
    hidden, goal = sample(backbone, 1.0)
    stored = []

    def pack(tensor):
        stored.append(tensor.shape)
        return tensor

    for options, kept in (({}, True), ({"chunk": 4}, False), ({"recompute": True}, False)):
        stored.clear()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            token_loss(backbone, hidden, goal, COUNT, ForCausalLMLoss, **options)
        # the head's own weight [V, d] is no logits
        assert any(shape[-1:] == (VOCAB,) and shape.numel() >= 4 * VOCAB for shape in stored) is kept


def test_unscored_tokens_cost_nothing_on_a_cpu(shapes):
    backbone = tiny_backbone()
    hidden, goal = sample(backbone)
    token_loss(backbone, hidden, goal, COUNT, ForCausalLMLoss)
    assert [shape.numel() for shape in shapes] == [(goal != -100).sum() * VOCAB]


def test_without_gradients_nothing_is_computed_twice(shapes):
    backbone = tiny_backbone()
    hidden, goal = sample(backbone, 1.0)
    with torch.no_grad():
        loss = token_loss(backbone, hidden, goal, COUNT, ForCausalLMLoss, chunk=4, recompute=True)
        torch.testing.assert_close(loss, plain(backbone, hidden, goal, COUNT))
    assert not loss.requires_grad and sum(shape.numel() for shape in shapes) == B * W * VOCAB


def test_loss_function_of_the_user_sees_the_rows():
    """Also the tokens that are not scored: only the stock loss is known to ignore them."""
    calls = []

    def smooth(logits, labels, vocab_size, num_items_in_batch, shift_labels):
        calls.append(shift_labels)
        assert labels is None and logits.shape == (*shift_labels.shape, vocab_size)
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), shift_labels.flatten(), reduction="sum", label_smoothing=0.1
        )
        return (loss + 0.01 * logits.logsumexp(-1).square().sum()) / num_items_in_batch

    backbone = tiny_backbone()
    hidden, goal = sample(backbone)
    compare(backbone, hidden, goal, smooth, chunk=6)
    calls.clear()
    token_loss(backbone, hidden, goal, COUNT, smooth, chunk=6)
    assert torch.equal(torch.cat(calls, dim=1), goal) and calls[0].shape == (B, 3)


def test_bfloat16():
    backbone = tiny_backbone().bfloat16()
    compare(backbone, *sample(backbone, dtype=torch.bfloat16), chunk=4, atol=2e-2, rtol=2e-2)


def test_autocast():
    backbone = tiny_backbone()
    hidden, goal = sample(backbone)
    with torch.autocast("cpu", torch.bfloat16):
        compare(backbone, hidden, goal, chunk=4, atol=2e-2, rtol=2e-2)


def test_default_chunk():
    assert default_chunk(128_256) == 130 and default_chunk(32_000) == 524 and default_chunk(10**6) == 128


def test_chunk_of_nothing():
    backbone = tiny_backbone()
    with pytest.raises(ValueError, match="at least 1, got 0"):
        token_loss(backbone, *sample(backbone), COUNT, ForCausalLMLoss, chunk=0)


# -- the kernel: a stand-in for liger-kernel, and a CPU in place of the GPU it needs ----------------------


@pytest.fixture
def kernel(monkeypatch):
    """The settings of every call of the kernel."""
    calls = []

    class Loss:
        def __init__(self, **options):
            self.options = options

        def __call__(self, weight, hidden, goal, bias=None):
            calls.append(self.options | {"bias": bias is not None})
            logits = torch.nn.functional.linear(hidden, weight, bias).float()
            if cap := self.options["softcap"]:
                logits = torch.tanh(logits / cap) * cap
            return torch.nn.functional.cross_entropy(logits, goal, ignore_index=-100, reduction="sum")

    monkeypatch.setitem(sys.modules, "liger_kernel", SimpleNamespace())
    stub = SimpleNamespace(LigerFusedLinearCrossEntropyLoss=Loss)
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", stub)
    monkeypatch.setattr(module, "_KERNEL_DEVICES", ("cpu",))
    module._installed_kernel.cache_clear()
    yield calls
    module._installed_kernel.cache_clear()


@pytest.mark.parametrize("family", FAMILIES)
def test_kernel(family, kernel):
    backbone = tiny_backbone(family)
    compare(backbone, *sample(backbone))
    cap = 3.0 if family == "gemma2" else None
    assert kernel == [{"ignore_index": -100, "reduction": "sum", "softcap": cap, "bias": False}]


def test_kernel_with_a_bias(kernel):
    backbone = tiny_backbone()
    backbone.lm_head = torch.nn.Linear(32, VOCAB)
    compare(backbone, *sample(backbone))
    assert [call["bias"] for call in kernel] == [True]


def scaled(backbone):
    backbone.config.logit_scale = 0.5


def divided(backbone):
    backbone.config.logits_scaling = 2.0


def subclassed(backbone):
    class Quantized(torch.nn.Linear):
        pass

    backbone.lm_head.__class__ = Quantized


def hooked(backbone):
    backbone.lm_head.register_forward_hook(lambda *_: None)


def replaced(backbone):  # as accelerate does to offload a layer
    backbone.lm_head.forward = backbone.lm_head.forward


def other_precision(backbone):
    backbone.lm_head.double()
    backbone.lm_head.register_forward_pre_hook(lambda layer, args: (args[0].double(),))


@pytest.mark.parametrize("change", [scaled, divided, subclassed, hooked, replaced, other_precision])
def test_kernel_is_not_for_other_heads(change, kernel):
    backbone = tiny_backbone()
    change(backbone)
    compare(backbone, *sample(backbone))
    assert not kernel


def test_kernel_is_not_for(kernel, monkeypatch):
    backbone = tiny_backbone()
    hidden, goal = sample(backbone)
    compare(backbone, hidden, goal, kernel=False)
    compare(backbone, hidden, goal, recompute=True)
    compare(backbone, hidden, goal, lambda **options: ForCausalLMLoss(**options))
    token_loss(backbone, hidden.detach(), goal, COUNT, ForCausalLMLoss).backward()
    monkeypatch.setattr(module, "_KERNEL_DEVICES", ("cuda",))
    compare(backbone, hidden, goal)
    assert not kernel


def test_kernel_scores_without_gradients(kernel):
    backbone = tiny_backbone()
    hidden, goal = sample(backbone)
    with torch.no_grad():
        loss = token_loss(backbone, hidden.detach(), goal, COUNT, ForCausalLMLoss)
    torch.testing.assert_close(loss, plain(backbone, hidden, goal, COUNT))
    assert len(kernel) == 1


def test_kernel_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "liger_kernel", None)
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", None)
    monkeypatch.setattr(module, "_KERNEL_DEVICES", ("cpu",))
    module._installed_kernel.cache_clear()
    backbone = tiny_backbone()
    compare(backbone, *sample(backbone))
    module._installed_kernel.cache_clear()
