"""Prune the original Qwen-VL-Chat, whose code no transformers v5 runs.

Its decoder is a Qwen2 by other names. This renames the weights, puts the 256 features that its own
image encoder (`transformer.visual`) made of a picture between the two ids that stand around a
picture, and marks them for `sparsify`. Nothing of the folder is run, and a picture is never opened
by a path that a prompt spells, as the original forward does.

    python examples/qwen_vl_chat.py QWEN_VL_CHAT PROMPT.safetensors --retain 96

PROMPT.safetensors holds `before` and `after`, the ids (N,) of the text around the picture, and
`features` (256, 4096).
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import Qwen2Config, Qwen2ForCausalLM

from sparsight import sparsify
from sparsight.models.mini_gemini.checkpoint import list_shards, open_shard

IMAGE_START, IMAGE_END = 151857, 151858  # stand around a picture
ENDS = [151643, 151645]  # end of text, and of a turn
NAMES = {
    "transformer.wte.": "model.embed_tokens.",
    "transformer.ln_f.": "model.norm.",
    "lm_head.": "lm_head.",
}
PARTS = {
    "attn.c_proj": "self_attn.o_proj",
    "mlp.w1": "mlp.up_proj",
    "mlp.w2": "mlp.gate_proj",
    "mlp.c_proj": "mlp.down_proj",
    "ln_1": "input_layernorm",
    "ln_2": "post_attention_layernorm",
}
THIRDS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")


def make_config(original: dict[str, Any]) -> Qwen2Config:
    """Return the config of the decoder.

    Args: original: config.json of Qwen-VL-Chat.
    Raises: ValueError: it is of another model, or biases stand where Qwen2 has none.
    """
    if original.get("model_type") != "qwen" or not original.get("no_bias", True):
        raise ValueError(f"model_type {original.get('model_type')!r} is no Qwen-VL without biases.")
    return Qwen2Config(
        vocab_size=original["vocab_size"],
        hidden_size=original["hidden_size"],
        intermediate_size=original["intermediate_size"] // 2,  # the config counts both halves
        num_hidden_layers=original["num_hidden_layers"],
        num_attention_heads=original["num_attention_heads"],
        num_key_value_heads=original["num_attention_heads"],
        # further on the original scales attention and rotary tables, which Qwen2 does not
        max_position_embeddings=original["seq_length"],
        rms_norm_eps=original["layer_norm_epsilon"],
        rope_parameters={"rope_type": "default", "rope_theta": original["rotary_emb_base"]},
        tie_word_embeddings=original.get("tie_word_embeddings", False),
    )


def rename(key: str, weight: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield name and weight in Qwen2 of a weight of Qwen-VL; nothing for its image encoder.

    Raises: ValueError: the weight is of no known part.
    """
    if key.startswith("transformer.visual."):
        return
    for theirs, ours in NAMES.items():
        if key.startswith(theirs):
            yield ours + key.removeprefix(theirs), weight
            return
    layer, _, rest = key.removeprefix("transformer.h.").partition(".")
    part, _, kind = rest.rpartition(".")
    if part == "attn.c_attn":
        for name, third in zip(THIRDS, weight.chunk(3), strict=True):
            yield f"model.layers.{layer}.{name}.{kind}", third
    elif part in PARTS:
        yield f"model.layers.{layer}.{PARTS[part]}.{kind}", weight
    else:
        raise ValueError(f"{key!r} is no weight of Qwen-VL.")


def load_decoder(folder: Path) -> Qwen2ForCausalLM:
    """Return the decoder of a folder of Qwen-VL-Chat, with its weights."""
    config = make_config(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    weights: dict[str, torch.Tensor] = {}
    for path in list_shards(folder):
        with open_shard(path) as shard:
            for key in shard.list_keys():
                weights.update(rename(key, shard.get(key)))
    with torch.device("meta"):
        model = Qwen2ForCausalLM(config)
    model.load_state_dict(weights, assign=True)
    model.model.rotary_emb = type(model.model.rotary_emb)(config)  # has tables that nobody saves
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = ENDS, ENDS[0]
    return model.eval()


def put_picture(
    model: Qwen2ForCausalLM, before: torch.Tensor, features: torch.Tensor, after: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return embeddings (1, N, D) of a prompt with a picture, and which are the picture's, (1, N).

    Args: before, after: ids (n,) int64; features: (V, D), without the ids around them.
    """
    ids = torch.cat([before, torch.tensor([IMAGE_START, IMAGE_END]), after]).to(model.device)
    words = model.get_input_embeddings()(ids)
    first = len(before) + 1
    parts = (words[:first], features.to(words.device, words.dtype), words[first:])
    marks = torch.zeros(1, len(ids) + len(features), dtype=torch.bool, device=words.device)
    marks[:, first : first + len(features)] = True
    return torch.cat(parts)[None], marks


def main() -> None:
    """Answer one prompt."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("prompt", type=Path)
    parser.add_argument("--retain", type=int, default=96)
    parser.add_argument("--max-new-tokens", type=int, default=64)
    given = parser.parse_args()
    model, prompt = load_decoder(given.folder), load_file(given.prompt)
    embeds, marks = put_picture(model, prompt["before"], prompt["features"], prompt["after"])
    mask = torch.ones_like(marks, dtype=torch.int64)
    with torch.no_grad(), sparsify(model, given.retain, visual_mask=marks) as run:
        said = model.generate(
            inputs_embeds=embeds, attention_mask=mask, max_new_tokens=given.max_new_tokens
        )
    kept = run.stats.mean_visual_tokens
    print(json.dumps({"ids": said[0].tolist(), "mean_visual_tokens": kept}))  # noqa: T201


if __name__ == "__main__":
    main()
