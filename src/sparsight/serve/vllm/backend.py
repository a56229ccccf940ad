"""LLaVA with any image encoder in vLLM, by vLLM's backend that runs the model of transformers.

The layout of each image is read in the front end, where its pixels are, and travels with it.
Private details of vLLM touched here: the classes imported below, and what its processor writes:
`image_replacement_ids`, which it takes away again, `image_replacement_sizes`, `num_image_patches`.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from vllm.model_executor.models.transformers import TransformersMultiModalForCausalLM
from vllm.model_executor.models.transformers.multimodal import (
    MultiModalDummyInputsBuilder,
    MultiModalProcessingInfo,
    MultiModalProcessor,
)
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.inputs import MultiModalFieldConfig

from sparsight.counts.layout import Layout
from sparsight.errors import UnsupportedError
from sparsight.families import family_named
from sparsight.serve.vllm.hooks import require_hooks
from sparsight.serve.vllm.processing import SparseProcessor
from sparsight.serve.vllm.pruning import HOOKS, SparseModel

SERVED = {"llava": "LlavaForConditionalGeneration"}  # by model type: the class of transformers
LAYOUT = "sparsight_layout"  # field of an image: a row for each field of its layout
FIELDS = ("image", "part", "row", "column", "frame")

require_hooks(TransformersMultiModalForCausalLM, HOOKS)
require_hooks(MultiModalProcessingInfo, {"get_max_image_tokens": ()})


class Info(MultiModalProcessingInfo):
    """What a model takes: images alone."""

    def _get_supported_modalities(self) -> list[str]:
        return ["image"]


class Processor(SparseProcessor, MultiModalProcessor):
    """Processor of any model of transformers."""

    placeholder: ClassVar[str] = "image_token_id"

    @staticmethod
    def read_layouts(config: Any, given: Mapping[str, Any]) -> list[Layout]:
        """Return the layout of each image.

        Args:
            config: of the model.
            given: what the processor made of the images.
        Raises: UnsupportedError: it is not known where tokens of an image lie.
        """
        if given.get("image_replacement_sizes") is None:
            return []
        family = family_named(SERVED[config.model_type])
        counts = given["image_replacement_sizes"].tolist()
        pixels = torch.split(given["pixel_values"], given["num_image_patches"].tolist())
        layouts = []
        for count, own in zip(counts, pixels, strict=True):
            ids = torch.full((1, count), int(config.image_token_id))
            read = None if family.layouts is None else family.layouts
            layout = None if read is None else read(config, ids, {"pixel_values": own})[0]
            if layout is None:
                raise UnsupportedError(
                    f"it is not known where the {count} visual tokens of an image lie; use vLLM "
                    "without sparsight, or `sparsify`."
                )
            layouts.append(layout)
        return layouts

    @staticmethod
    def check_config(config: Any) -> None:
        """Check the kind of a model.

        Raises: UnsupportedError: it was never looked at here.
        """
        if config.model_type not in SERVED:
            raise UnsupportedError(
                f"a model of type {config.model_type!r} was never looked at in vLLM's backend for "
                f"transformers; {', '.join(SERVED)} was."
            )

    def _apply_hf_processor_main(self, mm_items: Any, hf_kwargs: Any) -> Any:
        data = super()._apply_hf_processor_main(mm_items, hf_kwargs)
        layouts = self.read_layouts(self.info.get_hf_config(), data)
        if layouts:
            data[LAYOUT] = [write_layout(layout) for layout in layouts]
        return data

    def _get_mm_fields_config(self, hf_inputs: Any, hf_processor_mm_kwargs: Any) -> Any:
        fields = super()._get_mm_fields_config(hf_inputs, hf_processor_mm_kwargs)
        return {**fields, LAYOUT: MultiModalFieldConfig.batched("image", keep_on_cpu=True)}


@MULTIMODAL_REGISTRY.register_processor(
    Processor, info=Info, dummy_inputs=MultiModalDummyInputsBuilder
)
class SparsightTransformers(SparseModel, TransformersMultiModalForCausalLM):
    """A model of transformers with fewer visual tokens."""

    @staticmethod
    def read_layouts(config: Any, given: Mapping[str, Any]) -> list[Layout]:
        """Return the layouts that travelled with the images."""
        del config
        return [read_layout(rows) for rows in given[LAYOUT]]


def write_layout(layout: Layout) -> torch.Tensor:
    """Return a layout of V tokens as rows, (5, V) int64."""
    return torch.stack([getattr(layout, name) for name in FIELDS])


def read_layout(rows: torch.Tensor) -> Layout:
    """Return the layout that `write_layout` wrote."""
    return Layout(*rows.cpu())
