"""Makes stats and trace of a finished prefill, on the host."""

from dataclasses import dataclass, replace

from sparsight.counts.cost import DecoderShape
from sparsight.counts.schedule import Schedule
from sparsight.sequence.sample import Sample
from sparsight.sequence.trace import Stats, Trace


@dataclass(frozen=True)
class Plan:
    """What stats need to know of a model and its cache.

    Args:
        shape: sizes of the decoder.
        sites: where a sample may be pruned.
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
    """Return stats and trace of a prefill; None if an error ended it before the last site.

    Args:
        samples: of the batch, after the prefill.
        plan: of the model and its cache.
        host_reads: how often the engine waited for the device.
    """
    if not all(map(_is_complete, samples)):
        return None
    stats = Stats(
        shape=plan.shape,
        sites=plan.sites,
        visual_tokens=tuple(len(s.prompt.visual) for s in samples),
        text_tokens=tuple(s.prompt.real - len(s.prompt.visual) for s in samples),
        raters=tuple(len(s.raters) for s in samples),
        schedules=tuple(_make_schedule(s, plan) for s in samples),
        pools=tuple(_count_pools(s) for s in samples),
        value_bytes=plan.value_bytes,
        host_reads=host_reads,
        windows=plan.windows,
        ahead=tuple(tuple(s.ahead) for s in samples),
    )
    trace = Trace(
        samples=tuple(tuple(s.sites) for s in samples),
        raters=tuple(s.raters for s in samples),
        layouts=tuple(s.layout for s in samples),
    )
    return stats, trace


def _is_complete(sample: Sample) -> bool:
    """Return whether a sample has counts for every site of its schedule."""
    return sample.schedule is None or len(sample.kept) >= len(sample.schedule.sites)


def _count_pools(sample: Sample) -> tuple[int, ...]:
    """Return how many dropped tokens were clustered at each site that pruned the sample."""
    return tuple(len(site.pool) for site in sample.sites)


def _make_schedule(sample: Sample, plan: Plan) -> Schedule:
    """Return a sample's schedule with the counts that its sites really left."""
    kept, recycled = tuple(sample.kept), tuple(sample.recycled)
    if sample.schedule is None:
        return Schedule(len(sample.prompt.visual), plan.shape.layers, (), kept, recycled)
    return replace(sample.schedule, kept=kept, recycled=recycled, exact=True)
