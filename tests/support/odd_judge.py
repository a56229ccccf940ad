"""Judges an odd combination: equal to slow masked runs, untouched, or refused for a reason.

What a site dropped is taken from the trace and hidden in a slow run of every sample alone
(support/hidden.py); that it dropped the right tokens is checked by the scores, which that run gives
as well, and by the choice from these scores. That run knows nothing of Downscale; there, and for
the first sample of float64 cases of LLaVA's own pattern, everything is computed from nothing but
the method's settings (support/dense.py), which is slow.
"""

import re
from dataclasses import dataclass

import torch

from sparsight import SparseVLMPlus, sparsify
from sparsight.errors import SparsightError
from sparsight.methods import Downscale, Pool, Uniform
from tests.support import (
    contract,
    dense,
    hidden,
    odd_models,
    reference,
    reference_counts,
    tiny_rotary,
)
from tests.support.footprint import snapshot
from tests.support.odd_run import arguments, play

PROBED = {
    "video-llama3": 2
}  # passes of a few words that a class nobody registered is looked at with


@dataclass
class Ran:
    """A case that was served: its method, the model's inputs, its outputs, the run's trace."""

    case: object
    method: object
    inputs: dict
    sides: object
    run: object


def judge(case):
    """Run a case and check what comes of it.

    Returns: "right", "untouched", or the class of the error and what it says.
    """
    model = odd_models.model(case.kind, case.kernel, case.dtype)
    batch = odd_models.batch(case.kind, model, case.rows, case.seed)
    inputs = arguments(case, batch)
    before = snapshot(model)
    method = None
    slots = visual_slots(model, batch)
    counts = [len(own) for own in slots]
    try:
        with odd_models.Counted(model) as counted:
            try:
                method = method_of(case, counts, layers_of(model))
                with sparsify(model, method) as run:
                    sides = play(case, model, inputs)
            except SparsightError as error:
                words = PROBED.get(case.kind, 0) if method is not None else 0
                assert counted.passes <= words, "refused after layers have run"
                check_reason(case, error, method, counts, model)
                return f"{type(error).__name__}: {error}"
    finally:
        assert snapshot(model) == before, "the block leaves a trace"
    traces = run.trace.samples if any(counts) else ()
    if not any(traces):
        check_untouched(case, model, inputs, sides)
        return "untouched"
    check_counts(case, method, run.stats, counts)
    check_choices(batch, slots, traces)
    ran = Ran(case, method, inputs, sides, run)
    if case.mode == "loop":
        check_stored(ran, [own["input_ids"].shape[1] for own in batch.alone])
    for row, own in enumerate(batch.alone):
        check_row(ran, row, own)
    return "right"


def layers_of(model):
    return len(contract.decoder_of(model).layers)


def visual_slots(model, batch):
    """Where each sample's visual tokens stand."""
    ids = torch.tensor(sorted(contract.placeholders(model.config)))
    return [
        torch.isin(own["input_ids"][0], ids).nonzero().flatten().tolist() for own in batch.alone
    ]


def method_of(case, counts, layers):
    found = [count for count in counts if count]
    least = [least_mean(case, count, layers) for count in found]
    return case.method(**{"retain": case.budget.of(found, least), **case.settings})


def least_mean(case, count, layers):
    """Least layer mean: all tokens up to the first site, one from there."""
    sites = case.settings.get("sites") or ((1,) if "attention" in case.method.signals else (0,))
    full = max(0, min(sites[0], layers) - (case.settings.get("accounting") == "authors"))
    return (full * count + layers - full) / layers


def check_reason(case, error, method, counts, model):
    """A refusal says something that is true of the case."""
    text = str(error)
    for pattern, holds in REASONS.items():
        if re.search(pattern, text):
            assert holds(case, method, counts, model), f"refused without reason: {text}"
            return
    raise AssertionError(f"refused for no known reason: {text}")


def retained(method, count):
    """Tokens that a sample of so many may keep, as a layer mean."""
    return method.retain * count if isinstance(method.retain, float) else min(method.retain, count)


def unmet(case, method, counts, model):
    """Some sample cannot be cut down to its budget."""
    wanted = [retained(method, count) for count in counts]
    least = [least_mean(case, count, layers_of(model)) for count in counts]
    return any(count and want < low for want, low, count in zip(wanted, least, counts, strict=True))


def thin(case, method, counts, model):
    """Some sample has more images than Downscale may keep tokens."""
    for count, row in zip(counts, case.rows, strict=True):
        images = [part for part in row if not isinstance(part, int)]
        if count and method.retain < len(images):
            return True
    return False


def misplaced(case, method, counts, model):
    del counts
    least = int("attention" in method.signals)
    return method.sites[0] < least or method.sites[-1] >= layers_of(model)


def gridless(case, method, counts, model):
    del counts, model
    videos = any(
        part == "video" or part[:1] == ("video",)
        for row in case.rows
        for part in row
        if part not in range(99)
    )
    return isinstance(method, (Uniform, Pool, Downscale)) and (
        case.kind not in odd_models.GRIDS or videos
    )


REASONS = {
    r"positions='renumber' is not supported": lambda case, *_: case.kind in odd_models.KEEPS_ONLY,
    r"one distance between tokens": lambda case, *_: case.kind in odd_models.MROPE,
    r"takes? images of any size": lambda case, *_: (
        case.method is Downscale and case.kind not in odd_models.SCALED
    ),
    r"keeps nothing meaningful": lambda case, *_: case.budget.raw and case.budget.share == 0.0,
    r"is made for more than the sample's": lambda case, method, counts, model: any(
        case.settings["kept"][0] > count > 0 for count in counts
    ),
    r"cannot be met": unmet,
    r"leaves less than one token": thin,
    r"do not fit; give ascending layers": misplaced,
    r"rows and columns|lie nowhere": gridless,
    r"they cannot share a batch": lambda case, method, counts, model: len(set(counts) - {0}) > 1,
    r"no text follows|no words follow": lambda case, method, *_: (
        "attention" in method.signals and any(row[-1:] > [] for row in case.rows)
    ),
    r"use_cache=False": lambda case, *_: case.mode == "generate without cache",
}


# ---- what is right


def check_untouched(case, model, inputs, sides):
    """Bit for bit what the model does without sparsight."""
    plain = play(case, model, inputs)
    assert torch.equal(sides.said, plain.said), "another answer, though nothing is pruned"
    assert torch.equal(sides.later, plain.later), "other logits, though nothing is pruned"
    if plain.prefill is not None:
        real = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"])).bool()
        assert torch.equal(sides.prefill[real], plain.prefill[real]), (
            "other logits, though nothing is pruned"
        )


def check_counts(case, method, stats, counts):
    """Counts are those of the slow reference, and no more than the budget."""
    assert list(stats.visual_tokens) == counts
    accounting = case.settings.get("accounting", "entering")
    for count, schedule in zip(counts, stats.schedules, strict=True):
        check_schedule(method, count, schedule)
        if not count or method.retain is None or case.settings.get("kept"):
            continue
        wanted = retained(method, count)
        mean = schedule.mean(accounting)
        assert mean <= wanted + 1e-9, f"a mean of {mean} for a budget of {wanted}"
        assert mean > wanted - 1 or contract.is_adaptive(method) or isinstance(method, Downscale), (
            f"{mean} kept of {wanted}"
        )


def check_schedule(method, count, schedule):
    """Check that counts are the reference's, or at most those where they depend on the sample."""
    if not count or not schedule.sites or isinstance(method, Downscale):  # it depends on the grids
        return
    plan = reference_counts.plan(method, ((1, count),), schedule.layers)
    assert schedule.sites == plan.sites
    if contract.is_adaptive(method):
        assert all(real <= most for real, most in zip(schedule.counts, plan.counts, strict=True))
    else:
        assert (schedule.kept, schedule.recycled) == (plan.kept, plan.recycled)


def check_choices(batch, slots, traces):
    """The best by score are kept, and of every image one where that fits."""
    for row, steps in enumerate(traces):
        image_of = contract.image_numbers(slots[row])
        for step in steps:
            images = [image_of[name] for name in step.present.tolist()]
            if step.score is not None:
                keep = reference.choose(step.score.tolist(), len(step.keep), images)
                assert step.present[keep].tolist() == step.keep.tolist(), "not the best are kept"


def check_stored(ran, lengths):
    """Every cache layer holds what it processed, and tells the length of everything."""
    length, said = ran.inputs["input_ids"].shape[1], ran.sides.said.shape[1]
    first = min(steps[0].site for steps in ran.run.trace.samples if steps)
    behind = [
        0 if ran.case.left else length - real for real in lengths
    ]  # padding in front goes, behind it stays
    for layer, store in enumerate(ran.sides.cache.layers):
        rows = zip(ran.run.stats.tokens_per_layer, behind, strict=True)
        held = said + (length if layer < first else max(row[layer] + pads for row, pads in rows))
        assert store.keys.shape[-2] == min(held, getattr(store, "sliding_window", held + 1) - 1)
        assert store.get_seq_length() == length + said


def check_row(ran, row, own):
    """One sample's logits are those of slow runs of it alone."""
    said, left = ran.sides.said[row].tolist(), ran.run.stats.tokens_per_layer[row][-1]
    pads = ran.inputs["input_ids"].shape[1] - own["input_ids"].shape[1]
    parts = [ran.sides.later[row]]
    if ran.sides.prefill is not None:
        end = ran.sides.prefill.shape[1] - (0 if ran.case.left else pads)
        parts.insert(0, ran.sides.prefill[row, end - left : end])
    got = torch.cat(parts)
    own = {name: part.double() if part.is_floating_point() else part for name, part in own.items()}
    for want in wanted(ran, row, own, said):
        assert len(want) == left + len(said)
        kept = want if ran.sides.prefill is not None else want[-len(got) :]
        contract.close(got, kept.to(got.dtype), f"sample {row}")


def wanted(ran, row, own, said):
    """Yield logits of a sample and its answer from slow runs: by the trace, and by the settings."""
    case = ran.case
    method = ran.method
    steps = ran.run.trace.samples[row]
    if row == 0 and case.kind in odd_models.INDEPENDENT and case.dtype == torch.float64:
        model = odd_models.model(case.kind, "sdpa", torch.float64)
        yield dense.Reference(model, method).run(dense.turn(model, own), dense.Turn(said)).logits
    if isinstance(method, Downscale):
        return
    pads = ran.inputs["input_ids"].shape[1] - own["input_ids"].shape[1]
    raters = ran.run.trace.raters[row] - (pads if case.left else 0)
    model = odd_models.model(case.kind, "eager", torch.float64)
    settings = {
        "aggregate": getattr(method, "aggregate", "mean"),
        "renumber": method.positions == "renumber",
    }
    logits, scores = hidden.run(
        model, tiny_rotary.longer(case.kind, own, said), steps, raters, **settings
    )
    if "attention" in method.signals and not isinstance(method, SparseVLMPlus):
        for step, score in zip(steps, scores, strict=True):
            torch.testing.assert_close(step.score.double(), score.double(), rtol=2e-3, atol=1e-6)
    yield logits
