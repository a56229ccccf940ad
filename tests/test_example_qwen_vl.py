"""examples/qwen_vl_chat.py against the original decoder's arithmetic, written out slowly."""

import json
import math
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sparsight import sparsify
from sparsight.methods import SparseVLM

PATH = Path(__file__).parents[1] / "examples" / "qwen_vl_chat.py"
EXAMPLE = runpy.run_path(str(PATH))
WIDTH, INNER = 32, 48
HEADS, LAYERS = 4, 4
VISUAL = 64
WORDS = EXAMPLE["IMAGE_END"] + 2
CONFIG = {
    "model_type": "qwen", "vocab_size": WORDS, "hidden_size": WIDTH, "intermediate_size": 2 * INNER,
    "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "seq_length": 2048,
    "layer_norm_epsilon": 1e-6, "rotary_emb_base": 10000, "no_bias": True,
    "tie_word_embeddings": False, "use_logn_attn": True, "use_dynamic_ntk": True,
}  # fmt: skip


def make_weights():
    """Random weights by the names of Qwen-VL-Chat."""
    random = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=random) * 0.3

    weights = {
        "transformer.wte.weight": draw(WORDS, WIDTH),
        "transformer.ln_f.weight": 1 + draw(WIDTH),
        "lm_head.weight": draw(WORDS, WIDTH),
        "transformer.visual.proj": draw(2, 2),
    }
    for layer in range(LAYERS):
        own = {
            "attn.c_attn.weight": draw(3 * WIDTH, WIDTH),
            "attn.c_attn.bias": draw(3 * WIDTH),
            "attn.c_proj.weight": draw(WIDTH, WIDTH),
            "mlp.w1.weight": draw(INNER, WIDTH),
            "mlp.w2.weight": draw(INNER, WIDTH),
            "mlp.c_proj.weight": draw(WIDTH, INNER),
            "ln_1.weight": 1 + draw(WIDTH),
            "ln_2.weight": 1 + draw(WIDTH),
        }
        weights |= {f"transformer.h.{layer}.{name}": value for name, value in own.items()}
    return weights


def norm(x, scale):
    return x * torch.rsqrt((x**2).mean(-1, keepdim=True) + 1e-6) * scale


def turn(x):
    """Rotary positions of (N, H, d), halves of a head turned against each other."""
    count, half = len(x), x.shape[-1] // 2
    rates = 10000.0 ** (-torch.arange(half).double() / half)
    angles = (torch.arange(count).double()[:, None] * rates)[:, None]  # (N, 1, d / 2)
    left, right = x[..., :half], x[..., half:]
    turned = (
        left * angles.cos() - right * angles.sin(),
        right * angles.cos() + left * angles.sin(),
    )
    return torch.cat(turned, dim=-1)


def run_original(embeds, weights):
    """Logits (N, words) of embeddings (N, D), as the original forward computes them."""
    x, count = embeds.double(), len(embeds)
    weights = {key: value.double() for key, value in weights.items()}
    for layer in range(LAYERS):
        own = {
            key.removeprefix(f"transformer.h.{layer}."): value
            for key, value in weights.items()
            if key.startswith(f"transformer.h.{layer}.")
        }
        y = norm(x, own["ln_1.weight"])
        mixed = y @ own["attn.c_attn.weight"].T + own["attn.c_attn.bias"]
        heads = [part.view(count, HEADS, -1) for part in mixed.chunk(3, dim=-1)]
        query, key = turn(heads[0]), turn(heads[1])
        logits = torch.einsum("nhd,mhd->hnm", query, key) / math.sqrt(WIDTH // HEADS)
        ahead = torch.ones(count, count, dtype=torch.bool).triu(1)
        rows = torch.softmax(logits.masked_fill(ahead, -torch.inf), dim=-1)
        found = torch.einsum("hnm,mhd->nhd", rows, heads[2]).reshape(count, -1)
        x = x + found @ own["attn.c_proj.weight"].T
        y = norm(x, own["ln_2.weight"])
        gate = y @ own["mlp.w2.weight"].T
        inner = (y @ own["mlp.w1.weight"].T) * gate * torch.sigmoid(gate)
        x = x + inner @ own["mlp.c_proj.weight"].T
    return norm(x, weights["transformer.ln_f.weight"]) @ weights["lm_head.weight"].T


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of Qwen-VL-Chat in two shards, and a prompt."""
    place = tmp_path_factory.mktemp("qwen")
    (place / "config.json").write_text(json.dumps(CONFIG))
    weights, index = make_weights(), {}
    for number in range(2):
        name = f"model-{number}.safetensors"
        part = {key: weights[key] for key in list(weights)[number::2]}
        save_file(part, place / name)
        index |= dict.fromkeys(part, name)
    table = {"weight_map": index}
    (place / "model.safetensors.index.json").write_text(json.dumps(table))
    return place


def make_prompt():
    features = torch.randn(VISUAL, WIDTH, generator=torch.Generator().manual_seed(1))
    before, after = torch.tensor([151644, 872, 198]), torch.tensor([198, 10, 20, 30, 151645])
    return {"before": before, "features": features, "after": after}


@torch.no_grad()
def test_logits_are_those_of_the_original(folder):
    model, prompt = EXAMPLE["load_decoder"](folder), make_prompt()
    embeds, marks = EXAMPLE["put_picture"](model, *prompt.values())
    ids = [*prompt["before"].tolist(), EXAMPLE["IMAGE_START"]]
    table = make_weights()["transformer.wte.weight"]
    assert torch.equal(embeds[0, : len(ids)], table[ids])
    assert torch.equal(embeds[0, marks[0]], prompt["features"])
    assert torch.equal(embeds[0, len(ids) + VISUAL], table[EXAMPLE["IMAGE_END"]])
    got = model(inputs_embeds=embeds).logits[0]
    want = run_original(embeds[0], make_weights())
    assert float((got - want).abs().max() / want.abs().max()) < 1e-5


def test_the_picture_is_pruned_and_the_answer_goes_on(folder):
    model = EXAMPLE["load_decoder"](folder)
    embeds, marks = EXAMPLE["put_picture"](model, *make_prompt().values())
    given = {"inputs_embeds": embeds, "attention_mask": marks.new_ones(marks.shape).long()}
    dense = model.generate(**given, max_new_tokens=4)
    with sparsify(model, SparseVLM(retain=1.0), visual_mask=marks):
        assert torch.equal(model.generate(**given, max_new_tokens=4), dense)
    with sparsify(model, SparseVLM(retain=24), visual_mask=marks) as run:
        model.generate(**given, max_new_tokens=4)
    assert 20 < run.stats.mean_visual_tokens <= 24


def test_the_program_runs(folder, tmp_path):
    save_file(make_prompt(), tmp_path / "prompt.safetensors")
    words = [sys.executable, PATH, folder, tmp_path / "prompt.safetensors", "--retain", "24"]
    done = subprocess.run(
        [*map(str, words), "--max-new-tokens", "3"], capture_output=True, text=True, check=True
    )
    answer = json.loads(done.stdout)
    assert len(answer["ids"]) <= 3
    assert answer["mean_visual_tokens"] <= 24


@pytest.mark.parametrize("change", [{"model_type": "qwen2"}, {"no_bias": False}])
def test_other_models_are_refused(change):
    with pytest.raises(ValueError, match="no Qwen-VL without biases"):
        EXAMPLE["make_config"]({**CONFIG, **change})


def test_other_weights_are_refused():
    for key in ("transformer.h.0.attn.rope", "transformer.wpe.weight"):
        with pytest.raises(ValueError, match="is no weight of Qwen-VL"):
            list(EXAMPLE["rename"](key, torch.zeros(3)))
    assert list(EXAMPLE["rename"]("transformer.visual.proj", torch.zeros(3))) == []
