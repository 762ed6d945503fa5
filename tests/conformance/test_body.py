"""What stock code finds in a causal LM: a body without head, gradients of all weights, a text per row."""

import copy

import pytest
import torch
from backbones import random_ids

from .cases import SYSTEMS, L, build, close, pad, ragged, same_state, shared

SYSTEM = pytest.mark.parametrize("system", SYSTEMS)


@SYSTEM
@torch.no_grad()
def test_the_body_and_the_head_are_the_model(system):
    model = shared(system)
    ids, mask = pad(ragged([3 * L + 2, L - 1]), "left")
    for body in (model.base_model, model.get_decoder()):
        output = body(input_ids=ids, attention_mask=mask, use_cache=True)
        want = model(ids, mask, use_cache=True)
        assert torch.equal(model.head(output.last_hidden_state), want.logits)
        same_state(output.past_key_values, want.past_key_values, exact=True)
    more = random_ids(2, seed=5).expand(2, -1)  # on the open segment's cache
    next_one = model.base_model(more, past_key_values=output.past_key_values).last_hidden_state
    close(model.head(next_one), model(more, past_key_values=want.past_key_values).logits)


@pytest.mark.parametrize("system", ["hmt-segment", "armt"])
def test_a_loss_of_the_body_is_the_loss_of_the_model(system):
    """What chunked losses of other libraries compute: gradients too, those of recall included."""
    model, ids = build(system).train(), random_ids(4 * L + 3).expand(2, -1)
    model(ids, labels=ids).loss.backward()
    want = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad()
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    logits = model.get_output_embeddings()(hidden)[:, :-1]
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).backward()
    for name, parameter in model.named_parameters():
        close(parameter.grad, want[name], atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("family,field", [("gemma2", "final_logit_softcapping"), ("llama", None)])
def test_the_config_says_what_follows_the_head(family, field):
    """Losses made of the body and the head look there."""
    model = shared("hmt-segment", family)
    for name in ("final_logit_softcapping", "logit_scale", "logits_scaling"):
        assert getattr(model.config, name, None) == getattr(model.backbone.config, name, None)
        assert (getattr(model.config, name, None) is not None) == (name == field)
    assert not {"final_logit_softcapping", "logit_scale"} & model.config.to_dict().keys()


def test_the_body_is_the_model_itself():
    model = build("hmt-segment")
    names = {name: p.data_ptr() for name, p in model.named_parameters()}
    assert {name: p.data_ptr() for name, p in model.base_model.named_parameters()} == names
    assert model.base_model is model.base_model and model.state_dict().keys() == names.keys()
    copied, small = copy.deepcopy(model), model.resized(memory_size=1)
    assert next(copied.base_model.parameters()).data_ptr() not in names.values()
    ids = random_ids(4 * L)[None]
    for other in (copied, small):
        hidden = other.base_model(ids).last_hidden_state
        assert torch.equal(other.head(hidden), other(ids).logits)
    assert not torch.equal(small(ids).logits, model(ids).logits)
    assert model.supports_tp_plan in (True, False) and model.supports_pp_plan in (True, False)
    for parameter in copied.base_model.parameters():  # how people freeze a body
        parameter.requires_grad_(False)
    assert not any(parameter.requires_grad for parameter in copied.parameters())


@SYSTEM
def test_every_trained_weight_has_a_gradient(system):
    """Of zero where nothing needed it: what synchronises gradients waits for all of them."""
    model, ids = build(system).train(), random_ids(3)[None]
    own = [p for module in model.memory_modules().values() for p in module.parameters()]
    for loss in (
        lambda: model(ids, labels=ids).loss,
        lambda: model(ids, labels=ids, replay=True).loss,
        lambda: model.base_model(ids).last_hidden_state.sum(),
    ):
        model.zero_grad()
        loss().backward()
        assert all(p.grad is not None and p.grad.shape == p.shape for p in own)


def test_texts_packed_into_a_row_are_refused():
    model, ids = shared("hmt-segment"), random_ids(20)[None]
    packed = torch.cat([torch.arange(12), torch.arange(8)])[None]
    for call in (model, model.base_model):
        with pytest.raises(ValueError, match="packed into a row"):
            call(ids, position_ids=packed)
    whole = model(ids).logits
    assert torch.equal(model(ids, position_ids=torch.arange(5, 25)[None]).logits, whole)
    padded, mask = pad([ids[0]], "middle")
    positions = (mask.cumsum(1) - 1).masked_fill(mask == 0, 1)  # as generate makes them
    close(model(padded, mask, position_ids=positions).logits[mask.bool()], whole[0])


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft asks for it
def test_adapters_on_the_recall_are_refused():
    from peft import LoraConfig, get_peft_model

    ids = random_ids(2 * L)[None]
    adapted = get_peft_model(build("hmt-segment"), LoraConfig(target_modules="all-linear"))
    with pytest.raises(ValueError, match="adapt the backbone only"):
        adapted(ids)
    config = LoraConfig(
        target_modules="all-linear",
        exclude_modules="recall.*",
        modules_to_save=["summary_prompt", "first_prompt", "recall"],
    )
    model = build("hmt-segment")
    want = model(ids).logits
    adapted = get_peft_model(model, config).train()
    close(adapted(ids).logits, want)
    adapted(ids, labels=ids).loss.backward()
    trained = [name for name, p in adapted.named_parameters() if p.requires_grad]
    assert any("recall" in name for name in trained) and any("lora_A" in name for name in trained)
    assert all(p.grad is not None for p in adapted.parameters() if p.requires_grad)
