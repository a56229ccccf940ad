"""One training sequence per image: the image once, then all its questions side by side.

Each question sees the image and itself, never another question, and its positions restart after the image, so every
question is computed exactly as it would be alone at inference while the 576 visual tokens are paid for once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from easy_vqa import Question
from features import GRID, grid_positions

SHARED = 0  # group of the prompt's start and of the visual tokens
PADDING = -1
_ROUND = 16  # few different lengths: a new shape costs the matrix kernels seconds


@dataclass(frozen=True)
class Prompt:
    """The fixed token ids around a question, exactly those of the chat template."""

    processor: Any
    prefix: list[int]
    end: int

    @classmethod
    def of(cls, processor: Any) -> Prompt:
        """Takes the ids before the image from the processor's own template."""
        ids = cls._render(processor, "x")
        image = processor.tokenizer.convert_tokens_to_ids("<image>")
        return cls(processor, ids[: ids.index(image)], processor.tokenizer.eos_token_id)

    @staticmethod
    def _render(processor: Any, question: str) -> list[int]:
        content = [{"type": "image"}, {"type": "text", "text": question}]
        text = processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        return list(processor.tokenizer(text, add_special_tokens=False)["input_ids"])

    def question(self, text: str) -> list[int]:
        """Returns the ids between the image and the answer."""
        ids = self._render(self.processor, text)
        return ids[len(self.prefix) + 1 :]

    def answer(self, text: str) -> list[int]:
        """Returns the ids of the answer and of the end of the turn."""
        return [*self.processor.tokenizer(text, add_special_tokens=False)["input_ids"], self.end]


@dataclass(frozen=True)
class Batch:
    """A packed batch of b images; S text ids behind each image, padded; N = prefix + visual + S.

    Args:
        text: (b, S) ids behind the image.
        positions: (b, N) position ids.
        mask: (b, 1, N, N) bool, true where attention is allowed.
        rows: (A,) image of each predicted token.
        columns: (A,) place in the sequence of the token that predicts it.
        targets: (A,) ids to predict.
        owners: (A,) running number of the question.
        weights: (Q,) loss weight of each question.
        is_open: (Q,) true for questions that are not yes/no.
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
    is_open: torch.Tensor
    kinds: list[str]


class _Rows:
    """Lists that grow by one row per image."""

    def __init__(self) -> None:
        self.text: list[list[int]] = []
        self.places: list[list[int]] = []
        self.members: list[list[int]] = []
        self.picks: list[tuple[int, int, int, int]] = []  # row, column, target, owner
        self.kinds: list[str] = []

    def add(self, prompt: Prompt, questions: list[Question], visual: int) -> None:
        """Adds an image with `visual` tokens and its questions."""
        start = len(prompt.prefix)
        ids: list[int] = []
        places: list[int] = []
        members: list[int] = []
        for number, question in enumerate(questions, 1):
            asked, answer = prompt.question(question.text), prompt.answer(question.answer)
            first = start + visual + len(ids) + len(asked) - 1  # the token before the answer
            self.picks += [(len(self.text), first + i, token, len(self.kinds)) for i, token in enumerate(answer)]
            self.kinds.append(question.kind)
            length = len(asked) + len(answer) - 1
            ids += asked + answer[:-1]
            places += range(start + GRID * GRID, start + GRID * GRID + length)
            members += [number] * length
        self.text.append(ids)
        self.places.append(places)
        self.members.append(members)


def pack(prompt: Prompt, groups: list[list[Question]], window: int, yes_no_weight: float) -> Batch:
    """Packs the questions of several images behind visual tokens pooled with `window`."""
    start = len(prompt.prefix)
    visual = grid_positions(window) + start
    lists = _Rows()
    for questions in groups:
        lists.add(prompt, questions, len(visual))
    longest = -(-max(map(len, lists.text)) // _ROUND) * _ROUND
    head_positions = torch.cat([torch.arange(start), visual]).expand(len(groups), -1)
    head_members = torch.full((len(groups), start + len(visual)), SHARED)
    rows, columns, targets, owners = torch.tensor(lists.picks).T
    is_open = torch.tensor([kind == "open" for kind in lists.kinds])
    return Batch(
        text=_padded(lists.text, longest, 0),
        positions=torch.cat([head_positions, _padded(lists.places, longest, 0)], 1),
        mask=_mask(torch.cat([head_members, _padded(lists.members, longest, PADDING)], 1)),
        rows=rows,
        columns=columns,
        targets=targets,
        owners=owners,
        weights=torch.where(is_open, 1.0, yes_no_weight),
        is_open=is_open,
        kinds=lists.kinds,
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
