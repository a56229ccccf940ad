"""Measures at which decoder layers attention tells evidence from the rest: could a method choose well there?

python benchmarks/where_it_looks.py --limit 12 --out benchmarks/results/attention-embedded-cpu.json

For every layer: the chance that SparseVLM's raters pay a visual token of the evidence more
attention than another one (area under the curve, 0.5 for no information), with the mean over heads
that SparseVLM scores by, and for the best single head. Unpruned, eager attention, questions on one
scene whose evidence is known.
"""

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import torch
from rich.progress import track

from sparsight import SparseVLM
from sparsight.bench.timing import collect_facts
from sparsight.evaluate.asking import Examiner, Prompt
from sparsight.evaluate.scenes import SPLIT, load_images, load_suite
from sparsight.evaluate.settings import Case
from sparsight.models.embedded import load, prepare

FAMILIES = ("existence", "attribute", "relation", "place")


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--limit", type=int, default=12, help="questions of each family")
    parser.add_argument("--out", type=Path, default=None, help="JSON file of the results")
    return parser.parse_args()


def areas(scores: torch.Tensor, evidence: torch.Tensor) -> torch.Tensor:
    """Return the chance that a token of the evidence scores higher than another, (...,) from (..., V) and (V,) bool."""
    ranks = scores.argsort(dim=-1).argsort(dim=-1).float() + 1
    inside, outside = int(evidence.sum()), int((~evidence).sum())
    return (ranks[..., evidence].sum(-1) - inside * (inside + 1) / 2) / (inside * outside)


@torch.inference_mode()
def look(
    model: Any, examiner: Examiner, prompt: Prompt, evidence: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return one question's areas by layer, of the mean over heads, (layers,), and of each head, (layers, heads)."""
    seen: dict[str, torch.Tensor] = {}

    def note(_: Any, __: Any, kwargs: dict[str, Any]) -> None:
        seen["embeds"] = kwargs["inputs_embeds"][0]

    handle = model.model.language_model.register_forward_pre_hook(note, with_kwargs=True)
    found = model(
        **prompt.inputs, output_attentions=True, logits_to_keep=1
    ).attentions  # each (1, H, L, L)
    handle.remove()
    visual = torch.isin(prompt.inputs["input_ids"][0], examiner.ids).nonzero().flatten()
    text = torch.arange(int(visual[-1]) + 1, prompt.inputs["input_ids"].shape[1])
    raters = text[SparseVLM(retain=192).raters(seen["embeds"][visual], seen["embeds"][text])]
    paid = torch.stack(
        [layer[0][:, raters][:, :, visual].mean(1) for layer in found]
    )  # (layers, H, V)
    return areas(paid.mean(1), evidence), areas(paid, evidence)


def main() -> None:
    """Measure all questions and write means."""
    args = arguments()
    prepare()
    model, processor = load()
    model.set_attn_implementation("eager")
    examiner = Examiner(model, processor, max_new_tokens=1)
    asked, means, heads = [], [], []
    for family in FAMILIES:
        asked += [q for q in load_suite(SPLIT) if q.family == family and any(q.turns[0].boxes)][
            : args.limit
        ]
    for question in track(asked, "look"):
        prompt = examiner.build_prompt(
            Case(question, question), load_images(question), find_evidence=True
        )
        if prompt.evidence[0] is not None and bool(prompt.evidence[0].any()):
            mean, head = look(model, examiner, prompt, prompt.evidence[0])
            means.append(mean)
            heads.append(head)
    mean, head = torch.stack(means).mean(0), torch.stack(heads).mean(0)
    rows = [
        {"layer": layer, "mean_of_heads": round(float(m), 4), "best_head": round(float(h.max()), 4)}
        for layer, (m, h) in enumerate(zip(mean, head, strict=True))
    ]
    command = shlex.join(["python", *sys.argv])
    known = collect_facts(torch.device("cpu"), torch.float32)
    text = (
        json.dumps(
            {"command": command, "facts": known, "questions": len(means), "rows": rows}, indent=1
        )
        + "\n"
    )
    if args.out is not None:
        args.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
