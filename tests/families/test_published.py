"""Published methods on models other than LLaVA with CLIP: what they owe prompts, and refusals."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from sparsight import sparsify
from sparsight.engine import reader
from sparsight.engine.support import describe, supports
from sparsight.errors import UnsupportedError
from sparsight.families import family_named
from sparsight.methods import (
    DART,
    EADP,
    SCOPE,
    SIEVE,
    TOPS,
    AutoPrune,
    CDPruner,
    DivPrune,
    FasterVLM,
    FastV,
    HiPrune,
    HoloV,
    MMTok,
    PruMerge,
    PruMergePlus,
    PruneSID,
    PyramidDrop,
    Restore,
    SparseVLM,
    Sparsight,
    VisionZip,
    VisPruner,
    VScan,
)
from sparsight.sequence.prompt import read_prompts
from tests.support import contract, tiny, tiny_families, tiny_rotary, tiny_towers

MERGED = {"score": "received", "merge": "tokens", "block": 0}
RECEIVED = {
    "fastv": FastV(retain=0.5),
    "dart": DART(retain=0.6),
    "autoprune": AutoPrune(retain=0.5),
    "sieve": SIEVE(retain=0.5),
    "pyramiddrop": PyramidDrop(retain=0.4),
    "vscan": VScan(retain=0.4, score="received"),
    "tops": TOPS(retain=0.4, score="received"),
    "hiprune": HiPrune(retain=0.4),
    "fastervlm": FasterVLM(retain=0.4, score="received"),
    "vispruner": VisPruner(retain=0.5, score="received"),
    "visionzip": VisionZip(retain=0.6, score="received", merge="tokens"),
    "prumerge": PruMerge(retain=0.4, **MERGED),
    "prumerge-plus": PruMergePlus(retain=0.5, level="outliers", **MERGED),
    "holov": HoloV(retain=0.4, score="received"),
    "prunesid": PruneSID(retain=0.5, score="loading"),
    "prunesid received": PruneSID(retain=0.4, score="received"),
    "divprune": DivPrune(retain=0.3),
    "cen-prune": DivPrune(retain=0.4, centred=True, space="features"),
    "scope": SCOPE(retain=0.5, score="received"),
    "centred scope": SCOPE(retain=0.4, score="received", centred=True),
    "cdpruner": CDPruner(retain=0.4),
    "centred cdpruner": CDPruner(retain=0.3, halves=True, centred=True, space="features"),
    "determinantal": CDPruner(retain=0.4, relevance="none", centred=True, space="features"),
    "sparsight": Sparsight(retain=0.4),
    "sparsight by tokens": Sparsight(retain=0.5, space="tokens"),
    "mmtok": MMTok(retain=0.4, text_temperature=0.01, skip=tuple(range(4, 50))),
    "eadp": EADP(retain=0.4, beta=2.0),
    # what distance adds in a prompt, it adds in no answer: see test_calibration.py
    "restore": Restore(retain=0.5, base=DivPrune(space="features"), calibrate=False),
}
BY_CLASS = {
    "fastervlm": FasterVLM(retain=0.4),
    "vispruner": VisPruner(retain=0.5),
    "visionzip": VisionZip(retain=0.6),
    "prumerge": PruMerge(retain=0.4),
    "prumerge-plus": PruMergePlus(retain=0.5, level="outliers"),
    "holov": HoloV(retain=0.4),
    "prunesid": PruneSID(retain=0.5),
    "scope": SCOPE(retain=0.5),
    "vscan": VScan(retain=0.4),
    "tops": TOPS(retain=0.4),
}


@pytest.mark.parametrize("kind", ["qwen2", "qwen25", "qwen3"])
@pytest.mark.parametrize("method", RECEIVED)
def test_contract_on_merged_patches(kind, method):
    model = tiny_rotary.model(kind)
    batch = tiny_rotary.batch(kind, [*tiny_rotary.rows(kind), [12]], model.dtype)
    contract.check(model, RECEIVED[method], batch)
    whole = type(RECEIVED[method])(**{**vars(RECEIVED[method]), "retain": 1.0})
    with torch.no_grad():
        plain = model(**batch.inputs).logits
        with sparsify(model, whole):
            assert torch.equal(model(**batch.inputs).logits, plain)


@pytest.mark.parametrize("tower", ["siglip", "dinov2"])
@pytest.mark.parametrize("method", RECEIVED)
def test_contract_on_other_towers(tower, method):
    model = tiny_towers.llava(tower)
    batch = tiny.batch([["image", 5], ["image", 2, "image", 6]])
    own = BY_CLASS.get(method) if tower == "dinov2" else None
    contract.check(model, own or RECEIVED[method], batch)


@pytest.mark.parametrize("method", BY_CLASS)
def test_no_class_token_is_refused_by_name(method):
    for model in (tiny_towers.llava("siglip"), tiny_rotary.model("qwen25")):
        with pytest.raises(UnsupportedError, match=r"no class token; give score='received'"):
            sparsify(model, BY_CLASS[method])


def test_other_encoders_are_refused_by_name():
    method = HiPrune(retain=0.5)
    config = tiny_towers.llava().config.__class__(
        vision_config={"model_type": "pixtral"}, text_config=tiny.text_config()
    )
    messages = [refusal.message for refusal in supports(describe(config), method)]
    assert any("encoder of type 'pixtral' was never looked at" in message for message in messages)
    config = tiny_towers.llava().config.__class__(
        vision_config=tiny_towers.vision("clip"),
        text_config=tiny.text_config(),
        vision_feature_layer=[-2, -3],
    )
    (refusal,) = supports(describe(config), method)
    assert "features come from several blocks, [-2, -3]" in refusal.message
    config = tiny_towers.llava().config.__class__(
        vision_config=tiny_towers.vision("clip"),
        text_config=tiny.text_config(),
        vision_feature_select_strategy="full",
    )
    (refusal,) = supports(describe(config), method)
    assert "class token of its image encoder is a visual token" in refusal.message
    assert family_named("Glm4vForConditionalGeneration").image_encoder is None
    with pytest.raises(UnsupportedError, match="what its image encoder computes is not read"):
        sparsify(tiny_rotary.model("glm4v"), method)
    text = tiny.tiny_llava().model.language_model
    with pytest.raises(UnsupportedError, match="what its image encoder computes is not read"):
        sparsify(text, method, visual_mask=torch.ones(1, 3, dtype=torch.bool))


@pytest.mark.parametrize("method", RECEIVED)
def test_decoding_goes_on_where_the_prompt_ended(method):
    """A later token stands where it would stand in the unpruned prompt, on M-RoPE too."""
    model, method = tiny_rotary.model("qwen25"), RECEIVED[method]
    batch = tiny_rotary.batch("qwen25", [tiny_rotary.rows("qwen25")[0]], model.dtype)
    with sparsify(model, method), torch.no_grad():
        options = {"output_logits": True, "return_dict_in_generate": True}
        # a prompt cannot repeat a placeholder that was said
        options["suppress_tokens"] = [tiny.IMAGE, tiny_rotary.VIDEO]
        done = model.generate(**batch.inputs, max_new_tokens=4, **options)
        said = done.sequences[0, batch.inputs["input_ids"].shape[1] :].tolist()
        longer = tiny_rotary.longer("qwen25", batch.inputs, said[:-1])
        # words behind the question rate, too: like drafted ones, they leave the choice as it was
        with pytest.MonkeyPatch.context() as patch:
            drafted = partial(read_prompts, candidates=len(said) - 1)
            patch.setattr(reader, "read_prompts", lambda *given: drafted(*given[:3]))
            whole = model(**longer).logits[0, -len(said) :]
    contract.close(torch.cat(list(done.logits)).to(whole.dtype), whole, "decoding")


VIDEO = [["video", 5], ["image", 3, "video", 4]]


def test_the_rank_of_videos_on_video_llava():
    model = tiny_families.tiny_family("video-llava")
    batch = tiny_families.family_batch(model, "video-llava", VIDEO)
    contract.check(model, SparseVLM.paper_video(), batch)
    with sparsify(model, SparseVLM.paper_video()) as run, torch.no_grad():
        model(**batch.inputs)
    assert all(
        len(step.keep) <= raters
        for steps, raters in zip(run.trace.samples, run.stats.raters, strict=True)
        for step in steps
    )


def test_the_rank_of_videos_on_qwen():
    model = tiny_rotary.model("qwen25")
    rows = [[("video", 3, 2, 3), 6], [2, ("image", 2, 3), 3, ("video", 2, 3, 2), 5], [20]]
    batch = tiny_rotary.batch("qwen25", rows, model.dtype)
    contract.check(model, replace(SparseVLM.paper_video(), positions="keep"), batch)
    for method in (
        SparseVLM.paper_video(),
        PyramidDrop.paper(270),
        VScan.paper(64),
        TOPS.paper(64),
    ):
        with pytest.raises(UnsupportedError, match="positions='renumber' is not supported"):
            sparsify(model, method)


@pytest.mark.parametrize("method", ["pyramiddrop", "vscan", "tops"])
def test_videos_keep_the_contract(method):
    model = tiny_rotary.model("qwen25")
    rows = [[("video", 3, 2, 3), 6], [2, ("image", 2, 3), 3, ("video", 2, 3, 2), 5], [20]]
    contract.check(model, RECEIVED[method], tiny_rotary.batch("qwen25", rows, model.dtype))
