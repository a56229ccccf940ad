"""`sparsight models`: a table for people and the page docs/models.md, both from the families."""

from rich.table import Table

from sparsight.families import Family, families
from sparsight.families.dangers import DANGERS
from sparsight.families.refused import REFUSED

HEADS = ("family", "model classes", "sites", "positions", "video", "refused")
PAGE = """# Model families

Written by `sparsight models --markdown`; a test keeps this page up to date.

A [site](glossary.md) is a decoder layer at whose input the sequence gets shorter. Site 0, the input
of the first layer, is for methods that read no attention. For every family it is known where in its
image a visual token lies. Where visual tokens are the outputs of learned queries, they lie nowhere
in the image, and what needs a grid (`Uniform`, `Pool`, evidence, pictures) is refused. A tile
counts as an image of its own. LLaVA-NeXT and LLaVA-OneVision have two grids of an image: an
overview, and a fine grid whose rows end with a token that is no patch. Such tokens, and class
tokens, belong to no cell of `Uniform` and `Pool`.

{table}

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
    """Return the cells of each family, in the order of HEADS."""
    return [
        (
            family.name,
            "\n".join(family.classes),
            family.sites,
            ", ".join(family.positions),
            "yes" if family.video else "no",
            "\n".join(list_family_refusals(family)) or "-",
        )
        for family in families()
    ]


def list_family_refusals(family: Family) -> list[str]:
    """Return what is refused for a family, each with its reason."""
    refusals = list(family.refused)
    if "renumber" not in family.positions:
        refusals.append('positions="renumber": give positions="keep"')
    if family.encoder is None:
        refusals.append("Downscale: its image encoder is not known to take images of any size")
    return refusals


def build_models_table() -> Table:
    """Return the table for people: every column but the refusals."""
    # narrow, so that the table fits into 80 columns
    table = Table(*HEADS[:-1], box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.columns[0].min_width = max(len(family.name) for family in families())
    table.columns[1].no_wrap = True
    table.columns[3].max_width = 9
    for row in list_rows():
        table.add_row(*row[:-1])
    return table


def list_refusals() -> list[str]:
    """Return a line for each refusal, with the families that it holds for."""
    families_by_reason: dict[str, list[str]] = {}
    for family in families():
        for reason in list_family_refusals(family):
            families_by_reason.setdefault(reason, []).append(family.name)
    return [f"{reason} ({', '.join(names)})" for reason, names in families_by_reason.items()]


def write_models_page() -> str:
    """Return the page docs/models.md."""
    lines = ["| " + " | ".join(HEADS) + " |", "| " + " | ".join(["---"] * len(HEADS)) + " |"]
    for row in list_rows():
        lines.append("| " + " | ".join(row).replace("\n", "<br>") + " |")
    dangers = "\n".join(f"- {reason}" for reason in dict.fromkeys(DANGERS.values()))
    classes = "\n".join(f"- {name}: {reason}" for name, reason in REFUSED.items())
    return PAGE.format(table="\n".join(lines), dangers=dangers, classes=classes)
