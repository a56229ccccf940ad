"""Writes and reads the Parquet file of a finished job, with pyarrow."""

import json
import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from sparsight.errors import InputError
from sparsight.needs import load_package
from sparsight.serve.batch.record import Record

GROUP = 10_000  # rows that are in memory at once
KEY = b"sparsight"  # of the file's metadata, under which the job is described


def _build_schema(arrow: Any, description: dict[str, Any]) -> Any:
    return arrow.schema(
        [
            ("row", arrow.int64()),
            ("id", arrow.string()),
            ("images", arrow.list_(arrow.string())),
            ("question", arrow.string()),
            ("answer", arrow.string()),
            ("visual_tokens", arrow.int64()),
            ("visual_tokens_entering", arrow.float64()),
            ("prefill_flops_share", arrow.float64()),
            ("error", arrow.string()),
            ("note", arrow.string()),
        ],
        metadata={KEY: json.dumps(description, sort_keys=True).encode()},
    )


def write_parquet(path: Path, records: Iterable[Record], description: dict[str, Any]) -> None:
    """Write records to a new file, through to the disk.

    Args:
        path: of the file; one that is there is replaced.
        records: in order.
        description: of the job, for the file's metadata.
    """
    arrow = load_package("pyarrow", str(path))
    parquet = load_package("pyarrow", str(path), "parquet")
    schema = _build_schema(arrow, description)
    left = iter(records)
    with parquet.ParquetWriter(path, schema) as writer:
        while group := list(islice(left, GROUP)):
            writer.write_table(arrow.Table.from_pylist(list(map(vars, group)), schema=schema))
    with path.open("rb") as file:
        os.fsync(file.fileno())


def describes(path: Path, description: dict[str, Any]) -> bool:
    """Return whether a file is the Parquet file of a job.

    Raises: InputError: it is no Parquet file.
    """
    metadata = _read_schema(path).metadata or {}
    return bool(metadata.get(KEY) == json.dumps(description, sort_keys=True).encode())


def _read_schema(path: Path) -> Any:
    arrow = load_package("pyarrow", str(path))
    parquet = load_package("pyarrow", str(path), "parquet")
    try:
        return parquet.read_schema(path)
    except arrow.ArrowException as error:
        raise InputError(
            f"{path} exists and is no Parquet file ({error}); give another --out."
        ) from error


def read_rows(path: Path) -> Iterator[Record]:
    """Yield the records of a file that `write_parquet` wrote."""
    parquet = load_package("pyarrow", str(path), "parquet")
    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(GROUP):
            for row in batch.to_pylist():
                yield Record(**row)
