"""EVS and VidCom2 on models that take videos: what they owe every prompt, and what they refuse."""

import pytest
import torch
from transformers import DynamicCache

from sparsight import sparsify
from sparsight.engine.support import describe, supports
from sparsight.errors import BudgetError, UnsupportedError
from sparsight.methods import EVS, VidCom2
from tests.families.test_rotary import check_masked
from tests.support import contract, hidden, reference_merging, tiny, tiny_rotary
from tests.support.caches import cached
from tests.support.tiny_families import family_batch, tiny_family
from tests.support.tiny_kinds import FIRST

METHODS = {
    "evs": EVS(retain=0.75),
    "evs renumbered": EVS(retain=0.6, positions="renumber"),
    "vidcom2": VidCom2(retain=0.4),
    "vidcom2 renumbered": VidCom2(retain=0.6, positions="renumber"),
}
KEPT = {name: method for name, method in METHODS.items() if method.positions == "keep"}
PLAIN = ("video-llava", "llava-next-video", "llava-onevision")
ROTARY = ("qwen2", "qwen25", "qwen3", "glm4v")
CLIPS = [["video", 5], ["video", 3, "video", 4]]
ROTARY_CLIPS = [
    [("video", 4, 2, 3), 9],
    [2, ("video", 2, 4, 3), 2, ("video", 3, 2, 3), 7],
]
ALONE = "glm4v"  # one video a sample
# text stands between the frames of these, and a frame in which nothing changed may go
STAMPED = ("qwen3", "glm4v")


def rotary_batch(kind, dtype):
    rows = [ROTARY_CLIPS[0], [2, ("video", 3, 4, 3), 7]] if kind == ALONE else ROTARY_CLIPS
    return tiny_rotary.batch(kind, rows, dtype)


def make(kind):
    """A model and two samples with videos alone."""
    if kind in PLAIN:
        model = tiny_family(kind)
        return model, family_batch(model, kind, CLIPS)
    model = tiny_rotary.model(kind)
    return model, rotary_batch(kind, model.dtype)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", PLAIN)
def test_contract(kind, method):
    contract.check(*[make(kind)[0], METHODS[method], make(kind)[1]])


@pytest.mark.parametrize("method", KEPT)
@pytest.mark.parametrize("kind", ROTARY)
def test_contract_of_rotary_models(kind, method):
    model, batch = make(kind)
    names = [name for name in contract.CHECKS if name != "images" or kind not in STAMPED]
    contract.check(model, METHODS[method], batch, *names)


@pytest.mark.parametrize("method", KEPT)
@pytest.mark.parametrize("kind", ROTARY)
def test_pruned_equals_masked_of_rotary_models(kind, method):
    model, batch = make(kind)
    check_masked(kind, model, METHODS[method], batch)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", PLAIN)
def test_pruned_equals_masked(kind, method):
    """Prefill and decoding, with what was kept taken from the trace."""
    model, batch = make(kind)
    method, cache = METHODS[method], DynamicCache(config=model.config)
    said = torch.randint(FIRST, 80, (2, 3), generator=torch.Generator().manual_seed(5))
    mask = batch.inputs["attention_mask"]
    with sparsify(model, method) as run, torch.no_grad():
        ids = contract.positions(mask)
        parts = [model(**batch.inputs, position_ids=ids, **cached(cache)).logits]
        for step in range(said.shape[1]):
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            given = {"attention_mask": mask, "position_ids": contract.positions(mask)[:, -1:]}
            parts.append(model(input_ids=said[:, step : step + 1], **given, **cached(cache)).logits)
    dense = tiny_family(kind, "eager")
    for b, own in enumerate(family_batch(dense, kind, CLIPS).alone):
        ids = torch.cat([own["input_ids"], said[b : b + 1]], dim=1)
        inputs = {**own, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
        renumber = method.positions == "renumber"
        want, _ = hidden.run(dense, inputs, run.trace.samples[b], renumber=renumber)
        left = run.stats.tokens_per_layer[b][-1]
        got = torch.cat([parts[0][b, -left:], *(part[b] for part in parts[1:])])
        contract.close(got, want.to(got.dtype), f"sample {b}")


def clips_of(layout):
    """For each video of a layout, its frames as lists of tokens."""
    videos = {}
    for grid in layout.grids:
        videos.setdefault(grid.image, []).append(grid.tokens.tolist())
    return list(videos.values())


@pytest.mark.parametrize("method", KEPT)
@pytest.mark.parametrize("kind", [*PLAIN, "qwen25", "qwen3"])
def test_choices_are_those_of_the_reference(kind, method):
    model, batch = make(kind)
    with torch.no_grad(), sparsify(model, METHODS[method]) as run, contract.Probe(model) as probe:
        model(**batch.inputs)
    visual = torch.isin(
        batch.inputs["input_ids"], torch.tensor(sorted(contract.placeholders(model.config)))
    )
    for b, layout in enumerate(run.trace.layouts):
        tokens, kept = probe.leaving[-1][b][visual[b]].double(), run.trace.samples[b][0].keep
        own, wanted = set(kept.tolist()), []
        for frames in clips_of(layout):
            places = [token for frame in frames for token in frame]
            count = len(own.intersection(places))
            points = [tokens[frame] for frame in frames]
            if method == "evs":
                score = reference_merging.changes(points)
                ranked = sorted(range(len(places)), key=lambda i: (-score[i], i))[:count]
                assert count >= len(frames[0])
            else:
                rate = 1 - count / len(places)
                ranked = reference_merging.vidcom2([list(p) for p in points], rate, count)[2]
                assert count >= len(frames)
            wanted += [places[i] for i in ranked]
        assert sorted(own) == sorted(wanted)  # class tokens and the like go first


def test_videos_share_a_count_by_their_sizes():
    method = EVS(retain=30)
    model, batch = make("qwen25")
    with torch.no_grad(), sparsify(model, method) as run:
        model(**batch.inputs)
    layout, kept = run.trace.layouts[1], set(run.trace.samples[1][0].keep.tolist())
    counts = []
    for frames in clips_of(layout):
        counts.append(len(kept.intersection(token for frame in frames for token in frame)))
    assert counts == [17, 13]  # of 24 and 18, the first frames of 12 and 6 among them


@pytest.mark.parametrize("method", KEPT)
def test_stills_stay_whole(method):
    rows = [[("image", 3, 4), 2, ("video", 3, 2, 3), 5], [("video", 3, 3, 4), 1, ("image", 2, 2)]]
    rows[1].append(6)
    model = tiny_rotary.model("qwen25")
    batch = tiny_rotary.batch("qwen25", rows, model.dtype)
    with torch.no_grad(), sparsify(model, METHODS[method].__class__(retain=20)) as run:
        model(**batch.inputs)
    for trace, layout in zip(run.trace.samples, run.trace.layouts, strict=True):
        stills = [frames[0] for frames in clips_of(layout) if len(frames) == 1]
        assert set(stills[0]) <= set(trace[0].keep.tolist())
        assert len(trace[0].keep) == 20


@pytest.mark.parametrize(
    ("method", "least"), [(EVS(retain=17), 12 + 6), (VidCom2(retain=14), 12 + 3)]
)
def test_the_least_budget_is_named(method, least):
    rows = [[("image", 3, 4), 2, ("video", 3, 2, 3), 5]]
    model = tiny_rotary.model("qwen25")
    inputs = tiny_rotary.batch("qwen25", rows, model.dtype).inputs
    with torch.no_grad():
        with (
            sparsify(model, method),
            pytest.raises(
                BudgetError,
                match=rf"at least {least} of the 30 visual tokens: 12 of stills, .* and "
                rf"{least - 12} of videos; {method.retain} are too few\. Give retain={least} or "
                rf"more, or the fraction {least / 30:g}\.",
            ),
        ):
            model(**inputs)
        for retain in (least, least / 30):
            with sparsify(model, type(method)(retain=retain)) as run:
                model(**inputs)
            assert len(run.trace.samples[0][0].keep) == least


@pytest.mark.parametrize("method", KEPT)
def test_prompts_without_videos_are_refused_unless_all_is_kept(method):
    method, model = METHODS[method], tiny_rotary.model("qwen25")
    inputs = tiny_rotary.batch("qwen25", tiny_rotary.rows("qwen25"), model.dtype).inputs
    words = tiny_rotary.batch("qwen25", [[9]], model.dtype).inputs
    with torch.no_grad():
        plain, answer = model(**inputs).logits, model(**words).logits
        with sparsify(model, method):
            for call in (model, model.generate):
                with pytest.raises(
                    UnsupportedError, match="prunes videos alone, and the prompt has none; use Div"
                ):
                    call(**inputs)
            assert torch.equal(model(**words).logits, answer)
        with sparsify(model, type(method)(retain=1.0)):
            assert torch.equal(model(**inputs).logits, plain)


@pytest.mark.parametrize("kind", [*PLAIN, *ROTARY])
@pytest.mark.parametrize("method", KEPT)
def test_keeping_everything_is_bit_identical(kind, method):
    model, batch = make(kind)
    inputs = batch.alone[1]  # older releases mix up images of several samples
    with torch.no_grad():
        plain = model(**inputs).logits
        for retain in (1.0, 9999):
            with sparsify(model, type(METHODS[method])(retain=retain)):
                assert torch.equal(model(**inputs).logits, plain)


@pytest.mark.parametrize("method", KEPT)
def test_models_without_videos_are_refused_by_name(method):
    method, model = METHODS[method], tiny.tiny_llava()
    for wrong in (model, model.model.language_model):
        marks = None if wrong is model else torch.ones(1, 3, dtype=torch.bool)
        with pytest.raises(UnsupportedError, match=r"not known to take videos.*use DivPrune"):
            sparsify(wrong, method, visual_mask=marks)
    assert not supports(describe(tiny_rotary.model("qwen3").config), method)
