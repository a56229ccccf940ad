"""Writes a Markdown table of the times that methods take to choose, measured by selection.py."""

from collections.abc import Mapping
from typing import Any


def write_selection(results: Mapping[str, Any]) -> str:
    """Return milliseconds of choosing by method, a column for each size and batch."""
    columns = sorted({(row["batch"], row["tokens"], row["keeps"]) for row in results["rows"]})
    times = {(row["method"], row["batch"], row["tokens"]): row for row in results["rows"]}
    heads = [f"{keeps:,} of {tokens:,}, batch {batch}" for batch, tokens, keeps in columns]
    lines = [
        f"| ms | {' | '.join(heads)} | share of prefill at {columns[0][1]} |",
        "| --- |" + " ---: |" * (len(columns) + 1),
    ]
    for name in dict.fromkeys(row["method"] for row in results["rows"]):
        cells = [_format_time(times.get((name, batch, tokens))) for batch, tokens, _ in columns]
        first = times[name, *columns[0][:2]]
        share = f"{first['share']:.2%}" if "share" in first else "-"
        lines.append(f"| {name} | {' | '.join(cells)} | {share} |")
    return "\n".join([*lines, "", describe(results)])


def _format_time(row: Mapping[str, Any] | None) -> str:
    """Return the median time; "-" where a method was not tried or was stopped."""
    return f"{1000 * row['seconds']:,.1f}" if row and "seconds" in row else "-"


def describe(results: Mapping[str, Any]) -> str:
    """Return what the numbers are, and what they were measured with."""
    facts = results["facts"]
    return (
        "CPU milliseconds of choosing at a method's first site, on random numbers of "
        f"LLaVA-1.5-7B's widths in float32; medians of {results['runs']}; -: stopped after a time "
        "limit, or refused. The share is of dense prefill, its FLOPs at the "
        f"{results['flops_per_second'] / 1e9:.0f} GFLOP/s at which this machine multiplies "
        f"matrices. {facts['cpu']}, {facts['threads']} thread, torch {facts['torch']}, sparsight "
        f"{facts['sparsight']}."
    )
