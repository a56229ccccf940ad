"""Writes files and the names of files through to the disk."""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any


def write_whole(path: Path, document: dict[str, Any]) -> None:
    """Write a JSON document whole or not at all.

    Raises: OSError: it cannot be written.
    """
    new = path.with_name(path.name + ".new")
    try:
        # a path that is no UTF-8 has characters that JSON escapes in the same way
        with new.open("w", encoding="utf-8", errors="backslashreplace") as file:
            json.dump(document, file, indent=1, ensure_ascii=False)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except OSError:
        with suppress(OSError):
            new.unlink()
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Force the names in a folder to the disk, where the system can."""
    with suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
