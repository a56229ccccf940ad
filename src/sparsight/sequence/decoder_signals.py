"""Reads what a method declares of the decoder at one site, beside hidden states and attention.

Text behind the last image is never dropped, and padding that pruning adds stands in front of a row.
So a text token stands as far from the end of its row as in the prompt, which tells its column at
every site.

Shapes: B samples of L slots; n tokens of each row before the site; G samples of a group, V visual
tokens of each, T tokens of text.
"""

from dataclasses import dataclass, replace

import torch

from sparsight.methods.decoder import DecoderKeys, TextStates
from sparsight.methods.parts.tensors import take
from sparsight.methods.view import View
from sparsight.sequence.rater_rows import AttentionCall
from sparsight.sequence.rater_signals import VisualTokens
from sparsight.sequence.sample import Group, Sample
from sparsight.sequence.slots import copy_to_device


@dataclass(frozen=True, eq=False)
class DecoderSignals:
    """What is read of the decoder at one site.

    Args:
        names: of the signals that the method declares.
        samples: the batch.
        hidden: (B, n, D) hidden states before the site.
        call: attention call of the layer before the site; None for methods that read none.
    """

    names: frozenset[str]
    samples: tuple[Sample, ...]
    hidden: torch.Tensor
    call: AttentionCall | None

    def add(self, view: View, group: Group, tokens: VisualTokens) -> View:
        """Return a view with the signals that the method declares, of those read here.

        Args:
            view: of the group.
            group: of the batch.
            tokens: its visual tokens.
        """
        if "norm" in self.names:
            view = replace(view, norm=self.samples[group.rows[0]].signals.norm)
        if self.names.isdisjoint(("text_states", "decoder_keys")):
            return view
        columns, present = self._find_text(group)
        if "text_states" in self.names:
            states = TextStates(take(group.take(self.hidden), columns), present)
            view = replace(view, text_states=states)
        if "decoder_keys" in self.names and self.call is not None:
            keys = group.take(self.call.key)  # (G, H, n + past, d)
            # keys of the cache stand in front of those of this pass
            past = keys.shape[2] - self.hidden.shape[1]
            visual, text = (
                take(keys, (part + past)[:, None].expand(-1, keys.shape[1], -1))
                for part in (tokens.columns, columns)
            )
            view = replace(view, decoder_keys=DecoderKeys(visual, text, present))
        return view

    def _find_text(self, group: Group) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the columns of a group's text, (G, T) int64, and which of them count, (G, T) bool.

        Samples with fewer tokens than others repeat their first one, which does not count. The
        second tensor is None if all samples have T tokens.
        """
        prompts = [self.samples[row].prompt for row in group.rows]
        counts = [len(prompt.text) for prompt in prompts]
        slots = torch.stack([fill_up(prompt.text, max(counts)) for prompt in prompts])
        device, gone = self.hidden.device, prompts[0].length - self.hidden.shape[1]
        columns = slots.to(device, non_blocking=True) - gone
        if len(set(counts)) == 1:
            return columns, None
        index = torch.arange(max(counts), device=device)
        return columns, index < copy_to_device(counts, device)[:, None]


def fill_up(slots: torch.Tensor, count: int) -> torch.Tensor:
    """Return slots (T,), filled up to (count,) with the first one."""
    return torch.cat([slots, slots[:1].expand(count - len(slots))])
