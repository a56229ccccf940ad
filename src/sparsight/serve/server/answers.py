"""Turns the tokens of one answer into text, as they come: what may be sent, and when it ends."""

from collections.abc import Callable, Sequence
from typing import Literal

Reason = Literal["stop", "length"]

UNFINISHED = "\N{REPLACEMENT CHARACTER}"  # bytes of a character of which more may come


class Answer:
    """One answer while it grows.

    White space around it is left out, as `Chat.ask` does it. What may still change is held back:
    white space at the end, half a character, and what may become a stop text.

    Args:
        decode: returns the text of token ids, special tokens left out.
        ends: ids of tokens that end an answer.
        most: tokens that it may have.
        stops: texts in front of which it ends.
    """

    def __init__(
        self,
        decode: Callable[[list[int]], str],
        ends: frozenset[int],
        most: int,
        stops: Sequence[str] = (),
    ) -> None:
        self._decode = decode
        self._ends = ends
        self._most = most
        self._stops = tuple(stops)
        self._tokens: list[int] = []
        self._sent = ""
        self.count = 0
        self.reason: Reason | None = None

    def add(self, token: int) -> str:
        """Take the next token, and return the text that can be sent now.

        `reason` is set with the last one.
        """
        self.count += 1
        if token in self._ends:
            self.reason = "stop"
        else:
            self._tokens.append(token)
        text = self._decode(self._tokens)
        found = [at for at in map(text.find, self._stops) if at >= 0]
        if found:
            text = text[: min(found)]
            self.reason = "stop"
        elif self.reason is None and self.count >= self._most:
            self.reason = "length"
        ready = text.strip() if self.reason else self._hold_back(text)
        if not ready.startswith(self._sent):  # a tokenizer that tidies up what it wrote before
            return ""
        new = ready[len(self._sent) :]
        self._sent = ready
        return new

    def _hold_back(self, text: str) -> str:
        """Return what is certain of a text that goes on."""
        longest = max((_overlap(text, stop) for stop in self._stops), default=0)
        certain = text[: len(text) - longest].rstrip(UNFINISHED)
        return certain.strip()


def _overlap(text: str, stop: str) -> int:
    """Return how many characters at the end of a text begin a stop text."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
