"""What a run decided, for a slow dense run that masks what was dropped."""

from dataclasses import dataclass, field

import torch
from transformers import DynamicCache

from sparsight import sparsify
from tests.support import contract, dense
from tests.support.caches import cached


@dataclass
class Seen:
    """One prefill and what followed: logits (B, n, vocab) of each pass, and what was decided."""

    model: object
    method: object
    trace: object
    stats: object
    entering: dict
    parts: list = field(default_factory=list)

    def wanted(self, reference, alone, sample, *said):
        """Float64 logits of one sample, and of what was said behind it."""
        lengths = self.stats.tokens_per_layer[sample]
        decisions = [
            dense.Decision(
                site.site,
                site.keep.tolist(),
                site.centres.tolist(),
                self.entering[site.site][sample, -lengths[site.site] :].to(reference.dtype),
                site.pool.tolist(),
                site.labels.tolist(),
            )
            for site in self.trace.samples[sample]
        ]
        inputs = {k: v.to(reference.dtype) if k == "pixel_values" else v for k, v in alone.items()}
        turns = [dense.turn(reference, inputs), *(dense.Turn(list(part)) for part in said)]
        return dense.Replay(reference, self.method, decisions).run(*turns).logits

    def got(self, sample):
        """Logits of a sample's tokens that are left, and of all that was said."""
        left = self.stats.tokens_per_layer[sample][-1]
        return torch.cat(
            [self.parts[0][sample, -left:], *(part[sample] for part in self.parts[1:])]
        )


@torch.no_grad()
def watch(model, method, inputs, *later, cache=None):
    """Run a prompt, and behind it passes of equal length for all samples, each (B, n) ids."""
    cache = DynamicCache() if cache is None else cache
    mask = inputs["attention_mask"]
    with sparsify(model, method) as run, contract.Probe(model) as probe:
        parts = [model(**inputs, **cached(cache)).logits]
        entering = dict(probe.entering)
        for ids in later:
            mask = torch.cat([mask, mask.new_ones(ids.shape)], dim=1)
            parts.append(model(input_ids=ids, attention_mask=mask, **cached(cache)).logits)
    return Seen(model, method, run.trace, run.stats, entering, parts)
