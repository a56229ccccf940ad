"""One training sequence per image, or per row of images: its visual tokens once, then all its questions side by side.

Each question sees the images and itself, never another question, and its positions restart after
the images, so every question is computed exactly as it would be alone at inference while the visual
tokens are paid for once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

SHARED = 0  # group of the prompt's start and of the visual tokens
PADDING = -1
_ROUND = 32  # few different lengths: a new shape costs the matrix kernels seconds


@dataclass(frozen=True)
class Asked:
    """A question to train on.

    Args:
        question: what is asked.
        answer: what is to be said, in pieces: text and whether it is to be predicted; the end of
            the turn follows.
        kind: under which name its accuracy is reported.
        weight: of its loss.
    """

    question: str
    answer: tuple[tuple[str, bool], ...]
    kind: str
    weight: float = 1.0


@dataclass(frozen=True)
class Layout:
    """The visual tokens of every row of a batch.

    Args:
        images: images in a row.
        patches: of one image.
        seen: patches of it that are shown.
    """

    images: int
    patches: int
    seen: int


@dataclass(frozen=True)
class Prompt:
    """The fixed token ids around a question, exactly those of the chat template."""

    processor: Any
    prefix: list[int]
    between: list[int]
    end: int

    @classmethod
    def of(cls, processor: Any) -> Prompt:
        """Takes the ids before and between images from the processor's own template."""
        ids = cls._render(processor, "x", 2)
        image = processor.tokenizer.convert_tokens_to_ids("<image>")
        first = ids.index(image)
        second = ids.index(image, first + 1)
        return cls(
            processor, ids[:first], ids[first + 1 : second], processor.tokenizer.eos_token_id
        )

    @staticmethod
    def _render(processor: Any, question: str, images: int = 1) -> list[int]:
        content = [{"type": "image"}] * images + [{"type": "text", "text": question}]
        text = processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        return list(processor.tokenizer(text, add_special_tokens=False)["input_ids"])

    def question(self, text: str) -> list[int]:
        """Returns the ids between the last image and the answer."""
        ids = self._render(self.processor, text)
        return ids[len(self.prefix) + 1 :]

    def conversation(
        self, turns: list[tuple[str, str]]
    ) -> tuple[str, tuple[tuple[str, bool], ...]]:
        """Returns the first question and, in pieces, all that follows it in the template; answers are predicted."""
        end = self.processor.tokenizer.convert_ids_to_tokens(self.end)
        pieces = [(turns[0][1], True)]
        for question, answer in turns[1:]:
            asked = [{"role": "user", "content": [{"type": "text", "text": question}]}]
            text = self.processor.apply_chat_template(
                asked, add_generation_prompt=True, tokenize=False
            )
            pieces += [(end, True), (f"\n{text}", False), (answer, True)]
        return turns[0][0], tuple(pieces)

    def answer(self, pieces: tuple[tuple[str, bool], ...]) -> list[tuple[int, bool]]:
        """Returns the ids of the answer and of the end of the turn, and which are to be predicted."""
        found = []
        for text, predicted in pieces:
            ids = self.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
            found += [(token, predicted) for token in ids]
        return [*found, (self.end, True)]

    def head(self, layout: Layout, seen: torch.Tensor) -> torch.Tensor:
        """Returns the positions of everything before the question, (b, P); `seen`: (b * images, seen) patches."""
        rows = seen.view(-1, layout.images, layout.seen)
        now, parts = len(self.prefix), [torch.arange(len(self.prefix)).expand(len(rows), -1)]
        for number in range(layout.images):
            parts.append(rows[:, number] + now)
            now += layout.patches
            if number + 1 < layout.images:
                parts.append(torch.arange(now, now + len(self.between)).expand(len(rows), -1))
                now += len(self.between)
        return torch.cat(parts, 1)

    def start(self, layout: Layout) -> int:
        """Returns the position of the first token behind the last image."""
        return (
            len(self.prefix)
            + layout.images * layout.patches
            + (layout.images - 1) * len(self.between)
        )


@dataclass(frozen=True)
class Batch:
    """A packed batch of b rows; S text ids behind the images, padded; N = what stands before + S.

    Args:
        text: (b, S) ids behind the images.
        positions: (b, N) position ids.
        mask: (b, 1, N, N) bool, true where attention is allowed.
        rows: (A,) row of each predicted token.
        columns: (A,) place in the sequence of the token that predicts it.
        targets: (A,) ids to predict.
        owners: (A,) running number of the question.
        weights: (Q,) loss weight of each question.
        kinds: kind of each question.
    """

    text: torch.Tensor
    positions: torch.Tensor
    mask: torch.Tensor
    rows: torch.Tensor
    columns: torch.Tensor
    targets: torch.Tensor
    owners: torch.Tensor
    weights: torch.Tensor
    kinds: list[str]


class _Rows:
    """Lists that grow by one row per image."""

    def __init__(self) -> None:
        self.text: list[list[int]] = []
        self.places: list[list[int]] = []
        self.members: list[list[int]] = []
        self.picks: list[tuple[int, int, int, int]] = []  # row, column, target, owner
        self.asked: list[Asked] = []

    def add(self, prompt: Prompt, questions: list[Asked], before: int, start: int) -> None:
        """Adds a row with `before` tokens in front of its questions, which start at position `start`."""
        ids: list[int] = []
        places: list[int] = []
        members: list[int] = []
        for number, asked in enumerate(questions, 1):
            question, answer = prompt.question(asked.question), prompt.answer(asked.answer)
            first = before + len(ids) + len(question) - 1  # the token before the answer
            self.picks += [
                (len(self.text), first + i, token, len(self.asked))
                for i, (token, predicted) in enumerate(answer)
                if predicted
            ]
            self.asked.append(asked)
            length = len(question) + len(answer) - 1
            ids += question + [token for token, _ in answer[:-1]]
            places += range(start, start + length)
            members += [number] * length
        self.text.append(ids)
        self.places.append(places)
        self.members.append(members)


def pack(prompt: Prompt, groups: list[list[Asked]], layout: Layout, seen: torch.Tensor) -> Batch:
    """Packs the questions of several rows of images of which the patches `seen`, (b * images, seen), are shown."""
    head = prompt.head(layout, seen)
    lists = _Rows()
    for questions in groups:
        lists.add(prompt, questions, head.shape[1], prompt.start(layout))
    longest = -(-max(map(len, lists.text)) // _ROUND) * _ROUND
    shared = torch.full(head.shape, SHARED)
    rows, columns, targets, owners = torch.tensor(lists.picks).T
    return Batch(
        text=_padded(lists.text, longest, 0),
        positions=torch.cat([head, _padded(lists.places, longest, 0)], 1),
        mask=_mask(torch.cat([shared, _padded(lists.members, longest, PADDING)], 1)),
        rows=rows,
        columns=columns,
        targets=targets,
        owners=owners,
        weights=torch.tensor([asked.weight for asked in lists.asked]),
        kinds=[asked.kind for asked in lists.asked],
    )


def _padded(lists: list[list[int]], length: int, fill: int) -> torch.Tensor:
    return torch.tensor([row + [fill] * (length - len(row)) for row in lists])


def _mask(members: torch.Tensor) -> torch.Tensor:
    """Allows what is earlier and either shared or of the same question; (b, N) to (b, 1, N, N)."""
    length = members.shape[1]
    earlier = torch.ones(length, length, dtype=torch.bool).tril()
    keys, queries = members[:, None, :], members[:, :, None]
    allowed = earlier & ((keys == SHARED) | (keys == queries))
    return (allowed | torch.eye(length, dtype=torch.bool))[:, None]
