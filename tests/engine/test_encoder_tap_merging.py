"""What is read of Qwen's image encoders, whose tokens are merged patches, against whole maps."""

from dataclasses import replace

import pytest
import torch
from transformers.vision_utils import get_vision_window_index

from sparsight import sparsify
from sparsight.engine import encoder_tap
from sparsight.engine.encoder_tap import list_window_order
from sparsight.engine.parts import find_parts
from sparsight.engine.support import supports
from sparsight.families.encoders import ImageEncoder
from sparsight.families.qwen_vl import QWEN_VL
from sparsight.methods import HiPrune, PruMerge, VisionZip, VisPruner
from sparsight.methods.encoder import EncoderNeed
from tests.support import tiny_rotary
from tests.support.tiny_rotary import MERGE, PATCH
from tests.support.watch import Watch

NEEDS = (
    EncoderNeed("features"),
    EncoderNeed("received"),
    EncoderNeed("received", 1),
    EncoderNeed("keys"),
    EncoderNeed("keys", 1),
    EncoderNeed("wide_keys"),
)
KINDS = ("qwen2", "qwen25", "qwen3")
ROWS = [[("image", 4, 5), 9], [3, ("image", 3, 4), 2, ("image", 2, 6), 7]]
MIXED = [
    [("image", 3, 5), 2, ("video", 2, 4, 3), 9],
    [("video", 2, 2, 3), 2, ("image", 3, 4), 7],
]


def rotate(values, cos, sin):
    """Values (N, H, d) at their positions."""
    half = values.shape[-1] // 2
    turned = torch.cat([-values[..., half:], values[..., :half]], dim=-1)
    return values * cos[:, None] + turned * sin[:, None]


def watched(model, pixels, grids):
    """Maps (N, N), mean over heads, of each block, its keys (N, d) or (N, H d) and outputs (N, D),
    and the place of each visual token, in raster order, in the sequence."""
    visual, handles = model.model.visual, []
    maps, keys = [], []
    wide, outputs = [], []

    def note(module, args, kwargs):
        hidden = args[0] if args else kwargs["hidden_states"]
        count, heads = len(hidden), module.num_heads
        query, key, _ = module.qkv(hidden).view(count, 3, heads, -1).unbind(1)
        query, key = (rotate(part, *kwargs["position_embeddings"]) for part in (query, key))
        logits = torch.einsum("qhd,khd->hqk", query, key) * query.shape[-1] ** -0.5
        piece = torch.bucketize(torch.arange(count), kwargs["cu_seqlens"][1:], right=True)
        logits = logits.masked_fill(piece[:, None] != piece[None], float("-inf"))
        maps.append(logits.softmax(dim=-1).mean(dim=0))
        keys.append(key.mean(dim=1))
        wide.append(key.flatten(1))

    for block in visual.blocks:
        handles.append(block.attn.register_forward_pre_hook(note, with_kwargs=True))
        handles.append(block.register_forward_hook(lambda _, __, out: outputs.append(out)))
    with torch.no_grad():
        visual(pixels, grid_thw=grids)
    for handle in handles:
        handle.remove()
    order = torch.arange(int(grids.prod(-1).sum()) // MERGE**2)
    if hasattr(visual, "window_size"):
        order = get_vision_window_index(grids, MERGE, visual.window_size, PATCH)[0]
    rows = {"keys": keys, "wide_keys": wide, "features": outputs}
    return maps, rows, order.argsort()


def expect(model, pixels, grids):
    """What each token should see, (V, ...) of each need, in raster order."""
    maps, rows, back = watched(model, pixels, grids)
    frames = [size for t, h, w in grids.tolist() for size in [h * w] * (t * h * w // MERGE**2)]

    def merged(rows):
        return rows.unflatten(0, (-1, MERGE**2)).mean(dim=1)[back]

    wanted = {}
    for need in NEEDS:
        block = 1 - need.block
        if need.kind == "received":
            wanted[need] = merged(maps[block].sum(dim=0)) / torch.tensor(frames)
        else:
            wanted[need] = merged(rows[need.kind][block])
    return wanted


def check(seen, wanted):
    assert len(seen) == len(wanted)
    for view, want in zip(seen, wanted, strict=True):
        for need in NEEDS:
            torch.testing.assert_close(view.encoder.values[need], want[need], rtol=1e-5, atol=1e-5)


def samples(rows, images, videos):
    """What each sample should see, from what each image and video shows."""
    parts = {"image": iter(images), "video": iter(videos)}
    for row in rows:
        shown = [next(parts[part[0]]) for part in row if not isinstance(part, int)]
        wanted = {}
        for need in NEEDS:
            wanted[need] = torch.cat([one[need] for one in shown])
        yield wanted


def split(wanted, grids):
    """Cut what all images of a call should see into single ones."""
    sizes = (grids.prod(-1) // MERGE**2).tolist()
    cut = {need: value.split(sizes) for need, value in wanted.items()}
    parts = zip(*cut.values(), strict=True)
    return [dict(zip(cut, part, strict=True)) for part in parts]


def wanted_of(model, rows, inputs):
    images, videos = [], []
    if "pixel_values" in inputs:
        grids = inputs["image_grid_thw"]
        images = split(expect(model, inputs["pixel_values"], grids), grids)
    if "pixel_values_videos" in inputs:
        grids = inputs["video_grid_thw"]
        videos = split(expect(model, inputs["pixel_values_videos"], grids), grids)
    return list(samples(rows, images, videos))


@pytest.mark.parametrize("rows", [ROWS, MIXED], ids=["images", "images and videos"])
@pytest.mark.parametrize("kind", KINDS)
def test_signals_are_those_of_whole_maps(kind, rows):
    model = tiny_rotary.model(kind)
    inputs = tiny_rotary.batch(kind, rows, torch.float64).inputs
    wanted = wanted_of(model, rows, inputs)
    method = Watch(retain=0.5, needs=NEEDS)
    with torch.no_grad(), sparsify(model, method):
        model(**inputs)
        check(method.seen, wanted)
        method.seen.clear()
        model.generate(**inputs, max_new_tokens=3)
        check(method.seen, wanted)


def test_copies_of_samples():
    model, rows = tiny_rotary.model("qwen25"), [ROWS[0], [3, ("image", 3, 4), 7]]
    inputs = tiny_rotary.batch("qwen25", rows, torch.float64).inputs
    wanted = wanted_of(model, rows, inputs)
    method = Watch(retain=0.5, needs=NEEDS)
    with torch.no_grad(), sparsify(model, method):
        model.generate(**inputs, max_new_tokens=3, num_beams=2, do_sample=False)
    check(method.seen, [want for want in wanted for _ in range(2)])


@pytest.mark.parametrize("grids", [[(1, 8, 10)], [(2, 6, 10), (1, 4, 4), (1, 14, 6)]])
@pytest.mark.parametrize("window", [2, 4])
def test_window_order_is_that_of_the_encoder(grids, window):
    encoder = ImageEncoder("visual", "blocks", 2, 1, merge=MERGE**2, window=window)
    want = get_vision_window_index(torch.tensor(grids), MERGE, window * MERGE * PATCH, PATCH)[0]
    assert torch.equal(list_window_order(grids, encoder), want)


def windows_left(monkeypatch):
    monkeypatch.setattr(
        encoder_tap,
        "list_window_order",
        lambda sizes, _: torch.arange(sum(t * h * w for t, h, w in sizes) // MERGE**2),
    )


def windows_undone_the_other_way(monkeypatch):
    order = encoder_tap.list_window_order
    monkeypatch.setattr(encoder_tap, "list_window_order", lambda *given: order(*given).argsort())


def mean_of_pieces(monkeypatch):
    score = encoder_tap.score_attention_received
    monkeypatch.setattr(
        encoder_tap,
        "score_attention_received",
        lambda query, *others: score(query, *others) / query.shape[2] * 16,
    )


BREAKS = [windows_left, windows_undone_the_other_way, mean_of_pieces]


@pytest.mark.parametrize("break_it", BREAKS)
def test_these_mistakes_would_be_noticed(break_it, monkeypatch):
    model, rows = tiny_rotary.model("qwen25"), [[("image", 5, 7), 9]]
    inputs = tiny_rotary.batch("qwen25", rows, torch.float64).inputs
    wanted = wanted_of(model, rows, inputs)
    break_it(monkeypatch)
    method = Watch(retain=0.5, needs=NEEDS)
    with torch.no_grad(), sparsify(model, method):
        model(**inputs)
    with pytest.raises(AssertionError):
        check(method.seen, wanted)


def test_middle_block_of_hiprune_is_that_of_the_paper():
    block = HiPrune().object_block
    clip = ImageEncoder("", "", 24, 22, True, 1, whole=tuple(range(24)))
    qwen = ImageEncoder("", "", 32, 31, merge=4, whole=(7, 15, 23, 31), packed=True, window=4)
    assert (clip.find_block(block), qwen.find_block(block)) == (8, 15)
    assert (clip.find_block(0), qwen.find_block(0)) == (22, 31)


def test_what_this_encoder_cannot_give_is_refused_by_name():
    model = tiny_rotary.model("qwen25")
    assert QWEN_VL.image_encoder is not None

    parts = find_parts(model)

    def refusals(method):
        return [refusal.message for refusal in supports(parts, method)]

    assert refusals(HiPrune(retain=0.5)) == []
    (message,) = refusals(VisPruner(retain=0.5))
    assert "has no class token" in message
    assert "score='received'" in message
    first, second = refusals(VisionZip(retain=0.5))
    assert "has no class token" in first
    assert "merges patches" in second
    assert "merge='tokens'" in second
    assert refusals(VisionZip(retain=0.5, score="received", merge="tokens")) == []
    messages = refusals(PruMerge(retain=0.5))
    for instead in ("score='received'", "merge='tokens'", "block=0"):
        assert any(message.endswith(f"; give {instead}.") for message in messages)
    last = PruMerge(retain=0.5, score="received", merge="tokens")
    first, second = refusals(last)  # of attention and keys
    assert "block 1 behind the features is none: they are made by block 1 of 2" in first
    assert first == second
    assert refusals(replace(last, block=0)) == []
