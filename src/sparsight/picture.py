"""The overlay picture: which visual tokens lived through each site, painted over what the model saw. Pillow only.

A pure function of images, sites and words. One row per image, one panel per site behind the input: kept tokens stand
clear, clustered ones are tinted, cluster centres are framed, dropped ones are dark.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt

import torch
from PIL import Image, ImageDraw, ImageFont

from sparsight.errors import UnsupportedError
from sparsight.trace import SiteTrace

PANEL = 360  # pixels, about: a panel is a whole number of pixels per token
MARGIN, GAP = 32, 20
TITLE, SMALL, LARGE = 17, 15, 22  # font sizes
INK, GREY, EDGE, PAPER = (24, 28, 36), (104, 112, 124), (208, 212, 218), (255, 255, 255)
DARK, TINT, FRAME = (14, 17, 24), (140, 60, 245), (255, 232, 74)
DARKNESS, TINT_STRENGTH = 0.84, 0.55

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class Words:
    """What is written on the picture.

    Args:
        question: asked.
        answers: label and answer, one line each.
    """

    question: str
    answers: tuple[tuple[str, str], ...]


def grid_side(visual_tokens: int, images: int) -> int:
    """Return the side of the square grid that each image's visual tokens form.

    Raises: UnsupportedError: they form none.
    """
    each, rest = divmod(visual_tokens, images) if images else (0, 1)
    side = isqrt(each)
    if rest or not each or side * side != each:
        raise UnsupportedError(
            f"{visual_tokens} visual tokens of {images} images are no square grid per image; "
            "the picture is made for LLaVA-1.5's layout. Ask without --picture."
        )
    return side


def seen_images(
    pixel_values: torch.Tensor, mean: Sequence[float], std: Sequence[float], size: int = PANEL
) -> list[Image.Image]:
    """Turn what the model saw back into pictures, resized and cropped as they were.

    Args:
        pixel_values: (I, 3, H, W), normalised.
        mean: of each channel, in 0..1.
        std: of each channel.
        size: pixels of the longer side of what comes back.
    """
    shape = (1, -1, 1, 1)
    values = pixel_values.detach().cpu().float() * torch.tensor(std).view(shape) + torch.tensor(mean).view(shape)
    pixels = (values.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    images = [Image.fromarray(image) for image in pixels]
    factors = [size / max(image.size) for image in images]
    return [
        image.resize((round(image.width * by), round(image.height * by)), Image.Resampling.LANCZOS)
        for image, by in zip(images, factors, strict=True)
    ]


def draw(images: Sequence[Image.Image], sites: Sequence[SiteTrace], side: int, words: Words) -> Image.Image:
    """Draw the picture.

    Args:
        images: what the model saw, in the order of the prompt; square.
        sites: one sample's trace.
        side: visual tokens per row and column of each image.
        words: question and answers.
    """
    cell = max(2, round(PANEL / side))
    panel = cell * side
    columns = len(sites) + 1
    width = 2 * MARGIN + max(columns * panel + (columns - 1) * GAP, 3 * PANEL)
    top = _heading(None, width, words)
    row_height = TITLE + SMALL + 18 + panel + GAP
    height = top + row_height * len(images) + SMALL + 2 * MARGIN - GAP
    canvas = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(canvas)
    _heading(pen, width, words)
    for row, image in enumerate(images):
        seen = image.convert("RGB").resize((panel, panel), Image.Resampling.LANCZOS)
        name = f"image {row + 1}" if len(images) > 1 else "what the model sees"
        cells = [(name, f"{side * side} visual tokens", seen)]
        cells += [(*_titles(site, row, side), paint(seen, site, row, side)) for site in sites]
        for column, (title, line, picture) in enumerate(cells):
            x, y = MARGIN + column * (panel + GAP), top + row * row_height
            pen.text((x, y), title, INK, _font(TITLE))
            pen.text((x, y + TITLE + 6), line, GREY, _font(SMALL))
            y += TITLE + SMALL + 18
            pen.rectangle((x - 1, y - 1, x + panel, y + panel), outline=EDGE)
            canvas.paste(picture, (x, y))
    _legend(canvas, height - MARGIN - SMALL - 4)
    return canvas


def paint(seen: Image.Image, site: SiteTrace, image: int, side: int) -> Image.Image:
    """Paint one site over one image.

    Args:
        seen: square, its side a multiple of `side`.
        site: what happened there; its tokens are named across all images of the sample.
        image: which image of the sample.
        side: visual tokens per row and column.
    """
    kept, pool, centres = (_own(tokens, image, side) for tokens in (site.keep, site.pool, site.centres))
    cell = seen.width // side
    dark = Image.blend(seen, Image.new("RGB", seen.size, DARK), DARKNESS)
    tinted = Image.blend(seen, Image.new("RGB", seen.size, TINT), TINT_STRENGTH)
    panel = dark.copy()
    for source, tokens in ((seen, kept), (tinted, pool)):
        mask = Image.new("1", (side, side))
        for token in tokens:
            mask.putpixel((token % side, token // side), 1)
        panel.paste(source, mask=mask.resize(seen.size, Image.Resampling.NEAREST))
    pen = ImageDraw.Draw(panel)
    for token in centres:
        x, y = token % side * cell, token // side * cell
        pen.rectangle((x, y, x + cell - 1, y + cell - 1), outline=FRAME, width=min(max(1, cell // 5), 4))
    return panel


def _own(tokens: torch.Tensor, image: int, side: int) -> list[int]:
    """Return the tokens of one image, named from 0."""
    start, end = image * side * side, (image + 1) * side * side
    return [token - start for token in tokens.tolist() if start <= token < end]


def _titles(site: SiteTrace, image: int, side: int) -> tuple[str, str]:
    present, kept, centres = (len(_own(t, image, side)) for t in (site.present, site.keep, site.centres))
    recycled = f" + {centres} recycled" if centres else ""
    return f"before layer {site.site}", f"{kept} kept{recycled} of {present}"


def _heading(pen: ImageDraw.ImageDraw | None, width: int, words: Words) -> int:
    """Write question and answers, if there is a pen, and return where the panels begin."""
    y, room = MARGIN, width - 2 * MARGIN
    large, font = _font(LARGE), _font(TITLE)
    for line in _wrap(words.question, large, room):
        if pen is not None:
            pen.text((MARGIN, y), line, INK, large)
        y += LARGE + 8
    y += 4
    indent = max((round(font.getlength(label)) for label, _ in words.answers), default=0) + 16
    for label, answer in words.answers:
        for index, line in enumerate(_wrap(answer, font, room - indent)):
            if pen is not None:
                pen.text((MARGIN, y), label if index == 0 else "", GREY, font)
                pen.text((MARGIN + indent, y), line, INK, font)
            y += TITLE + 8
    return y + GAP


def _wrap(text: str, font: Font, room: int, most: int = 6) -> list[str]:
    """Break text into at most `most` lines that fit, by words and, where a word is too long, by letters."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= room:
            lines[-1] = longer
            continue
        lines.append("")
        for letter in word:
            if font.getlength(lines[-1] + letter) > room:
                lines.append("")
            lines[-1] += letter
    lines = [line for line in lines if line] or [""]
    return lines if len(lines) <= most else [*lines[: most - 1], lines[most - 1] + " ..."]


def _legend(canvas: Image.Image, y: int) -> None:
    pen, font, box, x = ImageDraw.Draw(canvas), _font(SMALL), SMALL + 3, MARGIN
    mixed = tuple(round(150 + (t - 150) * TINT_STRENGTH) for t in TINT)
    entries = (
        ("kept", PAPER, GREY),
        ("recycled: merged into the centre of its cluster", mixed, mixed),
        ("centre of a cluster", mixed, FRAME),
        ("dropped, here or before", DARK, DARK),
    )
    for text, fill, outline in entries:
        pen.rectangle((x, y, x + box, y + box), fill=fill, outline=outline, width=3 if outline == FRAME else 1)
        pen.text((x + box + 9, y + 1), text, INK, font)
        x += box + 9 + round(font.getlength(text)) + 30


def _font(size: int) -> Font:
    return ImageFont.load_default(size)
