"""Where the model looks: areas by hand, what is seen is what the model computes, what is asked."""

import json
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from sparsight.engine.compat import output_cache
from sparsight.evaluate.scenes import compose_suite, load_suite
from sparsight.methods.parts.raters import choose_text_raters
from sparsight.methods.parts.words import measure_residual
from tests.support import tiny, tiny_processor

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import areas
import where_it_looks

VISUAL = slice(1, 1 + tiny.VISUAL)
TEXT = slice(1 + tiny.VISUAL, None)
FLOAT32 = {"rtol": 1e-4, "atol": 1e-6}  # eager attention takes the softmax in it


def marks(*values):
    return torch.tensor(values, dtype=torch.bool)


@pytest.mark.parametrize(
    ("scores", "evidence", "area"),
    [
        ([3, 1, 2], marks(1, 0, 0), 1.0),
        ([3, 1, 2], marks(0, 1, 0), 0.0),
        ([3, 1, 2, 2], marks(0, 0, 1, 0), 0.5),  # above 1, like 2, below 3
        ([0, 0, 0, 0], marks(1, 1, 0, 0), 0.5),
        ([5, 5, 5, 1], marks(1, 0, 0, 1), 0.25),  # two ties of four pairs
    ],
)
def test_areas_by_hand(scores, evidence, area):
    assert areas.measure_areas(torch.tensor(scores).float(), evidence) == area
    assert areas.measure_areas(-torch.tensor(scores).float(), evidence) == 1 - area


def test_areas_count_every_pair():
    random = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 6, (2, 3, 20), generator=random).float()
    evidence = torch.rand(20, generator=random) < 0.4
    found = areas.measure_areas(scores, evidence)
    for row in range(2):
        for column in range(3):
            inside = scores[row, column, evidence].tolist()
            outside = scores[row, column, ~evidence].tolist()
            won = sum((a > b) + (a == b) / 2 for a in inside for b in outside)
            assert found[row, column] == pytest.approx(won / len(inside) / len(outside))


def test_a_question_has_no_say_in_its_own_head():
    even = [[[0.9, 0.2, 0.1]], [[0.7, 0.4, 0.3]]]  # the first head is best, in the mean
    odd = [[[0.1, 0.2, 0.8]], [[0.3, 0.9, 0.6]]]  # the last one is
    table = torch.tensor([even[0], odd[0], even[1], odd[1]])  # (4, 1, 3)
    assert areas.choose_by_halves(table)[:, 0].tolist() == pytest.approx([0.1, 0.1, 0.3, 0.3])


def test_intervals_hold_the_mean_and_narrow():
    random = torch.Generator().manual_seed(0)
    table = torch.rand(200, 2, generator=random, dtype=torch.float64)
    table[:, 1] = 0.25
    (low, high), same = areas.bootstrap_means(table)
    mean, error = table[:, 0].mean().item(), table[:, 0].std().item() / 200**0.5
    assert low == pytest.approx(mean - 1.96 * error, abs=0.2 * error)
    assert high == pytest.approx(mean + 1.96 * error, abs=0.2 * error)
    assert same == pytest.approx((0.25, 0.25))


def test_the_best_place_may_be_turned_round():
    assert areas.find_best([0.5, 0.7, 0.7, 0.6]) == 1
    assert areas.find_best([0.5, 0.7, 0.2]) == 2
    assert areas.find_reached([0.5, 0.7, 0.73, 0.8, 0.6]) == 2
    assert areas.find_reached([0.5, 0.7, 0.75, 0.78, 0.8], floor=0.5) == 3


@pytest.fixture(scope="module")
def seen():
    """Scores of one prompt, and what the unpruned model computes, with eager attention."""
    inputs = tiny.batch([["image", 9]]).inputs
    scores = where_it_looks.watch(tiny.tiny_llava(), inputs, (0, -1))
    model = tiny.tiny_llava(attention="eager")
    kept = {}
    decoder = model.model.language_model
    decoder.register_forward_pre_hook(
        lambda _, __, kwargs: kept.update(embeds=kwargs["inputs_embeds"][0]), with_kwargs=True
    )
    with torch.inference_mode():
        output = model(**inputs, output_attentions=True, output_hidden_states=True, use_cache=True)
        tower = model.model.vision_tower(
            inputs["pixel_values"], output_attentions=True, output_hidden_states=True
        )
    return scores, output, kept["embeds"], tower


def test_attention_is_that_of_the_unpruned_model(seen):
    scores, output, embeds, _ = seen
    raters = choose_text_raters(embeds[VISUAL], embeds[TEXT])
    assert not raters.all()
    rows = torch.stack([layer[0][:, TEXT, VISUAL] for layer in output.attentions])  # (L, H, T, V)
    mean = rows[:, :, raters].mean(dim=(1, 2))
    torch.testing.assert_close(scores["raters"], mean, **FLOAT32)
    torch.testing.assert_close(scores["last"], rows[:, :, -1].mean(dim=1), **FLOAT32)
    share = raters.sum() / len(raters)  # the mean counts every word, and ranks alike
    heads = rows[:, :, raters].mean(dim=2) * share
    torch.testing.assert_close(scores["head"], heads, **FLOAT32)


def test_hidden_states_and_keys_are_those_of_the_unpruned_model(seen):
    scores, output, embeds, _ = seen
    entering = torch.stack(output.hidden_states[:-1])[:, 0]  # (L, N, D)
    torch.testing.assert_close(entering[0], embeds)
    ratio = measure_residual(entering[:, VISUAL], entering[:, TEXT]).ratio
    torch.testing.assert_close(scores["residual"], ratio)
    keys = torch.stack([layer.keys[0] for layer in output_cache(output).layers])  # (L, H, N, d)
    norm = torch.linalg.vector_norm(keys[:, :, VISUAL], dim=(1, 3)).float()
    torch.testing.assert_close(scores["keys"], norm, **FLOAT32)


def test_what_is_known_before_the_first_layer(seen):
    scores, _, embeds, tower = seen
    visual, text = (torch.nn.functional.normalize(embeds[part], dim=-1) for part in (VISUAL, TEXT))
    middle = torch.nn.functional.normalize(embeds[TEXT].mean(dim=0), dim=0)
    torch.testing.assert_close(scores["words"][0], visual @ middle)
    torch.testing.assert_close(scores["word"][0], (visual @ text.T).amax(dim=1))
    cosines = (visual @ visual.T).fill_diagonal_(0)
    torch.testing.assert_close(scores["distinct"][0], -cosines.sum(dim=1) / (tiny.VISUAL - 1))
    features = torch.nn.functional.normalize(tower.hidden_states[-2][0, 1:], dim=-1)
    cosines = (features @ features.T).fill_diagonal_(0)
    torch.testing.assert_close(
        scores["distinct_features"][0], -cosines.sum(dim=1) / (tiny.VISUAL - 1)
    )
    paid = torch.stack([block[0, :, 0, 1:].mean(dim=0) for block in tower.attentions])
    torch.testing.assert_close(scores["class"], paid, **FLOAT32)  # the earlier block first


def test_only_questions_with_evidence_in_one_picture_are_asked(tmp_path):
    compose_suite(4, "test", share=0.1).write(tmp_path)
    chosen = where_it_looks.choose_questions(tmp_path, 2)
    parts = Counter((question.family, question.split) for question in chosen)
    assert max(parts.values()) == 2
    assert {family for family, _ in parts} == set(where_it_looks.FAMILIES)
    assert all(question.turns[0].boxes[0] and len(question.images) == 1 for question in chosen)
    everything = where_it_looks.choose_questions(tmp_path, None)
    denied = {question.id for question in load_suite(tmp_path) if question.turns[0].answer == "no"}
    assert not denied & {question.id for question in everything}


def test_rows_hold_areas_by_place_and_family(tmp_path):
    compose_suite(4, "test", share=0.01).write(tmp_path)
    model, processor = tiny.tiny_llava(dtype=torch.float32), tiny_processor.processor()
    questions = where_it_looks.choose_questions(tmp_path, 1)[-3:]
    found = where_it_looks.measure_all(model, processor, tmp_path, questions)
    families = [question.family for question in questions]
    rows = where_it_looks.summarise(found, families)
    assert json.loads(json.dumps(rows)) == rows
    assert [row["score"] for row in rows] == list(where_it_looks.PLACES)
    for row in rows:
        places = {"layer": 8, "input": 1, "block": 1}[row["place"]]
        lists = [row["areas"], row["intervals"], *row["families"].values()]
        assert [len(numbers) for numbers in lists] == [places] * len(lists)
        assert row["best_area"] == row["areas"][row["best"]]
        assert set(row["families"]) == set(families)
    raters = next(row for row in rows if row["score"] == "raters")
    assert raters["areas"][3] == round(found["raters"][:, 3].mean().item(), 4)
