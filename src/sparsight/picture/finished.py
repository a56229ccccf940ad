"""Draws a finished prefill, with the words that explain it: model, method, budget."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from PIL import Image

from sparsight.counts.layout import Layout
from sparsight.errors import InputError
from sparsight.methods.method import Method
from sparsight.picture.given import convert_images, read_sample_number
from sparsight.picture.panels import check_drawable, lay_out_panels
from sparsight.picture.sheet import Words, draw
from sparsight.sequence.trace import Stats, Trace


@dataclass(frozen=True)
class Finished:
    """What a run knows of its last prefill.

    Args:
        model: name of the model.
        method: that chose.
        stats: counts and costs.
        trace: what was kept.
    """

    model: str
    method: Method
    stats: Stats
    trace: Trace


def picture_of(
    run: Finished, images: Any, words: Words, processor: Any = None, sample: Any = 0
) -> Image.Image:
    """Return the drawing of one sample of a finished prefill.

    Args:
        run: the prefill.
        images: of the sample, in the order of its prompt; converted as they are for the model.
        words: question, answers, and further facts and notes.
        processor: of the model; asked which part of an image it shows.
        sample: index in the batch.

    Raises:
        UnsupportedError: it is not known where the visual tokens lie, or they lie nowhere.
        InputError: no such sample; something that is no image; or other images than the sample's.
    """
    sample = read_sample_number(sample, len(run.trace.layouts))
    if not run.stats.visual_tokens[sample]:
        raise InputError(f"sample={sample} has no image, so there is nothing to draw.")
    layout = check_drawable(run.trace.layouts[sample])
    panels, panel_notes = lay_out_panels(layout, convert_images(images), processor)
    sites = run.trace.samples[sample]
    small = run.stats.schedules[sample].image_grid if sites else None
    notes = (*words.notes, *panel_notes, *_describe_others(run, layout, sample))
    written = Words(words.question, words.answers, (*words.facts, _describe(run, sample)), notes)
    return draw(panels, sites, written, small)


def name_of(model: Any) -> str:
    """Return how a model is called: hub id or name of its folder, and its class."""
    name = getattr(model, "name_or_path", "")
    kind = type(model).__name__
    short = Path(name).name if Path(name).is_absolute() else name
    return f"{short} ({kind})" if short else kind


def describe_method(method: Method) -> str:
    """Return a method with its budget and every setting that differs from its default."""
    settings = []
    for field in fields(method):
        value = getattr(method, field.name)
        if field.name == "retain" or value != field.default:
            text = describe_method(value) if isinstance(value, Method) else repr(value)
            settings.append(f"{field.name}={text}")
    return f"{type(method).__name__}({', '.join(settings)})"


def _describe(run: Finished, sample: int) -> str:
    mean = run.stats.schedules[sample].mean()
    total = run.stats.visual_tokens[sample]
    spent = f"{mean:.4g} of {total} visual tokens enter a layer on average"
    return f"{run.model} with {describe_method(run.method)}: {spent}"


def _describe_others(run: Finished, layout: Layout, sample: int) -> list[str]:
    """Return a note on visual tokens that are no patch, if there are any: they are not drawn."""
    others = set(layout.others.tolist())
    if not others:
        return []
    sites = run.trace.samples[sample]
    left = others & set(sites[-1].survivors.tolist()) if sites else others
    return [
        f"{len(left)} of {len(others)} visual tokens that are no patch, such as row ends, "
        "are left and not drawn."
    ]
