"""Methods that are guided by the text, end to end: the engine keeps what was recorded."""

import pytest
import torch

from sparsight import sparsify
from sparsight.counts.layout import Block, grids_layout, layout_of
from sparsight.methods import EADP, CDPruner, MMTok
from sparsight.methods.clip import ClipTower
from sparsight.methods.encoder import EncoderNeed, EncoderSignals, TextSignal
from sparsight.methods.view import View
from tests.support import recorded, tiny
from tests.support.recordings import read

SOURCE = 3  # of five blocks, the one that makes the features


def show(features, projected=None):
    """A model whose image encoder computes features (1, 576, D), for any image."""
    model = recorded.model(features.shape[-1], 24, projected=projected)
    query, key = recorded.attending(torch.full((1, 1, 576), 1 / 577))
    recorded.put_in(model, SOURCE, (query, key), 1.0, recorded.with_class_token(features))
    return model


def keep(model, method, text):
    """Which visual tokens of a prompt with the words (M, D) the engine keeps, in float64."""
    inputs = tiny.batch([["image", len(text)]], side=24 * tiny.PATCH).inputs
    recorded.say(model, inputs, text)
    with sparsify(model, method) as run, torch.no_grad():
        model(**inputs, use_cache=False)
    return run.trace.samples[0][0].keep


def choose(method, layout, hidden, text, *, features=None, dtype):
    """Which tokens (V, D) of a view a method keeps, and its score; words are (M, D)."""
    count = method.plan(layout, 28).kept[0]
    hidden = hidden[None].to(dtype)
    signals = {} if features is None else {EncoderNeed("features"): features[None].to(dtype)}
    view = View(
        0,
        count,
        count,
        hidden,
        layout.image[None],
        layout=layout,
        text=TextSignal(text[None].to(dtype), None, ((7,) * len(text),)),
        encoder=EncoderSignals(signals),
    )
    chosen = method.select(view)
    return chosen.keep[0], None if chosen.score is None else chosen.score[0]


def test_cdpruner_in_the_engine():
    settings, tensors = read("cdpruner-clip-576-64")
    tower = ClipTower(
        lambda ids: tensors["text_embeds"].double(),
        lambda features: tensors["image_embeds"].double(),
    )
    method = CDPruner.paper(settings["retain"], tower)
    kept = keep(show(tensors["features"]), method, torch.zeros(3, 192))
    assert torch.equal(kept, tensors["kept"][0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cdpruner_scales_over_all_crops_of_an_image(dtype):
    settings, tensors = read("cdpruner-clip-3x144-24")
    crops, count = len(tensors["kept"]), settings["retain"]
    layout = layout_of(tuple(Block(12, 12, part=part) for part in range(crops)))
    tower = ClipTower(lambda ids: tensors["text_embeds"].to(dtype), lambda features: features)
    method = CDPruner(crops * count, relevance="clip", tower=tower)
    hidden, images = (tensors[name].flatten(0, 1) for name in ("features", "image_embeds"))
    given = {"hidden": hidden, "text": torch.zeros(3, 96), "features": images, "dtype": dtype}
    kept, _ = choose(method, layout, **given)
    assert torch.equal(kept, (tensors["kept"] + 144 * torch.arange(crops)[:, None]).flatten())
    apart = layout_of(tuple(Block(12, 12, image=image) for image in range(crops)))
    other, _ = choose(method, apart, **given)
    assert not torch.equal(other, kept)  # images are scaled apart


def test_openvino_s_cdpruner_in_the_engine():
    settings, tensors = read("cdpruner-embedding-576-whole")
    method = CDPruner(settings["retain"])
    assert settings["relevance_weight"] == 0.5
    spread = torch.linspace(-1, 1, 5)[:, None] * torch.ones(160)  # words whose mean is recorded
    kept = keep(show(tensors["features"][None]), method, tensors["text"] + spread)
    assert torch.equal(kept, tensors["kept"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_openvino_s_cdpruner_in_halves(dtype):
    settings, tensors = read("cdpruner-embedding-345-split")
    layout, method = grids_layout([(15, 23)]), CDPruner(settings["retain"], halves=True)
    kept, _ = choose(method, layout, tensors["features"], tensors["text"], dtype=dtype)
    assert torch.equal(kept, tensors["kept"])
    whole, _ = choose(CDPruner(104), layout, tensors["features"], tensors["text"], dtype=dtype)
    assert not torch.equal(whole, kept)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cdpruner_with_cenprune(dtype):
    settings, tensors = read("cenprune-cdpruner-345-34-standardised")
    assert settings["standardised"]
    angle = tensors["relevance"].double().arccos()  # whose cosines to (1, 0) are scaled by nothing
    hidden = torch.stack([angle.cos(), angle.sin()], dim=-1)
    method = CDPruner(settings["retain"], blend=1.0, centred=True, space="features")
    layout, text = grids_layout([(15, 23)]), torch.tensor([[1.0, 0.0]])
    kept, _ = choose(method, layout, hidden, text, features=tensors["features"], dtype=dtype)
    assert torch.equal(kept, tensors["kept"])


def test_mmtok():
    settings, tensors = read("mmtok-576-64")
    model = show(tensors["features"][None], tensors["projected"][None])
    method = MMTok(
        settings["retain"],
        text_temperature=settings["text_temperature"],
        visual_temperature=settings["visual_temperature"],
        alpha=settings["alpha"],
    )
    assert method == MMTok(settings["retain"])
    words = tensors["text"]
    assert torch.equal(keep(model, method, words), tensors["kept"])
    # words that are skipped are as good as never said
    said = torch.cat([torch.randn(4, 48), words])
    skip = tuple(range(recorded.FIRST_WORD, recorded.FIRST_WORD + 4))
    skipped = MMTok(settings["retain"], skip=skip)
    assert torch.equal(keep(model, skipped, said), tensors["kept"])
    assert not torch.equal(keep(model, method, said), tensors["kept"])


def test_eadp_in_the_engine():
    settings, tensors = read("eadp-576-64")
    method = EADP(settings["retain"], share=settings["keep_words"], beta=settings["beta"])
    assert method == EADP(settings["retain"])
    kept = keep(show(tensors["features"][None]), method, tensors["text"])
    assert torch.equal(kept, tensors["kept"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_eadp_of_another_grid_and_exponent(dtype):
    settings, tensors = read("eadp-345-69-beta2")
    layout = grids_layout([tuple(settings["grid"])])
    method = EADP(settings["retain"], beta=settings["beta"])
    kept, score = choose(method, layout, tensors["features"], tensors["text"], dtype=dtype)
    assert torch.equal(kept, tensors["kept"])
    torch.testing.assert_close(score, tensors["importance"].to(dtype), rtol=0, atol=1e-5)
