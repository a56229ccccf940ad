"""ToMe inside image encoders: what stays untouched, what is remembered, and what is refused."""

import threading

import pytest
import torch
from torch import nn

from sparsight import Chat, SparseVLM, sparsify
from sparsight.engine import encoder_tap, passes
from sparsight.engine.parts import find_parts
from sparsight.engine.support import describe, supports
from sparsight.errors import BudgetError, MethodError, UnsupportedError
from sparsight.methods import HiPrune, ToMe
from sparsight.methods.encoder import EncoderNeed
from tests.evaluate.test_evaluate import TURNS
from tests.support import tiny, tiny_processor, tiny_rotary, tiny_towers
from tests.support.cases import tiny_model
from tests.support.footprint import snapshot
from tests.support.tiny_families import family_batch, tiny_family
from tests.support.watch import Watch
from tests.test_chat import FIRST, SECOND, picture
from tests.test_chat import passes as watch_passes

METHOD = ToMe(retain=12)


@pytest.fixture
def model():
    made = tiny_towers.llava.__wrapped__()
    made.generate(**tiny.batch([["image", 5]]).inputs, max_new_tokens=2)
    return made


@pytest.fixture
def inputs():
    return tiny.batch([["image", 5]]).inputs


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_the_block_leaves_no_trace(model, inputs, error):
    before = snapshot(model)
    with torch.no_grad():
        plain = model(**inputs).logits
    broken = model.model.vision_tower.get_submodule("encoder.layers.2.mlp")

    def fail(*_):
        if error is not None:
            raise error("on purpose")

    handle = broken.register_forward_hook(fail)
    try:
        with torch.no_grad(), sparsify(model, METHOD):
            model(**inputs)
    except (RuntimeError, KeyboardInterrupt):
        assert error is not None
    handle.remove()
    assert snapshot(model) == before
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, plain)
        # what an interrupt has left open is not taken for a running call
        with sparsify(model, ToMe(retain=1.0)):
            assert torch.equal(model(**inputs).logits, plain)
    passes._CURRENT.set(None)
    encoder_tap._CURRENT.set(None)


def test_images_outside_of_a_pass_and_of_other_threads_are_untouched(model, inputs):
    pixels = inputs["pixel_values"]
    with torch.no_grad():
        plain = model.get_image_features(pixel_values=pixels).pooler_output[0]
        with sparsify(model, METHOD):
            own = model.get_image_features(pixel_values=pixels).pooler_output[0]
            assert torch.equal(own, plain)
            alone = model.model.vision_tower(pixels).last_hidden_state
        assert torch.equal(model.model.vision_tower(pixels).last_hidden_state, alone)
    seen = []

    def encode(*_):
        """Encode in another thread, in the middle of a merged call."""

        def other():
            with torch.no_grad():
                seen.append(model.get_image_features(pixel_values=pixels).pooler_output[0])

        if not seen:
            seen.append(None)
            thread = threading.Thread(target=other)
            thread.start()
            thread.join()

    handle = model.model.vision_tower.get_submodule("encoder.layers.2").register_forward_hook(
        encode
    )
    with torch.no_grad(), sparsify(model, METHOD):
        model(**inputs)
    handle.remove()
    assert torch.equal(seen[1], plain)


@pytest.mark.skipif(tiny.OLD, reason="transformers before 5.18 takes no features encoded before")
def test_features_that_were_encoded_before_are_refused(model, inputs):
    ids, pixels = inputs["input_ids"], inputs["pixel_values"]
    with torch.no_grad(), sparsify(model, METHOD):
        outputs = {"image": model.get_image_features(pixel_values=pixels)}
        with pytest.raises(UnsupportedError, match=r"encoded without it; give pixel_values\.$"):
            model.model(input_ids=ids, mm_encoder_outputs=outputs)
        merged = model.model(input_ids=ids, pixel_values=pixels).image_outputs
        again = model.model(input_ids=ids, mm_encoder_outputs={"image": merged})
        assert again.last_hidden_state.shape[1] == ids.shape[1] - tiny.VISUAL + 12
    for method in (ToMe(retain=20), SparseVLM(retain=12), HiPrune(retain=12), ToMe(retain=1.0)):
        refused = pytest.raises(UnsupportedError, match="for another method or budget")
        with torch.no_grad(), sparsify(model, method), refused:
            model.model(input_ids=ids, mm_encoder_outputs={"image": merged})


def test_a_conversation_encodes_anew_for_another_budget_or_method(model):
    processor = tiny_processor.processor(TURNS)
    talk = Chat(model, processor, max_new_tokens=3, do_sample=False)
    said, counts = [], []
    steps = [METHOD, METHOD, ToMe(retain=20), HiPrune(retain=12), HiPrune(retain=9), METHOD]
    with watch_passes(model.model.vision_tower) as seen:
        for number, method in enumerate(steps):
            with sparsify(model, method) as run:
                said.append(
                    talk.ask(FIRST if not number else SECOND, [picture()] if not number else [])
                )
            counts.append((len(seen), run.stats.schedules[0].counts[0]))
    assert counts == [(1, 12), (1, 12), (2, 20), (3, 12), (3, 9), (4, 12)]
    fresh = Chat(model, processor, max_new_tokens=3, do_sample=False)
    with sparsify(model, METHOD):
        assert fresh.ask(FIRST, [picture()]) == said[0]


def test_counts_that_cannot_be_met_are_refused(inputs):
    model = tiny_model("sdpa")  # one block makes its features
    refused = pytest.raises(BudgetError, match=r"leaves 18 at least\. Give retain=18 .* 0\.5 or")
    with torch.no_grad(), sparsify(model, ToMe(retain=10)), refused:
        model(**inputs)
    model, inputs = tiny_towers.llava(), tiny.batch([["image", 2, "image", 6]]).inputs
    refused = pytest.raises(BudgetError, match="less than one token for each of 2 pictures")
    with torch.no_grad(), sparsify(model, ToMe(retain=1)), refused:
        model(**inputs)
    with pytest.raises(BudgetError, match="retain=None sets no count"):
        ToMe(retain=None)


@pytest.mark.parametrize("kind", ["qwen2", "qwen25", "qwen3"])
def test_encoders_that_merge_patches_are_refused_by_name(kind):
    with pytest.raises(UnsupportedError, match="none of which may be merged before"):
        sparsify(tiny_rotary.model(kind), METHOD)
    config = tiny_rotary.model(kind).config
    (refusal,) = supports(describe(config), METHOD)
    assert "ToMe is not supported for qwen" in refusal.message


def test_other_encoders_and_needs_are_refused_by_name(model):
    config = model.config.__class__(
        vision_config={"model_type": "pixtral"}, text_config=tiny.text_config()
    )
    messages = [refusal.message for refusal in supports(describe(config), METHOD)]
    assert any("encoder of type 'pixtral' was never looked at" in message for message in messages)
    both = Watch(retain=12, needs=(EncoderNeed("merged"), EncoderNeed("keys")))
    messages = [refusal.message for refusal in supports(find_parts(model), both)]
    assert ["read or changed, not both" in message for message in messages] == [True]


def test_names_that_have_moved_are_refused(model):
    block = model.model.vision_tower.get_submodule("encoder.layers.1")
    block.norm_behind_attention = block.layer_norm2
    del block.layer_norm2
    with pytest.raises(UnsupportedError, match="CLIPEncoderLayer has no layer_norm2 and mlp"):
        sparsify(model, METHOD)


class Own(nn.Module):
    """Attends past transformers' interface."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.config = inner, inner.config
        self.is_causal = False

    def forward(self, hidden_states, **_):
        return self.inner.out_proj(self.inner.v_proj(hidden_states)), None


def test_attention_past_the_interface_is_refused(model, inputs):
    block = model.model.vision_tower.get_submodule("encoder.layers.1")
    block.self_attn = Own(block.self_attn)
    block.self_attn.inner.is_causal = None
    with pytest.raises(UnsupportedError, match="attention modules that can be read"):
        sparsify(model, METHOD)
    block.self_attn.inner.config = None
    refused = pytest.raises(UnsupportedError, match="past transformers' attention interface")
    with torch.no_grad(), sparsify(model, METHOD), refused:
        model(**inputs)


def test_kernels_without_additive_masks_are_refused(model, monkeypatch):
    monkeypatch.setattr(
        model.model.vision_tower.config, "_attn_implementation", "flash_attention_2"
    )
    with pytest.raises(UnsupportedError, match="'flash_attention_2' is not supported yet"):
        sparsify(model, METHOD)


def test_row_ends_alone_may_be_dropped():
    """Of 52 tokens of LLaVA-NeXT's three tiles, 48 are patches."""
    model = tiny_family("llava-next")
    inputs = family_batch(model, "llava-next", [["image", 5]]).inputs
    with torch.no_grad(), sparsify(model, ToMe(retain=50)) as run:
        model(**inputs)
    (site,) = run.trace.samples[0]
    others = run.trace.layouts[0].others.tolist()
    assert len(others) == 4
    assert sorted(set(range(52)) - set(site.keep.tolist())) == others[2:]


def test_a_plan_that_merges_undeclared_is_a_mistake(model, inputs):
    class Sly(ToMe):
        @property
        def encoder_needs(self):
            return ()

    refused = pytest.raises(MethodError, match="declare the need 'merged'")
    with torch.no_grad(), sparsify(model, Sly(retain=12)), refused:
        model(**inputs)
