"""Documents of OpenAI's chat completions, whole and in chunks, with the field `sparsight`."""

import json
import time
import uuid
from typing import Any

from sparsight.serve.joining import Prompt
from sparsight.serve.server.jobs import Done

END = b"data: [DONE]\n\n"


class Reply:
    """Writes the answer to one request.

    Args:
        model: name that was asked for.
        prompt: that is answered.
    """

    def __init__(self, model: str, prompt: Prompt) -> None:
        self._prompt = prompt
        self._head = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
        }

    def write(self, text: str, done: Done) -> dict[str, Any]:
        """Return the document of a whole answer."""
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": done.reason}
        return {
            **self._head,
            "object": "chat.completion",
            "choices": [choice],
            "usage": self._count(done),
            "sparsight": self._tell_cost(done),
        }

    def begin(self) -> dict[str, Any]:
        """Return the first chunk, which has no text yet."""
        return self._chunk({"role": "assistant", "content": ""}, None)

    def go_on(self, text: str) -> dict[str, Any]:
        """Return the next chunk of text."""
        return self._chunk({"content": text}, None)

    def end(self, done: Done) -> dict[str, Any]:
        """Return the chunk behind the text."""
        return {**self._chunk({}, done.reason), "sparsight": self._tell_cost(done)}

    def tell_usage(self, done: Done) -> dict[str, Any]:
        """Return the last chunk, for clients that ask for it."""
        kind = "chat.completion.chunk"
        return {**self._head, "object": kind, "choices": [], "usage": self._count(done)}

    def _chunk(self, delta: dict[str, Any], reason: str | None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return {**self._head, "object": "chat.completion.chunk", "choices": [choice]}

    def _count(self, done: Done) -> dict[str, int]:
        return {
            "prompt_tokens": self._prompt.tokens,
            "completion_tokens": done.tokens,
            "total_tokens": self._prompt.tokens + done.tokens,
        }

    def _tell_cost(self, done: Done) -> dict[str, Any]:
        """Return what was pruned: visual tokens of the prompt, and those that entered a layer."""
        method = self._prompt.method
        return {
            "method": "dense" if method is None else method.name,
            "retain": None if method is None else method.retain,
            "visual_tokens": done.cost.visual_tokens,
            "visual_tokens_entering": round(done.cost.entering, 2),
            "prefill_flops_share": round(done.cost.flops_share, 4),
        }


def as_event(document: dict[str, Any]) -> bytes:
    """Return a document as a server-sent event."""
    return b"data: " + json.dumps(document).encode("ascii") + b"\n\n"
