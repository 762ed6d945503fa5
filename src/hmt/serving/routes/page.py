"""The page at /: files of the package."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response

from hmt.serving.errors import ApiError

router = APIRouter(include_in_schema=False)
_KINDS = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
    "png": "image/png",
}


def _found() -> dict[str, tuple[bytes, str]]:
    folder: Any = files("hmt.serving") / "page"
    if not folder.is_dir():
        return {}
    there = (one for one in folder.iterdir() if one.is_file())
    kinds = ((one, _KINDS.get(one.name.rpartition(".")[2])) for one in there)
    return {one.name: (one.read_bytes(), kind) for one, kind in kinds if kind is not None}


_FILES = _found()  # nothing of a request ever becomes a path


@router.get("/")
async def index() -> Response:
    """The page."""
    return _file("index.html")


@router.get("/page/{name}")
async def part(name: str) -> Response:
    """What the page is made of."""
    return _file(name)


def _file(name: str) -> Response:
    if name not in _FILES:
        raise ApiError(404, "There is nothing at this address.")
    content, kind = _FILES[name]
    return Response(content, media_type=kind, headers={"Cache-Control": "no-cache"})
