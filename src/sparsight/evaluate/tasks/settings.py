"""Settings of an evaluation on benchmarks. Checked when they are built."""

from dataclasses import dataclass
from pathlib import Path

from sparsight.errors import SettingError
from sparsight.evaluate.settings import DENSE, DTYPES, Configuration, check_once
from sparsight.evaluate.tasks.catalogue import find_tasks
from sparsight.methods.method import check_choice


@dataclass(frozen=True)
class TaskSettings:
    """What an evaluation on benchmarks asks, whom, and where it writes.

    Args:
        tasks: names of benchmarks.
        data: folder of their files.
        configurations: that are compared. A count that a method retains is of a whole prompt, also
            where it has several frames.
        limit: groups of questions of each part; None for what the paper asks.
        seed: of methods that draw, and of resampling.
        batch: questions that are answered together.
        max_new_tokens: length of an answer, at most; None for the authors' of each benchmark.
        model: name, folder or hub id, for the record.
        files: SHA-256 of the model's files, for the record; "" where they are not here.
        dtype: of the model.
        out: folder of answers and results.
    """

    tasks: tuple[str, ...]
    data: Path
    configurations: tuple[Configuration, ...] = (DENSE,)
    limit: int | None = None
    seed: int = 0
    batch: int = 1
    max_new_tokens: int | None = None
    model: str = "embedded"
    files: str = ""
    dtype: str = "float32"
    out: Path = Path("sparsight-eval")

    def __post_init__(self) -> None:
        """Check everything that needs neither model nor data."""
        find_tasks(self.tasks)
        check_once("configuration", [one.key for one in self.configurations])
        check_choice("dtype", self.dtype, DTYPES)
        if self.limit is not None and self.limit < 1:
            raise SettingError(f"limit={self.limit} asks nothing; give a count >= 1.")
        if self.batch < 1:
            raise SettingError(f"batch={self.batch} answers nothing; give a count >= 1.")
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise SettingError(
                f"max_new_tokens={self.max_new_tokens} answers nothing; give a count >= 1."
            )
        if self.seed < 0:
            raise SettingError(f"seed={self.seed} is out of range; give an int >= 0.")
