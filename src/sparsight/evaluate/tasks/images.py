"""The image benchmarks GQA, POPE, MME, SEED-Bench and MM-Vet, from LLaVA's folders.

Source: LLaVA, docs/Evaluation.md (https://github.com/haotian-liu/LLaVA) for folders and prompts:
    their question files hold the whole text of a prompt, with its instruction.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparsight.errors import InputError
from sparsight.evaluate.tasks.reading import (
    ASKED,
    build_value_error,
    check_choice_of,
    check_fields,
    check_joined,
    check_texts,
    index_by,
    list_ids,
    place_image,
    read_document,
    read_rows,
    read_text,
    take_list,
)
from sparsight.evaluate.tasks.task import Item

CATEGORIES = ("adversarial", "popular", "random")
YES_NO = "Please answer yes or no."
SHORT = "Answer the question using a single word or phrase."
SEED_TYPES = (  # by number, from 1
    "Scene Understanding",
    "Instance Identity",
    "Instance Attributes",
    "Instance Location",
    "Instance Counting",
    "Spatial Relation",
    "Instance Interaction",
    "Visual Reasoning",
    "Text Recognition",
    "Action Recognition",
    "Action Prediction",
    "Procedure Understanding",
)
CAPABILITIES = ("rec", "ocr", "know", "gen", "spat", "math")  # of MM-Vet, as its table has them


def read_gqa(paths: Mapping[str, Path]) -> list[Item]:
    """Return the questions of GQA's balanced test-dev set."""
    rows = read_rows(paths["questions"], ASKED, ("text",))
    answers = read_document(paths["answers"])
    if not isinstance(answers, dict):
        raise InputError(f"{paths['answers']} is no object; it seems to be of another release.")
    ids = list_ids(paths["questions"], rows, "question_id")
    _check_answered(ids, answers, paths)
    for key in ids:
        check_texts(paths["answers"], f"question {key}", answers[key], ("answer",))
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
    rows = read_rows(paths["questions"], ASKED, ("text", "category"))
    list_ids(paths["questions"], rows, "question_id")
    found = tuple(dict.fromkeys(row["category"] for row in rows))
    if sorted(found) != sorted(CATEGORIES):
        raise InputError(
            f"{paths['questions']} has the categories {', '.join(found)}, not "
            f"{', '.join(CATEGORIES)}: it is only half there, or of another release."
        )
    items = []
    for category in found:
        own = [row for row in rows if row["category"] == category]
        labels = read_rows(paths[category], ("image",), ("text", "label"))
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
    for number, label in enumerate(labels, 1):
        check_choice_of(file, f"label {number}", label, "label", ("yes", "no"))


def _make_pope(row: dict[str, Any], label: str, category: str, paths: Mapping[str, Path]) -> Item:
    key = str(row["question_id"])
    image = place_image(paths["images"], row["image"], paths["questions"])
    return Item(key, row["text"], label, (image,), part=category, group=key)


def read_mme(paths: Mapping[str, Path]) -> list[Item]:
    """Return MME's questions, in parts by subtask; both questions of an image are a group."""
    file, folder = paths["questions"], paths["images"]
    rows = read_rows(file, ASKED, ("text",))
    labels: dict[str, dict[str, str]] = {}
    numbers: Counter[str] = Counter()
    items = []
    unlabelled = []
    for row in rows:
        image = str(row["question_id"])
        if image not in labels:
            place_image(folder, row["question_id"], file)
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
    _check_pairs(rows, file)
    return items


def _check_pairs(rows: list[dict[str, Any]], file: Path) -> None:
    """Raise InputError unless each image of MME has two questions that differ."""
    asked: dict[str, list[str]] = {}
    for row in rows:
        asked.setdefault(str(row["question_id"]), []).append(_shorten(row["text"]))
    for image, questions in asked.items():
        if len(questions) != 2 or len(set(questions)) != 2:
            raise InputError(
                f"{file} has {len(questions)} questions on {image}, {len(set(questions))} of them "
                "different; MME has two on each image: download it again."
            )


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
            lines = read_text(path).split("\n")
            break
    labels: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        question, tab, answer = line.strip().rpartition("\t")
        if not tab:
            continue
        label = {"label": answer.strip().lower()}
        check_choice_of(path, f"line {number}", label, "label", ("yes", "no"))
        if labels.setdefault(_shorten(question), label["label"]) != label["label"]:
            raise InputError(f"{path}: line {number} contradicts another; download it again.")
    return labels


def _shorten(text: str) -> str:
    """Return a question without instructions, and with single spaces: its label is found by it."""
    return " ".join(text.replace(SHORT, " ").replace(YES_NO, " ").split())


def read_seed(paths: Mapping[str, Path]) -> list[Item]:
    """Return SEED-Bench's questions, in the parts image and video; a video is one still image."""
    file, truth = paths["questions"], paths["answers"]
    rows = read_rows(file, ASKED, ("text",))
    questions = take_list(truth, "the document", read_document(truth), "questions")
    for number, one in enumerate(questions, 1):
        check_fields(truth, f"question {number}", one, ("question_id",))
        _list_seed_types(truth, number, one)
        check_choice_of(truth, f"question {number}", one, "answer", ("A", "B", "C", "D"))
        check_choice_of(truth, f"question {number}", one, "data_type", ("image", "video"))
    answers = index_by(truth, questions, "question_id")
    ids = list_ids(file, rows, "question_id")
    _check_answered(ids, answers, paths)
    return [
        Item(
            id=key,
            text=row["text"],
            target=answers[key]["answer"],
            images=(place_image(file.parent, row["image"], file),),
            part=answers[key]["data_type"],
            group=key,
            kinds=_list_seed_types(truth, key, answers[key]),
        )
        for key, row in zip(ids, rows, strict=True)
    ]


def _list_seed_types(path: Path, number: object, one: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the type of a question of SEED-Bench; none where its file gives no types."""
    kind = one.get("question_type_id")
    if kind is None:
        return ()
    if type(kind) is not int or not 1 <= kind <= len(SEED_TYPES):
        allowed = f"one of 1 to {len(SEED_TYPES)}"
        raise build_value_error(path, f"question {number}", "question_type_id", kind, allowed)
    return (SEED_TYPES[kind - 1],)


def read_mmvet(paths: Mapping[str, Path]) -> list[Item]:
    """Return MM-Vet's questions; a judge compares their answers with the ground truth."""
    file = paths["questions"]
    rows = read_rows(file, ASKED, ("text",))
    answers = read_document(paths["answers"])
    if not isinstance(answers, dict):
        raise InputError(f"{paths['answers']} is no object; it seems to be of another release.")
    ids = list_ids(file, rows, "question_id")
    keys = [f"v1_{key.removeprefix('v1_')}" for key in ids]
    _check_answered(keys, answers, paths)
    items = []
    for key, row in zip(keys, rows, strict=True):
        check_texts(paths["answers"], f"question {key}", answers[key], ("answer",))
        place = place_image(paths["images"], row["image"], file)
        target, asked = answers[key]["answer"], row["text"]
        kinds = _list_capabilities(paths["answers"], f"question {key}", answers[key])
        items.append(Item(key, asked, target, (place,), group=key, question=asked, kinds=kinds))
    return items


def _list_capabilities(path: Path, where: str, truth: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the capabilities that a question of MM-Vet needs, in the order of its table."""
    given = take_list(path, where, truth, "capability")
    if not set(map(str, given)) <= set(CAPABILITIES):
        allowed = f"a list of {', '.join(CAPABILITIES)}"
        raise build_value_error(path, where, "capability", given, allowed)
    return tuple(kind for kind in CAPABILITIES if kind in given)


def _check_answered(ids: list[str], answers: Mapping[str, Any], paths: Mapping[str, Path]) -> None:
    """Raise InputError if a question has no answer."""
    missing = [key for key in ids if key not in answers]
    check_joined(missing, len(ids), paths["questions"], paths["answers"])
