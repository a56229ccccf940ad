"""Refusals of the server, in the shape that OpenAI's clients know."""

import json
from typing import Any

import torch

from sparsight.errors import (
    BudgetError,
    InputError,
    PromptError,
    SettingError,
    SparsightError,
    UnsupportedError,
)

LONGEST = 600  # characters of a message, which may quote what was sent
BUSY = {"Retry-After": "1"}
KINDS = {401: "authentication_error", 429: "rate_limit_error"}
# by class of sparsight's errors: the field that is to blame, and a code
BLAMED: dict[type[SparsightError], tuple[str, str]] = {
    BudgetError: ("sparsight", "invalid_budget"),
    SettingError: ("sparsight", "invalid_setting"),
    UnsupportedError: ("sparsight", "unsupported"),
    PromptError: ("messages", "invalid_prompt"),
    InputError: ("messages", "invalid_input"),
}


class RequestError(Exception):
    """A request that is answered with an error.

    Args:
        status: of HTTP.
        message: says what was given, what is allowed and what to do.
        param: the field that is to blame.
        code: for programs.
        headers: of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message if len(message) <= LONGEST else message[:LONGEST] + " ..."
        self.param = param
        self.code = code
        self.headers = headers or {}

    @property
    def document(self) -> dict[str, Any]:
        """The body of the response."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        fields = {
            "message": self.message,
            "type": KINDS.get(self.status, kind),
            "param": self.param,
            "code": self.code,
        }
        return {"error": fields}

    def encode(self) -> bytes:
        """Return the body as JSON in ASCII, as the message may quote anything."""
        return json.dumps(self.document).encode("ascii")


def explain(error: BaseException) -> RequestError | None:
    """Return how a request that failed is answered; None for an error of the server itself."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, torch.OutOfMemoryError):
        message = "the model ran out of memory; send fewer or smaller images, or a shorter text."
        return RequestError(503, message, code="out_of_memory", headers=BUSY)
    for kind, (param, code) in BLAMED.items():
        if isinstance(error, kind):
            return RequestError(400, str(error), param=param, code=code)
    return None


def broken() -> RequestError:
    """Return the answer to a request that the server itself could not handle."""
    return RequestError(500, "the server failed; its log says why.", code="server_error")


def stopping() -> RequestError:
    """Return the answer to a request that came after the server was told to stop."""
    headers = {**BUSY, "Connection": "close"}
    return RequestError(503, "the server is stopping.", code="stopping", headers=headers)
