"""What is saved loads back bit for bit, whole or beside a named backbone."""

import os

import pytest
import torch
from backbones import FAMILIES, random_ids, tiny_backbone
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from hmt import HMTConfig, HMTForCausalLM, Memory, RMTForCausalLM, WindowForCausalLM, load_model
from hmt.memory.identity import live_fingerprint

from .cases import SYSTEMS, L, build, wrap

IDS = random_ids(3 * L + 2)[None]
FIELDS = {"segment_length": L, "sensory_length": 2}


def same_model(actual, expected):
    assert type(actual) is type(expected) and not actual.training
    assert actual.config.memory_fields() == expected.config.memory_fields()
    assert live_fingerprint(actual, again=True) == live_fingerprint(expected, again=True)
    expected.eval()
    with torch.no_grad():
        assert torch.equal(actual(IDS).logits, expected(IDS).logits)
    memory = expected.read(IDS)
    assert torch.equal(
        actual.generate(IDS, past_key_values=Memory(memory.state, memory.open_ids, memory.open_lengths,
                                                    memory.identity), max_new_tokens=L),
        expected.generate(IDS, past_key_values=memory, max_new_tokens=L),
    )  # fmt: skip


@pytest.mark.parametrize("system", SYSTEMS)
def test_whole_model(system, tmp_path):
    model = build(system)
    model.save_pretrained(tmp_path)
    same_model(type(model).from_pretrained(tmp_path), model)
    same_model(AutoModelForCausalLM.from_pretrained(tmp_path), model)


@pytest.mark.parametrize("family", [*FAMILIES, "llama-tied"])
def test_whole_model_of_every_family(family, tmp_path):
    model = build("hmt-segment", family)
    model.save_pretrained(tmp_path)
    loaded = HMTForCausalLM.from_pretrained(tmp_path)
    same_model(loaded, model)
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert (loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight) == tied
    assert tied == (family in ("llama-tied", "gpt2", "opt", "gemma2", "bloom"))


def test_saved_twice_is_the_same(tmp_path):
    model = build("hmt-segment", "llama-tied")
    model.save_pretrained(tmp_path / "one")
    HMTForCausalLM.from_pretrained(tmp_path / "one").save_pretrained(tmp_path / "two")
    assert (tmp_path / "one/model.safetensors").read_bytes() == (
        tmp_path / "two/model.safetensors"
    ).read_bytes()


def test_config_round_trip(tmp_path):
    config = build("hmt-previous").config
    config.save_pretrained(tmp_path)
    for loaded in (HMTConfig.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)):
        assert type(loaded) is HMTConfig
        assert loaded.memory_fields() == config.memory_fields()
        assert loaded.text_config.hidden_size == 32 and loaded.text_config.model_type == "llama"


def test_load_model_and_a_plain_backbone(tmp_path):
    model = build("rmt-1")
    model.save_pretrained(tmp_path / "system")
    same_model(load_model(tmp_path / "system"), model)
    model.backbone.save_pretrained(tmp_path / "plain")
    with pytest.raises(ValueError, match="without memory"):
        load_model(tmp_path / "plain")


def test_weights_from_a_checkpoint_survive_wrapping(tmp_path):
    backbone = tiny_backbone()
    backbone.save_pretrained(tmp_path)
    model = HMTForCausalLM.from_backbone(tmp_path, **FIELDS)
    for name, parameter in backbone.named_parameters():
        assert torch.equal(parameter, model.backbone.get_parameter(name)), name
    assert not model.training
    assert model.config.base_model_name_or_path == str(tmp_path)


def test_generation_config_of_the_backbone_is_kept(tmp_path):
    backbone = tiny_backbone()
    backbone.generation_config.do_sample, backbone.generation_config.temperature = True, 0.7
    backbone.generation_config.eos_token_id = [2, 5]
    backbone.save_pretrained(tmp_path / "base")
    model = HMTForCausalLM.from_backbone(tmp_path / "base", **FIELDS)
    assert model.generation_config.temperature == 0.7 and model.generation_config.eos_token_id == [2, 5]
    for adapter_only in (False, True):
        model.save_pretrained(tmp_path / "saved", adapter_only=adapter_only)
        loaded = HMTForCausalLM.from_pretrained(tmp_path / "saved")
        assert loaded.generation_config.temperature == 0.7 and loaded.generation_config.eos_token_id == [2, 5]


def test_a_changed_generation_config_is_saved(tmp_path):
    tiny_backbone().save_pretrained(tmp_path / "base")
    model = HMTForCausalLM.from_backbone(tmp_path / "base", **FIELDS)
    model.generation_config.max_new_tokens = 11
    for adapter_only in (False, True):
        model.save_pretrained(tmp_path / "saved", adapter_only=adapter_only)
        assert HMTForCausalLM.from_pretrained(tmp_path / "saved").generation_config.max_new_tokens == 11


# -- beside a named backbone -------------------------------------------------------------------------------


def named(cls, folder, family="llama", **fields):
    tiny_backbone(family).save_pretrained(folder)
    return wrap(cls, AutoModelForCausalLM.from_pretrained(folder), segment_length=L, **fields)


def train(model, steps=3):
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    for _ in range(steps):
        model(IDS, labels=IDS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def tensor_names(folder) -> set[str]:
    names = set()
    for path in folder.rglob("*.safetensors"):
        with safe_open(path, "pt") as file:
            names |= set(file.keys())
    return names


@pytest.mark.parametrize("cls", [HMTForCausalLM, RMTForCausalLM])
@pytest.mark.parametrize("family", ["llama", "llama-tied", "gpt2"])
def test_frozen_backbone_is_not_saved(cls, family, tmp_path):
    model = named(cls, tmp_path / "base", family, sensory_length=2)
    model.freeze_backbone()
    before = {name: p.clone() for name, p in model.backbone.named_parameters()}
    train(model)
    for name, parameter in model.backbone.named_parameters():
        assert torch.equal(parameter, before[name]), name
    model.save_pretrained(tmp_path / "saved")
    own = {name for name, _ in model.named_parameters() if not name.startswith("backbone.")}
    assert tensor_names(tmp_path / "saved") == own
    for load in (cls.from_pretrained, AutoModelForCausalLM.from_pretrained, load_model):
        loaded = load(tmp_path / "saved")
        same_model(loaded, model)
    assert not any(p.requires_grad for p in loaded.backbone.parameters())


@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom"])
def test_lora_backbone_is_not_saved(family, tmp_path):
    model = named(HMTForCausalLM, tmp_path / "base", family, **{"sensory_length": 2})
    with torch.no_grad():
        plain = model(IDS).logits
    model.add_lora(r=2, dropout=0.0)
    train(model)
    with torch.no_grad():
        assert not torch.allclose(model(IDS).logits, plain)
    model.save_pretrained(tmp_path / "saved")
    own = {name for name, _ in model.named_parameters() if not name.startswith("backbone.")}
    names = tensor_names(tmp_path / "saved")
    assert own < names and all("lora" in name for name in names - own)
    for load in (HMTForCausalLM.from_pretrained, AutoModelForCausalLM.from_pretrained):
        loaded = load(tmp_path / "saved")
        same_model(loaded, model)
    loaded.save_pretrained(tmp_path / "again")
    same_model(HMTForCausalLM.from_pretrained(tmp_path / "again"), model)


def test_a_memory_file_fits_the_model_loaded_from_an_adapter(tmp_path):
    model = named(HMTForCausalLM, tmp_path / "base", sensory_length=2)
    model.add_lora(r=2, dropout=0.0)
    train(model)
    model.save_pretrained(tmp_path / "saved")
    model.read(IDS).save(tmp_path / "text.hmt")
    Memory.load(tmp_path / "text.hmt", model=HMTForCausalLM.from_pretrained(tmp_path / "saved"))
    with pytest.raises(ValueError, match="other weights"):
        Memory.load(tmp_path / "text.hmt", model=named(HMTForCausalLM, tmp_path / "base", sensory_length=2))


def test_a_frozen_model_can_be_saved_whole(tmp_path):
    model = named(HMTForCausalLM, tmp_path / "base", sensory_length=2)
    model.freeze_backbone()
    model.save_pretrained(tmp_path / "saved", adapter_only=False)
    os.rename(tmp_path / "base", tmp_path / "gone")
    same_model(HMTForCausalLM.from_pretrained(tmp_path / "saved"), model)


def test_a_whole_model_over_an_adapter_folder_wins(tmp_path):
    """The same folder used twice: what was saved last is what loads."""
    model = named(HMTForCausalLM, tmp_path / "base", sensory_length=2)
    model.save_pretrained(tmp_path / "saved", adapter_only=True)
    train(model)
    model.save_pretrained(tmp_path / "saved")
    same_model(HMTForCausalLM.from_pretrained(tmp_path / "saved"), model)


def test_adapter_only_needs_a_name_for_the_backbone(tmp_path):
    model = wrap(HMTForCausalLM, tiny_backbone(), **FIELDS)
    with pytest.raises(ValueError, match="must name its backbone"):
        model.save_pretrained(tmp_path, adapter_only=True)
    model.freeze_backbone()
    model.save_pretrained(tmp_path)
    same_model(HMTForCausalLM.from_pretrained(tmp_path), model)


def test_a_missing_backbone_is_named(tmp_path):
    model = named(HMTForCausalLM, tmp_path / "base")
    model.save_pretrained(tmp_path / "saved", adapter_only=True)
    os.rename(tmp_path / "base", tmp_path / "gone")
    with pytest.raises(ValueError, match="its backbone .*base"):
        HMTForCausalLM.from_pretrained(tmp_path / "saved")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("adapter_only", [False, True])
def test_half_precision_checkpoints_stay_in_it(dtype, adapter_only, tmp_path):
    tiny_backbone().save_pretrained(tmp_path / "base")
    backbone = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=dtype)
    model = wrap(HMTForCausalLM, backbone, **FIELDS)
    assert {p.dtype for p in model.parameters()} == {dtype}
    model.save_pretrained(tmp_path / "saved", adapter_only=adapter_only)
    loaded = HMTForCausalLM.from_pretrained(tmp_path / "saved", dtype=dtype if adapter_only else "auto")
    assert {p.dtype for p in loaded.parameters()} == {dtype}
    same_model(loaded, model)


def test_a_window_has_nothing_of_its_own():
    model = wrap(WindowForCausalLM, tiny_backbone(), segment_length=L, window_length=4)
    assert not model.memory_modules()


# -- a name stands for weights only while it has them -------------------------------------------------------


def trained_in_full(model):
    train(model, steps=1)
    model.freeze_backbone()


def frozen_by_hand(model):
    train(model, steps=1)
    model.requires_grad_(False)


def merged(model):
    model.add_lora(r=2, dropout=0.0)
    train(model, steps=1)
    with torch.no_grad():
        adapted = model(IDS).logits
    model.merge_adapters()
    with torch.no_grad():
        torch.testing.assert_close(model(IDS).logits, adapted, atol=1e-5, rtol=1e-4)
    assert not model.has_lora()


def edited(model):
    model.freeze_backbone()
    model.backbone.model.layers[0].mlp.up_proj.weight.data.mul_(1.5)


def one_row(model):
    model.freeze_backbone()
    model.get_input_embeddings().weight.data[IDS[0, 0]] += 0.5


def resized(model):
    model.resize_token_embeddings(model.config.vocab_size + 3)
    model.freeze_backbone()


def lora_on_trained(model):
    train(model, steps=1)
    model.add_lora(r=2, dropout=0.0)
    train(model, steps=1)


def lora_on_resized(model):
    model.resize_token_embeddings(model.config.vocab_size + 3)
    model.add_lora(r=2, dropout=0.0)
    train(model, steps=1)


CHANGES = [trained_in_full, frozen_by_hand, merged, edited, one_row, resized, lora_on_trained]
CHANGES += [lora_on_resized]
TIED = [trained_in_full, lora_on_resized]


@pytest.mark.parametrize(
    "family,change",
    [("llama", change) for change in CHANGES] + [("llama-tied", change) for change in TIED],
)
def test_a_backbone_that_was_changed_is_saved_whole(family, change, tmp_path):
    model = named(HMTForCausalLM, tmp_path / "base", family, sensory_length=2)
    change(model)
    with pytest.raises(ValueError, match="no longer those of"):
        model.save_pretrained(tmp_path / "saved", adapter_only=True)
    model.save_pretrained(tmp_path / "saved")
    loaded = HMTForCausalLM.from_pretrained(tmp_path / "saved")
    same_model(loaded, model)
    assert loaded.has_lora() == model.has_lora()
    loaded.save_pretrained(tmp_path / "again")  # and the next time
    same_model(load_model(tmp_path / "again"), model)


def test_a_model_that_was_trained_and_saved_whole_is_not_referred_to_later(tmp_path):
    """`hmt train MODEL --tuning frozen`: the checkpoint's backbone is not the one it once came from."""
    model = named(HMTForCausalLM, tmp_path / "base", sensory_length=2)
    train(model, steps=1).save_pretrained(tmp_path / "saved")
    again = HMTForCausalLM.from_pretrained(tmp_path / "saved")
    again.freeze_backbone()
    train(again, steps=1).save_pretrained(tmp_path / "frozen")
    same_model(HMTForCausalLM.from_pretrained(tmp_path / "frozen"), again)


def test_an_unnamed_backbone_with_adapters_is_saved_whole(tmp_path):
    model = wrap(HMTForCausalLM, tiny_backbone(), **FIELDS)
    model.add_lora(r=2, dropout=0.0)
    train(model, steps=1).save_pretrained(tmp_path)
    loaded = HMTForCausalLM.from_pretrained(tmp_path)
    same_model(loaded, model)
    names = {name for name, p in loaded.named_parameters() if "lora_" in name}
    assert len(names) == 8 and loaded.config.lora["r"] == 2


def test_adapters_of_any_kind_come_back(tmp_path):
    """Those that were put in with peft, of another kind, and beside a module that is trained as it is."""
    from peft import LoraConfig

    model = named(HMTForCausalLM, tmp_path / "base", sensory_length=2)
    config = LoraConfig(r=2, target_modules="all-linear", use_dora=True, modules_to_save=["lm_head"])
    model.backbone.add_adapter(config)
    train(model, steps=1).save_pretrained(tmp_path / "saved")
    assert not any(n.startswith("backbone.lm_head.orig") for n in tensor_names(tmp_path / "saved"))
    same_model(HMTForCausalLM.from_pretrained(tmp_path / "saved"), model)


def test_two_sets_of_adapters_do_not_fit_into_a_checkpoint(tmp_path):
    from peft import LoraConfig

    model = named(HMTForCausalLM, tmp_path / "base", sensory_length=2)
    model.add_lora(r=2)
    model.backbone.add_adapter(LoraConfig(r=2, target_modules=["q_proj"]), "second")
    with pytest.raises(ValueError, match="'second'.*holds one"):
        model.save_pretrained(tmp_path / "two")


@pytest.mark.parametrize("where", ["relative", "moved"])
def test_the_backbone_is_found_from_another_folder(where, tmp_path, monkeypatch):
    (tmp_path / "other").mkdir()
    tiny_backbone().save_pretrained(tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    model = HMTForCausalLM.from_backbone("base", **FIELDS)
    model.save_pretrained("saved", adapter_only=True)
    monkeypatch.chdir(tmp_path / "other")
    if where == "moved":
        os.rename(tmp_path / "base", tmp_path / "moved")
        with pytest.raises(ValueError, match="backbone=..."):
            HMTForCausalLM.from_pretrained("../saved")
        loaded = HMTForCausalLM.from_pretrained("../saved", backbone="../moved")
    else:
        loaded = HMTForCausalLM.from_pretrained("../saved")
    same_model(loaded, model)


def test_other_weights_at_the_same_place_are_refused(tmp_path):
    model = named(HMTForCausalLM, tmp_path / "base", sensory_length=2)
    model.save_pretrained(tmp_path / "saved", adapter_only=True)
    other = tiny_backbone()
    with torch.no_grad():
        other.get_input_embeddings().weight[3, 3] += 1e-3
    other.save_pretrained(tmp_path / "base")
    with pytest.raises(ValueError, match="other weights than"):
        HMTForCausalLM.from_pretrained(tmp_path / "saved")
    same_model(HMTForCausalLM.from_pretrained(tmp_path / "saved", backbone=tiny_backbone()), model)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_backbone_in_another_precision_is_the_same_one(dtype, tmp_path):
    model = named(HMTForCausalLM, tmp_path / "base", sensory_length=2)
    model.save_pretrained(tmp_path / "saved", adapter_only=True)
    model.read(IDS).save(tmp_path / "text.hmt")
    loaded = HMTForCausalLM.from_pretrained(tmp_path / "saved", dtype=dtype)
    assert loaded.dtype == dtype
    memory = Memory.load(tmp_path / "text.hmt", model=loaded)
    assert loaded(IDS, past_key_values=memory).logits.isfinite().all()
    tiny_backbone(seed=1).save_pretrained(tmp_path / "base")
    with pytest.raises(ValueError, match="other weights than"):
        HMTForCausalLM.from_pretrained(tmp_path / "saved", dtype=dtype)


def files(folder) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_folder_holds_only_what_was_written_last(tmp_path):
    """LoRA, frozen, whole in shards, and frozen again, all in one folder."""
    model = named(HMTForCausalLM, tmp_path / "base", sensory_length=2)
    folder, always = tmp_path / "saved", {"config.json", "generation_config.json", "model.safetensors"}
    (folder / "adapter").mkdir(parents=True)
    (folder / "adapter" / "adapter_model.safetensors").write_bytes(b"of an earlier layout")
    (folder / "memory.safetensors").write_bytes(b"of an earlier layout")
    (folder / "notes.txt").write_text("the user's own")
    adapted = named(HMTForCausalLM, tmp_path / "base", sensory_length=2)
    adapted.add_lora(r=2, dropout=0.0)
    train(adapted, steps=1).save_pretrained(folder)
    assert files(folder) == always | {"notes.txt"}
    same_model(HMTForCausalLM.from_pretrained(folder), adapted)
    model.save_pretrained(folder, adapter_only=True)
    same_model(HMTForCausalLM.from_pretrained(folder), model)
    model.save_pretrained(folder, max_shard_size="20KB")
    assert len(list(folder.glob("model-*-of-*.safetensors"))) > 1
    same_model(HMTForCausalLM.from_pretrained(folder), model)
    model.freeze_backbone()
    model.save_pretrained(folder)
    assert files(folder) == always | {"notes.txt"}
    same_model(HMTForCausalLM.from_pretrained(folder), model)


def test_adapters_that_lack_weights_are_refused(tmp_path):
    model = named(HMTForCausalLM, tmp_path / "base", sensory_length=2)
    model.add_lora(r=2)
    model.save_pretrained(tmp_path / "saved")
    weights = load_file(tmp_path / "saved" / "model.safetensors")
    weights.pop(next(name for name in weights if "lora_B" in name))
    save_file(weights, tmp_path / "saved" / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="does not fit.*lora_B.*1 such"):
        HMTForCausalLM.from_pretrained(tmp_path / "saved")


def test_a_quantised_backbone_is_not_saved_whole(tmp_path):
    model = named(HMTForCausalLM, tmp_path / "base", sensory_length=2)
    layer = model.backbone.model.layers[0].mlp.up_proj
    layer.weight = torch.nn.Parameter(layer.weight.data.mul(100).to(torch.int8), requires_grad=False)
    with pytest.raises(ValueError, match="quantised backbone is not saved"):
        model.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_nothing_to_merge():
    with pytest.raises(ValueError, match="no adapters"):
        wrap(HMTForCausalLM, tiny_backbone(), **FIELDS).merge_adapters()
