"""Mini-Gemini against a recording of its authors' modules, and against a slow reference."""

import pytest
import torch
from PIL import Image
from transformers import AutoConfig, AutoModelForImageTextToText

from sparsight.errors import ModelError
from sparsight.models.mini_gemini import prepare
from tests.support import mgm_folder, reference_mini_gemini
from tests.support.mgm_folder import HIGH, SIDE, WORDS

BOUND = 1e-5  # relative to the largest value


def off(own, other):
    """How far two tensors are apart, relative to the largest value."""
    assert own.shape == other.shape
    return float((own.double() - other.double()).abs().max() / other.abs().max())


@pytest.fixture(scope="module")
def recorded():
    return mgm_folder.recording()[0]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recorded")
    made, said = mgm_folder.load(
        mgm_folder.write(folder / "in"), folder / "out", attn_implementation="eager"
    )
    assert not said["missing_keys"]
    assert not said["unexpected_keys"]
    return made


def inputs(recorded, name="input_ids", images=1):
    """A recorded prompt, with 36 placeholders for each picture."""
    ids = []
    for token in recorded[name].tolist():
        ids += [WORDS] * 36 if token == -200 else [token]
    return {
        "input_ids": torch.tensor([ids]),
        "attention_mask": torch.ones(1, len(ids), dtype=torch.int64),
        "pixel_values": recorded["pixel_values"][:images],
        "high_res_pixel_values": recorded["pixel_values_aux"][:images],
    }


def test_pixels_are_the_authors(recorded):
    for number in (0, 1):
        image = Image.fromarray(recorded[f"image.{number}"].numpy())
        low, high = prepare(image, SIDE, HIGH)
        assert torch.equal(low, recorded["pixel_values"][number])
        assert torch.equal(high, recorded["pixel_values_aux"][number])


@torch.no_grad()
def test_encoders_are_the_authors(model, recorded):
    tower = model.model.vision_tower
    output = tower.clip(recorded["pixel_values"], output_hidden_states=True)
    assert off(output.hidden_states[-2][:, 1:], recorded["clip_features"]) < BOUND
    assert off(tower.high_res(recorded["pixel_values_aux"]), recorded["aux_features"]) < BOUND


@torch.no_grad()
def test_visual_tokens_are_the_authors(model, recorded):
    given = (recorded["pixel_values"], recorded["pixel_values_aux"])
    tokens = torch.stack(model.get_image_features(*given).pooler_output)
    assert off(tokens, recorded["visual_tokens"]) < BOUND
    plain = model.model.multi_modal_projector(recorded["clip_features"])
    assert off(plain, recorded["visual_tokens"]) > 1e-2, "without mining it is no other model"


@torch.no_grad()
def test_logits_and_answers_are_the_authors(model, recorded):
    given = inputs(recorded)
    assert off(model(**given).logits[0, :, :WORDS], recorded["logits"]) < BOUND
    said = model.generate(**given, max_new_tokens=8)[0, given["input_ids"].shape[1] :]
    assert torch.equal(said, recorded["greedy"])
    two = inputs(recorded, "two.input_ids", images=2)
    assert off(model(**two).logits[0, :, :WORDS], recorded["two.logits"]) < BOUND


# ---- the other settings: tiles, overview, text models


SETTINGS = {
    "plain": ("llama", 1, False, 0),
    "tiles": ("llama", 2, False, 2),
    "tiles and overview": ("llama", 2, True, 0),
    "gemma": ("gemma", 1, False, 3),
    "mixtral": ("mixtral", 1, False, 2),
    "mixtral, tiles and overview": ("mixtral", 2, True, 0),
    "mistral": ("mistral", 1, False, 0),
}


@pytest.fixture(scope="module", params=SETTINGS)
def setting(request, tmp_path_factory):
    """A converted model, its folder, and how it was written."""
    kind, grid, whole, shards = SETTINGS[request.param]
    folder = tmp_path_factory.mktemp("setting")
    source = mgm_folder.write(folder / "in", kind, grid=grid, whole=whole, shards=shards)
    model, said = mgm_folder.load(source, folder / "out")
    assert not said["missing_keys"]
    assert not said["unexpected_keys"]
    weights = mgm_folder.make_weights(kind, folder / "again")
    return model, folder, weights, (kind, grid, whole)


def pictures(grid, whole, recorded):
    """Both inputs of the two recorded pictures."""
    images = [Image.fromarray(recorded[f"image.{number}"].numpy()) for number in (0, 1)]
    made = [prepare(image, SIDE, HIGH * grid, grid, whole) for image in images]
    return torch.stack([low for low, _ in made]), torch.stack([high for _, high in made])


@torch.no_grad()
def test_visual_tokens_equal_the_reference(setting, recorded):
    model, _, weights, (_, grid, whole) = setting
    low, high = pictures(grid, whole, recorded)
    assert low.ndim == (4 if grid == 1 else 5)
    own = model.get_image_features(low, high).pooler_output
    sizes = mgm_folder.recording()[1]["vision"]
    for number, tokens in enumerate(own):
        tiles = low[number].view(-1, *low.shape[-3:])
        want = reference_mini_gemini.see(
            tiles, high[number], weights, sizes, grid=grid, whole=whole
        )
        assert tokens.shape == (36 * (grid**2 + whole), 64)
        assert off(tokens, want) < BOUND


@torch.no_grad()
def test_logits_equal_those_of_the_text_model(setting, recorded):
    """Words and pictures are scaled alike in Gemma, as its authors' decoder scales both."""
    model, _, _, (kind, grid, whole) = setting
    if kind == "llama":
        return  # its logits are recorded
    low, high = pictures(grid, whole, recorded)
    tokens = model.get_image_features(low[:1], high[:1]).pooler_output[0]
    text = mgm_folder.text_model(kind)
    before, after = torch.tensor([[1, 20, 21]]), torch.tensor([[30, 31, 32, 33]])
    scale = 8.0 if kind == "gemma" else 1.0  # the square root of the width
    table = text.get_input_embeddings().weight
    words = [table[ids] * scale for ids in (before, after)]
    embeds = torch.cat([words[0], tokens[None] * scale, words[1]], dim=1)
    want = text(inputs_embeds=embeds).logits
    ids = torch.cat([before, torch.full((1, len(tokens)), WORDS), after], dim=1)
    got = model(input_ids=ids, pixel_values=low[:1], high_res_pixel_values=high[:1]).logits[
        ..., :WORDS
    ]
    assert off(got, want) < BOUND


@torch.no_grad()
def test_saved_and_loaded_again(setting, recorded, tmp_path):
    model, folder, _, (_, grid, whole) = setting
    model.save_pretrained(tmp_path)
    again, said = AutoModelForImageTextToText.from_pretrained(tmp_path, output_loading_info=True)
    assert not said["missing_keys"]
    assert not said["unexpected_keys"]
    config = AutoConfig.from_pretrained(folder / "out")
    assert config.to_dict()["high_res_config"] == again.config.to_dict()["high_res_config"]
    assert (again.config.image_grid, again.config.image_global) == (grid, whole)
    low, high = pictures(grid, whole, recorded)
    own, other = (each.eval().get_image_features(low, high) for each in (model, again))
    assert all(map(torch.equal, own.pooler_output, other.pooler_output))
    states = model.state_dict(), again.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_new_word_is_never_said(setting):
    model, folder, _, _ = setting
    config = model.generation_config
    table = model.get_input_embeddings().weight
    assert len(table) == 128
    assert config.suppress_tokens == list(range(WORDS, 128))
    assert not table[WORDS:].any()
    assert model.config.image_token_id == WORDS
    assert sorted(path.suffix for path in (folder / "out").iterdir())[-1] == ".safetensors"


@pytest.mark.parametrize("kind", ["mgm", "mini_gemini_gemma"])
def test_an_unconverted_folder_is_refused(kind, tmp_path):
    source = mgm_folder.write(tmp_path / "in", model_type=kind)
    for auto in (AutoConfig, AutoModelForImageTextToText):
        with pytest.raises(ModelError, match="run `sparsight convert-mgm IN OUT` first"):
            auto.from_pretrained(source)
