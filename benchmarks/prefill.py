"""Times prefill and decode of the text decoder: dense, sparse, and an oracle as upper bound.

    python benchmarks/prefill.py --shape embedded --retain 192 64

Random weights of a given shape: speed does not depend on what the weights say. The image encoder is
left out: its features are made once. The oracle runs the same layers on sequences that are cut to
the lengths of the sparse run at these layers. It scores, chooses and records nothing, so no sparse
run can be faster. All runs take turns in one process. A table for people goes to stdout; the last
line is one JSON document.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from shapes import SHAPES, build
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from sparsight import Method, sparsify
from sparsight.bench.timing import Timing, collect_facts, interleave, time_generation
from sparsight.cli.method import read_method
from sparsight.counts.cost import decoder_macs
from sparsight.engine.compat import output_cache
from sparsight.sequence.trace import Stats

METHOD = "sparsight"
Timings = Mapping[str, Mapping[str, Timing]]


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure one shape; print the result, write the result file and return the result."""
    options = parse(arguments)
    typed = sys.argv[1:] if arguments is None else arguments
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    dtype = getattr(torch, options.dtype or ("float32" if device.type == "cpu" else "bfloat16"))
    shape = SHAPES[options.shape]
    model = build(shape, options.text, device, dtype)
    inputs = make_inputs(model, shape.visual_tokens, options.text, options.batch)
    budgets = options.retain or shape.retain
    methods = {
        retain: read_method(options.method, str(retain), options.paper) for retain in budgets
    }
    stats = {retain: dry_run(model, inputs, method) for retain, method in methods.items()}
    tasks = build_tasks(model, inputs, methods, stats, options.decode)
    timings = interleave(tasks, options.runs, options.warm_up)
    result = {
        "benchmark": "prefill",
        "command": shlex.join(["python", "benchmarks/prefill.py", *typed]),
        "shape": options.shape,
        "about": shape.about,
        "sizes": vars(next(iter(stats.values())).shape),
        "batch": options.batch,
        "visual_tokens": shape.visual_tokens,
        "text_tokens": options.text,
        "decode_steps": options.decode,
        "rounds": options.runs,
        "facts": collect_facts(device, dtype),
        "budgets": [
            summarise(retain, method, stats[retain], timings) for retain, method in methods.items()
        ],
    }
    if options.out is not None:  # first: it must not be lost if nobody reads what is printed
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    show(result)
    print(json.dumps(result))
    return result


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--shape", choices=list(SHAPES), default="embedded")
    parser.add_argument(
        "--retain", type=int, nargs="+", help="layer means of visual tokens; default: the shape's"
    )
    parser.add_argument(
        "--paper", action="store_true", help="the authors' settings for these budgets"
    )
    parser.add_argument(
        "--method",
        default=METHOD,
        help="and settings; it cannot read the image encoder, which is left out",
    )
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, help="CPU threads; default: torch's")
    parser.add_argument(
        "--dtype", choices=["float32", "bfloat16", "float16"], help="default: by device"
    )
    parser.add_argument("--runs", type=int, default=7, help="rounds that count")
    parser.add_argument("--warm-up", type=int, default=2, help="rounds before them")
    parser.add_argument("--text", type=int, default=64, help="text tokens")
    parser.add_argument("--decode", type=int, default=16, help="decode steps after each prefill")
    parser.add_argument("--out", type=Path, help="result file")
    return parser.parse_args(arguments)


def make_inputs(model: Any, visual: int, text: int, batch: int) -> dict[str, torch.Tensor]:
    """Return a prompt of one image and text, and replace the model's image encoder by features.

    Args:
        model: whose encoder is replaced.
        visual: tokens of the image.
        text: tokens, one in front of the image.
        batch: prompts.
    """
    config = model.config
    device = model.device
    width = config.text_config.hidden_size
    random = torch.Generator().manual_seed(0)
    words = torch.randint(
        config.image_token_id + 1, config.text_config.vocab_size, (batch, text), generator=random
    )
    image = torch.full((batch, visual), config.image_token_id)
    ids = torch.cat([words[:, :1], image, words[:, 1:]], dim=1).to(device)  # (B, N)
    features = []
    for _ in range(batch):
        random_features = torch.randn(visual, width, generator=random)  # (V, D)
        features.append(random_features.to(device, model.dtype))

    def return_features(**_: Any) -> BaseModelOutputWithPooling:
        return BaseModelOutputWithPooling(pooler_output=features)  # type: ignore[arg-type]

    model.model.get_image_features = return_features
    pixels = torch.zeros(batch, 3, 1, 1, device=device, dtype=model.dtype)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}


@torch.no_grad()
def dry_run(model: nn.Module, inputs: Mapping[str, torch.Tensor], method: Method) -> Stats:
    """Prefill once, check that the cache holds as many bytes as counted, and return the counts."""
    with sparsify(model, method) as run:
        cache = output_cache(model(**inputs, use_cache=True, logits_to_keep=1))
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    if held != run.stats.kv_cache_bytes:
        raise RuntimeError(
            f"the cache holds {held} bytes, the counts promise {run.stats.kv_cache_bytes}."
        )
    return run.stats


def build_tasks(
    model: nn.Module,
    inputs: Mapping[str, torch.Tensor],
    methods: Mapping[int, Method],
    stats: Mapping[int, Stats],
    steps: int,
) -> dict[str, Callable[[], Mapping[str, float]]]:
    """Return what is measured, by name: "dense", and for each budget "sparse N" and "oracle N"."""

    def time_dense() -> Mapping[str, float]:
        return time_generation(model, inputs, steps)

    def time_sparse(retain: int) -> Mapping[str, float]:
        with sparsify(model, methods[retain]):
            return time_generation(model, inputs, steps)

    def time_oracle(retain: int) -> Mapping[str, float]:
        with cut(model, stats[retain].tokens_per_layer[0]):
            return time_generation(model, inputs, steps)

    tasks: dict[str, Callable[[], Mapping[str, float]]] = {"dense": time_dense}
    for retain in methods:
        tasks[f"sparse {retain}"] = partial(time_sparse, retain)
        tasks[f"oracle {retain}"] = partial(time_oracle, retain)
    return tasks


@contextmanager
def cut(model: Any, lengths: Sequence[int]) -> Iterator[None]:
    """Have each decoder layer process only the first `lengths[layer]` tokens of a prefill.

    Plain causal attention needs no mask for that. Decode steps are not changed: their caches are
    short already.
    """
    tables: dict[int, tuple[torch.Tensor, ...]] = {}  # rotary tables by length, of this prefill

    def shorten(
        index: int, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        hidden = args[0]  # (B, N, D)
        length = lengths[index]
        if index == 0:
            tables.clear()
        if hidden.shape[1] == 1 or length == len(kwargs["position_embeddings"][0][0]):
            return None
        if kwargs.get("attention_mask") is not None:
            raise RuntimeError("the oracle is for kernels that need no mask; use sdpa.")
        if length not in tables:
            tables[length] = tuple(table[:, :length] for table in kwargs["position_embeddings"])
        if hidden.shape[1] > length:
            hidden = hidden[:, :length].contiguous()
        return (hidden, *args[1:]), {**kwargs, "position_embeddings": tables[length]}

    handles = [
        layer.register_forward_pre_hook(partial(shorten, index), with_kwargs=True)
        for index, layer in enumerate(model.model.language_model.layers)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def summarise(retain: int, method: Method, stats: Stats, timings: Timings) -> dict[str, Any]:
    """Return costs, times and their ratios at one budget."""
    oracle_flops = 2 * sum(decoder_macs(stats.shape, row) for row in stats.tokens_per_layer)
    sparse_cache = stats.kv_cache_bytes
    runs = {
        "dense": ("dense", stats.dense_prefill_flops, stats.dense_kv_cache_bytes),
        "sparse": (f"sparse {retain}", stats.prefill_flops, sparse_cache),
        "oracle": (f"oracle {retain}", oracle_flops, sparse_cache),
    }
    rows: dict[str, Any] = {}
    for name, (task, flops, cache) in runs.items():
        rows[name] = {
            "prefill_ms": timings[task]["prefill"].as_dict(),
            "decode_ms_per_token": timings[task]["decode"].as_dict(),
            "prefill_flops": flops,
            "kv_cache_bytes": cache,
        }

    return {
        "retain": retain,
        "method": repr(method),
        "mean_visual_tokens": {
            "entering": stats.mean_visual_tokens,
            "authors": stats.mean_visual_tokens_authors,
        },
        "visual_tokens_per_layer": stats.visual_tokens_per_layer[0],
        **rows,
        "ratios": {
            **divide_rounds(rows),
            "flops_dense_over_sparse": stats.dense_prefill_flops / stats.prefill_flops,
            "kv_dense_over_sparse": stats.dense_kv_cache_bytes / stats.kv_cache_bytes,
        },
    }


def divide_rounds(rows: Mapping[str, Any]) -> dict[str, float]:
    """Return ratios of times, medians of those of the rounds, in which runs follow each other.

    What slows the machine down for some seconds slows both runs of a round, and no ratio.

    Args: rows: of "dense", "sparse" and "oracle".
    """
    pairs = (("dense", "sparse"), ("dense", "oracle"), ("sparse", "oracle"))
    ratios = {}
    for name, quantity in (("prefill", "prefill_ms"), ("decode", "decode_ms_per_token")):
        for one, other in pairs:
            rounds = zip(rows[one][quantity]["runs"], rows[other][quantity]["runs"], strict=True)
            ratios[f"{name}_{one}_over_{other}"] = median(above / below for above, below in rounds)
    return ratios


HEADS = ("retain", "run", "prefill ms (min-max)", "decode ms/token (min-max)", "GFLOPs", "KV MB")


def show(result: Mapping[str, Any]) -> None:
    """Print the table and the ratios."""
    facts = result["facts"]
    title = (
        f"{result['shape']}, {result['visual_tokens']} visual + {result['text_tokens']} text "
        f"tokens, batch {result['batch']}, {facts['dtype']}, {facts['gpu'] or facts['cpu']} "
        f"({facts['threads']} threads)"
    )
    table = Table(
        title=title, title_justify="left", caption=result["about"], caption_justify="left"
    )
    for name in HEADS:
        table.add_column(name, justify="left" if name == "run" else "right")
    for budget in result["budgets"]:
        for name in ("dense", "sparse", "oracle"):
            row = budget[name]
            times = [_format_times(row[key]) for key in ("prefill_ms", "decode_ms_per_token")]
            costs = (f"{row['prefill_flops'] / 1e9:.1f}", f"{row['kv_cache_bytes'] / 1e6:.2f}")
            last = name == "oracle"
            table.add_row(str(budget["retain"]), name, *times, *costs, end_section=last)
    console = Console(width=120)
    console.print(table)
    for budget in result["budgets"]:
        ratios = budget["ratios"]
        console.print(
            f"retain {budget['retain']}: "
            f"prefill dense/sparse {ratios['prefill_dense_over_sparse']:.2f}, "
            f"sparse/oracle {ratios['prefill_sparse_over_oracle']:.3f}, "
            f"FLOPs {ratios['flops_dense_over_sparse']:.2f}; "
            f"decode dense/sparse {ratios['decode_dense_over_sparse']:.2f}, "
            f"sparse/oracle {ratios['decode_sparse_over_oracle']:.3f}",
            highlight=False,
        )


def _format_times(times: Mapping[str, float]) -> str:
    return f"{times['median']:.2f} ({times['min']:.2f}-{times['max']:.2f})"


if __name__ == "__main__":
    main()
