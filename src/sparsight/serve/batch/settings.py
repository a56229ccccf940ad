"""Settings of a job, and their description, which must not change while it is continued."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sparsight
from sparsight.errors import InputError, SettingError
from sparsight.evaluate.folder import describe_method
from sparsight.methods.method import Method
from sparsight.needs import check_package
from sparsight.serve.batch.rows import Inputs
from sparsight.videos import FRAMES, check_shown

JSONL = ".jsonl"
PARQUET = ".parquet"
DENSE = "dense"
RETAIN = "192"  # where no budget is given


@dataclass(frozen=True)
class Asking:
    """How rows are answered. It is plain text and numbers, which travel to other machines.

    Args:
        model: folder or hub id; None for the embedded model.
        method: name of the method, with its settings; "dense" prunes nothing.
        retain: budget of the method; None for 192, or for the dense model, which takes none.
        paper: whether the authors' published counts are used.
        max_new_tokens: length of an answer, at most.
        frames: shown of a video.
        device: to run on; None for the GPU if there is one.
        dtype: of the weights; None leaves them as they are.
    """

    model: str | None = None
    method: str = "sparsight"
    retain: str | None = None
    paper: bool = False
    max_new_tokens: int = 16
    frames: int = FRAMES
    device: str | None = None
    dtype: str | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.max_new_tokens < 1:
            raise SettingError(
                f"max_new_tokens={self.max_new_tokens} answers nothing; give a count >= 1."
            )
        check_shown(self.frames)


def describe(
    asking: Asking, method: Method | None, question: str | None, inputs: Inputs, files: str
) -> dict[str, Any]:
    """Return what must not change while a job is continued.

    Args:
        asking: how rows are answered.
        method: that prunes; None for the dense model.
        question: of all rows, or None.
        inputs: of the job.
        files: hash of the model's files; "" for a hub id.
    """
    return {
        "sparsight": sparsight.__version__,
        "model": _name_model(asking.model),
        "model_files": files,
        "method": DENSE if method is None else describe_method(method),
        "max_new_tokens": asking.max_new_tokens,
        "frames": asking.frames,
        "dtype": asking.dtype,
        "question": question,
        "rows": len(inputs.rows),
        "inputs": inputs.sha256,
    }


def _name_model(name: str | None) -> str:
    """Return the absolute path of a model's folder; a hub id as it is."""
    if name is None:
        return "embedded"
    return str(Path(name).absolute()) if Path(name).is_dir() else name


def check_out(out: Path) -> None:
    """Check the name of the output.

    Raises:
        InputError: its ending is of no known kind, or its folder does not exist.
        UnsupportedError: it is Parquet, and pyarrow is not installed.
    """
    if out.suffix.lower() not in (JSONL, PARQUET):
        raise InputError(f"--out {out} must end in {JSONL} or {PARQUET}.")
    if not out.parent.is_dir():
        raise InputError(f"--out {out}: its folder does not exist.")
    if out.exists() and not out.is_file():
        raise InputError(f"--out {out} is there and no regular file; give another name.")
    if out.suffix.lower() == PARQUET:
        check_package("pyarrow", f"--out {out}")
