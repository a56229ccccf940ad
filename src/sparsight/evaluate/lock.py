"""The lock of an evaluation's folder: one run holds it while it writes, with all its processes."""

import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sparsight.errors import InputError, ProcessError

try:
    import fcntl
except ImportError:  # not on Windows: there two runs that write one folder are not noticed
    fcntl = None  # type: ignore[assignment]

LOCK = "run.lock"
TOKEN_BYTES = 16


class Lock:
    """An open file whose lock keeps other runs out; the lock ends with the file.

    Args:
        folder: that is locked.
        file: the open file.
    """

    def __init__(self, folder: Path, file: int) -> None:
        self.folder = folder
        self.file = file

    def take(self, *, shared: bool = False) -> None:
        """Lock the file, for this process alone or together with those that share it.

        Raises: InputError: another run holds it, or it cannot be locked.
        """
        if fcntl is None:
            return
        try:
            kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
            fcntl.flock(self.file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"{self.folder} is being written by another run; wait for it, or give another "
                "--out."
            ) from None
        except OSError as error:
            raise build_unwritable_error(self.folder, error) from error

    def share(self) -> str:
        """Let other processes of this run in, and return the token that they will find.

        Raises: InputError: the token cannot be written, or another run came in between.
        """
        token = secrets.token_hex(TOKEN_BYTES)
        try:
            os.ftruncate(self.file, 0)
            os.lseek(self.file, 0, os.SEEK_SET)
            os.write(self.file, token.encode())
            os.fsync(self.file)
        except OSError as error:
            raise build_unwritable_error(self.folder, error) from error
        self.take(shared=True)
        return token


@contextmanager
def lock_folder(folder: Path) -> Iterator[Lock]:
    """Make a folder if it is not there, and keep other runs out of it.

    Raises: InputError: it cannot be written, or is being written by another run.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise build_unwritable_error(folder, error) from error
    try:
        lock = Lock(folder, file)
        lock.take()
        yield lock
    finally:
        os.close(file)


@contextmanager
def join_lock(folder: Path, token: str, index: int) -> Iterator[Lock]:
    """Join the process that has locked a folder and shares it.

    Args:
        folder: as this process sees it.
        token: that the other process found in it.
        index: of this process, for the error.

    Raises:
        ProcessError: this process sees another folder.
        InputError: another run took the folder meanwhile.
    """
    try:
        file = os.open(folder / LOCK, os.O_RDWR)
    except OSError as error:
        raise _build_other_error(folder, index, f": {error.strerror or error}") from error
    try:
        if os.read(file, 2 * TOKEN_BYTES + 1) != token.encode():
            raise _build_other_error(folder, index, "")
        lock = Lock(folder, file)
        lock.take(shared=True)
        yield lock
    finally:
        os.close(file)


def _build_other_error(folder: Path, index: int, reason: str) -> ProcessError:
    return ProcessError(
        f"{folder} on {socket.gethostname()} is not the folder that process 0 writes (seen by "
        f"process {index}{reason}); give an --out on a disk that all machines share."
    )


def build_unwritable_error(folder: Path, error: OSError) -> InputError:
    """Return the error of a folder that cannot be written."""
    return InputError(
        f"{folder} cannot be written ({error.strerror or error}); give another --out."
    )
