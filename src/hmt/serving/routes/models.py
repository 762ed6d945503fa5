"""What models there are: one."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from hmt.serving.errors import not_found
from hmt.serving.services import Services, services_of

router = APIRouter(tags=["models"])


@router.get("/v1/models")
async def models(request: Request) -> dict[str, Any]:
    """The model of this server."""
    return {"object": "list", "data": [_view(services_of(request))]}


@router.get("/v1/models/{model:path}")
async def model(request: Request, model: str) -> dict[str, Any]:
    """The model by its name."""
    services = services_of(request)
    check_model(services, model)
    return _view(services)


def check_model(services: Services, model: str | None) -> None:
    """ApiError 404 for another model than the one that is served."""
    if model is not None and model != services.model_id:
        raise not_found("model", model, "model")


def _view(services: Services) -> dict[str, Any]:
    return {"id": services.model_id, "object": "model", "created": services.created, "owned_by": "hmt"}
