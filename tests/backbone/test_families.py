"""Backbone families, one for each thing that families do differently; benchmarks/families.py has them all."""

import importlib.util
from pathlib import Path

import pytest
import torch
from backbones import FAMILIES, random_ids, tiny_backbone
from transformers import AutoModelForCausalLM, LlamaForCausalLM
from transformers.models.rwkv.modeling_rwkv import RwkvForCausalLM

from hmt import HMTForCausalLM
from hmt import backbone as bb
from hmt.backbone.lora import linear_layers
from hmt.systems.streaming_llm.model import StreamingLLMForCausalLM
from hmt.systems.transformer_xl.model import TransformerXLForCausalLM

SCRIPT = Path(__file__).parents[2] / "benchmarks/families.py"
SPEC = importlib.util.spec_from_file_location("families", SCRIPT)
families = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(families)

KV = bb.Caching(works=True, padded=True)
NONE = bb.Caching(works=False)

# family, how it may be decoded, and the checks that its reason shows in
WORK = [
    ("qwen3_moe", KV, ["lora"]),  # an implementation of its experts; their weights are stacked
    ("mamba", bb.Caching(True, one_by_one=True, recurrent=True), ["generate", "half"]),
    ("rwkv", NONE, ["pieces"]),  # a state that is no cache of transformers
    ("openai-gpt", NONE, ["pieces"]),  # takes a cache and reads nothing of it
    ("bart", bb.Caching(True), ["generate"]),  # counts positions without looking at the mask
    ("falcon_h1", None, ["save"]),  # scales tokens and logits; a buffer that its container computes
    ("gemma3", KV, ["rows"]),  # a vocabulary in the text config only
    ("llama4_text", None, ["equal"]),  # stands for its own body
]


@pytest.mark.parametrize("family,caching,checks", WORK, ids=[case[0] for case in WORK])
def test_family_works(family, caching, checks):
    model = families.wrapped(families.build(family))
    if caching is not None:
        assert model.caching == caching
        assert bb.Caching.of(model.backbone.bfloat16(), 32) == caching
    for name in checks:
        families.CHECKS[name](family)


@pytest.mark.parametrize(
    "family,reason",
    [
        ("bert", "BertLMHeadModel transforms its outputs before the head"),
        ("deepseek_v4", "DeepseekV4ForCausalLM cannot read vectors in the place of tokens"),
        ("gemma3n_text", "Gemma3nForCausalLM derives more from token ids"),
        ("emu3", "Emu3ForCausalLM is not what AutoModelForCausalLM makes"),
        ("cpmant", "CpmAntForCausalLM.forward has no `inputs_embeds`"),
    ],
)
def test_family_is_refused_by_name(family, reason):
    with pytest.raises(ValueError, match=reason):
        families.wrapped(families.build(family))


@pytest.mark.parametrize("family", ["mamba", "rwkv", "openai-gpt"])
def test_systems_on_keys_and_values_refuse_backbones_without(family):
    backbone = families.build(family)
    for system in (TransformerXLForCausalLM, StreamingLLMForCausalLM):
        with pytest.raises(ValueError, match=f"cached keys of {family} cannot be moved"):
            system.from_backbone(backbone, segment_length=16)
    with pytest.raises(ValueError, match=f"{family} keeps no keys and values"):
        HMTForCausalLM.from_backbone(backbone, segment_length=16, recall_query="inline")


@pytest.mark.parametrize("family", FAMILIES)
def test_caching_of_families_with_keys_and_values(family):
    for dtype in (torch.float32, torch.bfloat16):
        assert bb.Caching.of(tiny_backbone(family).to(dtype), 24) == KV


def test_a_window_of_attention_shorter_than_a_segment_is_tried_out():
    """Moshi's mask forgets what a full window keeps; shorter segments never fill it."""
    backbone = families.build("moshi", window=8)
    assert bb.Caching.of(backbone, 8) == KV
    assert bb.Caching.of(backbone, 9) == NONE


# -- check_head ---------------------------------------------------------------------------------------------


class Capped(LlamaForCausalLM):
    """Caps its logits so far out that small ones are the same to seven digits."""

    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        output.logits = torch.tanh(output.logits / 500) * 500
        return output


class Scaled(LlamaForCausalLM):
    """Scales the tokens that it looks up, and no vectors."""

    def forward(self, input_ids=None, inputs_embeds=None, **kwargs):
        if input_ids is not None:
            inputs_embeds = 2 * self.get_input_embeddings()(input_ids)
        return super().forward(inputs_embeds=inputs_embeds, **kwargs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "cls,reason", [(Capped, "its logits after it"), (Scaled, "derives more from token ids"), (None, None)]
)
def test_check_head_is_sharp(cls, reason, dtype):
    backbone = tiny_backbone().to(dtype)
    if cls is None:
        return bb.check_head(backbone)
    other = cls(backbone.config).to(dtype).eval()
    other.load_state_dict(backbone.state_dict())
    with pytest.raises(ValueError, match=reason):
        bb.check_head(other)


def test_head_knows_the_scales_of_families():
    ids = random_ids(5)[None]
    for family in ("mpt", "hyperclovax", "minicpm3", "cohere", "granite", "falcon_h1"):
        backbone = families.build(family)
        with torch.no_grad():
            found = bb.head(backbone, bb.run(backbone, bb.embed(backbone, ids)).hidden)
            torch.testing.assert_close(found, backbone(input_ids=ids).logits, msg=family)


# -- settings and weights -----------------------------------------------------------------------------------


def test_implementations_of_attention_and_experts_stay_as_they_were(tmp_path):
    backbone = families.build("mixtral")
    backbone.set_experts_implementation("eager")
    model = families.wrapped(backbone)
    assert backbone.config._experts_implementation == "eager"
    model.set_experts_implementation("grouped_mm")
    assert backbone.config._experts_implementation == "grouped_mm"
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, experts_implementation="eager")
    assert loaded.backbone.config._experts_implementation == "eager"


def test_parts_of_a_config_keep_settings_of_their_own():
    """A vision tower in another attention than the text."""
    backbone = families.build("gemma3")
    backbone.set_attn_implementation({"": "sdpa", "text_config": "sdpa", "vision_config": "eager"})
    want = {name: part._attn_implementation for name, part in parts(backbone.config)}
    families.wrapped(backbone)
    assert want == {name: part._attn_implementation for name, part in parts(backbone.config)}
    assert want["vision_config"] == "eager"


def parts(config):
    return [("", config), *((name, getattr(config, name)) for name in config.sub_configs)]


def test_rwkv_keeps_its_weights_in_every_mode():
    """It divides them in eval mode, and would be saved and known by what it was doing last."""
    backbone = families.build("rwkv")
    assert isinstance(backbone, RwkvForCausalLM) and backbone.config.rescale_every == 1
    want = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    ids = random_ids(5)[None]
    with torch.no_grad():
        logits = backbone(ids).logits  # divided, which an epsilon in its norms sees
    model = families.wrapped(backbone)
    for training in (True, False):
        with torch.no_grad():
            model.backbone.train(training)
            torch.testing.assert_close(model.backbone(ids).logits, logits, atol=1e-3, rtol=0)
        assert all(torch.equal(tensor, want[name]) for name, tensor in backbone.state_dict().items())


def test_linear_layers_are_those_that_a_pass_calls():
    """Mamba reads the weights of `x_proj` and `dt_proj` past their modules, kernels those of `out_proj`."""
    assert {name.split(".")[-1] for name in linear_layers(families.build("mamba"))} <= {"in_proj", "x_proj"}
    names = linear_layers(families.build("deepseek_v3"))
    assert names and all(".self_attn." in name for name in names)


def test_trained_rows_of_padding_tokens_are_loaded():
    """Youtu writes zeros into the row of its padding token whenever an embedding is initialised."""
    families.check_save("youtu")
