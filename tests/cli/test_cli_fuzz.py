"""Nothing that is typed ends in a traceback."""

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from . import fuzzing


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("fuzz")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HMT_CACHE", str(tmp_path_factory.mktemp("cache")))
        fuzzing.prepare(path)
    return path


@settings(
    max_examples=40, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
@given(words=fuzzing.cases())
def test_no_traceback(folder, words):
    outcome = fuzzing.run(words, folder, seconds=0.5)
    assert outcome.kind != "fault", (words, outcome)
