"""Runs an odd combination: a prefill, a hand-written loop, generate(), a second turn."""

from dataclasses import dataclass

import torch
from transformers import DynamicCache

from sparsight.engine.compat import output_cache
from tests.support import contract, odd_models
from tests.support.caches import cached

ANSWER = 2  # tokens that generate() says


@dataclass
class Sides:
    """What was computed: logits of the prefill (None for generate()) and of what follows, cache.

    `later` are the logits (B, k, vocab) that `said` (B, s) led to, all of them or those of its last
    k tokens.
    """

    prefill: torch.Tensor | None
    later: torch.Tensor
    said: torch.Tensor
    cache: DynamicCache | None = None


def padded(inputs, *, left, extra):
    """The same batch with so many more columns of padding, on one side."""
    rows, length = inputs["input_ids"].shape
    result = dict(inputs)
    for name in ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids"):
        if name in inputs:
            wide = torch.cat([inputs[name].new_zeros(rows, extra), inputs[name]], dim=1)
            pads = extra + length - inputs["attention_mask"].sum(dim=1)
            turned = [row if left else row.roll(-int(n)) for row, n in zip(wide, pads, strict=True)]
            result[name] = torch.stack(turned)
    return result


def arguments(case, batch):
    """What the model gets."""
    inputs = padded(batch.inputs, left=case.left, extra=case.extra)
    if case.bare and bool(inputs["attention_mask"].all()):
        del inputs["attention_mask"]
    return inputs


@torch.no_grad()
def play(case, model, inputs):
    """Run a case as it is, in a sparsify block or not."""
    if hasattr(model.model, "rope_deltas"):
        model.model.rope_deltas = None  # of the case before
    if case.mode == "loop":
        return loop(case, model, inputs)
    if case.mode.startswith("generate") or case.mode == "turn":
        return answer(case, model, inputs)
    places = numbers(case, inputs)
    logits = model(**inputs, **places, use_cache=case.mode != "no cache").logits
    return Sides(logits, logits[:, :0], inputs["input_ids"][:, :0])


def numbers(case, inputs):
    mask = inputs.get("attention_mask")
    needed = case.numbered or (
        case.mode == "loop" and not case.left
    )  # what follows goes on behind the last real token
    if not needed or case.kind in odd_models.MROPE or mask is None:
        return {}
    return {"position_ids": contract.positions(mask) + first_place(case)}


def first_place(case):
    return int(case.kind.startswith("paligemma"))


def words(count, rows, seed):
    return torch.randint(10, 85, (rows, count), generator=torch.Generator().manual_seed(seed))


def loop(case, model, inputs):
    """A prefill and a few later passes on its cache, of one token or several."""
    cache = DynamicCache(config=model.config)
    mask = inputs.get("attention_mask")
    given = numbers(case, inputs)
    prefill = model(**inputs, **given, **cached(cache)).logits
    said, parts = words(sum(case.said), len(prefill), case.seed), []
    start = first_place(case)
    if case.kind in odd_models.MROPE and mask is not None:
        start = 0 if model.model.rope_deltas is None else model.model.rope_deltas
    for new in said.split(case.said, dim=1):
        later = {}
        if mask is not None:
            mask = torch.cat([mask, torch.ones_like(new)], dim=1)
            later = {"attention_mask": mask}
        if given or (case.kind in odd_models.MROPE and mask is not None):
            later["position_ids"] = contract.positions(mask)[:, -new.shape[1] :] + start
        parts.append(model(input_ids=new, **later, **cached(cache)).logits)
    return Sides(prefill, torch.cat(parts, dim=1), said, cache)


def answer(case, model, inputs):
    """generate(), and for "turn" a second turn on its cache."""
    settings = {
        "max_new_tokens": ANSWER,
        "output_logits": True,
        "return_dict_in_generate": True,
        "do_sample": False,
    }
    marks = getattr(
        model.config, "visual_indicator_token_ids", []
    )  # of Ovis2, which writes features over them
    settings["suppress_tokens"] = sorted({*contract.placeholders(model.config), *marks})
    extra = {"use_cache": False} if case.mode == "generate without cache" else {}
    done = model.generate(**inputs, **settings, **extra)
    start = inputs["input_ids"].shape[1]
    if case.mode == "turn":
        ids = torch.cat([done.sequences, words(3, len(done.sequences), case.seed)], dim=1)
        mask = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"]))
        mask = torch.cat([mask, torch.ones_like(ids[:, mask.shape[1] :])], dim=1)
        past = {**cached(output_cache(done))}
        done = model.generate(input_ids=ids, attention_mask=mask, **past, **settings)
    later = torch.stack(done.logits, dim=1).to(model.dtype)
    return Sides(None, later, done.sequences[:, start:-1], output_cache(done))
