"""The model that comes with the library."""

import json
from importlib import metadata

import pytest
import torch

import hmt
from hmt.backbone import PACKAGED
from hmt.model.asking import answer_header, ask_memory, question_ids
from hmt.pretrained import shipped
from hmt.systems import load_tokenizer

NAME = "smollm2-135m"


def test_what_is_shipped_is_small_and_says_what_it_is():
    folder = shipped(NAME)
    assert folder is not None and shipped("smollm2") is None
    config = json.loads((folder / "config.json").read_text())
    assert config["adapter_only"] and config["base_model_name_or_path"] == NAME
    assert config["passages"] and config["recall_layer"] and config["base_model_fingerprint"]
    # what the adapters change lies above what recall reads
    assert min(config["lora"]["layers_to_transform"]) == config["recall_layer"]
    assert sum(path.stat().st_size for path in folder.iterdir()) < 10 * 2**20
    card = (folder / "README.md").read_text()
    for said in ("make_smollm2.py", "Apache-2.0", PACKAGED[NAME].package, "pg19", "commit", "Limits"):
        assert said in card


def installed() -> bool:
    try:
        return metadata.version(PACKAGED[NAME].package) == PACKAGED[NAME].version
    except metadata.PackageNotFoundError:
        return False


@pytest.mark.skipif(not installed(), reason="the backbone's package is not installed")
def test_it_finds_and_reads_what_it_was_told(monkeypatch, tmp_path_factory):
    """One fact in 6,000 tokens of other text, asked for in other words."""
    model, tokenizer = hmt.load_model(NAME), load_tokenizer(NAME)
    text = [
        f"On day {day} the ship sailed on, and nothing happened that anybody wrote down."
        for day in range(300)
    ]
    text.insert(120, "The lighthouse keeper of Marrow Point was called Anselm Droste.")
    ids = tokenizer(" ".join(text)).input_ids
    assert len(ids) > 20 * model.segment_length
    question = question_ids(tokenizer, "Who was the lighthouse keeper of Marrow Point?")
    asked = ask_memory(model, model.read(torch.tensor(ids)), question)
    best = model.recalled(asked)[0][0]
    assert best.read_again and "Anselm Droste" in tokenizer.decode(best.ids)
    header = torch.tensor([answer_header(tokenizer)])
    answer = model.generate(header, past_key_values=asked, max_new_tokens=12, do_sample=False)
    assert "Anselm Droste" in tokenizer.decode(answer[0])
