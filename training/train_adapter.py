"""Trains the embedded model's adapter: the projector and LoRA matrices in the decoder, on easy-VQA's training split.

Run: THP_MEM_ALLOC_ENABLE=1 MALLOC_MMAP_MAX_=0 python training/train_adapter.py --minutes 60

The encoder is frozen and runs once per image. Training starts on pooled visual tokens, where a step costs a fraction,
and ends on all 576.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from checkpoint import Exporter, restore, save
from easy_vqa import EasyVQA, Question
from features import encode, pooled, statistics
from packing import Batch, Prompt, pack
from peft import LoraConfig, get_peft_model
from rich.progress import Progress
from torch import nn

from sparsight.embedded import cache_dir, load, prepare

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
HELD_OUT = 100  # last training images, never trained on
CLIP_NORM = 1.0


def arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("training/out"), help="folder of log, checkpoint and adapter")
    parser.add_argument("--cache", type=Path, default=None, help="cache folder of the embedded model")
    parser.add_argument("--images", type=int, default=4000, help="training images to use, held-out ones included")
    parser.add_argument("--phases", default="4:250,2:400,1:350", help="WINDOW:STEPS,... pooling window and its steps")
    parser.add_argument("--batch", type=int, default=8, help="images per step")
    parser.add_argument("--yes-no", type=int, default=2, help="yes/no questions per image and step")
    parser.add_argument(
        "--yes-no-weight", type=float, default=0.4, help="loss weight of a yes/no question; open ones weigh 1"
    )
    parser.add_argument("--balance", action="store_true", help="as many surprising yes/no answers as expected ones")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--lr-projector", type=float, default=1e-3)
    parser.add_argument("--lr-lora", type=float, default=5e-4)
    parser.add_argument("--warmup", type=int, default=30)
    parser.add_argument("--eval-every", type=int, default=50)
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop, evaluate and export after this time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true", help="continue from the checkpoint in --out")
    return parser.parse_args()


class Student(nn.Module):
    """Projector and decoder, fed with standardised encoder features and packed questions."""

    prefix: torch.Tensor
    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, model: Any, prompt: Prompt, rank: int, mean: torch.Tensor, std: torch.Tensor) -> None:
        super().__init__()
        config = LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=TARGETS, bias="none")
        self.projector = model.model.multi_modal_projector.requires_grad_(True)
        self.decoder: Any = get_peft_model(model.model.language_model.to(torch.bfloat16), config)
        self.embedding = model.get_input_embeddings().weight  # (vocabulary, 576) bfloat16, frozen
        self.register_buffer("prefix", torch.tensor(prompt.prefix))
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, features: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Returns the logits of the predicted tokens, (A, vocabulary)."""
        b = features.shape[0]
        visual = self.projector((features - self.mean) / self.std)  # (b, V, 576)
        prefix = nn.functional.embedding(self.prefix, self.embedding).expand(b, -1, -1)
        text = nn.functional.embedding(batch.text, self.embedding)
        embeds = torch.cat([prefix, visual.to(prefix.dtype), text], 1)  # (b, N, 576)
        bias = torch.zeros(batch.mask.shape, dtype=embeds.dtype).masked_fill_(
            ~batch.mask, torch.finfo(embeds.dtype).min
        )
        states = self.decoder(inputs_embeds=embeds, attention_mask=bias, position_ids=batch.positions, use_cache=False)
        picked = states.last_hidden_state[batch.rows, batch.columns]  # (A, 576)
        return nn.functional.linear(picked, self.embedding)


def per_question(values: torch.Tensor, batch: Batch, how: str) -> torch.Tensor:
    """Reduces a value per predicted token, (A,), to one per question, (Q,)."""
    out = values.new_zeros(len(batch.weights))
    return out.scatter_reduce(0, batch.owners, values, how, include_self=False)


class Data:
    """Training and held-out images with their features and questions."""

    def __init__(self, args: argparse.Namespace, model: Any, processor: Any) -> None:
        folder = (args.cache or cache_dir()) / "training"
        source = EasyVQA(folder, "train")
        self._groups = source.by_image()
        self._args = args
        self.store: np.ndarray = encode(
            model, processor, source, list(range(args.images)), folder / f"train_{args.images}.f16"
        )
        self.prompt = Prompt.of(processor)
        self.trained = args.images - HELD_OUT

    def _load(self, images: list[int], groups: list[list[Question]], window: int) -> tuple[torch.Tensor, Batch]:
        features = torch.from_numpy(np.stack([self.store[i] for i in images]).astype(np.float32))
        return pooled(features, window), pack(self.prompt, groups, window, self._args.yes_no_weight)

    def step(self, number: int, window: int) -> tuple[torch.Tensor, Batch]:
        """Returns the batch of a step; it depends on seed and step alone, so a resumed run sees the same data."""
        size, rng = self._args.batch, random.Random(f"{self._args.seed}-{number}")  # noqa: S311
        images = [self._nth(number * size + i) for i in range(size)]
        return self._load(images, [self._choose(image, rng) for image in images], window)

    def _nth(self, index: int) -> int:
        epoch, place = divmod(index, self.trained)
        order = np.random.default_rng([self._args.seed, epoch]).permutation(self.trained)
        return int(order[place])

    def _choose(self, image: int, rng: random.Random) -> list[Question]:
        groups: dict[str, list[Question]] = {"open": [], "expected": [], "surprising": []}
        for question in self._groups[image]:
            groups[question.kind].append(question)
        if not self._args.balance:
            closed = [question for question in self._groups[image] if not question.is_open]
            return groups["open"] + rng.sample(closed, min(self._args.yes_no, len(closed)))
        opposed = [groups["expected"], groups["surprising"]]
        each = min(self._args.yes_no, *map(len, opposed))
        return groups["open"] + [question for group in opposed for question in rng.sample(group, each)]

    def held_out(self, window: int) -> list[tuple[torch.Tensor, Batch]]:
        """Returns all questions of the held-out images in batches."""
        images = list(range(self.trained, self._args.images))
        pieces = [images[i : i + 10] for i in range(0, len(images), 10)]
        return [self._load(piece, [self._groups[i] for i in piece], window) for piece in pieces]


def held_out_accuracy(student: Student, data: Data, window: int) -> dict[str, float]:
    """Returns exact-match accuracies; all argmax tokens right is what greedy decoding needs to answer right."""
    hits: dict[str, list[float]] = {"open": [], "expected": [], "surprising": []}
    for features, batch in data.held_out(window):
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            right = (student(features, batch).argmax(-1) == batch.targets).float()
        for kind, hit in zip(batch.kinds, per_question(right, batch, "amin").tolist(), strict=True):
            hits[kind].append(hit)
    means = {kind: round(float(np.mean(values)), 4) for kind, values in hits.items()}
    return means | {"yes_no": round(float(np.mean(hits["expected"] + hits["surprising"])), 4)}


def train_step(
    student: Student, optimizer: torch.optim.Optimizer, features: torch.Tensor, batch: Batch
) -> tuple[float, float]:
    """Takes one step and returns the loss and the open-question accuracy of the batch."""
    with torch.autocast("cpu", torch.bfloat16):
        logits = student(features, batch).float()
    losses = per_question(nn.functional.cross_entropy(logits, batch.targets, reduction="none"), batch, "mean")
    loss = (losses * batch.weights).sum() / batch.weights.sum()
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], CLIP_NORM)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    right = per_question((logits.argmax(-1) == batch.targets).float(), batch, "amin")
    return loss.item(), right[batch.is_open].mean().item()


def rate(step: int, total: int, warmup: int) -> float:
    """Returns the share of the peak learning rate: linear warm-up, then cosine to 5 %."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def window_at(step: int, phases: list[tuple[int, int]]) -> int:
    """Returns the pooling window in force at a step."""
    for window, steps in phases:
        if step < steps:
            return window
        step -= steps
    return phases[-1][0]


def build_optimizer(args: argparse.Namespace, student: Student) -> torch.optim.Optimizer:
    """Returns AdamW with one group for the projector and one for LoRA, each with its peak learning rate."""
    lora = [value for value in student.decoder.parameters() if value.requires_grad]
    groups = [
        {"params": list(student.projector.parameters()), "peak": args.lr_projector},
        {"params": lora, "peak": args.lr_lora},
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98), weight_decay=0.0, fused=True)


def run(args: argparse.Namespace, student: Student, data: Data) -> tuple[int, float]:
    """Trains through all phases with log and checkpoints, and returns the steps done and the seconds spent."""
    phases = [(int(a), int(b)) for a, b in (phase.split(":") for phase in args.phases.split(","))]
    total = sum(steps for _, steps in phases)
    optimizer = build_optimizer(args, student)
    step, spent = restore(args.out, student, optimizer) if args.resume else (0, 0.0)
    began = time.monotonic() - spent
    with Progress() as bars, (args.out / "log.jsonl").open("a" if args.resume else "w") as log:
        bar = bars.add_task("train", total=total, completed=step)
        while step < total and time.monotonic() - began < 60 * args.minutes:
            window = window_at(step, phases)
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * rate(step, total, args.warmup)
            loss, right = train_step(student, optimizer, *data.step(step, window))
            step += 1
            row: dict[str, Any] = {"step": step, "window": window, "loss": loss, "batch_open": right}
            row["seconds"] = round(time.monotonic() - began, 1)
            if step % args.eval_every == 0 or step == total:
                row["held_out"] = held_out_accuracy(student, data, window)
                save(args.out, student, optimizer, step, time.monotonic() - began)
            log.write(json.dumps(row) + "\n")
            log.flush()
            bars.update(bar, completed=step, description=f"window {window} loss {loss:.3f} open {right:.2f}")
    if step:
        save(args.out, student, optimizer, step, time.monotonic() - began)
    return step, time.monotonic() - began


def main() -> None:
    """Prepares everything, then trains."""
    args = arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    prepare(args.cache)
    model, processor = load(args.cache, adapter=False)
    data = Data(args, model, processor)
    model.requires_grad_(False)
    student = Student(model, data.prompt, args.rank, *statistics(data.store))
    steps, seconds = run(args, student, data)
    summary = {"steps": steps, "images_per_step": args.batch, "phases": args.phases, "images": data.trained}
    summary |= {"minutes": round(seconds / 60, 1), "seed": args.seed, "held_out": held_out_accuracy(student, data, 1)}
    Exporter(args.out / "adapter", args.rank).export(student, summary)


if __name__ == "__main__":
    main()
