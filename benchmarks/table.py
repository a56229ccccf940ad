"""Writes the tables of the README and of the pages on scenes.

The numbers come from the files in benchmarks/results and from suites.

python benchmarks/table.py           write them
python benchmarks/table.py --check   exit with 1 if the pages differ from the result files
"""

import json
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from budgets_table import MIDDLE, collect, sort_names, write_budgets
from controls_table import write_controls
from fresh_seeds import ALL, write_fresh
from kept_evidence import write_kept
from looks_table import write_first_edition, write_looks
from parts_table import write_parts
from random_proof import proof_table
from recommended_table import (
    ABLATION,
    CLOSEUP,
    FIRST,
    TOLD,
    TRIED,
    write_levels,
    write_pages,
    write_recommended,
)
from scenes_table import write_table
from selection_table import write_selection
from subsets_table import ARMS, write_subsets
from turns_table import write_turns

from sparsight.evaluate.scenes import SUITES, load_suite
from sparsight.evaluate.settings import Settings, choose_cases

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
SCENES = "scenes-embedded-cpu.json"
SMALL = "scenes-2-embedded-cpu.json"
GPU = ("prefill-llava-1.5-7b-h200-b1.json", "prefill-llava-1.5-7b-h200-b8.json")
BEST, ALWAYS = 5, ("sparsight", "uniform", "random", "sparsevlm")  # rows of the README
START, END = "<!-- table: {} -->", "<!-- end of table -->"
HORIZON = (192, 64, 32)  # budgets at which it was asked for on a suite of a fresh seed
CONTROLLED = 8  # questions of each part in the controls of scenes-2
LOOKS = ("scenes-2", "scenes-2-dev")  # what is shown, and what best places are chosen by


def read(name: str) -> Mapping[str, Any]:
    """Return one result file."""
    document: Mapping[str, Any] = json.loads((RESULTS / name).read_text(encoding="utf-8"))
    return document


def write_first() -> str:
    """Return the table of the first screen: what the recommended method keeps and saves."""
    prefill = read("prefill-sparsight-embedded-cpu.json")
    scenes = read("scenes-2-recommended-embedded-cpu.json")
    scores = {
        row["budget"]: 100 * row["overall"]["score"]
        for row in scenes["configurations"]
        if row["name"] in ("dense", "sparsight")
    }
    dense = prefill["budgets"][0]["dense"]
    lines = [
        "| `retain` | score on scenes | prefill | faster, of which possible | FLOPs less "
        "| KV cache |",
        "| --- | --- | --- | --- | --- | --- |",
        f"| dense, {prefill['visual_tokens']} | {scores[None]:.1f} % "
        f"| {_format_prefill(dense)} | | | {_format_cache(dense)} |",
    ]
    for budget in prefill["budgets"]:
        ratios = budget["ratios"]
        sparse = budget["sparse"]
        faster = ratios["prefill_dense_over_sparse"]
        possible = ratios["prefill_dense_over_oracle"]
        lines.append(
            f"| {budget['retain']} | {scores[budget['retain']]:.1f} % "
            f"| {_format_prefill(sparse)} | {faster:.2f} x of {possible:.2f} x "
            f"| {ratios['flops_dense_over_sparse']:.2f} x | {_format_cache(sparse)} |"
        )
    return "\n".join([*lines, "", _describe_first(prefill, scenes["suite"]["questions"])])


def _describe_first(prefill: Mapping[str, Any], questions: int) -> str:
    facts = prefill["facts"]
    return (
        f"The embedded model (157 M parameters, {prefill['sizes']['layers']} decoder layers): mean "
        f"score of nine families of {questions} test questions on small things and text; text "
        f"decoder's prefill of {prefill['visual_tokens']} visual and {prefill['text_tokens']} text "
        f"tokens, median of {prefill['rounds']} interleaved runs and of their ratios, "
        f"{facts['dtype']}, {facts['cpu']}, {facts['threads']} thread, torch {facts['torch']}, "
        f'transformers {facts["transformers"]}. "Possible" is an oracle that runs the same layers '
        "on sequences cut beforehand."
    )


def write_gpu() -> str:
    """Return the table of a 7B decoder on a GPU: prefill and decode, dense and sparse."""
    lines = [
        "| batch | `retain` | prefill, dense | sparse | faster, of which possible | FLOPs less "
        "| decode, dense | sparse |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name in GPU:
        results = read(name)
        for budget in results["budgets"]:
            ratios = budget["ratios"]
            dense, sparse = budget["dense"], budget["sparse"]
            faster = ratios["prefill_dense_over_sparse"]
            possible = ratios["prefill_dense_over_oracle"]
            lines.append(
                f"| {results['batch']} | {budget['retain']} "
                f"| {dense['prefill_ms']['median']:.1f} ms "
                f"| {sparse['prefill_ms']['median']:.1f} ms "
                f"| {faster:.2f} x of {possible:.2f} x | {ratios['flops_dense_over_sparse']:.2f} x "
                f"| {dense['decode_ms_per_token']['median']:.1f} ms "
                f"| {sparse['decode_ms_per_token']['median']:.1f} ms |"
            )
    results = read(GPU[0])
    facts = results["facts"]
    note = (
        f"LLaVA-1.5-7B's text decoder with random weights, {results['visual_tokens']} visual and "
        f"{results['text_tokens']} text tokens, {facts['dtype']}, {facts['gpu']}, torch "
        f"{facts['torch']}, transformers {facts['transformers']}; medians of {results['rounds']} "
        'interleaved runs. "Possible" is the oracle of the first table.'
    )
    return "\n".join([*lines, "", note])


def write_compared() -> str:
    """Return the best methods and the baselines at every budget, on scenes with small evidence."""
    results = read(SMALL)
    return write_budgets(results, [*sort_names(collect(results))[:BEST], *ALWAYS])


def write_comparison() -> str:
    """Return the mean score of every method at every budget, on scenes with small evidence."""
    return write_budgets(read(SMALL))


def write_dev() -> str:
    """Return the mean score of some methods on the split that settings are chosen on."""
    return write_budgets(read("scenes-2-dev-embedded-cpu.json"))


def write_families() -> str:
    """Return scores, costs and evidence of every method at one budget, best first."""
    results = dict(read(SMALL))
    rows = [row for row in results["configurations"] if row["budget"] in (None, MIDDLE)]
    results["configurations"] = sorted(rows, key=_sort_key)
    return write_table(results)


def _sort_key(row: Mapping[str, Any]) -> tuple[bool, float]:
    """Return what puts the dense model first, and then the best method."""
    overall = row["overall"]
    return row["budget"] is not None, -overall["score"] if overall else 1.0


def write_choosing() -> str:
    """Return the time that every method takes to choose."""
    return write_selection(read("selection-cpu.json"))


def write_first_controls() -> str:
    """Return the dense model's scores and its controls', in the first edition."""
    names = (SCENES, "scenes-blind-embedded-cpu.json", "scenes-swapped-embedded-cpu.json")
    return write_controls(list(map(read, names)))


def write_second_controls() -> str:
    """Return the dense model's scores and its controls', on scenes with small evidence."""
    parts = ("dense", "blind", "swapped")
    files = [read(f"scenes-2-{part}-embedded-cpu.json") for part in parts]
    suite = SUITES["scenes-2"]
    cases = choose_cases(load_suite(suite), Settings(suite=suite, limit=CONTROLLED))
    return write_controls(files, [case.question for case in cases])


def write_second_parts() -> str:
    """Return what is answered rightly in every part of scenes-2, whole and with fewer tokens."""
    return write_parts(read("scenes-2-full-embedded-cpu.json"), load_suite(SUITES["scenes-2"]))


def write_splits() -> str:
    """Return the dense model's accuracy in every part of every family."""
    dense = read(SCENES)["configurations"][0]
    lines = [
        "| family | part | questions | right | share of yes |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    for family, scores in dense["families"].items():
        for part, marks in scores["splits"].items():
            right = f"{100 * marks['accuracy']:.1f} %"
            yes = f"{100 * marks['yes_share']:.0f} %" if "yes_share" in marks else ""
            lines.append(f"| {family} | {part} | {marks['n']} | {right} | {yes} |")
    return "\n".join(lines)


def write_all() -> str:
    """Return scores and costs of every method at every budget."""
    return write_table(read(SCENES))


def write_sites() -> str:
    """Return scores and costs of methods at other sites."""
    return write_table(read("scenes-sites-embedded-cpu.json"))


def write_seconds() -> str:
    """Return how often the second of two questions is answered rightly, asked first or later."""
    return write_turns(read("two-turns-embedded-cpu.json"))


def write_attention() -> str:
    """Return how well each layer's attention tells evidence, in the first edition."""
    return write_first_edition(read("attention-embedded-cpu.json"))


def write_evidence() -> str:
    """Return by which score and from which layer on the model tells evidence."""
    shown, chosen = (read(f"attention-{suite}-embedded-cpu.json") for suite in LOOKS)
    return write_looks(shown, chosen)


def _format_prefill(run: Mapping[str, Any]) -> str:
    return f"{run['prefill_ms']['median']:.0f} ms"


def _format_cache(run: Mapping[str, Any]) -> str:
    return f"{run['kv_cache_bytes'] / 1e6:.1f} MB"


def write_proof() -> str:
    """Return the table of how likely a random draw keeps enough evidence, in the second edition."""
    return proof_table(load_suite(SUITES["scenes-2"]))


def write_pairs(name: str) -> str:
    """Return the table of two configurations, question by question."""
    return write_fresh(read(f"{name}-embedded-cpu.json"))


def write_horizon() -> str:
    """Return what the horizon adds at each budget, on a suite of a fresh seed."""
    every = {str(budget): read(f"horizon-{budget}-embedded-cpu.json") for budget in HORIZON}
    keys = [key.split("@")[0] for key in every[str(HORIZON[0])]["keys"]]
    parts = {budget: document["parts"][ALL] for budget, document in every.items()}
    return write_fresh({"keys": keys, "parts": parts}, "`retain`")


def write_trained(suite: str) -> str:
    """Return what models of two trainings answer of a suite."""
    names = {arm: f"subsets-{arm}-{suite}-embedded-cpu.json" for arm in ARMS}
    return write_subsets({arm: read(name) for arm, name in names.items()})


def write_kept_evidence() -> str:
    """Return the table of answers by how much of the evidence was left."""
    return write_kept(read("kept-evidence-embedded-cpu.json"))


PAGES: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {"first": write_first, "gpu": write_gpu, "compared": write_compared},
    "docs/scenes.md": {
        "proof": write_proof,
        "parts": write_second_parts,
        "controls": write_second_controls,
    },
    "training/README.md": {
        "trained-1": partial(write_trained, "scenes-1"),
        "trained-2": partial(write_trained, "scenes-2"),
    },
    "docs/attention.md": {"looks": write_evidence},
    "docs/recommended.md": {
        "ablation": partial(write_recommended, ABLATION),
        "closeup": partial(write_recommended, CLOSEUP),
        "tried": partial(write_recommended, TRIED),
        "first": partial(write_recommended, FIRST),
        "told": partial(write_recommended, TOLD),
        "levels": write_levels,
        "pages": write_pages,
        "kept": write_kept_evidence,
        "fresh-66": partial(write_pairs, "level-fresh-66"),
        "fresh-82": partial(write_pairs, "level-fresh-82"),
        "coverage": partial(write_pairs, "coverage-64"),
        "horizon": write_horizon,
    },
    "docs/comparison.md": {
        "budgets": write_comparison,
        "dev": write_dev,
        "families": write_families,
        "selection": write_choosing,
    },
    "docs/scenes-1.md": {
        "dense": write_splits,
        "controls": write_first_controls,
        "all": write_all,
        "sites": write_sites,
        "turns": write_seconds,
        "attention": write_attention,
    },
}


def replace_table(page: str, name: str, table: str) -> str:
    """Return a page with one of its tables replaced.

    Raises:
        ValueError: the page has no place for the table.
    """
    start = START.format(name)
    before, opened, rest = page.partition(start)
    _, closed, after = rest.partition(END)
    if not opened or not closed:
        raise ValueError(f"no place for table {name!r}: {start} ... {END}")
    return f"{before}{start}\n{table}\n{END}{after}"


def main() -> int:
    """Write or check the tables; return the exit code."""
    check = "--check" in sys.argv[1:]
    different = []
    for page, tables in PAGES.items():
        path = ROOT / page
        old = new = path.read_text(encoding="utf-8")
        for name, write in tables.items():
            new = replace_table(new, name, write())
        if old != new:
            different.append(page)
            if not check:
                path.write_text(new, encoding="utf-8")
    if not check or not different:
        return 0
    print(f"tables of {', '.join(different)} differ from benchmarks/results; run: make table")
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
