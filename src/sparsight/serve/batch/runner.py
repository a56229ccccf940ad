"""Runs a job: rows that have no record yet are answered batch by batch, and written."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from sparsight.serve.batch.answering import Answerer
from sparsight.serve.batch.order import make_batches
from sparsight.serve.batch.record import Record, fail
from sparsight.serve.batch.rows import Inputs, Row
from sparsight.serve.batch.store import Store

Batches = Iterator[list[Row]]
AnswerAll = Callable[[Batches], Iterable[Sequence[Record]]]
Report = Callable[[int, int], None]


def run_job(
    inputs: Inputs, store: Store, size: int, answer: AnswerAll, report: Report | None = None
) -> None:
    """Answer what is not answered yet.

    Args:
        inputs: of the job.
        store: of its records.
        size: rows of a batch, at most.
        answer: returns the records of batches as they come, those of a batch together.
        report: called with the number of rows done and in total, at the start and after each batch.

    Raises: InputError: the output cannot be written; what was written before is kept.
    """
    total = len(inputs.rows)
    left = [row for row in inputs.rows if row.number not in store.done]
    if report is not None:
        report(len(store.done), total)
    sound = [row for row in left if row.fault is None]
    if sound:
        for records in answer(make_batches(sound, inputs.base, size)):
            store.add(records)
            if report is not None:
                report(len(store.done), total)
    # last, so that a job whose model cannot be loaded leaves no row
    store.add([fail(row, row.fault) for row in left if row.fault is not None])
    if report is not None:
        report(len(store.done), total)
    store.finish()


@dataclass(frozen=True)
class Agreement:
    """A sample of rows, answered dense beside sparse.

    Args:
        rows: that both answered.
        agree: of them, with equal answers.
        differing: ids of the others.
        failed: rows that one of the two could not answer.
        dense_seconds: inside generate() of the dense model, for the rows of the sample.
        sparse_seconds: inside that of the pruned one.
    """

    rows: int
    agree: int
    differing: tuple[str, ...]
    failed: int
    dense_seconds: float
    sparse_seconds: float

    @property
    def time_ratio(self) -> float | None:
        """Dense seconds over sparse ones; None where nothing was answered."""
        return self.dense_seconds / self.sparse_seconds if self.sparse_seconds else None


def choose_sample(rows: Sequence[Row], count: int) -> list[Row]:
    """Return rows at even distances, without those that cannot be asked."""
    sound = [row for row in rows if row.fault is None]
    if len(sound) <= count:
        return sound
    return [sound[(2 * part + 1) * len(sound) // (2 * count)] for part in range(count)]


def compare(dense: Answerer, sparse: Answerer, inputs: Inputs, count: int, size: int) -> Agreement:
    """Answer a sample of rows dense and sparse, in turns.

    In turns, because other load on the machine then slows both alike. The first batch is answered
    once before, so that warming up is counted for neither.

    Args:
        dense: answers without pruning.
        sparse: answers with it.
        inputs: of the job.
        count: rows of the sample, at most.
        size: rows of a batch, at most.
    """
    batches = list(make_batches(choose_sample(inputs.rows, count), inputs.base, size))
    for one in (dense, sparse):
        for batch in batches[:1]:
            one.answer(batch)
        one.seconds = 0.0
    answers: dict[Answerer, dict[int, Record]] = {dense: {}, sparse: {}}
    for number, batch in enumerate(batches):
        for one in (dense, sparse) if number % 2 else (sparse, dense):
            answers[one].update((record.row, record) for record in one.answer(batch))
    return _judge(answers[dense], answers[sparse], dense.seconds, sparse.seconds)


def _judge(
    dense: Mapping[int, Record],
    sparse: Mapping[int, Record],
    dense_seconds: float,
    sparse_seconds: float,
) -> Agreement:
    """Return how records of the same rows agree."""
    pairs = [(dense[row], sparse[row]) for row in sorted(dense)]
    both = [(a, b) for a, b in pairs if a.error is None and b.error is None]
    differing = tuple(a.id for a, b in both if a.answer != b.answer)
    return Agreement(
        rows=len(both),
        agree=len(both) - len(differing),
        differing=differing,
        failed=len(pairs) - len(both),
        dense_seconds=dense_seconds,
        sparse_seconds=sparse_seconds,
    )
