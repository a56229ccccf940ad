"""RESTORE around other methods: recordings end to end, what it takes of a base and refuses."""

from dataclasses import dataclass, replace

import pytest
import torch

from sparsight import Method, sparsify
from sparsight.counts.layout import grids_layout
from sparsight.errors import BudgetError, MethodError, SettingError
from sparsight.methods import (
    DivPrune,
    Downscale,
    FastV,
    HiPrune,
    PixelPrune,
    Pool,
    Random,
    Restore,
    SparseVLM,
    SparseVLMPlus,
    ToMe,
    VisionZip,
)
from sparsight.methods.encoder import EncoderNeed
from sparsight.methods.parts.merging import count_members
from sparsight.methods.parts.window_choices import choose_holov
from sparsight.methods.view import Selection, View
from sparsight.sequence.sample import Group
from sparsight.sequence.sizes import Sizes
from tests.support import contract, recorded, tiny
from tests.support.cases import tiny_model
from tests.support.recordings import read, within

SOURCE = 3  # of five blocks, the one that makes the features


@dataclass(frozen=True)
class HoloV(Method):
    """Keeps what the recordings' base keeps."""

    signals = frozenset({"encoder"})
    sites: tuple[int, ...] | None = (0,)

    @property
    def encoder_needs(self):
        return (EncoderNeed("class_attention"),)

    def select(self, view):
        attention = view.encoder.class_attention()
        return Selection(choose_holov(attention, view.hidden, view.keep_count))


BASES = {"divprune": DivPrune(), "holov": HoloV()}


@pytest.mark.parametrize("name", ["restore-divprune-144-24", "restore-holov-144-32"])
def test_recordings(name):
    """Tokens, their places, and the masks of all layers."""
    settings, tensors = read(name)
    features, count = tensors["features"], settings["retain"]
    model = recorded.model(64, 12, head_dim=settings["head_width"])
    attention = tensors["cls_attention"][None, None]
    recorded.put_in(
        model,
        SOURCE,
        recorded.attending(attention),
        1.0,
        recorded.with_class_token(features[None]),
    )
    before, after = settings["system_tokens"], settings["text_tokens_after"]
    inputs = tiny.batch([[before - 1, "image", after]], side=12 * tiny.PATCH).inputs
    method, masks = Restore(retain=count, base=BASES[settings["base"]], c=settings["c"]), []
    with sparsify(model, method) as run, contract.Probe(model) as probe, torch.no_grad():
        for layer in model.model.language_model.layers:
            layer.register_forward_pre_hook(
                lambda _, __, kwargs: masks.append(kwargs["attention_mask"]), with_kwargs=True
            )
        model(**inputs, use_cache=False)
    (step,) = run.trace.samples[0]
    assert torch.equal(step.keep, tensors["kept_by_base"])
    order = step.survivors.sort()
    assert torch.equal(order.values, tensors["median_position"])
    owner = torch.empty(144, dtype=torch.int64)
    owner[step.keep] = torch.arange(len(step.keep))
    owner[step.pool] = step.labels + len(step.keep)
    assert torch.equal(order.indices.argsort()[owner], tensors["group_of_source"])
    tokens = probe.entering[0][0, before : before + count]
    torch.testing.assert_close(tokens, tensors["tokens"], **within(torch.float64))
    sizes = torch.ones(before + count + after, dtype=torch.float64)
    sizes[before : before + count] = tensors["sizes"]
    assert torch.equal(count_members(owner, count)[order.indices], tensors["sizes"])
    level = torch.ones_like(sizes)
    level[before : before + count] = 144 / count
    for index, mask in enumerate(masks):
        want = tensors["distance_bias"] + (sizes if index else level).log()
        seen = torch.ones_like(want).tril().bool()
        torch.testing.assert_close(mask[0, 0][seen], want[seen], rtol=0, atol=1e-6)
        assert (mask[0, 0][~seen] < -1e9).all()


def test_retain_sites_and_positions_are_those_of_the_base():
    own = Restore(retain=64, base=FastV(retain=192), sites=(3,), positions="renumber")
    assert own.base == FastV(retain=64, sites=(3,), positions="renumber")
    assert (own.retain, own.sites) == (64, (3,))
    assert Restore(base=FastV(retain=192)).retain == 192
    assert Restore(base=FastV(retain=192)).sites == (2,)
    assert replace(own, retain=0.5).base.retain == 0.5
    assert Restore(**vars(own)) == own
    assert hash(own) == hash(replace(own))
    assert Restore.paper(64) == Restore(retain=64, base=DivPrune())
    assert Restore.paper(64, FastV()).base == FastV(retain=64)
    with pytest.raises(BudgetError, match=r"Restore.paper\(65\) was not published"):
        Restore.paper(65)


def test_what_a_base_declares_is_declared():
    plus = Restore(retain=0.5, base=SparseVLMPlus())
    assert plus.signals == {"attention", "distance", "sizes"}
    assert plus.list_sites(8) == SparseVLMPlus(retain=0.5).list_sites(8)
    assert Restore(retain=0.5, base=HiPrune()).encoder_needs == HiPrune().encoder_needs
    assert Restore.signals == {"sizes"}
    assert Restore.batched
    layout = grids_layout([(6, 6)])
    for gamma, kept in ((0.0, 0), (0.01, 1), (0.29, 5), (0.5, 9), (1.0, 18)):
        plan = Restore(retain=18, gamma=gamma, base=Random()).plan(layout, 8)
        assert (plan.kept, plan.counts) == ((kept,), (18,))
    whole = SparseVLM(retain=0.5, recycle=False)
    plan, own = whole.plan(layout, 8), Restore(base=whole, gamma=0.3).plan(layout, 8)
    assert own.counts == plan.counts
    assert own.kept == tuple(max(1, int(count * 0.3)) for count in plan.kept)


REFUSED = {
    "recycles": (
        {"base": SparseVLM()},
        r"SparseVLM merges tokens itself.*SparseVLM\(recycle=False\)",
    ),
    "contextual": ({"base": VisionZip()}, "VisionZip merges tokens itself"),
    "pools": ({"base": Pool()}, "Pool merges tokens itself"),
    "adapts": (
        {"base": SparseVLM(level="rank", recycle=False)},
        "SparseVLM plans upper bounds",
    ),
    "scales": ({"base": Downscale()}, "cannot build on Downscale, which scales images itself"),
    "thins": ({"base": PixelPrune()}, "on PixelPrune, which changes the image encoder itself"),
    "merges inside": ({"base": ToMe()}, "on ToMe, which changes the image encoder itself"),
    "itself": ({"base": Restore(retain=0.5)}, "Restore, which calibrates attention itself"),
    "a class": ({"base": DivPrune}, r"DivPrune'> is not a method; give an instance"),
    "unbounded": (
        {"base": SparseVLM(level="rank", retain=None), "retain": None},
        "Restore needs a bound",
    ),
    "gamma": ({"gamma": 1.1}, r"gamma=1.1 is out of range; give a number in \[0, 1\]"),
    "c": ({"c": 1.0}, "c=1.0 is out of range; give a finite number above 1"),
    "anchors": ({"anchors": "best"}, "anchors='best' is not known"),
    "nothing": ({"gamma": 1.0, "calibrate": False}, "use the base alone"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_by_name(case):
    settings, message = REFUSED[case]
    with pytest.raises((SettingError, BudgetError), match=message):
        Restore(**{"retain": 0.5, **settings})


@dataclass(frozen=True)
class Late(Method):
    """Merges only in samples of 72 tokens, which no trial can tell."""

    sites: tuple[int, ...] | None = (0,)

    def plan(self, layout, layers):
        plan = super().plan(layout, layers)
        if plan.visual_tokens == 72:
            return replace(plan, kept=(1,), recycled=(plan.kept[0] - 1,))
        return plan

    def select(self, view):
        return Selection(torch.arange(view.keep_count).expand(len(view.hidden), -1))


def test_a_base_that_merges_now_and_then_is_refused_before_images_are_encoded():
    model, method = tiny_model("sdpa"), Restore(retain=0.5, base=Late())
    contract.check(model, method, tiny.batch([["image", 5]]), "counts")
    inputs = tiny.batch([["image", "image", 5]]).inputs
    tower = model.model.vision_tower.register_forward_pre_hook(lambda *_: pytest.fail("encoded"))
    try:
        with sparsify(model, method):
            for call in (model, model.generate):
                with pytest.raises(SettingError, match="Late merges tokens itself"):
                    call(**inputs)
    finally:
        tower.remove()


@dataclass(frozen=True)
class Alone(Method):
    """Takes one sample at a time."""

    batched = False
    sites: tuple[int, ...] | None = (0, 2)

    def select(self, view):
        assert view.hidden.ndim == 2
        assert view.sizes is None, "not declared"
        return Selection(view.hidden.norm(dim=-1).topk(view.keep_count).indices.sort().values)


def test_a_base_that_takes_one_sample_at_a_time():
    batch = tiny.batch([["image", 5], ["image", 8], ["image", "image", 4]])
    contract.check(tiny_model("sdpa"), Restore(retain=0.5, base=Alone()), batch)


@dataclass(frozen=True)
class Wrong(Alone):
    """Keeps one token again and again."""

    def select(self, view):
        return Selection(torch.zeros(view.keep_count, dtype=torch.int64))


def test_a_mistake_of_the_base_is_named_after_it():
    with (
        sparsify(tiny_model("sdpa"), Restore(retain=0.5, base=Wrong())),
        pytest.raises(MethodError, match="Wrong answered keep that does not ascend"),
    ):
        tiny_model("sdpa")(**tiny.batch([["image", 5]]).inputs)


def test_tokens_join_anchors_of_their_own_image():
    model = tiny_model("sdpa")
    inputs = tiny.batch([["image", 3, "image", 5]]).inputs
    with sparsify(model, Restore(retain=0.5, base=Random())) as run, torch.no_grad():
        model(**inputs)
    (step,) = run.trace.samples[0]
    image = (step.pool >= tiny.VISUAL).long()
    for label, centre in enumerate(step.centres):
        members = image[step.labels == label]
        assert (members == members[0]).all()
        assert members[0] == int(centre >= tiny.VISUAL)


@pytest.mark.parametrize("base", [DivPrune(centred=True), Random()])
def test_no_device_is_waited_for(base):
    """On tensors without values there is nothing to read."""
    hidden = torch.empty(2, 30, 8, dtype=torch.bfloat16, device="meta")
    images = torch.empty(2, 30, dtype=torch.int64, device="meta")
    view = View(0, 12, 6, hidden, images, sizes=images.float())
    chosen = Restore(retain=12, base=base).select(view)
    assert (chosen.keep.shape, chosen.recycled.centres.shape) == ((2, 6), (2, 6))
    assert (chosen.recycled.values.shape, chosen.recycled.values.dtype) == ((2, 6, 8), hidden.dtype)
    group, sizes = Group((0, 1), None, 30, 12, 6), Sizes(torch.ones(2, 40, device="meta"))
    sizes.add(group, images, chosen.recycled)
    assert sizes.by_slot.shape == (2, 40)
