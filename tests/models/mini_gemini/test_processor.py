"""Mini-Gemini's processor: templates of all text models, pieces of text, pictures and refusals."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor

from sparsight import sparsify
from sparsight.errors import InputError
from sparsight.inputs import prompt_inputs, user_message
from sparsight.methods import SparseVLM
from sparsight.models.mini_gemini import MiniGeminiProcessor, convert, prepare
from sparsight.models.mini_gemini.images import MEAN, STD
from sparsight.models.mini_gemini.templates import TEMPLATES, choose_template
from sparsight.picture.seen import find_seen_boxes
from tests.support import mgm_folder

PICTURE = Image.fromarray(np.arange(40 * 30 * 3, dtype=np.uint8).reshape(30, 40, 3))
LLAVA = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions."
)
HELPFUL = (
    "You are a helpful language and vision assistant. You are able to understand the visual "
    "content that the user provides, and assist the user with a variety of tasks using natural "
    "language."
)
HEAD = "<|start_header_id|>{}<|end_header_id|>\n\n"
# two questions with an answer between them, as the authors' conversation.py writes them
WRITTEN = {
    "vicuna": f"{LLAVA} USER: <image>\nA? ASSISTANT: B.</s>USER: C? ASSISTANT:",
    "mistral": "[INST] <image>\nA? [/INST] B. </s><s>[INST] C? [/INST]",
    "gemma": (
        "<start_of_turn>user\n<image>\nA?<end_of_turn>\n<start_of_turn>model\nB.<end_of_turn>\n"
        "<eos><start_of_turn>user\nC?<end_of_turn>\n<start_of_turn>model\n"
    ),
    "chatml": (
        "<|im_start|>system\nAnswer the questions.<|im_end|><|im_start|>user\n<image>\nA?<|im_end|>"
        "<|im_start|>assistant\nB.<|im_end|><|im_start|>user\nC?<|im_end|><|im_start|>assistant\n"
    ),
    "llama_3": (
        f"{HEAD.format('system')}{HELPFUL}<|eot_id|>{HEAD.format('user')}<image>\nA?<|eot_id|>"
        f"{HEAD.format('system')}B.<|eot_id|>{HEAD.format('user')}C?<|eot_id|>"
        f"{HEAD.format('system')}"
    ),
}
TALK = [
    user_message("A?", [PICTURE]),
    {"role": "assistant", "content": [{"type": "text", "text": "B."}]},
    user_message("C?", []),
]


@pytest.fixture(scope="module", params=[(1, False), (2, True)], ids=["plain", "hd"])
def made(request, tmp_path_factory):
    """A folder with a processor, loaded."""
    grid, whole = request.param
    folder = tmp_path_factory.mktemp("processor")
    source = mgm_folder.write(folder / "in", grid=grid, whole=whole)
    mgm_folder.write_tokenizer(source)
    model, _ = mgm_folder.load(source, folder / "out")
    return AutoProcessor.from_pretrained(folder / "out"), model, folder / "out", (grid, whole)


def test_templates_write_what_the_authors_do(made):
    processor = made[0]
    assert WRITTEN.keys() == TEMPLATES.keys()
    for name, text in WRITTEN.items():
        processor.chat_template = TEMPLATES[name]
        assert processor.apply_chat_template(TALK, add_generation_prompt=True) == text, name
    processor.chat_template = TEMPLATES["vicuna"]


@pytest.mark.parametrize("name", TEMPLATES)
def test_several_pictures_and_system_turns(name, made):
    processor = made[0]
    processor.chat_template = TEMPLATES[name]
    two = processor.apply_chat_template([user_message("A?", [PICTURE, PICTURE])])
    assert "Image 1:<image>\nImage 2:<image>\nA?" in two
    system = [{"role": "system", "content": "Be brief."}, user_message("A?", [PICTURE])]
    if name in ("mistral", "gemma"):
        with pytest.raises(Exception, match="knows no system turn"):
            processor.apply_chat_template(system)
    else:
        text = processor.apply_chat_template(system)
        assert text.count("Be brief.") == 1
        assert LLAVA not in text
        assert HELPFUL not in text
    processor.chat_template = TEMPLATES["vicuna"]


class Vocabulary:
    """A tokenizer that knows some words."""

    def __init__(self, *words):
        self.words = {word: number for number, word in enumerate(words)}

    def get_vocab(self):
        return self.words


def test_templates_are_chosen_by_text_model_and_words():
    assert choose_template("llama", Vocabulary("a")) == "vicuna"
    assert choose_template("llama", Vocabulary("<|eot_id|>")) == "llama_3"
    assert choose_template("llama", Vocabulary("<|im_end|>")) == "chatml"
    assert choose_template("gemma", Vocabulary("<|im_end|>")) == "gemma"
    assert choose_template("mixtral", Vocabulary()) == "mistral"


def test_text_is_read_piece_by_piece(made):
    processor, model, _, _ = made
    count, image = processor.image_seq_length, model.config.image_token_id
    ids = processor(text="what <image> color <image>", images=[PICTURE, [PICTURE]])["input_ids"][0]
    assert ids == [1, 5] + [image] * count + [6] + [image] * count
    bare = processor(text="<image> color", images=PICTURE, add_special_tokens=False)
    assert bare["input_ids"][0] == [image] * count + [6]
    assert processor.tokenizer.padding_side == "left"
    assert count == model.config.image_seq_length


def test_inputs_of_a_batch_are_padded_on_the_left(made):
    processor, model, _, (grid, whole) = made
    given = processor(
        text=["<image> what", "what color is"], images=PICTURE, padding=True, return_tensors="pt"
    )
    low, high = prepare(PICTURE, 24, 96 * grid, grid, whole)
    assert torch.equal(given["pixel_values"], low[None])
    assert torch.equal(given["high_res_pixel_values"], high[None])
    assert given["attention_mask"].sum(-1).tolist() == [processor.image_seq_length + 2, 4]
    assert given["input_ids"][1, -4:].tolist() == [1, 5, 6, 7]
    assert int(given["input_ids"][1, 0]) == processor.tokenizer.pad_token_id
    assert model(**given).logits.isfinite().all()


def test_a_prompt_is_built_and_pruned(made):
    processor, model, _, _ = made
    given = prompt_inputs(model, processor, [user_message("what color ?", [PICTURE])])
    with sparsify(model, SparseVLM(retain=0.5)) as run:
        model.generate(**given, max_new_tokens=2)
    assert 0 < run.stats.mean_visual_tokens < 0.6 * processor.image_seq_length


def test_saved_and_loaded_again(made, tmp_path):
    processor = made[0]
    processor.save_pretrained(tmp_path)
    again = AutoProcessor.from_pretrained(tmp_path)
    assert isinstance(again, MiniGeminiProcessor)
    assert again.image_processor.to_dict() == processor.image_processor.to_dict()
    assert again.chat_template == processor.chat_template
    given = {"text": "<image> what", "images": PICTURE}
    one, two = processor(**given), again(**given)
    assert one["input_ids"] == two["input_ids"]
    assert torch.equal(one["high_res_pixel_values"], two["high_res_pixel_values"])


def test_what_each_tile_shows(made):
    processor, _, _, (grid, _) = made
    boxes = find_seen_boxes(processor, (96, 96))
    if grid == 1:
        assert len(boxes) == 1
        return
    assert boxes[0] == pytest.approx((0, 0, 1, 1), abs=0.05), "the overview has the first tokens"
    assert boxes[1] == pytest.approx((0, 0, 0.5, 0.5), abs=0.05)
    assert boxes[4] == pytest.approx((0.5, 0.5, 1, 1), abs=0.05)


def test_pixels_of_padding_and_colours():
    black = Image.new("RGB", (8, 4))
    low, high = prepare(black, 8, 8)
    assert torch.equal(low, high)
    colour = torch.tensor([int(mean * 255) / 255 for mean in MEAN])
    padded = (colour - torch.tensor(MEAN)) / torch.tensor(STD)
    assert torch.allclose(high[:, 0, 0], padded, atol=0.3)  # bicubic, beside black
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    white = (1 - torch.tensor(MEAN)) / torch.tensor(STD)
    assert torch.allclose(prepare(clear, 4, 4)[1][:, 2, 2], white, atol=1e-5)


def test_refusals(made):
    processor = made[0]
    one = {"text": "<image> what", "images": PICTURE}
    for given, words in (
        ({**one, "text": "what"}, "0 times '<image>', and 1 pictures"),
        ({**one, "images": None}, "1 times '<image>', and 0 pictures"),
        ({**one, "images": "photo.png"}, "the image is of type str"),
        ({**one, "videos": [PICTURE]}, "no videos"),
        ({"images": PICTURE}, "give text"),
        ({**one, "truncation": True}, "truncation: Mini-Gemini's processor knows no such option"),
        ({**one, "images_kwargs": {"size": 3}}, "images_kwargs: .*sizes of its pictures are fixed"),
        ({**one, "images": Image.new("RGB", (9000, 10))}, "makes a square of 81000000 px"),
    ):
        with pytest.raises(InputError, match=words):
            processor(**given)
    with pytest.raises(InputError, match="there is no picture"):
        processor.image_processor([])
    with pytest.raises(InputError, match="return_tensors='np'"):
        processor.image_processor(PICTURE, return_tensors="np")


def test_a_tokenizer_that_lacks_the_word_is_refused(made, tmp_path):
    processor, _, folder, _ = made
    source = folder.parent / "in"
    bare = AutoProcessor.from_pretrained(folder).tokenizer
    assert bare.convert_tokens_to_ids("<image>") == 96
    mgm_folder.write_tokenizer(tmp_path)
    plain = type(bare).from_pretrained(tmp_path)
    with pytest.raises(InputError, match="convert-mgm"):
        MiniGeminiProcessor(processor.image_processor, plain)
    made_again = convert(source, tmp_path / "out", source / "clip", chat="gemma")
    assert made_again.template == "gemma"
