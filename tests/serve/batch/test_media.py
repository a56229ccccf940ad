"""Pages of PDFs and frames of videos, and what is said where the packages are not installed."""

import pytest
from PIL import Image

from sparsight.errors import InputError, UnsupportedError
from sparsight.serve.batch import needs
from sparsight.serve.batch.media import (
    choose_frames,
    find_page,
    is_video,
    open_media,
    turn_frame,
)
from sparsight.serve.batch.rows import read_inputs
from tests.support import jobs

COLORS = ["red", "green", "blue", "white", "black", "yellow", "cyan", "magenta", "gray", "orange"]


def test_names():
    assert find_page("a/b.PDF#page=12") == ("a/b.PDF", 12)
    assert find_page("b.pdf") == ("b.pdf", None)
    others = ["b.pdf.png", "b.pdf#page=0", "b.pdf#page=x", "data:image/png;base64,AA.pdf"]
    assert [find_page(name) for name in others] == [None] * 4
    assert is_video("A.MP4")
    assert not is_video("mp4")


def test_frames_are_the_middles_of_even_parts():
    assert choose_frames(3, 8) == [0, 1, 2]
    assert choose_frames(10, 2) == [2, 7]
    assert choose_frames(8, 8) == list(range(8))
    assert choose_frames(9, 1) == [4]


def test_a_frame_is_turned_as_the_video_says():
    image = Image.new("RGB", (4, 2), "white")
    image.putpixel((0, 0), (255, 0, 0))
    turned = turn_frame(image, -90)  # clockwise: the left upper corner comes to the right
    assert turned.size == (2, 4)
    assert turned.getpixel((1, 0)) == (255, 0, 0)
    assert turn_frame(image, 0) is image


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
    first, *others = [Image.new("RGB", (60, 40), color) for color in COLORS[:3]]
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


@pytest.fixture
def clip(tmp_path):
    av = pytest.importorskip("av", reason="PyAV is not installed: sparsight[video]")
    with av.open(str(tmp_path / "clip.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height = 64, 48
        for color in COLORS:
            frame = av.VideoFrame.from_image(Image.new("RGB", (64, 48), color))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return tmp_path / "clip.mp4"


def nearest(image):
    shown = image.getpixel((32, 24))
    solid = {color: Image.new("RGB", (1, 1), color).getpixel((0, 0)) for color in COLORS}

    def distance(color):
        return sum(abs(a - b) for a, b in zip(shown, solid[color], strict=True))

    return min(COLORS, key=distance)


@pytest.mark.parametrize("frames", [1, 2, 5, 10, 30])
def test_frames(clip, frames):
    images = open_media(str(clip), frames)
    assert {image.size for image in images} == {(64, 48)}
    chosen = choose_frames(len(COLORS), frames)
    assert [nearest(image) for image in images] == [COLORS[number] for number in chosen]


def test_videos_that_are_refused(clip, tmp_path, monkeypatch):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    (tmp_path / "short.mp4").write_bytes(clip.read_bytes()[:200])
    for name, part in [
        ("broken.mp4", "cannot be read as a video"),
        ("short.mp4", "cannot be read as a video|no frames"),
        ("gone.mp4", "no such file"),
    ]:
        with pytest.raises(InputError, match=part):
            open_media(str(tmp_path / name), 4)
    monkeypatch.setattr("sparsight.serve.batch.media.MOST_FRAMES", 5)
    with pytest.raises(InputError, match="more than 5 frames"):
        open_media(str(clip), 4)
    monkeypatch.setattr("sparsight.serve.batch.media.MOST_PIXELS", 1000)
    with pytest.raises(InputError, match="too large"):
        open_media(str(clip), 4)
