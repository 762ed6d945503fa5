import pytest
from typer.testing import CliRunner

from hmt import HMTForCausalLM, RMTForCausalLM
from hmt.cli import app

from .models import TEXT, make_tokenizer, save_model


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Folders of models: `hmt` and `rmt` share a tokenizer, `other` has another one, `bare` has none."""
    root = tmp_path_factory.mktemp("models")
    tokenizer = make_tokenizer()
    save_model(root / "hmt", HMTForCausalLM, tokenizer, memory_size=5)
    save_model(root / "rmt", RMTForCausalLM, tokenizer)
    save_model(root / "other", RMTForCausalLM, make_tokenizer(TEXT[::-1]), seed=1)
    save_model(root / "bare", RMTForCausalLM, None)
    return root


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    """A folder and a cache of the test's own; `book.txt` lies in it."""
    monkeypatch.setenv("HMT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "book.txt").write_text(TEXT, encoding="utf-8")
    return tmp_path


@pytest.fixture
def hmt():
    """Runs `hmt` with these arguments; fails the test if the exit code is not `code`."""

    def run(*arguments, code: int = 0, **options):
        result = CliRunner().invoke(app, [str(a) for a in arguments], **options)
        if result.exit_code != code:
            raise AssertionError(f"exit code {result.exit_code}: {result.output}") from result.exception
        return result

    return run


@pytest.fixture
def error_of(hmt):
    """The one line that `hmt` says when it refuses these arguments."""

    def run(*arguments, **options) -> str:
        lines = hmt(*arguments, code=2, **options).stderr.strip().splitlines()
        assert len(lines) == 1, lines
        return lines[0]

    return run
