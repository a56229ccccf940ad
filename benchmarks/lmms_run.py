"""Runs lmms-eval once for each configuration on questions of the shipped scenes, and keeps facts.

python benchmarks/lmms_run.py --out FOLDER [--json FILE]     in an environment with lmms-eval

Writes a task into FOLDER, runs `lmms-eval eval --model sparsight` in a process of its own with the
embedded model on the CPU, and checks what it wrote. FOLDER must be empty. See docs/lmms-eval.md.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from string import Template
from typing import Any

from sparsight.evaluate.scenes import Question
from sparsight.evaluate.scenes.suite import SPLIT, load_suite
from sparsight.lmms.outcome import list_metrics, read_outcome

TASK = "sparsight_scenes"
FAMILIES = ("attribute", "relation")
CONFIGURATIONS = {
    "dense": "method=dense",
    "sparsevlm": "method=sparsevlm,retain=64",
    "sparsight": "method=sparsight,retain=64",
}
PACKAGES = ("lmms-eval", "sparsight", "transformers", "torch", "datasets", "filelock", "accelerate")
SECONDS = 1800  # that one run may take

YAML = Template("""\
task: $task
dataset_path: json
dataset_kwargs:
  data_files:
    test: $data
test_split: test
output_type: generate_until
doc_to_visual: !function show.images
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs:
  max_new_tokens: 16
  temperature: 0
  do_sample: false
  until: ["USER:"]
  image_aspect_ratio: original
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
    ignore_case: true
    ignore_punctuation: true
""")
SHOW = """\
from PIL import Image


def images(row):
    return [Image.open(row["image"]).convert("RGB")]
"""


def choose_questions(count: int) -> list[Question]:
    """Return questions with one image and one turn, as many of each family."""
    plain = [q for q in load_suite() if len(q.images) == 1 and not q.frames and len(q.turns) == 1]
    chosen = []
    for family in FAMILIES:
        chosen += [question for question in plain if question.family == family][:count]
    return chosen


def write_task(folder: Path, count: int) -> int:
    """Write the folder of a task that lmms-eval reads; return how many questions it has.

    Args:
        folder: that is made.
        count: questions of each family.
    """
    folder.mkdir(parents=True)
    data = folder / "questions.jsonl"
    questions = choose_questions(count)
    rows = [
        {
            "id": question.id,
            "image": str(SPLIT / "images" / question.images[0]),
            "question": question.turns[0].question,
            "answer": question.turns[0].answer,
        }
        for question in questions
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "show.py").write_text(SHOW, encoding="utf-8")
    task = YAML.substitute(task=TASK, data=json.dumps(str(data.resolve())))
    (folder / f"{TASK}.yaml").write_text(task, encoding="utf-8")
    return len(rows)


def list_words(arguments: str, tasks: Path, out: Path, batch: int) -> list[str]:
    """Return the words of the command behind `lmms-eval`."""
    return [
        *("eval", "--model", "sparsight", "--model_args", arguments),
        *("--include_path", str(tasks), "--tasks", TASK),
        *("--batch_size", str(batch), "--device", "cpu"),
        *("--log_samples", "--output_path", str(out)),
    ]


def run_lmms(words: Sequence[str], log: Path) -> int:
    """Run lmms-eval without a network, keep what it prints in a file, and return its exit code."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-c", "from lmms_eval.cli.dispatch import main; main()", *words]
    with log.open("w", encoding="utf-8") as file:
        done = subprocess.run(  # noqa: S603 - the command is written above
            command,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
            timeout=SECONDS,
            check=False,
        )
    return done.returncode


def measure(out: Path, count: int, batch: int) -> dict[str, Any]:
    """Run every configuration, and return the facts of all runs.

    Args:
        out: folder of the task and the results.
        count: questions of each family.
        batch: questions answered together.

    Raises: InputError: a run failed.
    """
    questions = write_task(out / "tasks", count)
    rows = []
    for name, arguments in CONFIGURATIONS.items():
        words = list_words(arguments, out / "tasks", out / name, batch)
        began = time.perf_counter()
        code = run_lmms(words, out / f"{name}.log")
        seconds = time.perf_counter() - began
        results = read_outcome(out / name, [TASK])
        rows.append(
            {
                "name": name,
                "command": shlex.join(
                    ["lmms-eval", *list_words(arguments, *_shorten(name), batch)]
                ),
                "exit_code": code,
                "scores": list_metrics(results, TASK),
                "throughput": results["throughput"],
                "seconds_whole_run": round(seconds, 1),
            }
        )
    return {
        "model": "embedded",
        "questions": questions,
        "families": list(FAMILIES),
        "batch": batch,
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "packages": {name: version(name) for name in PACKAGES},
        "runs": rows,
    }


def _shorten(name: str) -> tuple[Path, Path]:
    """Return the folders of a command as a reader would name them."""
    return Path("tasks"), Path(name)


def main() -> None:
    """Run, and print or write the facts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="empty folder of tasks and results")
    parser.add_argument("--json", type=Path, help="file of the facts; default: print them")
    parser.add_argument("--questions", type=int, default=3, help="of each family")
    parser.add_argument("--batch", type=int, default=4, help="questions answered together")
    options = parser.parse_args()
    text = json.dumps(measure(options.out, options.questions, options.batch), indent=1) + "\n"
    if options.json is None:
        print(text, end="")
        return
    options.json.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
