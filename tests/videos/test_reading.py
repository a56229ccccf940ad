"""Frames of videos: which ones, at which second, upright; and the files that are refused."""

import itertools
import warnings

import pytest
from PIL import Image

from sparsight import needs
from sparsight.errors import InputError, InputWarning, SettingError, UnsupportedError
from sparsight.videos import (
    MOST_SHOWN,
    Frame,
    choose_middles,
    choose_with_ends,
    is_video,
    read_clip,
    reading,
)
from tests.support import clips


@pytest.fixture(autouse=True)
def av():
    return pytest.importorskip("av", reason="PyAV is not installed: sparsight[video]")


@pytest.fixture
def clip(tmp_path):
    return clips.write_clip(tmp_path / "clip.mp4")


def cut(path, share=0.6):
    """Return a copy of a file that ends early."""
    data = path.read_bytes()
    short = path.with_name(f"cut{path.suffix}")
    short.write_bytes(data[: int(len(data) * share)])
    return short


# ---- which frames


def test_names():
    assert is_video("A.MP4")
    assert not is_video("mp4")
    assert not is_video("data:video/mp4;base64,AA.mp4")


def test_the_middles_of_even_parts():
    assert choose_middles(3, 8) == [0, 1, 2]
    assert choose_middles(10, 2) == [2, 7]
    assert choose_middles(8, 8) == list(range(8))
    assert choose_middles(9, 1) == [4]


@pytest.mark.parametrize(
    ("total", "frames"),
    [(8, list(range(8))), (100, [0, 14, 28, 42, 56, 70, 84, 99]), (3, [0, 0, 0, 0, 1, 1, 1, 2])],
)
def test_even_steps_from_the_first_to_the_last(total, frames):
    assert choose_with_ends(total, 8) == frames


@pytest.mark.parametrize("choose", [choose_middles, choose_with_ends])
@pytest.mark.parametrize("frames", [1, 2, 5, 10, 30])
def test_frames(clip, frames, choose):
    read = read_clip(clip, frames, choose)
    chosen = choose(len(clips.COLORS), frames)
    assert [frame.index for frame in read.frames] == chosen
    assert [clips.nearest(image) for image in read.images] == [clips.COLORS[at] for at in chosen]
    assert {(image.mode, image.size) for image in read.images} == {("RGB", clips.SIZE)}
    assert [frame.second for frame in read.frames] == [at / 10 for at in chosen]
    assert (read.name, read.total, read.seconds) == (str(clip), 10, 1.0)


def test_seconds_are_those_of_the_frames(tmp_path):
    times = [0, 5, 10, 20, 300, 310, 500, 900, 950, 1000]
    path = clips.write_clip(tmp_path / "clip.mkv", times=times)
    assert [frame.second for frame in read_clip(path, 10).frames] == [at / 100 for at in times]


def test_seconds_begin_with_the_first_frame(tmp_path):
    path = clips.write_clip(tmp_path / "clip.mkv", times=range(500, 600, 10))
    read = read_clip(path, 2)
    assert [frame.second for frame in read.frames] == [0.2, 0.7]
    assert read.seconds == pytest.approx(1.0, abs=0.11)


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.avi", "mpeg4"), ("a.mkv", "mpeg4"), ("a.webm", "libvpx"), ("a.mov", "mpeg4")],
)
def test_containers(tmp_path, name, codec):
    read = read_clip(clips.write_clip(tmp_path / name, codec=codec), 5)
    assert [clips.nearest(image) for image in read.images] == clips.COLORS[1::2]
    assert [frame.second for frame in read.frames] == pytest.approx([0.1, 0.3, 0.5, 0.7, 0.9])


def test_packets_without_a_frame_do_not_shift_the_choice(clip, monkeypatch):
    """A file may hold more packets than frames that are shown; the frames count."""
    look = reading._look_through
    monkeypatch.setattr(reading, "_look_through", lambda *given: (14, look(*given)[1]))
    assert [frame.index for frame in read_clip(clip, 2).frames] == [2, 7]


# ---- upright


@pytest.mark.parametrize("how", clips.TURNS)
def test_frames_are_turned_upright(tmp_path, how):
    image = clips.color("green")
    image.paste(clips.color("red", (32, 24)), (0, 0))  # the upper left quarter
    path = clips.turn(clips.write_clip(tmp_path / "clip.mp4", [image] * 3), how)
    turns = clips.TURNS[how]
    size = clips.SIZE if turns[0] else clips.SIZE[::-1]
    # a side from which the steps of the stored frame lead away is where its corner lies
    away = [turns[0] + turns[2] > 0, turns[1] + turns[3] > 0]
    moved = tuple(8 if away[at] else size[at] - 8 for at in (0, 1))
    corners = list(itertools.product((8, size[0] - 8), (8, size[1] - 8)))
    for frame in read_clip(path, 2).frames:
        assert frame.image.size == size
        red = [at for at in corners if clips.nearest(frame.image, at) == "red"]
        assert red == [moved]


# ---- files that are refused


def test_other_files(tmp_path, clip):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "folder.mp4").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "picture.mp4", format="PNG")
    (tmp_path / "list.mp4").write_text("#EXTM3U\n#EXTINF:1,\nclip.mp4\n")
    clips.write_sound(tmp_path / "sound.m4v")
    for name, part in [
        ("broken.mp4", "cannot be read as a video"),
        ("empty.mp4", "is empty"),
        ("folder.mp4", "no regular file"),
        ("picture.mp4", "cannot be read as a video"),
        ("list.mp4", "cannot be read as a video"),
        ("sound.m4v", "holds no video"),
        ("gone.mp4", "no such file"),
    ]:
        with pytest.raises(InputError, match=f"{name}.*{part}"):
            read_clip(tmp_path / name, 4)
    with pytest.raises(InputError, match="fetches nothing"):
        read_clip("https://example.org/a.mp4", 4)


def test_a_name_with_a_colon_is_a_file(tmp_path, clip, monkeypatch):
    clip.rename(tmp_path / "concat:a.mp4")
    monkeypatch.chdir(tmp_path)
    assert read_clip("concat:a.mp4", 1).total == 10


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi", "fast.mp4"])
def test_a_file_that_ends_early(tmp_path, name):
    images = [clips.noise(seed) for seed in range(40)]
    options = {"movflags": "faststart"} if name == "fast.mp4" else None
    whole = clips.write_clip(tmp_path / name, images, options=options)
    assert read_clip(whole, 4).total == 40
    said = "cannot be read as a video" if name == "a.mp4" else "is broken: it is cut off after"
    with pytest.raises(InputError, match=f"cut.*{said}"):
        read_clip(cut(whole), 4)


@pytest.mark.parametrize("name", ["a.mkv", "a.webm"])
def test_a_file_that_begins_late_and_ends_early(tmp_path, name):
    """Its length counts, and not the second at which it ends."""
    images = [clips.noise(seed) for seed in range(40)]
    times = range(10_000, 10_400, 10)  # from the 100th second on
    codec = "libvpx" if name == "a.webm" else "mpeg4"
    whole = clips.write_clip(tmp_path / name, images, codec=codec, times=times)
    assert read_clip(whole, 4).seconds == pytest.approx(4.0, abs=0.11)
    with pytest.raises(InputError, match=r"cut.*is broken: it is cut off after .* of 4 seconds"):
        read_clip(cut(whole, 0.5), 4)


def test_a_file_whose_times_are_negative_is_whole(clip, monkeypatch):
    decode = reading._decode

    def begin_early(*given):
        decoded = decode(*given)
        decoded.times = [time - 500 for time in decoded.times]
        decoded.end -= 500
        return decoded

    monkeypatch.setattr(reading, "_decode", begin_early)
    read = read_clip(clip, 1)
    assert (read.seconds, read.frames[0].second) == (1.0, 0.5)


def test_a_file_with_a_hole(tmp_path):
    path = clips.write_clip(tmp_path / "a.mp4", [clips.noise(seed) for seed in range(40)])
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 4000] = bytes(4000)
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"is broken: frame \d+, counted from 0, cannot be"):
        read_clip(path, 4)


def test_a_damaged_frame_is_named(tmp_path):
    path = clips.write_clip(tmp_path / "a.mkv", [clips.noise(seed) for seed in range(40)])
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 500] = bytes(500)
    path.write_bytes(data)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        read_clip(path, 40)
    assert [warning.category for warning in caught] == [InputWarning]
    assert "is damaged, and shown as far as" in str(caught[0].message)


def test_limits(clip, monkeypatch):
    monkeypatch.setattr(reading, "MOST_SHOWN_PIXELS", 4 * 64 * 48)
    assert len(read_clip(clip, 4).frames) == 4
    with pytest.raises(InputError, match=r"5 frames of .* have .* million pixels"):
        read_clip(clip, 5)
    monkeypatch.setattr(reading, "MOST_FRAMES", 5)
    with pytest.raises(InputError, match="more than 5 frames"):
        read_clip(clip, 4)
    monkeypatch.setattr(reading, "MOST_PIXELS", 1000)
    with pytest.raises(InputError, match="too large: 64 x 48 pixels"):
        read_clip(clip, 4)


@pytest.mark.parametrize("large", [1, 2])
def test_a_frame_that_is_not_shown_may_not_be_too_large_either(tmp_path, monkeypatch, large):
    sizes = [clips.SIZE] * 3
    sizes[large] = (640, 480)
    path = clips.write_sizes(tmp_path / "clip.webm", sizes)
    assert [frame.image.size for frame in read_clip(path, 3).frames] == sizes
    monkeypatch.setattr(reading, "MOST_PIXELS", 64 * 48)
    with pytest.raises(InputError, match="too large: 640 x 480 pixels"):
        read_clip(path, 1, lambda total, count: [0])


@pytest.mark.parametrize("frames", [0, -1, MOST_SHOWN + 1])
def test_the_number_of_frames_is_checked_before_the_file(frames):
    with pytest.raises(SettingError, match=f"frames={frames} .* 1 to {MOST_SHOWN}"):
        read_clip("gone.mp4", frames)


def test_the_package(clip, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(reading.USED, "VideoFrame", ("rotation", "warp"))
        with pytest.raises(UnsupportedError, match=r"no VideoFrame\.warp; install PyAV 15"):
            read_clip(clip, 4)
    monkeypatch.setattr(needs, "find_spec", lambda name: None)
    monkeypatch.delitem(needs.sys.modules, "av")
    with pytest.raises(UnsupportedError, match=r'pip install "sparsight\[video\]"'):
        read_clip(clip, 4)


def test_a_file_without_times(monkeypatch, clip):
    decode = reading._decode

    def forget_times(*given):
        decoded = decode(*given)
        decoded.times = [None] * len(decoded.times)
        return decoded

    monkeypatch.setattr(reading, "_decode", forget_times)
    with pytest.warns(InputWarning, match="does not say when"):
        read = read_clip(clip, 1)
    assert read.seconds is None
    assert read.frames == (Frame(5, None, read.images[0]),)
