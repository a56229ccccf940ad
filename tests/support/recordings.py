"""Recordings in tests/data/rivals: what code of published methods, or a reference, chose.

Each file holds tensors, and as metadata `info` its method, settings, seed, origin, source and
commit. Some are shortened to the rows that a test reads.
"""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

FOLDER = Path(__file__).parents[1] / "data" / "rivals"


def read(name):
    """The settings and the tensors of one recording."""
    with safe_open(FOLDER / f"{name}.safetensors", "pt") as file:
        info = json.loads(file.metadata()["info"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    return info["settings"], tensors


def each(*patterns):
    """Parametrise a test by the recordings whose names match, in float32 and float64."""
    listed = []
    for pattern in patterns:
        matching = sorted(path.stem for path in FOLDER.glob(f"{pattern}.safetensors"))
        assert matching, f"no recording matches {pattern}"  # no recording would test nothing
        listed += matching
    kinds = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])

    def mark(test):
        return pytest.mark.parametrize("name", listed)(kinds(test))

    return mark


def within(dtype):
    """How close real numbers must be: 1e-6 where the computation is in float64."""
    return {"rtol": 0, "atol": 1e-6 if dtype == torch.float64 else 1e-5}
