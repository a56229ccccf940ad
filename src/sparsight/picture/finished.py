"""The picture of a finished prefill, with the words that explain it: model, method, budget."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from PIL import Image

from sparsight.counts.layout import Layout
from sparsight.errors import InputError
from sparsight.methods.method import Method
from sparsight.picture.given import sample_number, shown_images
from sparsight.picture.panels import check_drawable, panels
from sparsight.picture.sheet import Words, draw
from sparsight.sequence.trace import Stats, Trace


@dataclass(frozen=True)
class Finished:
    """What a run tells of its last prefill.

    Args:
        model: its name.
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
    """Draw one sample of a finished prefill.

    Args:
        run: the prefill.
        images: of the sample, in the order of its prompt; converted as they are for the model.
        words: question, answers and facts that come before those that are known here.
        processor: of the model, asked what it shows of an image.
        sample: which one of the batch.

    Raises:
        UnsupportedError: where the visual tokens lie is not known, or they lie nowhere.
        InputError: no such sample, something that is no image, or other images than the sample's.
    """
    sample = sample_number(sample, len(run.trace.layouts))
    if not run.stats.visual_tokens[sample]:
        raise InputError(f"sample={sample} has no image, so there is nothing to draw.")
    layout = check_drawable(run.trace.layouts[sample])
    rows, notes = panels(layout, shown_images(images), processor)
    sites = run.trace.samples[sample]
    small = run.stats.schedules[sample].image_grid if sites else None
    facts, notes = (
        (*words.facts, *_facts(run, sample)),
        [*words.notes, *notes, *_others(run, layout, sample)],
    )
    return draw(rows, sites, Words(words.question, words.answers, facts, tuple(notes)), small)


def name_of(model: Any) -> str:
    """Return what a model is called: hub id or folder, and its class."""
    name, kind = getattr(model, "name_or_path", ""), type(model).__name__
    short = Path(name).name if Path(name).is_absolute() else name
    return f"{short} ({kind})" if short else kind


def settings(method: Method) -> str:
    """Return a method with its budget and the settings that differ from their defaults."""
    told = {field.name: getattr(method, field.name) for field in fields(method)}
    shown = [
        f"{field.name}={told[field.name]!r}"
        for field in fields(method)
        if _matters(field, told[field.name])
    ]
    return f"{type(method).__name__}({', '.join(shown)})"


def _matters(field: Any, value: object) -> bool:
    return bool(field.name == "retain" or value != field.default)


def _facts(run: Finished, sample: int) -> list[str]:
    schedule, total = run.stats.schedules[sample], run.stats.visual_tokens[sample]
    spent = f"{schedule.mean():.4g} of {total} visual tokens enter a layer on average"
    return [f"{run.model} with {settings(run.method)}: {spent}"]


def _others(run: Finished, layout: Layout, sample: int) -> list[str]:
    """Say how many tokens cannot be drawn because they are no patch."""
    others, sites = set(layout.others.tolist()), run.trace.samples[sample]
    if not others:
        return []
    left = others if not sites else others & set(sites[-1].survivors.tolist())
    return [
        f"{len(left)} of {len(others)} visual tokens that are no patch, such as row ends, are left and not drawn."
    ]
