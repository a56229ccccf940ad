"""The benchmarks of options: MMBench and ScienceQA, whose prompts LLaVA's scripts build.

Source: LLaVA, scripts model_vqa_mmbench and model_vqa_science of release 1.5
    (https://github.com/haotian-liu/LLaVA).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparsight.errors import InputError
from sparsight.evaluate.tasks.reading import (
    build_value_error,
    check_fields,
    check_joined,
    check_texts,
    check_unique,
    list_ids,
    place_image,
    read_document,
    read_list,
    read_table,
    take_list,
)
from sparsight.evaluate.tasks.scoring import LETTERS
from sparsight.evaluate.tasks.task import Item

INSTRUCTION = "Answer with the option's letter from the given choices directly."
OPTIONS = ("A", "B", "C", "D")
ROTATION = 10**6  # rows whose index differs by a multiple of it are one question, options rotated
SHORT_NAME = 64  # characters; a longer image is the image itself and not the index of its row
# cells that the authors' reader takes for empty, and that therefore end the options
EMPTY = frozenset(
    ("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN")
) | frozenset(("<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null", "none"))


def read_mmbench(paths: Mapping[str, Path]) -> list[Item]:
    """Return MMBench's questions; all rotations of a question's options are a group."""
    file = paths["questions"]
    rows = read_table(file, ("index", "question", "hint", *OPTIONS, "answer", "image"))
    check_unique(file, [row["index"] for row in rows])
    images = {row["index"]: row["image"] for row in rows}
    items = []
    for row in rows:
        check_texts(file, f"question {row['index']}", row, ("question",))
        options = list_options(row)
        if row["answer"] not in options:
            raise InputError(
                f"{file}: question {row['index']} has the answer {row['answer']!r}, and the "
                f"options {', '.join(options)}; a file without answers cannot be scored here."
            )
        target = {"answer": row["answer"], "options": options}
        text = write_mmbench(row, options)
        picture = _find_picture(row["image"], images, file)
        group = _find_group(row["index"], file)
        asked = row["question"]
        items.append(Item(row["index"], text, target, (picture,), group=group, question=asked))
    return items


def _find_group(index: str, file: Path) -> str:
    if not index.isdecimal():
        raise InputError(f"{file}: the index {index!r} is no number; download it again.")
    return str(int(index) % ROTATION)


def list_options(row: Mapping[str, str]) -> dict[str, str]:
    """Return the options of a row by letter; the first empty one ends them."""
    options = {}
    for letter in OPTIONS:
        if row[letter] in EMPTY:
            break
        options[letter] = row[letter]
    return options


def write_mmbench(row: Mapping[str, str], options: Mapping[str, str]) -> str:
    """Return the text of a prompt: hint, question, options, instruction, each on its own lines."""
    hint = [] if row["hint"] in EMPTY else [row["hint"]]
    lines = [f"{letter}. {text}" for letter, text in options.items()]
    return "\n".join([*hint, row["question"], *lines, INSTRUCTION])


def _find_picture(cell: str, images: Mapping[str, str], file: Path) -> str:
    """Return an image as a data: URL; a cell may hold the index of the row that has it."""
    if len(cell) <= SHORT_NAME:
        cell = images.get(cell, "")
    if len(cell) <= SHORT_NAME:
        raise InputError(f"{file}: a row has no image; download it again.")
    return f"data:image/jpeg;base64,{cell}"


def read_scienceqa(paths: Mapping[str, Path]) -> list[Item]:
    """Return ScienceQA's test questions that have an image.

    Differs: the authors' script asks questions without an image as well; they do not count in the
        accuracy on images, and have no visual token.
    """
    file = paths["questions"]
    rows = read_list(file, ("id", "conversations"))
    problems = read_document(paths["problems"])
    splits = read_document(paths["splits"])
    if not isinstance(problems, dict):
        raise InputError(f"{paths['problems']} is no object; it seems to be of another release.")
    tested = set(map(str, take_list(paths["splits"], "the document", splits, "test")))
    ids = list_ids(file, rows, "id")
    unknown = [key for key in ids if key not in problems or key not in tested]
    check_joined(unknown, len(ids), file, paths["problems"])
    shown = [row for row in rows if row.get("image")]
    if not shown:
        raise InputError(f"{file} has no question with an image; it is of another release.")
    return [_make_scienceqa(row, problems, paths) for row in shown]


def _make_scienceqa(
    row: Mapping[str, Any], problems: Mapping[str, Any], paths: Mapping[str, Path]
) -> Item:
    key = str(row["id"])
    problem = problems[key]
    where = f"problem {key}"
    check_fields(paths["problems"], where, problem, ("choices", "answer"))
    choices = take_list(paths["problems"], where, problem, "choices")
    if not all(isinstance(choice, str) for choice in choices):
        raise build_value_error(paths["problems"], where, "choices", choices, "a list of texts")
    turns = take_list(paths["questions"], f"question {key}", row, "conversations")
    check_texts(paths["questions"], f"question {key}", turns[0], ("value",))
    text = turns[0]["value"].replace("<image>", "").strip()
    letters = dict(enumerate(LETTERS))
    count = len(choices)
    answer = problem["answer"]
    if type(answer) is not int or not 0 <= answer < count <= len(letters):
        raise build_value_error(
            paths["problems"], where, "answer", answer, f"the number of one of {count} choices"
        )
    return Item(
        id=key,
        text=f"{text}\n{INSTRUCTION}",
        target={"answer": letters[answer], "choices": count},
        images=(place_image(paths["images"], row["image"], paths["questions"]),),
        group=key,
    )
