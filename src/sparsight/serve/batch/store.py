"""The output of a job on the disk: rows that are answered are never lost, and never doubled.

Rows are appended to a file of JSON lines and forced to the disk batch by batch. For JSONL that file
is the output; for Parquet it stands beside the output, which is made of it at the end, whole or not
at all. `FILE.run.json` says what job the rows are of. A kill leaves at most a half-written last
line, which is cut off when the job is continued.
"""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sparsight.errors import InputError
from sparsight.serve.batch.files import sync_folder, write_whole
from sparsight.serve.batch.parquet import describes, read_rows, write_parquet
from sparsight.serve.batch.record import Record, Totals, read_record
from sparsight.serve.batch.rows import Row
from sparsight.serve.batch.settings import PARQUET

try:
    import fcntl
except ImportError:  # not on Windows: there two jobs that write one file are not noticed
    fcntl = None  # type: ignore[assignment]


class Store:
    """Records of a job; each batch is on the disk when `add` returns.

    Args:
        out: file of the output.
        rows: of the job.
        description: of the job.

    Raises:
        InputError: the output cannot be written, holds something else, is damaged, or another
            process writes it; or what is there is of another job.
    """

    def __init__(self, out: Path, rows: Sequence[Row], description: dict[str, Any]) -> None:
        self.out = out
        self.done: set[int] = set()
        self.totals = Totals()
        self.notes: list[str] = []
        self._ids = {row.number: row.id for row in rows}
        self._description = description
        self._is_parquet = out.suffix.lower() == PARQUET
        self._side = out.with_name(out.name + ".run.json")
        self._path = out.with_name(out.name + ".rows.jsonl") if self._is_parquet else out
        self._file: int | None = None
        self._made = False  # whether this run made the file of rows
        self._locked = False  # whether the files are known to be those of this job
        try:
            self._open()
        except OSError as error:
            self.close()
            raise InputError(
                f"--out {out} cannot be written ({error.strerror or error}); give another."
            ) from error
        except BaseException:
            self.close()
            raise

    @property
    def finished(self) -> bool:
        """Whether every row has a record."""
        return len(self.done) == len(self._ids)

    def _open(self) -> None:
        if self._is_parquet and self.out.exists():
            self._open_finished()
            return
        is_new = not self._path.exists()
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        self._lock()
        self._made = is_new and not os.fstat(self._file).st_size
        self._check_side(self._path, bool(os.fstat(self._file).st_size))
        self._locked = True
        self._read()

    def _open_finished(self) -> None:
        """Read a Parquet file that an earlier run finished."""
        self._check_side(self.out, True)
        if not describes(self.out, self._description):
            raise self._build_unrelated_error(self.out)
        for record in read_rows(self.out):
            self._count(record)
        self._path.unlink(missing_ok=True)  # a kill may have come before this

    def _lock(self) -> None:
        """Keep other processes from writing the same rows; the lock ends with the process."""
        if fcntl is None or self._file is None:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise self._build_busy_error() from None
        if not self._path.exists() or not os.path.samestat(
            os.fstat(self._file), self._path.stat()
        ):  # a run that ended at this moment took the empty file away
            raise self._build_busy_error()

    def _build_busy_error(self) -> InputError:
        return InputError(f"--out {self.out} is being written by another run; wait for it.")

    def _check_side(self, path: Path, holds_rows: bool) -> None:
        """Check that the rows of a file are of this job; without rows it may become of any job."""
        if self._side.exists():
            before = self._read_side()
            if before == self._description:
                return
            if holds_rows:
                raise InputError(self._compare(path, before))
        elif holds_rows:
            raise self._build_unrelated_error(path)
        write_whole(self._side, self._description)

    def _build_unrelated_error(self, path: Path) -> InputError:
        return InputError(
            f"{self._name(path)} exists and is no output of this job; it would be overwritten. "
            "Give another --out, or take the file away."
        )

    def _name(self, path: Path) -> str:
        """Return what an error calls a file; the rows of a Parquet file stand beside it."""
        return f"--out {self.out}" if path == self.out else f"--out {self.out}: {path}"

    def _read_side(self) -> dict[str, Any]:
        try:
            before = json.loads(self._side.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"{self._side} is damaged ({error}); give another --out.") from error
        if not isinstance(before, dict) or not set(before) & set(self._description):
            raise InputError(f"{self._side} describes no job; give another --out.")
        missing = [name for name in self._description if name not in before]
        if missing:
            raise InputError(
                f"{self._side} has no {', '.join(missing)}: another version wrote it, and whether "
                "its answers are of this job cannot be told; give another --out."
            )
        unknown = [name for name in before if name not in self._description]
        if unknown:
            raise InputError(
                f"{self._side} has {', '.join(unknown)}, which this version does not know: another "
                "version wrote it; give another --out."
            )
        return before

    def _compare(self, path: Path, before: dict[str, Any]) -> str:
        now = self._description
        differences = [
            f"{name} {before.get(name)!r} there, {now.get(name)!r} now"
            for name in {**before, **now}
            if before.get(name) != now.get(name)
        ]
        return (
            f"{self._name(path)} holds answers of another job ({'; '.join(differences)}); "
            "give another --out, or the settings of that job."
        )

    def _read(self) -> None:
        """Count the records that are there, and cut off a last line that is half-written."""
        whole = 0
        with self._path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    os.truncate(self._path, whole)
                    self.notes.append(
                        f"the last line of {self._path} was half-written; it is answered again."
                    )
                    return
                self._count(self._parse(number, line))
                whole += len(line)

    def _parse(self, number: int, line: bytes) -> Record:
        try:
            record = read_record(line.decode("utf-8"))
            if self._ids.get(record.row) != record.id:
                raise ValueError(f"row {record.row} of the inputs has another id")
            if record.row in self.done:
                raise ValueError(f"row {record.row} stands there twice")
        except ValueError as error:
            raise InputError(
                f"{self._path}: line {number} is damaged ({error}); "
                "take it out to have the row answered again, or give another --out."
            ) from error
        return record

    def _count(self, record: Record) -> None:
        self.done.add(record.row)
        self.totals.add(record)

    def add(self, records: Sequence[Record]) -> None:
        """Write records through to the disk; those of rows that are there already are left out.

        Raises: InputError: they cannot be written.
        """
        new = {record.row: record for record in records if record.row not in self.done}
        if self._file is None or not new:
            return
        data = memoryview("".join(map(Record.to_line, new.values())).encode("utf-8"))
        try:
            while data:
                data = data[os.write(self._file, data) :]
            os.fsync(self._file)
        except OSError as error:
            raise self._build_unwritable_error(self._path, error) from error
        for record in new.values():
            self._count(record)

    def finish(self) -> None:
        """Make the Parquet file of all rows, if that is wanted, in the order of the inputs.

        Raises: InputError: it cannot be written, or a file of that name has come up meanwhile.
        """
        if not self._is_parquet or self._file is None:
            return
        new = self.out.with_name(self.out.name + ".new")
        try:
            write_parquet(new, self._read_records(), self._description)
            if self.out.exists():
                raise self._build_unrelated_error(self.out)
            new.replace(self.out)
            sync_folder(self.out.parent)
            self._path.unlink()
        except OSError as error:
            with suppress(OSError):
                new.unlink()
            raise self._build_unwritable_error(new, error) from error

    def _build_unwritable_error(self, path: Path, error: OSError) -> InputError:
        return InputError(
            f"{self._name(path)} cannot be written ({error.strerror or error}); all rows before "
            "are kept. Run the same command again to continue."
        )

    def _read_records(self) -> Iterator[Record]:
        """Yield all records in the order of the inputs; only their places are held in memory."""
        with self._path.open("rb") as file:
            places: list[tuple[int, int]] = []
            place = 0
            for line in file:
                places.append((read_record(line.decode("utf-8")).row, place))
                place += len(line)
            for _, place in sorted(places):
                file.seek(place)
                yield read_record(file.readline().decode("utf-8"))

    def close(self) -> None:
        """Close the file; the lock ends. A job that is refused, or has no row, leaves no file."""
        if self._file is None:
            return
        with suppress(OSError):  # what is empty does no harm
            if not self.done and not os.fstat(self._file).st_size and self._is_named():
                if self._locked or self._made:
                    self._path.unlink()
                if self._locked:
                    self._side.unlink(missing_ok=True)
        os.close(self._file)
        self._file = None

    def _is_named(self) -> bool:
        """Return whether the name of the output still leads to the open file, without a link."""
        if self._file is None or not self._path.exists():
            return False
        return os.path.samestat(os.fstat(self._file), self._path.lstat())

    def __enter__(self) -> Self:
        """Enter the block; the file is open already."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file."""
        self.close()
