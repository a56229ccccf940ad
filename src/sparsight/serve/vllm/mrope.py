"""What Qwen2.5-VL and Qwen3-VL share in vLLM: tokens that stay keep their true positions.

vLLM asks a model for the positions of a prompt before anything is encoded, and asks again when the
embeddings of images come, if pruning is on; upstream prunes videos so. Private details of vLLM
touched here, and checked: the methods in HOOKS, the merger's norm, `use_data_parallel`, fields of
features, `is_multimodal_pruning_enabled` of the model's config of media, which one engine's config
is given as its own, and that the runner takes trailing channels of embeddings off again.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from vllm.config.multimodal import MultiModalConfig
from vllm.platforms import current_platform

from sparsight.counts.layout import Block, Layout, layout_of
from sparsight.errors import MethodError, UnsupportedError
from sparsight.families.encoders import list_window_order, read_merging
from sparsight.methods.parts.tensors import widen
from sparsight.serve.vllm.hooks import require_hooks
from sparsight.serve.vllm.positions import (
    CHANNELS,
    Span,
    check_surrounded,
    lay_positions,
    place_chosen,
    read_positions,
    write_positions,
)
from sparsight.serve.vllm.processing import KEEP, SparseProcessor
from sparsight.serve.vllm.pruning import HOOKS as MODEL_HOOKS
from sparsight.serve.vllm.pruning import SparseModel
from sparsight.serve.vllm.settings import GUIDE

CPU_WORKER = "sparsight.serve.vllm.cpu_worker.SparseCPUWorker"
HOOKS = {
    **MODEL_HOOKS,
    "_parse_and_validate_image_input": (),
    "_process_image_input": ("image_input",),
    "get_mrope_input_positions": ("input_tokens", "mm_features"),
    "recompute_mrope_positions": (
        "input_ids",
        "multimodal_embeddings",
        "mrope_positions",
        "num_computed_tokens",
    ),
    "get_encoder_cudagraph_config": (),
}
require_hooks(MultiModalConfig, {"is_multimodal_pruning_enabled": ()})


def read_layouts(config: Any, given: Mapping[str, Any]) -> list[Layout]:
    """Return the layout of each image: one grid of merged patches.

    Args:
        config: of the model.
        given: what the processor made of the images.
    """
    sizes = given.get("image_grid_thw")
    if sizes is None:
        return []
    merge = int(config.vision_config.spatial_merge_size)
    return [
        layout_of((Block(rows // merge, columns // merge),)) for _, rows, columns in sizes.tolist()
    ]


class OnlyImages:
    """Goes before a class of vLLM that says what a model takes: images alone."""

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        """Return how many media of each kind a prompt may have: any number of images, no video."""
        return {"image": None, "video": 0}

    def get_mm_max_tokens_per_item(self, seq_len: int, mm_counts: Any) -> Mapping[str, int]:
        """Return how many tokens an image has at most, when it keeps everything."""
        del seq_len, mm_counts
        return {"image": self.get_max_image_tokens()}  # type: ignore[attr-defined]


class MRopeProcessor(SparseProcessor):
    """Goes before a processor class of vLLM."""

    read_layouts = staticmethod(read_layouts)
    space = "features"
    signals = ("features",)
    placeholder = "image_token_id"

    def check_prompt(self, ids: Sequence[int]) -> None:
        """Check that images stand apart, as positions are counted from the text between them."""
        check_surrounded(ids, self.image_id)


class MRopeModel(SparseModel):
    """Goes before a model class of vLLM."""

    read_layouts = staticmethod(read_layouts)
    space = "features"
    merger_norm: ClassVar[str]  # what the merger gives its input to first
    visual: Any
    use_data_parallel: bool
    _parse_and_validate_image_input: Any
    _process_image_input: Any

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        check_engine(vllm_config)
        # makes the runner ask for positions again, and keeps CUDA graphs of the encoder, which
        # would go past `embed_multimodal`, from being made; of this engine's config alone
        media = vllm_config.model_config.multimodal_config
        object.__setattr__(media, "is_multimodal_pruning_enabled", _is_enabled)
        super().__init__(vllm_config=vllm_config, prefix=prefix)  # type: ignore[call-arg]
        if self.use_data_parallel and self.sparse_settings.method.encoder_needs:
            raise UnsupportedError(
                "with mm_encoder_tp_mode='data' no process sees the encoder's features of all "
                "images; set space='tokens', or leave the mode out."
            )

    def embed_multimodal(self, **kwargs: Any) -> Any:
        """Encode images, and return the tokens of each that stay, with their positions."""
        keep, guides = kwargs.pop(KEEP, None), kwargs.pop(GUIDE, None)
        image = self._parse_and_validate_image_input(**kwargs)
        if image is None:
            return []
        with self._read_merger() as pieces:
            tokens = self._process_image_input(image)
        features = self._split_features(pieces, kwargs["image_grid_thw"].tolist())
        embeddings = []
        for cut in self.cut(tokens, kwargs, keep, guides, features):
            where = write_positions(cut.places, (1, *cut.layout.sizes[0]))
            embeddings.append(torch.cat([cut.tokens, where.to(cut.tokens)], dim=1))
        return embeddings

    @contextmanager
    def _read_merger(self) -> Iterator[list[torch.Tensor]]:
        """Yield what the merger is given, if the method reads features."""
        pieces: list[torch.Tensor] = []
        if not self.sparse_settings.method.encoder_needs:
            yield pieces
            return

        def keep(module: Any, given: tuple[torch.Tensor, ...]) -> None:
            del module
            pieces.append(given[0])

        # vLLM calls the merger itself past its hooks
        norm = getattr(self.visual.merger, self.merger_norm)
        handle = norm.register_forward_pre_hook(keep)
        try:
            yield pieces
        finally:
            handle.remove()

    def _split_features(
        self, pieces: Sequence[torch.Tensor], sizes: Sequence[Sequence[int]]
    ) -> list[torch.Tensor] | None:
        """Return the features of each image, the mean of the patches of each merged token."""
        if not self.sparse_settings.method.encoder_needs:
            return None
        encoder = read_merging(self.config)
        counts = [frames * rows * columns // encoder.merge for frames, rows, columns in sizes]
        given = sum(piece.numel() // piece.shape[-1] for piece in pieces)
        if given != sum(counts) * encoder.merge:
            raise MethodError(
                f"the image encoder gave features of {given} patches instead of "
                f"{sum(counts) * encoder.merge}; set space='tokens', or compile no image encoder."
            )
        rows = torch.cat([piece.flatten(0, -2) for piece in pieces])
        rows = widen(rows).view(-1, encoder.merge, rows.shape[-1]).mean(dim=1)
        if encoder.window:
            order = list_window_order([(t, h, w) for t, h, w in sizes], encoder).to(rows.device)
            rows = torch.empty_like(rows).index_copy(0, order, rows)
        return list(torch.split(rows, counts))

    def get_mrope_input_positions(
        self, input_tokens: Sequence[int], mm_features: Sequence[Any]
    ) -> tuple[torch.Tensor, int]:
        """Return positions: those of text are true, those inside images provisional."""
        merge = int(self.config.vision_config.spatial_merge_size)
        spans = []
        for feature in sorted(mm_features, key=_read_start):
            frames, rows, columns = feature.data["image_grid_thw"].data.tolist()
            where = feature.mm_position
            spans.append(
                Span(where.offset, where.length, (frames, rows // merge, columns // merge))
            )
        return lay_positions(len(input_tokens), spans)

    def recompute_mrope_positions(
        self,
        input_ids: Any,
        multimodal_embeddings: Sequence[torch.Tensor],
        mrope_positions: torch.Tensor,
        num_computed_tokens: int,
    ) -> tuple[list[torch.Tensor], torch.Tensor, int]:
        """Take the channels off embeddings that came, and put their positions right."""
        ids = torch.as_tensor(input_ids, device=mrope_positions.device)
        positions = mrope_positions
        if len(multimodal_embeddings):
            channels = torch.cat([rows[:, -CHANNELS:] for rows in multimodal_embeddings])
            where = read_positions(channels).to(mrope_positions.device)
            image = int(self.config.image_token_id)
            positions = place_chosen(ids, image, positions, where, num_computed_tokens)
        rest = [rows[:, :-CHANNELS] for rows in multimodal_embeddings]
        return rest, positions, int(positions[0, -1]) + 1 - len(ids)  # text is at the end


def check_engine(vllm_config: Any) -> None:
    """Check that positions can be put right in an engine.

    Raises: UnsupportedError: they cannot, with what to change.
    """
    if vllm_config.speculative_config is not None:
        raise UnsupportedError(
            "speculative decoding reads positions one token ahead, which this model's are not made "
            "for; leave it out."
        )
    parallel = vllm_config.parallel_config
    if parallel.pipeline_parallel_size > 1:
        raise UnsupportedError(
            "with pipeline parallelism the later stages do not see true positions; use tensor "
            "parallelism."
        )
    if current_platform.is_cpu() and parallel.worker_cls != CPU_WORKER:
        raise UnsupportedError(
            f"on a CPU vLLM leaves positions as they are; set worker_cls={CPU_WORKER!r}."
        )


def _is_enabled() -> bool:
    return True


def _read_start(feature: Any) -> int:
    return int(feature.mm_position.offset)
