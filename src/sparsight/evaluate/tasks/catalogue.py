"""The benchmarks that can be asked, by name, and where their files lie."""

from collections.abc import Mapping

from sparsight.errors import SettingError
from sparsight.evaluate.judge.verdicts import mark_similarity, mark_verdict
from sparsight.evaluate.settings import check_once
from sparsight.evaluate.tasks import scoring, targets
from sparsight.evaluate.tasks.choices import read_mmbench, read_scienceqa
from sparsight.evaluate.tasks.images import (
    CAPABILITIES,
    SEED_TYPES,
    read_gqa,
    read_mme,
    read_mmvet,
    read_pope,
    read_seed,
)
from sparsight.evaluate.tasks.task import Need, Task
from sparsight.evaluate.tasks.textvqa import read_textvqa, read_textvqa_plain
from sparsight.evaluate.tasks.videos import read_videos
from sparsight.evaluate.tasks.vqa import mark_vqa

LLAVA = "eval.zip of LLaVA, docs/Evaluation.md on https://github.com/haotian-liu/LLaVA"
VIDEO_LLAVA = (
    "the evaluation sets that https://github.com/PKU-YuanGroup/Video-LLaVA names in "
    "TRAIN_AND_VALIDATE.md"
)
SHORT = 128  # tokens of an answer in the script that asks most of the sets
FIRST = 1000  # questions of a video set that the paper asks
FRAMES = 8


def _need(source: str, *paths: str) -> Need:
    return Need(paths, source)


def _make_textvqa(name: str, title: str) -> Task:
    return Task(
        name=name,
        title=title,
        metric="VQA accuracy" if name == "textvqa" else "VQA accuracy, no OCR tokens",
        needs={
            "questions": _need(LLAVA, "textvqa/llava_textvqa_val_v051_ocr.jsonl"),
            "answers": _need("https://textvqa.org/dataset", "textvqa/TextVQA_0.5.1_val.json"),
            "images": _need("https://textvqa.org/dataset", "textvqa/train_images"),
        },
        read=read_textvqa if name == "textvqa" else read_textvqa_plain,
        mark=mark_vqa,
        fits=targets.is_texts,
        tally=scoring.tally_mean,
        combine=scoring.combine_mean,
        max_new_tokens=SHORT,
        count=5000,
        extra=name != "textvqa",
    )


def _make_video(name: str, title: str, folder: str, videos: tuple[str, ...]) -> Task:
    base = f"GPT_Zero_Shot_QA/{folder}"
    return Task(
        name=name,
        title=title,
        metric="accuracy by judge",
        needs={
            "questions": _need(VIDEO_LLAVA, f"{base}/test_q.json"),
            "answers": _need(VIDEO_LLAVA, f"{base}/test_a.json"),
            "videos": _need(VIDEO_LLAVA, *(f"{base}/{place}" for place in videos)),
        },
        read=read_videos,
        mark=mark_verdict,
        fits=targets.is_text,
        tally=scoring.tally_judged,
        combine=scoring.combine_judged,
        wording="video",
        frames=FRAMES,
        sample=FIRST,
        count=FIRST,
    )


GQA = Task(
    name="gqa",
    title="GQA",
    metric="accuracy",
    needs={
        "questions": _need(LLAVA, "gqa/llava_gqa_testdev_balanced.jsonl"),
        "answers": _need(
            "questions1.2.zip, https://cs.stanford.edu/people/dorarad/gqa/download.html",
            "gqa/data/testdev_balanced_questions.json",
            "gqa/data/questions1.2/testdev_balanced_questions.json",
        ),
        "images": _need(
            "images.zip, https://cs.stanford.edu/people/dorarad/gqa/download.html",
            "gqa/data/images",
        ),
    },
    read=read_gqa,
    mark=scoring.mark_gqa,
    fits=targets.is_text,
    tally=scoring.tally_mean,
    combine=scoring.combine_mean,
    max_new_tokens=SHORT,
    count=12578,
)
MMBENCH = Task(
    name="mmbench",
    title="MMBench",
    metric="accuracy, all rotations right",
    needs={
        "questions": _need(
            "the release 20230712 that LLaVA, docs/Evaluation.md, names",
            "mmbench/mmbench_dev_20230712.tsv",
        )
    },
    read=read_mmbench,
    mark=scoring.mark_mmbench,
    fits=targets.is_of_mmbench,
    tally=scoring.tally_circle,
    combine=scoring.combine_mean,
)
MME = Task(
    name="mme",
    title="MME",
    metric="perception + cognition",
    needs={
        "questions": _need(LLAVA, "MME/llava_mme.jsonl"),
        "images": _need("the authors of MME, on request", "MME/MME_Benchmark_release_version"),
    },
    read=read_mme,
    mark=scoring.mark_mme,
    fits=targets.is_yes_no,
    tally=scoring.tally_image,
    combine=scoring.combine_mme,
    unit="points",
    max_new_tokens=SHORT,
    count=2374,
)
POPE = Task(
    name="pope",
    title="POPE",
    metric="F1, mean of three",
    needs={
        "questions": _need(LLAVA, "pope/llava_pope_test.jsonl"),
        "images": _need("val2014.zip, https://cocodataset.org/#download", "pope/val2014"),
        **{
            category: _need(
                "output/coco of https://github.com/AoiDragon/POPE at e3e3926",
                f"pope/coco/coco_pope_{category}.json",
            )
            for category in ("adversarial", "popular", "random")
        },
    },
    read=read_pope,
    mark=scoring.mark_pope,
    fits=targets.is_yes_no,
    tally=scoring.tally_yes,
    combine=scoring.combine_f1,
    max_new_tokens=SHORT,
    count=8910,
)
SQA = Task(
    name="sqa",
    title="SQA-IMG",
    metric="accuracy on images",
    needs={
        "questions": _need(LLAVA, "scienceqa/llava_test_CQM-A.json"),
        "problems": _need("https://github.com/lupantech/ScienceQA", "scienceqa/problems.json"),
        "splits": _need("https://github.com/lupantech/ScienceQA", "scienceqa/pid_splits.json"),
        "images": _need("https://github.com/lupantech/ScienceQA", "scienceqa/images/test"),
    },
    read=read_scienceqa,
    mark=scoring.mark_scienceqa,
    fits=targets.is_of_scienceqa,
    tally=scoring.tally_mean,
    combine=scoring.combine_mean,
    count=2017,
)
SEED = Task(
    name="seed",
    title="SEED",
    metric="accuracy, image and video",
    needs={
        "questions": _need(LLAVA, "seed_bench/llava-seed-bench.jsonl"),
        "answers": _need("https://github.com/AILab-CVC/SEED-Bench", "seed_bench/SEED-Bench.json"),
        "images": _need("https://github.com/AILab-CVC/SEED-Bench", "seed_bench/SEED-Bench-image"),
    },
    read=read_seed,
    mark=scoring.mark_exactly,
    fits=targets.is_letter,
    tally=scoring.tally_mean,
    combine=scoring.combine_mean,
    max_new_tokens=SHORT,
    count=17990,
    kinds=SEED_TYPES,
)
MMVET = Task(
    name="mmvet",
    title="MM-Vet",
    metric="score by judge",
    needs={
        "questions": _need(LLAVA, "mm-vet/llava-mm-vet.jsonl"),
        "answers": _need("mm-vet.zip, https://github.com/yuweihao/MM-Vet", "mm-vet/mm-vet.json"),
        "images": _need("mm-vet.zip, https://github.com/yuweihao/MM-Vet", "mm-vet/images"),
    },
    read=read_mmvet,
    mark=mark_similarity,
    fits=targets.is_text,
    tally=scoring.tally_mean,
    combine=scoring.combine_mean,
    wording="similarity",
    count=218,
    kinds=CAPABILITIES,
)
TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        GQA,
        MMBENCH,
        MME,
        POPE,
        SQA,
        SEED,
        _make_textvqa("textvqa", "TextVQA"),
        MMVET,
        _make_textvqa("textvqa-plain", "TextVQA, no OCR"),
        _make_video("tgif", "TGIF", "TGIF_Zero_Shot_QA", ("mp4", "videos")),
        _make_video("msvd", "MSVD", "MSVD_Zero_Shot_QA", ("videos",)),
        _make_video("msrvtt", "MSRVTT", "MSRVTT_Zero_Shot_QA", ("videos/all", "videos")),
        _make_video(
            "activitynet", "ActivityNet", "Activitynet_Zero_Shot_QA", ("all_test", "videos")
        ),
    )
}


def find_tasks(names: tuple[str, ...]) -> tuple[Task, ...]:
    """Return benchmarks by name.

    Raises: SettingError: there is no such benchmark, one is named twice, or none is named.
    """
    check_once("--tasks", names)
    for name in names:
        if name not in TASKS:
            raise SettingError(f"task {name!r} is not known; give some of {', '.join(TASKS)}.")
    return tuple(TASKS[name] for name in names)
