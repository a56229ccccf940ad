"""run(): asks every configuration every question that is not answered yet, and writes results."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from sparsight.bench.timing import collect_facts
from sparsight.errors import BudgetError, SettingError, UnsupportedError
from sparsight.evaluate.asking import Examiner
from sparsight.evaluate.results import Refusals, compute_results
from sparsight.evaluate.scenes import load_images, load_suite
from sparsight.evaluate.settings import Case, Configuration, Settings, choose_cases
from sparsight.evaluate.store import Store, hash_suite, open_store, write_results

Report = Callable[[int, int], None]


def run(
    model: Any,
    processor: Any,
    settings: Settings,
    *,
    command: str = "",
    report: Report | None = None,
    store: Store | None = None,
) -> dict[str, Any]:
    """Evaluate a model, write answers and results into `settings.out`, and return the results.

    Questions that were answered there before are not asked again. Where a configuration refuses a
    question (a budget that cannot be met, an unsupported prompt), the results leave out the family
    of that question, with the reason.

    Args:
        model: of a supported family, in evaluation mode, of `settings.dtype`.
        processor: of the model, with a chat template.
        settings: of the evaluation.
        command: that started it, for the record.
        report: called with the number of answers given and in total, at the start and after each.
        store: of these settings, where it is open already; it stays open.

    Returns:
        The results, as written to results.json.

    Raises:
        InputError: the suite or the folder cannot be used, an answer cannot be written, or the
            processor has no chat template.
        SettingError: the model has another dtype, or the store is of another folder or closed.
        BudgetError: every configuration refused every question, the first because of its budget.
        UnsupportedError: every configuration refused every question, the first because it does
            not support the model or the prompt.
    """
    _check_dtype(model, settings)
    _check_store(store, settings)
    suite = load_suite(settings.suite)
    cases = choose_cases(suite, settings)
    with open_store(settings, suite) if store is None else nullcontext(store) as answers:
        examiner = Examiner(model, processor, settings.max_new_tokens)
        refusals = _ask_all(examiner, settings, cases, answers, report)
        asked = [case.question for case in cases]
        results = {
            **_describe(settings, command),
            "suite": {"questions": len(cases), "sha256": hash_suite(suite, settings.suite)},
            "facts": collect_facts(model.device, model.dtype),
            **compute_results(settings, asked, answers.records, refusals),
        }
        write_results(settings.out, results)
    return results


def _describe(settings: Settings, command: str) -> dict[str, Any]:
    """Return what the results say of the settings."""
    return {
        "benchmark": "greedy answers, normalised exact match; F1 of yes for existence",
        "command": command,
        "model": settings.model,
        "control": settings.control,
        "seed": settings.seed,
        "max_new_tokens": settings.max_new_tokens,
        "share_encoding": settings.share_encoding,
    }


def _check_dtype(model: Any, settings: Settings) -> None:
    """Raise SettingError unless the model has the dtype that the settings name."""
    dtype = str(model.dtype).removeprefix("torch.")
    if dtype != settings.dtype:
        raise SettingError(
            f"the model is in {dtype}, the settings say dtype={settings.dtype!r}; make them equal."
        )


def _check_store(store: Store | None, settings: Settings) -> None:
    """Raise SettingError if a store takes no answers, or holds those of another folder."""
    if store is None:
        return
    if store.closed:
        raise SettingError("the store is closed; call run() within its block, or without store.")
    if store.folder != settings.out:
        raise SettingError(
            f"the store is that of {store.folder}, the settings say out={settings.out}; open it "
            "with these settings."
        )


@dataclass(frozen=True)
class _Task:
    """A question, and the configurations that have not answered it yet."""

    case: Case
    configurations: list[Configuration]


def _list_tasks(settings: Settings, cases: list[Case], store: Store) -> list[_Task]:
    tasks = []
    for case in cases:
        missing = [
            configuration
            for configuration in settings.configurations
            if (configuration.key, case.question.id) not in store.records
        ]
        if missing:
            tasks.append(_Task(case, missing))
    return tasks


def _report_nothing(done: int, total: int) -> None:
    """Take a report that nobody asked for."""


def _ask_all(
    examiner: Examiner, settings: Settings, cases: list[Case], store: Store, report: Report | None
) -> Refusals:
    """Ask what is not answered yet, store the answers, and return what was refused.

    All configurations answer one question before the next one is asked, so that load on the
    machine slows them alike.
    """
    tasks = _list_tasks(settings, cases, store)
    total = sum(len(task.configurations) for task in tasks)
    done = 0
    still = examiner.count_still_tokens() if tasks else 0
    refusals: Refusals = {}
    first_error: BudgetError | UnsupportedError | None = None
    report = report or _report_nothing
    report(done, total)
    for task in tasks:
        case = task.case
        images = [] if case.shown is None else load_images(case.shown, settings.suite)
        prompt = examiner.build_prompt(case, images, find_evidence=settings.control == "none")
        with examiner.share_images(prompt, settings.share_encoding):
            for configuration in task.configurations:
                try:
                    method = configuration.adapt_method(case.question, still, settings.seed)
                    store.add(examiner.ask(prompt, configuration, method))
                except (BudgetError, UnsupportedError) as error:
                    first_error = first_error or error
                    reasons = refusals.setdefault(configuration.key, {})
                    reasons.setdefault(case.question.family, str(error))
                done += 1
                report(done, total)
    if first_error is not None and not store.records:
        raise first_error
    return refusals
