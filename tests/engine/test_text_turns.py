"""A turn of text alone is not taken for images because generate() says that it brings none."""

import pytest
import torch
from transformers import DynamicCache

from sparsight import sparsify
from sparsight.methods import DivPrune, SparseVLM
from tests.support import tiny
from tests.support.cases import tiny_model

TEXT = [20, tiny.IMAGE, 21, 22]  # a model may well say its placeholder, which is then a word


@pytest.mark.parametrize("method", [DivPrune(retain=0.3), SparseVLM(retain=0.5)])
def test_a_placeholder_in_a_turn_of_text_is_a_word(method):
    model, inputs = tiny_model("sdpa"), tiny.batch([["image", 9]]).inputs
    cache = DynamicCache(config=model.config)
    options = {"do_sample": False, "past_key_values": cache}
    with sparsify(model, method) as run:
        said = model.generate(**inputs, max_new_tokens=3, **options)
        before = run.stats
        ids = torch.cat([said, torch.tensor([TEXT])], dim=1)
        mask = torch.ones_like(ids)
        answer = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=3, **options)
    assert answer.shape[1] == ids.shape[1] + 3
    assert run.stats is before


def test_text_alone_costs_no_wait_for_ids(monkeypatch):
    model = tiny_model("sdpa")
    ids = torch.tensor([[1, *TEXT]])
    dense = model.generate(input_ids=ids, max_new_tokens=3, do_sample=False)
    with sparsify(model, DivPrune(retain=0.3)) as run:
        reader = run._engine.reader
        monkeypatch.setattr(reader, "read_outline", None)  # would be called with images
        assert torch.equal(model.generate(input_ids=ids, max_new_tokens=3, do_sample=False), dense)
