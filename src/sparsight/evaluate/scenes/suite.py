"""A suite of questions on the disk: what a question is, how a suite is read and checked."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from sparsight.errors import InputError
from sparsight.evaluate.scenes.ask import Turn
from sparsight.evaluate.scenes.scene import Box
from sparsight.inputs import read_image

SUITES = {
    name: Path(__file__).parent / "suites" / name
    for name in ("scenes-1", "scenes-2", "scenes-2-dev")
}
DEFAULT_SUITE = "scenes-2"  # of `sparsight eval`
SPLIT = SUITES[DEFAULT_SUITE]
FAMILIES = (
    "existence",
    "attribute",
    "relation",
    "reading",
    "counting",
    "place",
    "two-turn",
    "multi-image",
    "clip",
)
QUESTIONS = "questions.jsonl"


@dataclass(frozen=True)
class Question:
    """One question of a suite.

    Args:
        id: its name, unique in the suite.
        family: one of FAMILIES.
        split: part of the family, such as "adversarial" or "small"; "" if it has none.
        images: file names of its images; one strip of frames, side by side, for a clip.
        frames: frames of the strip; 0 for still images.
        turns: question and answer; two of them in the two-turn family.
        hard_for_downscaling: budgets at which the dense model is right on the whole image and wrong
            on one scaled down to as many tokens; None where that has not been computed.
    """

    id: str
    family: str
    split: str
    images: tuple[str, ...]
    frames: int
    turns: tuple[Turn, ...]
    hard_for_downscaling: tuple[int, ...] | None = None


def load_suite(folder: Path = SPLIT) -> tuple[Question, ...]:
    """Read a suite's questions.

    Args: folder: as written by `write_suite`; default the suite that `sparsight eval` asks.
    Raises: InputError: the folder holds no readable suite.
    """
    path = folder / QUESTIONS
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        questions = tuple(_read(json.loads(line)) for line in lines if line.strip())
    except FileNotFoundError:
        raise InputError(f"{folder} holds no {QUESTIONS}; give the folder of a suite.") from None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is not a suite's list of questions ({error}); write it again."
        ) from error
    if not questions:
        raise InputError(f"{path} asks nothing; write it again.")
    return questions


def load_images(question: Question, folder: Path = SPLIT) -> list[Image.Image]:
    """Read a question's images, RGB; a clip's frames one by one.

    Raises: InputError: one is missing or damaged.
    """
    images = []
    for name in question.images:
        try:
            image = read_image(folder / "images" / name)
        except InputError as error:
            raise InputError(f"question {question.id}: image {error}") from error
        if question.frames:
            width = image.width // question.frames
            images += [
                image.crop((i * width, 0, (i + 1) * width, image.height))
                for i in range(question.frames)
            ]
        else:
            images.append(image)
    return images


def write_questions(questions: list[Question], folder: Path) -> None:
    """Write the list of a suite's questions, one JSON document per line."""
    text = "".join(json.dumps(asdict(question)) + "\n" for question in questions)
    (folder / QUESTIONS).write_text(text, encoding="utf-8")


def _read_boxes(rows: list[dict[str, Any]]) -> tuple[Box, ...]:
    return tuple(Box(**row) for row in rows)


def _read_turn(row: dict[str, Any]) -> Turn:
    return Turn(row["question"], row["answer"], tuple(map(_read_boxes, row["boxes"])))


def _read(row: dict[str, Any]) -> Question:
    hard = row["hard_for_downscaling"]
    fields = {
        "images": tuple(row["images"]),
        "turns": tuple(map(_read_turn, row["turns"])),
        "hard_for_downscaling": None if hard is None else tuple(hard),
    }
    if row["family"] not in FAMILIES:
        raise ValueError(f"family {row['family']!r}")
    return Question(**{**row, **fields})
