"""The images in examples/ are as described, and the model answers as `make demo` shows."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from sparsight.cli import app
from sparsight.evaluate.scenes import SPLIT
from sparsight.evaluate.scenes.compose import compose
from sparsight.models.embedded import is_prepared

FOLDER = Path(__file__).parents[1] / "examples"
MAKEFILE = (FOLDER.parent / "Makefile").read_text(encoding="utf-8")
EMBEDDED = pytest.mark.skipif(
    not is_prepared(), reason="the embedded model is not prepared; run `sparsight prepare`"
)


def setting(name):
    return re.search(rf"^{name} \?= (.*)$", MAKEFILE, re.MULTILINE)[1]


def demo():
    """Image, question and options of `make demo`."""
    line = re.search(
        r"sparsight ask \$\(IMAGE\) \"\$\(QUESTION\)\" (.*) --picture demo.png", MAKEFILE
    )[1]
    return setting("IMAGE"), setting("QUESTION"), line.split()


def answers(image, question, *options):
    words = ["ask", str(image), question, *options, "--json", "--runs", "1"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)["answers"]


def test_the_page_lists_what_is_there():
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert {path.name for path in FOLDER.glob("*.png")} == set(re.findall(r"`([\w-]+\.png)`", page))


def test_the_scene_is_small_and_no_part_of_the_split():
    path = FOLDER / "scene.png"
    assert path.stat().st_size < 300_000
    own = np.asarray(Image.open(path).convert("RGB")).astype(float)
    others = [
        np.asarray(Image.open(other).convert("RGB"))
        for other in sorted((SPLIT / "images").glob("*.webp"))
    ]
    same = [other for other in others if other.shape == own.shape]
    assert len(same) > 100
    assert min(abs(other - own).mean() for other in same) > 10


def test_the_scene_holds_what_is_asked_for():
    scene = compose("demo/7", "test")
    assert [item.label for item in scene.items] == ["blue fish", "turtle", "bell", "purple owl"]
    assert scene.background == "mysorepalace"


@pytest.mark.embedded
@EMBEDDED
def test_the_demo_answers_rightly_dense_and_sparse(tmp_path):
    image, question, options = demo()
    target = tmp_path / "demo.png"
    found = answers(FOLDER.parent / image, question, *options, "--picture", str(target))
    assert found == {"dense": "blue", "sparse": "blue", "same": True}
    with Image.open(target) as picture:
        assert min(picture.size) > 500
