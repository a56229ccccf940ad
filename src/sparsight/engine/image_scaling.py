"""Scales images down before they are encoded, and spreads their features over the placeholders.

The prompt keeps its placeholders, so that the model merges features as before; the input site then
keeps one token for each patch that was really encoded. Private details of transformers touched
here: `pixel_values` and `interpolate_pos_encoding` of image encoders, `mm_encoder_outputs` of
models, and that a projector returns features (images, visual tokens, width).
"""

import inspect
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from sparsight.counts.layout import Grid
from sparsight.engine.compat import check_argument, name_arguments
from sparsight.engine.ledger import Owner
from sparsight.engine.outline import Outline, Scale
from sparsight.engine.parts import Parts
from sparsight.engine.passes import Pass, find_pass
from sparsight.engine.tap import AddRemover
from sparsight.errors import UnsupportedError
from sparsight.methods.method import Method
from sparsight.methods.parts.cells import scaled_cells

SWITCH = "interpolate_pos_encoding"  # argument or method of encoders that take any image size


def has_switch(encoder: nn.Module) -> bool:
    """Return whether an image encoder interpolates its positions only if an argument says so.

    An encoder that can interpolate but has no such argument always interpolates, as DINOv2 does.
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
        owner: the engine of the model.
        parts: of the model.
        method: says to which grid of patches images are scaled.
    """

    def __init__(self, owner: Owner, parts: Parts, method: Method) -> None:
        self.owner = owner
        self.method = method
        family = parts.family
        self.encoder = family.get_part(parts.base, str(family.encoder))
        self.projector = family.get_part(parts.base, str(family.projector))
        self.switch = has_switch(self.encoder)

    def attach(self, add_remover: AddRemover) -> None:
        """Put hooks on encoder and projector.

        Args: add_remover: takes a function that removes a hook, as soon as the hook is on.
        """
        encoder = self.encoder.register_forward_pre_hook(self._on_encoder, with_kwargs=True)
        add_remover(encoder.remove)
        add_remover(self.projector.register_forward_hook(self._on_projector).remove)

    def scale(self, outline: Outline) -> Outline:
        """Return the outline of a batch with the scale of its images set.

        Raises: UnsupportedError: images of different samples, which share one tensor, would be
            scaled to different sizes.
        """
        scales = set()
        for layout, schedule in zip(outline.layouts, outline.schedules, strict=True):
            if layout is not None and layout.grids and schedule:
                scales.add((layout.sizes[0], schedule.image_grid or layout.sizes[0]))
        if len(scales) > 1:
            raise UnsupportedError(
                "samples with different numbers of images get images of different sizes for one "
                "count, and they cannot share a batch; give retain as a fraction."
            )
        smaller = [scale for scale in scales if scale[0] != scale[1]]
        return replace(outline, scale=smaller[0]) if smaller else outline

    def check_features(
        self, scale: Scale | None, arguments: dict[str, Any], before: Pass | None
    ) -> None:
        """Check that images that were encoded before the pass had been scaled as the pass needs.

        Args:
            scale: of the pass; None if its images stay as they are.
            arguments: of the base model, by name.
            before: the pass that was running before; None if there was none.
        Raises: UnsupportedError: the images were encoded at another scale, or by the caller.
        """
        encoded_before = arguments.get("mm_encoder_outputs") is not None
        if scale is not None and encoded_before and (before is None or before.encoded != scale):
            raise UnsupportedError(
                f"{type(self.method).__name__} scales images before they are encoded, and "
                "mm_encoder_outputs bring encoded images; give pixel_values."
            )

    def _on_encoder(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Scale the pixels that the encoder gets."""
        state = find_pass(self.owner)
        if state is None or state.scale is None:
            return None
        arguments = name_arguments(module, args, kwargs)
        arguments["pixel_values"] = scale_pixels(arguments["pixel_values"], *state.scale)
        if self.switch:
            arguments[SWITCH] = True
        return (), arguments

    def _on_projector(
        self, module: nn.Module, args: tuple[Any, ...], features: torch.Tensor
    ) -> torch.Tensor | None:
        """Spread the features of a scaled image over the placeholders of the whole image."""
        del module, args
        state = find_pass(self.owner)
        if state is None or state.scale is None:
            return None
        state.encoded = state.scale
        grid, small = state.scale
        if features.shape[-2] != small[0] * small[1]:
            raise UnsupportedError(
                f"an image of {small[0]} x {small[1]} patches gave {features.shape[-2]} visual "
                f"tokens; {type(self.method).__name__} needs one for each patch."
            )
        # (I, rows * columns, D): each placeholder gets the features of the patch that covers it
        return features[..., scaled_cells(grid, small).to(features.device), :]


def scale_pixels(pixels: torch.Tensor, grid: Grid, small: Grid) -> torch.Tensor:
    """Return images scaled down from one grid of patches to a smaller grid.

    They are scaled in float32, bicubic with antialiasing.

    Args:
        pixels: (I, 3, H, W), normalised.
        grid: rows and columns of patches in `pixels`.
        small: rows and columns of patches to scale to.
    Returns: (I, 3, h, w), dtype of `pixels`.
    """
    height, width = pixels.shape[-2:]
    size = (height // grid[0] * small[0], width // grid[1] * small[1])
    scaled = nn.functional.interpolate(pixels.float(), size=size, mode="bicubic", antialias=True)
    return scaled.to(pixels.dtype)
