"""Makes the model's inputs of one request."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image

from sparsight.engine.parts import Parts, find_parts
from sparsight.engine.support import check
from sparsight.errors import InputError
from sparsight.inputs import (
    Messages,
    check_question,
    count_last_turn,
    find_positions,
    prompt_inputs,
    user_message,
)
from sparsight.methods.method import Method
from sparsight.serve.joining import Prompt
from sparsight.serve.server.choosing import choose_method
from sparsight.serve.server.pictures import check_urls, open_pictures
from sparsight.serve.server.settings import Settings
from sparsight.serve.server.wire import ChatRequest, Message


class Writer:
    """Makes prompts for one model. Not safe in two threads at once, as tokenizers are not.

    Args:
        model: that answers.
        processor: of the model.
        settings: of the server.
    """

    def __init__(self, model: Any, processor: Any, settings: Settings) -> None:
        self._model = model
        self._processor = processor
        self._settings = settings
        self._parts: Parts = find_parts(model)
        placeholders = self._parts.family.placeholder_ids(self._parts.config)
        self._placeholders = torch.tensor(placeholders)
        if settings.method is not None:
            check(self._parts, settings.method)

    def choose(self, request: ChatRequest) -> Method | None:
        """Return the method that a request asks for, checked to fit the model.

        Raises: SparsightError: it does not exist, is set wrongly or does not fit the model.
        """
        check_urls([url for turn in request.messages for url in turn.urls], self._settings)
        length = sum(len(turn.text) for turn in request.messages)
        if length > self._settings.limits.text:
            raise InputError(
                f"the turns have {length} characters; {self._settings.limits.text} are allowed."
            )
        method = choose_method(request.sparsight, self._settings)
        if method is not None:
            check(self._parts, method)
        return method

    def write(
        self, request: ChatRequest, method: Method | None, fetched: Mapping[str, bytes]
    ) -> Prompt:
        """Return a request as the model takes it.

        Args:
            request: checked.
            method: that `choose` returned.
            fetched: bytes of remote images, by URL.

        Raises: InputError: an image or a text cannot be used, or the prompt is too long.
        """
        for turn in request.messages:
            check_question(turn.text, self._processor)
        urls = [url for turn in request.messages for url in turn.urls]
        pictures = open_pictures(urls, fetched, self._settings)
        messages = _as_messages(request.messages, pictures)
        inputs = prompt_inputs(self._model, self._processor, messages)
        ids = inputs["input_ids"]
        visual = int(torch.isin(ids.cpu(), self._placeholders).sum())
        asked_before = len(messages) > 2 and messages[-2]["role"] == "assistant"
        rated = visual and method is not None and asked_before
        return Prompt(
            inputs=inputs,
            tokens=ids.shape[1],
            visual_tokens=visual,
            method=method if visual else None,
            rating=count_last_turn(self._processor, messages) if rated else None,
            most=self._find_length(request, ids.shape[1]),
        )

    def _find_length(self, request: ChatRequest, tokens: int) -> int:
        """Return how many tokens the answer may have."""
        limit = self._settings.limits.tokens
        asked = request.max_tokens or request.max_completion_tokens
        if asked is not None and asked > limit:
            raise InputError(f"max_tokens is {asked}; this server allows {limit}.")
        positions = find_positions(self._model)
        if positions is None:
            return asked or limit
        left = positions - tokens
        if left < (asked or 1):
            raise InputError(
                f"the prompt has {tokens} tokens and the answer may have {asked or 1}, but the "
                f"model has positions for {positions}; ask for less."
            )
        return asked or min(limit, left)


def _as_messages(turns: Sequence[Message], pictures: Sequence[Image.Image]) -> Messages:
    """Return turns as chat templates take them, the images of a turn before its words."""
    left = list(pictures)
    messages: Messages = []
    for turn in turns:
        count = len(turn.urls)
        message = user_message(turn.text, left[:count])
        messages.append({**message, "role": turn.role})
        del left[:count]
    return messages
