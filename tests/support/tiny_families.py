"""Tiny random models of every family of one-dimensional positions, and their inputs."""

import functools

import torch
import transformers as hf

from tests.support import tiny
from tests.support.footprint import share
from tests.support.tiny import IMAGE, PAD, VOCAB
from tests.support.tiny_kinds import BREAK, FIRST, KINDS, SIDE, VIDEO


@functools.cache
def tiny_family(name, attention="sdpa", dtype=torch.float64):
    """A tiny model, made once for all tests."""
    config = KINDS[name].config()
    torch.manual_seed(0)
    kind = hf.AutoModelForImageTextToText._model_mapping[type(config)]
    kernels = {
        "text_config": attention,
        "vision_config": "eager",
    }  # some image encoders know no other
    model = kind._from_config(config, attn_implementation=kernels, experts_implementation="eager")
    return share(tiny.ready(model, dtype), f"tiny_family({name!r}, {attention!r}, {dtype})")


def tokens_of(model, name, given):
    """Placeholders and row ends that the processor would write for one image or video."""
    video = "pixel_values_videos" in given
    read = model.model.get_video_features if video else model.model.get_image_features
    pixels = next(key for key in given if key.startswith("pixel_values"))
    others = {key: value for key, value in given.items() if key != pixels}
    features = read(given[pixels], **others, return_dict=True).pooler_output
    parts = [features] if isinstance(features, torch.Tensor) else features
    count, row = sum(part.numel() for part in parts) // 64, KINDS[name].row
    count += (
        tiny.OLD and video and name == "llava-onevision"
    )  # one that ends the video used to be added later
    if not row:
        return [VIDEO if video else IMAGE] * count
    return ([IMAGE] * row + [BREAK]) * (count // row)


@torch.no_grad()
def family_batch(model, name, rows, seed=0):
    """Build a batch padded on the left.

    Args:
        rows: for each sample, a list of "image", "video" and numbers of random words, in order.
    """
    random = torch.Generator().manual_seed(seed)
    kind = KINDS[name]
    ids = []
    given = []
    number = 0
    for row in rows:
        tokens, own = [1], []
        for part in row:
            if isinstance(part, int):
                tokens += torch.randint(FIRST, VOCAB - 5, (part,), generator=random).tolist()
                continue
            made = getattr(kind, part)(random, number)
            own.append(
                {key: x.to(model.dtype) if x.is_floating_point() else x for key, x in made.items()}
            )
            tokens += tokens_of(model, name, own[-1])
            number += 1
        ids.append(torch.tensor(tokens))
        given.append(own)
    length = max(map(len, ids))
    padded = torch.stack(
        [torch.nn.functional.pad(row, (length - len(row), 0), value=PAD) for row in ids]
    )
    mask = torch.stack([(torch.arange(length) >= length - len(row)).long() for row in ids])
    batch = tiny.Batch({"input_ids": padded, "attention_mask": mask, **join(kind, given)})
    for row, own in zip(ids, given, strict=True):
        batch.alone.append(
            {
                "input_ids": row[None],
                "attention_mask": torch.ones_like(row)[None],
                **join(kind, [own]),
            }
        )
    return batch


def join(kind, given):
    """Put the arguments of all samples' images and videos together."""
    if kind.nested:
        most = max(map(len, given))
        empty = torch.zeros(1, 1, 3, SIDE, SIDE, dtype=torch.float64)
        rows = []
        for own in given:
            rows.append([image["pixel_values"] for image in own] + [empty] * (most - len(own)))
        found = next((image["pixel_values"].dtype for own in given for image in own), None)
        return (
            {"pixel_values": torch.cat([torch.cat(row, dim=1) for row in rows]).to(found)}
            if most
            else {}
        )
    together = {}
    for part in (part for own in given for part in own):
        for key, value in part.items():
            together.setdefault(key, []).append(value)
    return {key: torch.cat(values) for key, values in together.items()}
