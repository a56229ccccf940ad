"""How image encoders are built, as far as methods read what they compute; from a config alone.

Private details of transformers touched here: `vision_feature_layer`,
`vision_feature_select_strategy` and `model_type` of configs, `hidden_size` of encoders' configs,
and `embed_dim`, its name in Qwen2-VL's; names of the lists of blocks, of a block's second norm and
its MLP, which stand behind attention in this order, and of the modules that merge patches; and the
windows of Qwen2.5-VL's encoder.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from sparsight.errors import UnsupportedError

# frames, rows and columns of patches of each image or video in a call
Sizes = list[tuple[int, int, int]]

# encoders whose sequence is raster order: path to their blocks, whether a class token is first, and
# what follows attention in a block: a norm and an MLP
TOWERS = {
    "clip_vision_model": ("encoder.layers", True, ("layer_norm2", "mlp")),
    "siglip_vision_model": ("encoder.layers", False, ("layer_norm2", "mlp")),
    "dinov2": ("encoder.layer", True, ("norm2", "mlp")),
}


Colours = tuple[tuple[float, ...], tuple[float, ...]]  # means and standard deviations
OPENAI: Colours = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HALF: Colours = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
COLOURS = {"qwen2_vl": OPENAI, "qwen2_5_vl": OPENAI, "qwen3_vl": HALF, "qwen3_vl_moe": HALF}


@dataclass(frozen=True)
class ImageEncoder:
    """How an image encoder is built.

    Args:
        path: from the base model to the encoder.
        blocks: path from the encoder to the list of its blocks.
        depth: number of blocks.
        source: index of the block whose output the projector is given.
        class_token: whether a class token stands in front of the patches.
        skip: tokens in front that become no visual token.
        merge: patches that one visual token is made of; in a block they follow each other.
        whole: indices of the blocks in which a patch sees its whole image.
        packed: whether all images of a call are one sequence, cut into pieces for attention.
        kind: model type of its config.
        width: of the features that the projector is given.
        window: side of attention windows in visual tokens, in whose order the sequence stands; 0
            for raster order.
        places: takes the sizes of a call's images, (I, 2) int64 in px on the host, and returns
            which patch of the call each visual token stands for, (T,) int64; None if patches follow
            each other as visual tokens do.
        second: names of a block's norm behind attention and of its MLP; None where this was never
            looked into.
        colours: mean and standard deviation of each colour, by which processors normalise pixels in
            0..1; None where this was never looked into.
        mergers: paths from the encoder to the modules that turn patches into visual tokens, or into
            features of DeepStack.
        features: path from the encoder to the module that makes the features of patches alone
            (I, V, D_enc), behind the block `source`; None where that block makes them.
    """

    path: str
    blocks: str
    depth: int
    source: int
    class_token: bool = False
    skip: int = 0
    merge: int = 1
    whole: tuple[int, ...] = ()
    packed: bool = False
    kind: str = ""
    width: int = 0
    window: int = 0
    places: Callable[[torch.Tensor], torch.Tensor] | None = None
    second: tuple[str, str] | None = None
    colours: Colours | None = None
    mergers: tuple[str, ...] = ()
    features: str | None = None

    def find_block(self, block: float) -> int:
        """Return the index of a block that a method names.

        Args: block: an int counts back from the block that made the features, and -1 is the one
            behind it; a float is a share of the depth.
        Raises: UnsupportedError: the encoder has no such block.
        """
        if isinstance(block, float):
            wanted = block * self.depth
            return min(self.whole, key=lambda index: (abs(index - wanted), index))
        if not 0 <= self.source - block < self.depth:
            side = "before" if block > 0 else "behind"
            raise UnsupportedError(
                f"block {abs(block)} {side} the features is none: they are made by block "
                f"{self.source} of {self.depth}, counted from 0"
            )
        return self.source - block


def read_tower(config: Any) -> ImageEncoder:
    """Return how LLaVA's image encoder is built.

    Args: config: of the base model.
    Raises: UnsupportedError: an encoder that was never looked at, features of several blocks, or a
        class token that becomes a visual token.
    """
    kind = config.vision_config.model_type
    if kind not in TOWERS:
        raise UnsupportedError(f"an image encoder of type {kind!r} was never looked at")
    blocks, class_token, second = TOWERS[kind]
    layer, depth = config.vision_feature_layer, int(config.vision_config.num_hidden_layers)
    if not isinstance(layer, int):
        raise UnsupportedError(f"its features come from several blocks, {list(layer)}")
    # hidden state 0 is the input, so hidden state n is the output of block n - 1
    source = (layer if layer >= 0 else depth + 1 + layer) - 1
    if not 0 <= source < depth:
        raise UnsupportedError(f"its features, hidden state {layer}, come from no block")
    skip = 1 if config.vision_feature_select_strategy == "default" else 0
    if class_token and not skip:
        raise UnsupportedError("the class token of its image encoder is a visual token itself")
    return ImageEncoder(
        "vision_tower",
        blocks,
        depth,
        source,
        class_token,
        skip,
        whole=tuple(range(depth)),
        kind=kind,
        width=int(config.vision_config.hidden_size),
        second=second,
    )


def read_merging(config: Any) -> ImageEncoder:
    """Return how the image encoder of Qwen2-VL, Qwen2.5-VL and Qwen3-VL is built.

    Args: config: of the base model.
    """
    vision = config.vision_config
    depth, merge = int(vision.depth), int(vision.spatial_merge_size)
    whole = getattr(vision, "fullatt_block_indexes", None)
    window = 0 if whole is None else int(vision.window_size) // merge // int(vision.patch_size)
    deeper = range(len(getattr(vision, "deepstack_visual_indexes", None) or ()))
    return ImageEncoder(
        "visual",
        "blocks",
        depth,
        depth - 1,
        merge=merge**2,
        whole=tuple(range(depth) if whole is None else sorted(whole)),
        packed=True,
        kind=str(vision.model_type),
        width=int(getattr(vision, "embed_dim", vision.hidden_size)),
        window=window,
        colours=COLOURS.get(config.model_type),
        mergers=("merger", *(f"deepstack_merger_list.{index}" for index in deeper)),
    )


def list_window_order(sizes: Sizes, encoder: ImageEncoder) -> torch.Tensor:
    """Return the raster index of each visual token of a sequence that stands in windows.

    Windows follow each other in raster order, and so do the tokens of each; frames are apart.

    Args: sizes: frames, rows and columns of patches of each image or video.
    Returns: (V,) int64.
    """
    side = round(encoder.merge**0.5)
    orders: list[torch.Tensor] = []
    first = 0
    for frames, height, width in sizes:
        rows, columns = (
            torch.arange(length // side) // encoder.window for length in (height, width)
        )
        across = int(columns[-1]) + 1
        label = (rows[:, None] * across + columns).flatten()
        order = label.sort(stable=True).indices
        for _ in range(frames):
            orders.append(order + first)
            first += len(order)
    return torch.cat(orders)
