"""Clips on a picture: a video or an image for each frame, their titles, and rows in two bands."""

import pytest
from PIL import Image

from sparsight.counts.layout import Block, layout_of
from sparsight.errors import InputError
from sparsight.picture import Panel, Words, draw, lay_out_panels, sheet
from sparsight.picture.frames import MOST_FRAMES, group_frames, make_clip, title_frames
from sparsight.picture.seen import WHOLE
from sparsight.videos import Clip, Frame
from tests.support import tiny_processor

IMAGE = Image.new("RGB", (60, 40), "red")


def clip(count, name="a.mp4"):
    frames = (Frame(3 * at, at / 4, IMAGE) for at in range(count))
    return Clip(name, 3 * count, count / 4, tuple(frames))


def video(count):
    return layout_of(tuple(Block(2, 2, frame=frame) for frame in range(count)))


def stills(count):
    return layout_of(tuple(Block(2, 2, image=image) for image in range(count)))


def titles(layout, shown, processor=None):
    return [panel.title for panel in lay_out_panels(layout, shown, processor)[0]]


def test_a_video_has_a_panel_a_grid():
    panels, notes = lay_out_panels(video(3), [clip(3)])
    assert [panel.title for panel in panels] == [
        "frame 0, 0.00 s",
        "frame 3, 0.25 s",
        "frame 6, 0.50 s",
    ]
    assert [panel.boxes for panel in panels] == [(WHOLE,)] * 3
    said = "3 of the 9 frames of a.mp4 are shown, as one video; frames are counted from 0."
    assert said in notes


def test_frames_that_a_model_puts_together_share_a_panel():
    assert titles(video(2), [clip(4)]) == [
        "frames 0 and 3, 0.00 and 0.25 s",
        "frames 6 and 9, 0.50 and 0.75 s",
    ]
    assert titles(video(2), [clip(3)])[1] == "frame 6, 0.50 s"  # the encoder repeats the last one


def test_frames_that_are_images_are_drawn_as_such():
    processor = tiny_processor.processor()
    panels, notes = lay_out_panels(stills(2), [clip(2)], processor)
    assert [panel.title for panel in panels] == ["frame 0, 0.00 s", "frame 3, 0.25 s"]
    assert panels[0].boxes != (WHOLE,)  # what the image processor crops is known
    said = "2 of the 6 frames of a.mp4 are shown, as an image for each; frames are counted from 0."
    assert notes == [said]


def test_several_clips_and_images_are_numbered():
    blocks = [Block(2, 2, image=0, frame=0), Block(2, 2, image=0, frame=1), Block(2, 2, image=1)]
    shown = [clip(2), IMAGE]
    assert titles(layout_of(tuple(blocks)), shown) == [
        "clip 1, frame 0, 0.00 s",
        "clip 1, frame 3, 0.25 s",
        "image 2",
    ]
    assert titles(stills(5), [clip(2), IMAGE, clip(2)])[2:4] == [
        "image 2",
        "clip 3, frame 0, 0.00 s",
    ]


def test_unnamed_frames_are_counted():
    layout = stills(2)
    assert titles(layout, [make_clip([IMAGE] * 2)]) == [
        "the clip, frame 1 of 2",
        "the clip, frame 2 of 2",
    ]


@pytest.mark.parametrize("make", [video, stills])
def test_many_frames_are_thinned_out(make):
    panels, notes = lay_out_panels(make(40), [clip(40)])
    assert len(panels) == MOST_FRAMES
    assert panels[0].grids[0].image + panels[0].grids[0].frame == 1  # the middle of the first part
    assert f"{MOST_FRAMES} of 40 frames of the clip are drawn." in notes


def test_other_clips_than_those_of_the_prompt_are_refused():
    with pytest.raises(InputError, match="holds 3 images or tiles, and the 1 given make 1"):
        lay_out_panels(stills(3), [clip(2)])


def test_titles():
    frames = clip(3).frames
    assert title_frames("clip 2", frames[:1]) == "clip 2, frame 0, 0.00 s"
    assert title_frames("", frames) == "frames 0 to 6, 0.00 to 0.50 s"
    assert title_frames("", [Frame(7, None, IMAGE)]) == "frame 7"


@pytest.mark.parametrize(
    ("count", "grids", "sizes"), [(8, 4, [2] * 4), (5, 3, [2, 2, 1]), (2, 3, [1, 1, 1])]
)
def test_groups(count, grids, sizes):
    groups = list(group_frames(clip(count).frames, grids))
    assert [len(group) for _, group in groups] == sizes
    assert all(frame in group for frame, group in groups)


# ---- bands


def panels(count):
    return [Panel(f"frame {at}", IMAGE, video(1).grids, (WHOLE,)) for at in range(count)]


def test_many_rows_stand_in_two_bands(monkeypatch):
    places = {}
    paste = sheet._paste_cell

    def note(canvas, pen, place, cell):
        places[cell.title] = place
        paste(canvas, pen, place, cell)

    monkeypatch.setattr(sheet, "_paste_cell", note)
    draw(panels(sheet.MANY), [], Words())
    assert len({x for x, _ in places.values()}) == 1
    made = draw(panels(5), [], Words())
    left, right = sorted({x for x, _ in places.values()})
    assert right - left >= sheet.BETWEEN
    assert [places[f"frame {at}"][0] for at in range(5)] == [left] * 3 + [right] * 2
    assert places["frame 0"][1] == places["frame 3"][1]
    assert made.width <= sheet.WIDEST + 2 * sheet.MARGIN


def test_rows_that_are_too_wide_stay_in_one_band(monkeypatch):
    monkeypatch.setattr(sheet, "WIDEST", 100)
    tall = draw(panels(8), [], Words())
    monkeypatch.undo()
    assert tall.height > 1.8 * draw(panels(8), [], Words()).height
