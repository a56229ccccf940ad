"""PixelPrune on drawn pages: what is left out can be rebuilt from what stays."""

import pytest
import torch
from PIL import Image, ImageDraw
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from sparsight import sparsify
from sparsight.families.encoders import COLOURS
from sparsight.methods import PixelPrune
from tests.support import tiny_rotary
from tests.support.recordings import read

SIDE = 28  # px of a visual token


def draw_page(seed, rows=9, columns=7, noise=0):
    """A page with lines of boxes for words, a ruled table and a grey picture."""
    random = torch.Generator().manual_seed(seed)

    def number(low, high):
        return int(torch.randint(low, high, (), generator=random))

    page = Image.new("RGB", (columns * SIDE, rows * SIDE), (255, 255, 255))
    pen = ImageDraw.Draw(page)
    for top in range(20, rows * SIDE // 2, 14):
        left = 20
        while left < columns * SIDE - 50 and number(0, 9):
            width = number(8, 40)
            pen.rectangle((left, top, left + width, top + 6), fill=(number(0, 90),) * 3)
            left += width + 6
    pen.rectangle((56, rows * SIDE // 2, 140, rows * SIDE - 28), fill=(200, 210, 220))
    pen.line((0, rows * SIDE - 10, columns * SIDE, rows * SIDE - 10), fill=(0, 0, 0))
    pixels = torch.tensor(list(page.convert("RGB").tobytes()), dtype=torch.float64)
    pixels = pixels.view(rows * SIDE, columns * SIDE, 3) / 255
    if noise:
        pixels += (torch.rand(pixels.shape, generator=random) - 0.5) * noise
    return pixels


def tokens_of(pixels):
    """A page as (1, V, P), its tokens in raster order, and its grid."""
    grid = pixels.shape[0] // SIDE, pixels.shape[1] // SIDE
    cells = pixels.unflatten(1, (grid[1], SIDE)).unflatten(0, (grid[0], SIDE)).transpose(1, 2)
    return cells.reshape(1, grid[0] * grid[1], -1), grid


def rebuild(tokens, kept, grid, alike):
    """All tokens (V, P) from those that stay, one after the other."""
    known = torch.zeros_like(tokens)
    for index, stays in enumerate(kept.tolist()):
        row, column = divmod(index, grid[1])
        if stays:
            known[index] = tokens[index]
            continue
        left, upper = known[index - 1], known[index - grid[1]]
        corner = known[index - grid[1] - 1]
        from_upper = column == 0 or (row and alike(corner, left) and not alike(corner, upper))
        known[index] = upper if from_upper else left
    return known


@pytest.mark.parametrize("seed", range(4))
def test_a_page_is_rebuilt_from_what_stays(seed):
    tokens, grid = tokens_of(draw_page(seed))
    kept = PixelPrune().mark_patches(tokens, grid)[0]
    assert torch.equal(rebuild(tokens[0], kept, grid, torch.equal), tokens[0])
    assert bool(kept[0])
    assert int(kept.sum()) < 0.8 * len(kept)


@pytest.mark.parametrize("tau", [0.06, 0.1, 0.4])
@pytest.mark.parametrize("seed", range(2))
def test_a_scanned_page_is_rebuilt_within_the_tolerance(seed, tau):
    tokens, grid = tokens_of(draw_page(seed, noise=0.05))
    kept = PixelPrune(tau=tau).mark_patches(tokens, grid)[0]

    def alike(x, y):
        return bool((x - y).abs().max() <= tau)

    rebuilt = rebuild(tokens[0], kept, grid, alike)
    assert float((rebuilt - tokens[0]).abs().max()) <= tau
    assert int(kept.sum()) < len(kept) == int(PixelPrune().mark_patches(tokens, grid).sum())


def test_wider_margins_cost_nothing():
    page = draw_page(0)
    wide = torch.ones(page.shape[0], page.shape[1] + 4 * SIDE, 3, dtype=page.dtype)
    wide[:, : page.shape[1]] = page
    counts = [int(PixelPrune().mark_patches(*tokens_of(own)).sum()) for own in (page, wide)]
    # the line at the foot ends at the margin, which needs one token more to say so
    assert counts[0] <= counts[1] <= counts[0] + page.shape[0] // SIDE


@pytest.mark.parametrize("name", ["pixelprune-20x28-exact", "pixelprune-20x28-tau"])
def test_recordings_through_the_engine(name):
    settings, tensors = read(name)
    config = tiny_rotary.qwen("qwen2")
    config.vision_config.patch_size, config.vision_config.temporal_patch_size = 2, 1
    torch.manual_seed(0)
    model = tiny_rotary.transformers.Qwen2VLForConditionalGeneration(config).double().eval()
    rows, columns = settings["grid"]
    mean, deviation = (torch.tensor(part)[:, None].double() for part in COLOURS["qwen2_vl"])
    pixels = tensors["pixels"].double().unflatten(1, (3, -1))
    made = tiny_rotary.batch("qwen2", [[("image", rows, columns), 5]], torch.float64).inputs
    made["pixel_values"] = ((pixels - mean) / deviation).flatten(1)
    method = PixelPrune(tau=settings["tau"], metric=settings["metric"])
    with torch.no_grad(), sparsify(model, method) as run:
        model(**made)
    assert torch.equal(run.trace.samples[0][0].keep, tensors["kept"])


def test_a_page_through_a_processor():
    """The processor's patches are those whose colours are compared, and white stays out."""
    page = draw_page(1, rows=8, columns=8)
    image = Image.fromarray((page * 255).round().to(torch.uint8).numpy())
    process = Qwen2VLImageProcessorPil(min_pixels=28 * 28, max_pixels=28 * 28 * 400)
    given = process(images=[image], return_tensors="pt")
    frames, height, width = given["image_grid_thw"][0].tolist()
    grid = height // 2, width // 2
    pixels = given["pixel_values"].view(frames, grid[0] * grid[1], -1)
    kept = PixelPrune().mark_patches(pixels, grid)[0]
    assert grid == (8, 8)
    want = PixelPrune().mark_patches(*tokens_of(page))[0]
    assert torch.equal(kept, want)
    for family in ("qwen2_vl", "qwen2_5_vl"):
        mean, deviation = COLOURS[family]
        assert tuple(process.image_mean) == mean
        assert tuple(process.image_std) == deviation
