"""Talks to a judge: one POST to an OpenAI-compatible endpoint, tried again where that can help."""

import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from sparsight.errors import ModelError, SettingError

KEYS = ("SPARSIGHT_JUDGE_KEY", "OPENAI_API_KEY")  # of the environment; the first one that is set
PATH = "/chat/completions"
TRIES = 5
FIRST_WAIT = 1.0  # seconds before the second try; doubled before each later one
LONGEST_WAIT = 60.0
TIMEOUT = 120.0  # seconds
LONGEST_REPLY = 2**20  # bytes
TOKENS = 64
TOO_MANY = 429


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows no redirect, because the key would go along."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        """Refuse to follow."""


@dataclass(frozen=True)
class Endpoint:
    """Where a judge answers.

    Args:
        url: base, such as http://127.0.0.1:8000/v1; the full one of chat completions is cut.
        model: name of the judge.
        timeout: seconds that one reply may take.
    """

    url: str
    model: str
    timeout: float = TIMEOUT

    def __post_init__(self) -> None:
        """Check the address.

        Raises: SettingError: it is no http(s) address, holds a password, or the model is missing.
        """
        object.__setattr__(self, "url", self.url.rstrip("/").removesuffix(PATH))
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SettingError(
                f"--judge {self.url!r} is no address; give one such as http://127.0.0.1:8000/v1, "
                "or none."
            )
        if "@" in parts.netloc:
            raise SettingError(
                f"--judge holds a password; give the key as {KEYS[0]} in the environment."
            )
        if not self.model:
            raise SettingError("the judge has no name; give --judge-model.")

    def ask(self, messages: Sequence[dict[str, str]]) -> tuple[str, str]:
        """Return the judge's reply, and its name as the endpoint gives it.

        Raises: ModelError: the endpoint refuses, or fails again and again.
        """
        why = ""
        for number in range(TRIES):
            if number:
                _wait(min(LONGEST_WAIT, FIRST_WAIT * 2 ** (number - 1)))
            try:
                return self._read(self._post(messages))
            except urllib.error.HTTPError as error:
                why = f"HTTP {error.code}"
                error.close()
                if error.code != TOO_MANY and error.code < 500:
                    raise ModelError(self._explain(error.code)) from None
            except (
                OSError,
                http.client.HTTPException,
                ValueError,
                LookupError,
                TypeError,
            ) as error:
                why = f"{type(error).__name__}: {error}"
        raise ModelError(
            f"the judge at {self.url} failed {TRIES} times ({why}); what it marked is kept: run "
            "the same command again."
        )

    def _post(self, messages: Sequence[dict[str, str]]) -> bytes:
        body = {
            "model": self.model,
            "messages": list(messages),
            "temperature": 0,
            "max_tokens": TOKENS,
        }
        headers = {"Content-Type": "application/json"}
        key = read_key()
        if key:
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(  # noqa: S310 - the scheme was checked
            self.url + PATH, json.dumps(body).encode(), headers, method="POST"
        )
        opener = urllib.request.build_opener(_NoRedirect)
        with opener.open(request, timeout=self.timeout) as answer:
            data: bytes = answer.read(LONGEST_REPLY + 1)
        if len(data) > LONGEST_REPLY:
            raise ValueError(f"a reply of more than {LONGEST_REPLY} bytes")
        return data

    def _read(self, data: bytes) -> tuple[str, str]:
        document = json.loads(data)
        content = document["choices"][0]["message"]["content"]
        return ("" if content is None else str(content)), str(document.get("model", self.model))

    def _explain(self, code: int) -> str:
        reasons = {
            401: f"the key is missing or wrong; set {KEYS[0]} in the environment",
            403: f"the key is not allowed to; set another {KEYS[0]}",
            404: f"there is no {PATH} there, or no model {self.model}; give --judge the address in "
            "front of it, which mostly ends in /v1",
        }
        reason = reasons.get(code, "it does not take the request; check --judge-model")
        return f"the judge at {self.url} answered HTTP {code}: {reason}."


def _wait(seconds: float) -> None:
    time.sleep(seconds)


def read_key() -> str | None:
    """Return the key that the environment holds; None where there is none.

    Raises: SettingError: it holds characters that no key has; the error does not show it.
    """
    for name in KEYS:
        key = os.environ.get(name, "").strip()
        if key:
            if not (key.isascii() and key.isprintable()):
                raise SettingError(f"{name} holds characters that no key has; set it again.")
            return key
    return None
