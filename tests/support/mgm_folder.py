"""Tiny folders of Mini-Gemini as its authors save them, from a recording of their modules."""

import functools
import json
from pathlib import Path

import torch
import transformers as hf
from safetensors import safe_open
from safetensors.torch import save_file

from sparsight.models.mini_gemini import convert
from tests.support import tiny_processor

DATA = Path(__file__).parents[1] / "data" / "mini-gemini.safetensors"
WIDTH, WORDS = 64, 96
SIDE, HIGH = 24, 96  # px
TEXTS = {
    "gemma": (hf.GemmaConfig, hf.GemmaForCausalLM, {"head_dim": 16, "hidden_act": "gelu"}),
    "mixtral": (hf.MixtralConfig, hf.MixtralForCausalLM, {"num_local_experts": 4}),
    "mistral": (hf.MistralConfig, hf.MistralForCausalLM, {"sliding_window": None}),
}


@functools.cache
def recording():
    """The recorded tensors by name, and what is said about them."""
    with safe_open(DATA, "pt") as file:
        info = json.loads(file.metadata()["info"])
        return {key: file.get_tensor(key) for key in file.keys()}, info  # noqa: SIM118


def recorded_weights():
    """The weights by the authors' keys."""
    tensors, _ = recording()
    return {k.removeprefix("weights."): v for k, v in tensors.items() if k.startswith("weights.")}


@functools.cache
def text_model(kind):
    """A random text model as the authors would train it."""
    config_class, model_class, own = TEXTS[kind]
    config = config_class(
        vocab_size=WORDS, hidden_size=WIDTH, intermediate_size=96, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=1024,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, initializer_range=0.2, **own,
    )  # fmt: skip
    torch.manual_seed(3)
    return model_class(config).eval()


def make_weights(kind, place):
    """Weights by the authors' keys, around a text model of a kind."""
    weights = recorded_weights()
    if kind == "llama":
        return weights
    text = ("lm_head", "model.embed_tokens", "model.layers", "model.norm")
    kept = {key: value for key, value in weights.items() if not key.startswith(text)}
    text_model(kind).save_pretrained(place)
    with safe_open(place / "model.safetensors", "pt") as file:
        return kept | {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def make_fields(kind, **changes):
    """The fields of config.json."""
    _, info = recording()
    fields = dict(info["config"])
    if kind != "llama":
        mine = {k: v for k, v in fields.items() if k.startswith(("mm_", "image_", "tokenizer_"))}
        fields = {**text_model(kind).config.to_dict(), **mine, "model_type": f"mgm_{kind}"}
    return {**fields, **changes}


def write(folder, kind="llama", *, grid=1, whole=False, weights=None, shards=0, **changes):
    """Write a folder of the authors, and return it.

    Args:
        folder: that is made.
        kind: of the text model.
        grid: tiles on a side.
        whole: whether there is an overview.
        weights: by the authors' keys; None for those of the kind.
        shards: 0 for one safetensors file, else how many pickled files there are.
        changes: of fields of config.json; None leaves a field out.
    """
    folder.mkdir(parents=True)
    if weights is None:
        weights = make_weights(kind, folder.parent / f"{folder.name}-text")
    own = {"image_grid": grid, "image_global": whole, "image_size_aux": HIGH * grid}
    fields = make_fields(kind, **{**own, **changes})
    (folder / "config.json").write_text(json.dumps(fields))
    (folder / "clip").mkdir()
    (folder / "clip" / "config.json").write_text(json.dumps(recording()[1]["vision"]))
    if not shards:
        save_file({k: v.contiguous() for k, v in weights.items()}, folder / "model.safetensors")
        return folder
    names = [f"pytorch_model-{n + 1:05d}-of-{shards:05d}.bin" for n in range(shards)]
    index = {}
    for number, name in enumerate(names):
        part = {key: weights[key] for key in list(weights)[number::shards]}
        torch.save(part, folder / name)
        index |= dict.fromkeys(part, name)
    table = {"weight_map": index}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(table))
    return folder


def write_tokenizer(folder):
    """Put a tokenizer into a folder that begins every text, and has no word for images."""
    tokenizer = tiny_processor.tokenizer(begins=True)
    data = json.loads(tokenizer.backend_tokenizer.to_str().replace("<image>", "<other>"))
    (folder / "tokenizer.json").write_text(json.dumps(data))
    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **named}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def load(source, target, **options):
    """Convert a folder, and return the model in evaluation mode, and what loading said."""
    convert(source, target, source / "clip")
    model, said = hf.AutoModelForImageTextToText.from_pretrained(
        target, output_loading_info=True, **options
    )
    return model.eval(), said
