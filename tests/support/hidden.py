"""Pruned equals masked, for any model: its own eager dense run with dropped tokens masked.

Hooks on the decoder layers write recycled values over their centres and take dropped tokens out of
every later layer's mask. What was decided comes from the trace; the model's own masks, windows,
positions and added features stay, unless positions count what is left: then rotary tables are made
for those, and masks are causal in the order of what is left.
"""

from dataclasses import dataclass, field
from functools import partial

import torch

from tests.support import reference_bias
from tests.support.contract import decoder_of, placeholders


@dataclass
class Run:
    """One run on its way.

    Args:
        turns: for each turn with images, slots of its visual tokens and its part of a trace.
        order: slots that are left, in stored order.
        decoder: of the model.
        renumber: whether positions count what is left.
        aggregate: what a recycled token is.
        maps: mean attention of each layer.
        calibrated: a method whose biases are added, and the length of its prompt; or None.
        sizes: of recycled tokens, by slot.
        places: (axes, L) positions that the decoder got.
    """

    turns: list
    order: list
    decoder: object
    renumber: bool
    aggregate: str
    maps: dict = field(default_factory=dict)
    calibrated: tuple | None = None
    sizes: dict = field(default_factory=dict)
    places: list = field(default_factory=list)


@torch.no_grad()
def run(
    model,
    inputs,
    steps,
    raters=(),
    *,
    aggregate="mean",
    then=(),
    renumber=False,
    calibrated=None,
):
    """Run one unpadded sample.

    Args:
        model: loaded with eager attention.
        inputs: the prompt, and what was said after it.
        steps: the sample's part of a trace.
        raters: slots of its raters.
        then: for each later turn with images, its first slot and its part of a trace.
        calibrated: a method whose biases are added, and the length of its prompt.
        renumber: whether the method's positions count what is left, and recycled tokens stand
            behind their image.
    Returns: logits (n, vocab) of the tokens that are left and of all that follows the prompt, in
    stored order, and for
        each step the mean attention (V_i,) that raters pay to the tokens present, at the layer
        before the site.
    """
    options = {"aggregate": aggregate, "then": then, "renumber": renumber}
    state, result = _follow(model, inputs, steps, **options, calibrated=calibrated)
    rated, slots = [step for step in steps if step.site > 0 and len(raters)], state.turns[0][0]
    scores = [
        state.maps[step.site - 1][raters][:, slots[step.present]].mean(dim=0) for step in rated
    ]
    return result[state.order], scores


def ahead(model, inputs, steps, raters, *, before=None, start=0, renumber=False):
    """For each step of a sample the mean attention (V_i,) in the site's own layer, unpruned.

    Args:
        model: loaded with eager attention.
        inputs: the prompt, and all that was said before it.
        steps: the sample's part of a trace.
        raters: slots of its raters.
        before: the part of a trace of an earlier turn with images; None if there is none.
        start: slot of the turn's first token.
        renumber: whether the method's positions count what is left.
    """
    scores = []
    for number, step in enumerate(steps):
        own, then = steps[:number], ()
        if before is not None:
            own, then = before, [(start, own)]
        state, _ = _follow(model, inputs, own, then=then, renumber=renumber)
        slots = state.turns[-1][0]
        scores.append(state.maps[step.site][raters][:, slots[step.present]].mean(dim=0))
    return scores


@torch.no_grad()
def _follow(model, inputs, steps, *, aggregate="mean", then=(), renumber=False, calibrated=None):
    """Run one unpadded sample; return where it ended, and the logits of all slots."""
    ids = inputs["input_ids"][0]
    places = torch.isin(ids, torch.tensor(sorted(placeholders(model.config)))).nonzero().flatten()
    starts, traces = [0], [steps]
    for start, trace in then:
        starts.append(start)
        traces.append(trace)
    turns = []
    for start, end, trace in zip(starts, [*starts[1:], len(ids)], traces, strict=True):
        turns.append((places[(places >= start) & (places < end)], trace))
    decoder = decoder_of(model)
    state = Run(turns, list(range(len(ids))), decoder, renumber, aggregate)
    state.calibrated = calibrated

    def note_places(_, __, kwargs):
        places = kwargs.get("position_ids")
        places = torch.arange(len(ids))[None] if places is None else places
        state.places = (places[-3:, 0] if places.ndim == 3 else places[:1]).T.tolist()

    handles = [decoder.register_forward_pre_hook(note_places, with_kwargs=True)]
    for i, layer in enumerate(decoder.layers):
        handles.append(layer.self_attn.register_forward_hook(partial(_note, i, state)))
        handles.append(layer.register_forward_pre_hook(_hook(i, state), with_kwargs=True))
    try:
        result = model(**inputs, use_cache=False).logits[0]
    finally:
        for handle in handles:
            handle.remove()
    return state, result


def _note(index, state, _, __, out):
    """Keep a layer's attention, averaged over heads."""
    state.maps[index] = out[1][0].mean(dim=0)


def _hook(index, state):
    def before(layer, args, kwargs):
        hidden = args[0]
        here = [
            (slots, step) for slots, steps in state.turns for step in steps if step.site == index
        ]
        for slots, step in here:
            hidden = _write(hidden, slots, step, state)
            state.order = _reorder(state, slots, step)
        if state.order == list(range(hidden.shape[1])):
            return (hidden, *args[1:]), kwargs
        mask = kwargs["attention_mask"]
        assert mask.ndim == 4, "eager attention goes without a mask"
        changed = {
            "attention_mask": mask.masked_fill(
                ~_visible(state, mask.shape[-1]), torch.finfo(mask.dtype).min
            )
        }
        if state.renumber:
            allowed = _visible(state, mask.shape[-1])
            changed["attention_mask"] = torch.zeros_like(mask).masked_fill(
                ~allowed, torch.finfo(mask.dtype).min
            )
            ranks = torch.tensor(_ranks(state, mask.shape[-1])).clamp_min(0)
            changed["position_embeddings"] = state.decoder.rotary_emb(hidden, ranks[None])
        if state.calibrated is not None:
            changed["attention_mask"] = changed["attention_mask"] + _biases(index, state)
        return (hidden, *args[1:]), {**kwargs, **changed}

    return before


def _ranks(state, length):
    """Place of each slot in stored order; -1 for those that are gone."""
    rank = [-1] * length
    for number, slot in enumerate(state.order):
        rank[slot] = number
    return rank


def _visible(state, length):
    """Return (L, L) bool: a dropped token is seen by itself alone, so that no row is empty."""
    rank = torch.tensor(_ranks(state, length))
    seen = (
        (rank >= 0) & (rank <= rank[:, None]) if state.renumber else (rank >= 0).expand(length, -1)
    )
    return seen | torch.eye(length, dtype=torch.bool)


def _biases(index, state):
    """What queries add to their logits of keys; later turns bring no image."""
    method, length = state.calibrated
    rotary = state.decoder.rotary_emb
    kind = getattr(state.decoder.config, "layer_types", None) or [None] * (index + 1)
    every = getattr(rotary, f"{kind[index]}_inv_freq", None)
    every = (rotary.inv_freq if every is None else every).tolist()
    axes, rope = [every], state.decoder.config.rope_parameters
    if "mrope_section" in rope:
        mixed = rope.get("mrope_interleaved", False)
        axes = reference_bias.split_by_axis(every, rope["mrope_section"], mixed)
    slots = state.turns[0][0].tolist()
    left = [slot for slot in slots if slot in set(state.order)]
    prompt = reference_bias.Prompt(range(length), slots, left)
    terms, places = reference_bias.terms_of(method), reference_bias.Places(state.places, axes)
    return reference_bias.biases(terms, index, [prompt], state.sizes, places)


def _write(hidden, slots, step, state):
    hidden = hidden.clone()
    members, rows = slots[step.pool].tolist(), None
    if len(step.centres):
        rows = hidden[0, members]
    sizes = torch.tensor([state.sizes.get(slot, 1) for slot in members], dtype=hidden.dtype)
    totals = {}
    for label, centre in enumerate(slots[step.centres].tolist()):
        own, often = rows[step.labels == label], sizes[step.labels == label]
        totals[centre] = float(often.sum())
        means = {
            "sum": own.sum(dim=0),
            "mean": own.mean(dim=0),
            "by size": (own * often[:, None]).sum(dim=0) / often.sum(),
        }
        hidden[0, centre] = means[state.aggregate]
    state.sizes.update(totals)
    return hidden


def _reorder(state, slots, step):
    """Return the slots left; renumbered, recycled tokens stand at the end of their image."""
    present, stays = set(slots[step.present].tolist()), set(slots[step.survivors].tolist())
    if not state.renumber:
        return [slot for slot in state.order if slot not in present or slot in stays]
    image = dict(
        zip(slots.tolist(), (slots.diff(prepend=slots[:1]) > 1).cumsum(0).tolist(), strict=True)
    )
    kept, centres = slots[step.keep].tolist(), slots[step.centres].tolist()
    last, result = {image[slot]: slot for slot in state.order if slot in present}, []
    for slot in state.order:
        if slot not in present or slot in set(kept):
            result.append(slot)
        if slot in present and last[image[slot]] == slot:
            result += [centre for centre in centres if image[centre] == image[slot]]
    return result
