"""The image benchmarks: GQA, POPE, MME, SEED-Bench, TextVQA and MM-Vet, from LLaVA's folders.

Source: LLaVA, docs/Evaluation.md (https://github.com/haotian-liu/LLaVA) for folders and prompts:
    their question files hold the whole text of a prompt, with its instruction.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparsight.errors import InputError
from sparsight.evaluate.tasks.reading import (
    check_fields,
    check_joined,
    check_unique,
    index_by,
    place_image,
    read_document,
    read_rows,
)
from sparsight.evaluate.tasks.task import Item

ASKED = ("question_id", "image", "text")
YES_NO = "Please answer yes or no."
SHORT = "Answer the question using a single word or phrase."
OCR = "Reference OCR token:"


def read_gqa(paths: Mapping[str, Path]) -> list[Item]:
    """Return the questions of GQA's balanced test-dev set."""
    rows = read_rows(paths["questions"], ASKED)
    answers = read_document(paths["answers"])
    if not isinstance(answers, dict):
        raise InputError(f"{paths['answers']} is no object; it seems to be of another release.")
    ids = [str(row["question_id"]) for row in rows]
    _check_answered(ids, answers, paths)
    for key in ids:
        check_fields(paths["answers"], f"question {key}", answers[key], ("answer",))
    return [
        Item(
            id=key,
            text=row["text"],
            target=answers[key]["answer"],
            images=(place_image(paths["images"], row["image"], paths["questions"]),),
            group=key,
        )
        for key, row in zip(ids, rows, strict=True)
    ]


def read_pope(paths: Mapping[str, Path]) -> list[Item]:
    """Return POPE's questions, each in the part of its category.

    Labels have ids of their own: the n-th question of a category has the n-th label of its file.
    Both name image and question, by which a shift is found.
    """
    rows = read_rows(paths["questions"], (*ASKED, "category"))
    check_unique(paths["questions"], [str(row["question_id"]) for row in rows])
    items = []
    for category in dict.fromkeys(str(row["category"]) for row in rows):
        if category not in paths:
            raise InputError(
                f"{paths['questions']} has the category {category!r}; known are adversarial, "
                "popular and random: it seems to be of another release."
            )
        own = [row for row in rows if row["category"] == category]
        labels = read_rows(paths[category], ("image", "text", "label"))
        _check_labels(own, labels, paths["questions"], paths[category])
        items += [
            _make_pope(row, label["label"], category, paths)
            for row, label in zip(own, labels, strict=True)
        ]
    return items


def _check_labels(
    rows: list[dict[str, Any]], labels: list[dict[str, Any]], questions: Path, file: Path
) -> None:
    """Raise InputError unless labels and questions are the same ones, in the same order."""
    if len(rows) != len(labels):
        raise InputError(
            f"{file} has {len(labels)} labels, and {questions} has {len(rows)} questions of that "
            "category: the two are of different releases; get both of the same one."
        )
    differing = [
        row["question_id"]
        for row, label in zip(rows, labels, strict=True)
        if row["image"] != label["image"] or not row["text"].startswith(label["text"])
    ]
    check_joined(differing, len(rows), questions, file, "another image or text")
    odd = sorted({str(label["label"]) for label in labels} - {"yes", "no"})
    if odd:
        raise InputError(f"{file} has the label {odd[0]!r}; only yes and no are known.")


def _make_pope(row: dict[str, Any], label: str, category: str, paths: Mapping[str, Path]) -> Item:
    key = str(row["question_id"])
    image = place_image(paths["images"], row["image"], paths["questions"])
    return Item(key, row["text"], label, (image,), part=category, group=key)


def read_mme(paths: Mapping[str, Path]) -> list[Item]:
    """Return MME's questions, in parts by subtask; both questions of an image are a group."""
    file, folder = paths["questions"], paths["images"]
    rows = read_rows(file, ASKED)
    labels: dict[str, dict[str, str]] = {}
    numbers: Counter[str] = Counter()
    items = []
    unlabelled = []
    for row in rows:
        image = str(row["question_id"])
        if image not in labels:
            labels[image] = _read_mme_labels(folder, image)
        label = labels[image].get(_shorten(row["text"]))
        numbers[image] += 1
        if label is None:
            unlabelled.append(image)
            continue
        place = _place_mme_image(folder, row["image"], file)
        key = f"{image}#{numbers[image]}"
        part = image.partition("/")[0]
        items.append(Item(key, row["text"], label, (place,), part=part, group=image))
    check_joined(unlabelled, len(rows), file, folder)
    return items


def _place_mme_image(folder: Path, name: Any, file: Path) -> str:
    """Return the path of an image, which in some subtasks lies in a folder `images`."""
    plain = Path(place_image(folder, name, file))
    below = plain.parent / "images" / plain.name
    return str(below if below.is_file() and not plain.is_file() else plain)


def _read_mme_labels(folder: Path, image: str) -> dict[str, str]:
    """Return the answers to the questions of one image, by question without instruction."""
    name = Path(image).with_suffix(".txt")
    found = [folder / name, folder / name.parent / "questions_answers_YN" / name.name]
    lines: list[str] = []
    for path in found:
        if path.is_file():
            lines = path.read_text(encoding="utf-8").splitlines()
            break
    pairs = [line.strip().rpartition("\t") for line in lines if "\t" in line.strip()]
    return {_shorten(question): answer.strip().lower() for question, _, answer in pairs}


def _shorten(text: str) -> str:
    """Return a question without instructions, and with single spaces: its label is found by it."""
    return " ".join(text.replace(SHORT, " ").replace(YES_NO, " ").split())


def read_seed(paths: Mapping[str, Path]) -> list[Item]:
    """Return SEED-Bench's questions, in the parts image and video; a video is one still image."""
    file = paths["questions"]
    rows = read_rows(file, ASKED)
    document = read_document(paths["answers"])
    check_fields(paths["answers"], "the document", document, ("questions",))
    for number, one in enumerate(document["questions"], 1):
        where = f"question {number}"
        check_fields(paths["answers"], where, one, ("question_id", "answer", "data_type"))
    answers = index_by(document["questions"], "question_id")
    ids = [str(row["question_id"]) for row in rows]
    _check_answered(ids, answers, paths)
    return [
        Item(
            id=key,
            text=row["text"],
            target=answers[key]["answer"],
            images=(place_image(file.parent, row["image"], file),),
            part=answers[key]["data_type"],
            group=key,
        )
        for key, row in zip(ids, rows, strict=True)
    ]


def read_textvqa(paths: Mapping[str, Path]) -> list[Item]:
    """Return TextVQA's questions, with the OCR tokens that LLaVA's file puts into each prompt."""
    file = paths["questions"]
    rows = read_rows(file, ASKED)
    document = read_document(paths["answers"])
    check_fields(paths["answers"], "the document", document, ("data",))
    answers = {}
    for number, one in enumerate(document["data"], 1):
        check_fields(paths["answers"], f"entry {number}", one, ("image_id", "question", "answers"))
        answers[str(one["image_id"]), one["question"].lower()] = one["answers"]
    numbers: Counter[str] = Counter()
    items = []
    unanswered = []
    for row in rows:
        image = str(row["question_id"])
        question = str(row["text"]).split("\n")[0]
        numbers[image] += 1
        target = answers.get((image, question.lower()))
        if target is None:
            unanswered.append(image)
            continue
        key = f"{image}#{numbers[image]}"
        place = place_image(paths["images"], row["image"], file)
        items.append(Item(key, row["text"], target, (place,), group=key))
    check_joined(unanswered, len(rows), file, paths["answers"])
    return items


def read_textvqa_plain(paths: Mapping[str, Path]) -> list[Item]:
    """Return TextVQA's questions without OCR tokens, so that the image alone gives the answer."""
    items = []
    for item in read_textvqa(paths):
        lines = [line for line in item.text.split("\n") if not line.startswith(OCR)]
        items.append(Item(item.id, "\n".join(lines), item.target, item.images, group=item.group))
    return items


def read_mmvet(paths: Mapping[str, Path]) -> list[Item]:
    """Return MM-Vet's questions; a judge compares their answers with the ground truth."""
    file = paths["questions"]
    rows = read_rows(file, ASKED)
    answers = read_document(paths["answers"])
    check_fields(paths["answers"], "the document", answers, ())
    keys = [f"v1_{str(row['question_id']).removeprefix('v1_')}" for row in rows]
    _check_answered(keys, answers, paths)
    items = []
    for key, row in zip(keys, rows, strict=True):
        check_fields(paths["answers"], key, answers[key], ("answer",))
        place = place_image(paths["images"], row["image"], file)
        target = answers[key]["answer"]
        items.append(Item(key, row["text"], target, (place,), group=key, question=row["text"]))
    return items


def _check_answered(ids: list[str], answers: Mapping[str, Any], paths: Mapping[str, Path]) -> None:
    """Raise InputError if an id stands twice, or has no answer."""
    check_unique(paths["questions"], ids)
    missing = [key for key in ids if key not in answers]
    check_joined(missing, len(ids), paths["questions"], paths["answers"])
