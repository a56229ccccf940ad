"""The embedded model answers questions of the image benchmarks, from the command to the table."""

import json
from pathlib import Path

import pytest
from PIL import Image

from sparsight.models.embedded import is_prepared
from tests.evaluate.tasks.test_tasks import call
from tests.support import layouts

pytestmark = [
    pytest.mark.embedded,
    pytest.mark.skipif(
        not is_prepared(), reason="the embedded model is not prepared; run `sparsight prepare`"
    ),
]
SCENE = Path(__file__).parents[3] / "examples" / "scene.png"
NAMES = ("gqa", "mmbench", "sqa", "textvqa", "mmvet")  # those of one part, for speed


def test_the_embedded_model_answers(tmp_path):
    for name in NAMES:
        layouts.WRITERS[name](tmp_path / "data")
    scene = Image.open(SCENE).convert("RGB")
    scene.save(tmp_path / "data" / "gqa" / "data" / "images" / "n0.jpg")
    path = tmp_path / "data" / "gqa" / "llava_gqa_testdev_balanced.jsonl"
    text = "What color is the fish?"
    rows = [json.loads(line) | {"text": text} for line in path.read_text().splitlines()]
    layouts.write_lines(path, rows)
    words = ["--tasks", ",".join(NAMES), "--data", tmp_path / "data", "--out", tmp_path / "out"]
    words += ["--methods", "dense,sparsevlm", "--retain", 192, "--limit", 1, "--batch", 2]
    shown = call(*words, "--max-new-tokens", 4, "--judge", "none", "--json")
    assert shown.exit_code == 0, shown.output
    assert "the model's own is used" in shown.stderr
    dense, sparse = json.loads(shown.stdout)["configurations"]
    assert dense["cost"]["visual_tokens"] == 576
    assert sparse["cost"]["mean_visual_tokens"] <= 192
    lines = (tmp_path / "out" / "gqa.jsonl").read_text().splitlines()
    answers = {row["configuration"]: row["prediction"] for row in map(json.loads, lines)}
    assert answers["dense"]
    assert set(answers) == {"dense", "sparsevlm@192"}
    for name in NAMES:
        assert {dense["tasks"][name]["n"], sparse["tasks"][name]["n"]} == {1 + (name == "mmbench")}
