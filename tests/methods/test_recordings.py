"""Published methods end to end: on recorded encoders the engine keeps what was recorded."""

import pytest
import torch

from sparsight import sparsify
from sparsight.counts.layout import grids_layout
from sparsight.methods import (
    DART,
    SCOPE,
    SIEVE,
    TOPS,
    AutoPrune,
    DivPrune,
    FasterVLM,
    FastV,
    HiPrune,
    HoloV,
    PruneSID,
    PyramidDrop,
    SparseVLM,
    ToMe,
    VisionZip,
    VisPruner,
    VScan,
    dart,
)
from sparsight.methods.encoder import EncoderNeed, EncoderSignals
from sparsight.methods.view import View
from tests.support import contract, recorded, reference_diversity, tiny
from tests.support.recordings import read

SOURCE, MIDDLE = 3, 2  # of five blocks, the one that makes the features, and 0.35 of the depth


def keep(model, method, images=1, *, side=24, rows=None, inputs=None):
    """Which visual tokens of each sample the engine keeps, and the probe of that pass."""
    if inputs is None:
        inputs = tiny.batch(rows or [["image", 6]] * images, side=side * tiny.PATCH).inputs
    with (
        sparsify(model, method) as run,
        contract.Probe(model) as probe,
        torch.no_grad(),
    ):
        model(**inputs, use_cache=False)
    return torch.stack([sites[0].keep for sites in run.trace.samples]), probe


def attend_in_scale(attention):
    """q and k of attention (I, N) up to a factor, for methods that a factor does not move."""
    attention = attention / attention.sum(dim=-1, keepdim=True) * 0.9
    return recorded.attending(attention[:, None])


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


@pytest.mark.parametrize("name", ["fastervlm-a", "fastervlm-b"])
def test_fastervlm(name):
    settings, tensors = read(name)
    model, images = recorded.model(32, 24), len(tensors["cls_attention"])
    recorded.put_in(model, SOURCE, recorded.attending(tensors["cls_attention"]), 1.0)
    kept, _ = keep(model, FasterVLM.paper(settings["visual_token_num"]), images)
    assert torch.equal(kept, tensors["kept"])


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
    features = recorded.with_class_token(tensors["features"])
    recorded.put_in(model, SOURCE, attend_in_scale(tensors["cls_attention"]), 1.0, features)
    kept, _ = keep(model, SCOPE.paper(settings["retain"]), images)
    assert torch.equal(kept, tensors["kept"])


@pytest.mark.parametrize("name", ["holov-576-64", "holov-576-192-overflow"])
def test_holov(name):
    settings, tensors = read(name)
    model, features = recorded.model(64, 24), recorded.with_class_token(tensors["features"][None])
    attended = attend_in_scale(tensors["cls_attention"][None])
    recorded.put_in(model, SOURCE, attended, 1.0, features)
    count, strips = settings["retain"], settings["crops"]
    kept, _ = keep(model, HoloV(count, strips=strips))
    assert torch.equal(kept[0], tensors["kept_redistributed"].sort().values)
    if count == 64:
        assert torch.equal(keep(model, HoloV(count))[0], kept)
        assert HoloV.paper(count).strips == strips


def test_prunesid():
    settings, tensors = read("prunesid-144-32")
    model, attention = recorded.model(96, 12), tensors["cls_attention"]
    recorded.put_in(model, SOURCE, attend_in_scale(attention), 1.0, tensors["hidden_states"])
    # the recording counts the class token, which is not handed on here, and its groups are random
    count, groups = settings["retain"], tensors["groups_exact_svd"]
    kept, _ = keep(model, PruneSID(count), len(attention), side=12)
    for row, points in enumerate(tensors["hidden_states"][:, 1:].double()):
        wanted = reference_diversity.prunesid(
            attention[row].double(), points, groups[row].tolist(), count, count
        )
        assert kept[row].tolist() == wanted


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


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("dart-576-128", DART.paper(128)),
        ("dart-576-ratio", DART(retain=60, kept=(60,))),
    ],
)
def test_dart(name, method, monkeypatch):
    settings, tensors = read(name)
    model, hidden = recorded.model(64, 24), tensors["hidden"]
    key = tensors["keys"].double()[None]
    first, length = settings["image_token_start_index"], settings["image_token_length"]
    end = first + length
    inputs = recorded.speak(model, hidden[:first], hidden[first:end], hidden[end:])
    recorded.put_in_decoder(model, 1, (torch.zeros_like(key), key), 0.25)
    model.model.language_model.norm = torch.nn.Identity()  # recorded behind it
    ours, chosen = dart.choose_pivots, []

    def in_recorded_order(*given, **named):
        chosen.append(ours(*given, **named))
        return tensors["pivot_order"][None] - first

    monkeypatch.setattr(dart, "choose_pivots", in_recorded_order)
    kept, _ = keep(model, method, inputs=inputs)
    assert torch.equal(kept[0], tensors["kept"])
    assert torch.equal((chosen[0][0] + first).sort().values, tensors["pivot_order"].sort().values)


@pytest.mark.parametrize("name", ["sieve-576-64", "sieve-576-128"])
def test_sieve(name):
    settings, tensors = read(name)
    attention, text = tensors["attention"].double(), tensors["text"]
    model, words = recorded.model(96, 24), len(text)
    inputs = recorded.speak(model, text[:1], tensors["visual"], text)
    # each word pays its share of what was recorded as their sum, the first token the rest
    _, key = recorded.attending(attention[None] / attention.sum(dim=-1).max() * 0.9)
    unseen = torch.full((1, len(attention), words, 1), -200.0)
    key = torch.cat([key, unseen], dim=2)
    recorded.put_in_decoder(model, 0, (torch.ones_like(key), key), 1.0)
    count = settings["retain"]
    entering = (576 + 3 * count) / 4 / 576  # one full layer of four
    method = SIEVE(entering, sites=(1,), heads=settings["heads"], eta=settings["eta"])
    kept, _ = keep(model, method, inputs=inputs)
    assert torch.equal(kept[0], tensors["kept"])


@pytest.mark.parametrize(
    ("name", "entering"), [("autoprune-576-64", 81.875), ("autoprune-576-128", 144.59375)]
)
def test_autoprune(name, entering):
    settings, tensors = read(name)
    slope, target = float(tensors["slope"]), settings["target"]
    method = AutoPrune.paper(target, slope)
    plan = method.plan(settings["original_tokens"], settings["layers"])
    assert plan.counts == tuple(tensors["planned_counts"].tolist())[:-1]
    assert plan.mean() == entering
    own = AutoPrune(target, slope=slope).plan(settings["original_tokens"], settings["layers"])
    assert target - 1 / settings["layers"] < own.mean() <= target


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
