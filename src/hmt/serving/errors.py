"""Errors as OpenAI's clients expect them: {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

import errno
import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from hmt.serving.jobs import Busy, Closed
from hmt.sessions import Conflict, Damaged, Full, Missing

logger = logging.getLogger("hmt.serving")

_TYPES = {
    400: ("invalid_request_error", "invalid_request"),
    401: ("authentication_error", "invalid_api_key"),
    403: ("permission_error", "forbidden"),
    404: ("invalid_request_error", "not_found"),
    405: ("invalid_request_error", "method_not_allowed"),
    408: ("invalid_request_error", "too_slow"),
    409: ("conflict_error", "conflict"),
    413: ("invalid_request_error", "too_large"),
    415: ("invalid_request_error", "unsupported_media_type"),
    422: ("invalid_request_error", "unprocessable"),
    429: ("rate_limit_error", "busy"),
    500: ("server_error", "internal_error"),
    503: ("server_error", "unavailable"),
    507: ("server_error", "storage_full"),
}
_HEADERS = {
    401: {"WWW-Authenticate": "Bearer"},
    429: {"Retry-After": "1"},
    503: {"Retry-After": "1"},
}
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class ApiError(HTTPException):
    """What a request gets in place of an answer.

    Args: status: of HTTP. message: says what to do. param: the field that is meant. code: for programs.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ):
        super().__init__(status, message)
        kind, usual = _TYPES.get(status, ("invalid_request_error", "invalid_request"))
        self.status, self.message, self.param = status, message, param
        self.type, self.code = kind, code or usual
        self.headers = {**_HEADERS.get(status, {}), **(headers or {})}

    def body(self) -> dict[str, Any]:
        """What is sent."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return {"error": error}

    def response(self) -> JSONResponse:
        """As a whole response."""
        return JSONResponse(self.body(), self.status, self.headers)


class Gone(Exception):
    """The client went away, or the server is being stopped: whatever is at work for it ends."""


def not_found(what: str, name: str, param: str | None = None) -> ApiError:
    """404 for what is not there, and for what is somebody else's."""
    return ApiError(404, f"There is no {what} {_short(name)!r}.", param=param, code=f"{what}_not_found")


def to_api_error(error: BaseException, param: str | None = None) -> ApiError:
    """What a client is told of an error; of a bug nothing but that there is one."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, Missing):
        return ApiError(404, str(error), param=param, code="memory_not_found")
    if isinstance(error, Conflict):
        return ApiError(409, str(error), param=param)
    if isinstance(error, Full):
        return ApiError(413, str(error), param=param, code="memory_full")
    if isinstance(error, Damaged):
        logger.error("%s", error)
        return ApiError(422, str(error), param=param, code="damaged")
    if isinstance(error, (Gone, Closed)):
        return ApiError(503, "The server is being stopped; ask again.", code="stopping")
    if isinstance(error, Busy):
        headers = {"Retry-After": str(max(1, round(error.retry_after)))}
        return ApiError(429, "The model is busy; try again later.", headers=headers)
    if isinstance(error, OSError) and not isinstance(error, (ConnectionError, TimeoutError)):
        logger.error("storage: %s", error.strerror or type(error).__name__)
        if error.errno in _FULL:
            return ApiError(507, "The disk is full; nothing was changed. Delete something, or ask later.")
        return ApiError(503, "What is stored cannot be reached now; nothing was changed.", code="storage")
    if isinstance(error, ValueError) and not isinstance(error, UnicodeError):
        return ApiError(400, str(error), param=param)
    logger.error("internal error", exc_info=error)
    return ApiError(500, "Something went wrong here. The request's id is in the header x-request-id.")


def install(app: FastAPI) -> None:
    """Have every error of the app answered so."""

    @app.exception_handler(ApiError)
    async def _known(request: Request, error: ApiError) -> JSONResponse:
        return error.response()

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return _validation(error).response()

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> JSONResponse:
        message = {
            404: "There is nothing at this address.",
            405: f"{request.method} is not what this address takes.",
        }
        told = message.get(error.status_code, str(error.detail))
        return ApiError(error.status_code, told, headers=dict(error.headers or {})).response()

    for kind in (ValueError, OSError):

        @app.exception_handler(kind)
        async def _usual(request: Request, error: Exception) -> JSONResponse:
            return to_api_error(error).response()


def _validation(error: RequestValidationError) -> ApiError:
    """The first thing that is wrong with a request."""
    first = error.errors()[0]
    place = [str(part) for part in first["loc"][1:]]
    if first["type"] == "json_invalid":
        return ApiError(400, f"The body is not JSON: {first.get('ctx', {}).get('error', 'cannot be read')}.")
    param = ".".join(place) or None
    message = str(first["msg"]).removeprefix("Value error, ")
    return ApiError(400, f"{param}: {message}" if param else message, param=param)


def _short(name: str) -> str:
    return name if len(name) <= 80 else name[:80] + "…"
