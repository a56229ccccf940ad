"""Settings and steps that methods share which choose once, before the decoder."""

from collections.abc import Callable, Sequence

import torch

from sparsight.counts.layout import PatchGrid
from sparsight.errors import SettingError
from sparsight.methods.encoder import EncoderNeed, EncoderSignals, TextSignal
from sparsight.methods.method import Method, require_grids
from sparsight.methods.parts.by_grid import choose_by_grid
from sparsight.methods.parts.tensors import take
from sparsight.methods.view import Recycled, View

INPUT = (0,)
SCORES = ("class", "received")  # what the attention of an encoder's block is read as

# takes the tokens of one grid, (n,) int64 on the device, and a count k; answers (G, k) int64 places
# among them
TokenChooser = Callable[[torch.Tensor, int], torch.Tensor]


def check_input_only(method: Method) -> None:
    """Raise SettingError if a method has sites other than the input."""
    if method.sites != INPUT:
        raise SettingError(
            f"{type(method).__name__} works on the input alone; sites={method.sites}, give "
            "sites=(0,)."
        )


def attention_need(score: str) -> EncoderNeed:
    """Return what is read of the block that made the features, for one of SCORES."""
    return EncoderNeed("class_attention" if score == "class" else "received")


def read_attention(encoder: EncoderSignals, score: str) -> torch.Tensor:
    """Return the attention of the block that made the features, (G, V), for one of SCORES."""
    return encoder.class_attention() if score == "class" else encoder.received()


def keep_by_grid(method: Method, view: View, choose: TokenChooser) -> torch.Tensor:
    """Return the tokens that stay, (G, K), each grid's chosen for itself.

    Grids share the count by their sizes; see `choose_by_grid`.

    Raises: UnsupportedError: no token of the view is a patch.
    """
    layout, device = require_grids(method, view.layout), view.hidden.device

    def choose_in(grid: PatchGrid, count: int) -> torch.Tensor:
        return choose(grid.tokens.to(device, non_blocking=True), count)

    return choose_by_grid(layout, view.keep_count, len(view.hidden), device, choose_in)


def join_recycled(parts: Sequence[Recycled]) -> Recycled | None:
    """Return the recycled tokens of several grids as one answer; None if there are none.

    Args: parts: of grid after grid; the labels of each count its own centres from 0.
    """
    if not parts:
        return None
    labels, first = [], 0
    for part in parts:
        labels.append(part.labels + first)
        first += part.centres.shape[-1]
    return Recycled(
        torch.cat([part.values for part in parts], dim=1),
        torch.cat([part.centres for part in parts], dim=1),
        torch.cat([part.pool for part in parts], dim=1),
        torch.cat(labels, dim=1),
    )


def sort_recycled(recycled: Recycled | None) -> Recycled | None:
    """Return recycled tokens in the order of their centres."""
    if recycled is None:
        return None
    centres, order = recycled.centres.sort(dim=-1)
    place = order.argsort(dim=-1)  # of each token in that order
    values = take(recycled.values, order)
    return Recycled(values, centres, recycled.pool, place.gather(-1, recycled.labels))


def require_text(method: Method, view: View) -> TextSignal:
    """Return the text behind the images of a view.

    Raises: SettingError: the view has none.
    """
    if view.text is None:
        raise SettingError(
            f"{type(method).__name__} needs the text behind the images; a view without it cannot "
            "be rated."
        )
    return view.text
