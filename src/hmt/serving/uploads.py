"""What is sent to be read: JSON with a text, or a form with a file."""

from __future__ import annotations

import json
from typing import Any

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile

from hmt.asking.places import Document
from hmt.data.extract import extract
from hmt.serving.errors import ApiError
from hmt.serving.schema import NewDocument

_LONGEST = 200  # characters of a name

#: For the schema: FastAPI does not see what is read by hand.
DOCUMENT_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": NewDocument.model_json_schema()},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"file": {"type": "string", "format": "binary"}},
                    "required": ["file"],
                }
            },
        },
    }
}
FILE_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


async def sent_document(request: Request) -> tuple[str, bytes | str]:
    """Name and content of what was sent. ApiError for anything else."""
    kind = _kind(request)
    if kind == "application/json":
        body = await sent_json(request, NewDocument)
        return body.name or "", body.text
    if kind != "multipart/form-data":
        raise ApiError(415, "Send JSON with a text, or a file as multipart/form-data.")
    async with request.form(max_files=1, max_fields=10) as form:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise ApiError(400, "The form has no file of the name 'file'.", param="file")
        name = (file.filename or "").replace("\\", "/").rpartition("/")[2][:_LONGEST]
        return name, await file.read()


async def sent_file(request: Request) -> bytes:
    """The bytes of a whole body."""
    if _kind(request) != "application/octet-stream":
        raise ApiError(415, "Send the file as application/octet-stream.")
    return await request.body()


async def sent_json(request: Request, model: type[Any]) -> Any:
    """The body as `model`. ApiError 400 for what it is not."""
    if _kind(request) != "application/json":
        raise ApiError(415, "Send application/json.")
    try:
        found = json.loads(await request.body(), parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise ApiError(400, "The body is not JSON.") from None
    try:
        assert issubclass(model, BaseModel)
        return model.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        param = ".".join(str(part) for part in first["loc"]) or None
        message = str(first["msg"]).removeprefix("Value error, ")
        raise ApiError(400, f"{param}: {message}" if param else message, param=param) from None


def to_document(name: str, content: bytes | str) -> Document:
    """The document of what was sent: the text of any file that `hmt.data.extract` knows, with its pages.
    ApiError 415 for what holds none. Blocks."""
    name = "".join(one if one.isprintable() else " " for one in name).strip()
    if isinstance(content, str):
        return Document(name, content)
    try:
        found = extract(content, name or None)
    except ValueError as error:
        raise ApiError(415, str(error), param="file") from None
    return Document(name, found.text, found.marks)


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no JSON")


def _kind(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()
