import pytest
from cli.models import TEXT, make_tokenizer, save_asked
from same_memory import same_state

from hmt import HMTForCausalLM, load_model


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A model that can be asked, with its tokenizer."""
    return save_asked(tmp_path_factory, summary_length=16)


@pytest.fixture(scope="session")
def model(folder):
    return load_model(folder)


@pytest.fixture(scope="session")
def tokenizer():
    return make_tokenizer()


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    """A folder and a cache of the test's own, with two books."""
    monkeypatch.setenv("HMT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one.txt").write_text(TEXT, encoding="utf-8")
    (tmp_path / "two.txt").write_text("A lighthouse stood there.\n" * 9 + TEXT[:700], encoding="utf-8")
    return tmp_path


@pytest.fixture
def same():
    """Ids and counters exactly; vectors closely."""
    return same_state


@pytest.fixture
def counted(monkeypatch):
    """Tokens of each call that reads more than a question."""
    calls = []
    real = HMTForCausalLM.read

    def read(self, ids, *arguments, **options):
        if options.get("chunk"):
            calls.append(len(ids))
        return real(self, ids, *arguments, **options)

    monkeypatch.setattr(HMTForCausalLM, "read", read)
    return calls
