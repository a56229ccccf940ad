"""PruMerge and PruMerge+ end to end: merged tokens are those that were recorded, in their order."""

import pytest
import torch

from sparsight import sparsify
from sparsight.methods import PruMerge, PruMergePlus
from tests.support import contract, recorded, tiny
from tests.support.recordings import read

SOURCE, BEHIND = 3, 4  # of five blocks, the one that makes the features, and the last one
HEADS = 3  # of the recorded keys, which the methods read as one


def record(name):
    """A model that computes what was recorded, and the recording."""
    settings, tensors = read(name)
    model, key = recorded.model(48, 24), tensors["key"]
    query = torch.zeros_like(key)
    query[:, :1] = tensors["query"]
    attended = [part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in (query, key)]
    recorded.put_in(model, BEHIND, attended, 16**-0.5)
    flat = recorded.attending(torch.full((1, 1, 576), 1 / 577))
    recorded.put_in(model, SOURCE, flat, 1.0, recorded.with_class_token(tensors["hidden"]))
    return model, settings, tensors


def run(model, method):
    """The trace of the one site, and what entered layer 0."""
    inputs = tiny.batch([["image", 6]], side=24 * tiny.PATCH).inputs
    with sparsify(model, method) as run, contract.Probe(model) as probe, torch.no_grad():
        model(**inputs, use_cache=False)
    ((site,),) = run.trace.samples
    return site, probe.entering[0][:, 1:-6]


OUTLIERS = {"level": "outliers", "positions": "renumber"}
CASES = {
    "prumerge-a": PruMerge(retain=None, **OUTLIERS),
    "prumerge-b": PruMerge(retain=73, positions="renumber"),
    "prumerge-plus-b": PruMergePlus(retain=None, **OUTLIERS),
}


@pytest.mark.parametrize("name", CASES)
def test_merged_tokens(name):
    model, settings, tensors = record(name)
    method, wanted = CASES[name], tensors["kept"]
    assert method.neighbours == settings["neighbours"]
    site, entered = run(model, method)
    assert torch.equal(site.centres[:-1], wanted)
    torch.testing.assert_close(entered, tensors["output"].double(), rtol=1e-4, atol=1e-5)
    assert not len(site.keep)
    # every patch is in one token: an important one in its own, the others in the last
    owner = dict(zip(site.pool.tolist(), site.labels.tolist(), strict=True))
    important = {patch: label for label, patch in enumerate(wanted.tolist())}
    assert owner == {patch: important.get(patch, len(wanted)) for patch in range(576)}
    rest = tensors["cls_attention"].index_fill(0, wanted, -1.0)
    assert int(site.centres[-1]) == int(rest.argmax())


@pytest.mark.parametrize("name", ["prumerge-a", "prumerge-plus-b"])
def test_outliers_are_bounded_by_the_count(name):
    model, _, tensors = record(name)
    method = CASES[name]
    few = type(method)(retain=20, **OUTLIERS)
    exact = type(method)(retain=20, positions="renumber")
    (site, entered), (other, same) = run(model, few), run(model, exact)
    assert len(site.centres) == 20
    assert torch.equal(site.centres, other.centres)
    assert torch.equal(entered, same)
    many = type(method)(retain=len(tensors["kept"]) + 1, **OUTLIERS)
    assert torch.equal(run(model, many)[0].centres[:-1], tensors["kept"])


def test_kept_positions_are_raster_order():
    model, _, tensors = record("prumerge-b")
    site, entered = run(model, PruMerge(retain=73))
    order = site.centres.sort().indices
    torch.testing.assert_close(
        entered[0], tensors["output"][0, order].double(), rtol=1e-4, atol=1e-5
    )


def test_plus_splits_a_count_between_attention_and_an_even_grid():
    model, _, tensors = record("prumerge-plus-b")
    ranked = tensors["cls_attention"].sort(descending=True, stable=True).indices
    site, _ = run(model, PruMergePlus(retain=65))
    assert torch.equal(site.centres[:16], ranked[:16])
    spread = site.centres[16:64]
    assert torch.equal(spread, spread.sort().values)
    assert int(spread.diff().max()) <= 16  # 560 others in 48 stretches, and important ones between
    assert len(set(site.centres.tolist())) == 65
