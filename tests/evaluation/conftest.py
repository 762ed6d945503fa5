import random

import pytest
import torch
from tokenizers import ByteLevelBPETokenizer, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from hmt import HMTForCausalLM, RMTForCausalLM, WindowForCausalLM

VOCABULARY, LENGTH = 60, 8
ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789.,?:\nĠ"  # Ġ is how byte-level tokenizers write a space


def tiny_backbone(vocab_size: int = VOCABULARY, hidden_size: int = 32) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,  # outputs far from uniform, so that a wrong token or position shows
    )
    return LlamaForCausalLM(config).eval()


def build(system: str, vocab_size: int = VOCABULARY, segment_length: int = LENGTH, **fields):
    kinds = {
        "hmt": (HMTForCausalLM, {"sensory_length": 2, "memory_size": 4}),
        "previous": (
            HMTForCausalLM,
            {"sensory_length": 2, "memory_size": 4, "recall_query": "previous"},
        ),
        "rmt": (RMTForCausalLM, {"num_memory_tokens": 2, "sensory_length": 2}),
        "window": (WindowForCausalLM, {"window_length": 11}),
        "plain": (WindowForCausalLM, {"window_length": 0}),
    }
    kind, defaults = kinds[system]
    return kind.from_backbone(
        tiny_backbone(vocab_size), segment_length=segment_length, **{**defaults, **fields}
    ).eval()


def byte_tokenizer(text: str, vocabulary: int = 300) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on `text`: nothing is unknown to it."""
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator([text], vocab_size=vocabulary, special_tokens=["<end>"], show_progress=False)
    return PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, eos_token="<end>")


@pytest.fixture(scope="session")
def make_tokenizer():
    return byte_tokenizer


@pytest.fixture
def make_model():
    return build


@pytest.fixture
def documents():
    """Five documents of different lengths; the first is shorter than any history here."""
    draw = random.Random(0)
    return [[draw.randrange(VOCABULARY) for _ in range(size)] for size in (7, 60, 100, 45, 83)]


@pytest.fixture(scope="module")
def character_tokenizer():
    """One token per character, as many at most as the tiny models know; and a chat template."""
    vocabulary = {token: number for number, token in enumerate(["<s>", "</s>", *ALPHABET.replace("\n", "Ċ")])}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>")
    fast.chat_template = (
        "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    return fast
