"""What a method has added to attention logits, so that what is left attends as the whole did."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Calibration:
    """What every layer from a sample's first site on adds to its attention logits.

    Each key adds the logarithm of how many visual tokens of the prompt it stands for; text adds
    nothing. Passes that continue on the pruned cache add the same to the keys that it stores.

    Args:
        distance: c of log(c - D), which each pair of tokens adds in the prefill, text included. D
            is the mean cosine of the rotary angles between the two. None adds no such term.
        level_first: whether layer 0 adds log(N / K) to each visual key, with K of N tokens left,
            instead of what the key stands for.
    """

    distance: float | None = None
    level_first: bool = False
