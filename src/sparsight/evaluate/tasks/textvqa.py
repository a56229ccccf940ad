"""TextVQA, from LLaVA's folder, with and without the OCR tokens of its prompts.

Source: LLaVA, docs/Evaluation.md (https://github.com/haotian-liu/LLaVA) for the folder and prompts.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from sparsight.errors import InputError
from sparsight.evaluate.tasks.reading import (
    ASKED,
    build_value_error,
    check_joined,
    check_texts,
    place_image,
    read_document,
    read_rows,
    take_list,
)
from sparsight.evaluate.tasks.task import Item

OCR = "Reference OCR token:"


def read_textvqa(paths: Mapping[str, Path]) -> list[Item]:
    """Return TextVQA's questions, with the OCR tokens that LLaVA's file puts into each prompt.

    Its rows bear the id of their image alone, so answers are found by image and question.
    Differs: where a question stands several times on an image, the n-th row has the n-th answers;
        the authors' script gives all of them the last ones.
    """
    file = paths["questions"]
    rows = read_rows(file, ASKED, ("text",))
    answers = _read_textvqa_answers(paths["answers"])
    pairs = [(str(row["question_id"]), row["text"].split("\n")[0].lower()) for row in rows]
    _check_repeated(pairs, answers, paths)
    numbers: Counter[str] = Counter()
    asked: Counter[tuple[str, str]] = Counter()
    items = []
    unanswered = []
    for row, pair in zip(rows, pairs, strict=True):
        image = pair[0]
        numbers[image] += 1
        asked[pair] += 1
        found = answers.get(pair)
        if found is None:
            unanswered.append(image)
            continue
        target = found[min(asked[pair], len(found)) - 1]
        key = f"{image}#{numbers[image]}"
        place = place_image(paths["images"], row["image"], file)
        items.append(Item(key, row["text"], target, (place,), group=key))
    check_joined(unanswered, len(rows), file, paths["answers"])
    return items


def _check_repeated(
    pairs: Sequence[tuple[str, str]],
    answers: Mapping[tuple[str, str], list[list[str]]],
    paths: Mapping[str, Path],
) -> None:
    """Raise InputError if a question has several different answers, and not one for each row."""
    rows = Counter(pairs)
    for (image, question), found in answers.items():
        count = rows[image, question]
        if count and count != len(found) and any(one != found[0] for one in found):
            raise InputError(
                f"{paths['answers']} has the question {question!r} on {image} {len(found)} times "
                f"with different answers, and {paths['questions']} has it {count} times: which "
                "belongs to which cannot be told; get both of the same release."
            )


def _read_textvqa_answers(path: Path) -> dict[tuple[str, str], list[list[str]]]:
    """Return what people answered, by image and question in lower case, in the file's order."""
    answers: dict[tuple[str, str], list[list[str]]] = {}
    for number, one in enumerate(take_list(path, "the document", read_document(path), "data"), 1):
        where = f"entry {number}"
        check_texts(path, where, one, ("image_id", "question"))
        own = take_list(path, where, one, "answers")
        if not all(isinstance(answer, str) for answer in own):
            raise build_value_error(path, where, "answers", own, "a list of texts")
        answers.setdefault((one["image_id"], one["question"].lower()), []).append(own)
    return answers


def read_textvqa_plain(paths: Mapping[str, Path]) -> list[Item]:
    """Return TextVQA's questions without OCR tokens, so that the image alone gives the answer."""
    items = []
    for item in read_textvqa(paths):
        lines = [line for line in item.text.split("\n") if not line.startswith(OCR)]
        items.append(Item(item.id, "\n".join(lines), item.target, item.images, group=item.group))
    return items
