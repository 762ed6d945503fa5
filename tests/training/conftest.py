"""A backbone of 2 tiny layers, a word tokenizer, and text that repeats itself."""

import pytest
import torch

SEGMENT = 8
WORDS = 40


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HMT_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "</s>", "<unk>", *(f"w{i}" for i in range(WORDS))]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


@pytest.fixture(scope="session")
def backbone_folder(tmp_path_factory, tokenizer):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=WORDS + 3,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
    )
    folder = tmp_path_factory.mktemp("backbone")
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def make_model(backbone_folder):
    import hmt

    def make(system="HMTForCausalLM", **fields):
        torch.manual_seed(1)
        fields = {"segment_length": SEGMENT, "sensory_length": 2, "memory_size": 4, **fields}
        if system == "RMTForCausalLM":
            fields.pop("memory_size")
        if system == "WindowForCausalLM":
            fields = {"segment_length": SEGMENT, "window_length": 2}
        return getattr(hmt, system).from_backbone(backbone_folder, **fields)

    return make


@pytest.fixture(scope="session")
def texts():
    """Eight documents of about 60 words, each its own line of words said three times over."""
    generator = torch.Generator().manual_seed(0)
    lines = torch.randint(WORDS, (8, 20), generator=generator).tolist()
    return [" ".join(f"w{i}" for i in line * 3) for line in lines]


@pytest.fixture
def make_recipe():
    from hmt.training import paper_recipe

    def make(**options):
        defaults = {"stage1_steps": 3, "stage2_steps": 4, "bptt_depth": 4, "learning_rate": 1e-3}
        defaults |= {"logging_steps": 1, "save_steps": 2}
        return paper_recipe(**{**defaults, **options})

    return make


@pytest.fixture
def read_log():
    import json

    def read(folder):
        return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]

    return read
