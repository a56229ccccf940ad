"""Turns a finished prefill into stats and trace. Host side; knows no module of any model."""

from dataclasses import dataclass, replace

from sparsight.counts.cost import DecoderShape
from sparsight.counts.schedule import Schedule
from sparsight.sequence.sample import Sample
from sparsight.sequence.trace import Stats, Trace


@dataclass(frozen=True)
class Plan:
    """What is the same in every prefill of a model.

    Args:
        shape: its decoder.
        sites: where it may be pruned.
        value_bytes: bytes of one number in the cache.
        windows: (L,) sliding window of each cache layer, 0 for none; () where none slides.
    """

    shape: DecoderShape
    sites: tuple[int, ...]
    value_bytes: int
    windows: tuple[int, ...] = ()


def summarise(
    samples: tuple[Sample, ...], plan: Plan, host_reads: int
) -> tuple[Stats, Trace] | None:
    """Return stats and trace of a prefill; None if a layer raised on the way."""
    if any(s.schedule is not None and len(s.kept) < len(s.schedule.sites) for s in samples):
        return None
    stats = Stats(
        shape=plan.shape,
        sites=plan.sites,
        visual_tokens=tuple(len(s.prompt.visual) for s in samples),
        text_tokens=tuple(s.prompt.real - len(s.prompt.visual) for s in samples),
        raters=tuple(len(s.raters) for s in samples),
        schedules=tuple(_happened(s, plan) for s in samples),
        pools=tuple(tuple(len(site.pool) for site in s.sites) for s in samples),
        value_bytes=plan.value_bytes,
        host_reads=host_reads,
        windows=plan.windows,
    )
    sites, raters = tuple(tuple(s.sites) for s in samples), tuple(s.raters for s in samples)
    return stats, Trace(sites, raters, tuple(s.layout for s in samples))


def _happened(sample: Sample, plan: Plan) -> Schedule:
    """Return a sample's schedule with the counts that its sites really left."""
    kept, recycled = tuple(sample.kept), tuple(sample.recycled)
    if sample.schedule is None:
        return Schedule(len(sample.prompt.visual), plan.shape.layers, (), kept, recycled)
    return replace(sample.schedule, kept=kept, recycled=recycled, exact=True)
