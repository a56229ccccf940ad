"""A slow dense run of any model in which dropped tokens are hidden from the layers that follow. Float64, no cache.

What was dropped is taken from a trace; everything else is the model's own code at full length, so what this checks is
that a shortened run computes the same: masks, rotary tables, cache and order.
"""

import torch

from tests.contract import decoder_of


def left_after(sites, slots, length):
    """Slots that are left in the sequence from each site on.

    Args:
        sites: SiteTraces of one sample, nothing recycled.
        slots: of its visual tokens.
        length: of the sequence.
    """
    found = {}
    for step in sites:
        assert not len(step.centres), "recycled tokens cannot be masked"
        dropped = {slots[i] for i in range(len(slots))} - {slots[i] for i in step.keep.tolist()}
        found[step.site] = [slot for slot in range(length) if slot not in dropped]
    return found


def visible(left, length):
    """(1, 1, L, L) added mask: causal, and of the others' keys only those that are left."""
    columns = torch.zeros(length, dtype=torch.bool)
    columns[left] = True
    allowed = (columns[None] | torch.eye(length, dtype=torch.bool)).tril()
    return torch.zeros(1, 1, length, length, dtype=torch.float64).masked_fill(~allowed[None, None], -1e9)


@torch.no_grad()
def run(model, inputs, after, renumber):
    """Run one sample without padding and return the logits of what is left at the end: (n, vocab).

    Args:
        model: in float64 with eager attention.
        inputs: what the sample's prompt and its answer need, in one pass.
        after: slots that are left from each site on.
        renumber: whether positions count what is left.
    """
    decoder, length = decoder_of(model), inputs["input_ids"].shape[1]
    handles, left = [], list(range(length))
    for index, layer in enumerate(decoder.layers):
        left = after.get(index, left)
        changed = {"attention_mask": visible(left, length)}
        if renumber:
            places = torch.zeros(1, length, dtype=torch.int64)
            places[0, left] = torch.arange(len(left))
            hidden = torch.zeros(1, length, 1, dtype=torch.float64)
            changed["position_embeddings"] = decoder.rotary_emb(hidden, places)
        hook = lambda _, args, kwargs, changed=changed: (args, {**kwargs, **changed})  # noqa: E731
        handles.append(layer.register_forward_pre_hook(hook, with_kwargs=True))
    try:
        return model(**inputs, use_cache=False).logits[0, left]
    finally:
        for handle in handles:
            handle.remove()
