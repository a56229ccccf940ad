"""Reads an authors' folder: its shards one at a time, and never a program.

Weights come from safetensors, or from pickled shards by torch's `weights_only` reader, which builds
tensors and nothing else.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from sparsight.errors import ModelError

INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
SINGLE = ("model.safetensors", "pytorch_model.bin")
LORA = ("adapter_config.json", "adapter_model.bin", "adapter_model.safetensors")
# as safetensors calls them; buffers may be whole numbers
DTYPES = {
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F32": torch.float32,
    "F64": torch.float64,
    "I64": torch.int64,
}
LARGEST_JSON = 64_000_000  # bytes; an index of a large model has about a tenth of it
BROKEN = (OSError, ValueError, RuntimeError, KeyError, SafetensorError, EOFError)


@dataclass(frozen=True)
class Weight:
    """Where one tensor lies.

    Args:
        shard: file name.
        shape: of the tensor.
        dtype: of the tensor.
    """

    shard: str
    shape: tuple[int, ...]
    dtype: torch.dtype


class Shard:
    """One open file of weights.

    Args:
        tensors: by key; None if `file` is an open safetensors file.
        file: open safetensors file.
    """

    def __init__(self, tensors: dict[str, torch.Tensor] | None = None, file: Any = None) -> None:
        self._tensors, self._file = tensors, file

    def list_keys(self) -> list[str]:
        """Return the keys of the tensors."""
        return list(self._file.keys() if self._tensors is None else self._tensors)

    def get(self, key: str) -> torch.Tensor:
        """Return one tensor."""
        tensor: torch.Tensor = (
            self._file.get_tensor(key) if self._tensors is None else self._tensors[key]
        )
        return tensor

    def describe(self, key: str) -> tuple[tuple[int, ...], torch.dtype]:
        """Return shape and dtype of one tensor, which is not read for it.

        Raises: ModelError: the dtype is none that models are saved in.
        """
        if self._tensors is not None:
            return tuple(self._tensors[key].shape), self._tensors[key].dtype
        part = self._file.get_slice(key)
        dtype = DTYPES.get(part.get_dtype())
        if dtype is None:
            raise ModelError(
                f"{key} has the dtype {part.get_dtype()}; allowed: {', '.join(DTYPES)}. Quantised "
                "weights are not converted."
            )
        return tuple(part.get_shape()), dtype


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises: ModelError: the file is missing, too large, or holds something else.
    """
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise ModelError(
                f"{path} has more than {LARGEST_JSON} bytes; it is no file of a model."
            )
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read as JSON: {error}.") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} holds a {type(value).__name__}; a JSON object is wanted.")
    return value


def list_shards(folder: Path) -> list[Path]:
    """Return the files of weights in a folder: safetensors before pickled ones.

    Raises: ModelError: there are none, one is missing, or the folder is of a stage or kind that
        holds no whole model.
    """
    for name in LORA:
        if (folder / name).exists():
            raise ModelError(
                f"{folder} holds adapters ({name}), no whole model; merge them into their "
                "model with the authors' code first."
            )
    for index, single in zip(INDEXES, SINGLE, strict=True):
        if (folder / index).exists():
            return _list_indexed(folder, index)
        if (folder / single).exists():
            return [folder / single]
    if (folder / "mm_projector.bin").exists():
        raise ModelError(
            f"{folder} holds mm_projector.bin alone: it is a folder of the first training stage, "
            "without a model. Give the folder of the finished model, such as MGM-7B."
        )
    raise ModelError(
        f"{folder} holds no weights: neither {' nor '.join((*INDEXES, *SINGLE))}. Fetch the whole "
        "folder."
    )


def _list_indexed(folder: Path, index: str) -> list[Path]:
    table = read_json(folder / index).get("weight_map")
    if not isinstance(table, dict) or not table:
        raise ModelError(f"{folder / index} has no weight_map; fetch the file again.")
    names = sorted({str(name) for name in table.values()})
    strange = [name for name in names if Path(name).name != name]
    if strange:
        raise ModelError(f"{folder / index} names {strange[0]!r}, which is no file of this folder.")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ModelError(
            f"{folder} lacks {', '.join(missing)}, which {index} names; fetch the missing files."
        )
    return [folder / name for name in names]


@contextmanager
def open_shard(path: Path) -> Iterator[Shard]:
    """Open a file of weights.

    Raises: ModelError: it is damaged, or a pickle that holds more than tensors.
    """
    if path.suffix == ".safetensors":
        try:
            opened = safe_open(path, "pt")
        except BROKEN as error:
            raise ModelError(f"{path} cannot be read as safetensors: {error}.") from error
        with opened as file:
            yield Shard(file=file)
        return
    yield Shard(_load_pickled(path))


def _load_pickled(path: Path) -> dict[str, torch.Tensor]:
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises anything on a broken or hostile file
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"{path} cannot be read as plain weights, and nothing else of it is run: {reason}"
        ) from error
    is_plain = isinstance(tensors, dict) and all(
        isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in tensors.items()
    )
    if not is_plain:
        raise ModelError(f"{path} holds something else than tensors by name; give a state dict.")
    return dict(tensors)


def read_weights(shards: list[Path]) -> dict[str, Weight]:
    """Return shape, dtype and place of every tensor, without keeping any.

    Raises: ModelError: a file cannot be read, or two hold one key.
    """
    weights: dict[str, Weight] = {}
    for path in shards:
        with open_shard(path) as shard:
            for key in shard.list_keys():
                if key in weights:
                    raise ModelError(f"{path.name} and {weights[key].shard} both hold {key!r}.")
                weights[key] = Weight(path.name, *shard.describe(key))
    return weights
