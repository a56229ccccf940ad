"""Pruned equals masked, for any model: its own eager full-length run, with the tokens that a trace drops hidden.

Hooks on the decoder layers write recycled values over their centres and take dropped tokens out of every later layer's
mask. What was decided comes from the trace; the model's own masks, windows, positions and added features stay.
"""

import torch


@torch.no_grad()
def run(model, inputs, steps, raters=(), *, aggregate="mean", then=()):
    """Run one unpadded sample.

    Args:
        model: loaded with eager attention.
        inputs: the prompt, and what was said after it.
        steps: the sample's part of a trace.
        raters: slots of its raters.
        then: for each later turn with images, its first slot and its part of a trace.
    Returns: logits (n, vocab) of the tokens that are left and of all that follows the prompt, and for each step the
        mean attention (V_i,) that raters pay to the tokens present, at the layer before the site.
    """
    ids, config, gone = inputs["input_ids"][0], model.config, []
    places = ((ids == config.image_token_id) | (ids == getattr(config, "video_token_id", -1))).nonzero().flatten()
    starts = [0, *(start for start, _ in then), len(ids)]
    turns = [
        (places[(places >= start) & (places < end)], own)
        for start, end, own in zip(starts, starts[1:], [steps, *(own for _, own in then)], strict=False)
    ]
    slots = turns[0][0]
    maps, layers = {}, model.model.language_model.layers
    handles = [
        layer.self_attn.register_forward_hook(lambda _, __, out, i=i: maps.update({i: out[1][0].mean(dim=0)}))
        for i, layer in enumerate(layers)
    ]
    handles += [
        layer.register_forward_pre_hook(_hook(index, turns, gone, aggregate), with_kwargs=True)
        for index, layer in enumerate(layers)
    ]
    try:
        result = model(**inputs, use_cache=False).logits[0]
    finally:
        for handle in handles:
            handle.remove()
    left = torch.ones(len(ids), dtype=torch.bool)
    left[gone] = False
    rated = [step for step in steps if step.site > 0 and len(raters)]
    return result[left], [maps[step.site - 1][raters][:, slots[step.present]].mean(dim=0) for step in rated]


def _hook(index, turns, gone, aggregate):
    def before(layer, args, kwargs):
        hidden = args[0]
        for slots, step in [(slots, step) for slots, steps in turns for step in steps if step.site == index]:
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
