"""A run that failed is told from one that went through, by what it wrote."""

import json

import pytest

from sparsight.errors import InputError
from sparsight.lmms.outcome import list_metrics, main, read_outcome

SCORES = {"alias": "shapes", "exact_match,none": 0.5, "exact_match_stderr,none": 0.2}
GOOD = {
    "results": {"shapes": SCORES},
    "n-samples": {"shapes": {"original": 4, "effective": 4}},
    "throughput": {"avg_visual_tokens": 576.0},
}


def write(folder, document, name="1_results.json"):
    place = folder / "model"
    place.mkdir(exist_ok=True)
    text = document if isinstance(document, str) else json.dumps(document)
    (place / name).write_text(text)


def changed(**parts):
    return GOOD | parts


def test_a_good_run(tmp_path, capsys):
    write(tmp_path, GOOD)
    assert list_metrics(read_outcome(tmp_path, ["shapes"]), "shapes") == {"exact_match,none": 0.5}
    assert main([str(tmp_path), "shapes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["shapes  exact_match,none  0.5", "throughput  avg_visual_tokens  576.0"]


def test_a_run_that_wrote_nothing(tmp_path, capsys):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputError, match="the run failed, whatever its exit code"):
            read_outcome(folder, ["shapes"])
    assert main([str(tmp_path), "shapes"]) == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_results_of_an_earlier_run_count_for_none(tmp_path):
    write(tmp_path, GOOD)
    write(tmp_path, GOOD, "2_results.json")
    with pytest.raises(InputError, match="2 runs"):
        read_outcome(tmp_path, ["shapes"])


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ("{", "is damaged"),
        ("[]", "holds no results"),
        ({"results": None}, "holds no results"),
        (changed(results={}), "task shapes has no result; there are none"),
        (changed(results={"other": SCORES}), "there are other"),
        (changed(results={"shapes": {"alias": "shapes"}}), "has no score"),
        (changed(results={"shapes": {"exact_match,none": float("nan")}}), "has no score"),
        (changed(results={"shapes": {"exact_match,none": "N/A", "samples": 4}}), "has no score"),
        (changed(**{"n-samples": {"shapes": {"effective": 0}}}), "answered no question"),
    ],
)
def test_a_run_without_scores(tmp_path, document, says):
    write(tmp_path, document)
    with pytest.raises(InputError, match=says):
        read_outcome(tmp_path, ["shapes"])


def test_every_task_is_looked_at(tmp_path):
    write(tmp_path, GOOD)
    with pytest.raises(InputError, match="task colors has no result"):
        read_outcome(tmp_path, ["shapes", "colors"])


def test_it_says_how_it_is_called(capsys):
    assert main([]) == 2
    assert "usage" in capsys.readouterr().err
