"""Asks what is answered by tokens that were chosen by somebody who knows where the evidence lies.

python benchmarks/told.py --suite scenes-2-dev --limit 10 --retain 192 64 --out told

No method can know that: the boxes of the evidence belong to the answers. So what is lost here too
is what this model makes of few tokens, whatever is chosen. All tokens of the evidence of every turn
are kept, as far as the count allows, and the rest is chosen as the recommended method would
("chosen"), or lies on an even grid ("even").
"""

import argparse
import shlex
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal, cast

import torch

from sparsight.counts.layout import PatchGrid
from sparsight.evaluate import Configuration, Settings, find_evidence_tokens, run
from sparsight.evaluate.scenes import SUITES, Box, Question, load_images
from sparsight.methods import Method, Selection, Sparsight, View
from sparsight.methods.method import require_grids
from sparsight.methods.parts.by_grid import share_by_grid
from sparsight.methods.parts.cells import cell_centres, grid_cells
from sparsight.methods.parts.choosers import choose_determinantal
from sparsight.methods.spaces import compare_in
from sparsight.models.embedded import load

Fill = Literal["chosen", "even"]
FILLS: tuple[Fill, ...] = ("chosen", "even")


@dataclass(frozen=True)
class Told(Sparsight):
    """Keeps the evidence, and fills up.

    Args:
        fill: what the count leaves room for.
        boxes: of the evidence, by turn and image, in px.
        sizes: of the images, in px.
    """

    name: ClassVar[str] = "told"
    fill: Fill = "chosen"
    boxes: tuple[tuple[tuple[Box, ...], ...], ...] = ()
    sizes: tuple[tuple[int, int], ...] = ()

    def select(self, view: View) -> Selection:
        """Choose at the input; the horizon is the recommended method's."""
        if view.site:
            return super().select(view)
        layout = require_grids(self, view.layout)
        turns = [find_evidence_tokens(boxes, self.sizes, layout) for boxes in self.boxes]
        evidence = torch.stack(turns).any(dim=0)
        known = evidence.nonzero()[:, 0][: view.keep_count]
        keep = [known]
        rest = view.keep_count - len(known)
        for grid, count in zip(layout.grids, share_by_grid(layout, rest), strict=True):
            free = grid.tokens[~evidence[grid.tokens]]
            keep.append(self._fill(view, grid, free, min(count, len(free))))
        return Selection(self._complete(torch.cat(keep), view).sort().values[None])

    def _fill(self, view: View, grid: PatchGrid, free: torch.Tensor, count: int) -> torch.Tensor:
        """Return `count` of the free tokens of a grid, or fewer if evidence lies in their way."""
        if count == 0:
            return free[:0]
        if self.fill == "even":
            labels = grid_cells(*grid.size, count)
            even = grid.tokens[cell_centres(labels, grid.size[1])]
            return even[torch.isin(even, free)]
        compared = compare_in("tokens", view.hidden[:, free], centred=True)
        return free[choose_determinantal(compared.similarity.hold(), count, compared.weight)[0]]

    def _complete(self, keep: torch.Tensor, view: View) -> torch.Tensor:
        """Return the tokens, and where there are fewer than promised, the recommended ones."""
        chosen = super().select(view).keep[0]
        more = chosen[~torch.isin(chosen, keep)]
        return torch.cat([keep, more])[: view.keep_count]


@dataclass(frozen=True)
class ToldConfiguration(Configuration):
    """Tells the method of each question where its evidence lies.

    Args: suite: the folder of the images.
    """

    suite: Path = Path()

    def adapt_method(self, question: Question, still: int, seed: int) -> Method | None:
        """Return the method with the boxes of a question."""
        method = cast(Told, super().adapt_method(question, still, seed))
        sizes = tuple(image.size for image in load_images(question, self.suite))
        boxes = tuple(tuple(map(tuple, turn.boxes)) for turn in question.turns)
        return replace(method, boxes=boxes, sizes=sizes)


def main() -> None:
    """Ask the dense model, the recommended method and those that are told."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--suite", default="scenes-2-dev", choices=sorted(SUITES))
    parser.add_argument("--limit", type=int, help="questions of each part; all by default")
    parser.add_argument("--retain", type=int, nargs="+", default=[192, 64])
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    suite = SUITES[given.suite]
    configurations = [Configuration("dense")]
    for retain in given.retain:
        configurations.append(Configuration("sparsight", Sparsight(retain)))
        for fill in FILLS:
            told = Told(retain, fill=fill)
            configurations.append(ToldConfiguration(f"told:fill={fill}", told, suite))
    settings = Settings(
        tuple(configurations), suite, limit=given.limit, share_encoding=True, out=given.out
    )
    run(*load(), settings, command=f"python {shlex.join(sys.argv)}")


if __name__ == "__main__":
    main()
