"""Lets several processes, which `accelerate launch` starts, be one command."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import typer

from sparsight.cli.ask import show_progress
from sparsight.cli.inputs import read_device
from sparsight.cli.streams import exit_on_error, say
from sparsight.errors import SettingError
from sparsight.evaluate.tasks.processes import (
    Launch,
    connect,
    read_count,
    read_launch,
    starts_one_of_several,
)
from sparsight.evaluate.tasks.ranks import ALONE, Ended, Ranks


@contextmanager
def join_processes(device: str | None, *, verbose: bool) -> Iterator[tuple[Ranks, torch.device]]:
    """Connect this process to the others of its command; yield its place, and its device.

    Args:
        device: as typed.
        verbose: whether the traceback of an unexpected error is printed as well.

    Raises:
        SettingError: the device does not go together with several processes, or one of their needs
            is missing.
        ProcessError: they cannot be connected, or one of them ended.
        typer.Exit: one of them had an error, which process 0 printed.
    """
    launch = read_launch(os.environ)
    if launch.count == 1:
        if starts_one_of_several(os.environ):
            say(
                "note: accelerate launch started one process only; give it --multi_gpu in place of "
                "--cpu to start several, also on the CPU."
            )
        yield ALONE, read_device(device)
        return

    def tell(error: Exception) -> int:
        try:
            with exit_on_error(verbose):
                raise error
        except typer.Exit as end:
            return int(end.exit_code)

    with connect(launch, cpu=_chooses_cpu(device, launch), tell=tell) as joined:
        try:
            yield joined
        except Ended as end:
            raise typer.Exit(end.code) from None


def _chooses_cpu(device: str | None, launch: Launch) -> bool:
    """Return whether several processes run on the CPU; each has a GPU of its own otherwise."""
    if device not in (None, "cpu"):
        raise SettingError(
            f"--device {device!r} names one device for {launch.count} processes; leave it out, so "
            "that each has a GPU of its own, or give --device cpu."
        )
    return device == "cpu" or read_device(None).type == "cpu"


def refuse_several(what: str) -> None:
    """Raise SettingError if a launcher started several processes for what only one can do.

    Args: what: is done, in words.

    Raises: SettingError: as said, or their number is no number.
    """
    count = read_count(os.environ) if "RANK" in os.environ else 1
    if count > 1:
        raise SettingError(
            f"{count} processes were started for {what}; they share --tasks alone. Start this "
            "command without accelerate launch."
        )


def show_leader_progress(what: str, ranks: Ranks) -> Any:
    """Show on a terminal what is being done, in process 0 only."""
    return show_progress(what) if ranks.leads else nullcontext()


def name_command(words: str, ranks: Ranks) -> str:
    """Return a command as it is started, with accelerate for several processes."""
    if ranks.count == 1:
        return f"sparsight {words}"
    return f"accelerate launch --num_processes {ranks.count} -m sparsight {words}"
