"""Writes the tables of where the model looks, of results of `where_it_looks.py`."""

from collections.abc import Mapping, Sequence
from typing import Any

FIRST_LAYERS = (0, 1, 2, 4, 6, 8, 10, 12, 14, 17, 20, 23, 26, 29)  # of the first edition's table
LAYERS = (0, 1, 2, 4, 8, 12, 16, 17, 20, 21, 24, 28)
TITLES = {
    "raters": "SparseVLM's raters, mean of heads",
    "head": "SparseVLM's raters, best head",
    "last": "last token, mean of heads",
    "residual": "residual ratio",
    "keys": "norm of keys",
    "words": "cosine to the text's mean",
    "word": "cosine to the nearest word",
    "distinct": "distinctiveness of tokens",
    "distinct_features": "distinctiveness of features",
    "class": "class token, mean of heads",
}

Row = Mapping[str, Any]


def write_looks(shown: Mapping[str, Any], chosen: Mapping[str, Any]) -> str:
    """Return how well each score tells evidence, by layer, by encoder block and by family.

    Args:
        shown: results whose areas are shown.
        chosen: results on other questions, by which each score's best place is chosen.
    """
    rows = {row["score"]: row for row in shown["rows"]}
    others = {row["score"]: row for row in chosen["rows"]}
    lines = [
        *_write_layers(rows, others, shown["suite"], chosen["suite"]),
        "",
        *_write_blocks(rows["class"]),
        "",
        *_write_families(rows, others),
        "",
        _describe(shown, chosen, rows),
    ]
    return "\n".join(lines)


def _write_layers(
    rows: Mapping[str, Row], others: Mapping[str, Row], suite: str, other: str
) -> list[str]:
    """Return the lines of the table of layers."""
    layers = [layer for layer in LAYERS if layer < len(rows["raters"]["areas"])]
    heads = ["area under the curve", "input", *map(str, layers), f"best on {other}"]
    heads += [f"area there on {other}", f"on {suite}, 95 %"]
    lines = [_join(heads), _join(["---", *["---:"] * (len(heads) - 1)])]
    for name, title in TITLES.items():
        row, best = rows[name], others[name]["best"]
        areas = {place: f"{area:.2f}" for place, area in enumerate(row["areas"])}
        by_layer = row["place"] == "layer"
        cells = ["" if name == "class" or by_layer else areas[0]]
        cells += [areas[layer] if by_layer else "" for layer in layers]
        low, high = row["intervals"][best]
        cells += ["input" if row["place"] == "input" else f"{row['place']} {best}"]
        cells += [f"{others[name]['areas'][best]:.2f}", f"{areas[best]} ({low:.2f} to {high:.2f})"]
        lines.append(_join([title, *cells]))
    return lines


def _write_blocks(row: Row) -> list[str]:
    """Return the lines of the table of encoder blocks."""
    return _write_places("encoder block", "class token, mean of heads", row["areas"])


def _write_families(rows: Mapping[str, Row], others: Mapping[str, Row]) -> list[str]:
    """Return the lines of the table of families, each score at its best place."""
    families = list(rows["raters"]["families"])
    lines = [
        _join(["at its best place", *families]),
        _join(["---", *["---:"] * len(families)]),
    ]
    for name, title in TITLES.items():
        best, own = others[name]["best"], rows[name]["families"]
        lines.append(_join([title, *(f"{own[family][best]:.2f}" for family in families)]))
    return lines


def _describe(shown: Mapping[str, Any], chosen: Mapping[str, Any], rows: Mapping[str, Row]) -> str:
    """Return what the numbers are, from where on two scores are good, and what it was run with."""
    facts = shown["facts"]
    asked, other = (sum(results["questions"].values()) for results in (shown, chosen))
    reached = [
        f"that of {who} from layer {rows[name]['reached']} on ({rows[name]['reached_of_gain']} "
        "if counted from 0.5)"
        for name, who in (("raters", "SparseVLM's raters"), ("last", "the last token"))
    ]
    return (
        f"Mean of {asked} questions of {shown['suite']} in the columns of layers, "
        f"blocks and families, and of {other} of {chosen['suite']} where it is "
        "named; 0.5 is chance, and less than that is information turned round. The best head is "
        "chosen on the other half of the questions. Intervals are a bootstrap over questions. "
        f"Attention first exceeds 0.9 of its best area: {', '.join(reached)}. Embedded model in "
        f"{facts['dtype']}, {facts['cpu']}, torch {facts['torch']}, transformers "
        f"{facts['transformers']}."
    )


def write_first_edition(results: Mapping[str, Any]) -> str:
    """Return how well each layer's attention tells evidence, of results of the first edition."""
    rows = {row["layer"]: row for row in results["rows"]}
    layers = [layer for layer in FIRST_LAYERS if layer in rows]
    lines = [f"| layer | {' | '.join(map(str, layers))} |", "| --- |" + " ---: |" * len(layers)]
    for title, name in (("mean of heads", "mean_of_heads"), ("best head", "best_head")):
        lines.append(f"| {title} | {' | '.join(f'{rows[layer][name]:.2f}' for layer in layers)} |")
    return "\n".join([*lines, "", f"Mean of {results['questions']} questions; 0.5 is chance."])


def _write_places(corner: str, title: str, areas: Sequence[float]) -> list[str]:
    """Return the lines of a table of one row, a column for each place."""
    return [
        _join([corner, *map(str, range(len(areas)))]),
        _join(["---", *["---:"] * len(areas)]),
        _join([title, *(f"{area:.2f}" for area in areas)]),
    ]


def _join(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
