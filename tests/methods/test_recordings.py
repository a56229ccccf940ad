"""Published methods end to end: on recorded encoders the engine keeps what was recorded."""

import pytest
import torch

from sparsight import sparsify
from sparsight.counts.layout import grids_layout
from sparsight.methods import SCOPE, DivPrune, FastV, HiPrune, ToMe, VisionZip, VisPruner
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


def test_tome():
    settings, tensors = read("tome-b")
    model, merges = recorded.model(32, 24), settings["r"]
    keys = [tensors[f"metric.{step}"] for step in range(len(merges))]
    recorded.put_keys_in(model, tensors["inputs"], keys)
    count = 24**2 - sum(merges)
    inputs = tiny.batch([["image", 6]], side=24 * tiny.PATCH).inputs
    with sparsify(model, ToMe(count)) as run, contract.Probe(model) as probe, torch.no_grad():
        model(**inputs, use_cache=False)
    (site,) = run.trace.samples[0]
    owner = tensors["owner"][1:]  # the class token stands in front
    named = owner[site.centres]
    assert torch.equal(named[site.labels], owner)
    assert len(named.unique()) == len(named) == count
    want = tensors[f"output.{len(merges) - 1}"][named].double()
    torch.testing.assert_close(probe.entering[0][0, 1 : 1 + count], want, rtol=1e-4, atol=1e-5)


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
