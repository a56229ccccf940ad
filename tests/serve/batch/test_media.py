"""Pages of PDFs and frames of videos, and what is said where the packages are not installed."""

import json

import pytest
from PIL import Image

from sparsight import needs
from sparsight.errors import InputError, UnsupportedError
from sparsight.serve.batch.media import find_page, open_media
from sparsight.serve.batch.rows import locate_images, read_inputs
from sparsight.videos import choose_middles
from tests.support import clips, jobs


def test_names():
    assert find_page("a/b.PDF#page=12") == ("a/b.PDF", 12)
    assert find_page("b.pdf") == ("b.pdf", None)
    others = ["b.pdf.png", "b.pdf#page=0", "b.pdf#page=x", "data:image/png;base64,AA.pdf"]
    assert [find_page(name) for name in others] == [None] * 4


NOBODY = "there is no such user here as nobodyatall; give the path of the file without ~"


@pytest.mark.parametrize(
    ("name", "package"), [("a.png", "PIL"), ("a.mp4", "av"), ("a.pdf", "pypdfium2")]
)
def test_an_unknown_user_is_named_as_what_is_wrong(tmp_path, name, package):
    pytest.importorskip(package)
    source = f"~nobodyatall/{name}"
    with pytest.raises(InputError, match=rf"^{source}: {NOBODY}\.$"):
        open_media(source, 2)
    (tmp_path / "rows.csv").write_text(f"image,question\n{source},what ?\n")
    (row,) = read_inputs(tmp_path / "rows.csv", None).rows
    assert locate_images(row, tmp_path) == [source]  # so that answering it says the same


@pytest.mark.parametrize(("source", "why"), [("file://[a", "is no URL"), ("~\0", "null byte")])
@pytest.mark.parametrize("ending", [".png", ".mp4", ".pdf"])
def test_a_name_that_cannot_be_read_is_the_fault_of_its_row_alone(tmp_path, source, why, ending):
    pytest.importorskip("av")
    pytest.importorskip("pypdfium2")
    lines = [json.dumps({"image": source + ending, "question": "what ?"})]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines) + "\n")
    (row,) = read_inputs(tmp_path / "rows.jsonl", None).rows
    (located,) = locate_images(row, tmp_path)
    with pytest.raises(InputError, match=why):
        open_media(located, 2)


@pytest.mark.parametrize("name", ["gone.pdf", "gone.pdf#page=2"])
def test_a_document_that_is_not_there_is_named_once(tmp_path, name):
    pytest.importorskip("pypdfium2")
    with pytest.raises(InputError, match=r"^[^ ]*gone\.pdf: no such file\.$"):
        open_media(str(tmp_path / name), 2)


def test_an_unknown_home_folder_is_named_as_what_is_wrong(monkeypatch):
    monkeypatch.setattr("os.path.expanduser", str)
    with pytest.raises(InputError, match=r"^~/a\.png: your home folder is not known; give"):
        open_media("~/a.png", 2)


@pytest.mark.parametrize(
    ("name", "extra"), [("doc.pdf", "pdf"), ("doc.pdf#page=2", "pdf"), ("clip.mp4", "video")]
)
def test_without_the_package_the_job_is_refused_before_any_row(tmp_path, monkeypatch, name, extra):
    monkeypatch.setattr(needs, "find_spec", lambda name: None)
    for package in needs.EXTRAS:
        monkeypatch.delitem(needs.sys.modules, package, raising=False)
    rows = [{"image": "x.png", "question": "?"}, {"image": name, "question": "?"}]
    table = jobs.write_jsonl(tmp_path / "rows.jsonl", rows)
    said = rf'{name} of row 2 needs .*pip install "sparsight\[{extra}\]"'
    with pytest.raises(UnsupportedError, match=said):
        read_inputs(table, None)
    (tmp_path / name).touch()
    table.unlink()
    if "#" not in name:
        with pytest.raises(UnsupportedError, match=rf"sparsight\[{extra}\]"):
            read_inputs(tmp_path, "?")


# ---- PDF


@pytest.fixture
def document(tmp_path):
    pytest.importorskip("pypdfium2", reason="pypdfium2 is not installed: sparsight[pdf]")
    first, *others = [Image.new("RGB", (60, 40), color) for color in clips.COLORS[:3]]
    first.save(tmp_path / "doc.pdf", save_all=True, append_images=others, resolution=72)
    return tmp_path / "doc.pdf"


def test_a_page(document):
    (image,) = open_media(f"{document}#page=3", 8)
    assert image.mode == "RGB"
    assert image.size == (120, 80)
    red, green, blue = image.getpixel((60, 40))
    assert blue > 250
    assert max(red, green) < 5


def test_pages_that_are_refused(document, tmp_path):
    (tmp_path / "broken.pdf").write_bytes(b"%PDF-1.7\nno more")
    page = Image.new("L", (10, 10))
    page.save(tmp_path / "large.pdf", resolution=0.01)  # 72,000 points wide
    for name, part in [
        ("doc.pdf", "has 3 pages; name one of them"),
        ("doc.pdf#page=4", "no page 4"),
        ("broken.pdf", "cannot be read as a PDF"),
        ("gone.pdf", "no such file"),
        ("large.pdf", "too large"),
    ]:
        with pytest.raises(InputError, match=part):
            open_media(str(tmp_path / name), 8)


def test_a_folder_has_a_row_a_page(document, tmp_path):
    (tmp_path / "broken.pdf").write_bytes(b"%PDF-1.7\nno more")
    rows = read_inputs(tmp_path, jobs.QUESTION).rows
    assert [row.id for row in rows] == [
        "broken.pdf",
        "doc.pdf#page=1",
        "doc.pdf#page=2",
        "doc.pdf#page=3",
    ]


# ---- video


@pytest.mark.parametrize("frames", [1, 5, 30])
def test_frames_are_images(tmp_path, frames):
    pytest.importorskip("av", reason="PyAV is not installed: sparsight[video]")
    images = open_media(str(clips.write_clip(tmp_path / "clip.mp4")), frames)
    assert {image.size for image in images} == {clips.SIZE}
    chosen = choose_middles(len(clips.COLORS), frames)
    assert [clips.nearest(image) for image in images] == [clips.COLORS[at] for at in chosen]
