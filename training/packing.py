"""One training sequence per row of images: its visual tokens once, then all its questions.

Each question sees the images and itself, never another question, and its positions restart after
the images, so every question is computed exactly as it would be alone at inference while the visual
tokens are paid for once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

SHARED = 0  # group of the prompt's start and of the visual tokens
PADDING = -1
_ROUND = 32  # few different lengths
_MARK = "QUESTION"

Pieces = tuple[tuple[str, bool], ...]
"""What is said, in pieces: text and whether it is to be predicted."""


@dataclass(frozen=True)
class Asked:
    """A question to train on.

    Args:
        question: what is asked.
        answer: what is to be said; the end of the turn follows.
        kind: under which name its accuracy is reported.
        weight: of its loss.
    """

    question: str
    answer: Pieces
    kind: str
    weight: float = 1.0


@dataclass(frozen=True)
class Encoded:
    """A question with its answer as tokens.

    Args:
        ids: (L,) ids behind the last image, without the answer's last one.
        columns: (A,) places in `ids` of the tokens that predict.
        targets: (A,) ids that they predict.
        kind: under which name its accuracy is reported.
        weight: of its loss.
    """

    ids: np.ndarray
    columns: np.ndarray
    targets: np.ndarray
    kind: str
    weight: float


class Told:
    """The questions of a row, in few arrays: a run keeps a million of them.

    Args:
        questions: at least one.
    """

    def __init__(self, questions: Sequence[Encoded]) -> None:
        self._ids = np.concatenate([one.ids for one in questions])
        self._columns = np.concatenate([one.columns for one in questions])
        self._targets = np.concatenate([one.targets for one in questions])
        self._weights = np.array([one.weight for one in questions], np.float32)
        self.lengths = np.array([len(one.ids) for one in questions], np.int32)
        self._said = np.array([len(one.columns) for one in questions], np.int32)
        self.kinds = tuple(one.kind for one in questions)

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.kinds)

    def __getitem__(self, number: int) -> Encoded:
        """Return one of them."""
        at, said_at = int(self.lengths[:number].sum()), int(self._said[:number].sum())
        said = slice(said_at, said_at + int(self._said[number]))
        ids = self._ids[at : at + int(self.lengths[number])]
        weight = float(self._weights[number])
        return Encoded(ids, self._columns[said], self._targets[said], self.kinds[number], weight)


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


class Prompt:
    """The fixed token ids around a question, exactly those of the chat template.

    Args:
        tokenizer: the embedded model's, with its chat template.
        template: the processor's chat template.
    """

    def __init__(self, tokenizer: Any, template: str) -> None:
        self._tokenizer = tokenizer
        self._template = template
        image = tokenizer.convert_tokens_to_ids("<image>")
        ids = self._ids(self._render([{"type": "image"}] * 2, "x"))
        first = ids.index(image)
        self.prefix = ids[:first]
        self.between = ids[first + 1 : ids.index(image, first + 1)]
        self.end = int(tokenizer.eos_token_id)
        whole = self._render([{"type": "image"}], _MARK)
        before, self._after = whole.split(_MARK)
        self._before = before.split("<image>")[1]
        self._later = self._render([], _MARK).split(_MARK)[0]

    @classmethod
    def of(cls, processor: Any) -> Prompt:
        """Return the prompt of a processor."""
        return cls(processor.tokenizer, processor.chat_template)

    def _render(self, content: list[dict[str, str]], question: str) -> str:
        message = {"role": "user", "content": [*content, {"type": "text", "text": question}]}
        text: str = self._tokenizer.apply_chat_template(
            [message],
            chat_template=self._template,
            add_generation_prompt=True,
            tokenize=False,
        )
        return text

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids)

    def question(self, text: str) -> list[int]:
        """Return the ids between the last image and the answer."""
        return self._ids(self._before + text + self._after)

    def conversation(self, turns: Sequence[tuple[str, str]]) -> tuple[str, Pieces]:
        """Return the first question, and the pieces behind it; answers are predicted."""
        end = self._tokenizer.convert_ids_to_tokens(self.end)
        pieces = [(turns[0][1], True)]
        for question, answer in turns[1:]:
            asked = f"\n{self._later}{question}{self._after}"
            pieces += [(end, True), (asked, False), (answer, True)]
        return turns[0][0], tuple(pieces)

    def encode(self, asked: Asked) -> Encoded:
        """Return a question as tokens."""
        question = self.question(asked.question)
        answer: list[tuple[int, bool]] = []
        for text, predicted in asked.answer:
            answer += [(token, predicted) for token in self._ids(text)]
        answer.append((self.end, True))
        first = len(question) - 1  # the token before the answer
        picks = [(first + i, token) for i, (token, said) in enumerate(answer) if said]
        columns, targets = np.array(picks, np.int32).T
        ids = np.array([*question, *(token for token, _ in answer[:-1])], np.int32)
        return Encoded(ids, columns, targets, asked.kind, asked.weight)

    def head(self, layout: Layout, seen: torch.Tensor) -> torch.Tensor:
        """Return positions before the question, (b, P); `seen`: (b * images, seen) patches."""
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
        """Return the position of the first token behind the last image."""
        gaps = (layout.images - 1) * len(self.between)
        return len(self.prefix) + layout.images * layout.patches + gaps


@dataclass(frozen=True)
class Batch:
    """A packed batch of b rows; S text ids behind the images, padded; N = what stands before + S.

    Args:
        text: (b, S) ids behind the images.
        positions: (b, N) position ids.
        members: (b, N) running number of the question in its row, SHARED or PADDING.
        picks: (A,) places in (b * N) of the tokens that predict.
        targets: (A,) ids to predict.
        owners: (A,) running number of the question.
        shares: (A,) weight of each prediction in the loss; the sum is 1.
        kinds: kind of each question.
    """

    text: torch.Tensor
    positions: torch.Tensor
    members: torch.Tensor
    picks: torch.Tensor
    targets: torch.Tensor
    owners: torch.Tensor
    shares: torch.Tensor
    kinds: list[str]

    def mask(self) -> torch.Tensor:
        """Return where attention is allowed, (b, 1, N, N): earlier, and shared or one question."""
        length = self.members.shape[1]
        square = torch.ones(length, length, dtype=torch.bool, device=self.members.device)
        keys, queries = self.members[:, None, :], self.members[:, :, None]
        allowed = square.tril() & ((keys == SHARED) | (keys == queries))
        return (allowed | square.triu().tril())[:, None]  # each sees itself


def _count_ids(group: Sequence[Encoded]) -> int:
    """Return the number of text ids of the questions of one row."""
    return sum(len(one.ids) for one in group)


def pack(
    prompt: Prompt, groups: Sequence[Sequence[Encoded]], layout: Layout, seen: torch.Tensor
) -> Batch:
    """Return the questions of several rows of images, packed.

    Args:
        prompt: the chat template.
        groups: for each row, its questions.
        layout: of the rows' images.
        seen: (b * images, seen) patches of each image that are shown, ascending.
    """
    head = prompt.head(layout, seen)
    before, start = head.shape[1], prompt.start(layout)
    longest = max(map(_count_ids, groups))
    length = -(-(before + longest) // _ROUND) * _ROUND  # kernels want lengths divisible by 8
    text = np.zeros((len(groups), length - before), np.int64)
    places, members = np.zeros_like(text), np.full_like(text, PADDING)
    picks, questions = [], [one for group in groups for one in group]
    for row, group in enumerate(groups):
        at = 0
        for number, one in enumerate(group, 1):
            end = at + len(one.ids)
            text[row, at:end], members[row, at:end] = one.ids, number
            places[row, at:end] = np.arange(start, start + len(one.ids))
            picks.append(row * length + before + at + one.columns)
            at = end
    counts = np.array([len(one.columns) for one in questions])
    weights = np.array([one.weight for one in questions])
    shares = np.repeat(weights / counts, counts) / weights.sum()
    shared = torch.full(head.shape, SHARED)
    return Batch(
        text=torch.from_numpy(text),
        positions=torch.cat([head, torch.from_numpy(places)], 1),
        members=torch.cat([shared, torch.from_numpy(members)], 1),
        picks=torch.from_numpy(np.concatenate(picks).astype(np.int64)),
        targets=torch.from_numpy(
            np.concatenate([one.targets for one in questions]).astype(np.int64)
        ),
        owners=torch.from_numpy(np.repeat(np.arange(len(questions)), counts)),
        shares=torch.from_numpy(shares.astype(np.float32)),
        kinds=[one.kind for one in questions],
    )
