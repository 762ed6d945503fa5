"""Whether the server lives, whether it can be asked, and what it has done."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from hmt.serving.errors import ApiError
from hmt.serving.services import services_of

router = APIRouter(tags=["operation"])


@router.get("/health")
async def health() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@router.get("/ready")
async def ready(request: Request) -> dict[str, str]:
    """Model and store are there, and it is not being stopped."""
    services = services_of(request)
    if services.stopping:
        raise ApiError(503, "The server is being stopped.", code="stopping")
    memories = services.memories("default")
    await services.light.answer(request, lambda cancel: memories.check())
    return {"status": "ready"}


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(request: Request) -> Response:
    """Counters in the format of Prometheus."""
    services = services_of(request)
    services.metrics.work.set(services.model.there)
    return Response(services.metrics.text(), media_type=services.metrics.content_type)
