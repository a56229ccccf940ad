"""Requests become answers: in order, in batches, pruned as by sparsify, and never made up."""

import pytest
import torch

from sparsight import SparseVLM, sparsify
from sparsight.errors import BudgetError, InputError, SettingError, UnsupportedError
from sparsight.inputs import prompt_inputs
from sparsight.methods import default_method
from tests.support import lmms, tiny

TEXTS = ["what color is the shape ?", "what is the color ?", "is the shape ?"]
ROWS = [lmms.messages(text, lmms.picture(90 + 40 * at)) for at, text in enumerate(TEXTS)]
TWO = lmms.messages("what is the shape ?", lmms.picture(10), lmms.picture(200))
WORDS = lmms.messages("what is the color ?")
SPARSE = {"method": "sparsevlm", "retain": 12}


def answer_alone(pair, rows, method=None, length=6):
    """Answers of one prompt after the other, by the model itself."""
    model, processor = pair
    texts = []
    for row in rows:
        turns = lmms.ChatMessages(row).to_hf_messages()
        inputs = prompt_inputs(model, processor, turns)
        with torch.inference_mode():
            if method is None:
                output = model.generate(**inputs, max_new_tokens=length, do_sample=False)
            else:
                with sparsify(model, method):
                    output = model.generate(**inputs, max_new_tokens=length, do_sample=False)
        start = inputs["input_ids"].shape[1]
        texts.append(processor.decode(output[0, start:], skip_special_tokens=True))
    return texts


def ask(model, rows, asked=None):
    return model.generate_until(lmms.requests(model, rows, asked))


def texts_of(results):
    return [result.text for result in results]


@pytest.fixture
def calls(build, monkeypatch):
    """Arguments of every generate() of the tiny model."""
    model = build.pair[0]
    plain, seen = model.generate, []

    def generate(**given):
        seen.append(given)
        return plain(**given)

    monkeypatch.setattr(model, "generate", generate)
    return seen


@pytest.mark.parametrize("batch", [1, 3])
def test_dense_answers_are_those_of_the_model(build, batch):
    model = build(method="dense", batch_size=batch)
    rows = [*ROWS, TWO, WORDS]
    assert texts_of(ask(model, rows)) == answer_alone(build.pair, rows)


@pytest.mark.parametrize("batch", ["1", "3"])
def test_pruned_answers_are_those_of_sparsify(build, batch):
    model = build(**SPARSE, batch_size=batch)
    rows = [*ROWS, TWO, WORDS]
    expected = answer_alone(build.pair, rows, SparseVLM(retain=12))
    assert texts_of(ask(model, rows)) == expected
    assert expected != answer_alone(build.pair, rows)  # or pruning could be left out unseen


def test_the_model_is_whole_again_behind_a_call(build):
    model = build(**SPARSE)
    before = answer_alone(build.pair, ROWS)
    ask(model, ROWS)
    assert answer_alone(build.pair, ROWS) == before


def test_method_settings_are_those_of_the_command_line(build):
    model = build(method="sparsevlm:sites=1/3:recycle=false", retain=0.5)
    method = SparseVLM(retain=0.5, sites=(1, 3), recycle=False)
    assert texts_of(ask(model, ROWS)) == answer_alone(build.pair, ROWS, method)


def test_the_default_is_the_recommended_method(build):
    assert build()._arguments.method == default_method(192)


def test_batches_are_of_equal_options_and_padded_left(build, calls):
    model = build(method="dense", batch_size=4)
    short = lmms.GREEDY | {"max_new_tokens": 2}
    asked = [lmms.GREEDY, short, lmms.GREEDY, short]
    results = ask(model, [*ROWS, TWO], asked)
    assert [call["max_new_tokens"] for call in calls] == [6, 2]
    assert [call["input_ids"].shape[0] for call in calls] == [2, 2]
    for call in calls:
        assert (call["attention_mask"][:, -1] == 1).all()
    assert (calls[1]["attention_mask"][0] == 0).any()
    assert [result.token_counts.output_tokens for result in results] == [6, 2, 6, 2]
    expected = answer_alone(build.pair, [ROWS[0], ROWS[2]])
    assert [results[0].text, results[2].text] == expected
    assert [results[1].text, results[3].text] == answer_alone(build.pair, [ROWS[1], TWO], length=2)


def test_an_answer_ends_in_front_of_a_stop_text(build, calls):
    words = answer_alone(build.pair, ROWS)[0].split()
    model = build(method="dense", batch_size=3)
    stops = lmms.GREEDY | {"until": [words[2]]}
    results = ask(model, ROWS, stops)
    assert results[0].text == " ".join(words[: words.index(words[2])])
    whole = answer_alone(build.pair, ROWS)
    assert texts_of(results) == [text.split(words[2])[0].strip() for text in whole]


def test_generating_stops_when_all_rows_have_ended(build):
    words = answer_alone(build.pair, ROWS[:1])[0].split()
    model = build(method="dense")
    many = {"max_new_tokens": 60, "until": words[1]}
    assert ask(model, ROWS[:1], many)[0].token_counts.output_tokens == 2


def test_how_answers_ended_is_counted(build, logged):
    model, processor = build.pair
    rows = [*ROWS, TWO]
    whole = answer_alone(build.pair, rows)
    words = whole[0].split()
    end = processor.tokenizer.convert_tokens_to_ids(whole[1].split()[1])
    model.generation_config.eos_token_id = end
    ask(build(method="dense", batch_size=4), rows, lmms.GREEDY | {"until": [words[2]]})
    ended = sum(whole[1].split()[1] in text.split()[:6] for text in whole)
    stopped = sum(words[2] in text.split(whole[1].split()[1])[0] for text in whole)
    table = logged[0]["additional_metrics"]
    assert table["share_stopped"] == stopped / 4 > 0
    assert table["share_unfinished"] == 1 - (stopped + ended) / 4


def test_costs_go_into_the_table_of_throughput(build, logged):
    model = build(**SPARSE, batch_size=2)
    ask(model, [*ROWS, TWO, WORDS])
    table = logged[0]["additional_metrics"]
    assert table["num_requests"] == 5
    assert table["visual_tokens"] == tiny.VISUAL * 5 / 4  # of the four questions with images
    assert table["visual_tokens_entering"] == pytest.approx(12, abs=0.5)
    assert 0 < table["prefill_flops_share"] < 0.8
    assert logged[0]["total_gen_tokens"] == 30
    assert logged[0]["total_elapsed_time"] > 0


def test_costs_are_those_of_one_call(build, logged):
    model = build(**SPARSE)
    ask(model, ROWS)
    ask(model, ROWS[:1])
    assert [row["total_gen_tokens"] for row in logged] == [18, 6]


def test_dense_costs(build, logged):
    ask(build(method="dense"), [*ROWS, WORDS])
    table = logged[0]["additional_metrics"]
    assert table["visual_tokens"] == table["visual_tokens_entering"] == tiny.VISUAL
    assert table["prefill_flops_share"] == 1


def test_no_image_at_all_costs_no_visual_token(build, logged):
    ask(build(**SPARSE), [WORDS])
    counts = {"num_requests", "share_stopped", "share_unfinished"}
    assert set(logged[0]["additional_metrics"]) == counts


def test_answers_go_to_the_cache_of_lmms_eval(build):
    model = build(method="dense")
    results = ask(model, ROWS)
    kept = [("generate_until", (f"question {at}", lmms.GREEDY)) for at in range(3)]
    assert [entry[:2] for entry in model.cache_hook.kept] == kept
    assert [entry[2] for entry in model.cache_hook.kept] == texts_of(results)


def test_an_option_that_is_not_known_is_refused_before_anything_runs(build, calls):
    model = build(method="dense")
    odd = lmms.GREEDY | {"contrast": 1}
    with pytest.raises(SettingError, match="contrast"):
        ask(model, ROWS, [lmms.GREEDY, lmms.GREEDY, odd])
    assert not calls


def test_what_is_ignored_is_said_once(build, modules):
    model = build(method="dense")
    ask(model, ROWS, lmms.GREEDY | {"image_aspect_ratio": "pad", "temperature": 0.2})
    notes = modules["loguru"].logger.warnings
    assert len(notes) == 2
    assert "image_aspect_ratio='pad' belongs to other models" in notes[1]
    assert "temperature=0.2" in notes[0]


def test_a_refusal_is_no_answer(build):
    model = build(method="dense")
    bad = lmms.messages("what is <image> ?", lmms.picture())
    with pytest.raises(InputError, match="stands for an image"):
        ask(model, [ROWS[0], bad])


def test_an_error_of_generate_is_no_answer(build, monkeypatch):
    model = build(method="dense")

    def fail(**_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(build.pair[0], "generate", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        ask(model, ROWS)


def test_a_method_that_does_not_fit_is_refused_before_questions(build):
    with pytest.raises(UnsupportedError, match="EVS is not supported for llava"):
        build(method="evs", retain=0.5)
    with pytest.raises(BudgetError):
        build(method="sparsevlm", retain=0)


def test_other_kinds_of_requests_are_refused(build):
    model = build(method="dense")
    simple = lmms.Instance(("text", dict(lmms.GREEDY), print, 0, lmms.TASK, "test"))
    with pytest.raises(UnsupportedError, match="--force_simple"):
        model.generate_until([simple])
    with pytest.raises(UnsupportedError, match="likelihood"):
        model.loglikelihood([simple])
    with pytest.raises(UnsupportedError, match="rounds"):
        model.generate_until_multi_round([simple])


def test_the_model_is_let_go(build):
    model = build(method="dense")
    requests = lmms.requests(model, ROWS)
    model.clean()
    assert model.cleaned
    assert not any(isinstance(value, torch.nn.Module) for value in vars(model).values())
    assert model._answerer is None
    with pytest.raises(UnsupportedError, match="cleaned up"):
        model.generate_until(requests)


def test_ranks_come_from_the_environment(build, monkeypatch):
    for name, value in {"RANK": "2", "LOCAL_RANK": "1", "WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    model = build(method="dense")
    assert (model.rank, model.world_size) == (2, 4)
    assert model.device == torch.device("cpu")


def test_dtype_attention_and_batch_reach_the_model(build):
    model = build(method="dense", dtype="bfloat16", attn_implementation="eager", batch_size=2)
    assert build.pair[0].dtype == torch.bfloat16
    assert build.pair[0].config._attn_implementation == "eager"
    assert model.batch_size == 2


def test_settings_without_effect_are_refused(build):
    build(method="dense", do_pad=True)
    with pytest.raises(SettingError, match="num_frames=8 has no effect"):
        build(method="dense", num_frames=8)


def test_batches_need_padding(build):
    build.pair[1].tokenizer.pad_token = None
    with pytest.raises(SettingError, match="--batch_size 1"):
        build(method="dense", batch_size=2)
