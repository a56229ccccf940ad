"""Whether two checkouts answer bit for bit alike: tiny random models and the embedded one, every shipped method.

    python benchmarks/same_answers.py OTHER_CHECKOUT

Each checkout runs in a process of its own, on this machine, with the packages of this environment.
What is compared: which tokens were kept and recycled at each site, logits of the prefill, greedy
answers, lengths and bytes of the cache. Prints what differs, and exits with 1 if anything does.
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

VOCABULARY, IMAGE, SIDE, PATCH = 96, 3, 48, 8
TEXT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.5,
}
ROWS = ([7], [3, 9], [12, 4, 6])  # words around one image, or around two


def llava() -> Any:
    """A LLaVA of eight layers and random weights."""
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
    model.generation_config.pad_token_id, model.generation_config.eos_token_id = 0, None
    return model.double().eval()


def batch(rows: tuple[list[int], ...]) -> dict[str, torch.Tensor]:
    """Prompts of random words and images, padded in front."""
    random, ids, images = torch.Generator().manual_seed(0), [], 0
    for row in rows:
        tokens = [1]
        for words in row:
            tokens += [IMAGE] * (SIDE // PATCH) ** 2
            tokens += torch.randint(10, VOCABULARY, (words + 8,), generator=random).tolist()
            images += 1
        ids.append(tokens)
    longest = max(map(len, ids))
    mask = [[0] * (longest - len(row)) + [1] * len(row) for row in ids]
    pixels = torch.randn(images, 3, SIDE, SIDE, generator=random, dtype=torch.float64)
    padded = torch.tensor([[0] * (longest - len(row)) + row for row in ids])
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


def methods() -> Iterator[tuple[str, Any]]:
    """Yield the name and the instance of every method at every budget."""
    for retain in (0.6, 0.3):
        for template in METHODS:
            name = template.format(retain)
            yield name, eval(name, vars(sparsight.methods))  # noqa: S307


def digest(*parts: Any) -> str:
    """Return a short hash of tensors and lists."""
    found = hashlib.sha256()
    for part in parts:
        data = (
            part.contiguous().numpy().tobytes()
            if isinstance(part, torch.Tensor)
            else repr(part).encode()
        )
        found.update(data)
    return found.hexdigest()[:16]


def cases() -> dict[str, dict[str, str]]:
    """Run every method on every batch."""
    torch.set_num_threads(1)
    model, found = llava(), {}
    inputs = {
        "one": batch(ROWS[:1]),
        "two": batch(ROWS[1:2]),
        "ragged": batch(ROWS[:1] * 2 + ([5],)),
        "mixed": batch(ROWS),
    }
    for asked, method in methods():
        for name, given in inputs.items():
            if type(method).__name__ == "Downscale" and name == "mixed":
                continue  # samples with different numbers of images share no batch there
            with torch.no_grad(), sparsify(model, method) as run:
                logits = model(**given).logits
                sites = [
                    [(s.site, s.keep.tolist(), s.centres.tolist()) for s in own]
                    for own in run.trace.samples
                ]
                held = (
                    run.stats.tokens_per_layer,
                    run.stats.kv_cache_bytes,
                    run.stats.prefill_flops,
                )
                said = model.generate(**given, max_new_tokens=4, do_sample=False).tolist()
            found[f"{asked} {name}"] = {
                "kept": digest(sites),
                "logits": digest(logits),
                "said": digest(said),
                "held": digest(held),
            }
    return found


def run_in(checkout: Path) -> dict[str, dict[str, str]]:
    """Run the cases with a checkout's package."""
    environment = os.environ | {"PYTHONPATH": str(checkout / "src")}
    command = [sys.executable, __file__, "--cases"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise SystemExit(f"{checkout}: {done.stderr.strip().splitlines()[-1]}")
    found: dict[str, dict[str, str]] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("other", nargs="?", type=Path, help="the checkout to compare this one with")
    parser.add_argument("--cases", action="store_true", help="print this checkout's cases")
    given = parser.parse_args()
    if given.cases:
        print(json.dumps(cases()))
        return
    if given.other is None or not (given.other / "src" / "sparsight").is_dir():
        raise SystemExit(f"{given.other} is no checkout; give the folder that holds src/sparsight.")
    mine, other = run_in(Path(__file__).parents[1]), run_in(given.other)
    differing = 0
    for name in sorted(mine.keys() | other.keys()):
        parts = [
            part
            for part in ("kept", "held", "said", "logits")
            if mine.get(name, {}).get(part) != other.get(name, {}).get(part)
        ]
        differing += bool(parts)
        if parts:
            print(f"{name}: {', '.join(parts)}")
    print(f"{len(mine)} cases, {differing} differ")
    raise SystemExit(bool(differing))


if __name__ == "__main__":
    main()
