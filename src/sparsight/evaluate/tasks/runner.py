"""run_tasks(): asks every configuration what it has not answered yet, and writes the results."""

import itertools
import operator
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from typing import Any

from sparsight.bench.timing import collect_facts
from sparsight.errors import BudgetError, SettingError, UnsupportedError
from sparsight.evaluate.settings import Configuration, reseed
from sparsight.evaluate.tasks.asking import Asker
from sparsight.evaluate.tasks.data import Sheet
from sparsight.evaluate.tasks.pairs import find_refusals
from sparsight.evaluate.tasks.ranks import ALONE, Ranks, describe_error, restore_error
from sparsight.evaluate.tasks.settings import TaskSettings
from sparsight.evaluate.tasks.store import STOP, TaskStore
from sparsight.evaluate.tasks.task import Item
from sparsight.inputs import Shown
from sparsight.methods.method import Method

Report = Callable[[int, int], None]
Tell = Callable[[str], None]
Refusals = dict[str, dict[str, str]]  # by configuration and benchmark, the first reason


@dataclass(frozen=True)
class Refusal:
    """Why a configuration was asked no more of a benchmark.

    Args:
        number: of the batch; -1 where the model refuses the method whatever is asked.
        configuration: its key.
        task: name of the benchmark.
        kind: name of the error's class.
        text: of the error.
    """

    number: int
    configuration: str
    task: str
    kind: str
    text: str


@dataclass(frozen=True)
class Batch:
    """Questions that are shown together, and who has not answered which of them.

    Args:
        sheet: of the benchmark.
        items: at most as many as the settings allow.
        open: ids by key of the configuration.
    """

    sheet: Sheet
    items: tuple[Item, ...]
    open: Mapping[str, frozenset[str]]

    def select(self, key: str) -> list[int]:
        """Return the places of the questions that a configuration has not answered."""
        return [at for at, item in enumerate(self.items) if item.id in self.open[key]]


def run_tasks(
    model: Any,
    processor: Any,
    settings: TaskSettings,
    sheets: Sequence[Sheet],
    store: TaskStore,
    *,
    ranks: Ranks = ALONE,
    report: Report | None = None,
    tell: Tell | None = None,
) -> dict[str, Any]:
    """Ask a model what is not answered yet, store the answers, and return facts for the results.

    Of several processes each asks one in so many batches, and all return together. Batches are the
    same ones however many processes there are. Where a process is refused, the others go on with
    their share, so that a refused benchmark may have more answers than one process would give.
    Methods that the model refuses whatever is asked are found before anything is.

    Args:
        model: of a supported family, in evaluation mode, of `settings.dtype`.
        processor: of the model, with a chat template.
        settings: of the evaluation.
        sheets: questions, as `read_sheets` gives them.
        store: that `open_task_store` opened.
        ranks: the place of this process among those that share the work.
        report: called with the number of answers given and in total, of this process's share.
        tell: takes notes for people, on methods that are refused before anything is asked.

    Returns:
        `refused`, the first reason by configuration and benchmark; `prompts` and `padding`, how
        questions and images were shown; and `facts` on machine and versions.

    Raises:
        InputError: an image or video cannot be read, or the processor has no chat template.
        SettingError: the model has another dtype.
        BudgetError: nothing was answered, and the first refusal was of a budget.
        UnsupportedError: the model refuses every method; or nothing was answered, and the first
            refusal was of another kind.
    """
    with ranks.share_errors(store.folder / STOP):
        _check_dtype(model, settings)
        asker = Asker(model, processor, store.run, settings.max_new_tokens)
        round_ = _start_round(model, settings, sheets, store, tell)
        show = report or _report_nothing
        own = _ask_share(asker, settings, sheets, round_, ranks=ranks, report=show)
    rows = ranks.exchange([astuple(refusal) for refusal in own])
    refusals = order_refusals(Refusal(*row) for row in itertools.chain.from_iterable(rows))
    counts = ranks.exchange(store.count())
    with ranks.share_errors():
        if refusals and not any(counts):
            raise restore_error(refusals[0].kind, refusals[0].text)
    if ranks.leads and ranks.count > 1:
        store.collect(sheets)
    return {
        "refused": list_first(refusals),
        "prompts": {sheet.task.name: asker.find_wording(sheet.task).name for sheet in sheets},
        "padding": asker.padding,
        "facts": collect_facts(model.device, model.dtype),
    }


def _check_dtype(model: Any, settings: TaskSettings) -> None:
    dtype = str(model.dtype).removeprefix("torch.")
    if dtype != settings.dtype:
        raise SettingError(
            f"the model is in {dtype}, the settings say dtype={settings.dtype!r}; make them equal."
        )


def order_refusals(refusals: Iterable[Refusal]) -> list[Refusal]:
    """Return refusals of all processes as one process would have met them, which asks by batch."""
    return sorted(refusals, key=operator.attrgetter("number"))


def list_first(refusals: Iterable[Refusal]) -> Refusals:
    """Return the first reason, by configuration and benchmark."""
    first: Refusals = {}
    for refusal in refusals:
        first.setdefault(refusal.configuration, {}).setdefault(refusal.task, refusal.text)
    return first


def count_open(
    settings: TaskSettings, sheets: Sequence[Sheet], store: TaskStore, ranks: Ranks = ALONE
) -> int:
    """Return how many answers are missing, or how many of them are the share of a process."""
    batches = ranks.pick(list_batches(settings, sheets, store))
    return sum(len(ids) for _, batch in batches for ids in batch.open.values())


def list_batches(
    settings: TaskSettings, sheets: Sequence[Sheet], store: TaskStore
) -> Iterator[Batch]:
    """Yield the questions that some configuration has not answered, in batches."""
    keys = [one.key for one in settings.configurations]
    for sheet in sheets:
        known = store.replies[sheet.task.name]
        open_by_id: dict[str, list[str]] = {}
        for item in sheet.items:
            open_by_id[item.id] = [key for key in keys if (key, item.id) not in known]
        items = [item for item in sheet.items if open_by_id[item.id]]
        for start in range(0, len(items), settings.batch):
            chosen = tuple(items[start : start + settings.batch])
            yield Batch(sheet, chosen, {key: _find_open(key, chosen, open_by_id) for key in keys})


def _find_open(
    key: str, items: Sequence[Item], open_by_id: Mapping[str, Sequence[str]]
) -> frozenset[str]:
    return frozenset(item.id for item in items if key in open_by_id[item.id])


def _report_nothing(done: int, total: int) -> None:
    """Take a report that nobody asked for."""


def _start_round(
    model: Any,
    settings: TaskSettings,
    sheets: Sequence[Sheet],
    store: TaskStore,
    tell: Tell | None,
) -> "_Round":
    """Return a round without answers, in which methods are refused that the model never takes."""
    round_ = _Round(settings, store)
    for key, error in find_refusals(model, settings.configurations).items():
        round_.refuse_all(key, sheets, error)
        if tell is not None:
            tell(f"{key} is refused, and the others are asked: {error}")
    return round_


def _ask_share(
    asker: Asker,
    settings: TaskSettings,
    sheets: Sequence[Sheet],
    round_: "_Round",
    *,
    ranks: Ranks,
    report: Report,
) -> list[Refusal]:
    """Ask this process's share of what is not answered yet, and return what was refused.

    All configurations answer one batch before the next one is asked.
    """
    store = round_.store
    total = count_open(settings, sheets, store, ranks)
    done = 0
    report(done, total)
    for number, batch in ranks.pick(list_batches(settings, sheets, store)):
        if store.is_stopped():
            break
        paper = _Paper(asker, batch)
        for configuration in settings.configurations:
            places = batch.select(configuration.key)
            if places:
                round_.answer(paper, places, configuration, number)
                done += len(places)
                report(done, total)
    return list(round_.refusals.values())


class _Paper:
    """A batch as it is shown: images are read once, inputs are written once for equal questions."""

    def __init__(self, asker: Asker, batch: Batch) -> None:
        self.asker = asker
        self.batch = batch
        self._shown: list[list[Shown]] = asker.show(batch.sheet.task, batch.items)
        self._inputs: dict[tuple[int, ...], dict[str, Any]] = {}

    def write(self, places: tuple[int, ...]) -> dict[str, Any]:
        """Return the model's inputs of some of the questions."""
        if places not in self._inputs:
            items = [self.batch.items[at] for at in places]
            shown = [self._shown[at] for at in places]
            self._inputs = {places: self.asker.write(self.batch.sheet.task, items, shown)}
        return self._inputs[places]


class _Round:
    """Stores answers, and remembers what was refused.

    After its first refusal, a configuration is asked no more of that benchmark.
    """

    def __init__(self, settings: TaskSettings, store: TaskStore) -> None:
        self._seed = settings.seed
        self.store = store
        self.refusals: dict[tuple[str, str], Refusal] = {}  # by configuration and benchmark

    def refuse_all(self, key: str, sheets: Iterable[Sheet], error: Exception) -> None:
        """Remember that a configuration is asked nothing, and why."""
        for sheet in sheets:
            pair = (key, sheet.task.name)
            self.refusals[pair] = Refusal(-1, *pair, *describe_error(error))

    def answer(
        self, paper: _Paper, places: list[int], configuration: Configuration, number: int
    ) -> None:
        """Store the answers of one configuration to some questions of a batch, if it has any."""
        pair = (configuration.key, paper.batch.sheet.task.name)
        if pair in self.refusals:
            return
        try:
            self._ask(paper, places, configuration)
        except (BudgetError, UnsupportedError) as error:
            self.refusals[pair] = Refusal(number, *pair, *describe_error(error))

    def _ask(self, paper: _Paper, places: list[int], configuration: Configuration) -> None:
        """Ask, one question at a time where a method draws.

        Each question has a seed of its own, so that a draw does not depend on the batch.
        """
        method = configuration.method
        alone = method is not None and draws(method)
        task = paper.batch.sheet.task
        for chosen in [(at,) for at in places] if alone else [tuple(places)]:
            items = [paper.batch.items[at] for at in chosen]
            if method is not None and alone:
                method = reseed(method, zlib.crc32(f"{self._seed}/{items[0].id}".encode()))
            inputs = paper.write(chosen)
            replies = paper.asker.ask(task, items, inputs, configuration.key, method)
            self.store.add(task.name, replies)


def draws(method: Method) -> bool:
    """Return whether a method, or the one that it is built on, draws at random."""
    values = [(field.name, getattr(method, field.name)) for field in fields(method)]
    return any(
        name == "seed" or (isinstance(value, Method) and draws(value)) for name, value in values
    )
