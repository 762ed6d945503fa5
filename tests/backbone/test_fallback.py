"""Attention that is not there is replaced with a warning; attention that looks ahead is refused."""

import pytest
import torch
from backbones import FAMILIES, tiny_backbone
from transformers import AutoModelForCausalLM, LlavaConfig

from hmt import HMTForCausalLM
from hmt import backbone as bb

MISSING = ("flash_attention_3", "kernels-community/none-such")


@pytest.fixture
def said(monkeypatch):
    said = []
    monkeypatch.setattr("hmt.backbone.load.logger.warning_once", said.append)
    return said


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Where backbones are saved: family -> folder."""
    root = tmp_path_factory.mktemp("backbones")
    for family in ("llama", "bloom"):
        tiny_backbone(family).save_pretrained(root / family)
    return root


def implementation(model) -> str:
    return model.config.get_text_config()._attn_implementation


# -- the fallback -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", MISSING)
def test_what_is_not_installed(asked, folders, said):
    backbone = bb.load_backbone(folders / "llama", attn_implementation=asked)
    assert implementation(backbone) == "sdpa"
    assert len(said) == 1 and f"attn_implementation={asked!r}" in said[0] and "'sdpa'" in said[0]


@pytest.mark.parametrize("asked", ["flash_attention_2", "flex_attention", "sdpa"])
def test_what_the_family_does_not_have(asked, folders, said):
    backbone = bb.load_backbone(folders / "bloom", attn_implementation=asked)
    assert implementation(backbone) == "eager"
    assert len(said) == 1 and repr(asked) in said[0] and "'eager'" in said[0]


@pytest.mark.parametrize("asked", ["eager", "sdpa", None])
def test_what_is_there_is_taken(asked, folders, said):
    backbone = bb.load_backbone(folders / "llama", attn_implementation=asked)
    assert implementation(backbone) == (asked or "sdpa") and not said


def test_unknown_name_is_an_error(folders, said):
    with pytest.raises(ValueError, match="flash_attn_2.* is not supported"):
        bb.load_backbone(folders / "llama", attn_implementation="flash_attn_2")
    assert not said


def test_other_errors_come_as_they_are(tmp_path, folders, said):
    with pytest.raises(ValueError, match="nowhere is not there"):
        bb.load_backbone(tmp_path / "nowhere", attn_implementation=MISSING[0])
    (tmp_path / "config.json").write_text('{"model_type": "none-such"}')
    for asked in (*MISSING, "sdpa"):
        with pytest.raises(ValueError, match="none-such"):
            bb.load_backbone(tmp_path, attn_implementation=asked)
    assert not said


@pytest.mark.parametrize("error", [ImportError, ValueError])
def test_error_that_stays_without_the_attention(error, said):
    tried = []

    def load(attn_implementation):
        tried.append(attn_implementation)
        raise error(f"with {attn_implementation}")

    with pytest.raises(error, match="with flash_attention_2"):
        bb.load_with_attention(load, {"attn_implementation": "flash_attention_2"})
    assert tried == ["flash_attention_2", "sdpa", "eager"] and not said
    with pytest.raises(TypeError):
        bb.load_with_attention(load, {})


@pytest.mark.parametrize("family", ["llama", "bloom"])
@pytest.mark.parametrize("adapter_only", [False, True])
def test_whole_and_adapter_only_checkpoints(family, adapter_only, folders, said, tmp_path):
    model = HMTForCausalLM.from_backbone(folders / family, segment_length=8)
    model.save_pretrained(tmp_path, adapter_only=adapter_only)
    loaded = HMTForCausalLM.from_pretrained(tmp_path, attn_implementation=MISSING[0])
    assert implementation(loaded.backbone) == {"llama": "sdpa", "bloom": "eager"}[family]
    assert len(said) == 1 and MISSING[0] in said[0]
    bb.check_causal(loaded.backbone)
    ids = torch.arange(3, 23)[None]
    torch.testing.assert_close(loaded(ids).logits, model.eval()(ids).logits)


# -- causality --------------------------------------------------------------------------------------------


def attentions(family: str) -> list[str]:
    cls = type(tiny_backbone(family))
    return ["eager", "sdpa"] if cls._supports_sdpa else ["eager"]


CAUSAL = [(family, attention) for family in FAMILIES for attention in attentions(family)]


@pytest.mark.parametrize("family,attention", CAUSAL)
def test_without_mask_and_positions_every_family_is_causal(family, attention):
    backbone = tiny_backbone(family)
    loaded = AutoModelForCausalLM.from_config(backbone.config, attn_implementation=attention)
    loaded.load_state_dict(backbone.state_dict())
    loaded.eval()
    assert implementation(loaded) == attention
    bb.check_causal(loaded)
    bb.check_causal(loaded.bfloat16())
    # and far beyond four vectors, bit for bit
    first = torch.randn(1, 12, bb.embedding_table(loaded).embedding_dim).to(loaded.dtype)
    second = torch.cat([first[:, :7], -first[:, 7:]], dim=1)
    with torch.no_grad():
        one, two = bb.run(loaded, first).hidden, bb.run(loaded, second).hidden
    assert torch.equal(one[:, :7], two[:, :7]) and not torch.equal(one[:, 7:], two[:, 7:])


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3"])
def test_check_causal_finds_a_lost_mask(family):
    backbone = tiny_backbone(family)
    backbone.config._attn_implementation = None
    for dtype in (torch.float32, torch.bfloat16):
        with pytest.raises(ValueError, match="is not causal.*attn_implementation=None"):
            bb.check_causal(backbone.to(dtype))


def test_from_backbone_checks_causality(monkeypatch):
    """After the backbone's config has become part of the model's: that can reset its attention."""
    lose = HMTForCausalLM.config_class.__post_init__

    def post_init(self, **kwargs):
        lose(self, **kwargs)
        self.text_config._attn_implementation = None

    monkeypatch.setattr(HMTForCausalLM.config_class, "__post_init__", post_init)
    monkeypatch.setattr(HMTForCausalLM, "_check_and_adjust_attn_implementation", lambda *a, **k: None)
    with pytest.raises(ValueError, match="is not causal"):
        HMTForCausalLM.from_backbone(tiny_backbone(), segment_length=8)


def test_check_causal_leaves_modes_and_meta_models_alone():
    backbone = tiny_backbone().train()
    backbone.model.norm.eval()
    bb.check_causal(backbone)
    assert backbone.training and not backbone.model.norm.training
    with torch.device("meta"):
        bb.check_causal(AutoModelForCausalLM.from_config(backbone.config))


@pytest.mark.parametrize("family", FAMILIES)
def test_backbone_that_arrives_without_attention(family):
    backbone = tiny_backbone(family)
    bb.check_backbone(backbone)
    backbone.config._attn_implementation = None
    with pytest.raises(ValueError, match="lost its attention implementation.*set_attn_implementation"):
        HMTForCausalLM.from_backbone(backbone, segment_length=8)


def test_another_config_takes_the_attention_away_and_the_advice_works():
    backbone = tiny_backbone()
    LlavaConfig(text_config=backbone.config)
    if implementation(backbone) is not None:
        pytest.skip("this transformers leaves it alone")
    with pytest.raises(ValueError, match="lost its attention implementation"):
        bb.load_backbone(backbone)
    backbone.set_attn_implementation("sdpa")
    bb.check_causal(bb.load_backbone(backbone))
