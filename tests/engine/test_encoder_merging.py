"""ToMe inside LLaVA's image encoders, against a slow run from the paper's text."""

import pytest
import torch

from sparsight import sparsify
from sparsight.methods import ToMe
from tests.support import contract, reference_tome, tiny, tiny_towers
from tests.support.tiny_towers import DEPTH

BLOCKS = DEPTH - 1
TOWERS = {"clip": 1, "siglip": 0, "dinov2": 1}


def inputs_of(rows=(("image", 5),), seed=0):
    return tiny.batch([list(row) for row in rows], seed=seed).inputs


def projected(model, features):
    with torch.no_grad():
        return model.model.multi_modal_projector(features)


@pytest.mark.parametrize("count", [30, 18, 12, 5, 3])
@pytest.mark.parametrize("tower", TOWERS)
def test_what_the_decoder_gets_is_that_of_a_slow_run(tower, count):
    model, inputs = tiny_towers.llava(tower), inputs_of()
    with (
        torch.no_grad(),
        sparsify(model, ToMe(retain=count)) as run,
        contract.Probe(model) as probe,
    ):
        model(**inputs)
    features, owner = reference_tome.encode(
        model.model.vision_tower, inputs["pixel_values"][0], count, BLOCKS, TOWERS[tower]
    )
    (site,) = run.trace.samples[0]
    groups = {}
    for patch, token in zip(site.pool.tolist(), site.labels.tolist(), strict=True):
        groups.setdefault(token, set()).add(patch)
    wanted = {}
    for patch, token in enumerate(owner):
        wanted.setdefault(token, set()).add(patch)
    assert sorted(map(sorted, groups.values())) == sorted(map(sorted, wanted.values()))
    assert site.centres.tolist() == sorted(site.centres.tolist())
    want = projected(model, features[site.centres])
    got = probe.entering[0][0, 1 : 1 + count]
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)
