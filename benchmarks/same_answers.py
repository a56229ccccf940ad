"""Compares two checkouts bit for bit, on tiny random models and every shipped method.

    python benchmarks/same_answers.py OTHER_CHECKOUT

Each checkout runs in a process of its own, on this machine, with the packages of this environment.
Compared are: the tokens kept and recycled at each site, logits of the prefill, greedy answers, and
lengths and bytes of the cache. Prints what differs, and exits with 1 if anything does.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

import sparsight.methods
from sparsight import sparsify

VOCABULARY, IMAGE = 96, 3
SIDE, PATCH = 48, 8  # px
TEXT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.5,
}
ROWS = ([7], [3, 9], [12, 4, 6])  # for each prompt, text tokens behind each of its images
COMPARED = ("kept", "held", "said", "logits")


def build_llava() -> Any:
    """Return a LLaVA of eight layers with random weights, in float64."""
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=SIDE,
        patch_size=PATCH,
        initializer_range=0.3,
    )
    config = LlavaConfig(  # type: ignore[call-arg]
        vision_config=vision,
        text_config=LlamaConfig(**TEXT),
        image_token_id=IMAGE,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration._from_config(config, attn_implementation="sdpa")  # type: ignore[no-untyped-call]
    model.generation_config.pad_token_id = 0
    model.generation_config.eos_token_id = None
    return model.double().eval()


def build_batch(rows: tuple[list[int], ...]) -> dict[str, torch.Tensor]:
    """Return prompts of random tokens and images, padded on the left."""
    random = torch.Generator().manual_seed(0)
    prompts = []
    images = 0
    for row in rows:
        tokens = [1]
        for words in row:
            tokens += [IMAGE] * (SIDE // PATCH) ** 2
            tokens += torch.randint(10, VOCABULARY, (words + 8,), generator=random).tolist()
            images += 1
        prompts.append(tokens)
    longest = max(map(len, prompts))
    mask = [[0] * (longest - len(row)) + [1] * len(row) for row in prompts]
    pixels = torch.randn(images, 3, SIDE, SIDE, generator=random, dtype=torch.float64)
    padded = torch.tensor([[0] * (longest - len(row)) + row for row in prompts])
    return {"input_ids": padded, "attention_mask": torch.tensor(mask), "pixel_values": pixels}


# every shipped method, at the settings that take different paths; written as text, so that a case
# has one name in both checkouts, even where their methods print differently
METHODS = (
    "SparseVLM(retain={})",
    "SparseVLM(retain={}, positions='renumber', aggregate='sum', tau=0.6, theta=0.3)",
    "SparseVLM(retain={}, recycle=False, sites=(2, 5))",
    "SparseVLM(retain={}, level='rank')",
    "SparseVLMPlus(retain={})",
    "Random(retain={})",
    "Uniform(retain={})",
    "Uniform(retain={}, sites=(2, 4))",
    "Pool(retain={})",
    "Downscale(retain={})",
)


def list_methods() -> Iterator[tuple[str, Any]]:
    """Yield the name and the instance of every method at every budget."""
    for retain in (0.6, 0.3):
        for template in METHODS:
            name = template.format(retain)
            yield name, eval(name, vars(sparsight.methods))  # noqa: S307


def digest(*parts: Any) -> str:
    """Return a short hash of tensors and lists."""
    sha256 = hashlib.sha256()
    for part in parts:
        if isinstance(part, torch.Tensor):
            sha256.update(part.contiguous().numpy().tobytes())
        else:
            sha256.update(repr(part).encode())
    return sha256.hexdigest()[:16]


def run_cases() -> dict[str, dict[str, str]]:
    """Return the digests of every method on every batch."""
    torch.set_num_threads(1)
    model = build_llava()
    batches = {
        "one": build_batch(ROWS[:1]),
        "two": build_batch(ROWS[1:2]),
        "ragged": build_batch(ROWS[:1] * 2 + ([5],)),
        "mixed": build_batch(ROWS),
    }
    cases = {}
    for asked, method in list_methods():
        for name, inputs in batches.items():
            # Downscale takes no batch of samples with different numbers of images
            if type(method).__name__ != "Downscale" or name != "mixed":
                cases[f"{asked} {name}"] = run_case(model, inputs, method)
    return cases


@torch.no_grad()
def run_case(model: Any, inputs: dict[str, torch.Tensor], method: Any) -> dict[str, str]:
    """Return the digests of one method on one batch."""
    with sparsify(model, method) as run:
        logits = model(**inputs).logits
        stats = run.stats
        kept = []
        for sites in run.trace.samples:
            kept.append([(one.site, one.keep.tolist(), one.centres.tolist()) for one in sites])
        said = model.generate(**inputs, max_new_tokens=4, do_sample=False).tolist()
    held = (stats.tokens_per_layer, stats.kv_cache_bytes, stats.prefill_flops)
    return {
        "kept": digest(kept),
        "logits": digest(logits),
        "said": digest(said),
        "held": digest(held),
    }


def run_in(checkout: Path) -> dict[str, dict[str, str]]:
    """Return the digests that the package of a checkout gives."""
    environment = os.environ | {"PYTHONPATH": str(checkout / "src")}
    command = [sys.executable, __file__, "--cases"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise SystemExit(f"{checkout}: {done.stderr.strip().splitlines()[-1]}")
    cases: dict[str, dict[str, str]] = json.loads(done.stdout.splitlines()[-1])
    return cases


def main() -> None:
    """Compare two checkouts, or print the digests of this one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("other", nargs="?", type=Path, help="the checkout to compare this one with")
    parser.add_argument("--cases", action="store_true", help="print this checkout's cases")
    args = parser.parse_args()
    if args.cases:
        print(json.dumps(run_cases()))
        return
    if args.other is None or not (args.other / "src" / "sparsight").is_dir():
        raise SystemExit(f"{args.other} is no checkout; give the folder that holds src/sparsight.")
    here = run_in(Path(__file__).parents[1])
    there = run_in(args.other)
    differing = 0
    for name in sorted(here.keys() | there.keys()):
        mine = here.get(name, {})
        other = there.get(name, {})
        parts = [part for part in COMPARED if mine.get(part) != other.get(part)]
        if parts:
            differing += 1
            print(f"{name}: {', '.join(parts)}")
    print(f"{len(here)} cases, {differing} differ")
    raise SystemExit(bool(differing))


if __name__ == "__main__":
    main()
