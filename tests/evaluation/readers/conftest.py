import pytest
from reader_oracles import VOCABULARY
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast


@pytest.fixture
def backbone(make_model):
    return make_model("plain").backbone


@pytest.fixture
def short_backbone(backbone):
    """One with 16 positions."""
    backbone.config.max_position_embeddings = 16
    return backbone


@pytest.fixture
def tokenizer():
    """Token n is the word wn."""
    words = Tokenizer(models.WordLevel({f"w{n}": n for n in range(VOCABULARY)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words)
