import logging

import datasets
import numpy as np
import pytest
import torch

from hmt.data import check_ids, tokenize_documents
from hmt.data.tokens import tokenizer_digest

ROWS = [{"text": "w0 w1 w2 " * 5, "name": "a"}, {"text": "w3 what", "name": "b"}]
IDS = [[3, 4, 5] * 5 + [1], [6, 2, 1]]


@pytest.fixture
def documents():
    return datasets.Dataset.from_list(ROWS)


def test_ids_and_names(documents, tokenizer):
    tokenized = tokenize_documents(documents, tokenizer)
    assert tokenized["input_ids"][:] == IDS
    assert tokenized["name"][:] == ["a", "b"]
    assert tokenized.features["input_ids"].feature.dtype == "int32"
    plain = tokenize_documents(documents, tokenizer, append_eos=False)
    assert plain["input_ids"][:] == [ids[:-1] for ids in IDS]


def test_eos_is_not_doubled(make_tokenizer, documents):
    from tokenizers.processors import TemplateProcessing

    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    assert tokenize_documents(documents, tokenizer)["input_ids"][:] == IDS


def test_second_call_finds_the_cache(documents, make_tokenizer, cache, monkeypatch):
    used = make_tokenizer()
    tokenize_documents(documents, used)
    assert len(list(cache.glob("*.arrow"))) == 1
    # Leaves truncation and padding behind in the backend, which breaks the hash that Dataset.map would use.
    used(["w0 w1 w2", "w0"], padding=True, truncation=True, max_length=2)
    monkeypatch.setattr(type(used), "__call__", lambda *_, **__: pytest.fail("tokenized again"))
    again = datasets.Dataset.from_list(ROWS)
    for tokenizer in (used, make_tokenizer()):
        assert tokenize_documents(again, tokenizer)["input_ids"][:] == IDS


def test_cache_tells_content_apart(documents, make_tokenizer, cache):
    tokenizer = make_tokenizer()
    tokenize_documents(documents, tokenizer)
    tokenize_documents(documents, tokenizer, append_eos=False)
    tokenize_documents(documents.select([1, 0]), tokenizer)
    tokenize_documents(documents, make_tokenizer(eos_token="<unk>"))
    tokenizer.add_tokens(["what"])
    assert tokenize_documents(documents, tokenizer)["input_ids"][1] == [6, 50, 1]
    assert len(list(cache.glob("*.arrow"))) == 5


def test_cache_dir(documents, tokenizer, tmp_path, cache):
    tokenize_documents(documents, tokenizer, cache_dir=tmp_path / "mine")
    assert len(list((tmp_path / "mine").glob("*.arrow"))) == 1 and not cache.exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="HMT_CACHE"):
        tokenize_documents(documents, tokenizer, cache_dir=tmp_path / "file" / "sub")


def test_digest_is_the_same_in_another_process(tokenizer, tmp_path, run_python):
    tokenizer.save_pretrained(tmp_path)
    code = (
        "from transformers import PreTrainedTokenizerFast as T\n"
        "from hmt.data.tokens import tokenizer_digest\n"
        f"print(tokenizer_digest(T.from_pretrained({str(tmp_path)!r})))"
    )
    assert run_python(code) == tokenizer_digest(tokenizer)


def test_python_tokenizer_has_a_digest(tmp_path):
    class Slow:
        def __init__(self, content):
            self.content = content

        def save_pretrained(self, folder):
            with open(f"{folder}/vocab.txt", "w") as handle:
                handle.write(self.content)

    assert tokenizer_digest(Slow("a")) == tokenizer_digest(Slow("a")) != tokenizer_digest(Slow("b"))


def test_no_warning_about_length(documents, tokenizer, capfd):
    logging.getLogger("transformers").setLevel(logging.WARNING)
    tokenize_documents(documents, tokenizer, progress=False)
    assert capfd.readouterr().err == ""
    assert not datasets.are_progress_bars_disabled()


def test_missing_pieces(documents, make_tokenizer, tokenizer):
    with pytest.raises(ValueError, match="no EOS token"):
        tokenize_documents(documents, make_tokenizer(eos_token=None))
    with pytest.raises(ValueError, match="needs a column 'text'; there are: name"):
        tokenize_documents(documents.remove_columns("text"), tokenizer)
    unnamed = tokenize_documents(documents.remove_columns("name"), tokenizer)
    assert unnamed["name"][:] == ["document 1", "document 2"]


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_check_ids(kind):
    check_ids(kind([0, 9]), 10)
    with pytest.raises(ValueError, match="id 10 at position 1 is outside the vocabulary of 10"):
        check_ids(kind([0, 10, 11]), 10)
    with pytest.raises(ValueError, match="id -1 at position 0"):
        check_ids(kind([-1]), 10)
    with pytest.raises(ValueError, match="one sequence"):
        check_ids(kind([[1]]), 10)
    check_ids([], 10)
