"""Measures at which decoder layers attention tells evidence from other visual tokens.

python benchmarks/where_it_looks.py --limit 12 --out benchmarks/results/attention-embedded-cpu.json

At such a layer a method could choose well. For every layer: the chance that SparseVLM's raters pay
a visual token of the evidence more attention than another one (area under the curve; 0.5 is no
information), for the mean over heads, by which SparseVLM scores, and for the best single head.
Unpruned, with eager attention, on questions about one scene whose evidence is known.
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
from sparsight.evaluate.scenes import SPLIT, Question, load_images, load_suite
from sparsight.evaluate.settings import Case
from sparsight.models.embedded import load, prepare

FAMILIES = ("existence", "attribute", "relation", "place")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--limit", type=int, default=12, help="questions of each family")
    parser.add_argument("--out", type=Path, default=None, help="JSON file of the results")
    return parser.parse_args()


def measure_areas(scores: torch.Tensor, evidence: torch.Tensor) -> torch.Tensor:
    """Return the chance that an evidence token scores higher than another visual token.

    Args:
        scores: (..., V).
        evidence: (V,) bool.

    Returns:
        (...,) float32.
    """
    ranks = scores.argsort(dim=-1).argsort(dim=-1).float() + 1
    inside = int(evidence.sum())
    outside = int((~evidence).sum())
    return (ranks[..., evidence].sum(-1) - inside * (inside + 1) / 2) / (inside * outside)


@torch.inference_mode()
def measure_question(
    model: Any, examiner: Examiner, prompt: Prompt, evidence: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return one question's areas: of the mean over heads, (L,), and of each head, (L, H)."""
    embeddings: list[torch.Tensor] = []

    def keep_embeddings(_: Any, __: Any, kwargs: dict[str, Any]) -> None:
        embeddings.append(kwargs["inputs_embeds"][0])

    decoder = model.model.language_model
    handle = decoder.register_forward_pre_hook(keep_embeddings, with_kwargs=True)
    output = model(**prompt.inputs, output_attentions=True, logits_to_keep=1)
    handle.remove()
    ids = prompt.inputs["input_ids"][0]
    visual = torch.isin(ids, examiner.ids).nonzero().flatten()
    text = torch.arange(int(visual[-1]) + 1, len(ids))
    raters = text[SparseVLM(retain=192).raters(embeddings[0][visual], embeddings[0][text])]
    rows = [layer[0][:, raters][:, :, visual].mean(1) for layer in output.attentions]  # (H, V) each
    paid = torch.stack(rows)  # (L, H, V)
    return measure_areas(paid.mean(1), evidence), measure_areas(paid, evidence)


def choose_questions(limit: int) -> list[Question]:
    """Return the first questions of each family that have evidence."""
    chosen = []
    for family in FAMILIES:
        questions = [one for one in load_suite(SPLIT) if one.family == family]
        chosen += [one for one in questions if any(one.turns[0].boxes)][:limit]
    return chosen


def main() -> None:
    """Measure all questions and write the means."""
    args = parse()
    prepare()
    model, processor = load()
    model.set_attn_implementation("eager")
    examiner = Examiner(model, processor, max_new_tokens=1)
    areas_of_mean = []
    areas_of_heads = []
    for question in track(choose_questions(args.limit), "look"):
        case = Case(question, question)
        prompt = examiner.build_prompt(case, load_images(question), find_evidence=True)
        evidence = prompt.evidence[0]
        if evidence is not None and bool(evidence.any()):
            mean, heads = measure_question(model, examiner, prompt, evidence)
            areas_of_mean.append(mean)
            areas_of_heads.append(heads)
    mean = torch.stack(areas_of_mean).mean(0)  # (L,)
    best = torch.stack(areas_of_heads).mean(0).amax(1)  # (L,)
    rows = []
    for layer, (of_mean, of_best) in enumerate(zip(mean.tolist(), best.tolist(), strict=True)):
        rows.append(
            {"layer": layer, "mean_of_heads": round(of_mean, 4), "best_head": round(of_best, 4)}
        )
    result = {
        "command": shlex.join(["python", *sys.argv]),
        "facts": collect_facts(torch.device("cpu"), torch.float32),
        "questions": len(areas_of_mean),
        "rows": rows,
    }
    text = json.dumps(result, indent=1) + "\n"
    if args.out is not None:
        args.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
