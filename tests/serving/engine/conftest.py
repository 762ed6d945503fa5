import pytest
from cli.models import make_tokenizer, save_asked

from hmt import load_model
from hmt.sessions import DirectRunner

SIZES = {"segment_length": 32, "sensory_length": 40, "summary_length": 8, "memory_size": 12}


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A model whose memory is small: 12 segments of 32 tokens."""
    return save_asked(tmp_path_factory, **SIZES)


@pytest.fixture(scope="session")
def others(tmp_path_factory):
    """Folders of models whose segments cannot be written alone, or not be closed early."""
    return {
        "learned": save_asked(tmp_path_factory, write_prompt="learned", **SIZES),
        "plain": save_asked(tmp_path_factory, passages=0, lexical=0.0, write_prompt="recall", **SIZES),
    }


@pytest.fixture(scope="session")
def direct(folder):
    return DirectRunner(load_model(folder), make_tokenizer())
