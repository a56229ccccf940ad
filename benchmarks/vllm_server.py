"""Requests per second and time to first token of vLLM's OpenAI server, dense and pruned.

.venv-vllm/bin/python benchmarks/vllm_server.py --out benchmarks/results/vllm-server-cpu.json

Random checkpoints of two shapes are made, and one server of each is asked about pictures that it
has not seen: alone, for the time to the first token, and several at once, for requests a second.
Budgets take turns, so that other work on the machine meets all of them; medians are over rounds.
The last line is the JSON that was written.
"""

import argparse
import base64
import io
import json
import os
import platform
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

BUDGETS: dict[str, float] = {"dense": 1.0, "25 %": 0.25, "11 %": 0.11}
ARCHITECTURE = "SparsightLlavaForConditionalGeneration"
ANSWER = 8  # tokens
WORDS = 24  # of a question


class Shape(NamedTuple):
    """A checkpoint.

    Args:
        side: pixels of an image, whose patches are 14 x 14.
        text: changes of the tiny decoder's config.
        rounds: that every budget is asked in.
        at_once: requests at the same time.
    """

    side: int
    text: dict[str, int]
    rounds: int
    at_once: int


SHAPES = {
    "tiny": Shape(112, {}, 5, 4),
    "large": Shape(
        336,
        {
            "hidden_size": 512,
            "intermediate_size": 1408,
            "num_hidden_layers": 8,
            "num_attention_heads": 8,
            "num_key_value_heads": 8,
        },
        2,
        3,
    ),
}


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--shape", choices=SHAPES, action="append", help="default: all")
    parser.add_argument("--rounds", type=int, default=None, help="default: that of the shape")
    parser.add_argument("--method", default="sparsight", help="which chooses the tokens")
    parser.add_argument("--note", default="", help="kept with the results, such as other work")
    parser.add_argument("--out", type=Path, default=None, help="JSON file of the results")
    return parser.parse_args()


def make_bodies(side: int) -> Iterator[dict[str, Any]]:
    """Yield requests about pictures that differ; a budget is still to be set."""
    from tests.support.vllm_engine import picture  # noqa: PLC0415  # vLLM's environment alone

    for seed in count(1):
        written = io.BytesIO()
        picture(seed, side, side).save(written, "PNG")
        url = "data:image/png;base64," + base64.b64encode(written.getvalue()).decode()
        question = " ".join(f"w{20 + (seed * 7 + place) % 250}" for place in range(WORDS))
        parts = [
            {"type": "image_url", "image_url": {"url": url}},
            {"type": "text", "text": question},
        ]
        yield {
            "model": "tiny",
            "messages": [{"role": "user", "content": parts}],
            "max_tokens": ANSWER,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }


def ask(url: str, body: dict[str, Any], retain: float) -> tuple[float, int]:
    """Return seconds to the first token of an answer, and the prompt's tokens."""
    body = {**body, "mm_processor_kwargs": {"sparsight_retain": retain}}
    request = urllib.request.Request(  # noqa: S310  # our own server
        url + "/v1/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    first, tokens = 0.0, 0
    start = time.perf_counter()
    with urllib.request.urlopen(request, timeout=600) as answer:  # noqa: S310
        for line in answer:
            if not line.startswith(b"data: {"):
                continue
            chunk = json.loads(line[6:])
            if chunk["choices"] and "content" in chunk["choices"][0]["delta"]:
                # the first chunk only says who speaks
                said = chunk["choices"][0]["delta"]["content"]
                first = first or (time.perf_counter() - start if said else 0.0)
            tokens = (chunk.get("usage") or {}).get("prompt_tokens", tokens)
    return first, tokens


def measure(url: str, shape: Shape, rounds: int) -> dict[str, Any]:
    """Return medians of each budget, which take turns."""
    bodies = make_bodies(shape.side)
    firsts: dict[str, list[float]] = {name: [] for name in BUDGETS}
    rates: dict[str, list[float]] = {name: [] for name in BUDGETS}
    prompts: dict[str, int] = {}
    for turn in range(rounds + 1):  # the first one warms up
        for name, retain in BUDGETS.items():
            first, prompts[name] = ask(url, next(bodies), retain)
            batch = [next(bodies) for _ in range(shape.at_once)]
            start = time.perf_counter()
            with ThreadPoolExecutor(shape.at_once) as pool:
                waiting = [pool.submit(ask, url, body, retain) for body in batch]
                for answer in waiting:
                    answer.result()
            if turn:
                firsts[name].append(first)
                rates[name].append(len(batch) / (time.perf_counter() - start))
    return {name: summarise(prompts[name], firsts[name], rates[name]) for name in BUDGETS}


def summarise(prompt: int, firsts: list[float], rates: list[float]) -> dict[str, Any]:
    """Return what was measured with one budget, and its medians.

    Args:
        prompt: tokens of the prompt.
        firsts: seconds to the first token, of each round.
        rates: requests a second, of each round.
    """
    return {
        "prompt_tokens": prompt,
        "ttft_ms": round(1000 * statistics.median(firsts), 1),
        "requests_per_second": round(statistics.median(rates), 3),
        "ttft_ms_all": [round(1000 * value, 1) for value in firsts],
        "requests_per_second_all": [round(value, 3) for value in rates],
    }


def add_flops(results: dict[str, Any], config: Any) -> None:
    """Add the FLOPs of each budget's prefill in the decoder, as a share of the dense one's."""
    from sparsight.counts.cost import DecoderShape, decoder_macs  # noqa: PLC0415

    text = config.text_config
    shape = DecoderShape(
        text.num_hidden_layers,
        text.hidden_size,
        text.num_attention_heads,
        text.num_key_value_heads,
        text.head_dim,
        text.intermediate_size,
    )
    dense = decoder_macs(shape, [results["dense"]["prompt_tokens"]] * shape.layers)
    for row in results.values():
        macs = decoder_macs(shape, [row["prompt_tokens"]] * shape.layers)
        row["decoder_prefill_flops_share"] = round(macs / dense, 4)


def run(name: str, given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Return what was measured with one shape."""
    from transformers import AutoConfig  # noqa: PLC0415

    from tests.support.vllm_models import save_llava  # noqa: PLC0415
    from tests.support.vllm_server import server  # noqa: PLC0415

    shape, sparsight = SHAPES[name], {"method": given.method}
    save_llava(folder, shape.side, **shape.text)
    words = ("--trust-request-mm-kwargs", "--max-num-batched-tokens", "4096")
    log = folder / "server.log"
    with server(folder, ARCHITECTURE, sparsight, *words, log=log) as running:
        results = measure(running.url, shape, given.rounds or shape.rounds)
    config = AutoConfig.from_pretrained(folder)
    add_flops(results, config)
    text = config.text_config
    return {
        "decoder": f"{text.num_hidden_layers} layers of {text.hidden_size}",
        "visual_tokens": (shape.side // 14) ** 2,
        "requests_at_once": shape.at_once,
        "answer_tokens": ANSWER,
        "budgets": results,
    }


def main() -> None:
    """Measure, write and print."""
    given = parse()
    results: dict[str, Any] = {}
    for name in given.shape or SHAPES:
        with tempfile.TemporaryDirectory() as folder:
            results[name] = run(name, given, Path(folder))
        print(f"{name}: done", file=sys.stderr)
    written = {
        "method": given.method,
        "note": given.note,
        "cores": os.cpu_count(),
        "load": [round(value, 1) for value in os.getloadavg()],
        "versions": {name: version(name) for name in ("torch", "transformers", "sparsight")},
        "python": platform.python_version(),
        "shapes": results,
    }
    if given.out is not None:
        given.out.write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(written))


if __name__ == "__main__":
    main()
