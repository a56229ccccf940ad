"""Pruned equals masked, for any model: its own eager full-length run, with the tokens that a trace drops hidden.

Hooks on the decoder layers write recycled values over their centres and take dropped tokens out of every later layer's
mask. What was decided comes from the trace; the model's own masks, windows, positions and added features stay.
"""

import torch


@torch.no_grad()
def logits(model, inputs, steps, aggregate="mean"):
    """Return logits (n, vocab) of one unpadded sample's tokens that are left, and of all that follows the prompt.

    Args:
        model: loaded with eager attention.
        inputs: the prompt, and what was said after it.
        steps: the sample's part of a trace.
    """
    ids, config = inputs["input_ids"][0], model.config
    places = (ids == config.image_token_id) | (ids == getattr(config, "video_token_id", -1))
    slots, gone = places.nonzero().flatten(), []
    handles = [
        layer.register_forward_pre_hook(_hook(index, slots, steps, gone, aggregate), with_kwargs=True)
        for index, layer in enumerate(model.model.language_model.layers)
    ]
    try:
        result = model(**inputs, use_cache=False).logits[0]
    finally:
        for handle in handles:
            handle.remove()
    left = torch.ones(len(ids), dtype=torch.bool)
    left[gone] = False
    return result[left]


def _hook(index, slots, steps, gone, aggregate):
    def before(layer, args, kwargs):
        hidden = args[0]
        for step in steps:
            if step.site == index:
                hidden = _write(hidden, slots, step, aggregate)
                stays = set(step.survivors.tolist())
                gone.extend(int(slots[name]) for name in step.present.tolist() if name not in stays)
        mask = kwargs["attention_mask"]
        assert mask.ndim == 4, "eager attention goes without a mask"
        columns = torch.zeros(mask.shape[-1], dtype=torch.bool)
        columns[gone] = True
        hides = columns & ~torch.eye(len(columns), dtype=torch.bool)  # a token that is gone sees itself: no empty row
        return (hidden, *args[1:]), {**kwargs, "attention_mask": mask.masked_fill(hides, torch.finfo(mask.dtype).min)}

    return before


def _write(hidden, slots, step, aggregate):
    hidden = hidden.clone()
    rows = hidden[0, slots[step.pool]] if len(step.centres) else None
    for label, centre in enumerate(step.centres.tolist()):
        members = rows[step.labels == label]
        hidden[0, slots[centre]] = members.sum(dim=0) if aggregate == "sum" else members.mean(dim=0)
    return hidden
