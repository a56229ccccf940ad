"""Prefill and decode of the text decoder: dense, sparse, and the oracle that a sparse run can at best be as fast as.

    python benchmarks/prefill.py --shape embedded --retain 192 64

Random weights of a given shape; speed does not depend on what the weights say. The image encoder is
left out: its features are made once. The oracle runs the same layers on sequences that are cut to
the lengths of the sparse run at the same layers, with nothing scored, chosen or kept in books.
Everything runs in turns in one process. A table for people goes to stdout, its last line is one
JSON document.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from shapes import SHAPES, build
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from sparsight import SparseVLM, sparsify
from sparsight.bench.timing import Timing, collect_facts, interleave, time_generation
from sparsight.counts.cost import decoder_macs
from sparsight.engine.compat import output_cache
from sparsight.sequence.trace import Stats

Timings = Mapping[str, Mapping[str, Timing]]


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure one shape, print the table and the JSON line, write the result file, and return what was written."""
    options = parse(arguments)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    dtype = getattr(torch, options.dtype or ("float32" if device.type == "cpu" else "bfloat16"))
    shape = SHAPES[options.shape]
    model = build(shape, options.text, device, dtype)
    inputs = make_inputs(model, shape.visual_tokens, options.text, options.batch)
    methods = {retain: method(retain, options.paper) for retain in options.retain or shape.retain}
    stats = {retain: dry_run(model, inputs, how) for retain, how in methods.items()}
    timings = interleave(
        tasks(model, inputs, methods, stats, options.decode), options.runs, options.warm_up
    )
    result = {
        "benchmark": "prefill",
        "command": shlex.join(
            ["python", "benchmarks/prefill.py", *(sys.argv[1:] if arguments is None else arguments)]
        ),
        "shape": options.shape,
        "about": shape.about,
        "sizes": vars(next(iter(stats.values())).shape),
        "batch": options.batch,
        "visual_tokens": shape.visual_tokens,
        "text_tokens": options.text,
        "decode_steps": options.decode,
        "rounds": options.runs,
        "facts": collect_facts(device, dtype),
        "budgets": [summary(retain, methods[retain], stats[retain], timings) for retain in methods],
    }
    show(result)
    text = json.dumps(result)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(text)
    return result


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--shape", choices=list(SHAPES), default="embedded")
    parser.add_argument(
        "--retain", type=int, nargs="+", help="layer means of visual tokens; default: the shape's"
    )
    parser.add_argument(
        "--paper", action="store_true", help="the authors' counts for these budgets"
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


def method(retain: int, paper: bool) -> SparseVLM:
    """Return the method at one budget."""
    return SparseVLM.paper(retain) if paper else SparseVLM(retain=retain)


def make_inputs(model: Any, visual: int, text: int, batch: int) -> dict[str, torch.Tensor]:
    """Return a prompt of one image between text, and have the model take its features from memory."""
    config, device = model.config, model.device
    random = torch.Generator().manual_seed(0)
    words = torch.randint(
        config.image_token_id + 1, config.text_config.vocab_size, (batch, text), generator=random
    )
    image = torch.full((batch, visual), config.image_token_id)
    ids = torch.cat([words[:, :1], image, words[:, 1:]], dim=1).to(device)
    features = [
        torch.randn(visual, config.text_config.hidden_size, generator=random).to(
            device, model.dtype
        )
        for _ in range(batch)
    ]
    model.model.get_image_features = lambda **_: BaseModelOutputWithPooling(pooler_output=features)  # type: ignore[arg-type]
    pixels = torch.zeros(batch, 3, 1, 1, device=device, dtype=model.dtype)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}


@torch.no_grad()
def dry_run(model: nn.Module, inputs: Mapping[str, torch.Tensor], how: SparseVLM) -> Stats:
    """Prefill once and return the counts; check that the cache holds what they promise."""
    with sparsify(model, how) as run:
        cache = output_cache(model(**inputs, use_cache=True, logits_to_keep=1))
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    if held != run.stats.kv_cache_bytes:
        raise RuntimeError(
            f"the cache holds {held} bytes, the counts promise {run.stats.kv_cache_bytes}."
        )
    return run.stats


def tasks(
    model: nn.Module,
    inputs: Mapping[str, torch.Tensor],
    methods: Mapping[int, SparseVLM],
    stats: Mapping[int, Stats],
    steps: int,
) -> dict[str, Callable[[], Mapping[str, float]]]:
    """Return what is measured, by name: "dense", and for each budget "sparse N" and "oracle N"."""

    def sparse(retain: int) -> Mapping[str, float]:
        with sparsify(model, methods[retain]):
            return time_generation(model, inputs, steps)

    def oracle(retain: int) -> Mapping[str, float]:
        with cut(model, stats[retain].tokens_per_layer[0]):
            return time_generation(model, inputs, steps)

    found: dict[str, Callable[[], Mapping[str, float]]] = {
        "dense": lambda: time_generation(model, inputs, steps)
    }
    for retain in methods:
        found[f"sparse {retain}"] = partial(sparse, retain)
        found[f"oracle {retain}"] = partial(oracle, retain)
    return found


@contextmanager
def cut(model: Any, lengths: Sequence[int]) -> Iterator[None]:
    """Have each decoder layer process the first `lengths[layer]` tokens of a prefill and nothing else.

    Plain causal attention needs no mask for that; decode steps go through untouched, their caches
    are short already.
    """
    layers = list(model.model.language_model.layers)
    tables: dict[int, tuple[torch.Tensor, ...]] = {}

    def before(
        layer: int, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        hidden, length = args[0], lengths[layer]
        if layer == 0:
            tables.clear()
        if hidden.shape[1] == 1 or length == lengths[0]:
            return None
        if kwargs.get("attention_mask") is not None:
            raise RuntimeError("the oracle is for kernels that need no mask; use sdpa.")
        if length not in tables:
            tables[length] = tuple(table[:, :length] for table in kwargs["position_embeddings"])
        hidden = hidden[:, :length].contiguous() if hidden.shape[1] > length else hidden
        return (hidden, *args[1:]), {**kwargs, "position_embeddings": tables[length]}

    handles = [
        layer.register_forward_pre_hook(
            lambda _, args, kwargs, i=i: before(i, args, kwargs), with_kwargs=True
        )
        for i, layer in enumerate(layers)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def summary(retain: int, how: SparseVLM, stats: Stats, timings: Timings) -> dict[str, Any]:
    """Return one budget's costs and times, and what they are to each other."""
    row = stats.tokens_per_layer
    oracle_flops = 2 * sum(decoder_macs(stats.shape, lengths) for lengths in row)
    ways = {
        "dense": ("dense", stats.dense_prefill_flops, stats.dense_kv_cache_bytes),
        "sparse": (f"sparse {retain}", stats.prefill_flops, stats.kv_cache_bytes),
        "oracle": (f"oracle {retain}", oracle_flops, stats.kv_cache_bytes),
    }
    found: dict[str, Any] = {
        name: {
            "prefill_ms": timings[task]["prefill"].as_dict(),
            "decode_ms_per_token": timings[task]["decode"].as_dict(),
            "prefill_flops": flops,
            "kv_cache_bytes": kv,
        }
        for name, (task, flops, kv) in ways.items()
    }

    def over(one: str, other: str, quantity: str) -> float:
        return float(found[one][quantity]["median"] / found[other][quantity]["median"])

    return {
        "retain": retain,
        "method": repr(how),
        "mean_visual_tokens": {
            "entering": stats.mean_visual_tokens,
            "authors": stats.mean_visual_tokens_authors,
        },
        "visual_tokens_per_layer": stats.visual_tokens_per_layer[0],
        **found,
        "ratios": {
            "prefill_dense_over_sparse": over("dense", "sparse", "prefill_ms"),
            "prefill_sparse_over_oracle": over("sparse", "oracle", "prefill_ms"),
            "flops_dense_over_sparse": stats.dense_prefill_flops / stats.prefill_flops,
            "decode_dense_over_sparse": over("dense", "sparse", "decode_ms_per_token"),
            "decode_sparse_over_oracle": over("sparse", "oracle", "decode_ms_per_token"),
            "kv_dense_over_sparse": stats.dense_kv_cache_bytes / stats.kv_cache_bytes,
        },
    }


def show(result: Mapping[str, Any]) -> None:
    """Print the table."""
    known = result["facts"]
    title = (
        f"{result['shape']}, {result['visual_tokens']} visual + {result['text_tokens']} text tokens, "
        f"batch {result['batch']}, {known['dtype']}, {known['gpu'] or known['cpu']} ({known['threads']} threads)"
    )
    table = Table(
        title=title, title_justify="left", caption=result["about"], caption_justify="left"
    )
    for name in (
        "retain",
        "way",
        "prefill ms (min-max)",
        "decode ms/token (min-max)",
        "GFLOPs",
        "KV MB",
    ):
        table.add_column(name, justify="left" if name == "way" else "right")
    for one in result["budgets"]:
        for way in ("dense", "sparse", "oracle"):
            found = one[way]
            spans = [_span(found[quantity]) for quantity in ("prefill_ms", "decode_ms_per_token")]
            costs = f"{found['prefill_flops'] / 1e9:.1f}", f"{found['kv_cache_bytes'] / 1e6:.2f}"
            table.add_row(str(one["retain"]), way, *spans, *costs, end_section=way == "oracle")
    console = Console(width=120)
    console.print(table)
    for one in result["budgets"]:
        r = one["ratios"]
        console.print(
            f"retain {one['retain']}: prefill dense/sparse {r['prefill_dense_over_sparse']:.2f}, "
            f"sparse/oracle {r['prefill_sparse_over_oracle']:.3f}, FLOPs {r['flops_dense_over_sparse']:.2f}; "
            f"decode dense/sparse {r['decode_dense_over_sparse']:.2f}, "
            f"sparse/oracle {r['decode_sparse_over_oracle']:.3f}",
            highlight=False,
        )


def _span(times: Mapping[str, float]) -> str:
    return f"{times['median']:.2f} ({times['min']:.2f}-{times['max']:.2f})"


if __name__ == "__main__":
    main()
