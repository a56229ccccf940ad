"""Reads `--model_args`: which model, how it is loaded, what prunes it. Knows no lmms-eval.

lmms-eval turns the text of an argument into a number or a bool where it can, and adds `batch_size`,
`max_batch_size` and `device` of its own command line.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from sparsight.cli.inputs import read_device
from sparsight.cli.load import EMBEDDED
from sparsight.cli.method import read_method, read_retain
from sparsight.errors import SettingError
from sparsight.evaluate.settings import DTYPES
from sparsight.methods.method import Method

DENSE = "dense"
ATTENTION = ("eager", "sdpa")
PLACES = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1}  # variables of accelerate and torchrun
KNOWN = (
    "pretrained",
    "method",
    "retain",
    "paper",
    "dtype",
    "device",
    "attn_implementation",
    "batch_size",
    "max_new_tokens",
    "do_pad",
    "num_frames",
    "fps",
)


@dataclass(frozen=True)
class Ranks:
    """Which of several processes this one is.

    Args:
        rank: of all processes.
        local: of those on this machine.
        count: of all processes.
    """

    rank: int = 0
    local: int = 0
    count: int = 1


@dataclass(frozen=True)
class Arguments:
    """What the model is asked to be.

    Args:
        model: folder or hub id; None for the embedded model.
        method: that prunes; None for the dense model.
        device: that the model is put on.
        dtype: of the weights; None for their own.
        attention: implementation of attention; None for the model's own.
        batch: questions answered together.
        most: new tokens of an answer where the task does not say.
        images: settings of the processor for every prompt.
        videos: settings of the processor for prompts with videos.
    """

    model: str | None
    method: Method | None
    device: torch.device
    dtype: torch.dtype | None
    attention: str | None
    batch: int
    most: int
    images: dict[str, Any] = field(default_factory=dict)
    videos: dict[str, Any] = field(default_factory=dict)


def read_ranks(environment: Mapping[str, str] = os.environ) -> Ranks:
    """Return which process this is, from the variables that accelerate and torchrun set.

    Raises: SettingError: a variable is no whole number, or a rank lies outside the count.
    """
    values = []
    for name, default in PLACES.items():
        text = environment.get(name, str(default))
        if not text.strip().isdecimal():
            raise SettingError(f"{name}={text!r} is no whole number; let accelerate launch set it.")
        values.append(int(text))
    ranks = Ranks(*values)
    if max(ranks.rank, ranks.local) >= ranks.count:
        raise SettingError(
            f"RANK={ranks.rank} and LOCAL_RANK={ranks.local} do not fit "
            f"WORLD_SIZE={ranks.count}; let accelerate launch set them."
        )
    return ranks


def read_arguments(given: Mapping[str, Any], ranks: Ranks) -> Arguments:
    """Return what the arguments of the model ask for.

    Args:
        given: as lmms-eval passes them.
        ranks: of this process.

    Raises:
        SettingError: an argument is not known or out of range.
        BudgetError: `retain` is no budget.
        UnsupportedError: `paper` asks for settings that were not published.
    """
    values = {name: value for name, value in given.items() if value is not None}
    unknown = sorted(set(values) - set(KNOWN))
    if unknown:
        raise SettingError(
            f"--model sparsight has no argument {', '.join(unknown)}; it has {', '.join(KNOWN)}."
        )
    model = str(values.get("pretrained", EMBEDDED))
    return Arguments(
        model=None if model == EMBEDDED else model,
        method=_read_method(values),
        device=_choose_device(values.get("device"), ranks),
        dtype=_read_dtype(values.get("dtype")),
        attention=_read_attention(values.get("attn_implementation")),
        batch=read_count("batch_size", values.get("batch_size", 1)),
        most=read_count("max_new_tokens", values.get("max_new_tokens", 128)),
        images=_read_images(values),
        videos=_read_videos(values),
    )


def read_count(name: str, value: Any) -> int:
    """Return a whole number of 1 or more.

    Raises: SettingError: the value is none.
    """
    text = str(value).strip()
    if isinstance(value, bool) or not text.isdecimal() or int(text) < 1:
        raise SettingError(f"{name}={value!r} is not allowed; give a whole number >= 1.")
    return int(text)


def read_flag(name: str, value: Any) -> bool:
    """Return a bool.

    Raises: SettingError: the value is none.
    """
    if not isinstance(value, bool):
        raise SettingError(f"{name}={value!r} is not allowed; give true or false.")
    return value


def _read_method(values: Mapping[str, Any]) -> Method | None:
    """Return what prunes; None for the dense model, which takes no budget."""
    name = str(values.get("method", "sparsight"))
    paper = read_flag("paper", values.get("paper", False))
    if name.strip().lower() != DENSE:
        return read_method(name, str(values.get("retain", 192)), paper)
    if "retain" in values:
        read_retain(str(values["retain"]))
    if paper or "retain" in values:
        raise SettingError("method=dense prunes nothing; leave retain and paper out.")
    return None


def _choose_device(given: Any, ranks: Ranks) -> torch.device:
    """Return the device of this process: of several, each has a GPU of its own."""
    device = read_device(None if given is None else str(given))
    if ranks.count == 1 or device.type != "cuda":
        return device
    if given is not None and device.index is not None:
        raise SettingError(
            f"device={given} would put {ranks.count} processes on one GPU; give device=cuda."
        )
    return read_device(f"cuda:{ranks.local}")


def _read_dtype(given: Any) -> torch.dtype | None:
    if given is None:
        return None
    if given not in DTYPES:
        raise SettingError(f"dtype={given!r} is not known; give one of {', '.join(DTYPES)}.")
    dtype: torch.dtype = getattr(torch, given)
    return dtype


def _read_attention(given: Any) -> str | None:
    if given is not None and given not in ATTENTION:
        raise SettingError(
            f"attn_implementation={given!r} is not supported; give {' or '.join(ATTENTION)}."
        )
    return None if given is None else str(given)


def _read_images(values: Mapping[str, Any]) -> dict[str, Any]:
    if "do_pad" not in values:
        return {}
    return {"do_pad": read_flag("do_pad", values["do_pad"])}


def _read_videos(values: Mapping[str, Any]) -> dict[str, Any]:
    if "num_frames" in values and "fps" in values:
        raise SettingError("num_frames and fps both say which frames are shown; give one of them.")
    if "num_frames" in values:
        return {"num_frames": read_count("num_frames", values["num_frames"])}
    if "fps" not in values:
        return {}
    fps = values["fps"]
    if isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 < fps < float("inf"):
        raise SettingError(f"fps={fps!r} is not allowed; give a number above 0.")
    return {"fps": fps}
