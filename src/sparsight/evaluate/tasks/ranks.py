"""Processes that share one evaluation: who they are, and how they tell each other what is needed.

`accelerate launch` or `torchrun` starts them, and says in the environment how many there are. Here
they share out work and exchange small JSON documents; `processes` connects them.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import distributed

from sparsight import errors
from sparsight.errors import ProcessError, SparsightError

Thing = TypeVar("Thing")


class Ended(Exception):
    """Ends a process after the error of one of them was told.

    Args: code: that the process ends with.
    """

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def raise_error(error: Exception) -> int:
    """Raise an error, instead of telling it."""
    raise error


@dataclass(frozen=True)
class Ranks:
    """The place of this process among those that share an evaluation.

    Args:
        index: of this process. Number 0 leads: it alone opens the folder first, prints and scores.
        count: of processes.
        tell: tells people of an error, and returns the code that the process ends with.
        group: of torch.distributed, on the CPU; None for torch's own.
    """

    index: int = 0
    count: int = 1
    tell: Callable[[Exception], int] = raise_error
    group: Any = None

    @property
    def leads(self) -> bool:
        """Whether this process is number 0."""
        return not self.index

    def pick(self, things: Iterable[Thing]) -> Iterator[tuple[int, Thing]]:
        """Yield this process's share, with its numbers: one in `count`, from `index` on."""
        return islice(enumerate(things), self.index, None, self.count)

    def exchange(self, document: Any) -> list[Any]:
        """Return what every process gave, a JSON document each, in the order of the processes.

        Raises: ProcessError: a process ended, or did not come within the time of the group.
        """
        if self.count == 1:
            return [document]
        try:
            return _gather(document, self.count, self.group)
        except RuntimeError as error:
            raise ProcessError(
                f"process {self.index} of 0 to {self.count - 1} waited for the others, of which "
                f"one has ended or hangs ({shorten_reason(error)}); all written answers are kept. "
                "Run the same command again to continue."
            ) from error

    @contextmanager
    def share_errors(self, flag: Path | None = None) -> Iterator[None]:
        """End all processes with one error if there is one within the block of any of them.

        All have to enter such a block. None leaves it before the last one is through. Ctrl-C is not
        shared: it reaches all of them.

        Args: flag: file that appears with the first error, for those that are still at work.

        Raises: Ended: there was an error, and process 0 told it. A single process raises its own.
        """
        if self.count == 1:
            yield
            return
        own: Exception | None = None
        try:
            yield
        except Exception as error:
            own = error
            if flag is not None:
                with suppress(OSError):  # without it the others finish first
                    flag.touch()
        failures = self.exchange(None if own is None else describe_error(own))
        if flag is not None and self.leads:
            with suppress(OSError):
                flag.unlink(missing_ok=True)
        self._end_if_any(own, failures)

    def _end_if_any(self, own: Exception | None, failures: list[Any]) -> None:
        """Raise Ended in all processes if one of them had an error."""
        found = [(rank, failure) for rank, failure in enumerate(failures) if failure is not None]
        if not found:
            return
        first, (kind, text) = found[0]
        code = 0
        if self.leads:
            code = self.tell(own or restore_error(kind, text, f"process {first}: "))
        elif own is not None and not isinstance(own, SparsightError):
            self.tell(own)  # where it comes from is known here alone
        raise Ended(self.exchange(code)[0])  # the others wait until it is told


def shorten_reason(error: Exception) -> str:
    """Return what an error of torch says first, without the place in its source."""
    text = re.sub(r"^\s*\[[^\]]*\]\s*", "", str(error)).strip() or type(error).__name__
    return text.splitlines()[0].split(". ")[0].rstrip(".")


def _gather(document: Any, count: int, group: Any) -> list[Any]:
    """Return the documents of all processes; they travel as JSON, padded to one length."""
    data = torch.tensor(list(json.dumps(document).encode()), dtype=torch.uint8)
    sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(count)]
    distributed.all_gather(sizes, torch.tensor([len(data)]), group=group)
    longest = max(int(size) for size in sizes)
    rows = [torch.zeros(longest, dtype=torch.uint8) for _ in range(count)]
    padded = torch.zeros(longest, dtype=torch.uint8)
    padded[: len(data)] = data
    distributed.all_gather(rows, padded, group=group)
    pairs = zip(rows, sizes, strict=True)
    return [json.loads(bytes(row[: int(size)].tolist())) for row, size in pairs]


def describe_error(error: Exception) -> tuple[str, str]:
    """Return the name of an error's class, of sparsight's the public one, and its text."""
    for kind in type(error).__mro__:
        if kind is getattr(errors, kind.__name__, None):
            return kind.__name__, str(error)
    return type(error).__name__, str(error)


def restore_error(kind: str, text: str, where: str = "") -> Exception:
    """Return the error that `describe_error` described; one that is not sparsight's by its name.

    Args:
        kind: name of its class.
        text: of the error.
        where: put in front of the text.
    """
    found: Any = getattr(errors, kind, None)
    if isinstance(found, type) and issubclass(found, SparsightError):
        named: Exception = found(where + text)
        return named
    return RuntimeError(f"{where}{kind}: {text}")


ALONE = Ranks()
