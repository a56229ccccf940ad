"""Evaluation with a tiny model: results, interruption and continuation, refusals, the command."""

import functools
import json
import shutil
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from sparsight import SparseVLM
from sparsight.cli import app
from sparsight.errors import BudgetError, InputError, SettingError
from sparsight.evaluate import (
    DENSE,
    Configuration,
    Settings,
    cast_weights,
    open_store,
    read_records,
    run,
)
from sparsight.evaluate.asking import Examiner
from sparsight.evaluate.scenes import FAMILIES, SPLIT, compose_suite, load_images, load_suite
from sparsight.evaluate.settings import Case
from sparsight.methods import HiPrune, Random
from tests.support import tiny, tiny_processor

SPARSE = Configuration("sparsevlm", SparseVLM(retain=14))
DRAWN = Configuration("random", Random(retain=12))
ALL = (DENSE, SPARSE, DRAWN)
# what an earlier turn looks like does not depend on what follows
TURNS = (
    "{%- for message in messages -%}{%- for item in message['content'] -%}"
    "{{- '<image>' if item['type'] == 'image' else item['text'] -}}{%- endfor -%}"
    "{{- ' ASSISTANT :' if message['role'] == 'user' else ' ' -}}{%- endfor -%}"
)


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    folder = tmp_path_factory.mktemp("suite")
    compose_suite(3, "test", share=0.03).write(folder)
    return folder


@pytest.fixture(scope="module")
def model():
    return tiny.tiny_llava(dtype=torch.float32)


@pytest.fixture(scope="module")
def processor():
    return tiny_processor.processor()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_processor.save(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def finished(model, processor, suite, tmp_path_factory):
    settings = make(suite, tmp_path_factory.mktemp("finished"))
    return settings.out, run(model, processor, settings)


def make(suite, out, configurations=ALL, **changes):
    return Settings(configurations, suite=suite, out=out, max_new_tokens=3, **changes)


def untimed(document):
    """Return a document without times and thread counts."""
    if isinstance(document, dict):
        return {
            key: untimed(document[key])
            for key in document
            if not key.startswith(("seconds", "threads"))
        }
    return [untimed(value) for value in document] if isinstance(document, list) else document


def answers(out):
    return [untimed(json.loads(line)) for line in (out / "answers.jsonl").read_text().splitlines()]


def test_results_hold_every_family(finished):
    out, found = finished
    assert json.loads((out / "results.json").read_text()) == found
    assert len(answers(out)) == 17 * len(ALL)
    dense, sparse, _ = found["configurations"]
    for row in found["configurations"]:
        assert set(row["families"]) == set(FAMILIES)
        assert not row["refused"]
    assert dense["overall"]["interval_points"] == [0.0, 0.0]
    assert dense["evidence"]["recall"] == dense["cost"]["flops_share"] == 1
    assert sparse["cost"]["mean_visual_tokens_one_image"] <= 14
    assert sparse["cost"]["flops_share"] < 1
    layers = [place["layer"] for place in sparse["evidence"]["sites"]]
    assert layers == sorted(layers)
    recall = [place["recall"] for place in sparse["evidence"]["sites"]]
    assert recall == sorted(recall, reverse=True)
    assert all(
        place["recall"] <= place["recall_merged"] <= 1 for place in sparse["evidence"]["sites"]
    )
    assert set(sparse["families"]["two-turn"]["splits"]) == {"first", "second"}
    assert set(sparse["families"]["reading"]["splits"]) == {"large", "medium", "small"}
    rows = {row.pair: row for row in read_records(out)}
    clip = next(
        row for row in rows.values() if row.family == "clip" and row.configuration == SPARSE.key
    )
    assert clip.visual_tokens == 8 * tiny.VISUAL
    assert 0 < clip.mean_visual_tokens <= 8 * 14
    assert clip.dense_prefill_flops == rows[DENSE.key, clip.question].prefill_flops


class Stop(Exception):
    """Ends an evaluation early."""


@pytest.fixture(params=[0, 40])
def stopped(request, model, processor, suite, tmp_path):
    """An evaluation of which 20 answers are written, the last one with `cut` bytes missing."""

    def stop(done, total):
        if done == 20:
            raise Stop

    settings = make(suite, tmp_path)
    with pytest.raises(Stop):
        run(model, processor, settings, report=stop)
    return settings, request.param


def test_continuing_equals_one_go(finished, stopped, model, processor, tmp_path):
    settings, cut = stopped
    path = tmp_path / "answers.jsonl"
    if cut:
        path.write_bytes(path.read_bytes()[:-cut])
        with open_store(settings) as store:
            assert len(store.records) == 19
            assert "half-written" in store.notes[0]
    counts = []
    found = run(model, processor, settings, report=lambda done, total: counts.append(total))
    assert counts[-1] == 17 * len(ALL) - 20 + bool(cut)
    assert untimed(found) == untimed(finished[1])
    assert answers(tmp_path) == answers(finished[0])


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"seed": 1}, "seed 0 there, 1 now"),
        ({"control": "swapped"}, "control 'none' there"),
        ({"dtype": "bfloat16"}, "dtype 'float32' there"),
        ({"model": "other"}, "model 'embedded' there"),
        ({"suite": SPLIT}, "suite "),
        (
            {"configurations": (Configuration("random", Random(retain=12, positions="renumber")),)},
            "random@12 Random",
        ),
    ],
)
def test_another_evaluation_is_not_continued(finished, suite, change, part):
    settings = replace(make(suite, finished[0]), **change)
    with pytest.raises(InputError, match="holds another evaluation") as error:
        open_store(settings)
    assert part in str(error.value)
    assert "--out" in str(error.value)


def test_answers_of_nobody_are_not_continued(suite, tmp_path):
    (tmp_path / "answers.jsonl").write_text("")
    with pytest.raises(InputError, match="holds answers without"):
        open_store(make(suite, tmp_path))


@pytest.mark.parametrize("template", [tiny_processor.TEMPLATE, TURNS])
def test_a_second_turn_continues_on_the_cache(model, suite, template):
    processor = tiny_processor.processor(template)
    question = next(q for q in load_suite(suite) if q.family == "two-turn")
    examiner = Examiner(model, processor, 3)
    prompt = examiner.build_prompt(
        Case(question, question), load_images(question, suite), find_evidence=True
    )
    row = examiner.ask(prompt, DENSE, None)
    first = model.generate(**prompt.inputs, max_new_tokens=3, do_sample=False)
    more = processor.tokenizer(f"{question.turns[1].question} ASSISTANT :", return_tensors="pt")[
        "input_ids"
    ]
    ids = torch.cat([first, more], dim=1)
    whole = {**prompt.inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
    second = model.generate(**whole, max_new_tokens=3, do_sample=False)
    assert row.answers[0] == processor.decode(first[0, prompt.inputs["input_ids"].shape[1] :])
    assert row.answers[1] == processor.decode(second[0, ids.shape[1] :])


def test_refusals_are_kept_apart(model, processor, suite, tmp_path):
    tight = Configuration("sparsevlm", SparseVLM(retain=2))
    found = run(model, processor, make(suite, tmp_path, (DENSE, tight), families=("place",)))
    row = found["configurations"][1]
    assert "cannot be met" in row["refused"]["place"]
    assert row["overall"] is row["cost"] is row["evidence"] is None
    with pytest.raises(BudgetError, match="cannot be met"):
        run(model, processor, make(suite, tmp_path / "alone", (tight,), families=("place",)))


def test_without_images(model, processor, suite, tmp_path):
    found = run(model, processor, make(suite, tmp_path, (DENSE,), control="question-only"))
    assert {row["visual_tokens"] for row in answers(tmp_path)} == {0}
    assert found["configurations"][0]["evidence"] is None


def test_weights_change_and_tables_stay():
    cast = cast_weights(tiny.tiny_llava(dtype=torch.float32), torch.bfloat16)
    assert cast.dtype == torch.bfloat16
    assert {buffer.dtype for name, buffer in cast.named_buffers() if "inv_freq" in name} == {
        torch.float32
    }
    with pytest.raises(SettingError, match="the model is in bfloat16"):
        run(cast, None, Settings())


def call(*words):
    return CliRunner().invoke(app, ["eval", *[str(word) for word in words]])


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--suite", "nowhere"], "suite 'nowhere' is not known"),
        (["--methods", "magic"], "method 'magic' is not known"),
        (["--methods", "dense,dense"], "'dense' is given twice"),
        (["--methods", "random,Random"], "given twice"),
        (["--methods", ","], "no --methods is given"),
        (["--retain", "192,192"], "'192' is given twice"),
        (["--retain", "0"], "retain=0"),
        (["--retain", "many", "--methods", "dense"], "is no number"),
        (["--families", "gossip"], "family='gossip'"),
        (["--control", "blind"], "control='blind'"),
        (["--dtype", "int4"], "dtype='int4'"),
        (["--limit", "0"], "limit=0"),
        (["--control", "question-only", "--methods", "dense,random"], "dense alone"),
    ],
)
def test_refuses_before_loading(words, part, tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSIGHT_CACHE", str(tmp_path))  # where no model is
    result = call(*words, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert part in result.stderr
    assert not (tmp_path / "out").exists()


def test_refuses_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    result = call("--out", tmp_path / "file" / "below")
    assert result.exit_code == 2
    assert "cannot be written" in result.stderr


def test_the_command_reports_and_continues(folder, suite, tmp_path, monkeypatch):
    words = [
        "--suite",
        suite,
        "--model",
        folder,
        "--methods",
        "dense,sparsevlm,random",
        "--retain",
        "14",
        "--limit",
        1,
    ]
    words += ["--families", "place,two-turn", "--out", tmp_path]
    plain, calls = Examiner.ask, []

    def ask(*args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return plain(*args)

    monkeypatch.setattr(Examiner, "ask", ask)
    stopped = call(*words)
    assert stopped.exit_code == 130
    assert "stopped; 2 answers are kept" in stopped.stderr
    shown = call(*words)
    assert shown.exit_code == 0, shown.output
    assert len(calls) == 7
    for part in ("sparsevlm@14", "two-turn", "retention", "95 % interval"):
        assert part in shown.stdout
    document = call(*words, "--json")
    assert document.stdout.count("\n") == 1
    assert json.loads(document.stdout) == json.loads((tmp_path / "results.json").read_text())
    assert len(calls) == 7


def test_images_may_be_missing(tmp_path, suite):
    shutil.copytree(suite, tmp_path / "suite")
    name = next((tmp_path / "suite" / "images").iterdir())
    name.unlink()
    result = call("--suite", tmp_path / "suite", "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert name.name in result.stderr


def test_images_are_encoded_once_for_all_configurations(
    model, processor, suite, finished, tmp_path
):
    calls, encode = [], model.model.get_image_features

    @functools.wraps(encode)  # generate() reads the signature
    def count(*args, **kwargs):
        calls.append(1)
        return encode(*args, **kwargs)

    by_encoder = (Configuration("hiprune", HiPrune(retain=12)),)
    settings = make(suite, tmp_path, (*ALL, *by_encoder), families=("place",), share_encoding=True)
    model.model.get_image_features = count
    try:
        found = run(model, processor, settings)
    finally:
        del model.model.get_image_features
    questions = found["suite"]["questions"]
    # once more for what HiPrune reads, and once to count a still image's tokens at the most
    assert 2 * questions <= len(calls) <= 2 * questions + 1
    assert {row["cost"]["seconds_median"] for row in found["configurations"]} == {None}
    apart = {row["configuration"] + row["question"]: row for row in answers(finished[0])}
    own = {row["configuration"] + row["question"]: row for row in answers(tmp_path)}
    assert {key: row for key, row in own.items() if "hiprune" not in key}.items() <= apart.items()
    with pytest.raises(InputError, match="share_encoding True there, False now"):
        open_store(replace(settings, share_encoding=False))
