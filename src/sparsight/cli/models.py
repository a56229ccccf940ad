"""What `sparsight models` shows: a table for people, or the page docs/models.md; both from the families' fields."""

from rich.table import Table

from sparsight.families import Family, families
from sparsight.families.dangers import DANGERS
from sparsight.families.refused import REFUSED

HEADS = ("family", "model classes", "sites", "positions", "video", "refused")
PAGE = """# Model families

Written by `sparsight models --markdown`; a test keeps this page up to date.

A site is a decoder layer on whose entry the sequence gets shorter; 0, the input, is for methods that read no
attention. For every family it is known where in its image a visual token lies; where visual tokens answer learned
queries they lie nowhere, and what needs a grid (`Uniform`, `Pool`, evidence, pictures) is refused. A tile counts as an
image of its own. LLaVA-NeXT and LLaVA-OneVision have two grids of an image, an overview and a fine one whose rows end
with tokens that are no patches; such tokens, and class tokens, belong to no cell of `Uniform` and `Pool`.

{table}

## Classes that are not listed

A class that nobody registered is hosted if its parts follow LLaVA's pattern: a text decoder at `language_model` or
`text_model` with layers of `self_attn` and `mlp`, a `rotary_emb`, and a placeholder id in the config. A few words are
sent through it first, to see that its masks are causal, that its rotary tables are those of one position a token, that
nothing unknown runs beside the hidden states, and that every layer stores its keys. Else it is refused with all reasons
found. Known patterns that are refused by name:

{dangers}

## Classes that are refused

{classes}
"""


def rows() -> list[tuple[str, ...]]:
    """Return the cells of each family, under HEADS."""
    return [
        (
            family.name,
            "\n".join(family.classes),
            family.sites,
            ", ".join(family.positions),
            "yes" if family.video else "no",
            "\n".join(refused(family)) or "-",
        )
        for family in families()
    ]


def refused(family: Family) -> list[str]:
    """Return what is refused for a family, each with its reason."""
    found = list(family.refused)
    if "renumber" not in family.positions:
        found.append('positions="renumber": give positions="keep"')
    if family.encoder is None:
        found.append("Downscale: its image encoder is not known to take images of any size")
    return found


def models_table() -> Table:
    """Return the table for people, all but what is refused."""
    table = Table(
        *HEADS[:-1], box=None, pad_edge=False, padding=(0, 1, 0, 0)
    )  # narrow, for 80 columns
    table.columns[0].min_width = max(len(family.name) for family in families())
    table.columns[1].no_wrap, table.columns[3].max_width = True, 9
    for row in rows():
        table.add_row(*row[:-1])
    return table


def refusals() -> list[str]:
    """Return a line for each thing refused, with the families that refuse it."""
    names: dict[str, list[str]] = {}
    for family in families():
        for reason in refused(family):
            names.setdefault(reason, []).append(family.name)
    return [f"{reason} ({', '.join(own)})" for reason, own in names.items()]


def models_page() -> str:
    """Return the page in Markdown."""
    lines = ["| " + " | ".join(HEADS) + " |", "| " + " | ".join(["---"] * len(HEADS)) + " |"]
    lines += [
        "| " + " | ".join(cell.replace("\n", "<br>") for cell in row) + " |" for row in rows()
    ]
    dangers = "\n".join(f"- {reason}" for reason in dict.fromkeys(DANGERS.values()))
    classes = "\n".join(f"- {name}: {reason}" for name, reason in REFUSED.items())
    return PAGE.format(table="\n".join(lines), dangers=dangers, classes=classes)
