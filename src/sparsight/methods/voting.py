"""A setting that methods share in which some of the attention heads vote."""

from sparsight.errors import SettingError


def check_heads(heads: float) -> None:
    """Raise SettingError unless `heads` is a count of heads or a fraction of them."""
    is_count = isinstance(heads, int) and not isinstance(heads, bool)
    is_fraction = isinstance(heads, float) and heads <= 1.0
    if not (is_count or is_fraction) or heads <= 0:
        raise SettingError(
            f"heads={heads!r} is out of range; give a count >= 1 or a fraction in (0, 1]."
        )


def count_heads(heads: float, total: int) -> int:
    """Return how many of `total` heads vote, at least 1: an int is a count, a float a fraction."""
    if isinstance(heads, int):
        return min(heads, total)
    return max(1, int(heads * total))
