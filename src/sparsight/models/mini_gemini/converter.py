"""Turns an authors' folder of Mini-Gemini into one that `from_pretrained` loads.

Everything is checked before anything is written. The result is built in a folder beside its place
and moved there in one step, so that an interrupted conversion leaves nothing behind.
"""

import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import GenerationConfig

from sparsight.errors import ModelError
from sparsight.models.mini_gemini.checkpoint import (
    Weight,
    list_shards,
    open_shard,
    read_weights,
)
from sparsight.models.mini_gemini.config import MiniGeminiConfig
from sparsight.models.mini_gemini.names import check_shapes, list_expected, rename
from sparsight.models.mini_gemini.reading import build_config, read_original
from sparsight.models.mini_gemini.words import Words, build_processor, read_words

ROUND = 64  # the word table gets a multiple of these rows
TABLES = ("lm_head.weight", "model.language_model.embed_tokens.weight")
INDEX = "model.safetensors.index.json"

Progress = Callable[[int, int], None]  # takes shards done, and all of them


@dataclass(frozen=True)
class Converted:
    """What a conversion wrote.

    Args:
        folder: that `from_pretrained` loads.
        tokens: visual tokens of a picture.
        size: of the weights, bytes.
        template: name of the chat template; None if the folder had no tokenizer, so that there is
            no processor.
    """

    folder: Path
    tokens: int
    size: int
    template: str | None


@dataclass(frozen=True)
class Plan:
    """What is written, checked.

    Args:
        config: of the model.
        shards: files of weights.
        names: our names by the authors' keys.
        words: rows of the word table in the folder.
        size: of the weights, bytes.
    """

    config: MiniGeminiConfig
    shards: list[Path]
    names: dict[str, str]
    words: int
    size: int


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    vision_tower: str | os.PathLike[str] | None = None,
    *,
    chat: str | None = None,
    progress: Progress | None = None,
) -> Converted:
    """Convert an authors' folder, and return what was written.

    Source: names of keys and fields from authors' code dvlab-research/MGM, 769820c.

    Args:
        source: folder as the authors save it, with all shards.
        target: folder that is made; it must not exist, or be empty.
        vision_tower: folder with CLIP's config.json, for heads that are not 64 wide.
        chat: name of the chat template; None to choose it by text model and tokenizer.
        progress: is told after each shard.

    Raises:
        ModelError: the folder is none of Mini-Gemini's, or of the first training stage, lacks or
            has too many weights, or says what is not hosted; or the target is in use, or its disk
            full.
    """
    folder, place = Path(source), Path(os.path.abspath(target))
    original = read_original(folder)
    _check_place(place, folder)
    shards = list_shards(folder)
    weights = read_weights(shards)
    names = {key: name for key in weights if (name := rename(key)) is not None}
    words = read_words(folder, original, chat)
    rows = original.words
    if words.image_token_id >= rows:
        rows = -(-(words.image_token_id + 1) // ROUND) * ROUND
    shapes = {key: weight.shape for key, weight in weights.items()}
    tower = None if vision_tower is None else Path(vision_tower)
    config = build_config(original, shapes, words.image_token_id, rows, tower)
    if config.tie_word_embeddings:  # the head is the word table, also where both were saved
        names.pop("lm_head.weight", None)
    check_shapes(
        {name: shapes[key] for key, name in names.items()}, list_expected(config, original.words)
    )
    sizes = Counter[torch.dtype]()
    for key in names:
        sizes[weights[key].dtype] += _count_bytes(weights[key])
    size = sizes.total()
    config.dtype = sizes.most_common(1)[0][0]  # a few weights may be of another dtype
    plan = Plan(config, shards, names, original.words, size)
    with _workplace(place, size) as work:
        _write_weights(plan, work, progress)
        _write_rest(plan, words, work)
        _move(work, place)
    return Converted(place, config.image_seq_length, size, words.template)


def _count_bytes(weight: Weight) -> int:
    return int(torch.Size(weight.shape).numel() * weight.dtype.itemsize)


def _check_place(place: Path, source: Path) -> None:
    """Check that a folder can be made at a place, and that the source stays as it is."""
    try:
        link, taken = place.is_symlink(), place.exists()
        inside = source.resolve() in (place.resolve(), *place.resolve().parents)
    except (OSError, ValueError) as error:
        raise ModelError(f"OUT cannot be looked up ({error}); give another folder.") from error
    if link or place == Path.cwd():
        raise ModelError(f"{place} is a link or the current folder; give a new folder for OUT.")
    if inside:
        raise ModelError(f"{place} lies in {source}, which is left as it is; give another OUT.")
    if taken and (not place.is_dir() or any(place.iterdir())):
        raise ModelError(f"{place} exists already and is not empty; give another folder for OUT.")


@contextmanager
def _workplace(place: Path, size: int) -> Iterator[Path]:
    """Yield a folder beside a place, and remove it at the end if it is still there."""
    parent = place.absolute().parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(parent).free
        if free < size:
            raise ModelError(
                f"{parent} has {free / 1e9:.1f} GB free, and the weights have {size / 1e9:.1f} GB; "
                "free some space or give another folder for OUT."
            )
        work = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=parent))
    except OSError as error:
        raise ModelError(f"cannot write to {parent}: {error.strerror}.") from error
    try:
        yield work
    except OSError as error:
        raise ModelError(f"cannot write to {work}: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _move(work: Path, place: Path) -> None:
    """Move the finished folder to its place in one step."""
    work.chmod(0o755)
    if place.exists():
        place.rmdir()  # it was empty; if it is no more, this fails and nothing is lost
    os.replace(work, place)


def _write_weights(plan: Plan, work: Path, progress: Progress | None) -> None:
    """Write the weights, one file for each shard, and their index."""
    index: dict[str, str] = {}
    total = 0
    for number, path in enumerate(plan.shards, 1):
        name = f"model-{number:05d}-of-{len(plan.shards):05d}.safetensors"
        with open_shard(path) as shard:
            tensors = {
                plan.names[key]: _fit(plan, plan.names[key], shard.get(key))
                for key in shard.list_keys()
                if key in plan.names
            }
            save_file(tensors, work / name, metadata={"format": "pt"})
            (work / name).chmod(0o644)  # safetensors gives its owner alone the right to read
        index |= dict.fromkeys(tensors, name)
        total += sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        if progress is not None:
            progress(number, len(plan.shards))
    content = {"metadata": {"total_size": total}, "weight_map": index}
    (work / INDEX).write_text(json.dumps(content, indent=2), encoding="utf-8")


def _fit(plan: Plan, name: str, weight: torch.Tensor) -> torch.Tensor:
    """Return a weight as it is written: word tables with rows of zeros for new words."""
    text: Any = plan.config.text_config
    if name in TABLES:
        new = weight.new_zeros(text.vocab_size - len(weight), weight.shape[1])
        weight = torch.cat([weight, new])
    return weight.contiguous().clone()  # shards may share memory between tensors


def _write_rest(plan: Plan, words: Words, work: Path) -> None:
    """Write configs, tokenizer and processor."""
    text: Any = plan.config.text_config
    plan.config.save_pretrained(work)
    # a row of zeros gives the logit 0, which could win
    new = sorted({words.image_token_id, *range(plan.words, text.vocab_size)})
    ids: dict[str, Any] = {"bos_token_id": text.bos_token_id, "pad_token_id": text.pad_token_id}
    ids |= words.ids
    ends = [*_as_list(text.eos_token_id), *_as_list(words.end)]
    ids["eos_token_id"] = list(dict.fromkeys(ends)) or None
    make: Any = GenerationConfig  # has no types
    make(**ids, suppress_tokens=new).save_pretrained(work)
    if words.tokenizer is not None:
        build_processor(plan.config, words).save_pretrained(work)


def _as_list(value: Any) -> list[int]:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [int(value)]
