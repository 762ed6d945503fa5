"""`hmt generate`: from a file, in a new process, and on from what it wrote."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

import hmt as package
from hmt import Memory, load_model

GREEDY = ("--greedy", "--max-new-tokens", 12)


@pytest.fixture
def memory(hmt, folders):
    hmt("read", folders / "hmt", "book.txt", "-m", "m.hmt")
    return "m.hmt"


def expected(folder, memory, prompt, **options):
    model, tokenizer = load_model(folder), AutoTokenizer.from_pretrained(folder)
    past = None if memory is None else Memory.load(memory, model=model)
    ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=past is None).input_ids
    torch.manual_seed(options.pop("seed", 0))
    output = model.generate(
        ids, past_key_values=past, max_new_tokens=12, pad_token_id=1, return_dict_in_generate=True, **options
    )
    return tokenizer.decode(output.sequences[0, ids.shape[1] :], skip_special_tokens=True), output.sequences


def test_continues_from_the_memory_in_a_new_process(folders, memory):
    before = Path(memory).read_bytes()
    command = [sys.executable, "-c", "from hmt.cli import main; main()", "generate", str(folders / "hmt")]
    environment = {**os.environ, "PYTHONPATH": str(Path(package.__file__).parents[1])}
    done = subprocess.run(
        [*command, "--memory", memory, "--prompt", "The whale", *map(str, GREEDY)],
        env=environment,
        capture_output=True,  # as bytes: a random model writes "\r" too, which text mode would change
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    text, _ = expected(folders / "hmt", memory, "The whale", do_sample=False)
    assert done.stdout.decode("utf-8").rstrip("\n") == text.rstrip("\n")
    assert Path(memory).read_bytes() == before


def test_asks_by_the_chat_template(hmt, folders, tmp_path):
    model, tokenizer = load_model(folders / "hmt"), AutoTokenizer.from_pretrained(folders / "hmt")
    tokenizer.chat_template = "{% for m in messages %}<s>{{ m['content'] }}</s>{% endfor %}"
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "chat")
    asked, _ = expected(folders / "hmt", None, "The whale</s>", do_sample=False)
    raw, _ = expected(folders / "hmt", None, "The whale", do_sample=False)
    assert asked.strip() != raw.strip()
    for options, text in (((), asked), (("--chat",), asked), (("--raw",), raw)):
        said = hmt("generate", tmp_path / "chat", "-p", "The whale", *options, *GREEDY).stdout
        assert said.strip() == text.strip()


def test_weights_that_cannot_be_packed_are_refused(error_of, folders):
    assert "have to be bfloat16" in error_of("generate", folders / "hmt", "-p", "The whale", "--pack")


def test_without_a_memory(hmt, folders):
    text, _ = expected(folders / "hmt", None, "The whale", do_sample=False)
    assert hmt("generate", folders / "hmt", "-p", "The whale", *GREEDY).stdout.strip() == text.strip()


def test_sampling_follows_the_seed(hmt, folders, memory):
    def sample(seed):
        options = ("--temperature", 1.5, "--top-k", 50, "--top-p", 0.95, "--seed", seed)
        arguments = (folders / "hmt", "-m", memory, "-p", "The", "--max-new-tokens", 12)
        return hmt("generate", *arguments, *options).stdout

    want, _ = expected(
        folders / "hmt", memory, "The", do_sample=True, temperature=1.5, top_k=50, top_p=0.95, seed=7
    )
    assert sample(7).strip() == want.strip()
    assert len({sample(seed) for seed in range(3)}) > 1


def test_saved_memory_has_read_prompt_and_answer(hmt, folders, memory):
    result = hmt(
        "generate", folders / "hmt", "-m", memory, "-p", "The whale", *GREEDY, "--save-memory", "n.hmt"
    )
    assert "saved n.hmt" in result.stderr
    _, sequences = expected(folders / "hmt", memory, "The whale", do_sample=False)
    model = load_model(folders / "hmt")
    want = model.read(sequences, memory=Memory.load(memory, model=model))
    got = Memory.load("n.hmt")
    assert got.tokens_read.equal(want.tokens_read) and got.open_ids.equal(want.open_ids)
    for name, tensor in want.state.tensors.items():
        torch.testing.assert_close(got.state[name], tensor, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize(
    "options, message",
    [
        (("--prompt", ""), "prompt is empty"),
        (("--prompt", "a", "--greedy", "--top-k", 3), "--greedy takes no sampling options (--top-k)"),
        (("--prompt", "a", "--temperature", 0), "use --greedy instead"),
        (("--prompt", "a", "--top-p", 1.5), "--top-p must be"),
        (("--prompt", "a", "--top-k", 0), "--top-k must be at least 1"),
        (("--prompt", "a", "--temperature", "hot"), "--temperature: 'hot' is not a number"),
        (("--prompt", "a", "--memory", "nope.hmt"), "no file nope.hmt"),
        (("--prompt", "a", "--memory", "book.txt"), "not a safetensors file"),
    ],
)
def test_mistakes(error_of, folders, options, message):
    assert message in error_of("generate", folders / "hmt", *options)


def test_memory_of_another_model_or_of_many_streams(error_of, folders, memory):
    assert "this is rmt" in error_of("generate", folders / "rmt", "-m", memory, "-p", "a")
    model = load_model(folders / "hmt")
    model.read(torch.ones(2, 5, dtype=torch.long)).save("two.hmt")
    assert "2 streams" in error_of("generate", folders / "hmt", "-m", "two.hmt", "-p", "a")
