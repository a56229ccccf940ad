"""What only the baselines do: draws, means, smaller images, refusals."""

import dataclasses
import json
import re

import pytest
import torch
from PIL import Image
from transformers import AutoModel, Dinov2Config
from typer.testing import CliRunner

from sparsight import SparseVLM, sparsify
from sparsight.cli import app
from sparsight.counts.layout import grids_layout
from sparsight.engine import passes
from sparsight.errors import BudgetError, SettingError, UnsupportedError
from sparsight.families import LLAVA
from sparsight.methods import Downscale, Pool, Random, Uniform
from sparsight.methods.view import View
from tests.support import contract, tiny, tiny_processor
from tests.support import reference_baselines as reference
from tests.support.cases import KERNELS, tiny_model

BASELINES = [Random, Uniform, Pool, Downscale]
SIDE = tiny.SIDE // tiny.PATCH


def view(sizes, count, site=0, width=3, seed=0):
    """A sample's images at one site, a group of one."""
    tokens = sum(h * w for h, w in sizes)
    hidden = torch.randn(
        tokens, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    images = torch.cat([torch.full((h * w,), i) for i, (h, w) in enumerate(sizes)])
    return View(site, count, count, hidden[None], images[None], layout=grids_layout(sizes))


def refuses(error, *words):
    """Expect an error whose message holds all words."""
    return pytest.raises(
        error, match="(?s)" + "".join(f"(?=.*{re.escape(word)})" for word in words)
    )


# ---- choices


def test_random_draws_repeat_and_follow_their_seed():
    sizes = [(6, 6), (6, 6)]

    def draw(seed, site):
        return tuple(Random(retain=9, seed=seed).select(view(sizes, 9, site=site)).keep[0].tolist())

    assert draw(seed=1, site=0) == draw(seed=1, site=0)
    assert len({draw(seed=1, site=0), draw(seed=2, site=0), draw(seed=1, site=3)}) == 3


def test_random_draws_are_fair():
    drawn = torch.zeros(36)
    for seed in range(2000):
        drawn[Random(seed=seed).select(view([(6, 6)], 9)).keep[0]] += 1
    assert abs(drawn - 500).max() < 5 * (2000 * 0.25 * 0.75) ** 0.5


@pytest.mark.parametrize("sizes", [[(6, 6)], [(4, 7), (3, 2)], [(1, 9)]])
@pytest.mark.parametrize("count", [3, 5, 7])
def test_pooled_tokens_are_means(sizes, count):
    seen = view(sizes, count)
    answer = Pool().select(seen)
    cells, centres = reference.cells_of(sizes, count)
    assert answer.keep.tolist() == [[]]
    assert answer.recycled.centres.tolist() == [centres]
    for value, cell in zip(answer.recycled.values[0], cells, strict=True):
        for d in range(3):
            want = sum(float(seen.hidden[0, t, d]) for t in cell) / len(cell)
            assert float(value[d]) == pytest.approx(want)


def test_uniform_is_an_even_stride_once_the_grid_is_gone():
    seen = dataclasses.replace(view([(2, 5)], 3, site=4), layout=grids_layout([(6, 6)]))
    assert Uniform().select(seen).keep.tolist() == [[1, 5, 8]]


@pytest.mark.parametrize("method", [Random, Uniform])
def test_deeper_sites_get_the_counts_of_sparsevlm(method):
    sites = (3, 7, 16)
    layout = grids_layout([(24, 24)])
    wanted = SparseVLM(retain=192, sites=sites, recycle=False).plan(576, 32)
    assert method(retain=192, sites=sites).plan(layout, 32) == wanted
    assert method(retain=192, sites=None).plan(layout, 32) == wanted


@pytest.mark.parametrize("method", BASELINES)
def test_the_budget_is_the_count_in_every_layer(method):
    plan = method(retain=192).plan(grids_layout([(24, 24)]), 32)
    count = 182 if method is Downscale else 192
    assert plan.entering == (count,) * 32
    assert plan.mean() == plan.mean("authors") == count
    assert method(retain=1.0).plan(576, 32).kept == (576,)
    if method is not Random:
        with refuses(UnsupportedError, method.__name__, "rows and columns", "use Random instead"):
            method(retain=192).plan(576, 32)


# ---- smaller images


def wanted(model, inputs, small, **switch):
    """Logits of the unpruned model on smaller images, with as many placeholders."""
    base = model.model
    ids = inputs["input_ids"][0].tolist()
    pixels = inputs["pixel_values"]
    size = [n * tiny.PATCH for n in small]
    pixels = torch.nn.functional.interpolate(
        pixels.float(), size=size, mode="bicubic", antialias=True
    )
    states = base.vision_tower(pixels.to(model.dtype), output_hidden_states=True, **switch)
    features = list(base.multi_modal_projector(states.hidden_states[-2][:, 1:]))
    parts = []
    for index, token in enumerate(ids):
        if token != tiny.IMAGE:
            parts.append(base.get_input_embeddings()(torch.tensor([token])))
        elif ids[index - 1] != tiny.IMAGE:
            parts.append(features.pop(0))
    hidden = base.language_model(inputs_embeds=torch.cat(parts)[None]).last_hidden_state
    return model.lm_head(hidden)[0]


@pytest.mark.parametrize("row", [["image", 5], [2, "image", 3, "image", 4]])
@pytest.mark.parametrize("kernel", KERNELS)
@torch.no_grad()
def test_downscale_is_the_model_on_a_smaller_image(kernel, row):
    model, method = tiny_model(kernel), Downscale(retain=0.6)
    small, inputs = (4, 5), tiny.batch([row], dtype=model.dtype).inputs
    want, seen = wanted(model, inputs, small, interpolate_pos_encoding=True), []
    handle = model.model.vision_tower.register_forward_hook(
        lambda _, __, out: seen.append(out.last_hidden_state.shape)
    )
    with sparsify(model, method) as run:
        got = model(**inputs).logits[0]
        generated = model.generate(
            **inputs, max_new_tokens=1, output_logits=True, return_dict_in_generate=True
        )
    handle.remove()
    contract.close(got, want, "the smaller image")
    contract.close(generated.logits[0].to(model.dtype), want[-1:], "the smaller image in generate")
    images = row.count("image")
    assert seen == [(images, 21, 32)] * 2  # patches and the class token: the encoder saw less
    assert run.stats.visual_tokens_per_layer == ((20 * images,) * 8,)
    assert run.stats.visual_tokens == (SIDE**2 * images,)


@torch.no_grad()
def test_downscale_of_an_encoder_used_at_another_size():
    """DINOv2 names the size it was trained at, takes any, and has no switch for it."""
    model, inputs = tiny.tiny_llava(), tiny.batch([["image", 5]]).inputs
    torch.manual_seed(1)
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "patch_size": tiny.PATCH,
    }
    config = Dinov2Config(**sizes, image_size=40, initializer_range=0.3)
    model.model.vision_tower = AutoModel.from_config(config).to(model.dtype).eval()
    model.model.config.vision_config = config
    with sparsify(model, Downscale(retain=0.6)) as run:
        contract.close(
            model(**inputs).logits[0], wanted(model, inputs, (4, 5)), "the smaller image"
        )
    assert run.stats.mean_visual_tokens == 20
    with sparsify(model, Pool(retain=0.25)) as run:
        model(**inputs)
    assert run.stats.mean_visual_tokens == 9


def test_other_calls_of_the_encoder_scale_nothing():
    model, inputs = tiny_model("sdpa"), tiny.batch([["image", 5]]).inputs
    plain = model.get_image_features(pixel_values=inputs["pixel_values"]).pooler_output[0]
    with sparsify(model, Downscale(retain=0.5)):
        model.generate(**inputs, max_new_tokens=2)
        with pytest.raises(RuntimeError, match="channels"):
            model.generate(
                **{**inputs, "pixel_values": inputs["pixel_values"][:, :2]}, max_new_tokens=2
            )
        assert passes._CURRENT.get() is None
        assert torch.equal(
            model.get_image_features(pixel_values=inputs["pixel_values"]).pooler_output[0], plain
        )


# ---- refusals


def test_the_input_is_no_site_for_attention():
    with refuses(SettingError, "sites=(0,)", "1..7", "No layer stands before site 0"):
        sparsify(tiny_model("sdpa"), SparseVLM(sites=(0,)))
    with refuses(SettingError, "sites=(0, 8)", "0..7"):
        sparsify(tiny_model("sdpa"), Random(sites=(0, 8)))


@pytest.mark.parametrize("method", [Pool, Downscale])
@pytest.mark.parametrize("sites", [(1,), (0, 3), None])
def test_other_sites_are_refused_by_methods_of_the_input(method, sites):
    with refuses(SettingError, method.__name__, f"sites={sites}", "give sites=(0,)"):
        method(sites=sites)


@pytest.mark.parametrize("seed", [-1, 0.5, True, None])
def test_seeds_out_of_range_are_refused(seed):
    with refuses(SettingError, f"seed={seed!r}", "give an int"):
        Random(seed=seed)


@pytest.mark.parametrize("method", [Uniform, Pool, Downscale])
def test_unknown_grids_are_refused_unless_all_is_kept(monkeypatch, method):
    monkeypatch.setattr(
        "sparsight.families.families", lambda: (dataclasses.replace(LLAVA, layouts=None),)
    )
    model, inputs = tiny_model("sdpa"), tiny.batch([["image", 5]]).inputs
    words = method.__name__, "rows and columns", "use Random instead"
    with sparsify(model, method(retain=0.5)), monkeypatch.context() as patch:
        patch.setattr(
            model.model.vision_tower, "forward", None
        )  # refused before images are encoded
        with refuses(UnsupportedError, *words):
            model(**inputs)
        with refuses(UnsupportedError, *words):
            model.generate(**inputs)
    with torch.no_grad():
        plain = model(**inputs).logits
        for retain in (1.0, 36):
            with sparsify(model, method(retain=retain)):
                assert torch.equal(model(**inputs).logits, plain)


def test_encoders_of_one_size_are_refused(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(
            "sparsight.families.families", lambda: (dataclasses.replace(LLAVA, encoder=None),)
        )
        with refuses(UnsupportedError, "Downscale is not supported for llava", "Pool or Uniform"):
            sparsify(tiny_model("sdpa"), Downscale(retain=0.5))
    model = tiny.tiny_llava()
    model.model.vision_tower = torch.nn.Linear(2, 2)
    with refuses(UnsupportedError, "Linear takes images of one size only", "Pool or Uniform"):
        sparsify(model, Downscale(retain=0.5))


@pytest.mark.skipif(tiny.OLD, reason="transformers before 5.18 do not encode images ahead")
def test_features_encoded_before_are_refused():
    model, inputs = tiny_model("sdpa"), tiny.batch([["image", 5]]).inputs
    with sparsify(model, Downscale(retain=0.5)), torch.no_grad():
        features = model.get_image_features(pixel_values=inputs.pop("pixel_values"))
        for call in (model, lambda **given: model.generate(**given, max_new_tokens=2)):
            with refuses(UnsupportedError, "Downscale", "mm_encoder_outputs", "give pixel_values"):
                call(**inputs, mm_encoder_outputs={"image": features})


def test_counts_that_images_cannot_share_are_refused():
    model, unequal = tiny_model("sdpa"), tiny.batch([["image", 5], ["image", 2, "image", 6]])
    wanted = model(**unequal.alone[1]).logits
    with sparsify(model, Downscale(retain=12)):
        with refuses(UnsupportedError, "different numbers of images", "give retain as a fraction"):
            model(**unequal.inputs)
        assert all(model(**own).logits.isfinite().all() for own in unequal.alone)
    with (
        sparsify(model, Downscale(retain=1)),
        refuses(BudgetError, "retain=1", "2 images", "count >= 2"),
    ):
        model(**unequal.alone[1])
    with sparsify(model, Downscale(retain=73)):
        assert torch.equal(model(**unequal.alone[1]).logits, wanted)


# ---- command line


@pytest.mark.parametrize("method", BASELINES)
def test_the_command_line_knows_them(method, tmp_path):
    name, photo = method.__name__.lower(), tmp_path / "photo.png"
    Image.linear_gradient("L").convert("RGB").resize((60, 40)).save(photo)
    folder = tiny_processor.save(tmp_path / "model")
    words = [
        "ask",
        photo,
        "what color ?",
        "--model",
        folder,
        "--method",
        name,
        "--retain",
        "0.3",
        "--json",
    ]
    picture = ["--picture", tmp_path / "kept.png", "--runs", "1", "--max-new-tokens", "2"]
    result = CliRunner().invoke(app, [str(word) for word in (*words, *picture)])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)["tokens"]
    assert found["mean_visual_entering"] == (9 if method is Downscale else 10)
    shown = CliRunner().invoke(app, ["methods"]).stdout
    assert name in shown


def test_images_smaller_than_a_patch_leave_the_grid_to_the_config():
    model = tiny.tiny_llava()
    given, ids = {"pixel_values": torch.zeros(1, 3, 1, 1)}, torch.full((1, tiny.VISUAL), tiny.IMAGE)
    (layout,) = LLAVA.layouts(model.model.config, ids, given)
    assert layout.sizes == ((SIDE, SIDE),)
