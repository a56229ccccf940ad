"""Videos of a layout: whose tokens are whose, and how many of them stay."""

import pytest

from sparsight.counts.layout import Block, layout_of
from sparsight.methods.parts.clips import list_clips, list_stills, share_by_clip

# a still with row ends; a video with class tokens; a video of one frame; one with an end of its own
STILL = [Block(1, 3, image=0), Block(2, 2, row_end=1, image=0, part=1)]
CLASSED = [Block(1, 2, before=1, image=1, frame=n) for n in range(3)]
ONE = [Block(2, 2, image=2)]
ENDED = [Block(2, 2, image=3), Block(2, 2, after=1, image=3, frame=1)]
LAYOUT = layout_of((*STILL, *CLASSED, *ONE, *ENDED))


def test_clips_have_two_frames_or_more():
    first, second = list_clips(LAYOUT)
    assert (first.image, first.frames, first.size) == (1, 3, 2)
    assert first.tokens.tolist() == [10, 11, 13, 14, 16, 17]
    assert (second.image, second.frames, second.size) == (3, 2, 4)
    assert second.tokens.tolist() == list(range(22, 30))
    assert list_stills(LAYOUT, [first, second]).tolist() == [*range(9), 18, 19, 20, 21]


def test_a_layout_without_videos():
    layout = layout_of(tuple(STILL))
    assert list_clips(layout) == ()
    assert list_stills(layout, ()).tolist() == list(range(9))


@pytest.mark.parametrize(
    ("count", "others", "counts"),
    [
        (13 + 6, [], [2, 4]),  # the least of both
        (13 + 8, [], [3, 5]),
        (13 + 14, [], [6, 8]),
        (13 + 16, [9, 12], [6, 8]),  # all patches, and two of four others
    ],
)
def test_stills_stay_and_patches_come_first(count, others, counts):
    whole, parts = share_by_clip(LAYOUT, count, lambda clip: clip.size)
    assert whole.tolist() == [*range(9), 18, 19, 20, 21, *others]
    assert [part for _, part in parts] == counts
