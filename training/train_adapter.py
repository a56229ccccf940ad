"""Trains the embedded model's adapter on scenes, clips and drawn shapes: encoder layers, projector, LoRA matrices.

Run: THP_MEM_ALLOC_ENABLE=1 MALLOC_MMAP_MAX_=0 python training/train_adapter.py --minutes 60

The encoder's first layers are frozen and run once per image. Its last layers and the projector are
trained first, without the decoder (`align.py`); then they are frozen too, and LoRA matrices teach
the decoder to answer: at first from a few patches of each image, where a step costs a fraction, and
at the end from all of them.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import scene_data
import torch
from align import align, sources
from checkpoint import Exporter, restore, save
from easy_vqa import EasyVQA
from features import Eye, encode, look
from mixture import Mixture, Tokens, Work
from packing import Batch, Layout, Prompt
from peft import LoraConfig, get_peft_model
from rich.progress import Progress
from safetensors.torch import load_file, save_file
from targets import GRID, Dictionary
from torch import nn

from sparsight.models.embedded import cache_dir, load, prepare

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CLIP_NORM = 1.0


def arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("training/out"),
        help="folder of log, checkpoint and adapter",
    )
    parser.add_argument(
        "--cache", type=Path, default=None, help="cache folder of the embedded model"
    )
    parser.add_argument(
        "--scenes", type=int, default=5000, help="scenes to compose, held-out ones included"
    )
    parser.add_argument(
        "--clips", type=int, default=400, help="clips to compose, held-out ones included"
    )
    parser.add_argument("--shapes", type=int, default=1500, help="easy-VQA training images to use")
    parser.add_argument(
        "--mixture",
        type=float,
        nargs=4,
        default=[0.8, 0.07, 0.06, 0.07],
        help="share of steps on scenes, several scenes at once, clips, shapes",
    )
    parser.add_argument("--align", type=int, default=1800, help="steps of the first stage")
    phases = "32:500,128:300,576:80"
    parser.add_argument(
        "--phases", default=phases, help="PATCHES:STEPS,... patches of an image that are shown"
    )
    parser.add_argument(
        "--batch", type=int, default=8, help="images per step; fewer where more of each is shown"
    )
    parser.add_argument("--questions", type=int, default=4, help="questions per scene, at most")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--warmup", type=int, default=30)
    parser.add_argument("--eval-every", type=int, default=100)
    parser.add_argument(
        "--minutes", type=float, default=math.inf, help="stop, evaluate and export after this time"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--resume", action="store_true", help="continue from the checkpoint in --out"
    )
    return parser.parse_args()


class Student(nn.Module):
    """The decoder with its LoRA matrices, fed with visual tokens and packed questions."""

    prefix: torch.Tensor
    between: torch.Tensor

    def __init__(self, model: Any, prompt: Prompt, rank: int) -> None:
        super().__init__()
        config = LoraConfig(
            r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=TARGETS, bias="none"
        )
        self.decoder: Any = get_peft_model(model.model.language_model.to(torch.bfloat16), config)
        self.embedding = model.get_input_embeddings().weight  # (vocabulary, 576) bfloat16, frozen
        self.register_buffer("prefix", torch.tensor(prompt.prefix))
        self.register_buffer("between", torch.tensor(prompt.between))

    def forward(self, tokens: torch.Tensor, layout: Layout, batch: Batch) -> torch.Tensor:
        """Returns the logits of the predicted tokens, (A, vocabulary)."""
        b = batch.text.shape[0]
        images = (
            tokens.to(self.embedding.dtype).view(b, layout.images, layout.seen, -1).unbind(1)
        )  # each (b, V, 576)
        parts = [self._embed(self.prefix).expand(b, -1, -1)]
        for number, image in enumerate(images):
            parts += (
                [image] if number == 0 else [self._embed(self.between).expand(b, -1, -1), image]
            )
        embeds = torch.cat([*parts, self._embed(batch.text)], 1)  # (b, N, 576)
        bias = torch.zeros(batch.mask.shape, dtype=embeds.dtype).masked_fill_(
            ~batch.mask, torch.finfo(embeds.dtype).min
        )
        states = self.decoder(
            inputs_embeds=embeds, attention_mask=bias, position_ids=batch.positions, use_cache=False
        )
        picked = states.last_hidden_state[batch.rows, batch.columns]  # (A, 576)
        return nn.functional.linear(picked, self.embedding)

    def _embed(self, ids: torch.Tensor) -> torch.Tensor:
        return nn.functional.embedding(ids, self.embedding)


def per_question(values: torch.Tensor, batch: Batch, how: str) -> torch.Tensor:
    """Reduces a value per predicted token, (A,), to one per question, (Q,)."""
    out = values.new_zeros(len(batch.weights))
    return out.scatter_reduce(0, batch.owners, values, how, include_self=False)


def held_out_accuracy(student: Student, data: Mixture, seen: int) -> dict[str, float]:
    """Returns exact-match accuracies; all argmax tokens right is what greedy decoding needs to answer right."""
    hits: dict[str, list[float]] = defaultdict(list)
    for work in data.held_out(seen):
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            logits = student(work.tokens, work.layout, work.batch)
        right = (logits.argmax(-1) == work.batch.targets).float()
        for kind, hit in zip(
            work.batch.kinds, per_question(right, work.batch, "amin").tolist(), strict=True
        ):
            hits[kind].append(hit)
    return {kind: round(float(np.mean(values)), 4) for kind, values in hits.items()}


def train_step(
    student: Student, optimizer: torch.optim.Optimizer, work: Work
) -> tuple[float, float]:
    """Takes one step and returns the loss and the share of questions that were answered rightly."""
    batch = work.batch
    with torch.autocast("cpu", torch.bfloat16):
        logits = student(work.tokens, work.layout, batch).float()
    losses = per_question(
        nn.functional.cross_entropy(logits, batch.targets, reduction="none"), batch, "mean"
    )
    loss = (losses * batch.weights).sum() / batch.weights.sum()
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], CLIP_NORM)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    right = per_question((logits.argmax(-1) == batch.targets).float(), batch, "amin")
    return loss.item(), right.mean().item()


def rate(step: float, total: int, warmup: int) -> float:
    """Returns the share of the peak learning rate: linear warm-up, then cosine to 5 %."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def seen_at(step: int, phases: list[tuple[int, int]]) -> int:
    """Returns how many patches of an image a step shows."""
    for seen, steps in phases:
        if step < steps:
            return seen
        step -= steps
    return phases[-1][0]


def build_optimizer(student: Student) -> torch.optim.Optimizer:
    """Returns AdamW over the LoRA matrices; every step sets its learning rate."""
    lora = [value for value in student.decoder.parameters() if value.requires_grad]
    return torch.optim.AdamW(lora, lr=0.0, betas=(0.9, 0.98), weight_decay=0.0, fused=True)


def run(args: argparse.Namespace, student: Student, data: Mixture) -> tuple[int, float]:
    """Trains through all phases with log and checkpoints, and returns the steps done and the seconds spent.

    Learning rates fall with the steps, or with the time where --minutes will end the run first.
    """
    phases = [(int(a), int(b)) for a, b in (phase.split(":") for phase in args.phases.split(","))]
    total = sum(steps for _, steps in phases)
    optimizer = build_optimizer(student)
    step, spent = restore(args.out, student, optimizer) if args.resume else (0, 0.0)
    began = time.monotonic() - spent
    log_mode = "a" if args.resume else "w"
    with (
        Progress() as bars,
        (args.out / "log.jsonl").open(log_mode) as log,
        ThreadPoolExecutor(1) as ahead,
    ):
        coming = ahead.submit(data.step, step, seen_at(step, phases))
        bar = bars.add_task("train", total=total, completed=step)
        while step < total and time.monotonic() - began < 60 * args.minutes:
            seen = seen_at(step, phases)
            done = max(step, total * (time.monotonic() - began) / (60 * args.minutes))
            for group in optimizer.param_groups:
                group["lr"] = args.lr * rate(done, total, args.warmup)
            work = coming.result()
            step += 1
            coming = ahead.submit(
                data.step, step, seen_at(step, phases)
            )  # composed while this step computes
            loss, right = train_step(student, optimizer, work)
            row: dict[str, Any] = {
                "step": step,
                "seen": seen,
                "loss": round(loss, 4),
                "right": round(right, 4),
            }
            row["seconds"] = round(time.monotonic() - began, 1)
            if step % args.eval_every == 0 or step == total:
                row["held_out"] = held_out_accuracy(student, data, seen)
                save(args.out, student, optimizer, step, time.monotonic() - began)
            log.write(json.dumps(row) + "\n")
            log.flush()
            bars.update(
                bar, completed=step, description=f"seen {seen} loss {loss:.3f} right {right:.2f}"
            )
    if step:
        save(args.out, student, optimizer, step, time.monotonic() - began)
    return step, time.monotonic() - began


def visual_tokens(
    args: argparse.Namespace, model: Any, processor: Any, folder: Path
) -> tuple[Eye, Tokens, EasyVQA]:
    """Encodes everything, runs the first stage unless its result is there, and looks at everything with it."""
    drawn = EasyVQA(folder, "train")
    pictures = (
        scene_data.scene_pictures(args.scenes),
        scene_data.clip_pictures(args.clips),
        drawn.pictures(args.shapes),
    )
    states = [encode(model, processor, of, folder) for of in pictures]
    eye = Eye(model, torch.from_numpy(states[0][:32].astype(np.float32)))
    path = args.out / "eye.safetensors"
    if not path.is_file():
        words = Dictionary(processor, model.get_input_embeddings().weight)
        given = sources(states[0], states[1], states[2], drawn)
        found = align(
            eye, words, given, steps=args.align, seed=args.seed, log=args.out / "align.jsonl"
        )
        (args.out / "eye.json").write_text(json.dumps(found) + "\n", encoding="utf-8")
        save_file(eye.state_dict(), path)
    eye.load_state_dict(load_file(path))
    eye.requires_grad_(False)
    seen = (
        look(eye, of, args.out / f"{what.name}.f16")
        for of, what in zip(states, pictures, strict=True)
    )
    return eye, Tokens(*seen), drawn


def main() -> None:
    """Prepares everything, then trains."""
    args = arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    prepare(args.cache)
    model, processor = load(args.cache, adapter=False)
    model.requires_grad_(False)
    eye, tokens, drawn = visual_tokens(
        args, model, processor, (args.cache or cache_dir()) / "training"
    )
    prompt = Prompt.of(processor)
    data = Mixture(args, prompt, tokens, drawn)
    student = Student(model, prompt, args.rank)
    summary: dict[str, Any] = {
        "batch": args.batch,
        "phases": args.phases,
        "scenes": args.scenes,
        "seed": args.seed,
    }
    summary |= {
        "align": args.align,
        "eye": json.loads((args.out / "eye.json").read_text(encoding="utf-8")),
    }
    steps, seconds = run(args, student, data)
    summary |= {"steps": steps, "minutes": round(seconds / 60, 1)}
    summary["held_out"] = held_out_accuracy(student, data, GRID**2)
    Exporter(args.out / "adapter", args.rank).export(eye, student.decoder, summary)


if __name__ == "__main__":
    main()
