"""docs/ask.md says what holds: limits, kinds of files, models that take videos, the snippet."""

import re
from pathlib import Path

import pytest

from sparsight.families import families
from sparsight.images import MOST_PIXELS
from sparsight.picture import frames
from sparsight.videos import FRAMES, MOST_SHOWN, VIDEOS, reading
from tests.evaluate.test_evaluate import TURNS
from tests.support import clips, tiny, tiny_processor

PAGE = (Path(__file__).parents[2] / "docs" / "ask.md").read_text(encoding="utf-8")
PLAIN = " ".join(PAGE.split())
NAMES = {  # families that take videos, as people call them
    "llava-next-video": ["LLaVA-NeXT-Video"],
    "llava-onevision": ["LLaVA-OneVision"],
    "video-llava": ["Video-LLaVA"],
    "qwen-vl": ["Qwen2-VL", "Qwen2.5-VL"],
    "qwen3-vl": ["Qwen3-VL"],
    "glm4v": ["GLM-4V"],
}


def test_limits():
    assert f"are shown: {FRAMES}, at most {MOST_SHOWN}." in PLAIN
    assert f"Up to {frames.MOST_FRAMES} frames of a video are drawn" in PLAIN
    assert f"frames of more than {MOST_PIXELS // 10**6} million pixels" in PLAIN
    assert f"more than {reading.MOST_SHOWN_PIXELS // 10**6} million together" in PLAIN
    assert f"more than {reading.MOST_FRAMES:,} frames" in PLAIN


def test_kinds_of_files():
    row = next(line for line in PAGE.splitlines() if line.startswith("| kinds of files"))
    assert re.findall(r"`(\.\w+)`", row) == list(VIDEOS)


def test_models_that_take_videos():
    row = next(line for line in PAGE.splitlines() if line.startswith("| a model that takes videos"))
    taking = [family.name for family in families() if family.video]
    assert sorted(taking) == sorted(NAMES)
    assert all(name in row for names in NAMES.values() for name in names)


def test_the_snippet_runs(tmp_path, monkeypatch):
    pytest.importorskip("av", reason="PyAV is not installed: sparsight[video]")
    clips.write_clip(tmp_path / "clip.mp4")
    monkeypatch.chdir(tmp_path)
    source = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL).group(1)
    scope = {"model": tiny.tiny_llava(), "processor": tiny_processor.processor(TURNS)}
    exec(source, scope)  # noqa: S102
    assert len(scope["chat"].messages) == 4
