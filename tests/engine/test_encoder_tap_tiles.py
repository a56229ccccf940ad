"""What is read of LLaVA-NeXT's image encoder is cut and put together as the model packs tiles."""

import pytest
import torch
from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

from sparsight import sparsify
from sparsight.errors import UnsupportedError
from sparsight.methods import (
    EADP,
    SCOPE,
    TOPS,
    CDPruner,
    DivPrune,
    FasterVLM,
    HiPrune,
    HoloV,
    MMTok,
    PruMerge,
    PruMergePlus,
    PruneSID,
    VisionZip,
    VisPruner,
    VScan,
)
from sparsight.methods.encoder import EncoderNeed
from tests.support import contract, tiny_clip
from tests.support.tiny import OLD
from tests.support.tiny_families import family_batch, tiny_family
from tests.support.tiny_towers import Maps
from tests.support.watch import Watch

NAME = "llava-next"
NEEDS = (EncoderNeed("features"), EncoderNeed("class_attention"), EncoderNeed("received"))
ROWS = [["image", 5], [3, "image", 2, "image", 6]]


def expect(model, inputs):
    """What the visual tokens of the whole batch should see; row ends are marked by NaN."""
    base, config = model.model, model.config
    side = config.vision_config.image_size
    counts = [
        image_size_to_num_patches(size, config.image_grid_pinpoints, side)
        for size in inputs["image_sizes"]
    ]
    images = zip(inputs["pixel_values"], counts, strict=True)
    maps = Maps(model, torch.cat([tiles[:count] for tiles, count in images]))
    source = config.vision_config.num_hidden_layers + config.vision_feature_layer
    packed = {}
    for need in NEEDS:
        rows = maps.want(need, source, 1)
        rows = rows[..., None] if rows.ndim == 2 else rows
        end = torch.full(rows.shape[-1:], float("nan"), dtype=rows.dtype)
        tiles = list(rows.split(counts))
        parts, _ = base.pack_image_features(
            tiles, inputs["image_sizes"], "default", image_newline=end
        )
        packed[need] = torch.cat(list(parts)).squeeze(-1)
    return packed


@pytest.mark.parametrize("way", ["forward", "generate"])
def test_signals_are_those_of_the_tiles(way):
    model = tiny_family(NAME)
    inputs = family_batch(model, NAME, ROWS).inputs
    wanted = expect(model, inputs)
    method = Watch(retain=0.5, needs=NEEDS)
    with torch.no_grad(), sparsify(model, method):
        model(**inputs) if way == "forward" else model.generate(**inputs, max_new_tokens=2)
    for need in NEEDS:
        seen = torch.cat([view.encoder.values[need] for view in method.seen])
        want = wanted[need]
        ends = want.isnan() if want.ndim == 1 else want.isnan().any(dim=-1)
        assert ends.any()
        torch.testing.assert_close(seen[~ends], want[~ends], rtol=1e-5, atol=1e-5)
        before = ends.nonzero().flatten() - 1
        assert torch.equal(seen[ends], seen[before])


@pytest.mark.parametrize(
    "method",
    [
        HiPrune(retain=0.4),
        FasterVLM(retain=0.4),
        VisPruner(retain=0.5),
        PruMerge(retain=0.97, merge="tokens"),
        PruMerge(retain=None, level="outliers"),
        PruMergePlus(retain=0.5),
        HoloV(retain=0.4),
        PruneSID(retain=0.5),
        VisionZip(retain=0.6),
        DivPrune(retain=0.3),
        SCOPE(retain=0.5),
        CDPruner(retain=0.4),
        CDPruner(retain=0.4, relevance="clip", tower=tiny_clip.tower()),
        MMTok(retain=0.5),
        EADP(retain=0.4, centred=True),
        VScan(retain=0.5),
        VScan(retain=0.66, positions="renumber"),  # row ends stay among the means
        TOPS(retain=0.5),
    ],
    ids=str,
)
def test_contract_on_tiles(method):
    model = tiny_family(NAME)
    batch = family_batch(model, NAME, ROWS)
    contract.check(model, method, batch, "text", "order", "distinct", "finite", "decode")
    if not isinstance(method, DivPrune):  # row ends are equal, and rounding chooses among them
        contract.check(model, method, batch, "alone")


@pytest.mark.skipif(OLD, reason="transformers before 5.18 takes no features encoded before")
def test_tiles_encoded_outside_of_a_pass_are_refused():
    model = tiny_family(NAME)
    inputs = family_batch(model, NAME, ROWS[:1]).inputs
    pixels = {name: inputs.pop(name) for name in ("pixel_values", "image_sizes")}
    with torch.no_grad(), sparsify(model, HiPrune(retain=0.4)):
        outputs = {"image": model.get_image_features(**pixels)}
        with pytest.raises(UnsupportedError, match=r"encoded without it; give pixel_values\.$"):
            model.model(**inputs, mm_encoder_outputs=outputs, image_sizes=pixels["image_sizes"])
