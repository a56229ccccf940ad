"""Prompts to the letter, images padded to a square, and published rows."""

from dataclasses import replace

import pytest
from PIL import Image

from sparsight import SparseVLM
from sparsight.evaluate.tasks import TASKS
from sparsight.evaluate.tasks.prompts import (
    SYSTEM,
    SYSTEM_VIDEO,
    find_padding,
    find_wording,
    pad_to_square,
    write_messages,
)
from sparsight.evaluate.tasks.published import add_published, find_rows, is_model, read_published
from sparsight.evaluate.tasks.task import Item
from sparsight.inputs import render
from sparsight.videos import Clip, Frame
from tests.support import tiny_processor

# what checkpoints of LLaVA-1.5 for transformers have, in our words: a system's turn as it is, roles
# in capitals, placeholders first, a space behind every text
VICUNA = (
    "{%- for message in messages -%}"
    "{%- if message['role'] != 'system' -%}{{- message['role'].upper() + ': ' -}}{%- endif -%}"
    "{%- for item in message['content'] -%}"
    "{%- if item['type'] == 'image' -%}{{- '<image>\n' -}}{%- endif -%}"
    "{%- if item['type'] == 'video' -%}{{- '<video>\n' -}}{%- endif -%}{%- endfor -%}"
    "{%- for item in message['content'] -%}"
    "{%- if item['type'] == 'text' -%}{{- item['text'] + ' ' -}}{%- endif -%}{%- endfor -%}"
    "{%- endfor -%}{{- 'ASSISTANT:' -}}"
)


def test_prompts_of_llava():
    processor = tiny_processor.processor(VICUNA)
    wording = find_wording(processor, video=False)
    assert wording.name == "LLaVA-1.5's"
    item = Item("1", "What is it?\nAnswer the question using a single word or phrase.", "cat")
    messages = write_messages(item, [Image.new("RGB", (4, 4))], wording)
    assert render(processor, messages) == (
        "A chat between a curious user and an artificial intelligence assistant. The assistant "
        "gives helpful, detailed, and polite answers to the user's questions. USER: <image>\n"
        "What is it?\nAnswer the question using a single word or phrase. ASSISTANT:"
    )


def test_prompts_of_videos_say_human():
    processor = tiny_processor.processor(VICUNA)
    wording = find_wording(processor, video=True)
    assert wording.system == SYSTEM_VIDEO != SYSTEM
    assert "human's questions" in SYSTEM_VIDEO
    assert not wording.as_video
    processor.video_processor = object()
    assert find_wording(processor, video=True).as_video
    image = Image.new("RGB", (4, 4))
    clip = Clip("a.mp4", 8, 0.8, tuple(Frame(at, at / 10, image) for at in range(8)))
    shown = write_messages(Item("1", "why", ""), [clip], find_wording(processor, video=True))
    first = shown[-1]["content"][0]
    assert (first["type"], first["video"]) == ("video", [image] * 8)
    shown = write_messages(Item("1", "why", ""), [clip], wording)
    assert [part["type"] for part in shown[-1]["content"]] == ["image"] * 8 + ["text"]


@pytest.mark.parametrize(
    "template",
    [tiny_processor.TEMPLATE, VICUNA.replace("'ASSISTANT:'", "' ASSISTANT:'"), "{{ 1 / 0 }}"],
)
def test_other_templates_keep_their_own_prompt(template):
    wording = find_wording(tiny_processor.processor(template), video=False)
    assert wording.system is None
    messages = write_messages(Item("1", "why", ""), [], wording)
    assert [message["role"] for message in messages] == ["user"]


@pytest.mark.parametrize(("size", "at"), [((40, 20), (0, 10)), ((20, 41), (10, 0))])
def test_images_are_padded_to_a_square(size, at):
    padded = pad_to_square(Image.new("RGB", size, "red"), (122, 116, 104))
    assert padded.size == (max(size),) * 2
    assert padded.getpixel((0, 0) if at != (0, 0) else (1, 1)) == (122, 116, 104)
    assert padded.getpixel(at) == (255, 0, 0)
    square = Image.new("RGB", (8, 8))
    assert pad_to_square(square, (1, 2, 3)) is square


def test_only_cropping_processors_pad():
    processor = tiny_processor.processor()
    assert find_padding(processor) == (122, 117, 104)  # 0.48, 0.46, 0.41 of 255, cut
    processor.image_processor.do_center_crop = False
    assert find_padding(processor) is None


def test_published_rows_are_whole():
    published = read_published()
    seen = set()
    for row in published["rows"]:
        key = (row["source"], row["task"], row["method"], row["budget"])
        assert key not in seen
        seen.add(key)
        assert row["source"] in published["sources"]
        assert row["task"] in TASKS
    for source in published["sources"].values():
        assert source["title"]
        assert source["differs"]
    assert set(published["notes"]) <= set(TASKS)


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("llava-hf/llava-1.5-7b-hf", True),
        ("models/llava-v1.5-7b/", True),
        ("llava-hf/llava-1.5-13b-hf", False),
        ("embedded", False),
    ],
)
def test_models_are_known_by_name(name, same):
    assert is_model("llava-1.5-7b", name) is same


def test_rows_say_what_differs():
    task = TASKS["gqa"]
    whole, settings = (12578, 12578), repr(SparseVLM.paper(192))
    rows = find_rows(task, "sparsevlm@192", "llava-hf/llava-1.5-7b-hf", whole, settings)
    assert rows[0]["source"] == "paper-v4"
    assert rows[0]["ratio"] == rows[0]["value"] / rows[0]["dense"]
    assert rows[0]["differs"] == []
    own = repr(SparseVLM(retain=192))
    assert find_rows(task, "sparsevlm@192", "embedded", (5, 12578), own)[0]["differs"] == [
        "model llava-1.5-7b",
        "12578 questions",
        "the authors' settings (--paper)",
    ]
    assert find_rows(task, "sparsevlm@100", "embedded", whole) == []
    assert find_rows(task, "sparsevlm:tau=0.5@192", "embedded", whole) == []
    for model, source in (("Qwen2-VL-7B-Instruct", "paper-v4-qwen"), ("other", "paper-v4")):
        assert find_rows(TASKS["textvqa"], "dense", model, (5000, 5000))[0]["source"] == source
    judged = find_rows(TASKS["mmvet"], "dense", "llava-1.5-7b", (218, 218))
    assert judged[0]["differs"] == ["judge not named"]


def test_rows_know_the_settings_that_they_are_of():
    without = replace(SparseVLM.paper(96), recycle=False)
    named = "sparsevlm:recycle=false@96", "llava-1.5-7b", (12578, 12578)
    (row,) = find_rows(TASKS["gqa"], *named, repr(without))
    assert (row["source"], row["differs"]) == ("paper-v4-recycling", [])
    assert row["dense"] == 61.9
    (row,) = find_rows(TASKS["gqa"], *named, repr(replace(without, kept=None)))
    assert row["differs"] == ["the authors' settings (--paper)"]
    video = find_rows(
        TASKS["msvd"], "sparsevlm@194", "Video-LLaVA-7B", (1000, 1000), repr(SparseVLM.paper(194))
    )
    assert video[0]["differs"] == ["judge not named"]
    (row,) = find_rows(
        TASKS["pope"], "sparsevlm@600", "Qwen2-VL-7B", (8910, 8910), repr(SparseVLM(retain=600))
    )
    assert row["differs"] == ["sites and counts, which were not published"]


@pytest.mark.parametrize(("interval", "outside"), [([0.9, 1.0], False), ([0.97, 1.0], True)])
def test_ratios_outside_the_interval_are_marked(interval, outside):
    result = {"n": 12578, "interval": interval}
    row = {"key": "sparsevlm@192", "tasks": {"gqa": result}}
    sizes = {"gqa": (12578, 12578)}
    methods = {row["key"]: repr(SparseVLM.paper(192))}
    add_published([row], TASKS, "llava-1.5-7b", sizes, methods)
    assert result["outside"] is outside
    add_published([row], TASKS, "embedded", sizes, methods)
    assert result["outside"] is None
