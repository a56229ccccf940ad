"""The layout of visual tokens: a bright patch is noticed by the token that lies there."""

import functools

import pytest
import torch
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import (
    LlavaNextImageProcessorPil,
)
from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import (
    LlavaOnevisionImageProcessorPil,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from sparsight import sparsify
from sparsight.counts.layout import Block, Layout, grids_layout, layout_of
from sparsight.families import families, family_of
from sparsight.methods import Random, Uniform
from sparsight.methods.parts.cells import partition
from tests.support import bright, tiny, tiny_rotary
from tests.support.bright import cell_of, deaf, encode, noticing, painted, targets
from tests.support.tiny_families import family_batch, tiny_family
from tests.support.tiny_kinds import KINDS, PINPOINTS, SMALL

QUERIES = ("aria", "idefics2")
PROCESSED = (
    "llava-next",
    "llava-next-video",
    "llava-onevision",
)  # their images come from a processor
UNKNOWN = ("video-llama3",)
PLAIN = [name for name in KINDS if name not in (*QUERIES, *PROCESSED, *UNKNOWN)]
VIDEOS = [name for name, kind in KINDS.items() if kind.video]
ROTARY = {"gemma3": 32, "paligemma": 20, "paligemma2": 20}  # pixels a side


@functools.cache
def quiet(name):
    """A model whose patches know of themselves alone."""
    if name in KINDS:
        return deaf(tiny_family(name))
    return deaf(tiny_rotary.model(name, "eager" if name == "paligemma2" else "sdpa"))


def lit(given, index, size, cell, key="pixel_values"):
    """Return the pixels with one cell of one image lit; `size` is rows and columns of cells."""
    pixels = given[key].clone()
    flat = pixels.view(-1, *pixels.shape[-3:])
    height, width = (
        (int(n) for n in given["image_sizes"][index]) if "image_sizes" in given else flat.shape[-2:]
    )
    left, top, right, bottom = cell_of(size, *cell)
    flat[
        index,
        :,
        round(top * height) : round(bottom * height),
        round(left * width) : round(right * width),
    ] += 40
    return {**given, key: pixels}


def check(layout, grid, cell, seen):
    """Check that the token at the cell notices most, and a token that is no patch nothing."""
    token = int(grid.tokens[seen[grid.tokens].argmax()])
    assert (int(layout.row[token]), int(layout.column[token])) == cell
    assert not seen[layout.others].any()


@pytest.mark.parametrize("name", [*PLAIN, *ROTARY])
def test_tokens_of_images_that_are_given_as_pixels(name):
    model, random = quiet(name), torch.Generator().manual_seed(1)
    if name in ROTARY:
        given = {"pixel_values": torch.randn(1, 3, ROTARY[name], ROTARY[name], generator=random)}
    else:
        made = [
            KINDS[name].image(random, number) for number in range(1 if KINDS[name].nested else 2)
        ]
        given = {}
        for key in made[0]:
            given[key] = torch.cat([own[key] for own in made])
    layout = bright.layout_of(model, given, len(encode(model, given)))
    pixels = next(key for key in given if key.startswith("pixel_values"))
    assert layout.image_count == len(layout.grids) == given[pixels].flatten(0, -4).shape[0]
    for index, grid in enumerate(layout.grids):
        assert min(grid.size) > 1
        for cell in targets(grid.size):
            tile = index
            if name == "mini-gemini-hd":  # five tiles an image, whose last one has the first tokens
                tile = index - index % 5 + (index - 1) % 5
            seen = noticing(model, given, lit(given, tile, grid.size, cell, pixels))
            assert int(seen.argmax()) in grid.tokens
            check(layout, grid, cell, seen)


@pytest.mark.parametrize("name", VIDEOS)
def test_tokens_of_videos(name):
    model, key = quiet(name), "pixel_values_videos"
    made = [KINDS[name].video(torch.Generator().manual_seed(seed), 0) for seed in (1, 2)]
    given = {key: torch.cat([own[key] for own in made])}
    each = [len(encode(model, own)) for own in made]
    layout = bright.layout_of(model, given, sum(each), video=True)
    frames = given[key].shape[1]
    assert [(grid.image, grid.frame) for grid in layout.grids] == [
        (i, f) for i in (0, 1) for f in range(frames)
    ]
    for index in (0, frames - 1):
        for cell in targets(layout.grids[index].size):
            light = lit(given, index, layout.grids[index].size, cell, key)
            dark, bright_one = ({key: clip[key][:1]} for clip in (given, light))
            seen = torch.cat([noticing(model, dark, bright_one), torch.zeros(each[1])])
            assert int(seen.argmax()) in layout.grids[index].tokens
            check(layout, layout.grids[index], cell, seen)


def inner(place):
    """Return the middle of a place; padding of part of a patch shifts it by less than one row."""
    left, top, right, bottom = place
    return (
        (3 * left + right) / 4,
        (3 * top + bottom) / 4,
        (left + 3 * right) / 4,
        (top + 3 * bottom) / 4,
    )


def next_processor(name):
    kind = (
        LlavaOnevisionImageProcessorPil if name == "llava-onevision" else LlavaNextImageProcessorPil
    )
    size = {"height": SMALL, "width": SMALL}
    side = (
        {"size": size}
        if name == "llava-onevision"
        else {"size": {"shortest_edge": SMALL}, "crop_size": size}
    )
    return kind(image_grid_pinpoints=PINPOINTS, **side)


@pytest.mark.parametrize("size", [(48, 20), (20, 48), (40, 40), (30, 36)])
@pytest.mark.parametrize("name", PROCESSED)
def test_tokens_of_an_overview_and_tiles(name, size):
    model, process = quiet(name), next_processor(name)
    given = {
        key: torch.as_tensor(value)
        for key, value in process(painted(size, None), return_tensors="pt").items()
    }
    given = {key: given[key] for key in ("pixel_values", "image_sizes")}
    layout = bright.layout_of(model, given, len(encode(model, given)))
    assert [(grid.image, grid.part) for grid in layout.grids] == [(0, 0), (0, 1)]
    overview, fine = layout.grids
    assert len(layout.others) == fine.size[0], "a row end for each row"
    for grid in (overview, fine):
        for cell in targets(grid.size):
            spot = process(painted(size, inner(cell_of(grid.size, *cell))), return_tensors="pt")[
                "pixel_values"
            ]
            seen = noticing(model, given, {**given, "pixel_values": spot})
            check(layout, grid, cell, seen)


def test_a_fine_grid_that_is_too_large_is_scaled_down():
    model, given = quiet("llava-onevision"), KINDS["llava-onevision"].image(torch.Generator(), 0)
    given["image_sizes"] = torch.tensor([[2 * SMALL, 2 * SMALL]])
    given["pixel_values"] = given["pixel_values"][:, :1].expand(-1, 5, -1, -1, -1)
    model.config.vision_aspect_ratio = "anyres_max_2"
    try:
        count = len(encode(model, {**given}))
        layout = bright.layout_of(model, given, count)
    finally:
        model.config.vision_aspect_ratio = "anyres_max_9"
    assert layout.sizes == ((4, 4), (5, 5))


def test_several_images_of_a_onevision_prompt_are_not_tiled():
    model = quiet("llava-onevision")
    given = {
        "pixel_values": torch.randn(2, 1, 3, SMALL, SMALL),
        "image_sizes": torch.tensor([[16, 32], [24, 16]]),
    }
    given["batch_num_images"] = torch.tensor([2])
    layout = bright.layout_of(model, given, len(encode(model, given)))
    assert layout.sizes == ((4, 4), (4, 4))
    assert layout.others.tolist() == [16, 33]


@pytest.mark.parametrize("name", tiny_rotary.QWEN)
def test_tokens_of_images_of_any_size(name):
    model, size = quiet(name), (40, 24)
    temporal = {
        "patch_size": tiny_rotary.PATCH,
        "merge_size": tiny_rotary.MERGE,
        "temporal_patch_size": 2,
    }
    process = Qwen2VLImageProcessorPil(
        **temporal, size={"shortest_edge": 64, "longest_edge": 10**6}
    )
    given = dict(process([painted(size, None), painted((24, 32), None)], return_tensors="pt"))
    features = functools.partial(encode, model)
    layout = bright.layout_of(model, given, len(features(given)))
    assert layout.sizes == ((3, 5), (4, 3))
    for cell in targets((3, 5)):
        images = [painted(size, cell_of((3, 5), *cell)), painted((24, 32), None)]
        seen = noticing(model, given, dict(process(images, return_tensors="pt")))
        assert int(seen.argmax()) in layout.grids[0].tokens
        check(layout, layout.grids[0], cell, seen)


@pytest.mark.parametrize("name", [name for name in tiny_rotary.QWEN if name != "qwen2_sliding"])
def test_tokens_of_frames_of_any_size(name):
    """A video is its frames, two at a time, each cut as an image is."""
    model, process = quiet(name), Qwen2VLImageProcessorPil(
        patch_size=tiny_rotary.PATCH, merge_size=tiny_rotary.MERGE, temporal_patch_size=2,
        size={"shortest_edge": 64, "longest_edge": 10**6},
    )  # fmt: skip

    def clip(frame, cell):
        spots = [cell_of((2, 4), *cell) if f == frame else None for f in range(3)]
        patches = process([painted((32, 16), spot) for spot in spots], return_tensors="pt")[
            "pixel_values"
        ]
        return {"pixel_values_videos": patches, "video_grid_thw": torch.tensor([[3, 4, 8]])}

    dark = clip(None, (0, 0))
    layout = bright.layout_of(model, dark, len(encode(model, dark)), video=True)
    assert [(grid.image, grid.frame, grid.size) for grid in layout.grids] == [
        (0, f, (2, 4)) for f in range(3)
    ]
    for frame in range(3):
        for cell in targets((2, 4)):
            seen = noticing(model, dark, clip(frame, cell))
            assert int(seen.argmax()) in layout.grids[frame].tokens
            check(layout, layout.grids[frame], cell, seen)


def test_tiles_are_images_in_the_order_of_the_processor():
    """Each tile shows its part of the image; the last one shows the whole."""
    model = quiet("internvl")
    process = GotOcr2ImageProcessorPil(
        crop_to_patches=True, max_patches=2, size={"height": 32, "width": 32}
    )
    dark, light = (
        process(painted((64, 32), spot), return_tensors="pt")
        for spot in (None, cell_of((4, 8), 1, 6))
    )
    dark, light = ({"pixel_values": torch.as_tensor(own["pixel_values"])} for own in (dark, light))
    layout = bright.layout_of(model, dark, len(encode(model, dark)))
    assert layout.sizes == ((4, 4),) * 3
    seen = noticing(model, dark, light)
    assert not seen[layout.grids[0].tokens].any()
    check(layout, layout.grids[1], (1, 2), seen)
    check(layout, layout.grids[2], (1, 3), seen)


@pytest.mark.parametrize("name", QUERIES)
def test_learned_queries_lie_nowhere(name):
    model = tiny_family(name)
    inputs = family_batch(model, name, [["image", 2, "image", 3]]).inputs
    (layout,) = family_of(model).layouts(model.model.config, inputs["input_ids"], inputs)
    assert layout.grids == ()
    assert layout.image.tolist() == [0] * 16 + [1] * 16
    assert layout.row.unique().tolist() == layout.column.unique().tolist() == [-1]


# ---- in a run


def test_every_family_is_read():
    assert [family.name for family in families() if family.layouts is None] == []


@pytest.mark.parametrize("beams", [1, 2])
@pytest.mark.parametrize("name", [name for name in KINDS if name not in UNKNOWN])
def test_a_trace_tells_the_layout_of_each_sample(name, beams):
    if beams > 1 and tiny.OLD:
        pytest.skip("transformers before 5.18 mix up the images of copied rows")
    model = tiny_family(name)
    batch = family_batch(model, name, [["image", 5], [2, "image", 2, "image", 6], [9]])
    alone = [
        family_of(model).layouts(model.model.config, own["input_ids"], own)[0]
        for own in batch.alone
    ]
    with sparsify(model, Random(retain=0.5)) as run:
        model.generate(**batch.inputs, max_new_tokens=2, num_beams=beams)
    assert run.trace.layouts == tuple(layout for layout in alone for _ in range(beams))
    assert alone[0] is not None
    assert alone[2] is None


def test_a_prompt_with_other_images_than_it_says_has_no_layout():
    config = tiny_rotary.model("qwen2").model.config
    ids = torch.full((2, 12), tiny.IMAGE)
    given = {"image_grid_thw": torch.tensor([[1, 4, 12], [1, 4, 4]])}
    first, second = family_of(tiny_rotary.model("qwen2")).layouts(config, ids, given)
    assert first.sizes == ((2, 6),)
    assert second is None


# ---- the type


def test_blocks_are_laid_out_in_order():
    layout = layout_of(
        (Block(1, 2, before=1), Block(2, 2, row_end=1, after=1, image=1, part=1, frame=2))
    )
    assert layout.row.tolist() == [-1, 0, 0, 0, 0, -1, 1, 1, -1, -1]
    assert layout.column.tolist() == [-1, 0, 1, 0, 1, -1, 0, 1, -1, -1]
    assert layout.image.tolist() == layout.part.tolist() == [0] * 3 + [1] * 7
    assert layout.frame.tolist() == [0] * 3 + [2] * 7
    assert [grid.tokens.tolist() for grid in layout.grids] == [[1, 2], [3, 4, 6, 7]]
    assert layout.others.tolist() == [0, 5, 8, 9]
    assert len(layout) == 10
    assert layout.image_count == 2


def test_a_grid_with_holes_is_refused():
    place = torch.tensor([0, 0, 1])
    with pytest.raises(ValueError, match="3 visual tokens do not fill a grid of 2 x 2"):
        _ = Layout(place * 0, place * 0, place, torch.tensor([0, 1, 0]), place * 0).grids


def test_row_ends_are_kept_only_where_the_count_is_higher_than_there_are_patches():

    layout = layout_of((Block(2, 3, row_end=1),))
    for count in range(1, 7):
        labels, centres = partition(layout, count)
        assert not set(centres.tolist()) & {3, 7}
        assert labels[[3, 7]].tolist() == [-1, -1]
        plain = partition(grids_layout([(2, 3)]), count)
        assert labels[[0, 1, 2, 4, 5, 6]].tolist() == plain[0].tolist()
    labels, centres = partition(layout, 7)
    assert sorted(centres.tolist()) == [0, 1, 2, 3, 4, 5, 6]
    assert labels.tolist() == [0, 1, 2, 6, 3, 4, 5, -1]


@pytest.mark.parametrize("retain", [0.3, 0.97])
def test_uniform_on_an_overview_and_tiles(retain):
    model = tiny_family("llava-next")
    inputs = family_batch(model, "llava-next", [["image", 5]]).inputs
    with sparsify(model, Uniform(retain=retain)) as run, torch.no_grad():
        model(**inputs)
    (layout,), keep = run.trace.layouts, run.trace.samples[0][0].keep
    shares = [int(torch.isin(grid.tokens, keep).sum()) for grid in layout.grids]
    patches = [len(grid.tokens) for grid in layout.grids]
    if retain == 0.3:
        assert not torch.isin(layout.others, keep).any()
        assert abs(shares[0] / sum(shares) - patches[0] / sum(patches)) < 1 / sum(shares)
    else:
        assert shares == patches
        assert torch.isin(layout.others, keep).sum() == len(keep) - sum(patches)


def test_tiles_are_those_that_the_model_encodes():
    model = tiny_family("llava-next")
    inputs = family_batch(model, "llava-next", [["image", 5], [3, "image", 2, "image", 6]]).inputs
    with torch.no_grad(), sparsify(model, Uniform(retain=0.5)) as run:
        model(**inputs)
    sizes = iter(inputs["image_sizes"])
    points, side = model.config.image_grid_pinpoints, model.config.vision_config.image_size
    for layout in run.trace.layouts:
        by_image = {}
        for grid in layout.grids:
            by_image.setdefault(grid.image, []).append(grid.tiles)
        for tiles in by_image.values():
            assert sum(tiles) == image_size_to_num_patches(next(sizes), points, side)
            assert tiles[0] == 1  # the overview
