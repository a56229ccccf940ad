"""Smaller images for the image encoder: its pixels are scaled down, its features spread over the placeholders.

The prompt keeps its placeholders, so the model merges features as ever; the input site then keeps
one token for each patch that was really encoded. Private details of transformers touched here:
`pixel_values` and `interpolate_pos_encoding` of image encoders, and `mm_encoder_outputs` of models.
"""

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from sparsight.counts.layout import Grid, Layout
from sparsight.engine.cache import Owner
from sparsight.engine.compat import check_argument, named
from sparsight.engine.outline import Outline, Scale
from sparsight.engine.parts import Parts
from sparsight.engine.passes import Pass, current_pass
from sparsight.errors import UnsupportedError
from sparsight.methods.method import Method
from sparsight.methods.parts.cells import scaled_cells

SWITCH = "interpolate_pos_encoding"


def has_switch(encoder: nn.Module) -> bool:
    """Return whether an image encoder interpolates its positions only when it is told to.

    An encoder without such a switch that can interpolate does it always, as DINOv2 does.
    """
    return SWITCH in inspect.signature(type(encoder).forward).parameters


def check_scaling(parts: Parts, method: Method) -> None:
    """Check that a model's image encoder takes images of any size.

    Args: parts: of a model whose family names its encoder.
    Raises: UnsupportedError: the encoder takes one size only, or no pixel_values.
    """
    encoder = parts.family.get_part(parts.base, str(parts.family.encoder))
    if not has_switch(encoder) and not any(hasattr(part, SWITCH) for part in encoder.modules()):
        raise UnsupportedError(
            f"the image encoder {type(encoder).__name__} takes images of one size only, which "
            f"{type(method).__name__} cannot scale; use Pool or Uniform instead."
        )
    check_argument(encoder, "pixel_values")


class ImageScaler:
    """Scales the images of one model's passes.

    Args:
        owner: whose passes.
        parts: of the model.
        method: says how far to scale.
    """

    def __init__(self, owner: Owner, parts: Parts, method: Method) -> None:
        self.owner, self.method = owner, method
        family = parts.family
        self.encoder = family.get_part(parts.base, str(family.encoder))
        self.projector = family.get_part(parts.base, str(family.projector))
        self.switch = has_switch(self.encoder)

    def attach(self) -> list[Callable[[], None]]:
        """Put the hooks on encoder and projector, and return what removes them."""
        before = self.encoder.register_forward_pre_hook(self._on_encoder, with_kwargs=True)
        return [before.remove, self.projector.register_forward_hook(self._on_projector).remove]

    def scale(self, outline: Outline) -> Outline:
        """Return the outline of a batch with how its images are scaled.

        Raises: UnsupportedError: images that share one tensor would differ in size.
        """
        scales = set()
        for layout, schedule in zip(outline.layouts, outline.schedules, strict=True):
            if layout is not None and layout.grids and schedule:
                scales.add((layout.sizes[0], self._small(layout, schedule)))
        if len(scales) > 1:
            raise UnsupportedError(
                "samples with different numbers of images get images of different sizes for one count, and they "
                "cannot share a batch; give retain as a fraction."
            )
        smaller = [scale for scale in scales if scale[0] != scale[1]]
        return replace(outline, scale=smaller[0]) if smaller else outline

    def _small(self, layout: Layout, schedule: Any) -> Grid:
        return self.method.image_grid(layout) if self.method.prunes(schedule) else layout.sizes[0]

    def check_features(
        self, scale: Scale | None, given: dict[str, Any], before: Pass | None
    ) -> None:
        """Check that features encoded before the pass are those of images scaled in the same way.

        Raises: UnsupportedError: they are not.
        """
        early = given.get("mm_encoder_outputs") is not None
        if scale is not None and early and (before is None or before.encoded != scale):
            raise UnsupportedError(
                f"{type(self.method).__name__} scales images before they are encoded, and mm_encoder_outputs bring "
                "encoded ones; give pixel_values."
            )

    def _on_encoder(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        state = current_pass(self.owner)
        if state is None or state.scale is None:
            return None
        given = named(module, args, kwargs)
        pixels = scale_pixels(given["pixel_values"], *state.scale)
        return (), {**given, "pixel_values": pixels, **({SWITCH: True} if self.switch else {})}

    def _on_projector(
        self, module: nn.Module, args: tuple[Any, ...], features: torch.Tensor
    ) -> torch.Tensor | None:
        del module, args
        state = current_pass(self.owner)
        if state is None or state.scale is None:
            return None
        state.encoded = state.scale
        grid, small = state.scale
        if features.shape[-2] != small[0] * small[1]:
            raise UnsupportedError(
                f"an image of {small[0]} x {small[1]} patches gave {features.shape[-2]} visual tokens; "
                f"{type(self.method).__name__} needs one for each patch."
            )
        return features[..., scaled_cells(grid, small).to(features.device), :]  # (I, h w, D)


def scale_pixels(pixels: torch.Tensor, grid: Grid, small: Grid) -> torch.Tensor:
    """Scale images down from one grid of patches to a smaller one, bicubic with antialiasing, in float32.

    Args: pixels: (I, 3, H, W), normalised.
    Returns: (I, 3, h, w), dtype of `pixels`.
    """
    height, width = (
        side // n * m for side, n, m in zip(pixels.shape[-2:], grid, small, strict=True)
    )
    scaled = nn.functional.interpolate(
        pixels.float(), size=(height, width), mode="bicubic", antialias=True
    )
    return scaled.to(pixels.dtype)
