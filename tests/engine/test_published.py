"""Methods that choose by the image encoder, and FastV: only tokens that they keep are seen."""

import pytest
import torch
from transformers import DynamicCache

from sparsight import sparsify
from sparsight.errors import AttachError
from tests.support import contract, dense, tiny
from tests.support.caches import cached
from tests.support.cases import LAYOUTS, PUBLISHED, RAGGED, same, tiny_model

CASES = [*RAGGED, ("sdpa", "adjacent images"), ("sdpa", "text among them")]


@pytest.mark.parametrize(("kernel", "layout"), CASES)
@pytest.mark.parametrize("method", PUBLISHED)
def test_published_methods_keep_the_contract(method, kernel, layout):
    model = tiny_model(kernel)
    batch = tiny.batch(LAYOUTS[layout], dtype=model.dtype)
    contract.check(model, PUBLISHED[method], batch)


@pytest.mark.parametrize("method", PUBLISHED)
def test_prompts_without_images_are_untouched(method):
    model, batch = tiny_model("sdpa"), tiny.batch([[9], [17]])
    options = {"max_new_tokens": 4, "output_logits": True, "return_dict_in_generate": True}
    plain = model.generate(**batch.inputs, **options)
    with sparsify(model, PUBLISHED[method]) as run:
        pruned = model.generate(**batch.inputs, **options)
        with pytest.raises(AttachError, match="no prompt with an image"):
            _ = run.stats
    assert same(pruned, plain)


@pytest.mark.parametrize("layout", ["one", "left padded", "unequal images", "adjacent images"])
@pytest.mark.parametrize("method", PUBLISHED)
def test_what_a_method_kept_is_all_that_is_seen(method, layout):
    """Prefill and decoding, with what was kept and rebuilt taken from the trace."""
    model, method = tiny_model("sdpa"), PUBLISHED[method]
    batch, cache = tiny.batch(LAYOUTS[layout]), DynamicCache()
    random = torch.Generator().manual_seed(5)
    said = torch.randint(4, tiny.VOCAB, (len(batch.alone), 4), generator=random)
    mask = batch.inputs["attention_mask"]
    with sparsify(model, method) as run, contract.Probe(model) as probe, torch.no_grad():
        parts = [model(**batch.inputs, **cached(cache)).logits]
        entering = dict(probe.entering)
        for step in range(said.shape[1]):
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            ids = said[:, step : step + 1]
            parts.append(model(input_ids=ids, attention_mask=mask, **cached(cache)).logits)
        trace, stats = run.trace, run.stats
    for b, alone in enumerate(batch.alone):
        lengths = stats.tokens_per_layer[b]
        decisions = [
            dense.Decision(
                site.site,
                site.keep.tolist(),
                site.centres.tolist(),
                entering[site.site][b, -lengths[site.site] :],
                site.pool.tolist(),
                site.labels.tolist(),
            )
            for site in trace.samples[b]
        ]
        reference = dense.Replay(model, method, decisions)
        want = reference.run(dense.turn(model, alone), dense.Turn(said[b].tolist())).logits
        got = torch.cat([parts[0][b, -lengths[-1] :], *(part[b] for part in parts[1:])])
        contract.close(got, want, f"sample {b}")
