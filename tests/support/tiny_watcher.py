"""A tiny Video-LLaVA with a stand-in for its processor, whose real one needs torchvision."""

import itertools

import numpy as np
import torch

from tests.support import tiny, tiny_processor
from tests.support.tiny_families import tiny_family
from tests.support.tiny_kinds import SMALL, VIDEO

TOKENS = 16  # visual tokens of an image; a frame has one for its class as well
PLACES = {"image": "<image>", "video": "<video>"}


class Processor:
    """Writes and tokenizes what it is given; keeps the videos and the settings of the last call."""

    chat_template = "a stand-in"
    image_token, video_token = PLACES.values()
    video_processor = object()
    image_processor = tiny_processor.processor().image_processor

    def __init__(self):
        self.tokenizer = tiny_processor.tokenizer()
        self.videos, self.settings = [], {}

    def apply_chat_template(self, messages, tokenize=False, processor_kwargs=None, **_):
        if not tokenize:
            return self.write(messages)
        self.settings = processor_kwargs
        shown = {kind: [] for kind in PLACES}
        ids = [1]
        for part in itertools.chain.from_iterable(turn["content"] for turn in messages):
            kind = part["type"]
            if kind == "text":
                ids += self.tokenizer(part["text"])["input_ids"]
                continue
            shown[kind].append(part[kind])
            count = (TOKENS + 1) * len(part[kind]) if kind == "video" else TOKENS
            ids += [VIDEO if kind == "video" else tiny.IMAGE] * count
        self.videos = shown["video"]
        pixels = {"input_ids": torch.tensor([ids])}
        pixels["attention_mask"] = torch.ones_like(pixels["input_ids"])
        if shown["video"]:
            clips = [torch.stack(list(map(scale, video))) for video in shown["video"]]
            pixels["pixel_values_videos"] = torch.stack(clips)
        if shown["image"]:
            pixels["pixel_values_images"] = torch.stack([scale(image) for image in shown["image"]])
        return pixels

    def write(self, messages):
        parts = [part for message in messages for part in message["content"]]
        return " ".join(PLACES.get(part["type"]) or part["text"] for part in parts)

    def __call__(self, images, text, return_tensors):
        del text, return_tensors
        return {"pixel_values_images": torch.stack([scale(image) for image in images])}

    def decode(self, ids, skip_special_tokens):
        return self.tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)


def scale(image):
    """Return an image as pixels of a square; nothing is cut off."""
    pixels = np.asarray(image.resize((SMALL, SMALL)), dtype=np.float64) / 255
    return torch.from_numpy(pixels).permute(2, 0, 1)


def load():
    return tiny_family("video-llava"), Processor()
