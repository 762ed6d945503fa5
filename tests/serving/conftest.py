import httpx2
import pytest
from cli.models import TEXT, make_tokenizer, save_asked
from openai import OpenAI

from hmt import load_model
from hmt.serving import Engine
from serving.live import live


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A model whose memory holds 60 segments of 24 tokens."""
    return save_asked(
        tmp_path_factory, segment_length=24, sensory_length=40, summary_length=8, memory_size=60
    )


@pytest.fixture(scope="session")
def runner(folder):
    engine = Engine(load_model(folder), make_tokenizer())
    yield engine
    engine.shutdown()


@pytest.fixture(scope="module")
def url(runner, tmp_path_factory):
    """Of a server without keys."""
    with live(runner, tmp_path_factory.mktemp("store")) as (address, _):
        yield address


@pytest.fixture
def http(url):
    with httpx2.Client(base_url=url, timeout=30) as client:
        yield client


@pytest.fixture(scope="module")
def client(url):
    with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=30) as found:
        yield found


@pytest.fixture
def memory(http):
    """The id of a memory that has read TEXT."""
    made = http.post("/v1/memories", json={"name": "whales", "text": TEXT})
    assert made.status_code == 201, made.text
    yield made.json()["id"]
    http.delete(f"/v1/memories/{made.json()['id']}")
