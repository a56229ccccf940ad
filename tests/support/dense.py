"""Every method in a whole model, masked instead of shortened. Imports nothing of sparsight.

Of a method it reads the settings; sites, counts and choices are worked out by the references here.

The pass is dense: every layer computes the whole logical sequence, and a token dropped at a site is
masked as a key in every layer from the site on. A recycled token is written into the place of its
cluster's centre. One call runs several turns at once: everything is causal, so what a turn decides
depends on nothing after it.
"""

import math
from dataclasses import dataclass, field

import torch

from tests.support import reference as ref
from tests.support import reference_baselines as base
from tests.support import reference_bias
from tests.support import reference_counts as counts


@dataclass
class Turn:
    """One pass: unpadded ids, and the pixels (I, 3, H, W) of its images."""

    ids: list
    pixels: torch.Tensor | None = None


@dataclass
class Step:
    """What one site decided for one turn, in indices of the turn's original visual tokens."""

    site: int
    present: list
    keep: list
    score: list
    pool: list = field(default_factory=list)
    labels: list = field(default_factory=list)
    centres: list = field(default_factory=list)


@dataclass
class Part:
    """A turn on its way: slots of visual tokens, slots left in stored order, raters, decisions."""

    slots: list
    order: list
    raters: list
    steps: list = field(default_factory=list)


@dataclass
class State:
    """All turns on their way: hidden states (n, D), attention (H, n, n) of the last layer.

    Sizes are how many visual tokens recycled ones stand for, by slot.
    """

    hidden: torch.Tensor
    parts: list
    attention: torch.Tensor | None = None
    sizes: dict = field(default_factory=dict)

    def fold(self, centre, members):
        """Count what a recycled token stands for."""
        self.sizes[centre] = sum(self.sizes.get(slot, 1) for slot in members)

    @property
    def order(self):
        return [slot for part in self.parts for slot in part.order]


@dataclass
class Result:
    """Logits (n, vocab) of the tokens that are left, in stored order, and what led there."""

    logits: torch.Tensor
    raters: list
    steps: list
    stored: list  # per layer, the slots stored there, in order


class Reference:
    """One model and one method's settings; `run` takes turns of one sample."""

    def __init__(self, model, method):
        self.model, self.base = model, model.model
        self.decoder, self.method = self.base.language_model, method
        self.layers = list(self.decoder.layers)
        vision = self.base.config.vision_config
        self.side = vision.image_size // vision.patch_size

    @torch.no_grad()
    def run(self, *turns):
        """Run all turns in one dense pass."""
        state = self._start(turns)
        stored = []
        for index, layer in enumerate(self.layers):
            before = state.order
            for part in state.parts:
                if part.slots and index in self._plan(part).sites:
                    self._prune(index, state, part, before)
            stored.append(state.order)
            self._layer(index, layer, state)
        logits = self.model.lm_head(self.decoder.norm(state.hidden))
        parts = state.parts
        return Result(
            logits[stored[-1]], [p.raters for p in parts], [p.steps for p in parts], stored
        )

    def _start(self, turns):
        ids = [token for turn in turns for token in turn.ids]
        hidden = self.decoder.embed_tokens(torch.tensor(ids)).clone()
        parts = []
        start = 0
        for turn in turns:
            order = list(range(start, start + len(turn.ids)))
            placeholders = [slot for slot in order if ids[slot] == self.base.config.image_token_id]
            slots = (
                [] if turn.pixels is None else placeholders
            )  # a generated placeholder is a word like any other
            start += len(turn.ids)
            raters = []
            if slots:
                hidden[slots] = self._features(turn.pixels)
                text = [slot for slot in order if slot > slots[-1]]
                if type(self.method).__name__ == "AutoPrune":
                    raters = text
                elif "attention" in self.method.signals:
                    raters = [text[i] for i in ref.rate(hidden[slots], hidden[text])]
            parts.append(Part(slots, order, raters))
        return State(hidden, parts)

    def _features(self, pixels):
        """Return visual tokens (V, D); those of a smaller image stand for several placeholders."""
        count, small = len(pixels), (self.side, self.side)
        if type(self.method).__name__ == "Downscale":
            small = base.small_grid(self._grids(count), self.method.retain)
            size = [n * pixels.shape[-1] // self.side for n in small]
            scaled = torch.nn.functional.interpolate(
                pixels.float(), size=size, mode="bicubic", antialias=True
            )
            pixels = scaled.to(pixels.dtype)
        states = self.base.vision_tower(
            pixels, interpolate_pos_encoding=True, output_hidden_states=True
        ).hidden_states
        features = self.base.multi_modal_projector(
            states[self.base.config.vision_feature_layer][:, 1:]
        )
        return features[:, base.under((self.side, self.side), small)].flatten(0, 1)

    def _grids(self, count):
        return ((self.side, self.side),) * count

    def _plan(self, part):
        grids = self._grids(len(part.slots) // self.side**2)
        return counts.plan(self.method, grids, len(self.layers))

    def _positions(self, order, length):
        position = list(range(length))
        if self.method.positions == "renumber":
            for number, slot in enumerate(order):
                position[slot] = number
        return position

    def _layer(self, index, layer, state):
        hidden, order = state.hidden, state.order
        length, allowed = len(hidden), torch.eye(len(hidden), dtype=torch.bool)
        for number, slot in enumerate(order):  # a token that is left sees those before it
            allowed[slot, order[:number]] = True
        positions = self._positions(order, length)
        bias = self._bias(index, state, positions)
        positions = torch.tensor(positions)
        attended, state.attention = self._attend(layer, hidden, allowed, positions, bias)
        hidden = hidden + attended
        state.hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))

    def _bias(self, index, state, positions):
        terms = reference_bias.terms_of(self.method)
        prompts, start = [], 0
        for part in state.parts:
            visual = set(part.slots)
            left = [slot for slot in part.order if slot in visual]
            end = start + len(part.order) + len(visual) - len(left)
            if len(left) < len(visual):
                prompts.append(reference_bias.Prompt(range(start, end), part.slots, left))
            start = end
        if terms is None or not prompts:
            return 0.0
        base = self.decoder.config.rope_parameters["rope_theta"]
        axes = [reference_bias.frequencies(base, self.layers[0].self_attn.head_dim)]
        places = reference_bias.Places([[position] for position in positions], axes)
        return reference_bias.biases(terms, index, prompts, state.sizes, places)

    def _attend(self, layer, hidden, allowed, positions, bias):
        attn = layer.self_attn
        normed = layer.input_layernorm(hidden)
        length = len(hidden)
        query = attn.q_proj(normed).view(length, -1, attn.head_dim)
        key = attn.k_proj(normed).view(length, -1, attn.head_dim)
        value = attn.v_proj(normed).view(length, -1, attn.head_dim)
        cos, sin = (table[0] for table in self.decoder.rotary_emb(hidden[None], positions[None]))
        heads, maps = [], []
        for h in range(query.shape[1]):
            own = h * key.shape[1] // query.shape[1]  # grouped queries share a key head
            logits = (
                _rotate(query[:, h], cos, sin)
                @ _rotate(key[:, own], cos, sin).T
                / math.sqrt(attn.head_dim)
            ) + bias
            weights = logits.masked_fill(~allowed, float("-inf")).softmax(dim=-1)
            heads.append(weights @ value[:, own])
            maps.append(weights)
        return attn.o_proj(torch.cat(heads, dim=-1)), torch.stack(maps)

    def _prune(self, site, state, part, before):
        slots = part.slots
        present = [slot for slot in part.order if slot in set(slots)]
        if "attention" not in self.method.signals:
            self._prune_blindly(site, state, part, present)
            return
        score = self._score(state, part, present, self._positions(before, len(state.hidden)))
        kept, clusters = self._counts(site, state.attention, part, present)
        if kept + clusters >= len(present) and not self._adapts(part):
            return
        keep = ref.choose(score, kept, [_run(slots, slot) for slot in present])
        step = Step(
            site, [slots.index(s) for s in present], [slots.index(present[i]) for i in keep], score
        )
        part.steps.append(step)
        centres = self._recycle(state, part, [present, keep, clusters]) if clusters else []
        part.order = self._reorder(part, {present[i] for i in keep}, centres)

    def _prune_blindly(self, site, state, part, present):
        slots, plan = part.slots, self._plan(part)
        count = plan.counts[plan.sites.index(site)]
        if count >= len(present):
            return
        grids = self._grids(len(slots) // self.side**2)
        images = [_run(slots, slot) for slot in present]
        keep, score, cells, centres = base.choose(self.method, site, grids, images, count)
        names = [slots.index(slot) for slot in present]
        place = [present[c] for c in centres]
        step = Step(
            site, names, [names[i] for i in keep], score, centres=[names[c] for c in centres]
        )
        pooled = sorted((token, label) for label, cell in enumerate(cells) for token in cell)
        step.pool = [names[token] for token, _ in pooled]
        step.labels = [label for _, label in pooled]
        if cells:
            visual = state.hidden[present]
            values = torch.stack([visual[cell].mean(dim=0) for cell in cells])
            state.hidden = state.hidden.index_copy(0, torch.tensor(place), values)
        part.steps.append(step)
        part.order = self._reorder(part, {present[i] for i in keep}, place)

    def _score(self, state, part, present, position):
        attention, method = state.attention, self.method
        if not hasattr(method, "heads"):
            return ref.mean_score(attention, part.raters, present)
        total, width = len(attention), self.layers[0].self_attn.head_dim
        base = self.decoder.config.rope_parameters["rope_theta"]
        count = (
            min(method.heads, total)
            if isinstance(method.heads, int)
            else max(1, int(method.heads * total))
        )

        def prior(rater, column):
            return ref.prior(
                abs(position[rater] - position[column]), base, width, method.prior_floor
            )

        return ref.corrected_score(attention, part.raters, present, prior, count)

    def _adapts(self, part):
        """Whether the rank decides: by level="rank", unless the budget says to keep everything."""
        plan = self._plan(part)
        unbounded = self.method.retain is None
        return getattr(self.method, "level", None) == "rank" and (
            unbounded or min(plan.counts) < len(part.slots)
        )

    def _counts(self, site, attention, part, present):
        method, plan = self.method, self._plan(part)
        step = plan.sites.index(site)
        kept, clusters = plan.kept[step], plan.recycled[step]
        if not self._adapts(part):
            return kept, clusters
        rows = attention.mean(dim=0)[part.raters][:, present].tolist()
        removed = int(
            method.prune_scale * (len(present) - ref.rank_of(rows, method.rank_tolerance))
        )
        own = max(1, len(present) - removed)
        extra = (
            ref.pool_size(len(present) - own, method.tau, method.theta)[1]
            if method.recycle and removed
            else 0
        )
        return (own, extra) if own + extra <= kept + clusters else (kept, clusters)

    def _recycle(self, state, part, choice):
        present, keep, clusters = choice
        method = self.method
        step = part.steps[-1]
        dropped = [i for i in range(len(present)) if i not in keep]
        shares = getattr(method, "tau", 0.3), getattr(method, "theta", 0.1)
        size = max(ref.pool_size(len(dropped), *shares)[0], clusters)
        scores = [step.score[i] for i in dropped]
        pool = [dropped[i] for i in ref.choose(scores, size)]
        points = [state.hidden[present[i]].tolist() for i in pool]
        centres, labels = ref.density_peaks(points, clusters)
        aggregate = getattr(method, "aggregate", "mean")
        values = ref.merge(points, labels, clusters, aggregate)
        where = [present[pool[c]] for c in centres]
        state.hidden = state.hidden.index_copy(
            0, torch.tensor(where), torch.tensor(values, dtype=state.hidden.dtype)
        )
        for label, slot in enumerate(where):
            members = [present[i] for i, own in zip(pool, labels, strict=True) if own == label]
            state.fold(slot, members)
        step.pool = [part.slots.index(present[i]) for i in pool]
        step.labels, step.centres = labels, [part.slots.index(s) for s in where]
        return where

    def _reorder(self, part, keep, centres):
        order, slots = part.order, part.slots
        if self.method.positions == "keep":
            return [s for s in order if s not in set(slots) or s in keep or s in centres]
        result = []
        for slot, following in zip(order, [*order[1:], None], strict=True):
            if slot not in set(slots) or slot in keep:
                result.append(slot)
            own = _run(slots, slot) if slot in set(slots) else None
            if own is not None and (following not in set(slots) or _run(slots, following) != own):
                result += [
                    c for c in centres if _run(slots, c) == own
                ]  # behind the last token of their image
        return result


@dataclass
class Decision:
    """What was kept and rebuilt at one site, in indices of the sample's visual tokens."""

    site: int
    keep: list
    centres: list
    entering: torch.Tensor  # (n, D) what entered the layer of the site, in stored order
    pool: list = field(default_factory=list)
    labels: list = field(default_factory=list)


class Replay(Reference):
    """Masks what somebody else decided for the one turn with images; what to keep is not judged."""

    def __init__(self, model, method, decisions):
        super().__init__(model, method)
        self.decisions = {decision.site: decision for decision in decisions}
        self.sites = tuple(self.decisions)

    def _plan(self, part):
        return self  # of a plan, only its sites are asked for

    def _prune(self, site, state, part, before):
        decision, slots = self.decisions[site], part.slots
        keep = [slots[i] for i in decision.keep]
        centres = [slots[i] for i in decision.centres]
        part.order = self._reorder(part, set(keep), centres)
        for label, centre in enumerate(centres):
            pairs = zip(decision.pool, decision.labels, strict=True)
            state.fold(centre, [slots[i] for i, own in pairs if own == label])
        if centres:
            values = decision.entering[[part.order.index(slot) for slot in centres]]
            state.hidden = state.hidden.index_copy(0, torch.tensor(centres), values)


def _rotate(x, cos, sin):
    half = x.shape[-1] // 2
    return x * cos + torch.cat([-x[:, half:], x[:, :half]], dim=-1) * sin


def _run(slots, slot):
    """Which contiguous run of placeholders, an image, a slot belongs to."""
    at = slots.index(slot)
    return sum(slots[i] != slots[i - 1] + 1 for i in range(1, at + 1))


def turn(model, inputs):
    """Read one unpadded sample as a turn of a model of this dtype."""
    pixels = inputs.get("pixel_values")
    return Turn(inputs["input_ids"][0].tolist(), None if pixels is None else pixels.to(model.dtype))
