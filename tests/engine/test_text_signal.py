"""The text behind the images: its token ids, which cost no wait, and prompts that have none."""

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch

from sparsight import Method, sparsify
from sparsight.engine.support import describe, supports
from sparsight.errors import MethodError, PromptError, UnsupportedError
from sparsight.methods import EADP, CDPruner, DivPrune, HiPrune, MMTok
from sparsight.methods.view import Selection
from tests.support import tiny, tiny_clip, tiny_rotary, tiny_towers
from tests.support.cases import tiny_model
from tests.support.watch import WatchGroups

ROWS = [["image", 5], ["image", 2, "image", 6], [12], ["image", 9]]
WORDS = (5, 6, 9)  # behind the last image of each sample with images
BY_TEXT = {
    "cdpruner": CDPruner(retain=0.4),
    "clip": CDPruner(retain=0.4, relevance="clip", tower=tiny_clip.tower()),
    "mmtok": MMTok(retain=0.4),
    "eadp": EADP(retain=0.4),
}


@dataclass(frozen=True)
class Plain(Method):
    """Reads the text alone, at the input of any model."""

    signals: ClassVar[frozenset[str]] = frozenset({"text"})

    sites: tuple[int, ...] | None = (0,)

    def select(self, view):
        SEEN.append(view.text)
        return Selection(torch.arange(view.count).expand(len(view.hidden), -1))


SEEN: list = []


@pytest.fixture(autouse=True)
def _forget():
    SEEN.clear()


def list_ids():
    """Ids of all texts seen, group after group."""
    return sorted(ids for text in SEEN for ids in text.ids)


@pytest.mark.parametrize("left", [True, False], ids=["left", "right"])
def test_ids_are_those_of_the_text_behind_the_last_image(left):
    batch = tiny.batch(ROWS, left=left)
    with torch.no_grad(), sparsify(tiny_model("sdpa"), Plain(retain=0.5)):
        tiny_model("sdpa")(**batch.inputs)
    samples = zip([batch.alone[row] for row in (0, 1, 3)], WORDS, strict=True)
    wanted = sorted(tuple(own["input_ids"][0, -words:].tolist()) for own, words in samples)
    assert list_ids() == wanted
    for text in SEEN:
        lengths = [len(ids) for ids in text.ids]
        if text.present is None:
            assert set(lengths) == {text.embeds.shape[1]}
        else:
            assert text.present.sum(dim=1).tolist() == lengths


def test_the_mean_leaves_filler_rows_out():
    batch = tiny.batch([["image", 5], ["image", 9]])
    with torch.no_grad(), sparsify(tiny_model("sdpa"), Plain(retain=0.5)):
        tiny_model("sdpa")(**batch.inputs)
    embed = tiny_model("sdpa").get_input_embeddings()
    (text,) = SEEN
    for row, words in enumerate((5, 9)):
        wanted = embed(batch.inputs["input_ids"][row, -words:]).mean(dim=0, keepdim=True)
        torch.testing.assert_close(text.mean()[row], wanted)


def test_copies_and_drafted_tokens():
    model, batch = tiny_model("sdpa"), tiny.batch([["image", 5]])
    wanted = tuple(batch.inputs["input_ids"][0, -5:].tolist())
    with sparsify(model, Plain(retain=0.5)):
        model.generate(**batch.inputs, max_new_tokens=3, num_beams=3, do_sample=False)
        beams = len(SEEN[-1].ids)
        model.generate(**batch.inputs, max_new_tokens=3, prompt_lookup_num_tokens=2)
    assert beams in {1, 3}  # from some release on, images are encoded before rows are copied
    assert {ids for text in SEEN for ids in text.ids} == {wanted}


def test_groups_of_one_keep_their_ids():
    model, seen = tiny_model("sdpa"), []

    @dataclass(frozen=True)
    class Alone(Plain):
        batched: ClassVar[bool] = False

        def select(self, view):
            seen.append(view.text)
            return Selection(torch.arange(view.count))

    batch = tiny.batch([["image", 5], ["image", 9]])
    with torch.no_grad(), sparsify(model, Alone(retain=0.5)):
        model(**batch.inputs)
    assert [len(text.ids) for text in seen] == [1, 1]
    assert [len(text.ids[0]) for text in seen] == [5, 9]
    assert [text.embeds.shape[0] for text in seen] == [5, 9]


@pytest.mark.parametrize("name", BY_TEXT)
def test_no_wait_is_added(name):
    model, inputs = tiny_model("sdpa"), tiny.batch(ROWS).inputs
    reads = []
    for method in (DivPrune(retain=0.4), HiPrune(retain=0.4), BY_TEXT[name]):
        with torch.no_grad(), sparsify(model, method) as run:
            model(**inputs)
        reads.append(run.stats.host_reads)
    assert len(set(reads)) == 1


@pytest.mark.parametrize("name", BY_TEXT)
@pytest.mark.parametrize("row", [[5, "image"], [5, "image", 2, "image"]], ids=["one", "two"])
def test_prompts_without_words_behind_are_refused_before_images_are_encoded(name, row, monkeypatch):
    model = tiny_model("sdpa")
    inputs = tiny.batch([row, ["image", 5]]).inputs
    monkeypatch.setattr(model.model.vision_tower, "forward", lambda *_, **__: pytest.fail("ran"))
    with torch.no_grad(), sparsify(model, BY_TEXT[name]):
        for call in (model, model.generate):
            with pytest.raises(PromptError, match="sample 0: no text follows the last image"):
                call(**inputs)


def test_what_reads_no_text_needs_none():
    model, inputs = tiny_model("sdpa"), tiny.batch([[5, "image"], ["image", 5]]).inputs
    method = CDPruner(retain=0.4, relevance="none", centred=True)
    assert not method.reads_question
    with torch.no_grad(), sparsify(model, method) as run:
        model(**inputs)
    assert run.stats.schedules[0].kept == (14,)
    with torch.no_grad(), sparsify(model, CDPruner(retain=1.0)):  # nothing is pruned
        model(**inputs)


def test_text_models_show_no_ids():
    model = tiny_model("sdpa").model.language_model
    marks = torch.zeros(1, 20, dtype=torch.bool)
    marks[:, 2:12] = True
    embeds = torch.randn(1, 20, 64, dtype=torch.float64)
    with torch.no_grad(), sparsify(model, Plain(retain=4), visual_mask=marks) as run:
        model(inputs_embeds=embeds)
        (text,) = SEEN
        assert torch.equal(text.embeds, embeds[:, 12:])
        with pytest.raises(MethodError, match="token ids are read, and a text model"):
            text.read_ids()
        run.visual_mask = marks.roll(8, dims=1)
        with pytest.raises(PromptError, match="no text follows the last image"):
            model(inputs_embeds=embeds)
    clip = CDPruner(4, relevance="clip", tower=tiny_clip.tower())
    for method in (clip, MMTok(4, skip=(7,))):
        with pytest.raises(UnsupportedError, match="what its image encoder computes is not read"):
            sparsify(model, method, visual_mask=marks)


def test_methods_that_need_no_question_say_so():
    assert WatchGroups(retain=3).reads_question
    assert not DivPrune(retain=3).reads_question
    assert CDPruner(retain=3).reads_question


@pytest.mark.parametrize("kind", ["qwen2", "qwen25", "qwen3", "siglip", "width"])
def test_towers_of_another_encoder_are_refused_by_name(kind):
    tower, model = tiny_clip.tower(48 if kind == "width" else 32), tiny_model("sdpa")
    if kind == "siglip":
        model = tiny_towers.llava("siglip")
    elif kind != "width":
        model = tiny_rotary.model(kind)
    message = r"encoder is a \w+ of width 32, and the tower takes features of a clip_vision_model"
    for made in (CDPruner, EADP):
        method = made(0.4, relevance="clip", tower=tower)
        with pytest.raises(UnsupportedError, match=message):
            sparsify(model, method)
        by_config = supports(describe(model.config), method)
        assert any("the tower takes" in refusal.message for refusal in by_config)
    own = replace(tower, encoder=None)  # a caller's own tower may take anything
    with sparsify(model, CDPruner(0.4, relevance="clip", tower=own)):
        pass
