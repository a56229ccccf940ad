"""Scores by kind of question: MM-Vet's capabilities and their integrations, SEED-Bench's types."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from sparsight.cli.task_tables import show_tasks
from sparsight.errors import InputError
from sparsight.evaluate.judge.judging import Judge
from sparsight.evaluate.judge.wordings import OWN
from sparsight.evaluate.tasks import TASKS, find_tasks, read_sheets
from sparsight.evaluate.tasks.kinds import score_kinds
from sparsight.evaluate.tasks.lines import append_rows, read_reply, write_reply
from sparsight.evaluate.tasks.results import mark_all
from sparsight.evaluate.tasks.scores import score_folder
from sparsight.evaluate.tasks.settings import TaskSettings
from sparsight.evaluate.tasks.store import hash_text, open_task_store
from tests.evaluate.tasks.test_task_results import make
from tests.support import layouts

MMVET = TASKS["mmvet"]
# capabilities and mark of five questions
QUESTIONS = [
    (("rec",), "1.0"),
    (("rec", "ocr"), "0.5"),
    (("ocr", "rec"), "0.0"),
    (("math", "ocr"), "0.2"),
    (("rec", "know", "gen"), None),
]


def marks():
    rows = []
    for number, (kinds, text) in enumerate(QUESTIONS):
        reply = read_reply({**write_reply(make("dense", number, "x")), "kinds": list(kinds)})
        rows.append((reply, None if text is None else float(text)))
    return rows


def test_a_question_counts_in_each_of_its_kinds():
    kinds = score_kinds(MMVET, marks())["kinds"]
    assert list(kinds) == ["rec", "ocr", "know", "gen", "math"]
    assert kinds["rec"] == {"score": 50, "n": 4, "unjudged": 1}
    assert kinds["ocr"]["score"] == pytest.approx(100 * 0.7 / 3)
    assert kinds["math"] == {"score": 20, "n": 1, "unjudged": 0}
    assert kinds["gen"] == {"score": None, "n": 1, "unjudged": 1}


def test_kinds_together_are_exactly_these():
    together = score_kinds(MMVET, marks())["kinds_together"]
    assert list(together) == ["rec", "rec+ocr", "ocr+math", "rec+know+gen"]
    assert together["rec"] == {"score": 100, "n": 1, "unjudged": 0}
    assert together["rec+ocr"] == {"score": 25, "n": 2, "unjudged": 0}
    assert together["rec+know+gen"]["score"] is None
    assert sum(one["n"] for one in together.values()) == len(QUESTIONS)


def test_questions_of_one_kind_each_stand_together_with_none():
    replies = [make("dense", n, "AB"[n % 2], "A") for n in range(4)]
    rows = [write_reply(reply) for reply in replies]
    for row in rows:
        row["kinds"] = ["Instance Identity" if row["id"] == "0" else "Visual Reasoning"]
    found = mark_all(TASKS["seed"], [read_reply(row) for row in rows], lambda *_: None).kinds
    assert found == {
        "kinds": {
            "Instance Identity": {"score": 100, "n": 1, "unjudged": 0},
            "Visual Reasoning": {"score": pytest.approx(100 / 3), "n": 3, "unjudged": 0},
        }
    }


def test_answers_of_an_earlier_version_have_no_kinds():
    row = write_reply(make("dense", 0, "x"))
    del row["kinds"]
    assert read_reply(row).kinds == ()
    assert score_kinds(MMVET, [(read_reply(row), 1.0), *marks()]) == {}
    for odd in ("rec", [1], None):
        with pytest.raises(ValueError, match="kinds is no list of texts"):
            read_reply({**row, "kinds": odd})


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return layouts.write_images(tmp_path_factory.mktemp("data"))


def answer_all(folder, sheets):
    """Open a folder, and answer all questions rightly."""
    settings = TaskSettings(tuple(sheet.task.name for sheet in sheets), folder, out=folder)
    with open_task_store(settings, sheets) as store:
        for sheet in sheets:
            rows = []
            for item in sheet.items:
                row = write_reply(make("dense", item.id, item.target, item.target, part=item.part))
                row |= {"group": item.group, "run": store.run, "prompt": hash_text(item.text)}
                rows.append({**row, "kinds": list(item.kinds)})
            append_rows(folder / f"{sheet.task.name}.jsonl", rows)


def test_the_folder_and_the_table_have_them(data, tmp_path, capsys):
    sheets = read_sheets(find_tasks(("seed", "mmvet", "pope")), data)
    answer_all(tmp_path, sheets)
    judge = Judge("owl", OWN)
    rows = [
        {
            "key": judge.make_key(MMVET, reply),
            "task": "mmvet",
            "asked_judge": "owl",
            "judge": "owl",
            "wording": "w",
            "reply": "0.5",
        }
        for reply in map(read_reply, map(json.loads, read_lines(tmp_path / "mmvet.jsonl")))
    ]
    append_rows(tmp_path / "verdicts.jsonl", rows)
    (row,) = score_folder(tmp_path, judge=judge)["configurations"]
    seed, mmvet = row["tasks"]["seed"], row["tasks"]["mmvet"]
    assert set(seed["kinds"]) == {"Scene Understanding", "Action Recognition"}
    assert seed["parts"] == {"image": 100, "video": 100}
    assert "kinds_together" not in seed
    assert mmvet["kinds_together"]["rec+ocr"] == {"score": 50, "n": 1, "unjudged": 0}
    assert mmvet["kinds"]["rec"]["n"] == 2
    assert set(row["tasks"]["pope"]["parts"]) == {"adversarial", "popular", "random"}
    document = score_folder(tmp_path, judge=judge)
    show_tasks(document, Console(width=120), tmp_path)
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    for line in ("MM-Vet rec+ocr 1 50.0", "MM-Vet math only 1 50.0", "POPE popular 100.0"):
        assert line.split() in shown
    assert ["SEED", "Action", "Recognition", "2", "100.0"] in shown


def test_a_file_without_types_gives_no_scores_by_type(data, tmp_path):
    (sheet,) = read_sheets(find_tasks(("seed",)), data)
    assert sheet.items[0].kinds == ("Scene Understanding",)
    layouts.write_seed(tmp_path)
    path = tmp_path / "seed_bench" / "SEED-Bench.json"
    document = json.loads(path.read_text())
    for one in document["questions"]:
        del one["question_type_id"]
    layouts.write_json(path, document)
    (sheet,) = read_sheets(find_tasks(("seed",)), tmp_path)
    assert {item.kinds for item in sheet.items} == {()}


def test_configurations_can_be_told_apart_where_there_is_no_room(capsys):
    keys = [f"sparsevlm:recycle=false@{budget}" for budget in (192, 128)]
    results = {"n": 1, "unjudged": 0, "score": 50.0, "retention": 1.0, "interval": [1.0, 1.0]}
    results |= {"published": [], "outside": None, "parts": {"image": 50.0, "video": 50.0}}
    means = {"retention": 1.0, "interval": [1.0, 1.0], "tasks": ["seed"]}
    rows = [
        {
            "key": key,
            "tasks": {"seed": results},
            "means": {"images_unjudged": means},
            "cost": None,
            "incomplete": {},
        }
        for key in keys
    ]
    facts = {"title": "SEED", "note": None, "asked": 1}
    document = {"tasks": {"seed": facts}, "configurations": rows, "refused": None, "judge": None}
    document |= {"model": "tiny", "dtype": "float32"}
    show_tasks(document, Console(width=100), Path("out"))
    shown = capsys.readouterr().out
    assert "\N{HORIZONTAL ELLIPSIS}" not in shown
    assert shown.count("192") == shown.count("128") == 3


def read_lines(path):
    return path.read_text(encoding="utf-8").splitlines()


def test_scoring_leaves_a_line_alone_that_a_judging_run_writes(data, tmp_path):
    answer_all(tmp_path, read_sheets(find_tasks(("mmvet",)), data))
    path = tmp_path / "verdicts.jsonl"
    path.write_text('{"key": "ab')
    score_folder(tmp_path)
    assert path.read_text() == '{"key": "ab'
    path.write_text('{"key": "ab"}\n{"key')
    with pytest.raises(InputError, match="line 1 is damaged"):
        score_folder(tmp_path)
    assert path.read_text().endswith('{"key')


# ---- TextVQA's questions that stand several times


def write_repeated(data, first, second, rows=2):
    """TextVQA with one question on one image, in so many rows, and two entries of answers."""
    text = f"What is it?\nReference OCR token: RED\n{layouts.SHORT}"
    row = {"question_id": "i0", "image": "i0.jpg", "text": text}
    entry = {"image_id": "i0", "question": "What is it?"}
    layouts.save(data / "textvqa" / "train_images" / "i0.jpg")
    layouts.write_lines(data / "textvqa" / "llava_textvqa_val_v051_ocr.jsonl", [row] * rows)
    entries = [{**entry, "answers": [answer] * 10} for answer in (first, second)]
    layouts.write_json(data / "textvqa" / "TextVQA_0.5.1_val.json", {"data": entries})


def test_rows_and_answers_of_a_repeated_question_go_together(tmp_path):
    write_repeated(tmp_path, "red", "blue")
    (sheet,) = read_sheets(find_tasks(("textvqa",)), tmp_path)
    assert [item.target[0] for item in sheet.items] == ["red", "blue"]
    assert [item.id for item in sheet.items] == ["i0#1", "i0#2"]


@pytest.mark.parametrize("rows", [1, 3])
def test_what_cannot_be_paired_is_refused(tmp_path, rows):
    write_repeated(tmp_path, "red", "blue", rows)
    with pytest.raises(InputError, match=f"2 times with different answers, .* has it {rows} times"):
        read_sheets(find_tasks(("textvqa",)), tmp_path)
    write_repeated(tmp_path, "red", "red", rows)
    (sheet,) = read_sheets(find_tasks(("textvqa",)), tmp_path)
    assert [item.target[0] for item in sheet.items] == ["red"] * rows
