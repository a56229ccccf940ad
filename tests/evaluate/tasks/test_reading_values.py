"""Values in files of benchmarks that would be scored wrong are refused, by file and entry."""

import json

import pytest

from sparsight.errors import InputError
from tests.evaluate.tasks.test_reading import change, read
from tests.support import layouts

GQA = ("gqa/llava_gqa_testdev_balanced.jsonl", "gqa/data/testdev_balanced_questions.json")
SEED = ("seed_bench/llava-seed-bench.jsonl", "seed_bench/SEED-Bench.json")
TEXTVQA = ("textvqa/llava_textvqa_val_v051_ocr.jsonl", "textvqa/TextVQA_0.5.1_val.json")
MMVET = ("mm-vet/llava-mm-vet.jsonl", "mm-vet/mm-vet.json")
PROBLEMS = "scienceqa/problems.json"
MME = "MME/llava_mme.jsonl"
POPE = "pope/llava_pope_test.jsonl"
RANDOM = "pope/coco/coco_pope_random.json"


@pytest.fixture
def data(tmp_path):
    return layouts.write_images(tmp_path)


def put(document, steps, value):
    """Set what lies at the end of some keys and places."""
    *before, last = steps
    for step in before:
        document = document[step]
    document[last] = value


@pytest.mark.parametrize(
    ("task", "place", "value", "part"),
    [
        ("gqa", (GQA[0], 1, "text"), 5, "line 2 has text 5, which is not a text"),
        ("gqa", (GQA[0], 1, "text"), " ", "line 2 has text"),
        ("gqa", (GQA[0], 1, "question_id"), None, "row 2 has question_id None"),
        ("gqa", (GQA[1], "201", "answer"), True, "question 201 has answer True"),
        ("mme", (MME, 1, "text"), None, "line 2 has text None"),
        ("mme", (MME, 1, "question_id"), "/", "names an image"),
        ("pope", (POPE, 1, "category"), ["random"], "line 2 has category"),
        ("pope", (RANDOM, 1, "label"), "Yes", "label 2 has label 'Yes', .* one of yes, no"),
        ("pope", (RANDOM, 1, "text"), "", "line 2 has text ''"),
        ("seed", (SEED[0], 1, "text"), ["a"], "line 2 has text"),
        ("seed", (SEED[1], "questions"), 5, "the document has questions 5"),
        ("seed", (SEED[1], "questions", 1, "answer"), "E", "question 2 has answer 'E'"),
        ("seed", (SEED[1], "questions", 1, "data_type"), ["image"], "question 2 has data_type"),
        ("seed", (SEED[1], "questions", 1, "data_type"), "audio", "one of image, video"),
        ("seed", (SEED[1], "questions", 1, "question_id"), "0", "holds question 0 twice"),
        ("textvqa", (TEXTVQA[0], 1, "text"), 1, "line 2 has text 1"),
        ("textvqa", (TEXTVQA[1], "data"), None, "the document has data None"),
        ("textvqa", (TEXTVQA[1], "data", 1, "question"), 1, "entry 2 has question 1"),
        ("textvqa", (TEXTVQA[1], "data", 1, "answers"), "red", "entry 2 has answers 'red'"),
        ("textvqa", (TEXTVQA[1], "data", 1, "answers"), [], "entry 2 has answers"),
        ("textvqa", (TEXTVQA[1], "data", 1, "answers"), ["red", 1], "not a list of texts"),
        ("mmvet", (MMVET[0], 1, "text"), None, "line 2 has text None"),
        ("mmvet", (MMVET[1], "v1_1", "answer"), 0.5, "question v1_1 has answer 0.5"),
        ("mmvet", (MMVET[1], "v1_1", "capability"), [], "question v1_1 has capability .., which"),
        ("mmvet", (MMVET[1], "v1_1", "capability"), ["rec", "fly"], "not a list of rec, ocr"),
        ("mmvet", (MMVET[1], "v1_1", "capability"), [["rec"]], "not a list of rec, ocr"),
        ("seed", (SEED[1], "questions", 1, "question_type_id"), 13, "question_type_id 13, which"),
        ("seed", (SEED[1], "questions", 1, "question_type_id"), "1", "not one of 1 to 12"),
        ("sqa", (PROBLEMS, "6", "choices"), "ab", "problem 6 has choices 'ab'"),
        ("sqa", (PROBLEMS, "6", "choices"), [1, 2], "not a list of texts"),
        ("sqa", (PROBLEMS, "6", "answer"), True, "problem 6 has answer True"),
        ("sqa", ("scienceqa/pid_splits.json", "test"), 5, "the document has test 5"),
        (
            "sqa",
            ("scienceqa/llava_test_CQM-A.json", 1, "conversations", 0, "value"),
            7,
            "question 6 has value 7",
        ),
    ],
)
def test_wrong_values_are_named(data, task, place, value, part):
    name, *steps = place

    def edit(document):
        put(document, steps, value)
        return document

    change(data / name, edit)
    with pytest.raises(InputError, match=part) as error:
        read(data, task)
    assert name in str(error.value)


def test_all_categories_of_pope_are_there(data):
    change(data / POPE, lambda rows: [row for row in rows if row["category"] != "random"])
    with pytest.raises(InputError, match="has the categories adversarial, popular, not"):
        read(data, "pope")


@pytest.mark.parametrize(
    ("edit", "part"),
    [
        (lambda rows: rows[1:], "1 questions on color/0.jpg, 1 of them"),
        (lambda rows: [rows[0], *rows], "3 questions on color/0.jpg, 2 of them"),
        (lambda rows: [rows[0], rows[0], *rows[2:]], "2 questions on color/0.jpg, 1 of them"),
    ],
)
def test_images_of_mme_have_two_questions(data, edit, part):
    change(data / MME, edit)
    with pytest.raises(InputError, match=part):
        read(data, "mme")


@pytest.mark.parametrize(
    ("label", "part"),
    [
        (b"Is there a red thing?\tmaybe\n", "line 1 has label 'maybe'"),
        (b"Is there a red thing?\tyes\nIs there a red thing?\tno\n", "line 2 contradicts"),
        (b"Is there a \xff thing?\tyes\n", "0.txt is no text in UTF-8"),
    ],
)
def test_labels_of_mme_are_checked(data, label, part):
    (data / "MME" / "MME_Benchmark_release_version" / "color" / "0.txt").write_bytes(label)
    with pytest.raises(InputError, match=part):
        read(data, "mme")


def test_line_separators_stand_within_a_line(data):
    path = data / GQA[0]
    rows = [json.loads(line) for line in path.read_text().split("\n")[:-1]]
    rows[1]["text"] = "What\u2028color\u0085is it?"
    text = "".join(json.dumps(row, ensure_ascii=False) + "\r\n" for row in rows)
    path.write_bytes(text.encode())
    assert read(data, "gqa")["gqa"].items[1].text == rows[1]["text"]


def test_byte_order_marks_do_no_harm(data):
    plain = {name: sheet.items for name, sheet in read(data, *layouts.IMAGE_TASKS).items()}
    files = [path for path in data.rglob("*") if path.suffix in (".json", ".jsonl", ".tsv", ".txt")]
    assert len(files) > 15
    for path in files:
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    marked = {name: sheet.items for name, sheet in read(data, *layouts.IMAGE_TASKS).items()}
    assert marked == plain
