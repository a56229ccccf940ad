"""What the engine owes every method and prompt, as checks that look at the layers' inputs."""

from dataclasses import dataclass
from functools import cached_property

import torch
from transformers import DynamicCache

from sparsight import sparsify
from tests.support import reference_counts, tiny
from tests.support.caches import cached


class Probe:
    """Records what goes in and out of every decoder layer.

    Enter it inside the sparsify block, so that its hooks come last.
    """

    def __init__(self, model):
        self.decoder = decoder_of(model)
        self.layers = list(self.decoder.layers)
        self.entering = {}
        self.leaving = {}
        self._handles = []

    def __enter__(self):
        def note(_, __, kwargs):
            # what enters the decoder is what leaves the layer before layer 0
            self.leaving[-1] = kwargs["inputs_embeds"]

        self._handles.append(self.decoder.register_forward_pre_hook(note, with_kwargs=True))
        for index, layer in enumerate(self.layers):
            before = layer.register_forward_pre_hook(
                lambda _, args, i=index: self.entering.update({i: args[0]})
            )
            after = layer.register_forward_hook(
                lambda _, __, out, i=index: self.leaving.update({i: out})
            )
            self._handles += [before, after]
        return self

    def __exit__(self, *_):
        for handle in self._handles:
            handle.remove()


def decoder_of(model):
    return getattr(model.model, "language_model", None) or model.model.text_model


def placeholders(config):
    """Ids that stand for visual tokens."""
    return {getattr(config, f"{kind}_token_id", None) for kind in ("image", "video")} - {None}


@dataclass
class Site:
    """One sample at one site.

    Args:
        before: slots among the sample's real tokens; None for a rebuilt token.
        after: slots that are left.
        recycled: slots that rebuilt tokens took over.
    """

    before: list
    after: list
    recycled: set


@dataclass
class Seen:
    """One prefill."""

    inputs: dict
    logits: torch.Tensor
    cache: DynamicCache
    probe: Probe
    stats: object
    trace: object
    promised: list  # per sample, its schedule or None
    placeholders: set

    @property
    def samples(self):
        return range(len(self.inputs["input_ids"]))

    def real_ids(self, sample):
        return self.inputs["input_ids"][sample][
            self.inputs["attention_mask"][sample].bool()
        ].tolist()

    def visual(self, sample):
        return [i for i, token in enumerate(self.real_ids(sample)) if token in self.placeholders]

    def text_count(self, sample):
        return len(self.real_ids(sample)) - len(self.visual(sample))

    def tail(self, sample):
        """Logits of the sample's tokens that are left."""
        return self.logits[sample, -self.stats.tokens_per_layer[sample][-1] :]

    def sites(self, sample):
        """Follow the sample's tokens through all sites by comparing hidden states bit by bit."""
        labels, visual = list(range(len(self.real_ids(sample)))), self.visual(sample)
        steps = {step.site: step for step in self.trace.samples[sample]}
        for site in self.stats.sites:
            count = self.stats.tokens_per_layer[sample][site]
            full = self.probe.leaving[site - 1][sample][-len(labels) :]
            short = self.probe.entering[site][sample][-count:]
            after, used = [], {-1}
            for row in short:
                where = (row == full).all(dim=-1).nonzero().flatten().tolist()
                fresh = [
                    i for i in where if i not in used
                ]  # equal words and row ends are equal at the input
                fresh = [i for i in fresh if i > max(used)] or fresh
                used.update(fresh[:1])
                after.append(labels[(fresh or where)[0]] if where else None)
            recycled = {visual[c] for c in steps[site].centres.tolist()} if site in steps else set()
            yield Site(labels, after, recycled)
            labels = [None if label in recycled else label for label in after]


def prefill(model, method, inputs):
    """Run one prefill and watch it."""
    if "mm_token_type_ids" not in inputs:  # such models place their tokens themselves
        inputs = {"position_ids": positions(inputs["attention_mask"]), **inputs}
    cache = DynamicCache(config=model.config)
    with sparsify(model, method) as run, Probe(model) as probe, torch.no_grad():
        logits = model(**inputs, **cached(cache)).logits
    ids = placeholders(model.config)
    counts = torch.isin(inputs["input_ids"], torch.tensor(sorted(ids))).sum(dim=-1).tolist()
    promised = [promise(method, count, len(probe.layers)) if count else None for count in counts]
    return Seen(inputs, logits, cache, probe, run.stats, run.trace, promised, ids)


def is_adaptive(method):
    """Whether planned counts are upper bounds, as they depend on what the method sees."""
    by_level = getattr(method, "level", None) in ("rank", "outliers", "adaptive")
    return by_level or hasattr(method, "mark_patches")


def promise(method, count, layers):
    """Return a sample's plan: of the slow reference, or a test's own method's own."""
    if type(method).__name__ not in reference_counts.PRESETS:
        own = method.plan(count, layers)
        return reference_counts.Plan(own.sites, own.kept, own.recycled)
    side, grids = tiny.SIDE // tiny.PATCH, ((1, count),)
    if method.scales_images or type(method).__name__ == "ToMe":
        grids = ((side, side),) * (count // side**2)
    return reference_counts.plan(method, grids, layers)


def positions(mask):
    """Position ids as generate() makes them."""
    return (mask.cumsum(-1) - 1).clamp_min(0)


def image_numbers(slots):
    """For each slot of a visual token the number of its image: a contiguous run of slots."""
    numbers = []
    for before, slot in zip([None, *slots], slots, strict=False):
        number = numbers[-1] if numbers else 0
        numbers.append(number + (before is not None and slot != before + 1))
    return numbers


@dataclass
class Case:
    """A model, a method and a batch; its prefill runs once for all checks that only look at it."""

    model: object
    method: object
    batch: tiny.Batch

    @cached_property
    def seen(self):
        return prefill(self.model, self.method, self.batch.inputs)


def check(model, method, batch, *names):
    """Run the named checks, all of them by default."""
    case = Case(model, method, batch)
    for name in names or CHECKS:
        CHECKS[name](case)


# ---- checks


def check_counts(case):
    """Every layer processes and stores what was promised before the run."""
    seen, method = case.seen, case.method
    layers, rows = len(seen.probe.layers), []
    for b in seen.samples:
        plan, stats = seen.promised[b], seen.stats.schedules[b]
        promised = (0,) * layers
        if plan is not None:
            promised = plan.entering(len(seen.visual(b)), layers)
        rows.append([seen.text_count(b) + count for count in promised])
        if plan is None:
            continue
        if is_adaptive(method):
            assert all(
                real <= most for real, most in zip(stats.counts, plan.counts, strict=True)
            ), "more than promised"
            rows[-1] = [seen.text_count(b) + count for count in stats.entering]
        else:
            assert (stats.kept, stats.recycled) == (plan.kept, plan.recycled), (
                "other counts than promised"
            )
        for step in seen.trace.samples[b]:
            at = plan.sites.index(step.site)
            assert (len(step.keep), len(step.centres)) == (stats.kept[at], stats.recycled[at]), (
                "the trace disagrees"
            )
    assert seen.stats.tokens_per_layer == tuple(map(tuple, rows)), "stats disagree with the promise"
    for layer in range(layers):
        longest = max(row[layer] for row in rows)
        assert seen.probe.entering[layer].shape[1] == longest, (
            f"layer {layer} processed another number of tokens"
        )
        stored = min(longest, getattr(seen.cache.layers[layer], "sliding_window", longest + 1) - 1)
        assert seen.cache.layers[layer].keys.shape[-2] == stored, (
            f"layer {layer} stored another number of tokens"
        )


def check_text(case):
    """No text token is lost at any site."""
    seen = case.seen
    for b in seen.samples:
        text = set(range(len(seen.real_ids(b)))) - set(seen.visual(b))
        for site in seen.sites(b):
            assert text <= set(site.after), f"sample {b} lost text"


def check_order(case):
    """Text and kept tokens stay in the order of the prompt."""
    seen = case.seen
    for b in seen.samples:
        for site in seen.sites(b):
            stayed = [slot for slot in site.after if slot is not None and slot not in site.recycled]
            assert stayed == sorted(stayed), f"sample {b} changed its order"


def check_distinct(case):
    """No token stands twice."""
    seen = case.seen
    for b in seen.samples:
        for site in seen.sites(b):
            stayed = [slot for slot in site.after if slot is not None]
            assert len(stayed) == len(set(stayed)), f"sample {b} holds a token twice"


def check_images(case):
    """Where counts allow it, no image disappears."""
    seen = case.seen
    for b in seen.samples:
        image_of = image_numbers(seen.visual(b))
        for step in seen.trace.samples[b]:
            images = {image_of[name] for name in step.present.tolist()}
            left = {image_of[name] for name in step.survivors.tolist()}
            plan = seen.promised[b]
            at = plan.sites.index(step.site)
            promised = plan.kept[at] or plan.counts[at]
            kept = len(step.keep) if is_adaptive(case.method) else promised
            assert left == images or kept < len(images), f"sample {b} lost an image"


def check_finite(case):
    """No NaN and no infinity, in scores or logits."""
    seen = case.seen
    for b in seen.samples:
        assert bool(seen.tail(b).isfinite().all()), "logits are not finite"
        scores = [step.score for step in seen.trace.samples[b] if step.score is not None]
        assert all(bool(score.isfinite().all()) for score in scores), "scores are not finite"


def check_repeatable(case):
    """Two runs agree bit for bit."""
    first, second = case.seen, prefill(case.model, case.method, case.batch.inputs)
    assert first.logits.shape == second.logits.shape, "two runs differ"
    assert torch.equal(first.logits, second.logits), "two runs differ"


def check_alone(case):
    """A sample in a batch keeps the same tokens and gives the same logits as alone."""
    model = case.model
    method = case.method
    together = case.seen
    if len(case.batch.alone) == 1:  # the batch is the sample alone
        return
    for b, own in enumerate(case.batch.alone):
        alone = prefill(model, method, own) if together.promised[b] is not None else None
        if alone is None:
            with torch.no_grad():
                close(
                    together.tail(b),
                    model(**own).logits[0],
                    f"text-only sample {b} differs from alone",
                )
            continue
        for left, right in zip(together.trace.samples[b], alone.trace.samples[0], strict=True):
            assert left.keep.tolist() == right.keep.tolist(), f"sample {b} keeps other tokens alone"
            assert left.centres.tolist() == right.centres.tolist(), (
                f"sample {b} recycles other tokens alone"
            )
        close(together.tail(b), alone.logits[0], f"sample {b} differs from alone")


def check_decode(case):
    """Every decode step grows every layer by one, and every layer reports the logical length."""
    model, batch = case.model, case.batch
    cache = DynamicCache(config=model.config)
    mask = batch.inputs["attention_mask"]
    with sparsify(model, case.method), torch.no_grad():
        token = model(**batch.inputs, **cached(cache)).logits[:, -1:].argmax(dim=-1)
        for step in range(1, 4):
            stored = [layer.keys.shape[-2] for layer in cache.layers]
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            given = {"input_ids": token, "attention_mask": mask}
            if (
                "mm_token_type_ids" in batch.inputs
            ):  # given a mask, transformers places all tokens seen so far
                given["position_ids"] = positions(mask)[:, -1:]
            token = model(**given, **cached(cache)).logits[:, -1:].argmax(dim=-1)
            kept = list(zip(cache.layers, stored, strict=True))
            grown = [layer.keys.shape[-2] - before for layer, before in kept]
            room = [
                getattr(layer, "sliding_window", before + 2) - 1 - before for layer, before in kept
            ]
            assert grown == [min(1, left) for left in room], (
                f"a step of one token grew layers by {grown}"
            )
            logical = {layer.get_seq_length() for layer in cache.layers}
            assert logical == {batch.inputs["input_ids"].shape[1] + step}, (
                f"layers report lengths {logical}"
            )


def close(got, want, message):
    """Equal up to rounding; norms and rotary tables are float32 even in a float64 model."""
    tolerance = {torch.float64: 1e-5, torch.float32: 2e-4}[got.dtype]
    assert got.shape == want.shape, f"{message}: {tuple(got.shape)} against {tuple(want.shape)}"
    error = float((got - want).abs().max() / want.abs().max())
    assert error < tolerance, f"{message}: off by {error:.2g}"


CHECKS = {
    "counts": check_counts,
    "text": check_text,
    "order": check_order,
    "distinct": check_distinct,
    "images": check_images,
    "finite": check_finite,
    "repeatable": check_repeatable,
    "alone": check_alone,
    "decode": check_decode,
}
