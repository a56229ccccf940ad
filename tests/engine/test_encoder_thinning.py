"""PixelPrune in front of Qwen's image encoders, against slow runs on the patches that stay."""

from dataclasses import dataclass

import pytest
import torch

from sparsight import sparsify
from sparsight.engine import encoder_thinning
from sparsight.engine.encoder_thinning import Thinning, ThinningTap
from sparsight.engine.image_memory import remembered_images
from sparsight.errors import BudgetError, MethodError, SettingError, UnsupportedError
from sparsight.methods import DivPrune, PixelPrune, SparseVLM
from tests.support import contract, tiny_rotary, tiny_towers
from tests.support.footprint import snapshot
from tests.support.pages import pages
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
        names, values = [], []
        first = 0
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
    inputs = pages(kind, rows).inputs
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


def no_own_pieces(monkeypatch):
    monkeypatch.setattr(
        Thinning,
        "shorten_lengths",
        lambda self, ends: ends[[0, -1]] * 0 + ends.new_tensor([0, len(self.rows)]),
    )


def positions_of_the_first(monkeypatch):
    """Patches that are left get the rotary positions of the first ones."""
    shorten = Thinning.shorten
    monkeypatch.setattr(
        Thinning,
        "shorten",
        lambda self, part: part[: len(self.rows)] if part.shape[-1] == 16 else shorten(self, part),
    )


def raster_order_in_windows(monkeypatch):
    monkeypatch.setattr(
        encoder_thinning,
        "list_window_order",
        lambda sizes, _: torch.arange(sum(t * h * w for t, h, w in sizes) // 4),
    )


def nothing_left_out(monkeypatch):
    """The decoder drops tokens whose patches all others have seen."""
    monkeypatch.setattr(ThinningTap, "_find_thinning", lambda _: None)


BREAKS = [no_own_pieces, positions_of_the_first, raster_order_in_windows, nothing_left_out]


@pytest.mark.parametrize("break_it", BREAKS)
def test_these_mistakes_would_be_noticed(break_it, monkeypatch):
    break_it(monkeypatch)
    with pytest.raises((AssertionError, RuntimeError)):
        test_what_the_decoder_gets_is_that_of_a_slow_run("qwen25", ROWS)


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", KINDS)
def test_contract(kind, kernel):
    model = tiny_rotary.model(kind, kernel)
    batch = pages(kind, [*ROWS, [12]], model.dtype)
    contract.check(model, PixelPrune(), batch)
    contract.check(model, PixelPrune(retain=0.9, tau=0.2, metric="rms"), batch, "counts", "alone")


@pytest.mark.parametrize("method", [PixelPrune(), PixelPrune(retain=1.0), PixelPrune(retain=99)])
@pytest.mark.parametrize("kind", KINDS)
def test_photographs_are_bit_identical(kind, method):
    """Nothing repeats in noise; and a bound that is none leaves even pages as they are."""
    model, share = tiny_rotary.model(kind), 0.6 if method.retain else 0.0
    inputs = pages(kind, ROWS, share=share).inputs
    real = inputs["attention_mask"].bool()
    with torch.no_grad():
        plain = model(**inputs).logits
        with sparsify(model, method) as run:
            assert torch.equal(model(**inputs).logits[real], plain[real])
    assert run.stats.mean_visual_tokens == sum(run.stats.visual_tokens) / 2


@pytest.mark.parametrize("kind", KINDS)
def test_one_token_of_a_flat_image_or_frame_is_left(kind):
    model = tiny_rotary.model(kind)
    inputs = tiny_rotary.batch(kind, MIXED, torch.float64).inputs
    for name in ("pixel_values", "pixel_values_videos"):
        inputs[name] = torch.full_like(inputs[name], 0.25)
    sites, _ = run(model, PixelPrune(), inputs)
    # an image and two frames, three frames and an image
    assert [len(site.keep) for site in sites] == [3, 4]
    assert sites[0].keep.tolist() == [0, 30, 42]


@pytest.mark.parametrize(("tau", "metric"), [(0.3, "max"), (0.08, "mean"), (0.1, "rms")])
@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
def test_tolerance_is_one_of_colours(kind, tau, metric):
    model = tiny_rotary.model(kind)
    inputs = pages(kind, ROWS).inputs
    noise = torch.randn(inputs["pixel_values"].shape, generator=torch.Generator().manual_seed(5))
    inputs["pixel_values"] = inputs["pixel_values"] / 2 + 0.15 * noise.double()
    # as the processors of these models normalise
    spread = {"qwen2": (0.26862954, 0.26130258, 0.27577711), "qwen3": (0.5, 0.5, 0.5)}[kind]
    by_colour = (
        inputs["pixel_values"].unflatten(1, (3, -1)) * torch.tensor(spread).double()[:, None]
    )
    grids = inputs["image_grid_thw"]
    kept = kept_tokens(by_colour.flatten(1), grids, tau, metric)
    sites, _ = run(model, PixelPrune(tau=tau, metric=metric), inputs)
    first, names = 0, []
    for site in sites:
        names += [first + name for name in site.keep.tolist()]
        first += len(site.present)
    assert names == kept
    assert len(kept) < first


@pytest.mark.parametrize("options", [{}, {"num_beams": 2}])
def test_generate_leaves_out_what_a_forward_does(options):
    model = tiny_rotary.model("qwen25")
    inputs = pages("qwen25", ROWS).inputs
    before, _ = run(model, PixelPrune(), inputs)
    with sparsify(model, PixelPrune()) as own:
        model.generate(**inputs, max_new_tokens=3, do_sample=False, **options)
    copies = len(own.trace.samples) // len(before)
    for number, sites in enumerate(own.trace.samples):
        assert torch.equal(sites[0].keep, before[number // copies].keep)


def test_decoding_goes_on_where_the_prompt_ended():
    model = tiny_rotary.model("qwen25")
    inputs = pages("qwen25", ROWS[:1]).inputs
    with sparsify(model, PixelPrune()), torch.no_grad():
        done = model.generate(
            **inputs, max_new_tokens=4, output_logits=True, return_dict_in_generate=True
        )
        said = done.sequences[0, inputs["input_ids"].shape[1] :].tolist()
        whole = model(**tiny_rotary.longer("qwen25", inputs, said[:-1])).logits[0, -len(said) :]
    contract.close(torch.cat(list(done.logits)).to(whole.dtype), whole, "decoding")


def test_a_bound_that_an_image_exceeds_is_refused():
    model, inputs = tiny_rotary.model("qwen2"), pages("qwen2", ROWS).inputs
    sites, _ = run(model, PixelPrune(), inputs)
    most = max(len(site.keep) for site in sites)
    assert run(model, PixelPrune(retain=most), inputs)
    refused = pytest.raises(BudgetError, match=r"differ from what .* more than the 3 of retain=3")
    with torch.no_grad(), sparsify(model, PixelPrune(retain=3)), refused:
        model(**inputs)
    refused = pytest.raises(UnsupportedError, match="bounds some samples of this batch")
    with torch.no_grad(), sparsify(model, PixelPrune(retain=22)), refused:
        model(**inputs)


def test_settings_that_do_nothing_are_refused():
    with pytest.raises(SettingError, match="no effect on equal pixels"):
        PixelPrune(metric="mean")
    with pytest.raises(SettingError, match=r"tau=1\.5 is out of range"):
        PixelPrune(tau=1.5)
    with pytest.raises(SettingError, match="metric='median' is not known"):
        PixelPrune(tau=0.1, metric="median")


def test_other_encoders_are_refused_by_name():
    with pytest.raises(
        UnsupportedError, match="takes whole images, not lists of patches; use ToMe"
    ):
        sparsify(tiny_towers.llava(), PixelPrune())
    with pytest.raises(UnsupportedError, match="what its image encoder computes is not read"):
        sparsify(tiny_rotary.model("glm4v"), PixelPrune())


@pytest.mark.skipif(tiny_rotary.tiny.OLD, reason="before 5.18 no features are taken")
def test_features_that_were_encoded_before_are_refused():
    model, inputs = tiny_rotary.model("qwen2"), pages("qwen2", ROWS[:1]).inputs
    pixels = {name: inputs.pop(name) for name in ("pixel_values", "image_grid_thw")}
    sizes = {"image_grid_thw": pixels["image_grid_thw"]}
    with torch.no_grad():
        plain = model.get_image_features(**pixels).pooler_output
        with sparsify(model, PixelPrune()):
            outputs = model.get_image_features(**pixels)
            assert all(map(torch.equal, outputs.pooler_output, plain))
            with pytest.raises(UnsupportedError, match=r"encoded without it; give pixel_values\.$"):
                model.model(**inputs, **sizes, mm_encoder_outputs={"image": outputs})


def test_features_are_remembered_for_equal_settings_alone():
    model, inputs = tiny_rotary.model("qwen2"), pages("qwen2", ROWS[:1]).inputs
    seen, memory = [], {}
    handle = model.model.visual.register_forward_pre_hook(lambda *_: seen.append(0))
    methods = [
        PixelPrune(),
        PixelPrune(),
        PixelPrune(tau=1.0, metric="mean"),
        DivPrune(retain=5),
        SparseVLM(),
    ]
    counts, kept = [], []
    for method in methods:
        with (
            remembered_images(model.model, memory),
            torch.no_grad(),
            sparsify(model, method) as own,
        ):
            model(**inputs)
        counts.append(len(seen))
        kept.append(own.stats.schedules[0].counts[0])
    handle.remove()
    assert counts == [1, 1, 2, 3, 3]
    assert kept[0] == kept[1] > kept[2] == 1


@pytest.mark.parametrize("error", [None, RuntimeError])
@pytest.mark.parametrize("kind", KINDS)
def test_the_block_leaves_no_trace(kind, error):
    model, inputs = tiny_rotary.model(kind), pages(kind, ROWS).inputs
    with torch.no_grad():
        plain = model(**inputs).logits
    before = snapshot(model)

    def fail(*_):
        if error is not None:
            raise error("on purpose")

    handle = model.model.visual.blocks[1].mlp.register_forward_hook(fail)
    try:
        with torch.no_grad(), sparsify(model, PixelPrune()):
            model(**inputs)
    except RuntimeError:
        assert error is not None
    handle.remove()
    assert snapshot(model) == before
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, plain)


def test_marks_of_own_methods_are_checked():
    @dataclass(frozen=True)
    class Half(PixelPrune):
        def mark_patches(self, pixels, grid):
            return torch.arange(grid[0] * grid[1]).expand(len(pixels), -1) % 2 == 1

    model, inputs = tiny_rotary.model("qwen25"), pages("qwen25", ROWS[:1]).inputs
    sites, probe = run(model, Half(), inputs)
    assert sites[0].keep.tolist() == list(range(1, 20, 2))
    assert bool(probe.entering[0].isfinite().all())

    @dataclass(frozen=True)
    class Wrong(PixelPrune):
        def mark_patches(self, pixels, grid):
            return pixels.mean(dim=-1)

    with pytest.raises(MethodError, match="mark_patches answered for an image of 20 tokens"):
        run(model, Wrong(), inputs)

    @dataclass(frozen=True)
    class Silent(PixelPrune):
        mark_patches = None

    with pytest.raises(MethodError, match="give it mark_patches"):
        run(model, Silent(), inputs)
