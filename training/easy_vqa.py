"""easy-VQA: 5,000 drawn images with 48,248 questions.

They are read out of a pinned wheel that is never installed. This file knows the data set's files
and no models. The set is by its package's authors, MIT licence.
"""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from sparsight.models.embedded.parts import Part, check_wheel, fetch_wheel

WHEEL = Part(
    name="easy-vqa",
    version="1.0",
    wheel="easy_vqa-1.0-py3-none-any.whl",
    sha256="fcb51b309b78c7b00f97b64cdbcbcf5c105f94da1b39c0796cee5a787c4f650f",
    wheel_bytes=3_215_672,
    member="",
    member_bytes=0,
    licence="MIT",
)


@dataclass(frozen=True)
class Question:
    """One question on one image, with its answer."""

    text: str
    answer: str
    image: int

    @property
    def is_open(self) -> bool:
        """Return whether the answer is a colour or a shape, not yes or no."""
        return self.answer not in ("yes", "no")

    @property
    def kind(self) -> str:
        """Return "open", or for a yes/no question "expected" or "surprising".

        The wording makes one of the two answers expected, which 84 % of the questions have.
        """
        if self.is_open:
            return "open"
        negated = bool({"not", "no"} & set(self.text.split()))
        return "expected" if (self.answer == "yes") == negated else "surprising"


class EasyVQA:
    """Questions and images of one split.

    Args:
        folder: where the wheel is, or is put.
        split: "train" or "test".
    """

    def __init__(self, folder: Path, split: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        wheel = folder / WHEEL.wheel
        if wheel.is_file():
            check_wheel(WHEEL, wheel)
        else:
            fetch_wheel(WHEEL, folder)
        self._archive = zipfile.ZipFile(wheel)
        self._root = f"easy_vqa/data/{split}"
        rows = json.loads(self._archive.read(f"{self._root}/questions.json"))
        self.questions = [Question(text, answer, image) for text, answer, image in rows]
        self.by_image: dict[int, list[Question]] = {}
        for question in self.questions:
            self.by_image.setdefault(question.image, []).append(question)

    def image(self, number: int) -> Image.Image:
        """Return one 64x64 image as RGB."""
        return Image.open(
            io.BytesIO(self._archive.read(f"{self._root}/images/{number}.png"))
        ).convert("RGB")
