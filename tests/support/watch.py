"""A method that keeps the first tokens, and shows what it was given."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch

from sparsight import Method
from sparsight.methods.encoder import EncoderNeed
from sparsight.methods.view import Selection

ALL = (
    EncoderNeed("features"),
    EncoderNeed("class_attention"),
    EncoderNeed("class_attention", 2),
    EncoderNeed("received"),
    EncoderNeed("received", 0.3),
    EncoderNeed("keys", 1),
    EncoderNeed("received"),  # twice
    EncoderNeed("received", 0.0),  # the first block, which equals no 0
    EncoderNeed("wide_class_attention", -1),
    EncoderNeed("wide_class_attention", 1),
    EncoderNeed("wide_keys", -1),
)
NO_CLASS = tuple(need for need in ALL if "class" not in need.kind)


@dataclass(frozen=True)
class Watch(Method):
    """Sees one sample at a time; what it sees stands in `seen`, in order."""

    signals: ClassVar[frozenset[str]] = frozenset({"encoder", "text", "layout"})
    batched: ClassVar[bool] = False

    sites: tuple[int, ...] | None = (0,)
    needs: tuple[EncoderNeed, ...] = ALL
    seen: list = field(default_factory=list, compare=False)

    @property
    def encoder_needs(self):
        return self.needs

    def select(self, view):
        self.seen.append(view)
        return Selection(torch.arange(view.count))


@dataclass(frozen=True)
class WatchGroups(Watch):
    """Sees samples alike together."""

    batched: ClassVar[bool] = True

    def select(self, view):
        self.seen.append(view)
        return Selection(torch.arange(view.count).expand(len(view.hidden), -1))
