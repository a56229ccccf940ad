"""Names and shapes of Mini-Gemini's weights: as the authors save them, and as they are here.

Private details of transformers touched here: names of parameters of CLIP, ConvNeXt and of text
models, and that a checkpoint of Mixtral keeps its experts apart.
"""

import re
from collections.abc import Iterator, Mapping

import torch

from sparsight.errors import ModelError
from sparsight.models.mini_gemini.config import MiniGeminiConfig
from sparsight.models.mini_gemini.model import MiniGeminiForConditionalGeneration

CLIP = "model.vision_tower.vision_tower.vision_model."
HIGH = "model.vision_tower_aux."
OUR_CLIP = "model.vision_tower.clip.vision_model."
OUR_HIGH = "model.vision_tower.high_res.convnext."
STAGE = re.compile(r"vision_stages\.(\d+)\.(.+)")
BLOCK = {
    "gamma": "layer_scale_parameter",
    "conv_dw": "dwconv",
    "norm": "layernorm",
    "mlp.fc1": "pwconv1",
    "mlp.fc2": "pwconv2",
}
PREFIXES = {
    CLIP: OUR_CLIP,
    HIGH + "vision_stem.0.": OUR_HIGH + "embeddings.patch_embeddings.",
    HIGH + "vision_stem.1.": OUR_HIGH + "embeddings.layernorm.",
    "model.vlm_uni_query_projector.": "model.vision_tower.mining.query.",
    "model.vlm_uni_aux_projector.": "model.vision_tower.mining.key.",
    "model.vlm_uni_val_projector.": "model.vision_tower.mining.value.",
    "model.mm_projector.0.": "model.multi_modal_projector.linear_1.",
    "model.mm_projector.2.": "model.multi_modal_projector.linear_2.",
    "model.embed_tokens.": "model.language_model.embed_tokens.",
    "model.layers.": "model.language_model.layers.",
    "model.norm.": "model.language_model.norm.",
    "lm_head.": "lm_head.",
}
SKIPPED = ("rotary_emb.inv_freq", "position_ids")  # buffers that every model makes for itself
SHOWN = 4  # keys that an error names


def rename(key: str) -> str | None:
    """Return our name of an authors' key; None for a buffer that is left out.

    Raises: ModelError: the key is of no known part.
    """
    if key.endswith(SKIPPED):
        return None
    stage = STAGE.fullmatch(key.removeprefix(HIGH)) if key.startswith(HIGH) else None
    if stage is not None:
        return _rename_stage(key, stage[1], stage[2])
    for theirs, ours in PREFIXES.items():
        if key.startswith(theirs):
            return ours + key.removeprefix(theirs)
    raise _unknown(key)


def _rename_stage(key: str, stage: str, rest: str) -> str:
    start = f"{OUR_HIGH}encoder.stages.{stage}."
    if rest.startswith("downsample."):
        return f"{start}downsampling_layer.{rest.removeprefix('downsample.')}"
    block = re.fullmatch(r"blocks\.(\d+)\.(.+?)(\.weight|\.bias)?", rest)
    if block is None or block[2] not in BLOCK:
        raise _unknown(key)
    return f"{start}layers.{block[1]}.{BLOCK[block[2]]}{block[3] or ''}"


def _unknown(key: str) -> ModelError:
    return ModelError(
        f"the folder holds {key!r}, which is no part of Mini-Gemini as it was released; only "
        "folders with CLIP, ConvNeXt, an MLP projector and a Llama, Gemma, Mistral or Mixtral are "
        "converted."
    )


def list_expected(config: MiniGeminiConfig, words: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all weights that a folder must hold, by our names.

    Args:
        config: of the model that is made.
        words: rows of the word table in the folder.

    Raises: ModelError: the config describes no model.
    """
    try:
        with torch.device("meta"):
            state = MiniGeminiForConditionalGeneration(config).state_dict()
    except Exception as error:  # transformers raises anything on values that do not fit
        raise ModelError(f"config.json makes no model: {error}.") from error
    tied = bool(config.tie_word_embeddings)
    shapes: dict[str, tuple[int, ...]] = {}
    for name, weight in state.items():
        if tied and name == "lm_head.weight":
            continue
        shape = tuple(weight.shape)
        if name in ("lm_head.weight", "model.language_model.embed_tokens.weight"):
            shape = (words, *shape[1:])
        if ".mlp.experts." in name or name.endswith("mlp.gate.weight"):
            shapes.update(_list_experts(name, shape))
        else:
            shapes[_put_prefix(name)] = shape
    return shapes


def _put_prefix(name: str) -> str:
    """Return a name as checkpoints have it: with `vision_model` in front of CLIP's parts."""
    bare = OUR_CLIP.removesuffix("vision_model.")
    if name.startswith(bare) and not name.startswith(OUR_CLIP):
        return OUR_CLIP + name.removeprefix(bare)
    return name


def _list_experts(name: str, shape: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield names and shapes of Mixtral's experts, which stand apart in a checkpoint."""
    layer = name.partition(".mlp.")[0] + ".block_sparse_moe"
    if name.endswith("gate.weight"):
        yield f"{layer}.gate.weight", shape
        return
    for expert in range(shape[0]):
        if name.endswith("gate_up_proj"):
            half = (shape[1] // 2, shape[2])
            yield f"{layer}.experts.{expert}.w1.weight", half
            yield f"{layer}.experts.{expert}.w3.weight", half
        else:
            yield f"{layer}.experts.{expert}.w2.weight", shape[1:]


def check_shapes(
    found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]
) -> None:
    """Check that a folder holds every weight of a model, each of its shape, and no other.

    Args: found, expected: shapes by our names.
    Raises: ModelError: it does not; the message names the first keys.
    """
    missing = [name for name in expected if name not in found]
    others = [name for name in found if name not in expected]
    wrong = [name for name in expected if name in found and found[name] != expected[name]]
    for what, names in (("lacks", missing), ("holds too much,", others)):
        if names:
            raise ModelError(
                f"the folder {what} {len(names)} weights, such as {', '.join(names[:SHOWN])}; its "
                "shards and its config.json do not belong together."
            )
    if wrong:
        name = wrong[0]
        raise ModelError(
            f"{name} has the shape {found[name]}, and by config.json and the other weights it is "
            f"{expected[name]}; {len(wrong)} weights do not fit. Fetch the folder again."
        )
