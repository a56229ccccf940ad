"""One real run of lmms-eval, where it is installed: `make lmms-test`."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from sparsight import SparseVLM, sparsify
from sparsight.chat import Chat
from sparsight.errors import InputError
from sparsight.evaluate.scenes.suite import load_images
from sparsight.lmms.outcome import list_metrics, read_outcome
from sparsight.models import embedded

pytestmark = [
    pytest.mark.embedded,
    pytest.mark.skipif(
        importlib.util.find_spec("lmms_eval") is None, reason="lmms-eval is not installed"
    ),
    pytest.mark.skipif(not embedded.is_prepared(), reason="the embedded model is not prepared"),
]
EACH = 2  # questions of each family
RETAIN = 64


@pytest.fixture(scope="module")
def program():
    """The script that writes the task and runs lmms-eval."""
    folder = str(Path(__file__).parents[2] / "benchmarks")
    sys.path.insert(0, folder)
    import lmms_run

    yield lmms_run
    sys.path.remove(folder)
    sys.modules.pop("lmms_run", None)


@pytest.fixture(scope="module")
def place(tmp_path_factory, program):
    """A folder with the task."""
    folder = tmp_path_factory.mktemp("lmms")
    assert program.write_task(folder / "tasks", EACH) == 2 * EACH
    return folder


def run(program, place, name, *more):
    """Run lmms-eval; return its exit code and what it printed."""
    arguments = f"method=sparsevlm,retain={RETAIN}"
    words = program.list_words(arguments, place / "tasks", place / name, 4)
    log = place / f"{name}.log"
    code = program.run_lmms([*words, *more], log)
    return code, log.read_text(errors="replace")


def ask_directly(questions):
    """Answers of the embedded model to the same questions, one by one."""
    model, processor = embedded.load()
    with sparsify(model, SparseVLM(retain=RETAIN)):
        return [
            Chat(model, processor, max_new_tokens=16, do_sample=False).ask(
                question.turns[0].question, load_images(question)
            )
            for question in questions
        ]


def test_a_run_scores_what_the_pruned_model_answers(program, place):
    code, printed = run(program, place, "good")
    assert code == 0, printed
    results = read_outcome(place / "good", [program.TASK])
    lines = next((place / "good").rglob("*_samples_*.jsonl")).read_text().splitlines()
    rows = sorted(map(json.loads, lines), key=lambda row: row["doc_id"])
    questions = program.choose_questions(EACH)
    assert [row["filtered_resps"] for row in rows] == ask_directly(questions)
    right = [row["filtered_resps"].lower() == row["target"].lower() for row in rows]
    assert list_metrics(results, program.TASK) == {
        "exact_match,none": pytest.approx(sum(right) / len(right))
    }
    assert results["throughput"]["avg_visual_tokens"] == 576
    assert results["throughput"]["avg_visual_tokens_entering"] == pytest.approx(RETAIN, abs=1)
    assert 0.05 < results["throughput"]["avg_prefill_flops_share"] < 0.25
    assert "image_aspect_ratio='original' belongs to other models" in printed


def test_a_refusal_is_no_score(program, place):
    code, printed = run(program, place, "refused", "--gen_kwargs", "contrast=1")
    assert "which --model sparsight does not know" in printed
    assert code == 0, "lmms-eval says now that a run failed: docs/lmms-eval.md says otherwise"
    with pytest.raises(InputError, match="the run failed, whatever its exit code"):
        read_outcome(place / "refused", [program.TASK])


def test_debug_tells_a_failed_run_by_its_exit_code(program, place):
    code, printed = run(
        program, place, "debug", "--gen_kwargs", "contrast=1", "--verbosity", "DEBUG"
    )
    assert code != 0, printed
