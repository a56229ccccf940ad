"""MMTok: tokens that cover the words of the question and the image.

Source: "MMTok: Multimodal Coverage Maximization for Efficient Inference of VLMs", ICLR 2026, arXiv
2508.18264; authors' code github.com/Ironieser/MMTok (Apache-2.0). Written from a description.
"""

from dataclasses import dataclass
from typing import ClassVar, Self

import torch

from sparsight.counts.layout import PatchGrid
from sparsight.counts.published import take_published
from sparsight.errors import SettingError
from sparsight.methods.encoder import EncoderNeed, TextSignal
from sparsight.methods.input_only import INPUT, check_input_only, require_text
from sparsight.methods.method import Method, Space, check_choice, read_whole_numbers, require_grids
from sparsight.methods.parts.by_grid import choose_by_grid
from sparsight.methods.parts.coverage import choose_coverage
from sparsight.methods.parts.words import list_mmtok_rows
from sparsight.methods.spaces import SPACES, compare_in, list_space_needs, read_points
from sparsight.methods.view import Selection, View

PAPER_BUDGETS = {192: (192,), 128: (128,), 64: (64,)}


@dataclass(frozen=True)
class MMTok(Method):
    """MMTok. It needs no class token.

    Source: each step takes the token that adds most to how well words and image are covered: each
        word by its softmax over the tokens, by cosine of input embeddings, and each token by the
        same over features before the projector; authors' code.
    Differs:
        The text is that behind the last image, with what the chat template writes there, and less
        the tokens of `skip`; the authors take the question, less a benchmark's own sentences and,
        for LLaVA, words of a list, for Qwen2.5-VL as it is behind "Question:".
        Images, tiles and frames share the count by their sizes, and each is chosen from for itself.
        Padding of the image may be chosen; the code can leave it out.
        No paper joins it with Cen-Prune: a token's gain is multiplied by how distinctive it is.
        Tokens keep their positions unless told otherwise; the code for LLaVA renumbers, as
        `paper()` does.

    Args:
        text_temperature: of the words' softmax, above 0; the authors have 0.01 for Qwen2.5-VL.
        visual_temperature: of the tokens' softmax, above 0.
        alpha: weight of the image beside the words, at least 0.
        skip: token ids that are no words to be covered, as `list_stop_ids` of
            `sparsight.methods.stop_words` lists them; a text of nothing else counts as a whole.
        space: where tokens are compared with each other: as "features" of the image encoder before
            the projector, or as "tokens" of the decoder.
        centred: Cen-Prune as for `DivPrune`.
    """

    name: ClassVar[str] = "mmtok"
    summary: ClassVar[str] = "tokens that cover the words of the question and the image"
    source: ClassVar[str] = "MMTok, ICLR 2026, arXiv 2508.18264"
    published: ClassVar[tuple[int, ...]] = tuple(PAPER_BUDGETS)
    signals: ClassVar[frozenset[str]] = frozenset({"layout", "text", "encoder"})

    sites: tuple[int, ...] | None = INPUT
    text_temperature: float = 0.02
    visual_temperature: float = 0.2
    alpha: float = 0.5
    skip: tuple[int, ...] = ()
    space: Space = "features"
    centred: bool = False

    def __post_init__(self) -> None:
        """Check the settings that need no model."""
        super().__post_init__()
        check_input_only(self)
        check_choice("space", self.space, SPACES)
        object.__setattr__(self, "skip", read_whole_numbers("skip", self.skip))
        for name in ("text_temperature", "visual_temperature"):
            if not getattr(self, name) > 0:
                raise SettingError(
                    f"{name}={getattr(self, name)!r} is out of range; give a number above 0."
                )
        if not self.alpha >= 0:
            raise SettingError(f"alpha={self.alpha!r} is out of range; give a number >= 0.")

    @classmethod
    def paper(cls, retain: int, skip: tuple[int, ...] = ()) -> Self:
        """Return the published settings for LLaVA-1.5; they are the same at every budget.

        Args: skip: token ids of the stop words, which depend on the tokenizer.
        Raises: BudgetError: no figures were published for the budget.
        """
        take_published(cls.__name__, PAPER_BUDGETS, retain)
        return cls(retain=retain, skip=skip, positions="renumber")

    @property
    def encoder_needs(self) -> tuple[EncoderNeed, ...]:
        """Features, where tokens are compared as such."""
        return list_space_needs(self.space)

    def select(self, view: View) -> Selection:
        """Keep the tokens of each image that cover it and the words best."""
        layout, text = require_grids(self, view.layout), require_text(self, view)
        points, device = read_points(view, self.space), view.hidden.device
        present = self._mark_words(text)

        def choose(grid: PatchGrid, count: int) -> torch.Tensor:
            tokens = grid.tokens.to(device, non_blocking=True)
            compared = compare_in(self.space, points[:, tokens], centred=self.centred)
            rows = list_mmtok_rows(
                text.embeds,
                view.hidden[:, tokens],
                compared.similarity,
                text_temperature=self.text_temperature,
                visual_temperature=self.visual_temperature,
                alpha=self.alpha,
                present=present,
            )
            return choose_coverage(rows, count, factor=compared.weight)

        return Selection(choose_by_grid(layout, view.keep_count, len(points), device, choose))

    def _mark_words(self, text: TextSignal) -> torch.Tensor | None:
        """Return which tokens of the text are to be covered, (G, T) bool; None for all."""
        if not self.skip:
            return text.present
        marks = torch.zeros(text.embeds.shape[:-1], dtype=torch.bool)  # on the host
        for row, ids in zip(marks, text.read_ids(), strict=True):
            words = torch.tensor([token not in self.skip for token in ids])
            row[: len(ids)] = words | ~words.any()
        return marks.to(text.embeds.device, non_blocking=True)
