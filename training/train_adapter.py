"""Trains the embedded model's adapter: first the eye, then the decoder on the eye as it ships.

Run: python training/train_adapter.py --out out --eye-minutes 7 --decoder-minutes 9

Pictures are drawn by processes beside the training, each from a number. A command that is repeated
with its `--out` goes on where it stopped, from checkpoints a minute old at most. All that is said
goes to `log.jsonl`, one JSON object per line.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from decoder import Composer, DecoderPlan, measure, train_decoder
from easy_vqa import EasyVQA
from eye import Eye, EyePlan, Heads, Teacher, train_eye
from eye import measure as measure_eye
from packing import Prompt
from recipes import RECIPES, RUN
from shipping import DECODER_FILE, EYE_FILE, Shipped, encoder, folded, halves
from stage import Log, Machine
from student import Student
from supply import Order, Supply
from targets import Dictionary

from sparsight.models.embedded import cache_dir, load, prepare
from sparsight.models.embedded.adapter import MANIFEST_FILE
from sparsight.models.embedded.assemble import model_dir

_TRIAL = {"cpu": 4, "cuda": 24}  # steps of each stage, of all shapes


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add = parser.add_argument
    add("--out", type=Path, default=Path("training/out"), help="log, checkpoints and adapter")
    add("--cache", type=Path, default=None, help="cache folder of the embedded model")
    add("--fonts", type=Path, default=None, help="folder of .ttf files for dense pictures")
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--stage", choices=("eye", "all"), default="all")
    add("--eye", type=Path, default=None, help="adapter whose trained eye is taken as it is")
    add("--eye-minutes", type=float, default=90.0)
    add("--decoder-minutes", type=float, default=180.0)
    add("--decoder-steps", type=int, default=None, help="at most, whatever the time")
    add("--recipes", nargs="+", choices=tuple(RECIPES), default=tuple(RECIPES), metavar="NAME")
    add("--eye-batch", type=int, default=None, help="images per step; 96 on cuda, 8 on the CPU")
    add("--tokens", type=int, default=None, help="per decoder step; 32000 on cuda, 4000 on the CPU")
    add("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 2), help="drawing processes")
    add("--keep", type=int, default=None, help="rows kept to be shown again")
    add("--held-out", type=int, default=32, help="held-out rows of each recipe")
    add("--measure-every", type=float, default=120.0, help="seconds between accuracies")
    add("--subsets", type=float, default=0.5, help="share of steps on random visual tokens")
    add("--rank", type=int, default=16, help="of the LoRA matrices")
    add("--rate", type=float, default=1e-3, help="peak learning rate of the LoRA matrices")
    add("--encoder-bits", type=int, default=5)
    add("--decoder-bits", type=int, default=8)
    add("--seed", type=int, default=0)
    add("--smoke", action="store_true", help="a few steps of everything, to see that it runs")
    return parser.parse_args()


def settle(args: argparse.Namespace) -> argparse.Namespace:
    """Fill in what depends on the device, and make a trial small."""
    large = args.device == "cuda"
    args.eye_batch = args.eye_batch or (96 if large else 8)
    args.tokens = args.tokens or (32_000 if large else 4_000)
    args.keep = args.keep or (48_000 if large else 3_000)
    args.steps = _TRIAL[args.device] if args.smoke else None
    if args.smoke:
        args.held_out, args.measure_every = (2, 5.0) if large else (1, 1e9)
        if not large:
            args.eye_batch = 2
            args.tokens, args.keep = 1_500, 256
    return args


@dataclass(frozen=True)
class Run:
    """All that the stages share.

    Args:
        args: the command line.
        machine: where to compute.
        model: the embedded model without an adapter.
        processor: its processor.
        supply: gives rows.
        eye: what is trained first.
        ship: writes the adapter.
        log: of everything that is no stage.
    """

    args: argparse.Namespace
    machine: Machine
    model: Any
    processor: Any
    supply: Supply
    eye: Eye
    ship: Shipped
    log: Log


def begin(args: argparse.Namespace) -> Run:
    """Prepare the model, start drawing and return all that the stages share."""
    began, log = time.monotonic(), Log(args.out / "log.jsonl", "run")
    folder = (args.cache or cache_dir()) / "training"
    prepare(args.cache)
    EasyVQA(folder, "train")  # fetches it once, before the processes look for it
    order = Order(
        model=model_dir(args.cache),
        cache=folder,
        fonts=args.fonts,
        first=_first(args),
        workers=args.workers,
        held_out=args.held_out,
        recipes=tuple(args.recipes),
    )
    supply = Supply(order, args.keep, args.seed)
    machine = Machine.of(args.device)
    torch.manual_seed(args.seed)
    model: Any
    model, processor = load(args.cache, adapter=False)
    model.requires_grad_(False)
    eye = Eye(model, machine)
    bits = {"encoder": args.encoder_bits, "projector": 8, "decoder": args.decoder_bits}
    ship = Shipped(args.out / "adapter", bits, encoder(eye))
    model.to(machine.device)
    eye.to(machine.device)
    settings = {key: str(value) for key, value in vars(args).items()}
    supply.wait(32)
    log.write({"settings": settings, "ready": round(time.monotonic() - began, 1)})
    return Run(args, machine, model, processor, supply, eye, ship, log)


def _first(args: argparse.Namespace) -> int:
    """Return the number of the first shard, far from those of earlier processes and other seeds."""
    earlier = len(list(args.out.glob("started-*")))
    (args.out / f"started-{earlier}").touch()
    first: int = RUN * (100 * args.seed + earlier)
    return first


def run_eye(run: Run) -> dict[str, Any]:
    """Train the eye, pack it, measure what packing costs, and give the eye what ships."""
    args = run.args
    if args.eye is not None:
        shutil.copyfile(args.eye / EYE_FILE, run.ship.folder / EYE_FILE)
        run.ship.show_eye(run.eye)
        return {"eye_of": json.loads((args.eye / MANIFEST_FILE).read_text("utf-8"))["files"]}
    words = Dictionary(run.processor.tokenizer, run.model.get_input_embeddings().weight.detach())
    plan = EyePlan(args.eye_minutes, args.eye_batch, args.steps, args.seed)
    done = train_eye(run.eye, words, run.supply, run.machine, plan=plan, out=args.out)
    halves(encoder(run.eye) | folded(run.eye), args.out, "eye_half", 2)
    run.ship.write_eye(run.eye)
    run.ship.show_eye(run.eye)
    teacher = Teacher(run.eye, Heads(run.eye.width).to(run.machine.device), words)
    packed = measure_eye(teacher, run.supply.held_out, run.machine)
    run.log.write({"packed eye": packed})
    return {"eye_minutes": round(done.seconds / 60, 1), "eye_steps": done.step}


def run_decoder(run: Run) -> dict[str, Any]:
    """Train the decoder, pack its changes and measure all of it."""
    args = run.args
    run.supply.forget()
    prompt = Prompt.of(run.processor)
    student = Student(run.model, prompt, args.rank, run.machine)
    plan = DecoderPlan(
        args.decoder_minutes,
        args.tokens,
        args.steps if args.smoke else args.decoder_steps,
        args.smoke,
        args.subsets,
        args.rate,
        args.measure_every,
        args.seed,
    )
    composer = Composer(run.supply, prompt, plan, run.machine)
    done = train_decoder(student, run.eye, composer, run.supply, plan=plan, out=args.out)
    halves(student.lora(), args.out, "decoder_half", 1)
    whole = measure(student, run.eye, run.supply.held_out, prompt, run.machine)
    run.log.write({"held_out": whole, "packed": False})
    run.ship.write_decoder(student.lora())
    run.ship.write_manifest(args.rank, {})
    run.ship.show_decoder(student)
    for share in (1.0, 1 / 3, 1 / 9):
        reached = measure(student, run.eye, run.supply.held_out, prompt, run.machine, share=share)
        run.log.write({"held_out": reached, "packed": True, "share": round(share, 3)})
    return {"decoder_minutes": round(done.seconds / 60, 1), "decoder_steps": done.step}


def main() -> None:
    """Run the stages that are asked for and write the adapter."""
    args = settle(arguments())
    args.out.mkdir(parents=True, exist_ok=True)
    run = begin(args)
    training: dict[str, Any] = {"seed": args.seed, "subsets": args.subsets, "device": args.device}
    training |= run_eye(run)
    if args.stage != "eye":
        training |= run_decoder(run)
    if (run.ship.folder / DECODER_FILE).is_file():
        rows = {str(shape): count for shape, count in run.supply.drawn.items()}
        run.ship.write_manifest(args.rank, training | {"rows": rows})
        with tarfile.open(args.out / "adapter.tar", "w") as archive:
            archive.add(run.ship.folder, "adapter")
    run.supply.close()
    run.log.write({"finished": True, **training, **run.supply.facts()})


if __name__ == "__main__":
    main()
