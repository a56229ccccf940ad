"""The model's part: cuts an image's tokens to the count that the front end promised.

`SparseModel` goes before a model class of vLLM. Private details of vLLM touched here:
`embed_multimodal`, `get_language_model` and its `embed_input_ids`, which are checked.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import torch

from sparsight.counts.layout import Layout
from sparsight.errors import MethodError
from sparsight.methods.method import Space
from sparsight.serve.vllm.choosing import choose_kept
from sparsight.serve.vllm.processing import KEEP, drop_ours
from sparsight.serve.vllm.settings import GUIDE, Settings, read_settings

HOOKS = {"embed_multimodal": (), "get_language_model": ()}


class Cut(NamedTuple):
    """An image that was cut.

    Args:
        tokens: (K, D) that stay.
        places: (K,) int64, which of the image's V tokens they are.
        layout: of all V.
    """

    tokens: torch.Tensor
    places: torch.Tensor
    layout: Layout


class SparseModel:
    """Goes before a model class of vLLM; a subclass says where tokens of its images lie."""

    space: ClassVar[Space] = "tokens"
    supports_tower_connector_lora = False  # it counts the encoder's tokens by ours
    config: Any
    get_language_model: Any

    @staticmethod
    def read_layouts(config: Any, given: Mapping[str, Any]) -> list[Layout]:
        """Return the layout of each image, as that of `SparseProcessor`."""
        raise NotImplementedError

    @cached_property
    def sparse_settings(self) -> Settings:
        """Settings of the engine."""
        return read_settings(self.config, self.space)

    def read_hidden(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return what of an image's tokens (V, ...) enters the decoder in front, (V, D)."""
        return tokens

    def embed_multimodal(self, **kwargs: Any) -> Any:
        """Encode images, and return the tokens of each that stay."""
        keep, guides = kwargs.pop(KEEP, None), kwargs.pop(GUIDE, None)
        tokens = super().embed_multimodal(**drop_ours(kwargs))  # type: ignore[misc]
        return [cut.tokens for cut in self.cut(tokens, kwargs, keep, guides)]

    def cut(
        self,
        tokens: Any,
        given: Mapping[str, Any],
        keep: Any,
        guides: Any,
        features: Sequence[torch.Tensor] | None = None,
    ) -> list[Cut]:
        """Return images cut to their counts.

        Args:
            tokens: (V, D) of each image.
            given: arguments of the images, as the processor made them.
            keep: K of each image.
            guides: ids of the guiding words of each image.
            features: (V, D_enc) of each image before the projector, if they were read.
        Raises: MethodError: the counts did not come, or do not fit the tokens.
        """
        if not len(tokens):
            return []
        if keep is None or guides is None:
            raise MethodError(f"images came without {KEEP}; another processor made them.")
        layouts = self.read_layouts(self.config, given)
        cuts = []
        for index, (own, layout) in enumerate(zip(tokens, layouts, strict=True)):
            places = choose_kept(
                self.sparse_settings.method,
                self.read_hidden(own),
                layout,
                int(keep[index]),
                text=self._read_guide(guides[index], own),
                features=None if features is None else features[index],
            )
            cuts.append(Cut(own[places], places, layout))
        return cuts

    def _read_guide(
        self, guide: torch.Tensor, tokens: torch.Tensor
    ) -> tuple[torch.Tensor, list[int]] | None:
        """Return embeddings and ids of guiding words; None where there are none."""
        ids = guide.tolist()
        if not self.sparse_settings.reads_text or ids[0] < 0:
            return None
        embeds = self.get_language_model().embed_input_ids(guide.to(tokens.device))
        return embeds.to(tokens.dtype), ids
