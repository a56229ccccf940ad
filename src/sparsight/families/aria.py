"""Aria: 128 or 256 visual tokens an image, asked for by learned queries, around a mixture of experts."""

from collections.abc import Mapping
from typing import Any

import torch

from sparsight.counts.layout import Block
from sparsight.families.family import IMAGE_FEATURES, IMAGE_IDS, Family
from sparsight.families.reading import Layouts, alike, patches_of, read


def aria_layouts(config: Any, ids: torch.Tensor, given: Mapping[str, Any]) -> Layouts:
    """Return each sample's layout: no token is a patch."""
    queries = {
        int(patches): int(count) for patches, count in config.projector_patch_to_query_dict.items()
    }
    grid = patches_of(config, given.get("pixel_values"))
    counts = (
        [queries.get(grid[0] * grid[1], 0)]
        if grid is not None
        else sorted(queries.values(), reverse=True)
    )
    return read(
        config, ids, alike(config, ids, [Block(0, 0, before=count) for count in counts if count])
    )


ARIA = Family(
    name="aria",
    classes=("AriaForConditionalGeneration", "AriaModel"),
    base="model",
    decoder="language_model",
    visual_ids=IMAGE_IDS,
    features=IMAGE_FEATURES,
    layouts=aria_layouts,
    refused=(
        "Uniform, Pool: its visual tokens answer learned queries and lie nowhere in the image",
    ),
)
