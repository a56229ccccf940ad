"""Published methods end to end: on recorded encoders the engine keeps what was recorded."""

import pytest
import torch

from sparsight import sparsify
from sparsight.counts.layout import grids_layout
from sparsight.methods import (
    SCOPE,
    TOPS,
    DivPrune,
    FastV,
    HiPrune,
    PyramidDrop,
    SparseVLM,
    VisionZip,
    VisPruner,
    VScan,
)
from sparsight.methods.encoder import EncoderNeed, EncoderSignals
from sparsight.methods.view import View
from tests.support import contract, recorded, tiny
from tests.support.recordings import read

SOURCE, MIDDLE = 3, 2  # of five blocks, the one that makes the features, and 0.35 of the depth


def keep(model, method, images=1, side=24, rows=None):
    """Which visual tokens of each sample the engine keeps, and the probe of that pass."""
    inputs = tiny.batch(rows or [["image", 6]] * images, side=side * tiny.PATCH).inputs
    with (
        sparsify(model, method) as run,
        contract.Probe(model) as probe,
        torch.no_grad(),
    ):
        model(**inputs, use_cache=False)
    return torch.stack([sites[0].keep for sites in run.trace.samples]), probe


def test_hiprune():
    settings, tensors = read("hiprune-a")
    model = recorded.model(32, 24)
    for name, block in (("object", MIDDLE), ("deep", SOURCE)):
        query, key = (tensors[f"{part}_{name}"] for part in ("query", "key"))
        recorded.put_in(model, block, (query, key), query.shape[-1] ** -0.5)
    kept, _ = keep(model, HiPrune.paper(settings["retention"]))
    assert torch.equal(kept, tensors["kept"])


def test_hiprune_of_qwen():
    settings, tensors = read("hiprune-qwen-a")
    grid, method = tuple(settings["grid_after_merge"]), HiPrune(retain=settings["retain"])
    layout, place = grids_layout([grid]), torch.arange(450)[None]
    scores = {
        EncoderNeed("received", method.object_block): tensors["object_score"][None],
        EncoderNeed("received"): tensors["deep_score"][None],
    }
    count = method.plan(layout, 28).kept[0]
    hidden, encoder = torch.zeros(1, 450, 2), EncoderSignals(scores)
    view = View(0, count, count, hidden, place * 0, layout=layout, encoder=encoder)
    assert torch.equal(method.select(view).keep[0], tensors["kept"])


@pytest.mark.parametrize("name", ["vispruner-a", "vispruner-b"])
def test_vispruner(name):
    settings, tensors = read(name)
    model, images = recorded.model(32, 24), len(tensors["features"])
    features = recorded.with_class_token(tensors["features"])
    recorded.put_in(model, SOURCE, recorded.attending(tensors["cls_attention"]), 1.0, features)
    method = VisPruner.paper(settings["visual_token_num"])
    assert method.ratio == settings["important_ratio"]
    kept, _ = keep(model, method, images)
    assert torch.equal(kept, tensors["kept"])


def test_visionzip():
    settings, tensors = read("visionzip-a")
    model, images = recorded.model(48, 24), len(tensors["hidden"])
    key = tensors["key"]
    query = torch.zeros_like(key)
    query[:, :, :1] = tensors["query"]
    recorded.put_in(model, SOURCE, (query, key), 0.25, tensors["hidden"])
    # the recording counts the class token, which is not handed on here
    count = settings["dominant"] - 1 + settings["contextual"]
    method = VisionZip(count, contextual=settings["contextual"] / count, positions="renumber")
    kept, probe = keep(model, method, images)
    assert torch.equal(kept, tensors["kept"])
    entered = probe.entering[0][:, 1 : 1 + count]
    torch.testing.assert_close(entered, tensors["output"][:, 1:].double(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "centred"), [("divprune-324-108", False), ("cenprune-divprune-576-64", True)]
)
def test_divprune(name, centred):
    settings, tensors = read(name)
    features = tensors["features"][None]
    side = round(features.shape[1] ** 0.5)
    model = recorded.model(96, side)
    query, key = recorded.attending(torch.full((1, 1, side**2), 1 / (side**2 + 1)))
    recorded.put_in(model, SOURCE, (query, key), 1.0, recorded.with_class_token(features))
    kept, _ = keep(model, DivPrune(settings["retain"], centred=centred), side=side)
    assert torch.equal(kept[0], tensors["kept"])


@pytest.mark.parametrize("name", ["scope-1x576-192", "scope-2x576-64"])
def test_scope(name):
    settings, tensors = read(name)
    model, images = recorded.model(64, 24), len(tensors["features"])
    attention = tensors["cls_attention"]
    attention = attention / attention.sum(dim=-1, keepdim=True) * 0.9  # a factor changes nothing
    features = recorded.with_class_token(tensors["features"])
    recorded.put_in(model, SOURCE, recorded.attending(attention[:, None]), 1.0, features)
    kept, _ = keep(model, SCOPE.paper(settings["retain"]), images)
    assert torch.equal(kept, tensors["kept"])


def test_fastv():
    settings, tensors = read("fastv-a")
    model, key = recorded.model(64, 12), tensors["key"].double()
    query = torch.zeros_like(key)
    query[:, :, -5:-1] = key[:, :, -5:-1]  # what other words ask is not recorded
    query[:, :, -1:] = tensors["query"]
    layer, site = model.model.language_model.layers[settings["K"] - 1], (settings["K"],)
    config = layer.self_attn.config
    layer.self_attn = recorded.RecordedAttention(config, query, key, 0.25, causal=True)
    rows = [[settings["text_before"] - 1, "image", settings["text_after"]]]
    count = round(settings["visual"] * (1 - settings["R"]))
    method = FastV(retain=count, kept=(count,), sites=site)
    kept, _ = keep(model, method, side=12, rows=rows)
    assert torch.equal(kept[0], tensors["kept"])
    other = FastV(retain=count, kept=(count,), sites=site, rater="all")
    assert not torch.equal(keep(model, other, side=12, rows=rows)[0][0], tensors["kept"])


def place(step):
    """What a site kept, counted among the tokens that were there."""
    order = step.present.tolist()
    return [order.index(token) for token in step.keep.tolist()]


@pytest.mark.parametrize("name", ["pdrop-a", "pdrop-b", "vscan-decoder-a"])
def test_pyramiddrop(name):
    """Layers that change nothing, with recorded norms and projections at the sites."""
    settings, tensors = read(name)
    text = recorded.still(
        recorded.text(64, 32, num_key_value_heads=4, rms_norm_eps=settings["norm_eps"])
    )
    for site in settings["sites"]:
        layer = text.model.layers[site]
        layer.input_layernorm.weight.data = tensors[f"norm.{site}"].double()
        layer.self_attn.q_proj.weight.data = tensors[f"q_proj.{site}"].double()
        layer.self_attn.k_proj.weight.data = tensors[f"k_proj.{site}"].double()
    lengths, visual = tensors["lengths"].tolist(), settings["visual"]
    longest = max(lengths)
    embeds = torch.zeros(len(lengths), longest, 64, dtype=torch.float64)
    marks, mask = (torch.zeros(len(lengths), longest, dtype=torch.bool) for _ in range(2))
    for row, length in enumerate(lengths):
        pads, before = longest - length, settings["text_before_after"][row][0]
        embeds[row, pads:] = tensors["inputs"][row, :length]
        mask[row, pads:] = True
        marks[row, pads + before : pads + before + visual] = True
    ratio = settings["plan"][0] / (visual if settings["plan_is"] == "counts" else 1)
    method = PyramidDrop(sites=tuple(settings["sites"]), ratio=ratio, positions="renumber")
    with sparsify(text, method, visual_mask=marks) as run, torch.no_grad():
        places = contract.positions(mask)
        text(inputs_embeds=embeds, attention_mask=mask.long(), position_ids=places)
    for row, steps in enumerate(run.trace.samples):
        for step in steps:
            assert place(step) == tensors[f"kept.{step.site}.{row}"].tolist()


@pytest.mark.parametrize("name", ["sparsevlm-rank-a", "sparsevlm-rank-b"])
def test_sparsevlm_of_videos(name):
    settings, tensors = read(name)
    model, hidden = recorded.still(recorded.model(32, 16)), tensors["hidden"].double()
    first, words = settings["text_before"], settings["text_after"]
    visual = torch.arange(first, first + settings["visual"])
    text = torch.tensor([i for i in range(len(hidden)) if i not in visual])
    features = recorded.with_class_token(hidden[visual][None])
    query, key = recorded.attending(torch.full((1, 1, 256), 1 / 257))
    recorded.put_in(model, SOURCE, (query, key), 1.0, features)
    decoder = model.model.language_model
    inputs = tiny.batch([[first - 1, "image", words]], side=16 * tiny.PATCH).inputs
    inputs["input_ids"][0, text] = torch.arange(len(text)) + 4  # every word is another one
    decoder.embed_tokens.weight.data[4 : 4 + len(text)] = hidden[text]
    layer = decoder.layers[settings["prune_layer"]]
    query, key = recorded.rows_of(tensors["attention_text_rows"])
    config = layer.self_attn.config
    layer.self_attn = recorded.RecordedAttention(config, query, key, 1.0, causal=True)
    method = SparseVLM.paper_video()
    with sparsify(model, method) as run, contract.Probe(model) as probe, torch.no_grad():
        model(**inputs, use_cache=False)
    (step,) = run.trace.samples[0]
    after = first + settings["visual"]
    assert (run.trace.raters[0] - after).tolist() == tensors["raters"].tolist()
    assert torch.equal(step.keep, tensors["kept"])
    torch.testing.assert_close(step.score, tensors["score"].double(), rtol=1e-4, atol=1e-7)
    assert run.stats.visual_tokens_per_layer[0][1:3] == (256, len(step.keep) + len(step.centres))
    entered = probe.entering[2][0, first + len(step.keep) : -words]
    wanted = tensors["recycled"].double()
    assert entered.shape == wanted.shape
    # clusters are numbered by peak score in both, but equal scores in any order
    apart = (entered[:, None] - wanted).abs().amax(dim=-1)
    assert (apart.amin(dim=0) < 1e-5).all()


def test_vscan():
    settings, tensors = read("vscan-a")
    model = recorded.model(32, 24)
    features = recorded.with_class_token(tensors["features"])
    for block, which in ((1, "local"), (SOURCE, "global")):
        attended = recorded.attending(tensors[f"cls_attention_{which}"])
        recorded.put_in(model, block, attended, 1.0, features if block == SOURCE else None)
    inputs = tiny.batch([["image", 6]], side=24 * tiny.PATCH).inputs
    method = VScan.paper(settings["visual_token_num"] * 2 // 3)
    with sparsify(model, method) as run, contract.Probe(model) as probe, torch.no_grad():
        model(**inputs, use_cache=False)
    step, count = run.trace.samples[0][0], settings["visual_token_num"]
    assert torch.equal(step.centres, tensors["kept"][0])
    assert step.keep.tolist() == []
    entered = probe.entering[0][0, 1 : 1 + count]
    torch.testing.assert_close(entered, tensors["merged"][0].double(), rtol=1e-4, atol=1e-5)
    # behind the middle layer a third is left, kept as it is
    assert run.stats.visual_tokens_per_layer[0] == (count, count, count // 3, count // 3)


def test_vscan_of_qwen():
    settings, tensors = read("vscan-qwen-a")
    layout, method = grids_layout([tuple(settings["grid_after_merge"])]), VScan(score="received")
    scores = {
        EncoderNeed("received", method.local_block): tensors["local_score"][None],
        EncoderNeed("received"): tensors["global_score"][None],
    }
    hidden, count = tensors["features"][None], int(len(layout) * settings["image_token_ratio"])
    view = View(
        0, count, 0, hidden, torch.zeros(1, 888, dtype=torch.int64), layout=layout,
        encoder=EncoderSignals(scores),
    )  # fmt: skip
    answer = method.select(view).recycled
    assert torch.equal(answer.centres[0], tensors["kept"])
    torch.testing.assert_close(answer.values[0], tensors["merged"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["tops-576-128", "tops-576-64-minmax"])
def test_tops(name):
    settings, tensors = read(name)
    model, relevance = recorded.model(64, 24), tensors["relevance"][None]
    relevance = relevance / relevance.sum(dim=-1, keepdim=True) * 0.9  # a factor changes nothing
    features = recorded.with_class_token(tensors["features"][None])
    recorded.put_in(model, SOURCE, recorded.attending(relevance[:, None]), 1.0, features)
    count, scale = settings["retain"], settings["normalise"]
    settings = {"alpha": settings["alpha"], "coverage_weight": settings["lam"], "scale": scale}
    method = TOPS(retain=count, sites=(0, 1, 3), kept=(count, 9, 2), **settings)
    kept, _ = keep(model, method)
    assert torch.equal(kept[0], tensors["kept"])
