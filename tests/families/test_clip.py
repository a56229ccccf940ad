"""The tower that is made of transformers' CLIP: against CLIP itself; what it refuses."""

import copy

import pytest
import torch
from torch import nn
from transformers import CLIPVisionModel

from sparsight import sparsify
from sparsight.errors import InputError, UnsupportedError
from sparsight.families.clip import PARTS, make_clip_tower
from sparsight.methods import EADP, CDPruner
from tests.support import tiny, tiny_clip, tiny_processor
from tests.support.cases import tiny_model
from tests.support.reference_attention import cosine

ROOM = tiny_clip.POSITIONS - 2
IDS = (5, 6, 7, 40, 41, 2, 42, 43, 8)  # nine tokens, one of them special
SAID = "what color is w40 w41 w42 w43 the"


def segments(text):
    """A text's segments with start and end, each as long as it is, and filled up to all."""
    words = tiny_clip.tokenizer()(text, add_special_tokens=False)["input_ids"]
    cut = [words[first : first + ROOM] for first in range(0, len(words), ROOM)]
    return [torch.tensor([[tiny_clip.START, *part, tiny_clip.END]]) for part in cut or [[]]]


def embed(ids):
    """What CLIP itself makes of one segment, (P,)."""
    with torch.no_grad():
        output = tiny_clip.model().get_text_features(input_ids=ids)
    return getattr(output, "pooler_output", output)[0]


def test_text_is_clip_s_own():
    made = tiny_clip.tower().text(IDS)
    wanted = torch.stack([embed(ids) for ids in segments(SAID)])
    assert len(wanted) == 2
    torch.testing.assert_close(made, wanted)


def test_a_text_of_marks_alone_is_an_empty_sentence():
    torch.testing.assert_close(tiny_clip.tower().text((2, 2)), embed(segments("")[0])[None])
    assert tiny_clip.tower().words((2,)).shape == (1, tiny_clip.POSITIONS, 24)


def test_words_are_those_of_all_positions():
    made, model = tiny_clip.tower().words(IDS), tiny_clip.model()
    assert made.shape == (2, tiny_clip.POSITIONS, 24)
    for own, ids in zip(made, segments(SAID), strict=True):
        filled = torch.nn.functional.pad(
            ids, (0, tiny_clip.POSITIONS - ids.shape[1]), value=tiny_clip.END
        )
        with torch.no_grad():
            whole = model.text_projection(model.text_model(input_ids=filled).last_hidden_state)[0]
            short = model.text_projection(model.text_model(input_ids=ids).last_hidden_state)[0]
        torch.testing.assert_close(own, whole)
        torch.testing.assert_close(own[: ids.shape[1]], short)
        torch.testing.assert_close(own[ids.shape[1] - 1], embed(ids))  # the end is the sentence


def test_image_features_are_those_that_clip_gives_its_class_token():
    model = tiny_clip.model()
    pixels = torch.randn(2, 3, tiny.SIDE, tiny.SIDE, dtype=torch.float64)
    with torch.no_grad():
        hidden = model.vision_model(pixels).last_hidden_state  # (2, 37, D)
        output = model.get_image_features(pixel_values=pixels)
    wanted = getattr(output, "pooler_output", output)
    made = tiny_clip.tower().image(hidden)
    assert made.shape == (2, 37, 24)
    torch.testing.assert_close(made[:, 0], wanted)


def test_relevance_in_the_engine():
    model, batch = tiny_model("sdpa"), tiny.batch([["image", 5], ["image", 9], ["image", 5]])
    with torch.no_grad(), sparsify(model, CDPruner(0.4, **clip())) as run:
        model(**batch.inputs)
    vision = model.model.vision_tower(batch.inputs["pixel_values"], output_hidden_states=True)
    patches = vision.hidden_states[-2][:, 1:].detach()
    decode = tiny_processor.tokenizer().decode
    for row, words in enumerate((5, 9, 5)):
        text = decode(batch.inputs["input_ids"][row, -words:], skip_special_tokens=True)
        sentences = [embed(ids) for ids in segments(text)]
        norm, projection = tiny_clip.model().vision_model.post_layernorm, tiny_clip.model()
        points = projection.visual_projection(norm(patches[row])).detach()
        rated = []
        for point in points:
            rated.append(-sum(cosine(point, one) for one in sentences) / len(sentences))
        low, high = min(rated), max(rated)
        wanted = torch.tensor([(value - low + 1e-6) / (high - low) for value in rated])
        score = run.trace.samples[row][0].score
        torch.testing.assert_close(score, wanted.double(), rtol=1e-4, atol=1e-5)


def clip(**changes):
    return {"relevance": "clip", "tower": tiny_clip.tower(**changes)}


@pytest.mark.parametrize("kind", [CDPruner, EADP])
def test_a_tower_of_another_dtype_will_do(kind):
    model, inputs = tiny_model("sdpa"), tiny.batch([["image", 5], ["image", 9]]).inputs
    kept = []
    for dtype in (torch.float64, torch.float32):
        with torch.no_grad(), sparsify(model, kind(0.4, **clip(dtype=dtype))) as run:
            model(**inputs)
        kept.append([sites[0].keep.tolist() for sites in run.trace.samples])
    assert kept[0] == kept[1]


def test_a_tower_names_itself_and_shows_no_address():
    tower = tiny_clip.tower()
    assert repr(tower) == "ClipTower(encoder=('clip_vision_model', 32), name='CLIPModel')"
    assert "tower=ClipTower(encoder=" in repr(CDPruner(0.4, **clip()))
    named = copy.deepcopy(tiny_clip.model())
    named.name_or_path = "openai/clip"
    made = make_clip_tower(named, tiny_clip.tokenizer(), tiny_processor.tokenizer())
    assert made.name == "openai/clip"


def test_gradients_are_not_followed():
    model, inputs = tiny_model("sdpa"), tiny.batch([["image", 5]]).inputs
    with sparsify(model, CDPruner(0.4, **clip())) as run:
        model(**inputs)
    assert not run.trace.samples[0][0].score.requires_grad


@pytest.mark.parametrize("path", PARTS)
def test_parts_that_moved_are_noticed(path):
    broken = copy.deepcopy(tiny_clip.model())
    parent, _, name = path.rpartition(".")
    delattr(broken.get_submodule(parent), name)
    with pytest.raises(UnsupportedError, match=rf"CLIPModel has no .*{path}.*tested with"):
        make_clip_tower(broken, tiny_clip.tokenizer(), tiny_processor.tokenizer())


def test_what_is_no_clip_is_refused():
    tokenizers = tiny_clip.tokenizer(), tiny_processor.tokenizer()
    vision = CLIPVisionModel(tiny_clip.model().config.vision_config)
    for other in (vision, nn.Linear(2, 2)):
        with pytest.raises(UnsupportedError, match=r"has no text_model.*CLIPModel; give one"):
            make_clip_tower(other, *tokenizers)
    training = copy.deepcopy(tiny_clip.model()).train()
    with pytest.raises(UnsupportedError, match=r"training mode; call eval\(\)"):
        make_clip_tower(training, *tokenizers)


def test_what_is_no_tokenizer_is_refused():
    model, own = tiny_clip.model(), tiny_processor.tokenizer()
    nameless = tiny_clip.tokenizer()
    nameless.pad_token = None
    with pytest.raises(InputError, match=r"has no pad_token_id; give a tokenizer"):
        make_clip_tower(model, nameless, own)
    with pytest.raises(InputError, match=r"str has no __call__, bos_token_id"):
        make_clip_tower(model, "openai/clip", own)
    with pytest.raises(InputError, match=r"LlavaProcessor|str"):
        make_clip_tower(model, tiny_clip.tokenizer(), "llava")


def test_features_of_another_width_are_refused():
    with pytest.raises(UnsupportedError, match="features of width 48 are given to CLIPModel"):
        tiny_clip.tower().image(torch.zeros(1, 4, 48))
