"""The folders of benchmarks: what is read from them, and what is refused by name."""

import json

import pytest

from sparsight.errors import InputError, SettingError
from sparsight.evaluate.tasks import TASKS, find_tasks, read_sheets
from sparsight.images import read_image
from tests.support import layouts

IMAGES = layouts.IMAGE_TASKS


@pytest.fixture
def data(tmp_path):
    return layouts.write_images(tmp_path)


def read(data, *names, limit=None):
    return {sheet.task.name: sheet for sheet in read_sheets(find_tasks(names), data, limit)}


def change(path, edit):
    """Rewrite a JSON file, or one of JSON lines, by a function of its rows."""
    if path.suffix == ".jsonl" or "coco_pope" in path.name:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        layouts.write_lines(path, edit(rows))
    else:
        layouts.write_json(path, edit(json.loads(path.read_text())))


def test_all_image_sets_are_read(data):
    sheets = read(data, *IMAGES)
    counts = {name: len(sheet.items) for name, sheet in sheets.items()}
    assert counts == {
        "gqa": 4,
        "mmbench": 4,
        "mme": 8,
        "pope": 12,
        "sqa": 3,
        "seed": 4,
        "textvqa": 4,
        "mmvet": 3,
    }
    for sheet in sheets.values():
        assert len({item.id for item in sheet.items}) == len(sheet.items)
        for item in sheet.items:
            assert read_image(item.images[0]).width >= 48


def test_prompts_are_those_of_the_authors(data):
    sheets = read(data, *IMAGES, "textvqa-plain")
    texts = {name: sheet.items[0].text for name, sheet in sheets.items()}
    letter, short = layouts.LETTER, layouts.SHORT
    assert texts["gqa"] == f"What color is it?\n{short}"
    assert texts["mmbench"] == (
        "It is painted.\nWhich color is it?\nA. red\nB. green\nC. blue\nD. yellow\n" + letter
    )
    assert sheets["mmbench"].items[3].text == f"Which color is it?\nA. green\nB. red\n{letter}"
    assert texts["sqa"] == (
        f"Context: It is painted.\nWhich color is it?\nA. red\nB. green\n{letter}"
    )
    assert texts["textvqa"] == (f"What is written 0 times?\nReference OCR token: RED, 12\n{short}")
    assert texts["textvqa-plain"] == f"What is written 0 times?\n{short}"
    assert "OCR" not in texts["mmvet"]


def test_targets_parts_and_groups(data):
    sheets = read(data, *IMAGES)
    mme = sheets["mme"].items
    assert [item.target for item in mme] == ["yes", "no"] * 4
    assert {item.part for item in mme} == {"color", "artwork"}
    assert len({item.group for item in mme}) == 4
    assert {item.group for item in sheets["mmbench"].items} == {"0", "1"}
    assert [item.target["answer"] for item in sheets["mmbench"].items] == ["A", "B", "B", "A"]
    assert [item.part for item in sheets["seed"].items] == ["image", "video"] * 2
    assert [item.target for item in sheets["pope"].items[:2]] == ["yes", "no"]
    assert len(sheets["textvqa"].items[0].target) == 10
    assert sheets["mmvet"].items[0].id == "v1_0"


def test_a_limit_keeps_groups_whole(data):
    sheets = read(data, *IMAGES, limit=1)
    counts = {name: len(sheet.items) for name, sheet in sheets.items()}
    assert counts["mme"] == 4  # both questions of one image in two parts
    assert counts["mmbench"] == 2
    assert counts["pope"] == 3
    assert counts["gqa"] == counts["sqa"] == 1
    assert sheets["gqa"].whole == 4
    assert sheets["gqa"].digest == read(data, "gqa")["gqa"].digest


def test_missing_files_are_all_listed(data):
    (data / "gqa" / "data" / "testdev_balanced_questions.json").unlink()
    (data / "MME" / "llava_mme.jsonl").unlink()
    with pytest.raises(InputError) as error:
        read(data, *IMAGES)
    for part in ("testdev_balanced_questions.json", "questions1.2.zip", "llava_mme.jsonl"):
        assert part in str(error.value)
    with pytest.raises(InputError, match="playground/data/eval"):
        read(data / "nowhere", "gqa")


def test_missing_images_are_all_counted(data):
    (data / "gqa" / "data" / "images" / "n1.jpg").unlink()
    (data / "pope" / "val2014" / "c2.jpg").write_bytes(b"")
    with pytest.raises(InputError) as error:
        read(data, *IMAGES)
    assert "gqa: 1 of 4 images are missing or empty" in str(error.value)
    assert "pope: 1 of 4 images" in str(error.value)
    assert len(read(data, "gqa", limit=1)["gqa"].items) == 1  # only what is asked has to be there


@pytest.mark.parametrize(
    "name",
    [
        "gqa/llava_gqa_testdev_balanced.jsonl",
        "gqa/data/testdev_balanced_questions.json",
        "mmbench/mmbench_dev_20230712.tsv",
        "scienceqa/llava_test_CQM-A.json",
        "seed_bench/SEED-Bench.json",
    ],
)
def test_half_a_download_is_found(data, name):
    path = data / name
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match="only half there"):
        read(data, *IMAGES)


def drop_first(rows):
    return rows[1:]


@pytest.mark.parametrize(
    ("name", "edit", "part"),
    [
        (
            "pope/coco/coco_pope_random.json",
            drop_first,
            "3 labels, and .* 4 questions of that category: the two are of different releases",
        ),
        (
            "pope/coco/coco_pope_popular.json",
            lambda rows: rows[1:] + rows[:1],
            "4 of 4 questions .* have another image or text",
        ),
        (
            "textvqa/TextVQA_0.5.1_val.json",
            lambda document: {"data": document["data"][1:]},
            "1 of 4 questions .* have no answer in .*TextVQA_0.5.1_val.json, such as i0",
        ),
        (
            "gqa/data/testdev_balanced_questions.json",
            lambda document: {"x" + key: row for key, row in document.items()},
            "4 of 4 questions",
        ),
        ("seed_bench/SEED-Bench.json", lambda document: {"items": []}, "has no questions"),
        ("scienceqa/pid_splits.json", lambda document: {"test": ["5"]}, "different releases"),
        ("mm-vet/mm-vet.json", lambda document: {"v2_0": {}}, "3 of 3 questions"),
        ("gqa/llava_gqa_testdev_balanced.jsonl", lambda rows: rows + rows[:1], "200 twice"),
        ("MME/llava_mme.jsonl", lambda rows: [rows[0] | {"text": "Why?"}], "1 of 1 questions"),
    ],
)
def test_another_release_is_found(data, name, edit, part):
    change(data / name, edit)
    with pytest.raises(InputError, match=part):
        read(data, *IMAGES)


def test_a_table_without_answers_is_refused(data):
    path = data / "mmbench" / "mmbench_dev_20230712.tsv"
    path.write_text(path.read_text().replace("\tanswer\t", "\tresult\t"))
    with pytest.raises(InputError, match="no column answer"):
        read(data, "mmbench")


@pytest.mark.parametrize("name", ["../../secret.jpg", "/etc/passwd", "", 7])
def test_images_lie_below_their_folder(data, name):
    change(
        data / "gqa" / "llava_gqa_testdev_balanced.jsonl", lambda rows: [rows[0] | {"image": name}]
    )
    with pytest.raises(InputError, match="names an image"):
        read(data, "gqa")


def test_unknown_tasks_are_named():
    with pytest.raises(SettingError, match="'vqav2' is not known; give some of gqa, mmbench"):
        find_tasks(("gqa", "vqav2"))
    with pytest.raises(SettingError, match="given twice"):
        find_tasks(("gqa", "gqa"))
    assert len(TASKS) == 13
