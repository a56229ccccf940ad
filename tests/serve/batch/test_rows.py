"""Tables and folders of rows; a broken row has a fault, a broken table is refused."""

import itertools
import json
import os
from pathlib import Path

import pytest

from sparsight.errors import InputError
from sparsight.images import read_image
from sparsight.serve.batch.order import make_batches, measure
from sparsight.serve.batch.rows import hash_rows, locate, locate_images, read_inputs
from tests.support import jobs

Q = jobs.QUESTION


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_csv(tmp_path):
    text = '\ufeffid,image,question,price\na,x.png,"what, is it ?",1\n,"y;1.png",what ?,2\n'
    first, second = read_inputs(write(tmp_path / "in.csv", text), None).rows
    assert (first.id, first.images, first.question) == ("a", ("x.png",), "what, is it ?")
    assert (second.id, second.images, second.fault) == ("2", ("y;1.png",), None)


def test_csv_with_several_images_a_row_and_one_question(tmp_path):
    inputs = read_inputs(write(tmp_path / "in.csv", "images\nx.png; y.png\nz.png\n"), Q)
    assert [row.images for row in inputs.rows] == [("x.png", "y.png"), ("z.png",)]
    assert {row.question for row in inputs.rows} == {Q}


def test_a_data_url_in_the_column_images(tmp_path):
    def read(cell):
        path = write(tmp_path / "in.csv", f'id,images\na,"{cell}"\n')
        (row,) = read_inputs(path, Q).rows
        return row

    url = "data:image/png;base64,AA+/=="
    for cell in (url, f" {url} ; ", url.replace("data", "DATA"), "data:image/png;base64"):
        assert read(cell).images == (cell.strip(" ;"),)
        assert read(cell).fault is None
    for cell in (f"{url};{url}", f"x.png; {url}", f"{url};x.png", f"{url};data:,a"):
        row = read(cell)
        assert (row.id, row.images) == ("a", ())
        assert "the column images holds a data: URL and other images" in row.fault
        assert ".jsonl" in row.fault


def test_a_long_cell_and_the_limit_of_cells_afterwards(tmp_path):
    import csv

    before = csv.field_size_limit()
    name = "data:image/png;base64," + "A" * 300_000
    (row,) = read_inputs(write(tmp_path / "in.csv", f'image\n"{name}"\n'), Q).rows
    assert row.images == (name,)
    assert csv.field_size_limit() == before


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "has no head"),
        ("picture,question\nx.png,what ?\n", "needs one column image or images"),
        ("image,images,question\nx.png,,what ?\n", "needs one column image or images"),
        ("image,image,question\nx.png,y.png,what ?\n", "two columns image"),
        ("image,question\n", "holds no row"),
        ("id,image,question\na,x.png,what ?\na,y.png,what ?\n", "'a' stands in rows 1 and 2"),
    ],
)
def test_tables_that_are_refused(tmp_path, text, part):
    with pytest.raises(InputError, match=part):
        read_inputs(write(tmp_path / "in.csv", text), None)


@pytest.mark.parametrize(
    ("rows", "first", "line"),
    [
        ('a.png,"What is it?\nb.png,What color?\nc.png,Who?\n', 2, 4),  # never closed
        ('a.png,Why?\nb.png,"What is it?\nc.png,"What color?"\n', 3, 4),  # closed by another row
        ('a.png,Why?\nb.png,"he said "no" to it"\n', 3, 3),
    ],
)
def test_a_stray_quote_refuses_the_file(tmp_path, rows, first, line):
    path = write(tmp_path / "in.csv", "image,question\n" + rows)
    said = rf"begins in line {first} is no CSV \(line {line}: .*double each quote"
    with pytest.raises(InputError, match=said):
        read_inputs(path, None)


def test_quotes_that_are_csv(tmp_path):
    text = 'image,question\nx.png,"he said ""no""\nto it"\ny.png,a 5" screen\n'
    rows = read_inputs(write(tmp_path / "in.csv", text), None).rows
    assert [row.question for row in rows] == ['he said "no"\nto it', 'a 5" screen']


def test_files_that_are_refused(tmp_path):
    (tmp_path / "latin.csv").write_bytes(b"image,question\n\xe9.png,what ?\n")
    jobs.draw(tmp_path / "folder" / "x.png")
    write(tmp_path / "own.csv", f"image,question\nx.png,{Q}\n")
    write(tmp_path / "in.xlsx", "")
    os.mkfifo(tmp_path / "a.csv")
    for name, question, part in [
        ("no.csv", None, "no such file"),
        ("in.xlsx", None, "no known kind"),
        ("gone", Q, "gone: no such file or folder"),
        ("gone.xlsx", None, "no such file or folder"),
        ("x" * 300, None, "cannot be looked up"),
        ("a.csv", None, "no regular file"),
        ("latin.csv", None, "no text in UTF-8"),
        ("folder", None, "give one --question"),
        ("folder", " ", "--question is empty"),
        ("own.csv", Q, "row 1 has a question of its own"),
    ]:
        with pytest.raises(InputError, match=part):
            read_inputs(tmp_path / name, question)


BROKEN = [
    ({"image": "x.png"}, "no question"),
    ({"image": "x.png", "question": "  "}, "question is empty"),
    ({"image": "x.png", "question": 3}, "question is of type int"),
    ({"image": "x.png", "question": "\ud800"}, "no valid Unicode"),
    ({"question": Q}, "no image"),
    ({"image": "", "question": Q}, "no image"),
    ({"images": [], "question": Q}, "no image"),
    ({"image": 3, "question": Q}, "given by no text"),
    ({"images": ["x.png", None], "question": Q}, "given by no text"),
    ({"image": "x.png", "images": ["x.png"], "question": Q}, "image and images"),
    ({"id": {}, "image": "x.png", "question": Q}, "id is of type dict"),
    ({"id": True, "image": "x.png", "question": Q}, "id is of type bool"),
    ([1], "of type list"),
    (None, "of type NoneType"),
]


@pytest.mark.parametrize(("row", "fault"), BROKEN)
def test_a_broken_row_keeps_its_place(tmp_path, row, fault):
    sound = {"id": 7, "image": "x.png", "question": Q}
    first, second = read_inputs(jobs.write_jsonl(tmp_path / "in.jsonl", [row, sound]), None).rows
    assert fault in first.fault
    assert first.id == "1"
    first.question.encode("utf-8")
    assert (second.id, second.fault) == ("7", None)


def test_lines_that_are_no_json_or_no_csv(tmp_path):
    text = "{broken\n\n" + json.dumps({"image": "x.png", "question": Q}) + "\n" + "[" * 100_000
    rows = read_inputs(write(tmp_path / "in.jsonl", text), None).rows
    assert [row.fault is None for row in rows] == [False, True, False]
    assert "no JSON" in rows[0].fault
    rows = read_inputs(write(tmp_path / "in.csv", "image,question\nx.png\nx.png,q,3\n"), None).rows
    assert [row.fault.split(", ")[0] for row in rows] == [
        "the row has 1 cells",
        "the row has 3 cells",
    ]


def test_a_row_without_an_id_gets_one_that_is_free(tmp_path):
    sound = [{"id": name, "image": "x.png", "question": Q} for name in (2, "3", "row 3")]
    lines = [*map(json.dumps, sound[:1]), "{broken", '{"id": []}', *map(json.dumps, sound[1:]), "{"]
    path = write(tmp_path / "in.jsonl", "\n".join(lines))
    ids = [row.id for row in read_inputs(path, None).rows]
    assert ids == ["2", "row 2", "row 3 (2)", "3", "row 3", "6"]
    assert [row.id for row in read_inputs(path, None).rows] == ids
    text = "id,image,question\n2,x.png,what ?\nshort\n,y.png,what ?\n"
    rows = read_inputs(write(tmp_path / "in.csv", text), None).rows
    assert [row.id for row in rows] == ["2", "row 2", "3"]


def test_a_folder(tmp_path):
    for name in ("b/2.JPG", "a.png", ".hidden/x.png", ".x.png"):
        jobs.draw(tmp_path / name)
    write(tmp_path / "notes.txt", "mine")
    inputs = read_inputs(tmp_path, Q)
    assert [(row.id, row.images) for row in inputs.rows] == [
        ("a.png", ("a.png",)),
        ("b/2.JPG", ("b/2.JPG",)),
    ]
    assert inputs.notes[0].startswith("1 files of")


ODD = [
    "data:image/png,a.png",
    "file:x.png",
    "ab:/z.png",
    "https:/a.b/x.png",
    "~photo.png",
    "~/x.png",
]


def test_odd_names_in_a_folder_are_files_of_it(tmp_path, monkeypatch):
    for number, name in enumerate(ODD):
        jobs.draw(tmp_path / name, size=(20 + number, 10))
    monkeypatch.chdir(tmp_path)
    for folder in (tmp_path, Path()):
        inputs = read_inputs(folder, Q)
        assert sorted(row.id for row in inputs.rows) == sorted(ODD)
        for row in inputs.rows:
            (source,) = locate_images(row, inputs.base)
            assert read_image(source).width == 20 + ODD.index(row.id)
            assert measure(row, inputs.base)[2] == 20 + ODD.index(row.id)
    jobs.draw(tmp_path / ODD[1], size=(99, 99))
    assert read_inputs(tmp_path, Q).sha256 != inputs.sha256


def test_linked_folders_are_counted_and_left_out(tmp_path):
    jobs.draw(tmp_path / "in" / "a.png")
    jobs.draw(tmp_path / "other" / "b.png")
    (tmp_path / "in" / "deep").mkdir()
    (tmp_path / "in" / "more").symlink_to(tmp_path / "other")
    (tmp_path / "in" / ".hidden").symlink_to(tmp_path / "other")
    (tmp_path / "in" / "deep" / "loop").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "b.png").symlink_to(tmp_path / "other" / "b.png")
    inputs = read_inputs(tmp_path / "in", Q)
    assert [row.id for row in inputs.rows] == ["a.png", "b.png"]
    (note,) = inputs.notes
    assert note.startswith("2 folders in ")
    assert "are links, and are left out" in note


def test_relative_paths_start_from_the_inputs(tmp_path, monkeypatch):
    assert locate("x.png", tmp_path) == str(tmp_path / "x.png")
    for name in (str(tmp_path / "x.png"), "~/x.png", "data:image/png;base64,AA", "https://a.b/x"):
        assert locate(name, tmp_path) == name
    monkeypatch.chdir(jobs.draw(tmp_path / "elsewhere" / "x.png").parent)
    assert locate("x.png", tmp_path) == str(tmp_path / "x.png")


def test_the_hash_knows_what_changes(tmp_path):
    def read(question=None):
        return read_inputs(table, question).sha256

    table = jobs.make_table(tmp_path, 2)
    before = read()
    assert read() == before
    jobs.draw(tmp_path / "0.png", size=(41, 31))
    changed = read()
    assert changed != before
    table.write_text(table.read_text().replace("color", "colour"))
    assert read() not in (before, changed)


@pytest.mark.parametrize("name", ["x.png", "x.mp4", "x.pdf", "x.pdf#page=2", "ä b.png"])
@pytest.mark.parametrize("kind", ["plain", "home", "url"])
def test_the_hash_knows_the_size_of_every_file(tmp_path, monkeypatch, name, kind):
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    file = home / name.partition("#")[0]
    source = {
        "plain": str(home / name),
        "home": f"~/{name}",
        "url": file.as_uri() + name.removeprefix(file.name),
    }[kind]
    row = jobs.make_row(1, images=(source,))
    found = set()
    for size in (None, 3, 4):
        if size is not None:
            file.write_bytes(b"x" * size)
        found.add(hash_rows([row], None, tmp_path))
    assert len(found) == 3


def test_sources_without_a_file_have_a_hash(tmp_path):
    names = ["~nobodyatall/x.png", "data:image/png;base64,AA", "https://a.b/x", "a\0b.png"]
    rows = [jobs.make_row(number, images=(name,)) for number, name in enumerate(names)]
    assert len({hash_rows([row], None, tmp_path) for row in rows}) == len(names)


def test_batches_are_even_and_complete(tmp_path):
    sizes = [(20, 30), (60, 20), (20, 30), (60, 20), (20, 30)]
    rows = [jobs.make_row(number) for number in range(1, 8)]
    for row, size in zip(rows, sizes, strict=False):
        jobs.draw(tmp_path / row.images[0], size=size)
    (tmp_path / "6.png").write_bytes(b"broken")  # and 7.png is missing
    batches = list(make_batches(rows, tmp_path, 2))
    assert sorted(row.number for batch in batches for row in batch) == list(range(1, 8))
    assert max(map(len, batches)) == 2
    shapes = [measure(row, tmp_path) for row in itertools.chain(*batches)]
    assert len({measure(row, tmp_path) for row in rows}) == 3
    # rows of one shape stand side by side: 7 rows of 3 shapes in batches of 2
    assert len(list(itertools.groupby(shapes))) == 3


def test_a_longer_question_goes_to_another_batch(tmp_path):
    rows = [jobs.make_row(n, question=Q * (1 + n % 2), images=("x.png",)) for n in range(1, 5)]
    jobs.draw(tmp_path / "x.png")
    short, long = make_batches(rows, tmp_path, 2)
    assert [row.number for row in short] == [2, 4]
    assert [row.number for row in long] == [1, 3]


def test_a_batch_of_more_rows_than_anything_can_count_takes_all(tmp_path):
    rows = [jobs.make_row(number) for number in (1, 2, 3)]
    (batch,) = make_batches(rows, tmp_path, 10**30)
    assert len(batch) == 3
