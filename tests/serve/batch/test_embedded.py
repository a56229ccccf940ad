"""A job with the embedded model answers what `Chat` answers, row by row."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from sparsight import Chat, sparsify
from sparsight.cli import app
from sparsight.methods import SparseVLM
from sparsight.models import embedded
from tests.support import jobs

EXAMPLES = Path(__file__).parents[3] / "examples"
ROWS = [
    {"id": "fish", "image": str(EXAMPLES / "scene.png"), "question": "What color is the fish?"},
    {"id": "shape", "image": str(EXAMPLES / "circle.png"), "question": "What shape is shown?"},
    {"id": "gone", "image": "gone.png", "question": "What is it?"},
]


@pytest.mark.embedded
@pytest.mark.skipif(
    not embedded.is_prepared(), reason="the embedded model is not prepared; run `sparsight prepare`"
)
def test_answers_are_those_of_chat(tmp_path):
    table = jobs.write_jsonl(tmp_path / "rows.jsonl", ROWS)
    out = tmp_path / "out.jsonl"
    words = ["--method", "sparsevlm", "--retain", "64", "--max-new-tokens", "8", "--check", "1"]
    result = CliRunner().invoke(app, ["run", str(table), "--out", str(out), *words])
    assert result.exit_code == 0, result.stderr
    records = {record["id"]: record for record in jobs.read_output(out)}
    assert "no such file" in records["gone"]["error"]
    model, processor = embedded.load()
    for row in ROWS[:2]:
        with sparsify(model, SparseVLM(retain=64)) as run:
            chat = Chat(model, processor, max_new_tokens=8, do_sample=False)
            answer = chat.ask(row["question"], row["image"])
        record = records[row["id"]]
        assert record["answer"] == answer != ""
        assert record["visual_tokens"] == 576
        assert record["visual_tokens_entering"] == round(run.stats.mean_visual_tokens, 4)
