"""`sparsight ask` about videos: the frames it shows, says and draws; what it refuses."""

import json

import pytest
from PIL import Image
from typer.testing import CliRunner

from sparsight import needs
from sparsight.cli import app
from sparsight.cli import ask as cli
from sparsight.cli.load import explain_failure
from sparsight.cli.shown import write_clips
from sparsight.picture import sheet
from sparsight.videos import Clip, Frame, choose_middles
from tests.cli.test_cli import refused
from tests.support import clips, tiny_processor, tiny_watcher

QUESTION = "what moves ?"
QUICK = ["--retain", "0.5", "--method", "uniform", "--runs", "1", "--max-new-tokens", "2"]
TOKENS = 36  # of an image


@pytest.fixture(scope="module", autouse=True)
def av():
    return pytest.importorskip("av", reason="PyAV is not installed: sparsight[video]")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_processor.save(tmp_path_factory.mktemp("model"), max_position_embeddings=2048)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The folder that the command runs in, with a clip of ten frames in one second."""
    clips.write_clip(tmp_path / "clip.mp4")
    clips.color("red").save(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words, folder=None):
    more = [] if folder is None else ["--model", folder]
    return CliRunner().invoke(app, ["ask", *map(str, [*words, QUESTION, *more, *QUICK])])


def document(*words, folder):
    result = run(*words, "--json", folder=folder)
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


# ---- a model that takes no videos


@pytest.mark.parametrize("frames", [None, 3])
def test_frames_are_images(place, folder, frames):
    given = [] if frames is None else ["--frames", frames]
    found = document("clip.mp4", *given, folder=folder)
    shown = choose_middles(10, frames or 8)
    assert found["images"] == []
    assert found["videos"] == [
        {
            "name": "clip.mp4",
            "shown_as": "images",
            "total_frames": 10,
            "seconds": 1.0,
            "frames": [{"index": index, "second": index / 10} for index in shown],
        }
    ]
    assert found["tokens"]["visual"] == TOKENS * len(shown)


def test_the_page_says_so(place, folder):
    result = run("clip.mp4", "--frames", "3", folder=folder)
    assert result.exit_code == 0, result.stderr
    said = " ".join(result.stdout.split())
    assert "3 frames of clip.mp4, shown as images: at 0.1, 0.5, 0.8 s of 1 s" in said
    said = " ".join(run("clip.mp4", "--frames", "50", folder=folder).stdout.split())
    assert "all 10 frames of clip.mp4, shown as images: at 0, 0.1, 0.2" in said


def test_long_lists_of_seconds_are_cut(place, folder):
    clips.write_clip(place / "long.mp4", [clips.color("red")] * 30)
    said = " ".join(run("long.mp4", "--frames", "20", folder=folder).stdout.split())
    assert "20 frames of long.mp4, shown as images: at 0, 0.2, ..., 2.9 s of 3 s" in said


def test_videos_and_images_together(place, folder):
    clips.write_clip(place / "short.mp4", [clips.color("blue")] * 2)
    found = document("clip.mp4", "photo.png", "short.mp4", "--frames", "3", folder=folder)
    assert found["images"] == ["photo.png"]
    assert [len(video["frames"]) for video in found["videos"]] == [3, 2]
    assert found["tokens"]["visual"] == TOKENS * 6


# ---- a model that takes videos


def test_a_video_is_a_video(place, monkeypatch):
    model, processor = tiny_watcher.load()
    monkeypatch.setattr(cli, "load_model", lambda *_: (model, processor))
    found = document("clip.mp4", "photo.png", "--frames", "4", folder="tiny")
    assert found["videos"][0]["shown_as"] == "video"
    classes = 4  # a frame has a token for its class as well
    assert found["tokens"]["visual"] == tiny_watcher.TOKENS * 5 + classes
    (video,) = processor.videos
    assert [clips.nearest(image) for image in video] == [
        clips.COLORS[at] for at in choose_middles(10, 4)
    ]
    assert processor.settings["do_sample_frames"] is False
    assert processor.settings["video_metadata"] == [
        {"total_num_frames": 1000, "fps": 1000.0, "duration": 1.0, "frames_indices": indices}
        for indices in [[100, 300, 600, 800]]
    ]
    said = run("clip.mp4", "--frames", "4", folder="tiny").stdout
    assert "4 frames of clip.mp4, shown as a video" in said


# ---- the picture


@pytest.fixture
def written(monkeypatch):
    texts = []
    write = sheet.write

    def note(pen, place, text, *more):
        texts.append(text)
        write(pen, place, text, *more)

    monkeypatch.setattr(sheet, "write", note)
    return texts


def test_the_picture_shows_the_frames(place, folder, written):
    result = run("clip.mp4", "--frames", "5", "--picture", "kept.png", folder=folder)
    assert result.exit_code == 0, result.stderr
    titles = sorted(text for text in written if text.startswith("frame "))
    assert titles == [f"frame {at}, 0.{at}0 s" for at in (1, 3, 5, 7, 9)]
    note = "5 of the 10 frames of clip.mp4 are shown, as an image for each; "
    assert f"{note}frames are counted from 0." in written
    with Image.open("kept.png") as made:
        found = {color for _, color in made.convert("RGB").getcolors(2**24)}
    for name in clips.COLORS[1::2]:
        red, green, blue = clips.color(name, (1, 1)).getpixel((0, 0))
        near = [abs(r - red) + abs(g - green) + abs(b - blue) for r, g, b in found]
        assert min(near) < 40, name


def test_the_picture_of_a_video(place, monkeypatch, written):
    monkeypatch.setattr(cli, "load_model", lambda *_: tiny_watcher.load())
    words = ["clip.mp4", "photo.png", "--frames", "2", "--picture", "kept.png"]
    result = run(*words, folder="tiny")
    assert result.exit_code == 0, result.stderr
    titles = [text for text in written if text.startswith("clip 1, ")]
    assert titles == ["clip 1, frame 2, 0.20 s", "clip 1, frame 7, 0.70 s"]
    assert "image 2" in written
    assert any("as one video" in text for text in written)


# ---- what is refused


def test_files_that_are_refused(place, monkeypatch):
    monkeypatch.setattr(cli, "load_model", lambda *_: pytest.fail("the model is loaded"))
    (place / "empty.mp4").touch()
    (place / "text.mp4").write_text("no video")
    (place / "cut.mp4").write_bytes((place / "clip.mp4").read_bytes()[:400])
    clips.write_sound(place / "sound.m4v")
    refused(run("gone.mp4"), "gone.mp4: no such file")
    refused(run("~nobodyatall/a.mp4"), "no such user here as nobodyatall; give the path of")
    refused(run("empty.mp4"), "empty.mp4 is empty")
    refused(run("text.mp4"), "text.mp4 cannot be read as a video")
    refused(run("cut.mp4"), "cut.mp4 cannot be read as a video")
    refused(run("sound.m4v"), "sound.m4v holds no video")
    refused(run("https://example.org/a.mp4"), "fetches nothing")
    (place / "kept.png").symlink_to("clip.mp4")
    refused(run("clip.mp4", "--picture", "kept.png"), "is one of the images or videos")
    assert clips.nearest(Image.open("photo.png").convert("RGB")) == "red"


def test_without_the_package(place, monkeypatch):
    monkeypatch.setattr(needs, "find_spec", lambda name: None)
    monkeypatch.delitem(needs.sys.modules, "av")
    refused(run("clip.mp4"), 'clip.mp4 needs av, not installed here; run: pip install "sparsight[')


def test_without_the_package_of_its_processor(tmp_path):
    said = (
        "\nQwen2VLVideoProcessor requires the Torchvision library but it was not found in your "
        "environment. Check out the instructions on the\ninstallation page"
    )
    explained = explain_failure(str(tmp_path), ImportError(said))
    assert explained.endswith("requires the Torchvision library; run: pip install torchvision.")


def test_more_frames_than_the_model_has_positions_for(place, tmp_path_factory):
    small = tiny_processor.save(tmp_path_factory.mktemp("small"), max_position_embeddings=100)
    refused(run("clip.mp4", folder=small), "or fewer frames of a video")


def test_videos_of_two_lengths(place, monkeypatch):
    """Most models take only videos of the same length; the error says what to do."""
    monkeypatch.setattr(cli, "load_model", lambda *_: tiny_watcher.load())
    clips.write_clip(place / "short.mp4", [clips.color("blue")] * 2)
    refused(run("clip.mp4", "short.mp4", folder="tiny"), "2 to 8 frames", "show 2 of each")


@pytest.mark.parametrize(
    ("total", "as_videos", "said"),
    [
        (1, False, "the only frame of a.mp4, shown as an image: at 0 s of 1 s"),
        (9, False, "1 frame of a.mp4, shown as an image: at 0 s of 1 s"),
        (9, True, "1 frame of a.mp4, shown as a video: at 0 s of 1 s"),
    ],
)
def test_one_frame_is_told_as_one(total, as_videos, said):
    clip = Clip("a.mp4", total, 1.0, (Frame(0, 0.0, Image.new("RGB", (4, 4))),))
    assert list(write_clips([clip], as_videos)) == [said]
