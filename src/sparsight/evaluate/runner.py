"""run(): every configuration on every question, continued where it stopped, and the results of it all."""

from collections.abc import Callable
from typing import Any

from sparsight.bench.timing import collect_facts
from sparsight.errors import BudgetError, SettingError, UnsupportedError
from sparsight.evaluate.asking import Examiner
from sparsight.evaluate.results import Refusals, results
from sparsight.evaluate.scenes import load_images, load_suite
from sparsight.evaluate.settings import Case, Settings, choose_cases
from sparsight.evaluate.store import Store, open_store, suite_hash, write_results

Report = Callable[[int, int], None]


def run(
    model: Any,
    processor: Any,
    settings: Settings,
    *,
    command: str = "",
    report: Report | None = None,
) -> dict[str, Any]:
    """Evaluate a model, and write answers and results into `settings.out`.

    What was answered there before is not asked again. A configuration that refuses a question (a
    budget that cannot be met, an unsupported prompt) is left out of that question's family, with
    the reason in the results.

    Args:
        model: of a supported family, in evaluation mode, of `settings.dtype`.
        processor: its processor, with a chat template.
        settings: what is asked and how.
        command: how it was started, for the record.
        report: called with answers given and their total, before the first and after each.
    Returns: the results, as written to results.json.

    Raises:
        InputError: the suite or the folder cannot be used, or the processor has no chat template.
        SettingError: the model has another number format.
        BudgetError: every configuration refused every question, the first because of its budget.
        UnsupportedError: the same, the first because it does not support the model or prompt.
    """
    _check_dtype(model, settings)
    suite = load_suite(settings.suite)
    cases = choose_cases(suite, settings)
    with open_store(settings, suite) as store:
        refusals = _ask_all(
            Examiner(model, processor, settings.max_new_tokens), settings, cases, store, report
        )
        heading = {
            "benchmark": "greedy answers, normalised exact match; F1 of yes for existence",
            "command": command,
            "model": settings.model,
            "control": settings.control,
            "seed": settings.seed,
            "max_new_tokens": settings.max_new_tokens,
            "suite": {"questions": len(cases), "sha256": suite_hash(suite, settings.suite)},
            "facts": collect_facts(model.device, model.dtype),
        }
        found = heading | results(
            settings, [case.question for case in cases], store.records, refusals
        )
    write_results(settings.out, found)
    return found


def _check_dtype(model: Any, settings: Settings) -> None:
    """Raise SettingError unless the model has the number format that the settings name."""
    dtype = str(model.dtype).removeprefix("torch.")
    if dtype != settings.dtype:
        raise SettingError(
            f"the model is in {dtype}, the settings say dtype={settings.dtype!r}; make them equal."
        )


def _ask_all(
    examiner: Examiner, settings: Settings, cases: list[Case], store: Store, report: Report | None
) -> Refusals:
    """Ask what is not answered yet, question by question, so that configurations meet the same conditions."""
    todo = [
        (case, left)
        for case in cases
        if (
            left := [
                one
                for one in settings.configurations
                if (one.key, case.question.id) not in store.records
            ]
        )
    ]
    total, done = sum(len(left) for _, left in todo), 0
    still = examiner.still_tokens() if todo else 0
    refusals: Refusals = {}
    first: BudgetError | UnsupportedError | None = None
    if report is not None:
        report(done, total)
    for case, left in todo:
        images = [] if case.shown is None else load_images(case.shown, settings.suite)
        prompt = examiner.prompt(case, images, known=settings.control == "none")
        for one in left:
            try:
                method = one.method_for(case.question, still, settings.seed)
                store.add(examiner.ask(prompt, one, method))
            except (BudgetError, UnsupportedError) as error:
                first = first or error
                refusals.setdefault(one.key, {}).setdefault(case.question.family, str(error))
            done += 1
            if report is not None:
                report(done, total)
    if first is not None and not store.records:
        raise first
    return refusals
