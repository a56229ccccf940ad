"""The video benchmarks: frames, pairing by id, and the command from clips to the table."""

import json

import pytest

from sparsight import needs
from sparsight.errors import InputError, UnsupportedError
from sparsight.evaluate.judge import client
from sparsight.evaluate.tasks import find_tasks, read_sheets
from sparsight.evaluate.tasks.prompts import show
from sparsight.evaluate.tasks.task import Item
from tests.evaluate.tasks.test_tasks import call
from tests.support import layouts, tiny_processor
from tests.support.judge import run_judge

NAMES = tuple(layouts.VIDEO_FOLDERS)


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"video")


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Folders of all four sets, whose clips nobody opens."""
    monkeypatch.setattr(needs, "find_spec", lambda name: name)
    for name in NAMES:
        layouts.write_video(tmp_path, name, clip=touch)
    return tmp_path


@pytest.mark.parametrize("name", NAMES)
def test_answers_are_paired_by_id(data, name):
    root = data / "GPT_Zero_Shot_QA" / layouts.VIDEO_FOLDERS[name][0]
    answers = json.loads((root / "test_a.json").read_text())
    for row in answers:
        row["answer"] = f"answer of {row['question_id']}"
    layouts.write_json(root / "test_a.json", answers)
    (sheet,) = read_sheets(find_tasks((name,)), data)
    assert [item.id for item in sheet.items] == [f"{name}_{number}" for number in range(3)]
    for number, item in enumerate(sheet.items):
        assert item.target == f"answer of {item.id}"
        assert item.video.stem.endswith(f"clip{number}")
        assert item.text == item.question == "what grows"


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("test_q.json", "question", 5),
        ("test_a.json", "answer", None),
        ("test_a.json", "answer", ""),
    ],
)
def test_wrong_values_are_named(data, name, field, value):
    path = data / "GPT_Zero_Shot_QA" / "MSVD_Zero_Shot_QA" / name
    rows = json.loads(path.read_text())
    rows[1][field] = value
    layouts.write_json(path, rows)
    with pytest.raises(InputError, match=f"{name}: entry 2 has {field} "):
        read_sheets(find_tasks(("msvd",)), data)


def test_the_first_thousand_are_asked(data):
    layouts.write_video(data, "msvd", count=1002, clip=lambda path: None)
    root = data / "GPT_Zero_Shot_QA" / "MSVD_Zero_Shot_QA"
    questions = json.loads((root / "test_q.json").read_text())
    layouts.write_json(root / "test_q.json", [row | {"video_name": "clip0"} for row in questions])
    tasks = find_tasks(("msvd",))
    assert len(read_sheets(tasks, data)[0].items) == 1000
    assert len(read_sheets(tasks, data, limit=5000)[0].items) == 1002


def test_missing_videos_are_counted(data):
    folder, place, _ = layouts.VIDEO_FOLDERS["msvd"]
    (data / "GPT_Zero_Shot_QA" / folder / place / "clip1.mp4").unlink()
    with pytest.raises(InputError, match="msvd: 1 of 3 videos are missing or empty"):
        read_sheets(find_tasks(NAMES), data)


def test_the_package_is_asked_for_first(data, monkeypatch):
    monkeypatch.delitem(needs.sys.modules, "av", raising=False)
    monkeypatch.setattr(needs, "find_spec", lambda name: None)
    with pytest.raises(UnsupportedError, match=r'pip install "sparsight\[video\]"'):
        read_sheets(find_tasks(("tgif",)), data)


def test_frames_are_those_of_video_llava(tmp_path):
    pytest.importorskip("av", reason="the extra video is not installed")
    layouts.write_clip(tmp_path / "a.mp4", frames=12)
    (clip,) = show(Item("1", "what", "", video=tmp_path / "a.mp4"), 4, None)
    assert [frame.index for frame in clip.frames] == [0, 3, 7, 11]  # first and last included
    greys = [image.getpixel((32, 32))[0] for image in clip.images]
    assert greys == pytest.approx([0, 60, 140, 220], abs=8)
    with pytest.raises(InputError, match=r"d\.mp4: no such file"):
        show(Item("1", "what", "", video=tmp_path / "d.mp4"), 4, None)


def test_the_command_asks_about_videos(tmp_path, monkeypatch):
    pytest.importorskip("av", reason="the extra video is not installed")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(client, "_wait", lambda seconds: None)
    for name in NAMES:
        layouts.write_video(tmp_path / "data", name, count=1)
    model = tiny_processor.save(tmp_path / "model")
    words = ["--tasks", ",".join(NAMES), "--data", tmp_path / "data", "--model", model]
    words += ["--methods", "dense,sparsevlm", "--retain", 0.4, "--max-new-tokens", 2]
    with run_judge(always='{"pred": "yes", "score": 4}') as (url, _):
        shown = call(*words, "--out", tmp_path / "out", "--judge", url, "--judge-model", "owl")
    assert shown.exit_code == 0, shown.output
    assert "100.0 / 4.00" in shown.stdout
    assert "mean, video sets" in shown.stdout
    row = json.loads((tmp_path / "out" / "tgif.jsonl").read_text().splitlines()[0])
    assert row["visual_tokens"] == 8 * 36
