"""What the converter refuses, and that a refusal leaves nothing behind."""

import json
import os

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sparsight.errors import ModelError, SettingError
from sparsight.models.mini_gemini import convert, converter
from tests.support import mgm_folder

HIGH = "model.vision_tower_aux."
CLIP = "model.vision_tower.vision_tower."


def refused(source, words, target=None, error=ModelError, **options):
    """Check that a folder is refused by name, and that nothing was written beside it."""
    before = sorted(path.name for path in source.parent.iterdir())
    options = {"vision_tower": source / "clip", **options}
    with pytest.raises(error, match=words):
        convert(source, target or source.parent / "out", **options)
    assert sorted(path.name for path in source.parent.iterdir()) == before


def changed(folder, change):
    """A folder whose weights were changed."""
    weights = dict(mgm_folder.recorded_weights())
    change(weights)
    return mgm_folder.write(folder / "in", weights=weights)


def drop(start):
    """A change that leaves weights out."""

    def change(weights):
        for key in [key for key in weights if key.startswith(start)]:
            del weights[key]

    return change


FIELDS = {
    "another model": ({"model_type": "llava_llama"}, "model of type 'llava_llama'.*mini_gemini"),
    "another projector": ({"mm_projector_type": "linear"}, "mm_projector_type='linear'"),
    "start and end": ({"mm_use_im_start_end": True}, "mm_use_im_start_end=True"),
    "patch token": ({"mm_use_im_patch_token": True}, "mm_use_im_patch_token=True"),
    "class tokens": ({"mm_vision_select_feature": "cls_patch"}, "'cls_patch', which is not hosted"),
    "cropped": ({"image_aspect_ratio": "square"}, "image_aspect_ratio='square'"),
    "quantised": ({"quantization_config": {"bits": 4}}, "quantization_config="),
    "a strange field": ({"mm_resampler_type": "x"}, "not known: mm_resampler_type"),
    "sizes that do not fit": ({"image_size_aux": 100}, "high_res_size=100 does not fit"),
    "another grid": ({"image_grid": 5}, "does not fit image_grid=5"),
    "too few layers": ({"num_hidden_layers": 3}, "holds too much, 9 weights.*layers.3"),
    "too many layers": ({"num_hidden_layers": 5}, "lacks 9 weights.*layers.4"),
    "another width": ({"intermediate_size": 80}, r"\(96, 64\).*\(80, 64\); 12 weights"),
    "a wrong type": ({"hidden_size": "wide"}, "hidden_size='wide'; it must be a whole number"),
    "a negative width": ({"hidden_size": -64}, "hidden_size=-64; it must be a whole number"),
    "no heads": ({"num_key_value_heads": 0}, "num_key_value_heads=0; it must be"),
    "a part of a grid": ({"image_grid": 1.9}, "image_grid=1.9; it must be a whole number"),
    "a negative picture": ({"image_size_aux": -96}, "image_size_aux=-96; it must be"),
    "types in a list": ({"model_type": ["mgm"]}, r"a model of type \['mgm'\]"),
    "an unknown activation": ({"hidden_act": "evil"}, "makes no model.*evil"),
}


@pytest.mark.parametrize("name", FIELDS)
def test_fields_that_are_not_hosted(name, tmp_path):
    fields, words = FIELDS[name]
    refused(mgm_folder.write(tmp_path / "in", **fields), f"(?s){words}")


WEIGHTS = {
    "no second encoder": (drop(HIGH), "no second image encoder.*ConvNeXt"),
    "no first encoder": (drop(CLIP), "no first image encoder.*CLIP"),
    "no mining": (drop("model.vlm_uni_aux"), "lacks 4 weights.*mining.key"),
    "no head": (drop("lm_head"), "lacks 1 weights, such as lm_head.weight"),
    "a strange weight": (
        lambda weights: weights.update({"model.sampler.x": torch.zeros(2)}),
        "'model.sampler.x', which is no part of Mini-Gemini",
    ),
    "a strange part of a stage": (
        lambda weights: weights.update({HIGH + "vision_stages.0.blocks.0.grn": torch.zeros(2)}),
        "blocks.0.grn', which is no part",
    ),
    "a wrong shape": (
        lambda weights: weights.update({"model.mm_projector.0.bias": torch.zeros(3)}),
        r"linear_1.bias has the shape \(3,\)",
    ),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_that_do_not_fit(name, tmp_path):
    change, words = WEIGHTS[name]
    refused(changed(tmp_path, change), f"(?s){words}")


def test_no_folder_of_a_model(tmp_path):
    (tmp_path / "in").mkdir()
    refused(tmp_path / "in", "no folder with a config.json")
    (tmp_path / "in" / "config.json").write_text("[1]")
    refused(tmp_path / "in", "holds a list; a JSON object")
    (tmp_path / "in" / "config.json").write_text("{")
    refused(tmp_path / "in", "cannot be read as JSON")


def test_folders_without_a_whole_model(tmp_path):
    source = mgm_folder.write(tmp_path / "in", shards=2)
    (source / "pytorch_model-00002-of-00002.bin").unlink()
    refused(source, "lacks pytorch_model-00002-of-00002.bin")
    index = source / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../elsewhere.bin"}}))
    refused(source, "'../elsewhere.bin', which is no file of this folder")
    index.write_text("{}")
    refused(source, "no weight_map")
    index.unlink()
    refused(source, "holds no weights")
    (source / "mm_projector.bin").write_bytes(b"")
    refused(source, "first training stage")
    (source / "adapter_config.json").write_text("{}")
    refused(source, "holds adapters")


class Hostile:
    """A pickle that would make a folder."""

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return os.mkdir, (str(self.place),)


def test_pickles_hold_tensors_and_run_nothing(tmp_path):
    source = mgm_folder.write(tmp_path / "in", shards=1)
    shard = source / "pytorch_model-00001-of-00001.bin"
    for content, words in (
        ({"x": Hostile(tmp_path / "made")}, "nothing else of it is run"),
        ({"x": 1}, "something else than tensors by name"),
        ([torch.zeros(2)], "something else than tensors by name"),
    ):
        torch.save(content, shard)
        refused(source, words)
    shard.write_bytes(b"PK\x03\x04 broken")
    refused(source, "cannot be read as plain weights")
    (source / "model.safetensors").write_bytes(b"\x08" + b"\x00" * 7 + b"{broken}")
    refused(source, "cannot be read as safetensors")


def test_heads_that_no_shape_tells(tmp_path):
    source = mgm_folder.write(tmp_path / "in")
    refused(source, "no multiple of 64.*give vision_tower", vision_tower=None)
    tower = source / "clip" / "config.json"
    sizes = json.loads(tower.read_text())
    tower.write_text(json.dumps({**sizes, "patch_size": 8}))
    refused(source, "has patch_size=8, and the weights have 4")
    tower.write_text(json.dumps({k: v for k, v in sizes.items() if "heads" not in k}))
    refused(source, "no num_attention_heads")
    tower.write_text(json.dumps({"vision_config": sizes}))  # as a whole CLIP has it
    made = convert(source, tmp_path / "out", source / "clip")
    assert (made.tokens, made.template) == (36, None)


def test_a_place_that_is_in_use(tmp_path):
    source = mgm_folder.write(tmp_path / "in")
    target = tmp_path / "out"
    target.mkdir()
    (target / "mine.txt").write_text("kept")
    refused(source, "exists already and is not empty", target)
    assert (target / "mine.txt").read_text() == "kept"
    (target / "mine.txt").unlink()
    convert(source, target, source / "clip")
    assert (target / "config.json").exists()
    refused(source, "exists already", target / "config.json")
    refused(source, "cannot write to", target / "config.json" / "out")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    refused(source, "is a link", tmp_path / "link")
    refused(source, "lies in", source / "out")
    refused(source, "lies in", source)
    refused(source, "cannot be looked up", tmp_path / "a\0b")
    (tmp_path / "empty").mkdir()
    made = convert(source, tmp_path / "empty" / ".." / "empty", source / "clip")
    assert made.folder == tmp_path / "empty"
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_an_interrupted_conversion_leaves_nothing(tmp_path, monkeypatch):
    source = mgm_folder.write(tmp_path / "in", shards=2)
    calls = []

    def stop(done, total):
        calls.append((done, total))
        raise KeyboardInterrupt

    refused(source, None, error=KeyboardInterrupt, progress=stop)
    assert calls == [(1, 2)]
    monkeypatch.setattr(converter.shutil, "disk_usage", lambda _: type("Disk", (), {"free": 3}))
    refused(source, "0.0 GB free, and the weights have 0.0 GB")


def test_unknown_templates(tmp_path):
    source = mgm_folder.write(tmp_path / "in")
    refused(source, "chat='llama'.*vicuna, llama_3", error=SettingError, chat="llama")
    mgm_folder.write_tokenizer(source)
    (source / "tokenizer.json").write_text("{broken")
    refused(source, "the tokenizer in .* cannot be read")


def test_buffers_are_left_out_and_tied_heads_are_not_doubled(tmp_path):
    weights = dict(mgm_folder.make_weights("gemma", tmp_path / "text"))
    assert "lm_head.weight" not in weights
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(8)
    source = mgm_folder.write(tmp_path / "in", "gemma", weights=weights)
    convert(source, tmp_path / "out", source / "clip")
    (path,) = (tmp_path / "out").glob("*.safetensors")
    assert path.stat().st_mode & 0o777 == 0o644
    written = load_file(path)
    assert "lm_head.weight" not in written
    assert not any("rotary" in key for key in written)


def test_quantised_weights_are_refused(tmp_path):
    source = changed(tmp_path, lambda w: w.update({"lm_head.weight": torch.zeros(96, 64).byte()}))
    refused(source, "lm_head.weight has the dtype U8; allowed: BF16, F16")


def test_weights_keep_their_dtype_and_bits(tmp_path):
    weights = {key: value.bfloat16() for key, value in mgm_folder.recorded_weights().items()}
    weights["model.norm.weight"] = weights["model.norm.weight"].float()
    source = mgm_folder.write(tmp_path / "in", weights=weights)
    convert(source, tmp_path / "out", source / "clip")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    (path,) = (tmp_path / "out").glob("*.safetensors")
    with safe_open(path, "pt") as file:
        head = file.get_tensor("lm_head.weight")
    assert torch.equal(head[:96], weights["lm_head.weight"])
    both = {"model.norm.weight": weights["model.norm.weight"]}
    save_file(both, source / "second.safetensors")
    table = dict.fromkeys(weights, "model.safetensors") | {"x": "second.safetensors"}
    (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))
    refused(source, "both hold 'model.norm.weight'", tmp_path / "other")
