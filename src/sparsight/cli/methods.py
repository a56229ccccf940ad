"""`sparsight methods`: a table of the methods that ship, or the page docs/methods.md.

Everything in it is read from the classes: what they declare, and what their published settings plan
for LLaVA-1.5, 576 visual tokens and 32 layers, or for a video where a method takes only such.
"""

from dataclasses import dataclass
from typing import Any

from rich.table import Table

from sparsight.cli.method import cli_name
from sparsight.counts.layout import Block, Layout, grids_layout, layout_of
from sparsight.errors import SettingError, UnsupportedError
from sparsight.methods import methods
from sparsight.methods.encoder import CHANGES
from sparsight.methods.method import BY_TEXT, Method

HEADS = ("name", "paper", "works", "by text", "reads", "published budget: tokens entering a layer")
LAYERS = 32  # of LLaVA-1.5-7B
STILL = grids_layout([(24, 24)])
CLIP = layout_of(tuple(Block(16, 16, frame=frame) for frame in range(8)))  # Video-LLaVA's frames
PAGE = """# Methods

Written by `sparsight methods --markdown`; a test keeps this page up to date.

`name` is that of the command line, the class is in `sparsight.methods`. "works" says where visual
tokens are removed: before the first decoder layer (input), inside the decoder, both, or in the
image encoder and so before the decoder (encoder). "reads" are the
[signals](own-method.md#what-select-sees) that a model must give.

A budget is the mean number of visual tokens that *enter* a decoder layer. Papers count otherwise;
the last column shows what `paper(budget)` costs with LLaVA-1.5-7B (576 visual tokens, 32 layers),
or with a video of {frames} frames of 256 tokens.

{table}

DeSAP (arXiv 2604.11240) is left out: neither its formula nor its layers nor code are public.

## What each does, and where it differs from its paper

{sections}
"""


@dataclass(frozen=True)
class Row:
    """What the table says of a method, by HEADS."""

    name: str
    paper: str
    works: str
    by_text: str
    reads: str
    budgets: str


def list_rows() -> list[Row]:
    """Return a row for each method that ships."""
    return [_describe(method) for method in methods()]


def _describe(method: type[Method]) -> Row:
    return Row(
        cli_name(method),
        method.source or "-",
        _find_place(method),
        "yes" if method.signals & BY_TEXT else "no",
        ", ".join(sorted(method.signals)) or "-",
        ", ".join(_describe_budget(method, budget) for budget in method.published) or "-",
    )


def _find_place(method: type[Method]) -> str:
    """Return where a method removes visual tokens."""
    if method.scales_images:
        return "image"
    if any(need.kind in CHANGES for need in method().encoder_needs):
        return "encoder"
    sites = method().list_sites(LAYERS)
    if sites == (0,):
        return "input"
    return "input, decoder" if 0 in sites else "decoder"


def _describe_budget(method: type[Method], budget: int) -> str:
    """Return a published budget, and how many visual tokens enter a layer on average."""
    published: Any = method
    try:
        made: Method = published.paper(budget)
    except SettingError:  # it needs something that only a caller has, such as a CLIP model
        return str(budget)
    plan = None
    for layout in (STILL, CLIP):
        plan = plan or _plan(made, layout)
    if plan is None:
        return str(budget)
    return f"{budget}: {'' if plan.exact else 'at most '}{plan.mean():.4g}"


def _plan(method: Method, layout: Layout) -> Any:
    """Return what a method plans for a layout; None if it takes none of its kind."""
    try:
        return method.plan(layout, LAYERS)
    except UnsupportedError:
        return None


def build_methods_table() -> Table:
    """Return the table for people; the page has the papers too."""
    heads = ("name", "what it does", "works", "by text", "budget: entering")
    table = Table(*heads, box=None, pad_edge=False, padding=(0, 1, 0, 0))  # for 80 columns
    table.columns[0].no_wrap = True
    table.columns[2].max_width, table.columns[3].max_width = 7, 4
    for method, row in zip(methods(), list_rows(), strict=True):
        table.add_row(row.name, method.summary, row.works, row.by_text, row.budgets)
    return table


def write_methods_page() -> str:
    """Return the page in Markdown."""
    lines = ["| " + " | ".join(HEADS) + " |", "| " + " | ".join(["---"] * len(HEADS)) + " |"]
    for row in list_rows():
        cells = [row.name, row.paper, row.works, row.by_text, row.reads, row.budgets]
        lines.append("| " + " | ".join(cells) + " |")
    return PAGE.format(
        frames=len(CLIP.grids),
        table="\n".join(lines),
        sections="\n\n".join(_write_section(method) for method in methods()),
    )


def _write_section(method: type[Method]) -> str:
    """Return what a method's class says of itself, with its arguments."""
    doc = (method.__doc__ or "").strip().splitlines()
    text = "\n".join(line.removeprefix("    ") for line in doc)
    return f"### {method.__name__}\n\n{method.summary}\n\n```text\n{text}\n```"
