"""`sparsight eval --tasks` in several processes, of which number 1 can fail on purpose."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
FAULT = "SPARSIGHT_TEST_FAULT"  # "kill", "error" or "crash": what happens in process 1
BEFORE = 2  # answers of a batch that process 1 writes before


def find_port():
    with socket.socket() as open_socket:
        open_socket.bind(("127.0.0.1", 0))
        return open_socket.getsockname()[1]


def describe_process(index, count, port):
    """Return what a launcher writes into the environment of one process."""
    names = {"RANK": index, "LOCAL_RANK": index, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    own = {**names, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1}
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, **{name: str(value) for name, value in own.items()}, "PYTHONPATH": paths}


def run_processes(words, count=2, fault="", seconds=240):
    """Run a command in several processes without a launcher, which would end the others.

    Returns: exit code, standard output and error of each.
    """
    port = find_port()
    command = [sys.executable, "-m", "tests.support.ranked", *map(str, words)]
    running = [
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=describe_process(index, count, port) | {FAULT: fault},
        )
        for index in range(count)
    ]
    try:
        shown = [process.communicate(timeout=seconds) for process in running]
    finally:
        for process in running:
            process.kill()
    return [(process.returncode, *texts) for process, texts in zip(running, shown, strict=True)]


def add_fault(kind):
    """Let this process fail at its third batch."""
    from sparsight.errors import InputError
    from sparsight.evaluate.tasks.asking import Asker

    plain = Asker.ask
    asked = []

    def ask(*args):
        asked.append(args)
        if len(asked) <= BEFORE:
            return plain(*args)
        if kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise InputError("the disk of this process is gone") if kind == "error" else OSError("odd")

    Asker.ask = ask


if __name__ == "__main__":
    from sparsight.cli import main

    fault = os.environ.get(FAULT)
    if fault and os.environ["RANK"] == "1":
        add_fault(fault)
    main()
