"""The outcome of `sparsight ask`: one JSON document, or a page for people with the same numbers."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sparsight.bench.timing import Timing
from sparsight.cli.shown import describe_clips, write_clips
from sparsight.sequence.trace import Stats
from sparsight.videos import Clip

QUANTITIES = {"ttft": "ttft_ms", "prefill": "prefill_ms", "decode": "decode_ms_per_token"}
TIMES = {
    "time to first token, ms": "ttft",
    "text decoder's prefill in it, ms": "prefill",
    "decode, ms per token": "decode",
}


@dataclass(frozen=True)
class Outcome:
    """One question, answered dense and sparse.

    Args:
        model: name, folder or hub id.
        method: name on the command line.
        settings: the method with all its settings.
        images: names of the images.
        clips: frames of the videos.
        as_videos: whether a clip was one video for the model, and not an image for each frame.
        question: asked.
        dense: answer of the dense model.
        sparse: answer with fewer visual tokens.
        stats: counts and costs.
        timings: by "dense" and "sparse", then by quantity.
        facts: hardware, dtype, versions, commit.
        picture: file to be written, or None.
    """

    model: str
    method: str
    settings: str
    images: tuple[str, ...]
    clips: tuple[Clip, ...]
    as_videos: bool
    question: str
    dense: str
    sparse: str
    stats: Stats
    timings: Mapping[str, Mapping[str, Timing]]
    facts: Mapping[str, Any]
    picture: str | None


def as_document(outcome: Outcome) -> dict[str, Any]:
    """Return the JSON document; names hold the units, and a ratio is dense over sparse."""
    stats = outcome.stats
    schedule = stats.schedules[0]
    sites = zip(schedule.sites, schedule.kept, schedule.recycled, strict=True)
    return {
        "model": outcome.model,
        "method": outcome.method,
        "settings": outcome.settings,
        "images": list(outcome.images),
        "videos": describe_clips(outcome.clips, outcome.as_videos),
        "question": outcome.question,
        "answers": {
            "dense": outcome.dense,
            "sparse": outcome.sparse,
            "same": outcome.dense == outcome.sparse,
        },
        "tokens": {
            "text": stats.text_tokens[0],
            "visual": stats.visual_tokens[0],
            "raters": stats.raters[0],
            "visual_per_layer": list(stats.visual_tokens_per_layer[0]),
            "mean_visual_entering": stats.mean_visual_tokens,
            "mean_visual_authors": stats.mean_visual_tokens_authors,
            "sites": [
                {"layer": layer, "kept": kept, "recycled": recycled}
                for layer, kept, recycled in sites
            ],
        },
        "prefill_flops": _compare(stats.dense_prefill_flops, stats.prefill_flops),
        "kv_cache_bytes": _compare(stats.dense_kv_cache_bytes, stats.kv_cache_bytes),
        **{name: _compare_times(outcome, quantity) for quantity, name in QUANTITIES.items()},
        "facts": dict(outcome.facts),
        "picture": outcome.picture,
    }


def _compare(dense: float, sparse: float) -> dict[str, float]:
    return {"dense": dense, "sparse": sparse, "ratio": dense / sparse}


def _compare_times(outcome: Outcome, quantity: str) -> dict[str, Any]:
    dense = outcome.timings["dense"][quantity]
    sparse = outcome.timings["sparse"][quantity]
    return {
        "dense": dense.as_dict(),
        "sparse": sparse.as_dict(),
        "ratio": dense.median_ms / sparse.median_ms,
    }


def show(outcome: Outcome, console: Console) -> None:
    """Print the page for people."""
    stats = outcome.stats
    answers = Table.grid(padding=(0, 2))
    answers.add_row("dense", Text(outcome.dense or "(nothing)", "bold"))
    answers.add_row("sparse", Text(outcome.sparse or "(nothing)", "bold"))
    console.print()
    for line in write_clips(outcome.clips, outcome.as_videos):
        console.print(Text(line, "dim"))
    console.print(Text(outcome.question, "bold cyan"))
    console.print(answers)
    same = outcome.dense == outcome.sparse
    console.print("same answer" if same else "different answers", style="dim")
    console.print()
    console.print(_build_costs(outcome))
    layers = stats.visual_tokens_per_layer[0]
    visual = stats.visual_tokens[0]
    if len(set(layers)) == 1 and stats.mean_visual_tokens == visual:
        note = f"nothing was pruned: the prompt has {visual} visual tokens, which the budget keeps"
        console.print(Text(note, "yellow"))
    console.print(Text(f"visual tokens by layer  {join_equal_layers(layers)}"))
    console.print(
        f"mean over layers        {stats.mean_visual_tokens:.1f} entering a layer, "
        f"{stats.mean_visual_tokens_authors:.1f} by the authors' accounting",
        highlight=False,
    )
    console.print(Text("\n".join(_write_footer(outcome)), "dim"))


def _build_costs(outcome: Outcome) -> Table:
    stats = outcome.stats
    table = Table("", "dense", "sparse", "ratio")
    for column in table.columns[1:]:
        column.justify = "right"

    def add(name: str, dense: float, sparse: float, digits: int) -> None:
        ratio = f"{dense / sparse:.2f} x"
        table.add_row(name, f"{dense:.{digits}f}", f"{sparse:.{digits}f}", ratio)

    add("visual tokens entering a layer, mean", stats.visual_tokens[0], stats.mean_visual_tokens, 1)
    add("prefill, GFLOPs", stats.dense_prefill_flops / 1e9, stats.prefill_flops / 1e9, 2)
    dense_cache = stats.dense_kv_cache_bytes / 1e6
    add("KV cache after prefill, MB", dense_cache, stats.kv_cache_bytes / 1e6, 2)
    for name, quantity in TIMES.items():
        dense = outcome.timings["dense"][quantity]
        sparse = outcome.timings["sparse"][quantity]
        add(name, dense.median_ms, sparse.median_ms, 1)
    return table


def _write_footer(outcome: Outcome) -> Iterator[str]:
    facts = outcome.facts
    runs = len(outcome.timings["dense"]["prefill"].runs_ms)
    yield f"median of {runs} interleaved runs after a warm-up, {facts['dtype']}"
    yield facts["gpu"] or f"{facts['cpu']}, threads: {facts['threads']}"
    yield (
        f"{outcome.model} with {outcome.method}; sparsight {facts['sparsight']}, "
        f"torch {facts['torch']}, transformers {facts['transformers']}"
    )
    if outcome.picture is not None:
        yield f"picture: {outcome.picture}"


def join_equal_layers(counts: tuple[int, ...]) -> str:
    """Return counts by layer, equal neighbours joined, such as "0-2: 576 · 3-6: 253"."""
    parts = []
    for count, layers in groupby(range(len(counts)), key=counts.__getitem__):
        first, *others = layers
        parts.append(f"{first}-{others[-1]}: {count}" if others else f"{first}: {count}")
    return " \N{MIDDLE DOT} ".join(parts)
