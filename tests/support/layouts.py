"""Writes small data folders of all benchmarks, laid out as LLaVA's and Video-LLaVA's users have."""

import base64
import io
import json
from pathlib import Path

from PIL import Image, ImageDraw

SHORT = "Answer the question using a single word or phrase."
LETTER = "Answer with the option's letter from the given choices directly."
COLOURS = ("red", "green", "blue", "yellow")
IMAGE_TASKS = ("gqa", "mmbench", "mme", "pope", "sqa", "seed", "textvqa", "mmvet")
VIDEO_FOLDERS = {
    "tgif": ("TGIF_Zero_Shot_QA", "mp4", ""),
    "msvd": ("MSVD_Zero_Shot_QA", "videos", ""),
    "msrvtt": ("MSRVTT_Zero_Shot_QA", "videos/all", ""),
    "activitynet": ("Activitynet_Zero_Shot_QA", "all_test", "v_"),
}


def picture(number, size=(48, 32)):
    """Return an image with a square of the number's colour."""
    image = Image.new("RGB", size, "white")
    ImageDraw.Draw(image).rectangle((8, 8, 24, 24), fill=COLOURS[number % 4])
    return image


def save(path, number=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(number).save(path)


def write_json(path, document):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document), encoding="utf-8")


def write_lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_gqa(data, count=4):
    folder = data / "gqa"
    rows = []
    answers = {}
    for number in range(count):
        save(folder / "data" / "images" / f"n{number}.jpg", number)
        text = f"What color is it?\n{SHORT}"
        rows.append({"question_id": f"20{number}", "image": f"n{number}.jpg", "text": text})
        answers[f"20{number}"] = {"answer": COLOURS[number % 4], "question": "What color is it?"}
    write_lines(folder / "llava_gqa_testdev_balanced.jsonl", rows)
    write_json(folder / "data" / "testdev_balanced_questions.json", answers)


def encode(number):
    buffer = io.BytesIO()
    picture(number, (200, 150)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def write_mmbench(data, count=2):
    """Each question stands twice, its options rotated; the last ones have two options only."""
    names = "index question hint A B C D answer category image source l2-category comment split"
    lines = ["\t".join(names.split())]
    for number in range(count):
        first = ["red", "green", "blue", "yellow"] if number + 1 < count else ["red", "green"]
        for turn in range(2):
            options = first[-turn:] + first[:-turn]
            cells = options + [""] * (4 - len(options))
            answer = "ABCD"[options.index(COLOURS[number % 2])]
            hint = "It is painted." if number == 0 else "nan"
            index = str(number + turn * 10**6)
            row = [index, "Which color is it?", hint, *cells, answer, "color", encode(number)]
            lines.append("\t".join([*row, "", "", "", "dev"]))
    path = data / "mmbench" / "mmbench_dev_20230712.tsv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_mme(data, count=2):
    """The subtask artwork keeps images and answers in folders of their own, color does not."""
    root = data / "MME" / "MME_Benchmark_release_version"
    rows = []
    for part in ("color", "artwork"):
        deep = part == "artwork"
        for number in range(count):
            name = f"{number}.jpg"
            save(root / part / ("images" if deep else "") / name, number)
            colours = (COLOURS[number % 4], "purple")
            questions = [f"Is there a {colour} thing?" for colour in colours]
            spaces = "  " if deep else " "
            labels = [
                f"{question}{spaces}Please answer yes or no.\t{answer}\n"
                for question, answer in zip(questions, ("Yes", "No"), strict=True)
            ]
            place = root / part / ("questions_answers_YN" if deep else "")
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{number}.txt").write_text("".join(labels))
            rows += [
                {
                    "question_id": f"{part}/{name}",
                    "image": f"{part}/{name}",
                    "text": f"{question}\n{SHORT}",
                }
                for question in questions
            ]
    write_lines(data / "MME" / "llava_mme.jsonl", rows)


def write_pope(data, count=4):
    rows = []
    for start, category in enumerate(("adversarial", "popular", "random")):
        labels = []
        for number in range(count):
            save(data / "pope" / "val2014" / f"c{number}.jpg", number)
            text = f"Is there a {COLOURS[number % 4]} thing in the image?"
            image = f"c{number}.jpg"
            label = "yes" if number % 2 == 0 else "no"
            labels.append({"question_id": number + 1, "image": image, "text": text, "label": label})
            rows.append(
                {
                    "question_id": start * count + number,
                    "image": image,
                    "text": f"{text}\n{SHORT}",
                    "category": category,
                }
            )
        write_lines(data / "pope" / "coco" / f"coco_pope_{category}.json", labels)
    write_lines(data / "pope" / "llava_pope_test.jsonl", rows)


def write_sqa(data, count=3):
    """The last question has no image."""
    folder = data / "scienceqa"
    rows = []
    problems = {}
    for number in range(count + 1):
        key = str(number + 5)
        value = "Context: It is painted.\nWhich color is it?\nA. red\nB. green"
        problems[key] = {"choices": ["red", "green"], "answer": number % 2, "image": "image.png"}
        row = {"id": key, "conversations": [{"from": "human", "value": value}]}
        if number < count:
            save(folder / "images" / "test" / key / "image.png", number)
            row["image"] = f"{key}/image.png"
            row["conversations"][0]["value"] = f"<image>\n{value}"
        rows.append(row)
    write_json(folder / "llava_test_CQM-A.json", rows)
    write_json(folder / "problems.json", problems)
    write_json(folder / "pid_splits.json", {"test": list(problems)})


def write_seed(data, count=4):
    folder = data / "seed_bench"
    rows = []
    questions = []
    for number in range(count):
        kind = "image" if number % 2 == 0 else "video"
        name = "SEED-Bench-image/a" if kind == "image" else "SEED-Bench-video-image/b"
        save(folder / f"{name}{number}.png", number)
        text = f"Which color is it?\nA. red\nB. green\nC. blue\nD. yellow\n{LETTER}"
        key = str(number) if kind == "image" else f"v{number}"
        rows.append({"question_id": key, "image": f"{name}{number}.png", "text": text})
        answer = "ABCD"[number % 4]
        known = {"question_id": key, "answer": answer, "data_type": kind}
        questions.append({**known, "question_type_id": 1 if kind == "image" else 10})
    write_lines(folder / "llava-seed-bench.jsonl", rows)
    write_json(folder / "SEED-Bench.json", {"questions": questions})


def write_textvqa(data, count=3):
    """The first image has two questions."""
    folder = data / "textvqa"
    rows = []
    entries = []
    for number in [0, *range(count)]:
        image = f"i{number}"
        save(folder / "train_images" / f"{image}.jpg", number)
        question = f"What is written {len(rows)} times?"
        text = f"{question}\nReference OCR token: RED, 12\n{SHORT}"
        rows.append({"question_id": image, "image": f"{image}.jpg", "text": text})
        answers = ["red"] * 8 + ["Red.", "12"]
        entries.append({"image_id": image, "question": question.lower(), "answers": answers})
    write_lines(folder / "llava_textvqa_val_v051_ocr.jsonl", rows)
    write_json(folder / "TextVQA_0.5.1_val.json", {"data": entries})


def write_mmvet(data, count=3):
    folder = data / "mm-vet"
    rows = []
    truths = {}
    for number in range(count):
        save(folder / "images" / f"v1_{number}.png", number)
        text = "What color is the square, and what is around it?"
        rows.append({"question_id": number, "image": f"v1_{number}.png", "text": text})
        truths[f"v1_{number}"] = {
            "answer": f"{COLOURS[number % 4]}<AND>white",
            "capability": [["ocr", "rec"], ["rec"], ["math"]][number % 3],
        }
    write_lines(folder / "llava-mm-vet.jsonl", rows)
    write_json(folder / "mm-vet.json", truths)


def write_clip(path, frames=12):
    """Write a clip whose n-th frame has the grey 20 n."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for number in range(frames):
            grey = Image.new("RGB", (64, 64), (20 * number,) * 3)
            container.mux(stream.encode(av.VideoFrame.from_image(grey)))
        container.mux(stream.encode())


def write_video(data, task, count=3, clip=write_clip):
    folder, place, prefix = VIDEO_FOLDERS[task]
    root = data / "GPT_Zero_Shot_QA" / folder
    questions = []
    answers = []
    for number in range(count):
        key = f"{task}_{number}"
        clip(root / place / f"{prefix}clip{number}.mp4")
        question = {"video_name": f"clip{number}", "question": "what grows", "question_id": key}
        questions.append(question)
        answers.insert(0, {"answer": "light", "question_id": key})
    write_json(root / "test_q.json", questions)
    write_json(root / "test_a.json", answers)


WRITERS = {
    "gqa": write_gqa,
    "mmbench": write_mmbench,
    "mme": write_mme,
    "pope": write_pope,
    "sqa": write_sqa,
    "seed": write_seed,
    "textvqa": write_textvqa,
    "mmvet": write_mmvet,
}


def write_images(data: Path) -> Path:
    """Write the folders of all image benchmarks, and return the folder that holds them."""
    for write in WRITERS.values():
        write(data)
    return data
