"""Connects the processes of one evaluation, and gives each its GPU, with Hugging Face accelerate.

Of accelerate (`pip install "sparsight[gpus]"`) `PartialState` is used: its arguments `cpu`,
`backend` and `timeout`, its attributes `process_index`, `num_processes` and `device`, and
`destroy_process_group()`. The processes talk over gloo, on the CPU; NCCL is not needed.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import distributed

from sparsight.errors import ProcessError, SettingError
from sparsight.evaluate.tasks.ranks import Ranks, shorten_reason

START = timedelta(minutes=10)  # until all processes are there
LIMIT = timedelta(hours=6)  # that one waits for another later; their shares are of equal length
NUMBER = re.compile(r"[0-9]{1,9}")  # as launchers write one
MOST = 10**9  # no launcher starts as many processes
SHOWN = 40  # characters of a variable that an error shows
USED = ("process_index", "num_processes", "device", "destroy_process_group")


@dataclass(frozen=True)
class Launch:
    """What the environment says of this process.

    Args:
        index: of this process, among all.
        count: of processes.
        local: index among those of this machine.
    """

    index: int = 0
    count: int = 1
    local: int = 0


def read_launch(environment: Mapping[str, str]) -> Launch:
    """Return what the launcher wrote into the environment; one process where it wrote nothing.

    Raises: SettingError: a number is out of range or no number, or there are several processes and
        one of the numbers is missing.
    """
    if "WORLD_SIZE" not in environment:
        return Launch()
    count = read_count(environment)
    alone = 0 if count == 1 else None
    of_all = f"the number of this process, 0 to {count - 1} for WORLD_SIZE={count}"
    index = _read_number(environment, "RANK", range(count), of_all, alone)
    of_machine = f"the number of this process on its machine, 0 to {index} for RANK={index}"
    local = _read_number(environment, "LOCAL_RANK", range(index + 1), of_machine, alone)
    return Launch(index, count, local)


def read_count(environment: Mapping[str, str]) -> int:
    """Return how many processes there are; one where the environment does not say it.

    Raises: SettingError: the number is none, or less than 1.
    """
    allowed = range(1, MOST)
    return _read_number(environment, "WORLD_SIZE", allowed, "the number of processes, 1 or more", 1)


def _read_number(
    environment: Mapping[str, str], name: str, allowed: range, what: str, default: int | None
) -> int:
    """Return a number that a launcher wrote.

    Args:
        environment: that holds it.
        name: of the variable.
        allowed: values.
        what: it is, and which values are allowed, in words.
        default: where it is not set; None where it must be.

    Raises: SettingError: it is not set, no number, or not allowed.
    """
    text = environment.get(name)
    if text is None and default is not None:
        return default
    if text is not None and NUMBER.fullmatch(text) and int(text) in allowed:
        return int(text)
    said = "not set" if text is None else repr(text[:SHOWN])
    raise SettingError(
        f"{name} is {said} in the environment; it is {what}. Start the processes with accelerate "
        "launch, which sets it, or unset WORLD_SIZE for one process."
    )


def starts_one_of_several(environment: Mapping[str, str]) -> bool:
    """Return whether accelerate was asked for several processes and started this one alone.

    It does so with --cpu, and where it finds fewer than two GPUs and --multi_gpu is not given.
    """
    asked = "ACCELERATE_MIXED_PRECISION" in environment and "MASTER_PORT" in environment
    return asked and "RANK" not in environment


@contextmanager
def connect(
    launch: Launch, *, cpu: bool, tell: Callable[[Exception], int]
) -> Iterator[tuple[Ranks, torch.device]]:
    """Connect several processes; yield the place of this one, and its device.

    Args:
        launch: of several processes.
        cpu: whether they run on the CPU and not on a GPU each.
        tell: as `Ranks` has it.

    Raises:
        SettingError: accelerate is not installed, or there are fewer GPUs than processes.
        ProcessError: accelerate is another than we know, or cannot connect them.
    """
    if not cpu and launch.local >= torch.cuda.device_count():
        raise SettingError(
            f"process {launch.local} of this machine has no GPU of its own: torch finds "
            f"{torch.cuda.device_count()}; give --num_processes that many, or --device cpu."
        )
    state = _start(launch, cpu)
    try:
        device = _check_state(state, launch, cpu)
        yield Ranks(launch.index, launch.count, tell, _build_group(launch)), device
    finally:
        state.destroy_process_group()


def _start(launch: Launch, cpu: bool) -> Any:
    """Return accelerate's state of connected processes."""
    if find_spec("accelerate") is None:
        raise SettingError(
            f"{launch.count} processes need the package accelerate, not installed here; "
            'run: pip install "sparsight[gpus]"'
        )
    accelerate = import_module("accelerate")
    version = getattr(accelerate, "__version__", "of no version")
    kind = getattr(accelerate, "PartialState", None)
    missing = [name for name in USED[-1:] if not hasattr(kind, name)]
    if kind is None or missing:
        what = "PartialState" if kind is None else f"PartialState.{missing[0]}"
        raise ProcessError(
            f"accelerate {version} has no {what}; install one that "
            'pip install "sparsight[gpus]" allows.'
        )
    try:
        return kind(cpu=cpu, backend="gloo", timeout=START)
    except Exception as error:
        raise ProcessError(
            f"accelerate {version} cannot connect process {launch.index} to the other "
            f"{launch.count - 1} ({shorten_reason(error)}); start them with accelerate launch."
        ) from error


def _build_group(launch: Launch) -> Any:
    """Return the group of torch.distributed over which the processes talk."""
    try:
        return distributed.new_group(backend="gloo", timeout=LIMIT)
    except RuntimeError as error:
        raise ProcessError(
            f"torch cannot connect process {launch.index} to the other {launch.count - 1} over "
            f"gloo ({shorten_reason(error)}); see that the machines reach one another."
        ) from error


def _check_state(state: Any, launch: Launch, cpu: bool) -> torch.device:
    """Return the device of a state; raise ProcessError if it is not what was launched."""
    missing = [name for name in USED if not hasattr(state, name)]
    if missing:
        raise ProcessError(
            f"accelerate's PartialState has no {missing[0]}; install one that "
            'pip install "sparsight[gpus]" allows.'
        )
    wanted = torch.device("cpu") if cpu else torch.device("cuda", launch.local)
    found = (state.process_index, state.num_processes, state.device)
    if cpu and state.device.type == "cpu":  # accelerate says cpu:0
        found = (*found[:2], wanted)
    if found != (launch.index, launch.count, wanted):
        raise ProcessError(
            f"accelerate has process {found[0]} of {found[1]} on {found[2]}, and the environment "
            f"has process {launch.index} of {launch.count} on {wanted}; start the processes with "
            "accelerate launch, and leave its environment as it is."
        )
    return wanted
