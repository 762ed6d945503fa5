"""What is wrong with a command line is said in one line, before work begins."""

import pytest
import torch

from hmt.util.devices import find_device


@pytest.fixture
def plain(folders, workplace):
    """A folder with the backbone and the tokenizer of a model."""
    from hmt import load_model
    from hmt.systems import load_tokenizer

    load_model(folders / "rmt").backbone.save_pretrained(workplace / "plain")
    load_tokenizer(folders / "rmt").save_pretrained(workplace / "plain")
    return workplace / "plain"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there(hmt, folders):
    model, reading = folders / "hmt", ("book.txt", "-m", "m.hmt")
    for words in (
        ("read", model, *reading),
        ("generate", model, "-p", "x"),
        ("eval", model, "--data", "book.txt", "-o", "out"),
        ("bench",),
    ):
        error = hmt(*words, "--device", "cuda", code=2).stderr.splitlines()[-1]
        assert error.startswith("error: --device cuda cannot be used here: ")


@pytest.mark.parametrize("name", ["cpu:1", "meta", "abacus", "", "cuda:99"])
def test_devices(name):
    if name == "cpu:1":
        assert find_device(name).type == "cpu"
    else:
        with pytest.raises(ValueError, match="--device .*cannot be used here: "):
            find_device(name)
    assert find_device(None).type in ("cpu", "cuda")


@pytest.mark.parametrize("name", ["nope", "./nope", "org/nope", "a b"])
def test_a_model_that_is_not_there_is_no_matter_of_its_tokenizer(error_of, name):
    message = error_of("train", name, "book.txt", "-o", "run")
    assert message.startswith(f"error: {name} is ") and "tokenizer" not in message


@pytest.mark.parametrize(
    "option, value, said",
    [
        ("encoding", name, "--encoding takes a Python codec such as 'utf-8'")
        for name in ("base64", "rot13", "hex", "zip", "undefined", "", "\0")
    ]
    + [
        ("errors", name, "--errors takes 'strict' or 'replace'")
        for name in ("xmlcharrefreplace", "namereplace", "nope", "")
    ],
)
def test_codecs_that_are_none_of_text(error_of, plain, folders, option, value, said):
    for words in (
        ("read", folders / "rmt", "book.txt", "-m", "m.hmt"),
        ("train", plain, "book.txt", "-o", "run"),
    ):
        message = error_of(*words, f"--{option}", value)
        assert said in message and f"{option}=" not in message


@pytest.mark.parametrize(
    "size, said", [("-5", "--segment-length must be at least 1, got -5"), ("0", "at least 1")]
)
def test_absurd_sizes(hmt, plain, size, said):
    words = ("train", plain, "book.txt", "-o", "run", "--segment-length", size)
    assert said in hmt(*words, code=2).stderr.splitlines()[-1]


@pytest.mark.parametrize("size", ["1" + "0" * 12, "1" + "0" * 18, "9" * 40])
def test_sizes_beyond_any_memory(hmt, plain, folders, size):
    train, generate = ("train", plain, "book.txt", "-o", "run"), ("generate", folders / "hmt", "-p", "x")
    for words in ((*train, "--segment-length", size), (*train, "--memory-size", size)):
        message = hmt(*words, code=2).stderr.splitlines()[-1]
        assert any(said in message for said in ("out of memory", "too large", "No document has"))
    if len(size) > 20:
        assert "too large" in hmt(*generate, "--seed", size, code=2).stderr.splitlines()[-1]
