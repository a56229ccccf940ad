"""Arrays with an alpha channel: their colours and it are scaled alike, or they are refused."""

import numpy as np
import pytest

from sparsight.errors import InputError
from sparsight.pixels import to_rgb
from tests.test_pixels import BLACK, WHITE, pixels


@pytest.mark.parametrize(
    ("colour", "alpha", "part"),
    [
        ([200.0, 0, 0], 1, "colours of 0 to 255 and an alpha channel of 0 to 1;"),
        ([0.5, 0, 0], 255, "colours of 0 to 1 and an alpha channel of 0 to 255;"),
        ([0.5], 255, "colours of 0 to 1 and an alpha channel of 0 to 255;"),
        ([9000, 0, 0], 255, "colours of 0 to 65535 and an alpha channel of 0 to 255;"),
    ],
)
def test_colours_and_alpha_of_other_ranges_are_refused(colour, alpha, part):
    with pytest.raises(InputError, match=f"holds {part} scale them alike"):
        to_rgb(np.array([[[*colour, alpha]]]))


@pytest.mark.parametrize("white", [1.0, 255.0, 65535])
def test_colours_and_alpha_of_one_range(white):
    half, none = white / 2, 0
    values = np.array(
        [[[white, none, none, white], [none, none, none, half], [white, none, none, none]]]
    )
    assert pixels(values) == [(255, 0, 0), (127, 127, 127), WHITE]
    assert pixels(np.array([[[none, none, none, white], [none, none, none, white]]])) == [
        BLACK,
        BLACK,
    ]
