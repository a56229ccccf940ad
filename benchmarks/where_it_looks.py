"""Measures at which layer, and by which score, the model tells evidence from other visual tokens.

python benchmarks/where_it_looks.py --suite scenes-2-dev --limit 6 --out looks.json

For every score and every decoder layer, encoder block or the input: the chance that a visual token
of the evidence scores higher than another one (area under the curve, 0.5 is no information, less
than 0.5 is information turned round). Nothing is pruned. Asked is what has its evidence in one
picture that is shown once; two-turn's first question stands for both. Several images and clips are
left out: their tokens are other counts, over several pictures, and a thing is in many frames.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from areas import CHANCE, bootstrap_means, choose_by_halves, find_best, find_reached, measure_areas
from rich.progress import track

from sparsight import Method, sparsify
from sparsight.bench.timing import collect_facts
from sparsight.counts.layout import Layout, count_tokens
from sparsight.counts.schedule import Schedule
from sparsight.engine.encoder_needs import read_encoder
from sparsight.engine.parts import find_parts
from sparsight.evaluate.asking import Examiner, Prompt
from sparsight.evaluate.scenes import DEFAULT_SUITE, SUITES, Question, load_images, load_suite
from sparsight.evaluate.settings import Case
from sparsight.methods.encoder import EncoderNeed
from sparsight.methods.parts.raters import choose_text_raters
from sparsight.methods.parts.scores import measure_distinctiveness
from sparsight.methods.parts.words import compare_words, measure_residual
from sparsight.methods.view import Selection, View
from sparsight.models.embedded import load, prepare

FAMILIES = ("existence", "attribute", "relation", "reading", "counting", "place", "two-turn")
# where each score is read; those by layer are read on entry of the layer, attention and keys in it
PLACES = {
    "raters": "layer",
    "head": "layer",
    "last": "layer",
    "residual": "layer",
    "keys": "layer",
    "words": "input",
    "word": "input",
    "distinct": "input",
    "distinct_features": "input",
    "class": "block",
}
MISSING = "a signal that is declared is not there"


@dataclass
class Notes:
    """What was seen of one prompt.

    Args:
        raters: (T,) bool, SparseVLM's raters among the text behind the images.
        scores: by name of the score, (..., V) for each place in order.
    """

    raters: torch.Tensor | None = None
    scores: dict[str, list[torch.Tensor]] = field(default_factory=dict)

    def add(self, name: str, score: torch.Tensor) -> None:
        """Add a score at its next place."""
        self.scores.setdefault(name, []).append(score)


@dataclass(frozen=True)
class Watcher(Method):
    """Keeps every visual token and notes their scores at every layer.

    Args:
        blocks: of the encoder whose class token's attention is noted, counted back from the one
            that made the features.
        notes: of the next prompt.
    """

    signals: ClassVar[frozenset[str]] = frozenset(
        {"attention", "text", "text_states", "decoder_keys", "encoder"}
    )
    attention_of: ClassVar[Literal["before", "site"]] = "site"
    batched: ClassVar[bool] = False
    adaptive: ClassVar[bool] = True  # so that it is asked where nothing is to go, too

    retain: float | None = None
    blocks: tuple[int, ...] = (0,)
    notes: Notes = field(default_factory=Notes, compare=False)

    @property
    def encoder_needs(self) -> tuple[EncoderNeed, ...]:
        """Features, and the class token's attention in each block."""
        rows = (EncoderNeed("class_attention", block) for block in self.blocks)
        return (EncoderNeed("features"), *rows)

    def list_sites(self, layers: int) -> tuple[int, ...]:
        """Return every layer."""
        return tuple(range(layers))

    def plan(self, layout: Layout | int, layers: int) -> Schedule:
        """Plan to keep everything at every layer."""
        count, none = count_tokens(layout), (0,) * layers
        kept = (count,) * layers
        return Schedule(count, layers, self.list_sites(layers), kept, none, exact=False)

    def raters(self, visual: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """Note SparseVLM's raters, and have the whole text rate."""
        self.notes.raters = choose_text_raters(visual, text)
        return super().raters(visual, text)

    def select(self, view: View) -> Selection:
        """Note all scores of one sample, and keep everything."""
        if view.site == 0:
            self._note_input(view)
        self._note_layer(view)
        return Selection(torch.arange(len(view.hidden), device=view.hidden.device))

    def _note_input(self, view: View) -> None:
        """Note what is known before the first layer; the earliest block comes first."""
        if view.text is None:
            raise ValueError(MISSING)
        notes = self.notes
        notes.add("words", compare_words(view.hidden, view.text.mean())[:, 0])
        notes.add("word", compare_words(view.hidden, view.text.embeds).amax(dim=-1))
        notes.add("distinct", measure_distinctiveness(view.hidden))
        notes.add("distinct_features", measure_distinctiveness(view.encoder.features()))
        for block in sorted(self.blocks, reverse=True):
            notes.add("class", view.encoder.class_attention(block))

    def _note_layer(self, view: View) -> None:
        """Note what is known in one layer, on its entry."""
        attention, text = view.attention, view.text_states
        keys, raters = view.decoder_keys, self.notes.raters
        if attention is None or text is None or keys is None or raters is None:
            raise ValueError(MISSING)
        notes = self.notes
        rows = attention.mean_over_heads()  # (T, V)
        notes.add("raters", rows[raters].mean(dim=0))
        notes.add("last", rows[-1])
        weight = raters[:, None].to(rows).expand_as(rows)
        notes.add("head", attention.mean_over_raters(weight))  # (H, V), raters' alone count
        notes.add("residual", measure_residual(view.hidden, text.values).ratio)
        notes.add("keys", keys.visual.float().square().sum(dim=(0, 2)).sqrt())


@torch.inference_mode()
def watch(model: Any, inputs: Any, blocks: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """Return one prompt's scores by name, (P, V) of P places; those of heads (P, H, V)."""
    watcher = Watcher(blocks=blocks)
    with sparsify(model, watcher):
        model(**inputs, logits_to_keep=1)
    return {name: torch.stack(scores) for name, scores in watcher.notes.scores.items()}


def choose_questions(suite: Path, limit: int | None) -> list[Question]:
    """Return the first questions of each part of the families whose first turn has evidence."""
    chosen: dict[tuple[str, str], list[Question]] = {}
    for question in load_suite(suite):
        if question.family in FAMILIES and any(question.turns[0].boxes):
            chosen.setdefault((question.family, question.split), []).append(question)
    return [question for part in chosen.values() for question in part[:limit]]


def measure_all(
    model: Any, processor: Any, suite: Path, questions: list[Question]
) -> dict[str, torch.Tensor]:
    """Return the areas of all questions by name of the score, (Q, P); of heads (Q, P, H)."""
    parts = find_parts(model)
    blocks = tuple(range(read_encoder(parts.family, parts.config).source + 1))
    examiner = Examiner(model, processor, max_new_tokens=1)
    areas: dict[str, list[torch.Tensor]] = {}
    for question in track(questions, "look"):
        images = load_images(question, suite)
        prompt = examiner.build_prompt(Case(question, question), images, find_evidence=True)
        for name, scores in watch(model, prompt.inputs, blocks).items():
            areas.setdefault(name, []).append(measure_areas(scores, _read_evidence(prompt)))
    return {name: torch.stack(rows) for name, rows in areas.items()}


def _read_evidence(prompt: Prompt) -> torch.Tensor:
    """Return the evidence of a prompt's first question, (V,) bool."""
    evidence = prompt.evidence[0]
    if evidence is None or not evidence.any() or evidence.all():
        raise ValueError(f"{prompt.question.id} has no evidence among other tokens")
    return evidence


def summarise(areas: dict[str, torch.Tensor], families: list[str]) -> list[dict[str, Any]]:
    """Return a row for each score: areas and intervals place by place, and by family.

    Args:
        areas: by name of the score, (Q, P) of Q questions; those of "head" (Q, P, H).
        families: of each question.
    """
    rows = []
    for name, place in PLACES.items():
        own = choose_by_halves(areas[name]) if name == "head" else areas[name]
        means = own.mean(dim=0).tolist()
        best = find_best(means)
        row = {"score": name, "place": place, "best": best, "best_area": round(means[best], 4)}
        if place == "layer" and means[best] > CHANCE:
            row["reached"] = find_reached(means)
            row["reached_of_gain"] = find_reached(means, floor=CHANCE)
        if name == "head":
            row["heads"] = areas[name].mean(dim=0).argmax(dim=-1).tolist()
        row["areas"] = _round(means)
        row["intervals"] = list(map(_round, bootstrap_means(own)))
        row["families"] = _average_families(own, families)
        rows.append(row)
    return rows


def _average_families(areas: torch.Tensor, families: list[str]) -> dict[str, list[float]]:
    """Return the mean areas of each family's questions, place by place."""
    means = {}
    for family in dict.fromkeys(families):
        own = [number for number, name in enumerate(families) if name == family]
        means[family] = _round(areas[own].mean(dim=0).tolist())
    return means


def _round(numbers: Sequence[float]) -> list[float]:
    return [round(number, 4) for number in numbers]


def main() -> None:
    """Measure all questions and write the means."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument(
        "--suite", default=DEFAULT_SUITE, help="name of a suite that ships, or a folder"
    )
    parser.add_argument("--limit", type=int, default=None, help="questions of each part")
    parser.add_argument("--out", type=Path, default=None, help="JSON file of the results")
    args = parser.parse_args()
    prepare()
    model, processor = load()
    suite = SUITES.get(args.suite, Path(args.suite))
    questions = choose_questions(suite, args.limit)
    families = [question.family for question in questions]
    areas = measure_all(model, processor, suite, questions)
    result = {
        "command": shlex.join(["python", *sys.argv]),
        "facts": collect_facts(model.device, model.dtype),
        "suite": args.suite,
        "questions": {kind: families.count(kind) for kind in FAMILIES},
        "rows": summarise(areas, families),
    }
    text = json.dumps(result, indent=1) + "\n"
    if args.out is not None:
        args.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
