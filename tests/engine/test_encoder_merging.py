"""ToMe inside LLaVA's image encoders, against a slow run from the paper's text."""

import pytest
import torch

from sparsight import sparsify
from sparsight.engine import encoder_merging
from sparsight.engine.encoder_merging import MergingTap
from sparsight.methods import ToMe
from sparsight.sequence import merging
from sparsight.sequence.merging import Merging
from tests.support import contract, reference_tome, tiny, tiny_towers
from tests.support.tiny_families import family_batch, tiny_family
from tests.support.tiny_towers import DEPTH

BLOCKS = DEPTH - 1
TOWERS = {"clip": 1, "siglip": 0, "dinov2": 1}
ROWS = [["image", 5], ["image", 2, "image", 6], [12], ["image", 9]]
NEXT = "llava-next"


def run(model, method, inputs):
    """The trace of each sample's only site, and what entered the decoder."""
    with torch.no_grad(), sparsify(model, method) as own, contract.Probe(model) as probe:
        model(**inputs)
    return [sites[0] if sites else None for sites in own.trace.samples], probe.entering[0]


def slow(model, tower, pixels, count):
    return reference_tome.encode(model.model.vision_tower, pixels, count, BLOCKS, TOWERS[tower])


def groups(labels, members):
    """Which members share a label, as sorted lists."""
    found = {}
    for label, member in zip(labels, members, strict=True):
        found.setdefault(int(label), []).append(int(member))
    return sorted(map(sorted, found.values()))


def check_entered(want, entered):
    """Check that wanted tokens (C, D) are among those of a row (n, D), in their order."""
    apart, where = torch.cdist(want, entered, compute_mode="donot_use_mm_for_euclid_dist").min(1)
    assert float(apart.max()) < 1e-6  # eager attention takes its softmax in float32
    assert where.tolist() == sorted(set(where.tolist()))


def check_image(model, encoded, count, site, entered):
    """Compare what one image became with what the slow run encoded."""
    features, owner = encoded
    assert groups(site.labels, site.pool) == groups(owner, range(len(owner)))
    assert site.centres.tolist() == sorted(site.centres.tolist())
    assert len(site.centres) == count
    with torch.no_grad():
        check_entered(model.model.multi_modal_projector(features[site.centres]), entered)


@pytest.mark.parametrize("count", [30, 18, 12, 5, 3])
@pytest.mark.parametrize("tower", TOWERS)
def test_what_the_decoder_gets_is_that_of_a_slow_run(tower, count):
    model, inputs = tiny_towers.llava(tower), tiny.batch([["image", 5]]).inputs
    (site,), entered = run(model, ToMe(retain=count), inputs)
    encoded = slow(model, tower, inputs["pixel_values"][0], count)
    check_image(model, encoded, count, site, entered[0])


def forget_sizes_in_attention(monkeypatch):
    monkeypatch.setattr(Merging, "make_mask", lambda *_: None)


def forget_sizes_in_means(monkeypatch):
    merge = merging.merge_by_size
    monkeypatch.setattr(
        merging,
        "merge_by_size",
        lambda hidden, sizes, *others: merge(hidden, torch.ones_like(sizes), *others),
    )


def merge_the_class_token(monkeypatch):
    match = merging.match_bipartite
    monkeypatch.setattr(
        merging, "match_bipartite", lambda metric, fewer, _: match(metric, fewer, False)
    )


def merge_behind_the_mlp(monkeypatch):
    monkeypatch.setattr(MergingTap, "_on_norm", lambda *_: None)
    monkeypatch.setattr(MergingTap, "_on_mlp", lambda *_: None)


def take_one_head(monkeypatch):
    monkeypatch.setattr(encoder_merging, "average_heads", lambda key: key[:, 0])


BREAKS = [
    forget_sizes_in_attention,
    forget_sizes_in_means,
    merge_the_class_token,
    merge_behind_the_mlp,
    take_one_head,
]


@pytest.mark.parametrize("break_it", BREAKS)
def test_these_mistakes_would_be_noticed(break_it, monkeypatch):
    break_it(monkeypatch)
    with pytest.raises((AssertionError, RuntimeError)):
        test_what_the_decoder_gets_is_that_of_a_slow_run("clip", 5)


@pytest.mark.parametrize("retain", [0.25, 40, 12])
@pytest.mark.parametrize("tower", TOWERS)
def test_images_of_a_batch_are_merged_each_on_its_own(tower, retain):
    """A count leaves a sample with two images half as many tokens of each; 40 are all of one."""
    model, inputs = tiny_towers.llava(tower), tiny.batch(ROWS).inputs
    sites, entered = run(model, ToMe(retain=retain), inputs)
    images = iter(inputs["pixel_values"])
    for row, site, hidden in zip(ROWS, sites, entered, strict=True):
        shown = [next(images) for part in row if part == "image"]
        if site is None:  # no image, or all its tokens are kept
            assert not shown or (retain == 40 and len(shown) == 1)
            continue
        each = int(retain * 36) if retain < 1 else retain // len(shown)
        assert len(site.centres) == each * len(shown)
        for number, pixels in enumerate(shown):
            here = site.pool // tiny.VISUAL == number
            centres = site.centres[site.centres // tiny.VISUAL == number] % tiny.VISUAL
            features, owner = slow(model, tower, pixels, each)
            members = site.pool[here] % tiny.VISUAL
            assert groups(site.labels[here], members) == groups(owner, range(len(owner)))
            with torch.no_grad():
                check_entered(model.model.multi_modal_projector(features[centres]), hidden)


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("tower", ["siglip", "dinov2"])
def test_contract_on_other_towers(tower, kernel):
    model = tiny_towers.llava(tower)
    model.model.vision_tower.set_attn_implementation(kernel)
    try:
        contract.check(model, ToMe(retain=0.4), tiny.batch(ROWS[:2]))
    finally:
        model.model.vision_tower.set_attn_implementation("sdpa")


@pytest.mark.parametrize("options", [{}, {"num_beams": 2}, {"num_return_sequences": 2}])
def test_generate_merges_as_a_forward_does(options):
    if tiny.OLD and options:
        pytest.skip("transformers before 5.18 mixes up the images of copied rows")
    model, inputs = tiny_towers.llava(), tiny.batch(ROWS[:2]).inputs
    sampled = {"do_sample": "num_return_sequences" in options, "max_new_tokens": 3, **options}
    before, _ = run(model, ToMe(retain=0.25), inputs)
    with sparsify(model, ToMe(retain=0.25)) as own:
        model.generate(**inputs, **sampled)
    copies = len(own.trace.samples) // len(before)
    for number, sites in enumerate(own.trace.samples):
        assert torch.equal(sites[0].labels, before[number // copies].labels)
        assert torch.equal(sites[0].centres, before[number // copies].centres)


def encode_tiles(model, tiles, each):
    """For each patch of an image's tiles, its features and which merged token it is part of."""
    features, owners = [], []
    for number, tile in enumerate(tiles):
        values, owner = reference_tome.encode(model.model.vision_tower, tile, each, 1, 1)
        features.append(values)
        owners.append(torch.tensor(owner, dtype=values.dtype) + each * number)
    return torch.stack(features), torch.stack(owners)[..., None]


def pack(model, parts, size, end):
    """What the model makes of its tiles (n, N, D): the visual tokens of one image, (V, D)."""
    packed, _ = model.model.pack_image_features([parts], size[None], "default", image_newline=end)
    return packed[0]


@pytest.mark.parametrize("retain", [0.55, 0.75])
def test_tiles_are_merged_each_on_its_own_and_padding_is_dropped(retain):
    """LLaVA-NeXT's tiny model has one block, which leaves at least half of a tile's 16 patches."""
    model, rows = tiny_family(NEXT), [["image", 5], [3, "image", 2, "image", 6]]
    inputs = family_batch(model, NEXT, rows).inputs
    sites, entered = run(model, ToMe(retain=retain), inputs)
    images = zip(inputs["pixel_values"], inputs["image_sizes"], strict=True)
    dropped = 0
    for row, ids, site, hidden in zip(rows, inputs["input_ids"], sites, entered, strict=True):
        shown = [next(images) for part in row if part == "image"]
        budget = int(retain * int((ids == tiny.IMAGE).sum())) if retain < 1 else retain
        each = budget // (3 * len(shown))
        values, marks = [], []
        for number, (tiles, size) in enumerate(shown):
            features, owner = encode_tiles(model, tiles, each)
            with torch.no_grad():
                projected = model.model.multi_modal_projector(features)
            values.append(pack(model, projected, size, projected.new_zeros(64)))
            marks.append(pack(model, owner + 3 * each * number, size, owner.new_full((1,), -1)))
        values, marks = torch.cat(values), torch.cat(marks)[:, 0].long()
        patches = (marks >= 0).nonzero().flatten()
        assert site.pool.tolist() == patches.tolist()
        assert groups(site.labels, site.pool) == groups(marks[patches], patches)
        present = len(marks[patches].unique())
        dropped += 3 * len(shown) * each - present
        assert len(site.centres) == present <= budget
        check_entered(values[site.centres], hidden)
    assert dropped
