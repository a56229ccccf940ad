"""The video benchmarks: TGIF, MSVD, MSRVTT and ActivityNet, from Video-LLaVA's folders.

Source: Video-LLaVA, eval/GPT_Zero_Shot_QA (https://github.com/PKU-YuanGroup/Video-LLaVA).
"""

from collections.abc import Mapping
from pathlib import Path

from sparsight.evaluate.tasks.reading import (
    check_joined,
    index_by,
    list_ids,
    place_image,
    read_list,
)
from sparsight.evaluate.tasks.task import Item

EXTENSIONS = (".mp4", ".avi", ".mov", ".mkv", ".gif", ".webm")
PREFIX = "v_"  # of ActivityNet's files


def read_videos(paths: Mapping[str, Path]) -> list[Item]:
    """Return the questions of one of the sets, in the order of the file.

    Answers are found by question id. Differs: the scripts of Video-LLaVA and of the authors pair
        them by position, which goes wrong where several GPUs share the questions.
    """
    file = paths["questions"]
    rows = read_list(file, ("question_id", "video_name"), ("question",))
    replies = read_list(paths["answers"], ("question_id",), ("answer",))
    answers = index_by(paths["answers"], replies, "question_id")
    ids = list_ids(file, rows, "question_id")
    check_joined([key for key in ids if key not in answers], len(ids), file, paths["answers"])
    folder = paths["videos"]
    files = {path.stem: path for path in sorted(folder.iterdir()) if path.suffix in EXTENSIONS}
    items = []
    for key, row in zip(ids, rows, strict=True):
        name = str(row["video_name"])
        absent = Path(place_image(folder, name, file))
        video = files.get(name) or files.get(PREFIX + name) or absent
        target = answers[key]["answer"]
        question = row["question"]
        items.append(Item(key, question, target, video=video, group=key, question=question))
    return items
