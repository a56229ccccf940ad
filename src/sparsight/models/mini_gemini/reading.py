"""Makes our config of an authors' config.json and the shapes of the weights beside it."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING

from sparsight.errors import ModelError, SparsightError
from sparsight.models.mini_gemini.checkpoint import read_json
from sparsight.models.mini_gemini.config import DECODERS, MiniGeminiConfig
from sparsight.models.mini_gemini.names import CLIP, HIGH

HEAD = 64  # width of a head in every CLIP that the authors use
# what a field may be, where a folder could say something that is not hosted
ALLOWED: dict[str, tuple[Any, ...]] = {
    "mm_projector_type": ("mlp2x_gelu",),
    "mm_vision_select_feature": ("patch", None),
    "mm_use_im_start_end": (False, None),
    "mm_use_im_patch_token": (False, None),
    "image_aspect_ratio": ("pad", None),
    "quantization_config": (None,),
}
# fields that are read here, follow from the weights, or were of use in training alone
KNOWN = frozenset(
    {
        *ALLOWED,
        "mm_vision_tower",
        "mm_vision_tower_aux",
        "mm_hidden_size",
        "mm_hidden_size_aux",
        "mm_vision_select_layer",
        "mm_projector_lr",
        "image_size_aux",
        "image_grid",
        "image_global",
        "image_grid_pinpoints",
    }
)
OWN = ("mm_", "image_", "vision_")  # what the authors' fields begin with
ROPE = ("rope_theta", "rope_scaling")
SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "image_size", "patch_size")
OTHERS = ("num_attention_heads", "hidden_act", "layer_norm_eps")

# fields of the config that are counts, where they are given
COUNTS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "mm_hidden_size",
    "mm_hidden_size_aux",
    "image_size_aux",
    "image_grid",
)

Shapes = Mapping[str, tuple[int, ...]]  # by the authors' keys


@dataclass(frozen=True)
class Original:
    """An authors' config.json, checked.

    Args:
        fields: all of them.
        decoder: model type of the text model.
        words: rows of its word table.
    """

    fields: dict[str, Any]
    decoder: str
    words: int


def read_original(folder: Path) -> Original:
    """Return the config of a folder.

    Raises: ModelError: the folder is no Mini-Gemini's, or a field says what is not hosted.
    """
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} is no folder with a config.json; give a folder of Mini-Gemini.")
    fields = read_json(folder / "config.json")
    kind = fields.get("model_type")
    if not isinstance(kind, str) or kind not in DECODERS:
        raise ModelError(
            f"{folder} holds a model of type {kind!r}; only Mini-Gemini's folders are converted: "
            f"{', '.join(DECODERS)}."
        )
    for name, allowed in ALLOWED.items():
        if fields.get(name) not in allowed:
            raise ModelError(
                f"{folder / 'config.json'} has {name}={fields.get(name)!r}, which is not hosted; "
                f"allowed: {', '.join(map(repr, allowed))}."
            )
    strange = sorted(name for name in fields if name.startswith(OWN) and name not in KNOWN)
    if strange:
        raise ModelError(
            f"{folder / 'config.json'} has fields that are not known: {', '.join(strange)}."
        )
    if "image_size_aux" not in fields:
        raise ModelError(
            f"{folder / 'config.json'} has no image_size_aux; it is no config of Mini-Gemini."
        )
    _check_counts(folder, fields)
    return Original(fields, DECODERS[kind], fields["vocab_size"])


def _check_counts(folder: Path, fields: Mapping[str, Any]) -> None:
    if "vocab_size" not in fields:
        raise ModelError(f"{folder / 'config.json'} has no vocab_size; fetch the file again.")
    for name in COUNTS:
        value = fields.get(name)
        if value is not None and (type(value) is not int or value < 1):
            raise ModelError(
                f"{folder / 'config.json'} has {name}={value!r}; it must be a whole number >= 1."
            )


def build_config(
    original: Original,
    shapes: Shapes,
    image_token_id: int,
    words: int,
    vision_tower: Path | None = None,
) -> MiniGeminiConfig:
    """Return our config of an authors' folder.

    Args:
        original: its config.json.
        shapes: of its weights.
        image_token_id: of the word that stands for a visual token.
        words: rows of the word table that is made.
        vision_tower: folder with CLIP's config.json, for heads that are not 64 wide.
    Raises: ModelError: an encoder is missing, or values do not fit together.
    """
    fields = original.fields
    vision = _read_vision(shapes, vision_tower)
    grid, whole = int(fields.get("image_grid") or 1), bool(fields.get("image_global") or False)
    tokens = (vision["image_size"] // vision["patch_size"]) ** 2 * (grid**2 + whole)
    text_class: Any = CONFIG_MAPPING[original.decoder]
    names = {*inspect.signature(text_class).parameters, *ROPE} - {"vocab_size", "kwargs"}
    text = {name: value for name, value in fields.items() if name in names}
    try:
        config = MiniGeminiConfig(
            vision_config={"model_type": "clip_vision_model", **vision},
            text_config={**text, "model_type": original.decoder, "vocab_size": words},
            high_res_config=_read_high(shapes),
            image_token_index=image_token_id,
            image_seq_length=tokens,
            vision_feature_layer=int(fields.get("mm_vision_select_layer", -2)),
            image_grid=grid,
            image_global=whole,
            high_res_size=int(fields["image_size_aux"]),
        )
        config.check_sizes()
    except SparsightError as error:
        raise ModelError(f"config.json does not fit the weights: {error}") from error
    except Exception as error:  # transformers raises anything on values of a wrong type
        raise ModelError(f"config.json makes no config: {error}.") from error
    return config


def _read_vision(shapes: Shapes, folder: Path | None) -> dict[str, Any]:
    """Return CLIP's sizes: from shapes, and those that shapes do not tell from its config."""
    try:
        width, _, patch, _ = shapes[CLIP + "embeddings.patch_embedding.weight"]
        places = shapes[CLIP + "embeddings.position_embedding.weight"][0] - 1
        inner = shapes[CLIP + "encoder.layers.0.mlp.fc1.weight"][0]
    except (KeyError, ValueError) as error:
        raise ModelError(
            f"the folder holds no first image encoder (keys {CLIP}*, of CLIP); fetch all of its "
            "shards."
        ) from error
    layers = {key.split(".layers.")[1].split(".")[0] for key in shapes if CLIP + "encoder.l" in key}
    sizes = (width, inner, len(layers), round(places**0.5) * patch, patch)
    vision: dict[str, Any] = dict(zip(SIZES, sizes, strict=True))
    if folder is None:
        if width % HEAD:
            raise ModelError(
                f"CLIP is {width} wide, which is no multiple of {HEAD}, the width of its heads; "
                "give vision_tower, a folder with CLIP's config.json."
            )
        return {**vision, "num_attention_heads": width // HEAD}
    return {**vision, **_read_tower_config(folder, vision)}


def _read_tower_config(folder: Path, vision: dict[str, Any]) -> dict[str, Any]:
    """Return what CLIP's config.json says that shapes do not."""
    given = read_json(folder / "config.json")
    given = given.get("vision_config", given)
    for name in SIZES:
        if given.get(name, vision[name]) != vision[name]:
            raise ModelError(
                f"{folder} has {name}={given[name]}, and the weights have {vision[name]}; give the "
                "folder of the CLIP that this model was trained with."
            )
    if "num_attention_heads" not in given:
        raise ModelError(
            f"{folder / 'config.json'} has no num_attention_heads; give CLIP's folder."
        )
    return {name: given[name] for name in OTHERS if name in given}


def _read_high(shapes: Shapes) -> dict[str, Any]:
    """Return the sizes of the ConvNeXt."""
    depths: list[int] = []
    widths: list[int] = []
    while f"{HIGH}vision_stages.{len(depths)}.blocks.0.gamma" in shapes:
        start = f"{HIGH}vision_stages.{len(depths)}.blocks."
        widths.append(shapes[start + "0.gamma"][0])
        depths.append(len({key.split(".")[5] for key in shapes if key.startswith(start)}))
    stem = shapes.get(f"{HIGH}vision_stem.0.weight")
    if not depths or stem is None:
        raise ModelError(
            f"the folder holds no second image encoder (keys {HIGH}*, of ConvNeXt), without which "
            "Mini-Gemini is a plain LLaVA; fetch all of its shards."
        )
    return {
        "depths": depths,
        "hidden_sizes": widths,
        "num_stages": len(depths),
        "patch_size": stem[-1],
        "drop_path_rate": 0.0,
    }
