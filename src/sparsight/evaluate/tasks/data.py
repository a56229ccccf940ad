"""Finds the data of benchmarks, reads them, and says everything that is missing at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from sparsight.errors import InputError, SettingError
from sparsight.evaluate.tasks.task import Item, Task
from sparsight.images import is_data_url
from sparsight.needs import check_package

SHOWN = 3  # missing images that an error names


@dataclass(frozen=True)
class Sheet:
    """The questions of a benchmark that are asked.

    Args:
        task: the benchmark.
        items: that are asked, in the order of its file.
        whole: how many questions its file has.
        digest: SHA-256 of ids, texts and targets of all of them.
    """

    task: Task
    items: tuple[Item, ...]
    whole: int
    digest: str

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of the questions that are asked."""
        return tuple(item.id for item in self.items)


def read_sheets(tasks: Sequence[Task], data: Path, limit: int | None = None) -> list[Sheet]:
    """Return the questions of benchmarks, checked to be whole.

    Args:
        tasks: to be read.
        data: folder that holds the folders of all of them.
        limit: groups of questions of each part; None for what the paper asks.

    Raises:
        InputError: files, images or videos are missing (all are listed), damaged, or of releases
            that do not fit each other.
        SettingError: `limit` is less than 1.
        UnsupportedError: videos are asked about, and the package that reads them is missing.
    """
    if limit is not None and limit < 1:
        raise SettingError(f"limit={limit} asks nothing; give a count >= 1.")
    for task in tasks:
        if task.frames:
            check_package("av", f"the benchmark {task.name}")
    places = _find_places(tasks, data)
    sheets = []
    problems: list[str] = []
    for task in tasks:
        items = task.read(places[task.name])
        asked = choose_items(items, limit or task.sample)
        problems += _find_absent(task, asked)
        sheets.append(Sheet(task, tuple(asked), len(items), _hash(items)))
    if problems:
        raise InputError(f"{'; '.join(problems)}.")
    return sheets


def _find_places(tasks: Sequence[Task], data: Path) -> dict[str, dict[str, Path]]:
    """Return where each file and folder of each benchmark lies; an error lists all missing ones."""
    if not data.is_dir():
        raise InputError(
            f"--data {data} is no folder; give the folder that holds gqa, mmbench, MME, ..., in "
            "LLaVA playground/data/eval, in Video-LLaVA eval."
        )
    places: dict[str, dict[str, Path]] = {}
    missing: dict[str, list[str]] = {}  # by where people get it
    for task in tasks:
        places[task.name] = {}
        for name, need in task.needs.items():
            found = need.find(data)
            if found is None:
                missing.setdefault(need.source, []).append(need.paths[0])
            else:
                places[task.name][name] = found
    if missing:
        lines = [
            f"{', '.join(dict.fromkeys(names))} ({source})" for source, names in missing.items()
        ]
        raise InputError(f"{data} lacks {'; '.join(lines)}.")
    return places


def choose_items(items: Sequence[Item], limit: int | None) -> list[Item]:
    """Return the questions of the first `limit` groups of each part, all for None."""
    groups: dict[str, dict[str, None]] = {}
    for item in items:
        groups.setdefault(item.part, {})[item.group] = None
    chosen = {(part, group) for part, own in groups.items() for group in list(own)[slice(limit)]}
    return [item for item in items if (item.part, item.group) in chosen]


def _find_absent(task: Task, items: Sequence[Item]) -> list[str]:
    """Return what is missing among the images and videos of a benchmark."""
    files = {Path(image) for item in items for image in item.images if not is_data_url(image)}
    files |= {item.video for item in items if item.video is not None}
    absent = sorted(str(file) for file in files if not (file.is_file() and file.stat().st_size))
    if not absent:
        return []
    names = ", ".join(absent[:SHOWN])
    more = ", ..." if len(absent) > SHOWN else ""
    kind = "videos" if task.frames else "images"
    return [
        f"{task.name}: {len(absent)} of {len(files)} {kind} are missing or empty ({names}{more}); "
        "the download is not whole, unpack it again"
    ]


def _hash(items: Sequence[Item]) -> str:
    digest = sha256()
    for item in sorted(items, key=_read_id):
        digest.update(repr((item.id, item.text, item.target)).encode())
    return digest.hexdigest()


def _read_id(item: Item) -> str:
    return item.id


def describe_sheets(sheets: Sequence[Sheet]) -> dict[str, Mapping[str, object]]:
    """Return what must not change about the questions while an evaluation is continued."""
    return {sheet.task.name: {"sha256": sheet.digest, "questions": sheet.whole} for sheet in sheets}
