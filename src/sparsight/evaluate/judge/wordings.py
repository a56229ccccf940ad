"""What a judge is asked. The texts are sparsight's own; those of the papers are given as a file."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sparsight.errors import InputError

PLACES = ("{question}", "{answer}", "{prediction}")
LONGEST_FILE = 1_000_000  # bytes


@dataclass(frozen=True)
class Wording:
    """The two messages that a judge gets.

    Args:
        system: text of the first one.
        user: text of the second one, with the places {question}, {answer} and {prediction}.
    """

    system: str
    user: str

    @property
    def digest(self) -> str:
        """Short SHA-256 of both texts."""
        return hashlib.sha256(f"{self.system}\0{self.user}".encode()).hexdigest()[:12]

    def write(self, question: str, answer: str, prediction: str) -> list[dict[str, str]]:
        """Return the messages about one answer."""
        values = {"question": question, "answer": answer, "prediction": prediction}
        user = "".join(values.get(part, part) for part in _split(self.user))
        return [
            {"role": "system", "content": self.system},
            {"role": "user", "content": user},
        ]


def _split(text: str) -> list[str]:
    """Return a text in parts: names of places, and what stands between them.

    One pass, so that an answer that holds a place's name is not filled in again.
    """
    parts = [text]
    for place in PLACES:
        cut: list[str] = []
        for part in parts:
            pieces = part.split(place)
            cut.append(pieces[0])
            for piece in pieces[1:]:
                cut += [place.strip("{}"), piece]
        parts = cut
    return parts


VIDEO = Wording(
    system=(
        "You grade short answers to questions about videos. An answer is right if it means the "
        "same as the reference answer; other words for the same thing are fine."
    ),
    user=(
        "Question: {question}\nReference answer: {answer}\nGiven answer: {prediction}\n\n"
        "Reply with one JSON object and nothing else. Its field pred is yes if the given answer is "
        "right and no if it is not; its field score is a whole number from 0 (nothing fits) to 5 "
        '(the same meaning). An example: {"pred": "yes", "score": 4}'
    ),
)
SIMILARITY = Wording(
    system=(
        "You grade answers to questions about images. In a reference answer, <AND> joins parts "
        "that must all be given, and <OR> joins parts of which one is enough."
    ),
    user=(
        "Question: {question}\nReference answer: {answer}\nGiven answer: {prediction}\n\n"
        "How right is the given answer? Reply with one number from 0.0 (wrong) to 1.0 (fully "
        "right) in steps of 0.1, and nothing else."
    ),
)
OWN: Mapping[str, Wording] = {"video": VIDEO, "similarity": SIMILARITY}


def read_wordings(path: Path | None) -> Mapping[str, Wording]:
    """Return the wordings of a file; those that it leaves out, and without a file all, are our own.

    Args: path: of a JSON object with the fields video and similarity, each an object with system
        and user.

    Raises: InputError: the file cannot be read, or holds something else.
    """
    if path is None:
        return OWN
    try:
        if path.stat().st_size > LONGEST_FILE:
            raise InputError(f"{path} is larger than a prompt can be.")
        document = json.loads(path.read_text(encoding="utf-8"))
        found = {
            name: Wording(str(one["system"]), str(one["user"])) for name, one in document.items()
        }
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}).") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{path} is no prompt of a judge ({error}); give a JSON object such as "
            '{"video": {"system": "...", "user": "... {question} {answer} {prediction}"}}.'
        ) from error
    for name, wording in found.items():
        _check_wording(path, name, wording)
    return {**OWN, **found}


def _check_wording(path: Path, name: str, wording: Wording) -> None:
    """Raise InputError if a wording is of nothing known, or lacks a place."""
    missing = [place for place in PLACES if place not in wording.user]
    if name not in OWN or missing:
        why = f"has no {', '.join(missing)}" if missing else "is not known"
        raise InputError(f"{path}: {name} {why}; known are {', '.join(OWN)}.")
