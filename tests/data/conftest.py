import os
import subprocess
import sys
from pathlib import Path

import pytest

import hmt.data


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache folder of the test's own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("HMT_CACHE", str(folder))
    return folder


@pytest.fixture
def run_python():
    """Runs code in a new Python process that imports the same `hmt`; returns what it printed."""

    def run(code: str) -> str:
        env = {**os.environ, "PYTHONPATH": str(Path(hmt.data.__file__).parents[2])}
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env
        )
        return done.stdout.strip()

    return run


@pytest.fixture(scope="session")
def make_tokenizer():
    """Builds a word-level tokenizer of 50 ids: `w0` .. `w46` are 3 .. 49, pad 0, eos 1, unknown 2."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    def make(**options):
        words = ["<pad>", "</s>", "<unk>", *(f"w{i}" for i in range(47))]
        backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
        backend.pre_tokenizer = pre_tokenizers.Whitespace()
        options = {"pad_token": "<pad>", "eos_token": "</s>", "model_max_length": 8, **options}
        return PreTrainedTokenizerFast(tokenizer_object=backend, **options)

    return make


@pytest.fixture
def tokenizer(make_tokenizer):
    return make_tokenizer()


@pytest.fixture
def make_words():
    """Builds a fast tokenizer of the given words, cut at white space: ids from 2 on, unknown 1, padding 0."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    def make(words):
        vocabulary = {word: i for i, word in enumerate(["<pad>", "<unk>", *words])}
        backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
        backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", unk_token="<unk>")

    return make
