"""PixelPrune in front of Qwen's image encoders, against slow runs on the patches that stay."""

import pytest
import torch

from sparsight import sparsify
from sparsight.methods import PixelPrune
from tests.support import contract, tiny_rotary
from tests.support.pages import page
from tests.support.reference_thinning import encode, kept_tokens

KINDS = ("qwen2", "qwen25", "qwen3")
ROWS = [[("image", 4, 5), 9], [3, ("image", 3, 4), 2, ("image", 2, 6), 7]]
MIXED = [
    [("image", 5, 6), 2, ("video", 2, 4, 3), 9],
    [("video", 3, 2, 3), 2, ("image", 3, 4), 7],
]


def run(model, method, inputs):
    """The trace of each sample's only site, and what entered the decoder's layers."""
    with torch.no_grad(), sparsify(model, method) as own, contract.Probe(model) as probe:
        model(**inputs)
    return [sites[0] for sites in own.trace.samples], probe


def split(values, grids):
    """Cut values of all tokens of a call into those of each image, with numbers from 0."""
    counts = (grids.prod(-1) // tiny_rotary.MERGE**2).tolist()
    first, parts = 0, []
    for count in counts:
        parts.append([value - first for value in values if first <= value < first + count])
        first += count
    return parts, counts


def expect(model, rows, inputs, **settings):
    """For each sample, which of its visual tokens stay, and what they are."""
    shown = {}
    for kind, name in (("image", "pixel_values"), ("video", "pixel_values_videos")):
        if name not in inputs:
            continue
        pixels, grids = inputs[name], inputs[f"{kind}_grid_thw"]
        kept = kept_tokens(pixels, grids, **settings)
        values, deeper = encode(model.model.visual, pixels, grids, kept)
        parts, counts = split(kept, grids)
        lengths = list(map(len, parts))
        stacks = zip(values.split(lengths), *(d.split(lengths) for d in deeper), strict=True)
        shown[kind] = iter(zip(parts, counts, stacks, strict=True))
    samples = []
    for row in rows:
        names, values, first = [], [], 0
        for part in row:
            if isinstance(part, int):
                continue
            own, count, stack = next(shown[part[0]])
            names += [first + name for name in own]
            values.append(stack)
            first += count
        samples.append((names, [torch.cat(parts) for parts in zip(*values, strict=True)]))
    return samples


@pytest.mark.parametrize("rows", [ROWS, MIXED], ids=["images", "images and videos"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_the_decoder_gets_is_that_of_a_slow_run(kind, rows):
    model = tiny_rotary.model(kind)
    inputs = page(tiny_rotary.batch(kind, rows, torch.float64).inputs)
    sites, probe = run(model, PixelPrune(), inputs)
    kept = 0
    for row, (names, values) in enumerate(expect(model, rows, inputs)):
        assert sites[row].keep.tolist() == names
        entered = probe.entering[0][row]
        apart, where = torch.cdist(
            values[0], entered, compute_mode="donot_use_mm_for_euclid_dist"
        ).min(dim=1)
        assert float(apart.max()) < 1e-5  # rotary tables are float32
        assert where.tolist() == sorted(set(where.tolist()))
        for layer, features in enumerate(values[1:]):  # DeepStack
            added = probe.entering[layer + 1][row] - probe.leaving[layer][row]
            torch.testing.assert_close(added[where], features, rtol=1e-4, atol=1e-5)
        kept += len(names)
    assert kept < 0.7 * sum(len(site.present) for site in sites)
