"""The prepared embedded model sees 576 visual tokens and answers rightly, due to its adapter."""

from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw

from sparsight.models import embedded

EXAMPLES = Path(__file__).parents[3] / "examples"
PROMPT = "<|im_start|>user\n<image>\n{}<|im_end|>\n<|im_start|>assistant\n"

pytestmark = pytest.mark.embedded


def messages(question, *images):
    pictures = [{"type": "image", "image": image} for image in images]
    return [{"role": "user", "content": [*pictures, {"type": "text", "text": question}]}]


def encoded(processor, *conversations):
    return processor.apply_chat_template(
        list(conversations),
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True},
    )


def answers(model, processor, *conversations):
    inputs = encoded(processor, *conversations)
    output = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    return processor.batch_decode(
        output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
    )


def picture(shape, color):
    """A shape on a light background, drawn the way easy-VQA draws."""
    image = Image.new("RGB", (64, 64), (235, 240, 245))
    draw, box = ImageDraw.Draw(image), (20, 22, 44, 46)
    if shape == "circle":
        draw.ellipse(box, fill=color)
    elif shape == "rectangle":
        draw.rectangle((16, 24, 48, 44), fill=color)
    else:
        draw.polygon([(32, 20), (18, 46), (46, 46)], fill=color)
    return image


def test_one_image_is_576_visual_tokens(prepared):
    model, processor = prepared
    inputs = encoded(processor, messages("what shape?", picture("circle", "red")))
    assert inputs["pixel_values"].shape == (1, 3, 336, 336)
    assert (inputs["input_ids"] == model.config.image_token_id).sum() == 576
    assert model.config.text_config.num_hidden_layers == 30


def test_the_prompt_is_the_one_of_training(prepared):
    _, processor = prepared
    text = processor.apply_chat_template(
        messages("what shape?", None), add_generation_prompt=True, tokenize=False
    )
    assert text == PROMPT.format("what shape?")


def test_turns_and_plain_strings_are_rendered(prepared):
    _, processor = prepared
    talk = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    text = processor.apply_chat_template(talk, tokenize=False)
    assert text == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nhello<|im_end|>\n"


def test_several_images_of_any_size_and_mode(prepared):
    model, processor = prepared
    images = picture("circle", "red"), Image.new("L", (500, 90)), Image.new("RGBA", (30, 800))
    inputs = encoded(processor, messages("what shape?", *images))
    assert inputs["pixel_values"].shape == (3, 3, 336, 336)
    assert (inputs["input_ids"] == model.config.image_token_id).sum() == 3 * 576


def test_unequal_prompts_are_padded_left(prepared):
    model, processor = prepared
    short = messages("what shape?", picture("circle", "red"))
    long = messages("what is the color of the triangle?", picture("triangle", "green"))
    inputs = encoded(processor, short, long)
    assert inputs["attention_mask"][:, -1].all()
    assert not inputs["attention_mask"][0, 0]
    assert answers(model, processor, short, long) == [
        answers(model, processor, one)[0] for one in (short, long)
    ]


CASES = [
    ("circle", "red", "what color is the shape?", "red"),
    ("circle", "red", "what shape is in the image?", "circle"),
    ("triangle", "blue", "what is the color of the shape?", "blue"),
    ("triangle", "blue", "what shape does the image contain?", "triangle"),
    ("rectangle", "black", "what is the black shape?", "rectangle"),
    (
        "rectangle",
        "black",
        "what color is the rectangle?",
        "black",
    ),  # answered "brown" at the time of writing
]


def test_it_answers_about_drawn_shapes(prepared):
    said = [
        answers(*prepared, messages(question, picture(shape, color)))
        for shape, color, question, _ in CASES
    ]
    right = sum(one == [answer] for one, (*_, answer) in zip(said, CASES, strict=True))
    assert right >= len(CASES) - 1, said


@pytest.mark.parametrize(
    ("name", "question", "answer"),
    [
        ("triangle", "what color is the shape?", "blue"),
        ("circle", "what is the red shape?", "circle"),
        ("rectangle", "what shape does the image contain?", "rectangle"),
        ("small-triangle", "what color is the triangle?", "green"),
        ("teal-circle", "what is the color of the circle?", "teal"),
    ],
)
def test_it_answers_about_the_examples(prepared, name, question, answer):
    with Image.open(EXAMPLES / f"{name}.png") as image:
        assert answers(*prepared, messages(question, image)) == [answer]


def test_the_answer_ends_by_itself(prepared):
    model, processor = prepared
    inputs = encoded(processor, messages("what shape is in the image?", picture("circle", "red")))
    output = model.generate(**inputs, max_new_tokens=8, do_sample=False)[
        0, inputs["input_ids"].shape[1] :
    ]
    assert output[-1] == processor.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert len(output) < 8


def test_the_adapter_makes_the_difference(prepared):
    model, processor = prepared
    plain, _ = embedded.load(adapter=False)
    inputs = encoded(processor, messages("what color is the shape?", picture("circle", "red")))
    with torch.inference_mode():
        tuned, untuned = (m(**inputs, logits_to_keep=1).logits[0, -1] for m in (model, plain))
    red = processor.tokenizer("red")["input_ids"][0]
    assert tuned.argmax() == red
    assert untuned.argmax() != red


def test_the_output_layer_shares_the_embedding(prepared):
    model, processor = prepared
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert model.lm_head.weight.shape[0] == len(processor.tokenizer)
    assert not model.training
    assert {value.dtype for value in model.parameters()} == {torch.float32}
