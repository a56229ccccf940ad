"""`sparsight models`: a table of model families for people, or the page docs/models.md.

What is refused comes from `engine.support`, asked for the default config of every model class.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import transformers
from rich.table import Table

from sparsight.engine.support import Refusal, describe, supports
from sparsight.families import Family, families
from sparsight.families.refused import REFUSED
from sparsight.families.unknown import DANGERS
from sparsight.methods import SparseVLM, methods
from sparsight.methods.method import Method
from sparsight.models import mini_gemini

HEADS = ("family", "model classes", "positions", "video", "refused")
METHODS: tuple[Method, ...] = (
    *(method(retain=0.5) for method in methods()),
    SparseVLM(retain=0.5, positions="renumber"),
)
BY_ENCODER = frozenset(type(method).__name__ for method in METHODS if method.encoder_needs)
ALL_BY_ENCODER = "methods that read the image encoder"
PAGE = """# Model families

Written by `sparsight models --markdown`; a test keeps this page up to date.

A [site](glossary.md) is a decoder layer at whose input the sequence gets shorter. Any layer of any
family may be a site; site 0, the input of the first layer, is for methods that do not read the
attention of the layer before. For every family it is known where in its image a visual token lies.
A tile counts as an image of its own. LLaVA-NeXT and LLaVA-OneVision have two grids of an image: an
overview, and a fine grid whose rows end with a token that is no patch. Such tokens, and class
tokens, belong to no cell of `Uniform` and `Pool`.

{table}

## What is refused

Asked of `sparsight.engine.support.supports` for the default config of each class; a config of your
own may add to it.

{refusals}

## Classes that are not listed

A class that is not listed works if its parts follow LLaVA's pattern: a text decoder at
`language_model` or `text_model` with layers of `self_attn` and `mlp`, a `rotary_emb`, and a
placeholder id in the config. A short text prompt is run through the model first. It checks that the
masks are causal, that the rotary tables are those of one position per token, that every argument of
a layer is one that the engine knows how to shorten, and that every layer stores its keys. A model
that fails is refused, with all reasons. These features are refused by name:

{dangers}

## Classes that are refused

{classes}
"""


def list_rows() -> list[tuple[str, ...]]:
    """Return the cells of each family, under HEADS."""
    return [_list_cells(family) for family in families()]


def _list_cells(family: Family) -> tuple[str, ...]:
    refused = join_readers(dict.fromkeys(refusal.what for refusal in _refusals_of(family)))
    return (
        family.name,
        "\n".join(family.classes),
        "keep" if family.fixed_positions else "keep, renumber",
        "yes" if family.video else "no",
        "\n".join(refused) or "-",
    )


def _refusals_of(family: Family) -> Iterator[Refusal]:
    """Yield what is refused for a family's classes, each under the default config."""
    for name in family.classes:
        if name.endswith("Model"):
            continue  # the part without language-model head has the config of the whole
        config_class: Any = find_class(name).config_class
        config = config_class()
        config.architectures = [name]
        for method in METHODS:
            yield from supports(describe(config), method)


def find_class(name: str) -> Any:
    """Return a model class by its name: of transformers, or one of ours."""
    return getattr(transformers, name, None) or getattr(mini_gemini, name)


def join_readers(refused: Iterable[str]) -> list[str]:
    """Return what is refused, all methods that read the image encoder in one if all of them are."""
    names = list(refused)
    if not set(names) >= BY_ENCODER:
        return names
    return [ALL_BY_ENCODER, *(name for name in names if name not in BY_ENCODER)]


def list_refusals() -> list[str]:
    """Return a line for each reason: what is refused, why, what to do, and for which models."""
    places: dict[tuple[str, str], dict[str, None]] = {}  # of what and why
    for family in families():
        for refusal in _refusals_of(family):
            why = f"{refusal.why}; {refusal.instead}"
            places.setdefault((refusal.what, why), {})[refusal.where] = None
    whats: dict[str, list[str]] = {}  # refused for one reason and the same models
    for (what, why), where in places.items():
        whats.setdefault(f"{why} ({', '.join(where)})", []).append(what)
    return [f"{', '.join(join_readers(names))}: {reason}" for reason, names in whats.items()]


def build_models_table() -> Table:
    """Return the table for people, all but what is refused."""
    table = Table(*HEADS[:-1], box=None, pad_edge=False, padding=(0, 1, 0, 0))  # for 80 columns
    table.columns[0].min_width = max(len(family.name) for family in families())
    table.columns[1].no_wrap, table.columns[2].max_width = True, 9
    for row in list_rows():
        table.add_row(*row[:-1])
    return table


def write_models_page() -> str:
    """Return the page in Markdown."""
    lines = ["| " + " | ".join(HEADS) + " |", "| " + " | ".join(["---"] * len(HEADS)) + " |"]
    for row in list_rows():
        lines.append("| " + " | ".join(cell.replace("\n", "<br>") for cell in row) + " |")
    return PAGE.format(
        table="\n".join(lines),
        refusals="\n".join(f"- {line}" for line in list_refusals()),
        dangers="\n".join(f"- {reason}" for reason in dict.fromkeys(DANGERS.values())),
        classes="\n".join(f"- {name}: {reason}" for name, reason in REFUSED.items()),
    )
