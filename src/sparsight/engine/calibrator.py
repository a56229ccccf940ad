"""Adds what a method calibrates to the masks of decoder layers.

Keys add the logarithm of how many visual tokens they stand for, pairs of tokens of the prefill a
bias of their distance, which the rotary tables tell. The ledger of a cache layer keeps what its
keys add, so that later passes add it too. Private details of transformers touched here: that
`position_embeddings` of decoder layers are one cosine and one sine for each token; `model_type` and
`no_rope_layers` of text configs, which tell that some layers turn no keys.
"""

from typing import Any

import torch
from transformers import Cache

from sparsight.engine.entries import Entries
from sparsight.engine.outline import Outline
from sparsight.errors import TESTED_WITH, UnsupportedError
from sparsight.methods.calibration import Calibration
from sparsight.methods.parts.calibration import bias_of_sizes, bias_of_tables
from sparsight.sequence.sizes import mark_pruned, share_prompt

Tables = tuple[torch.Tensor, ...]


class Calibrator:
    """Makes the biases of one method, whatever pass and layer they are for.

    Args: calibration: of the method; None for one that adds nothing.
    """

    def __init__(self, calibration: Calibration | None) -> None:
        self.adds = calibration is not None
        self.constant = None if calibration is None else calibration.distance
        self.levels_first = calibration is not None and calibration.level_first

    def is_special(self, index: int) -> bool:
        """Return whether a decoder layer has other biases than those behind it."""
        return index == 0 and self.levels_first

    def read_keys(self, entries: Entries, index: int) -> torch.Tensor | None:
        """Return what each key of a layer adds, (B, stored + new) float32; None for nothing."""
        ledger = entries.ledger
        old = None if ledger is None else ledger.read_bias()
        new = self._measure_new(entries, index)
        if new is None:
            new = None if old is None else old.new_zeros(len(old), entries.new)
        elif old is None:
            old = new.new_zeros(len(new), entries.stored)
        if old is None or new is None:
            return None
        return torch.cat([old.to(new.device), new], dim=1)

    def _measure_new(self, entries: Entries, index: int) -> torch.Tensor | None:
        """Return what the tokens of this pass add as keys, (B, new) float32; None for nothing."""
        pruning, batch = entries.state.pruning, entries.batch
        if batch is None or pruning is None or not self.adds:
            return None
        compactor = pruning.compactor
        if self.is_special(index):
            return bias_of_sizes(share_prompt(compactor.samples, compactor.slots, batch.order))
        if compactor.sizes is None or not any(any(s.recycled) for s in compactor.samples):
            return None
        return bias_of_sizes(compactor.sizes.by_slot.gather(1, batch.order))

    def read_pairs(self, entries: Entries, kind: str, tables: Tables) -> torch.Tensor | None:
        """Return what pairs of tokens of a pruned pass add, (1 or B, n, n); None for nothing.

        It is made once for all layers of a kind. A drafted candidate of assisted decoding adds
        nothing as a query, as the decode step that it stands for adds nothing.

        Args:
            kind: how the layer attends; layers of one kind have the same tables.
            tables: rotary tables of the tokens that are left, each (1 or B, n, d).
        """
        state, batch = entries.state, entries.batch
        if batch is None or state.pruning is None or self.constant is None:
            return None
        key = ("pairs", kind, batch, tables[0].device)
        if key not in state.groups:
            if len(tables) != 2 or any(table.ndim != 3 for table in tables):
                raise UnsupportedError(
                    f"rotary tables are not one cosine and one sine for each token; {TESTED_WITH}, "
                    "or give calibrate=False."
                )
            pairs = bias_of_tables(*tables, self.constant)
            pruned = mark_pruned(state.pruning.compactor.samples, pairs.device)
            if pruned is not None:
                pairs = pairs * pruned[:, None, None]
            candidates = 0 if state.outline is None else state.outline.candidates
            pairs[:, pairs.shape[1] - candidates :] = 0.0
            state.groups[key] = pairs
        made: torch.Tensor = state.groups[key]
        return made

    def add_up(
        self, keys: torch.Tensor | None, entries: Entries, kind: str, tables: Tables
    ) -> torch.Tensor | None:
        """Return all that a layer adds, (1 or B, 1, 1 or n, keys) float; None for nothing.

        Args:
            keys: what each key adds, as `read_keys` returns it, on the device of the layer.
            kind: as of `read_pairs`.
            tables: as of `read_pairs`, on the device of the layer if the pass is pruned.
        """
        pairs = self.read_pairs(entries, kind, tables)
        if keys is None:
            return None if pairs is None else pairs[:, None]
        by_key = keys[:, None, None]
        return by_key if pairs is None else by_key + pairs[:, None]

    def check_past(self, outline: Outline, cache: Cache | None, *, whole: bool) -> None:
        """Check that a pass that is to be pruned holds all tokens whose distance counts.

        Args:
            outline: of the pass, or of a generate() call.
            cache: of the pass or call.
            whole: whether the outline is that of a call, whose ids hold those of the cache too.
        Raises: UnsupportedError: the cache holds some of them, whose positions are not known.
        """
        past = 0 if cache is None else int(cache.get_seq_length())
        if self.constant is None or not past:
            return
        pruned = any(schedule is not None and schedule.prunes for schedule in outline.schedules)
        new = outline.visual[:, past if whole else 0 :]
        if pruned and bool(new.any()):
            raise UnsupportedError(
                f"images behind a cache of {past} tokens cannot be calibrated, as the distance to "
                "these is not known; prefill the whole conversation with a new cache, or give "
                "calibrate=False."
            )


def find_unturned(config: Any) -> str:
    """Return why a text decoder has layers whose keys are not turned by position; "" if not."""
    if config.model_type == "cohere2":
        return "its layers of full attention turn no keys by their position"
    if not all(getattr(config, "no_rope_layers", None) or (True,)):
        return "some of its layers turn no keys by their position"
    return ""
