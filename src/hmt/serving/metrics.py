"""What is counted, for Prometheus; no names and no texts."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

_SECONDS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class Metrics:
    """The numbers of one app."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "hmt_requests", "Requests that were answered.", ["route", "method", "status"], registry=registry
        )
        self.seconds = Histogram(
            "hmt_request_seconds", "From a request to the end of its answer.", ["route"],
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self.first_token = Histogram(
            "hmt_first_token_seconds", "From a request to the first token of its answer.",
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self.running = Gauge("hmt_requests_running", "Requests that are being answered.", registry=registry)
        self.work = Gauge("hmt_model_requests", "Requests that use the model, or wait.", registry=registry)
        self.read = Counter("hmt_tokens_read", "Tokens that were read.", registry=registry)
        self.written = Counter("hmt_tokens_written", "Tokens that were written.", registry=registry)

    def text(self) -> bytes:
        """All of them, as Prometheus reads them."""
        return generate_latest(self.registry)
