import pytest
from cli.models import make_tokenizer, save_asked
from same_memory import same_state

from hmt import load_model
from hmt.sessions import DirectRunner, Session, Store


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A model whose memory is small: 12 segments of 24 tokens."""
    return save_asked(
        tmp_path_factory, segment_length=24, sensory_length=40, summary_length=8, memory_size=12
    )


@pytest.fixture(scope="session")
def runner(folder):
    return DirectRunner(load_model(folder), make_tokenizer())


@pytest.fixture(scope="session")
def unforgetting(tmp_path_factory):
    """A runner of a model whose segments depend on those before them."""
    fields = {"segment_length": 24, "sensory_length": 40, "summary_length": 8, "memory_size": 12}
    folder = save_asked(tmp_path_factory, write_prompt="learned", **fields)
    return DirectRunner(load_model(folder))


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    """A folder of the test's own, and sessions in it."""
    monkeypatch.setenv("HMT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HMT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def session(runner):
    return Session.new("whales", runner)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.fixture(scope="session")
def same():
    """Ids and counters exactly; vectors closely."""
    return same_state


class Plain:
    """The plain model of a session: documents, read from scratch."""

    def __init__(self, runner):
        self.model, self.tokenizer = runner.model, runner.tokenizer

    def ids(self, text):
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def segments(self, text):
        ids, length = self.ids(text), self.model.segment_length
        return [ids[at : at + length] for at in range(0, len(ids), length)]

    def memory(self, segments):
        """Of a stream that read these segments, each closed as it is."""
        memory = self.model.new_memory(1)
        for ids in segments:
            memory = self.model.flush(self.model.read(ids, memory=memory))
        return memory


@pytest.fixture(scope="session")
def plain(runner):
    return Plain(runner)
