"""What methods share that go by the attention of the prompt's last token."""

import torch

from sparsight.errors import SettingError
from sparsight.methods.method import Method
from sparsight.methods.parts.choosers import top_k
from sparsight.methods.view import Selection, View


def choose_last(text: torch.Tensor) -> torch.Tensor:
    """Return the last of the text tokens (T, D) as the only rater, (T,) bool."""
    chosen = torch.zeros(len(text), dtype=torch.bool, device=text.device)
    chosen[-1:] = True
    return chosen


def select_by_attention(method: Method, view: View) -> Selection:
    """Return the tokens that the raters attend to most, the best one of every image among them.

    Raises: SettingError: the view has no rater attention.
    """
    if view.attention is None:
        name = type(method).__name__
        raise SettingError(f"{name} needs rater attention; a view without it cannot be rated.")
    score = view.attention.mean()  # (G, V)
    return Selection(top_k(score, view.keep_count, view.images), score=score)
