"""A request on its way: what it asks of the model, and what it is told."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sparsight.serve.joining import Prompt
from sparsight.serve.server.answers import Reason
from sparsight.serve.server.errors import RequestError


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn.

    Args:
        temperature: 0 takes the likeliest token.
        top_p: share of probability that is drawn from.
        seed: of the draws; a request with the same one gets the same answer.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Started:
    """The model has begun with the request."""


@dataclass(frozen=True)
class Text:
    """The next piece of the answer."""

    text: str


@dataclass(frozen=True)
class Cost:
    """What was pruned.

    Args:
        visual_tokens: of the prompt.
        entering: of them, that entered a decoder layer on average.
        flops_share: of the prefill, of what the dense model needs.
    """

    visual_tokens: int
    entering: float
    flops_share: float


@dataclass(frozen=True)
class Done:
    """The answer is complete.

    Args:
        reason: why it ended.
        tokens: that it has.
        cost: of its prompt.
    """

    reason: Reason
    tokens: int
    cost: Cost


@dataclass(frozen=True)
class Failed:
    """There is no answer, or no more of it."""

    error: RequestError


Event = Started | Text | Done | Failed


@dataclass(eq=False)
class Job:
    """A request in the line or at the model.

    Made in the event loop, which reads `events`; `tell` is called by the thread that owns the
    model.

    Args:
        prompt: what is asked.
        sampling: how tokens are drawn.
        stops: texts that end the answer.
    """

    prompt: Prompt
    sampling: Sampling = Sampling()
    stops: Sequence[str] = ()
    cancelled: bool = False
    told: bool = False  # whether a part of the answer, or why there is none, was told
    created: float = field(default_factory=time.monotonic)
    events: asyncio.Queue[Event] = field(default_factory=asyncio.Queue)
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)

    @property
    def group(self) -> tuple[Any, ...]:
        """What jobs have in common that are answered together; one that draws stays alone."""
        if self.sampling.temperature > 0:
            return (id(self),)
        return self.prompt.group

    def tell(self, event: Event) -> None:
        """Put an event into the event loop, if anybody still waits for it there."""
        if self.cancelled or self.loop.is_closed():
            return
        self.told = self.told or not isinstance(event, Started)
        self.loop.call_soon_threadsafe(self.events.put_nowait, event)
