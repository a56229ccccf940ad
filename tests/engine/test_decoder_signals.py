"""What methods may read of the decoder: the text's hidden states, keys, and the final norm."""

from dataclasses import dataclass, field
from typing import ClassVar

import pytest
import torch
from transformers import DynamicCache

from sparsight import Method, SparseVLM, sparsify
from sparsight.counts.layout import count_tokens
from sparsight.counts.schedule import Schedule
from sparsight.errors import PromptError, SettingError, UnsupportedError
from sparsight.methods import DART, SIEVE
from sparsight.methods.view import Selection
from tests.support import contract, odd_models, tiny
from tests.support.caches import cached
from tests.support.cases import tiny_model

READS = frozenset({"text_states", "decoder_keys", "norm"})


@dataclass(frozen=True)
class Look(Method):
    """Keeps the first tokens, and shows what it was given."""

    signals: ClassVar[frozenset[str]] = READS
    sites: tuple[int, ...] | None = (1,)
    seen: list = field(default_factory=list, compare=False)

    def plan(self, layout, layers):
        """Two thirds at the first site, one third at the second."""
        visual = count_tokens(layout)
        kept = tuple(visual * share // 3 for share in (2, 1))[: len(self.sites)]
        return Schedule(visual, layers, self.sites, kept, (0,) * len(kept))

    def select(self, view):
        self.seen.append(view)
        return Selection(torch.arange(view.count).expand(len(view.hidden), -1))


@dataclass(frozen=True)
class LookAtOne(Look):
    batched: ClassVar[bool] = False

    def select(self, view):
        self.seen.append(view)
        return Selection(torch.arange(view.count))


def make(kind):
    kernel, dtype = odd_models.variants(kind)[0]
    model, part = odd_models.model(kind, kernel, dtype), odd_models.image(kind)
    return model, odd_models.batch(kind, model, [[part, 5], [3, part, 9]], 0)


def places(model, ids):
    """Slots of a sample's visual tokens, and of the text behind them."""
    visual = torch.isin(ids, torch.tensor(sorted(contract.placeholders(model.config))))
    slots = visual.nonzero().flatten()
    return slots, torch.arange(int(slots[-1]) + 1, len(ids))


def split(view):
    """What is seen of each sample: hidden states of its text, keys of tokens and text."""
    keys, states = view.decoder_keys, view.text_states
    for row in range(len(view.hidden)):
        counts = slice(None) if states.present is None else states.present[row]
        yield states.values[row][counts], keys.visual[row], keys.text[row][:, counts]


@torch.no_grad()
def run_with(model, method, inputs):
    """What went through the layers, the cache, what left the decoder, and the trace."""
    cache, ends = DynamicCache(), []
    with sparsify(model, method) as run, contract.Probe(model) as probe:
        handle = probe.decoder.register_forward_hook(lambda _, __, out: ends.append(out[0]))
        model(**inputs, **cached(cache))
        handle.remove()
    return probe, cache, ends[0], run.trace


@pytest.mark.parametrize("kind", [kind for kind in odd_models.KINDS if kind != "llava-point"])
def test_signals_are_what_the_decoder_computed(kind):
    """The second site is behind the first one: what is gone is no longer there."""
    model, batch = make(kind)
    last = len(contract.decoder_of(model).layers) - 1
    method = Look(sites=tuple(sorted({1, last})))
    probe, cache, end, trace = run_with(model, method, batch.inputs)
    assert torch.equal(method.seen[0].norm(probe.leaving[last]), end)
    for site in method.sites:
        rows = [row for view in method.seen if view.site == site for row in split(view)]
        assert len(rows) == 2
        keys, hidden = cache.layers[site - 1].keys, probe.leaving[site - 1]
        for row, (states, visual_keys, text_keys) in enumerate(rows):
            ids = batch.inputs["input_ids"][row]
            slots, text = places(model, ids)
            present = trace.samples[row][0].keep if site > 1 else torch.arange(len(slots))
            gone = set(slots.tolist()) - set(slots[present].tolist())
            left = [slot for slot in range(len(ids)) if slot not in gone][-hidden.shape[1] :]
            columns = [hidden.shape[1] - len(left) + left.index(i) for i in slots[present].tolist()]
            assert torch.equal(states, hidden[row, -len(text) :])
            assert torch.equal(text_keys, keys[row, :, -len(text) :])
            assert torch.equal(visual_keys, keys[row][:, columns])


def test_keys_behind_a_cache():
    model, batch = tiny_model("sdpa"), tiny.batch([["image", 4], ["image", 2, "image", 9]])
    before = torch.randint(4, tiny.VOCAB, (2, 6), generator=torch.Generator().manual_seed(1))
    method, cache = Look(), DynamicCache()
    mask = torch.cat([torch.ones_like(before), batch.inputs["attention_mask"]], dim=1)
    with torch.no_grad(), sparsify(model, method):
        model(input_ids=before, **cached(cache))
        inputs = {**batch.inputs, "attention_mask": mask}
        model(**inputs, position_ids=contract.positions(mask)[:, 6:], **cached(cache))
    keys = cache.layers[0].keys[:, :, 6:]  # layer 0 is not pruned
    rows = [row for view in method.seen for row in split(view)]
    for row, (_, visual_keys, text_keys) in enumerate(rows):
        slots, text = places(model, batch.inputs["input_ids"][row])
        assert torch.equal(visual_keys, keys[row][:, slots])
        assert torch.equal(text_keys, keys[row][:, text])


def test_a_method_that_takes_no_groups_sees_its_own_text_alone():
    model, batch = tiny_model("sdpa"), tiny.batch([["image", 4], ["image", 9]])
    together, alone = Look(), LookAtOne()
    with torch.no_grad():
        for method in (together, alone):
            with sparsify(model, method):
                model(**batch.inputs)
    rows = list(split(together.seen[0]))
    assert together.seen[0].text_states.present.sum(dim=1).tolist() == [4, 9]
    for view, (states, visual_keys, text_keys) in zip(alone.seen, rows, strict=True):
        assert view.text_states.present is view.decoder_keys.present is None
        assert torch.equal(view.text_states.values, states)
        assert torch.equal(view.decoder_keys.visual, visual_keys)
        assert torch.equal(view.decoder_keys.text, text_keys)


def test_text_is_the_text_that_may_rate():
    model, method = tiny_model("sdpa"), Look()
    with torch.no_grad(), sparsify(model, method) as run, run.rating(2):
        model(**tiny.batch([["image", 9]]).inputs)
    assert method.seen[0].text_states.values.shape[1] == 2


@pytest.mark.parametrize("signal", sorted(READS))
def test_only_what_is_declared_is_filled(signal):
    @dataclass(frozen=True)
    class Some(Look):
        signals: ClassVar[frozenset[str]] = frozenset({signal})

    model, method = tiny_model("sdpa"), Some()
    with torch.no_grad(), sparsify(model, method):
        model(**tiny.batch([["image", 9]]).inputs)
    assert {name for name in READS if getattr(method.seen[0], name) is not None} == {signal}


def test_keys_have_no_site_at_the_input():
    with pytest.raises(SettingError, match=r"sites=\(0,\) do not fit; .* No layer stands before"):
        sparsify(tiny_model("sdpa"), DART(retain=0.5, sites=(0,)))


@pytest.mark.parametrize("method", [DART(retain=0.6), SIEVE(retain=0.6)])
def test_prompts_without_text_behind_the_images_are_refused(method):
    model, inputs = tiny_model("sdpa"), tiny.batch([[5, "image"]]).inputs
    with sparsify(model, method), pytest.raises(PromptError, match="no text follows the last"):
        model(**inputs)
    marks = inputs["input_ids"] == tiny.IMAGE
    text, embeds = model.model.language_model, torch.randn(1, marks.shape[1], 64).double()
    with (
        sparsify(text, method, visual_mask=marks),
        pytest.raises(PromptError, match="no text follows the last"),
    ):
        text(inputs_embeds=embeds)


def test_a_decoder_without_a_final_norm_is_refused_by_name():
    model = tiny.tiny_llava()
    decoder = model.model.language_model
    decoder.last_norm = decoder.norm
    del decoder.norm
    with pytest.raises(UnsupportedError, match="LlamaModel has no final norm called 'norm'"):
        sparsify(model, DART(retain=0.6))
    sparsify(model, SparseVLM(retain=0.5)).detach()


@pytest.mark.parametrize("rows", [[["image", 1], [2, "image", 9]], [["image", 3], ["image", 2]]])
@pytest.mark.parametrize("method", [DART(retain=0.6), SIEVE(retain=0.6)])
def test_short_texts_in_a_batch(method, rows):
    """Fewer words than text pivots, and a single word, which explains nothing."""
    contract.check(tiny_model("sdpa"), method, tiny.batch(rows))
