"""What is read of LLaVA's image encoder, against whole maps of eager attention in float64."""

import pytest
import torch

from sparsight import sparsify
from sparsight.engine import encoder_tap
from sparsight.errors import MethodError, UnsupportedError
from sparsight.families.encoders import ImageEncoder
from sparsight.methods import HiPrune, PruMerge
from sparsight.methods.encoder import EncoderNeed
from tests.support import tiny, tiny_towers
from tests.support.tiny_towers import DEPTH, Maps
from tests.support.watch import ALL, NO_CLASS, Watch, WatchGroups

ROWS = [["image", 5], ["image", 2, "image", 6], [12], ["image", 9]]
# 0.3 of 5 is 1.5: of blocks 1 and 2 the first
BLOCKS = {"-1": DEPTH - 1, "0": DEPTH - 2, "1": DEPTH - 3, "2": DEPTH - 4, "0.3": 1, "0.0": 0}
TOWERS = {"clip": ALL, "siglip": NO_CLASS, "dinov2": ALL}


def images_of(rows):
    """For each sample with images, which of the batch's images are its own."""
    found, first = [], 0
    for row in rows:
        count = row.count("image")
        found += [list(range(first, first + count))] if count else []
        first += count
    return found


def expect(model, inputs, rows, needs, tower="clip"):
    """What each sample with images should see, by need."""
    maps, first = Maps(model, inputs["pixel_values"]), 0 if tower == "siglip" else 1
    wanted = {need: maps.want(need, BLOCKS[str(need.block)], first) for need in needs}
    samples = []
    for images in images_of(rows):
        samples.append({need: value[images].flatten(0, 1) for need, value in wanted.items()})
    return samples


def check(seen, wanted):
    """Compare what was seen with what should be, sample by sample."""
    assert len(seen) == len(wanted)
    for view, want in zip(seen, wanted, strict=True):
        assert view.encoder.values.keys() == want.keys()
        for need, value in want.items():
            # eager attention takes its softmax in float32, even in a float64 model
            torch.testing.assert_close(view.encoder.values[need], value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tower", TOWERS)
def test_signals_are_those_of_whole_maps(tower):
    model, needs = tiny_towers.llava(tower), TOWERS[tower]
    inputs = tiny.batch(ROWS).inputs
    wanted = expect(model, inputs, ROWS, needs, tower)
    method = Watch(retain=0.5, needs=needs)
    with torch.no_grad(), sparsify(model, method) as run:
        model(**inputs)
        assert model.model.vision_tower.config._attn_implementation == "sdpa"
        check(method.seen, wanted)
        method.seen.clear()
        model.generate(**inputs, max_new_tokens=3)
        check(method.seen, wanted)
    assert run.stats.host_reads <= 5  # ids, mask, and the answers of a method that is not ours


def test_groups_and_later_sites_see_the_rows_of_their_tokens():
    model, rows = tiny_towers.llava(), [["image", 5], ["image", 9]]
    inputs = tiny.batch(rows).inputs
    wanted = expect(model, inputs, rows, ALL)
    method = WatchGroups(retain=0.5, sites=(0, 3))
    with torch.no_grad(), sparsify(model, method):
        model(**inputs)
    first, later = method.seen
    assert later.hidden.shape[1] < first.hidden.shape[1]
    for need in ALL:
        want = torch.stack([sample[need] for sample in wanted])
        later_rows = want[:, : later.hidden.shape[1]]  # the first tokens were kept
        torch.testing.assert_close(first.encoder.values[need], want, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(later.encoder.values[need], later_rows, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rows", [[["image", 5], ["image", 9]], ROWS[:2]], ids=["one", "several"])
def test_copies_of_samples_see_the_rows_of_their_original(rows):
    if tiny.OLD and len(rows[1]) > 2:
        pytest.skip("transformers before 5.18 mixes up the images of copied rows")
    model, method = tiny_towers.llava(), Watch(retain=0.5)
    inputs = tiny.batch(rows).inputs
    wanted = expect(model, inputs, rows, ALL)
    with torch.no_grad(), sparsify(model, method):
        model.generate(**inputs, max_new_tokens=3, num_beams=3, do_sample=False)
    check(method.seen, [want for want in wanted for _ in range(3)])


def test_features_encoded_before_bring_their_signals():
    model, method = tiny_towers.llava(), Watch(retain=0.5)
    inputs = tiny.batch(ROWS).inputs
    wanted = expect(model, inputs, ROWS, ALL)
    if tiny.OLD:
        pytest.skip("transformers before 5.18 takes no features encoded before")
    given = {name: value for name, value in inputs.items() if name != "pixel_values"}
    with torch.no_grad(), sparsify(model, method):
        outputs = {"image": model.get_image_features(pixel_values=inputs["pixel_values"])}
        model.model(**given, mm_encoder_outputs=outputs)
        check(method.seen, wanted)
        model.generate(**given, mm_encoder_outputs=outputs, max_new_tokens=2)
        check(method.seen, wanted * 2)


@pytest.mark.skipif(tiny.OLD, reason="transformers before 5.18 takes no features encoded before")
def test_features_without_signals_are_refused():
    model, inputs = tiny_towers.llava(), tiny.batch([["image", 5]]).inputs
    given = {name: value for name, value in inputs.items() if name != "pixel_values"}
    with torch.no_grad():
        plain = {"image": model.get_image_features(pixel_values=inputs["pixel_values"])}
        few = Watch(retain=0.5, needs=ALL[:2])
        with sparsify(model, few):
            fewer = {"image": model.get_image_features(pixel_values=inputs["pixel_values"])}
        with sparsify(model, HiPrune(retain=0.5)) as run:
            for outputs in (plain, fewer):
                with pytest.raises(UnsupportedError, match=r"HiPrune reads .* receive .*pixel_val"):
                    model.model(**given, mm_encoder_outputs=outputs)
            run.detach()
        with sparsify(model, HiPrune(retain=1.0)):  # nothing is pruned, so nothing is read
            model.model(**given, mm_encoder_outputs=plain)


def test_nothing_is_read_where_nothing_is_pruned(monkeypatch):
    model, inputs = tiny_towers.llava(), tiny.batch(ROWS).inputs
    method = Watch(retain=1.0)
    monkeypatch.setattr(encoder_tap.EncoderTap, "_read", lambda *_: pytest.fail("read"))
    with torch.no_grad():
        plain = model(**inputs).logits
        with sparsify(model, method):
            assert torch.equal(model(**inputs).logits, plain)
    assert not method.seen


def test_text_behind_the_images_at_the_input():
    model, inputs = tiny_towers.llava(), tiny.batch(ROWS).inputs
    method = Watch(retain=0.5, needs=())
    with torch.no_grad(), sparsify(model, method):
        model(**inputs)
    embed = model.get_input_embeddings()
    for view, sample, words in zip(method.seen, (0, 1, 3), (5, 6, 9), strict=True):
        want = embed(inputs["input_ids"][sample, -words:])
        assert torch.equal(view.text.embeds, want)
    groups, rows = WatchGroups(retain=0.5, needs=()), [["image", 5], ["image", 9]]
    inputs = tiny.batch(rows).inputs
    with torch.no_grad(), sparsify(model, groups):
        model(**inputs)
    (view,) = groups.seen
    assert view.text.present.sum(dim=1).tolist() == [5, 9]
    assert torch.equal(view.text.embeds[0, :5], embed(inputs["input_ids"][0, -5:]))
    assert not view.text.embeds[0, 5:].any()


def test_what_was_not_declared_is_refused():
    model, method = tiny_towers.llava(), Watch(retain=0.5, needs=(EncoderNeed("received"),))
    with torch.no_grad(), sparsify(model, method):
        model(**tiny.batch([["image", 5]]).inputs)
    encoder = method.seen[0].encoder
    assert len(encoder.received()) == tiny.VISUAL
    for read in (encoder.features, encoder.class_attention, encoder.keys):
        with pytest.raises(MethodError, match="without being declared"):
            read()
    with pytest.raises(MethodError, match="1 blocks before the one that made"):
        encoder.received(1)
    with pytest.raises(MethodError, match="one wide head 1 blocks behind the one that made"):
        encoder.wide_keys(-1)
    with pytest.raises(MethodError, match="by one wide head in the block that made"):
        encoder.wide_class_attention()
    with pytest.raises(MethodError, match="the projector"):
        encoder.project(torch.zeros(1, 2))


def test_a_block_behind_the_features_is_named():
    model = tiny_towers.llava(layer=-1)
    with pytest.raises(
        UnsupportedError,
        match=r"block 1 behind the features is none: they are made by block 4 of 5, counted from "
        r"0; give block=0\.",
    ):
        sparsify(model, PruMerge(retain=0.5))
    with sparsify(model, PruMerge(retain=0.5, block=0)), torch.no_grad():
        model(**tiny.batch([["image", 5]]).inputs)
    with pytest.raises(UnsupportedError, match=r"block 2 behind .* name another block"):
        sparsify(tiny_towers.llava(), Watch(retain=0.5, needs=(EncoderNeed("keys", -2),)))


def test_a_block_that_does_not_run_is_noticed(monkeypatch):
    """Only the method looks at a block behind the features: transformers may leave it out."""
    model, inputs = tiny_towers.llava(), tiny.batch([["image", 5]]).inputs
    blocks = model.model.vision_tower.encoder.layers
    with torch.no_grad(), sparsify(model, PruMerge(retain=0.5)):
        model(**inputs)
        monkeypatch.setattr(blocks[-1], "forward", lambda hidden, *_, **__: hidden)
        with pytest.raises(
            UnsupportedError, match=r"PruMerge reads .* 1 blocks behind .* did not run that block"
        ):
            model(**inputs)
        monkeypatch.undo()
        model(**inputs)


@pytest.mark.parametrize("name", ["vision_feature_layer", "vision_feature_select_strategy"])
def test_another_layer_in_a_call_is_refused(name):
    model, inputs = tiny_towers.llava(), tiny.batch([["image", 5]]).inputs
    value = {"vision_feature_layer": -3, "vision_feature_select_strategy": "full"}[name]
    with torch.no_grad(), sparsify(model, HiPrune(retain=0.5)):
        for call in (model, model.generate):
            with pytest.raises(UnsupportedError, match=f"{name}={value!r} is given"):
                call(**inputs, **{name: value})


def wrong_block(monkeypatch):
    find = ImageEncoder.find_block
    monkeypatch.setattr(ImageEncoder, "find_block", lambda self, block: find(self, block) - 1)


def wrong_features(monkeypatch):
    read = encoder_tap.list_blocks
    monkeypatch.setattr(encoder_tap, "list_blocks", lambda *given: read(*given)[::-1])


def class_row_off_by_one(monkeypatch):
    score = encoder_tap.score_class_attention
    monkeypatch.setattr(
        encoder_tap,
        "score_class_attention",
        lambda query, key, scale: score(query[..., 1:, :], key, scale),
    )


def images_swapped(monkeypatch):
    flatten = encoder_tap.EncoderTap._flatten
    monkeypatch.setattr(
        encoder_tap.EncoderTap, "_flatten", lambda self, rows: flatten(self, rows.flip(0))
    )


def class_row_left_out(monkeypatch):
    score = encoder_tap.score_attention_received
    monkeypatch.setattr(
        encoder_tap,
        "score_attention_received",
        lambda query, *others: score(query[..., 1:, :], *others),
    )


def heads_left_apart(monkeypatch):
    monkeypatch.setattr(encoder_tap, "WIDE", ())


BREAKS = [
    heads_left_apart,
    wrong_block,
    wrong_features,
    class_row_off_by_one,
    images_swapped,
    class_row_left_out,
]


@pytest.mark.parametrize("break_it", BREAKS)
def test_these_mistakes_would_be_noticed(break_it, monkeypatch):
    model, inputs = tiny_towers.llava(), tiny.batch(ROWS).inputs
    wanted = expect(model, inputs, ROWS, ALL)
    break_it(monkeypatch)
    method = Watch(retain=0.5)
    with torch.no_grad(), sparsify(model, method):
        model(**inputs)
    with pytest.raises(AssertionError):
        check(method.seen, wanted)
