"""The API fuzzed from its own schema, a little; `benchmarks/fuzz_api.py` does it at length."""

import hypothesis
import pytest
import schemathesis
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from hmt.serving import Settings
from serving.live import live

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
]


@pytest.fixture(scope="module")
def api(runner, tmp_path_factory):
    settings = Settings(max_new_tokens=4, max_text_tokens=500)
    with live(runner, tmp_path_factory.mktemp("fuzzed"), settings=settings) as (url, _):
        yield schemathesis.openapi.from_url(f"{url}/openapi.json")


def test_nothing_that_can_be_sent_breaks_it(api):
    for found in api.get_all_operations():
        operation = found.ok()
        for mode in GenerationMode:

            @hypothesis.settings(
                max_examples=3, deadline=None, database=None, derandomize=True,
                phases=[hypothesis.Phase.generate],
                suppress_health_check=list(hypothesis.HealthCheck),
            )  # fmt: skip
            @hypothesis.given(operation.as_strategy(generation_mode=mode))
            def send(case):
                case.call_and_validate(checks=CHECKS)

            try:
                send()
            except hypothesis.errors.Unsatisfiable:
                pass  # nothing is wrong with what has no parameters
