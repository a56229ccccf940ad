"""The output on the disk: continued after a kill at any step, and never another job's."""

import errno
import json
import os

import pytest

from sparsight.errors import InputError
from sparsight.serve.batch.record import fail, read_record, succeed
from sparsight.serve.batch.rows import read_inputs
from sparsight.serve.batch.store import Store
from tests.support import jobs

WHAT = {"model": "tiny", "method": "none"}


@pytest.fixture
def table(tmp_path):
    return jobs.make_table(tmp_path / "in", 5)


def ids(out):
    return sorted(record["id"] for record in jobs.read_output(out))


ALL = [f"r{number}" for number in range(5)]


def test_a_kill_at_every_step(table, tmp_path):
    killed = 0
    while True:
        out = tmp_path / f"{killed}.jsonl"
        if not jobs.run_in_child(lambda out=out: jobs.work(table, out, WHAT), killed + 1):
            break
        killed += 1
        jobs.work(table, out, WHAT)
        assert ids(out) == ALL
    # five rows in batches of two are three writes, and each is followed by one fsync at least
    assert killed > 8
    assert ids(out) == ALL


def test_many_kills_of_one_job(tmp_path):
    table = jobs.make_table(tmp_path / "in", 16)
    out = tmp_path / "out.jsonl"
    kills = sum(jobs.run_in_child(lambda: jobs.work(table, out, WHAT), 6) for _ in range(8))
    assert kills >= 3
    jobs.work(table, out, WHAT)
    assert ids(out) == sorted(f"r{number}" for number in range(16))


def test_a_job_continues_whose_broken_rows_have_ids_of_their_own(tmp_path):
    table = jobs.make_table(tmp_path / "in", 1)
    table.write_text("{broken\n" + table.read_text().replace("r0", "1"))
    out = tmp_path / "out.jsonl"
    assert jobs.run_in_child(lambda: jobs.work(table, out, WHAT), 8)
    assert jobs.work(table, out, WHAT).finished
    assert ids(out) == ["1", "row 1"]
    assert jobs.work(table, out, WHAT).finished


def test_a_finished_job_is_left_alone(table, tmp_path):
    out = tmp_path / "out.jsonl"
    jobs.work(table, out, WHAT)
    before = out.read_bytes()
    store = jobs.work(table, out, WHAT)
    assert store.finished
    assert store.totals.rows == 5
    assert store.totals.visual_tokens == 45
    assert store.totals.visual_tokens_entering == 15
    assert out.read_bytes() == before


@pytest.mark.parametrize("cut", [1, 30])
def test_a_half_written_line_is_cut_off(table, tmp_path, cut):
    out = tmp_path / "out.jsonl"
    jobs.work(table, out, WHAT)
    os.truncate(out, out.stat().st_size - cut)
    store = jobs.work(table, out, WHAT)
    assert "half-written" in store.notes[0]
    assert ids(out) == ALL


def test_another_job_is_refused_by_name(table, tmp_path):
    out = tmp_path / "out.jsonl"
    jobs.work(table, out, WHAT)
    before = out.read_bytes()
    with pytest.raises(InputError, match="model 'tiny' there, 'other' now"):
        jobs.work(table, out, {**WHAT, "model": "other"})
    assert out.read_bytes() == before


def test_a_job_without_a_row_may_become_another_one(table, tmp_path):
    out = tmp_path / "out.jsonl"
    rows = read_inputs(table, None).rows
    Store(out, rows, {**WHAT, "model": "mistyped"}).close()
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    # a kill leaves the files
    assert jobs.run_in_child(lambda: Store(out, rows, {**WHAT, "model": "mistyped"}).close(), 6)
    assert len(list(tmp_path.iterdir())) == 3
    jobs.work(table, out, WHAT)
    assert ids(out) == ALL


def test_an_unrelated_file_is_never_overwritten(table, tmp_path):
    out = tmp_path / "out.jsonl"
    out.write_text("mine\n")
    with pytest.raises(InputError, match="it would be overwritten"):
        jobs.work(table, out, WHAT)
    assert out.read_text() == "mine\n"
    with pytest.raises(InputError, match="it would be overwritten"):
        jobs.work(table, table, WHAT)


def test_an_unrelated_description_is_never_overwritten(table, tmp_path):
    side = tmp_path / "out.jsonl.run.json"
    for text, part in [('{"mine": 1}', "describes no job"), ("mine", "damaged")]:
        side.write_text(text)
        with pytest.raises(InputError, match=part):
            jobs.work(table, tmp_path / "out.jsonl", WHAT)
        assert side.read_text() == text


@pytest.mark.parametrize("holds_rows", [True, False])
def test_a_description_of_another_version_is_named(table, tmp_path, holds_rows):
    out, side = tmp_path / "out.jsonl", tmp_path / "out.jsonl.run.json"
    if holds_rows:
        jobs.work(table, out, WHAT)
    rows = out.read_bytes() if holds_rows else b""
    now = {**WHAT, "model_files": "abc"}
    side.write_text(json.dumps(WHAT))
    with pytest.raises(InputError, match="has no model_files: another version wrote it"):
        jobs.work(table, out, now)
    side.write_text(json.dumps({**now, "colour": "red"}))
    with pytest.raises(InputError, match="has colour, which this version does not know"):
        jobs.work(table, out, now)
    assert (out.read_bytes() if out.exists() else b"") == rows


DAMAGES = {
    "no JSON": lambda lines: [*lines[:2], "{}}", *lines[3:]],
    "other fields": lambda lines: [*lines[:2], "{}", *lines[3:]],
    "stands there twice": lambda lines: [*lines, lines[0]],
    "has another id": lambda lines: [lines[0].replace('"r0"', '"r1"'), *lines[1:]],
    "error is of type int": lambda lines: [lines[0].replace('"error": null', '"error": 1')],
}


@pytest.mark.parametrize("part", DAMAGES)
def test_a_damaged_line_is_refused_with_its_number(table, tmp_path, part):
    out = tmp_path / "out.jsonl"
    jobs.work(table, out, WHAT)
    lines = DAMAGES[part](out.read_text().splitlines())
    out.write_text("\n".join(lines) + "\n")
    said = r"line \d is damaged" if part == "no JSON" else rf"line \d is damaged \(.*{part}"
    with pytest.raises(InputError, match=said):
        jobs.work(table, out, WHAT)


def test_two_runs_at_once_are_refused(table, tmp_path):
    pytest.importorskip("fcntl", reason="this system has no locks on files")
    out = tmp_path / "out.jsonl"
    rows = read_inputs(table, None).rows
    with Store(out, rows, WHAT), pytest.raises(InputError, match="being written by another run"):
        Store(out, rows, WHAT)
    jobs.work(table, out, WHAT)


def test_a_row_that_comes_twice_is_written_once(table, tmp_path):
    rows = read_inputs(table, None).rows
    with Store(tmp_path / "out.jsonl", rows, WHAT) as store:
        store.add(jobs.answer(rows[:2]))
        store.add(jobs.answer(rows[1:3]))
    assert ids(tmp_path / "out.jsonl") == ALL[:3]


def test_a_folder_that_is_not_there_or_closed(table, tmp_path):
    with pytest.raises(InputError, match="cannot be written"):
        jobs.work(table, tmp_path / "nowhere" / "out.jsonl", WHAT)


def test_any_text_comes_back_from_a_line():
    row = jobs.make_row(1, question='a\u2028b\n"c"', images=("x\udc80.png", "ü.png"))
    for record in (fail(row, "\ud800 broken"), succeed(row, answer="é\u2029")):
        line = record.to_line()
        line.encode("utf-8")
        assert line.count("\n") == 1
        assert read_record(line) == record
    assert json.loads(line)["images"] == ["x\\udc80.png", "ü.png"]


# ---- Parquet


def put_folder(path):
    """Put a folder where a file is to be written."""
    (path / "within").mkdir(parents=True)


REFUSED = {
    "damaged": (".run.json", lambda path: path.write_text("{")),
    "of no job": (".run.json", lambda path: path.write_text("[]")),
    "of another version": (".run.json", lambda path: path.write_text('{"model": "tiny"}')),
    "a folder": (".run.json", put_folder),
    "not to be written": (".run.json.new", put_folder),
}


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("name", ["out.jsonl", "out.parquet"])
def test_a_refused_description_leaves_no_output(table, tmp_path, name, kind):
    ending, spoil = REFUSED[kind]
    place = tmp_path / "place"
    place.mkdir()
    out = place / name
    spoil(out.with_name(name + ending))
    before = sorted(place.rglob("*"))
    with pytest.raises(InputError):
        jobs.work(table, out, WHAT)
    assert sorted(place.rglob("*")) == before


def test_an_empty_output_that_was_there_is_left_there(table, tmp_path):
    out = tmp_path / "out.jsonl"
    out.write_text("")
    out.with_name(out.name + ".run.json").write_text("{")
    with pytest.raises(InputError, match="is damaged"):
        jobs.work(table, out, WHAT)
    assert out.read_text() == ""


def test_a_full_disk_leaves_nothing(table, tmp_path, monkeypatch):
    place = tmp_path / "place"
    place.mkdir()

    def fill(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fill)
    with pytest.raises(InputError, match="No space left on device"):
        jobs.work(table, place / "out.jsonl", WHAT)
    assert not list(place.iterdir())


@pytest.fixture
def full_after(monkeypatch):
    """A disk that takes the description of a job, so many bytes of its rows, and no more."""
    plain = os.write

    def fill(size):
        left = [size]

        def write(file, data):
            if not left[0]:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            count = plain(file, bytes(data)[: left[0]])
            left[0] -= count
            return count

        monkeypatch.setattr(os, "write", write)

    return fill


def test_rows_that_a_full_disk_does_not_take_are_named_with_their_file(
    table, tmp_path, full_after, monkeypatch
):
    out = tmp_path / "out.jsonl"
    rows = read_inputs(table, None).rows
    with Store(out, rows, WHAT) as store:
        store.add(jobs.answer(rows[:2]))
        full_after(10)
        with pytest.raises(InputError, match=f"--out {out} cannot be written .No space left"):
            store.add(jobs.answer(rows[2:]))
    assert len(out.read_bytes().splitlines()) == 3
    monkeypatch.undo()
    jobs.work(table, out, WHAT)
    assert ids(out) == ALL


def test_what_another_run_wrote_under_the_name_is_not_removed(table, tmp_path):
    out = tmp_path / "out.jsonl"
    rows = read_inputs(table, None).rows
    with Store(out, rows, WHAT):
        out.unlink()
        jobs.work(table, out, WHAT)
    assert ids(out) == ALL
    assert out.with_name(out.name + ".run.json").exists()


def test_an_output_that_was_taken_away_is_closed_all_the_same(table, tmp_path):
    out = tmp_path / "out.jsonl"
    store = Store(out, read_inputs(table, None).rows, WHAT)
    out.unlink()
    store.close()
    assert not out.exists()


def test_a_link_that_leads_to_the_output_is_left_there(table, tmp_path):
    out = tmp_path / "out.jsonl"
    out.symlink_to(tmp_path / "elsewhere.jsonl")
    Store(out, read_inputs(table, None).rows, WHAT).close()
    assert out.is_symlink()
    jobs.work(table, out, WHAT)
    assert out.is_symlink()
    assert ids(tmp_path / "elsewhere.jsonl") == ALL


@pytest.fixture
def parquet():
    pytest.importorskip("pyarrow", reason="pyarrow is not installed: sparsight[parquet]")
    from pyarrow import parquet

    return parquet


def test_parquet_after_a_kill_at_every_step(table, tmp_path, parquet):
    killed = 0
    while True:
        out = tmp_path / f"{killed}.parquet"
        if not jobs.run_in_child(lambda out=out: jobs.work(table, out, WHAT), killed + 1):
            break
        killed += 1
        jobs.work(table, out, WHAT)
        assert parquet.read_table(out)["id"].to_pylist() == ALL
        assert not out.with_name(out.name + ".rows.jsonl").exists()
    assert killed > 10


def test_parquet_holds_what_the_lines_hold(table, tmp_path, parquet):
    jobs.work(table, tmp_path / "out.jsonl", WHAT)
    jobs.work(table, tmp_path / "out.parquet", WHAT)
    lines = sorted(jobs.read_output(tmp_path / "out.jsonl"), key=lambda record: record["row"])
    assert parquet.read_table(tmp_path / "out.parquet").to_pylist() == lines
    store = jobs.work(table, tmp_path / "out.parquet", WHAT)
    assert store.finished
    assert store.totals.rows == 5


def test_an_unrelated_parquet_file_is_never_overwritten(table, tmp_path, parquet):
    import pyarrow

    out = tmp_path / "out.parquet"
    mine = pyarrow.table({"a": [1]})
    parquet.write_table(mine, out)
    for _ in range(2):  # without and with a description beside it
        with pytest.raises(InputError, match="it would be overwritten"):
            jobs.work(table, out, WHAT)
        assert parquet.read_table(out) == mine
        out.with_name(out.name + ".run.json").write_text(json.dumps(WHAT))
    out.write_text("mine")
    with pytest.raises(InputError, match="no Parquet file"):
        jobs.work(table, out, WHAT)
    out.unlink()
    with Store(out, read_inputs(table, None).rows, WHAT) as store:
        store.add(jobs.answer(read_inputs(table, None).rows))
        parquet.write_table(mine, out)  # while the job runs
        with pytest.raises(InputError, match="it would be overwritten"):
            store.finish()
    assert parquet.read_table(out) == mine


def test_rows_left_of_a_parquet_file_are_named_when_they_are_refused(table, tmp_path, parquet):
    out = tmp_path / "out.parquet"
    left = tmp_path / "out.parquet.rows.jsonl"
    rows = read_inputs(table, None).rows
    with Store(out, rows, WHAT) as store:
        store.add(jobs.answer(rows[:2]))
    before = left.read_bytes()
    with pytest.raises(InputError, match=f"{left} holds answers of another job"):
        jobs.work(table, out, {**WHAT, "model": "other"})
    (tmp_path / "out.parquet.run.json").unlink()
    with pytest.raises(InputError, match=f"{left} exists and is no output of this job"):
        jobs.work(table, out, WHAT)
    assert left.read_bytes() == before
    assert not out.exists()


def test_a_parquet_file_that_a_full_disk_does_not_take_is_named(
    table, tmp_path, parquet, monkeypatch
):
    out = tmp_path / "out.parquet"

    def fill(path, *_):
        path.write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("sparsight.serve.batch.store.write_parquet", fill)
        with pytest.raises(InputError, match=f"{out}.new cannot be written .No space left"):
            jobs.work(table, out, WHAT)
    assert not out.with_name(out.name + ".new").exists()
    jobs.work(table, out, WHAT)
    assert parquet.read_table(out)["id"].to_pylist() == ALL
