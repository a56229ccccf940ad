"""Batches of rows with a tiny model: equal to one by one; what fails stays alone."""

import warnings

import pytest
import torch
from PIL import Image

from sparsight.errors import SettingError
from sparsight.inputs import prompt_inputs, read_image, user_message
from sparsight.methods import DivPrune, Random, SparseVLM
from sparsight.serve.batch.answering import Answerer, is_short_of_memory
from sparsight.serve.batch.rows import read_inputs
from sparsight.serve.batch.runner import choose_sample, compare
from sparsight.sparsify import sparsify
from tests.support import jobs, tiny, tiny_processor

LENGTH = 5


@pytest.fixture(scope="module")
def pair():
    return tiny.tiny_llava(dtype=torch.float32), tiny_processor.processor()


@pytest.fixture
def rows(tmp_path):
    for number in range(1, 7):
        jobs.draw(tmp_path / f"{number}.png", number * 20, (30 + number, 40))
    words = jobs.QUESTION.split()
    return [jobs.make_row(n, question=" ".join(words[n % 3 :])) for n in range(1, 7)]


def build(pair, folder, method=None, **changes):
    return Answerer(*pair, method, base=folder, **{"length": LENGTH, **changes})


def ask_alone(pair, folder, row, method):
    model, processor = pair
    images = [read_image(folder / name) for name in row.images]
    inputs = prompt_inputs(model, processor, [user_message(row.question, images)])
    with sparsify(model, method) as run:
        tokens = model.generate(**inputs, max_new_tokens=LENGTH, do_sample=False)
    new = tokens[0, inputs["input_ids"].shape[1] :]
    return processor.decode(new, skip_special_tokens=True).strip(), run.stats


@pytest.mark.parametrize("method", [SparseVLM(retain=12), DivPrune(retain=9)])
def test_a_batch_answers_as_one_by_one(pair, rows, tmp_path, method):
    rows[3] = jobs.make_row(4, images=("4.png", "5.png"))
    records = build(pair, tmp_path, method).answer(rows)
    assert sorted(record.row for record in records) == [1, 2, 3, 4, 5, 6]
    for record in records:
        answer, stats = ask_alone(pair, tmp_path, rows[record.row - 1], method)
        assert (record.answer, record.error) == (answer, None)
        assert record.visual_tokens == stats.visual_tokens[0] == 36 * len(record.images)
        assert record.visual_tokens_entering == round(stats.mean_visual_tokens, 4)
        share = stats.prefill_flops / stats.dense_prefill_flops
        assert record.prefill_flops_share == round(share, 6) < 1


def test_odd_names_in_a_folder_are_answered(pair, tmp_path):
    for name in ("~photo.png", "file:x.png", "ab:/z.png"):
        jobs.draw(tmp_path / name)
    inputs = read_inputs(tmp_path, jobs.QUESTION)
    records = build(pair, inputs.base).answer(inputs.rows)
    assert [(len(records), record.error) for record in records] == [(3, None)] * 3


def test_dense(pair, rows, tmp_path):
    (record,) = build(pair, tmp_path).answer(rows[:1])
    assert record.visual_tokens_entering == 36
    assert record.prefill_flops_share == 1


def test_broken_rows_do_not_touch_the_others(pair, rows, tmp_path):
    (tmp_path / "1.png").write_bytes(b"no image")
    (tmp_path / "2.png").unlink()
    Image.new("L", (9000, 9000)).save(tmp_path / "3.png")  # few bytes, and too many pixels
    rows[3] = jobs.make_row(4, fault="it is broken.")
    rows[4] = jobs.make_row(5, question="what is <image> ?")
    records = {record.row: record for record in build(pair, tmp_path).answer(rows)}
    errors = [records[number].error for number in range(1, 7)]
    parts = ["cannot be read", "no such file", "too large", "it is broken", "stands for an image"]
    for error, part in zip(errors, parts, strict=False):
        assert part in error
    assert errors[5] is None
    assert records[6].answer


def test_a_part_that_is_ignored_becomes_a_note(pair, rows, tmp_path):
    frames = [Image.new("RGB", (30, 30), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "1.gif", save_all=True, append_images=frames[1:])
    rows[0] = jobs.make_row(1, images=("1.gif",))
    noted, other = build(pair, tmp_path).answer(rows[:2])
    assert "only the first is shown" in noted.note
    assert (noted.error, other.note) == (None, None)


def test_a_row_of_too_many_pixels(pair, rows, tmp_path, monkeypatch):
    monkeypatch.setattr("sparsight.serve.batch.answering.MOST_ROW_PIXELS", 2_000_000)
    jobs.draw(tmp_path / "large.png", size=(1000, 900))
    some = jobs.make_row(1, images=("large.png", "large.png"))
    more = jobs.make_row(2, images=("large.png",) * 3)
    records = {one.row: one for one in build(pair, tmp_path).answer([some, more])}
    assert records[1].error is None
    assert "more than 2 million pixels" in records[2].error


class Limited:
    """Stands for a model whose memory holds a few rows, and which cannot stand one image.

    Args:
        model: that answers.
        most: rows of a batch; more are too many for the memory.
        error: that is raised then.
    """

    def __init__(self, model, most, error):
        self.generate_with = model.generate
        self.most = most
        self.error = error
        self.sizes = []

    def __call__(self, **inputs):
        size = len(inputs["input_ids"])
        self.sizes.append(size)
        if size > self.most:
            raise self.error
        return self.generate_with(**inputs)


SHORT = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory"),
    MemoryError(),
]


@pytest.mark.parametrize("error", SHORT, ids=lambda error: type(error).__name__)
def test_a_batch_too_large_is_halved(pair, rows, tmp_path, monkeypatch, error):
    limited = Limited(pair[0], 2, error)
    monkeypatch.setattr(pair[0], "generate", limited)
    answerer = build(pair, tmp_path, Random(retain=8))
    records = answerer.answer(rows[:5])
    assert sorted(record.row for record in records) == [1, 2, 3, 4, 5]
    assert {record.error for record in records} == {None}
    assert limited.sizes == [5, 2, 3, 1, 2]
    assert answerer.halved == 2


def test_a_row_too_large_alone_is_an_error(pair, rows, tmp_path, monkeypatch):
    monkeypatch.setattr(pair[0], "generate", Limited(pair[0], 0, SHORT[0]))
    records = build(pair, tmp_path).answer(rows[:2])
    assert all("the row alone needs more memory" in record.error for record in records)


def test_whatever_a_model_raises_is_the_error_of_its_row(pair, rows, tmp_path, monkeypatch):
    model, _ = pair
    original = model.generate
    shade = rows[2].images[0]
    bad = prompt_inputs(*pair, [user_message("what", [read_image(tmp_path / shade)])])

    def generate(**inputs):
        pixels = inputs["pixel_values"]
        if any(torch.equal(one, bad["pixel_values"][0]) for one in pixels):
            raise ZeroDivisionError("by chance")
        return original(**inputs)

    monkeypatch.setattr(model, "generate", generate)
    answerer = build(pair, tmp_path)
    records = answerer.answer(rows)
    errors = {record.row: record.error for record in records if record.error}
    assert errors == {3: "unexpected ZeroDivisionError: by chance."}
    assert answerer.halved == 0


def test_a_broken_device_ends_the_job(pair, rows, tmp_path, monkeypatch):
    broken = torch.AcceleratorError("CUDA error: device-side assert triggered")
    monkeypatch.setattr(pair[0], "generate", Limited(pair[0], 0, broken))
    with pytest.raises(torch.AcceleratorError):
        build(pair, tmp_path).answer(rows)
    assert not is_short_of_memory(broken)


def test_a_method_that_does_not_fit_is_refused_before_any_row(pair, tmp_path):
    with pytest.raises(SettingError, match="20"):
        build(pair, tmp_path, SparseVLM(retain=8, sites=(2, 20)))


def test_an_answer_that_would_leave_the_positions(pair, rows, tmp_path):
    (record,) = build(pair, tmp_path, length=500).answer(rows[:1])
    assert "has positions for 512" in record.error


def test_other_warnings_pass(pair, rows, tmp_path, monkeypatch):
    def warn(*_):
        warnings.warn("old", FutureWarning, stacklevel=1)
        return [Image.new("RGB", (30, 30))]

    monkeypatch.setattr("sparsight.serve.batch.answering.open_media", warn)
    with pytest.warns(FutureWarning, match="old"):
        (record,) = build(pair, tmp_path).answer(rows[:1])
    assert record.note is None


def test_a_check_compares_the_same_rows(pair, rows, tmp_path):
    table = jobs.make_table(tmp_path / "in", 7)
    inputs = read_inputs(table, None)
    (tmp_path / "in" / "3.png").unlink()
    same = build(pair, inputs.base, SparseVLM(retain=1.0))
    agreement = compare(same.without_pruning(), same, inputs, 5, 2)
    assert [row.id for row in choose_sample(inputs.rows, 5)] == ["r0", "r2", "r3", "r4", "r6"]
    assert (agreement.rows, agreement.agree, agreement.failed) == (4, 4, 1)
    assert agreement.time_ratio > 0
    other = build(pair, inputs.base, Random(retain=1))
    agreement = compare(other.without_pruning(), other, inputs, 20, 4)
    assert agreement.rows == 6
    assert agreement.agree + len(agreement.differing) == 6
    assert agreement.differing
