"""Draws scenes. The same scene gives the same pixels with the same Pillow."""

import functools

import numpy as np
from PIL import Image, ImageDraw

from sparsight.evaluate.scenes.catalogue import COLOURS, background_image, thing_image
from sparsight.evaluate.scenes.compose import Clip
from sparsight.evaluate.scenes.scene import SIZE, Item, Paper, Scene, Sign
from sparsight.evaluate.scenes.writing import font_of, row_origins

CLIP_SIZE = 168  # px, both sides of a frame
_PAPER = (250, 248, 240)
_INK = (30, 30, 36)
_SMALL = 44  # px of things that are drawn from pictures of half the size; none of the first edition
_BRIGHT = 140  # plates brighter than this carry black text


def render(scene: Scene, size: int = SIZE) -> Image.Image:
    """Draw a scene.

    Args:
        scene: what to draw.
        size: side in px of the picture.
    Returns: RGB, size x size.
    """
    picture = _background(scene)
    for item in scene.items:
        _paste(picture, item)
    for sign in scene.signs:
        _write(picture, sign)
    for paper in scene.papers:
        _list(picture, paper)
    return picture if size == SIZE else picture.resize((size, size), Image.Resampling.LANCZOS)


def contrast(scene: Scene, item: Item) -> float:
    """Return how much a thing differs from the photograph behind it: mean of its pixels, 0..255."""
    image, (left, top) = placed(item)
    pixels = np.asarray(image, dtype=np.float32)
    behind = _background(scene).crop((left, top, left + image.width, top + image.height))
    change = np.abs(pixels[..., :3] - np.asarray(behind, dtype=np.float32)).mean(axis=-1)
    return float(change[pixels[..., 3] > 128].mean())


def render_clip(clip: Clip) -> list[Image.Image]:
    """Draw a clip's frames, each RGB, CLIP_SIZE x CLIP_SIZE."""
    drawn = {frame: render(frame, CLIP_SIZE) for frame in set(clip.frames)}
    return [drawn[frame] for frame in clip.frames]


@functools.lru_cache(maxsize=64)  # a clip shows its things in eight frames
def placed(item: Item) -> tuple[Image.Image, tuple[int, int]]:
    """Return the picture of a thing as its scene shows it, RGBA, and its left top corner in px."""
    small = item.box.right - item.box.left <= _SMALL
    image = _halved(item.thing, item.colour) if small else _picture(item.thing, item.colour)
    if item.mirrored:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    image = image.rotate(item.turned, Image.Resampling.BICUBIC, expand=True)
    width, height = item.box.right - item.box.left, item.box.bottom - item.box.top
    scale = min(width / image.width, height / image.height)
    image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    corner = (
        item.box.left + (width - image.width) // 2,
        item.box.top + (height - image.height) // 2,
    )
    return image, corner


def _background(scene: Scene) -> Image.Image:
    left, top = scene.corner
    picture = background_image(scene.background).crop((left, top, left + SIZE, top + SIZE))
    return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if scene.mirrored else picture


def _paste(picture: Image.Image, item: Item) -> None:
    image, corner = placed(item)
    picture.paste(image, corner, image)


def _picture(thing: str, colour: str | None) -> Image.Image:
    return thing_image(thing) if colour is None else _painted(thing, colour)


@functools.cache
def _halved(thing: str, colour: str | None) -> Image.Image:
    """Return a thing's picture at half its size, which is four times as quick to turn."""
    return _picture(thing, colour).reduce(2)


@functools.cache
def _painted(thing: str, colour: str) -> Image.Image:
    """Return a thing in shades of one colour, from dark over the colour itself to nearly white."""
    pixels = np.asarray(thing_image(thing), dtype=np.float32)
    light = pixels[..., :3] @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    low, high = np.percentile(light[pixels[..., 3] > 128], (3, 97))
    light = np.clip((light - low) / max(high - low, 1.0), 0.0, 1.0)[..., None]
    base = np.array(COLOURS[colour], dtype=np.float32)
    shade = base * (0.45 + 0.65 * light) + 60.0 * np.clip(light - 0.85, 0.0, 1.0)
    rgba = np.concatenate([np.clip(shade, 0, 255), pixels[..., 3:]], axis=-1)
    return Image.fromarray(rgba.astype(np.uint8), "RGBA")


def _write(picture: Image.Image, sign: Sign) -> None:
    draw = ImageDraw.Draw(picture)
    red, green, blue = COLOURS[sign.colour]
    box = (sign.box.left, sign.box.top, sign.box.right - 1, sign.box.bottom - 1)
    draw.rounded_rectangle(box, radius=sign.font // 5, fill=(red, green, blue))
    ink = "black" if 0.299 * red + 0.587 * green + 0.114 * blue > _BRIGHT else "white"
    draw.text(sign.box.centre, sign.text, fill=ink, font=font_of(sign.font), anchor="mm")


def _list(picture: Image.Image, paper: Paper) -> None:
    draw = ImageDraw.Draw(picture)
    draw.rectangle(
        (paper.box.left, paper.box.top, paper.box.right - 1, paper.box.bottom - 1), fill=_PAPER
    )
    font = font_of(paper.font)
    for row, (label, value) in enumerate(paper.rows):
        left, right = row_origins(paper, row)
        draw.text(left, label, fill=_INK, font=font, anchor="ls")
        draw.text(right, value, fill=_INK, font=font, anchor="rs")
