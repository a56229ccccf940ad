"""The model that lmms-eval runs: takes its requests, answers them in batches, reports the costs.

Details of lmms-eval touched here, as of 0.7.3: `lmms` with `is_simple`, `task_dict`, `cache_hook`,
`_rank`, `_world_size` and `clean`; the six arguments of a chat model's request; `ChatMessages` with
`to_hf_messages`; `GenerationResult` and `TokenCounts`; `log_metrics`; that it prints by loguru, and
hides Python's warnings.
"""

import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from tqdm import tqdm

from sparsight.errors import InputWarning, RaterWarning, UnsupportedError
from sparsight.lmms.answering import Answerer, Reply
from sparsight.lmms.arguments import read_arguments, read_ranks
from sparsight.lmms.costs import Costs
from sparsight.lmms.generation import Generation, read_generation
from sparsight.lmms.turns import read_turns

TESTED = "0.7.3"


def _explain(missing: object) -> str:
    try:
        installed = f"lmms-eval {version('lmms-eval')}"
    except PackageNotFoundError:
        installed = "no lmms-eval"
    return (
        f"--model sparsight needs a part of lmms-eval that is not there ({missing}); {installed} "
        f'is installed, and {TESTED} is tested: pip install "lmms-eval=={TESTED}"'
    )


try:
    from lmms_eval.api.instance import GenerationResult, TokenCounts
    from lmms_eval.api.model import lmms
    from lmms_eval.models.model_utils.gen_metrics import log_metrics
    from lmms_eval.protocol import ChatMessages
    from loguru import logger
except ImportError as error:
    raise UnsupportedError(_explain(error)) from error

for owner, needed in ((lmms, "is_simple"), (lmms, "clean"), (ChatMessages, "to_hf_messages")):
    if not hasattr(owner, needed):
        raise UnsupportedError(_explain(f"{owner.__name__}.{needed}"))


@dataclass(frozen=True)
class Question:
    """A request of lmms-eval, read.

    Args:
        place: index among the requests.
        context: text of the question, which names it in caches.
        asked: its `generation_kwargs`.
        show: returns its messages; images are read only then.
    """

    place: int
    context: str
    asked: dict[str, Any]
    show: Any


class Sparsight(lmms):  # type: ignore[misc]  # lmms-eval is not there when types are checked
    """`--model sparsight --model_args pretrained=FOLDER,method=sparsevlm,retain=64`.

    Args:
        given: the arguments of docs/lmms-eval.md.

    Raises:
        SettingError: an argument is not known or out of range.
        SparsightError: the model cannot be loaded, or the method does not fit it.
    """

    is_simple = False

    def __init__(self, **given: Any) -> None:
        super().__init__()
        self._ranks = read_ranks()
        self._arguments = read_arguments(given, self._ranks)
        self._rank = self._ranks.rank
        self._world_size = self._ranks.count
        self._answerer: Answerer | None = Answerer(self._arguments)

    @property
    def device(self) -> torch.device:
        """The device of this process, on which lmms-eval gathers counts."""
        return self._arguments.device

    @property
    def batch_size(self) -> int:
        """Questions that are answered together."""
        return self._arguments.batch

    def generate_until(self, requests: Sequence[Any]) -> list[Any]:
        """Return the answers to requests, in their order.

        Raises:
            UnsupportedError: a request is none of a chat model.
            SparsightError: an option or a question is refused; all options are read before the
                first question is answered.
        """
        answerer = self._find_answerer()
        answerer.costs = Costs()
        questions = [self._read_request(place, request) for place, request in enumerate(requests)]
        results: list[Any] = [None] * len(questions)
        with (
            _shown_warnings(),
            tqdm(total=len(results), desc="sparsight", disable=self._rank != 0) as bar,
            answerer.pruning() as run,
        ):
            for batch, generation in self._list_batches(questions):
                turns = [self._show(question) for question in batch]
                replies = answerer.answer(turns, generation, run)
                for question, reply in zip(batch, replies, strict=True):
                    results[question.place] = self._keep(question, reply)
                bar.update(len(batch))
        _report(answerer.costs, len(results))
        return results

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Refuse tasks that are scored by likelihood.

        Raises: UnsupportedError: always.
        """
        raise UnsupportedError(
            f"--model sparsight answers by generating, and cannot score {len(requests)} requests "
            "by their likelihood; choose a task of output_type generate_until."
        )

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Refuse tasks of several rounds.

        Raises: UnsupportedError: always.
        """
        raise UnsupportedError(
            f"--model sparsight has no tasks of several rounds, but {len(requests)} requests ask "
            "for them; choose a task of output_type generate_until."
        )

    def clean(self) -> None:
        """Let the model go, so that a local judge finds room."""
        self._answerer = None
        super().clean()

    def _read_request(self, place: int, request: Any) -> Question:
        """Return a request of a chat model, whose arguments have another order elsewhere."""
        arguments = request.args
        if len(arguments) != 6 or not callable(arguments[1]) or not isinstance(arguments[2], dict):
            raise UnsupportedError(
                f"a request of {len(arguments)} arguments is none of a chat model; "
                "choose a task of output_type generate_until, and leave --force_simple out."
            )
        context, to_messages, asked, document, task, split = arguments

        def show() -> Any:
            return to_messages(self.task_dict[task][split][document])

        return Question(place, context, asked, show)

    def _list_batches(
        self, questions: Sequence[Question]
    ) -> list[tuple[list[Question], Generation]]:
        """Return batches of questions with equal options, and how they are answered."""
        groups: dict[str, list[Question]] = {}
        for question in questions:
            key = json.dumps(question.asked, sort_keys=True, default=repr)
            groups.setdefault(key, []).append(question)
        batches = []
        size = self._arguments.batch
        for group in groups.values():
            generation = read_generation(group[0].asked, self._arguments.most)
            for note in generation.notes:
                logger.warning("generation_kwargs: {}.", note)
            for start in range(0, len(group), size):
                batches.append((group[start : start + size], generation))
        return batches

    def _show(self, question: Question) -> Any:
        """Return the turns of a question, images included."""
        messages = ChatMessages(messages=question.show()).to_hf_messages()
        return read_turns(messages, self._find_answerer().processor)

    def _keep(self, question: Question, reply: Reply) -> Any:
        """Return a reply as lmms-eval takes it, and give it to lmms-eval's cache."""
        self.cache_hook.add_partial(
            "generate_until", (question.context, question.asked), reply.text
        )
        counts = TokenCounts(input_tokens=reply.prompt_tokens, output_tokens=reply.new_tokens)
        return GenerationResult(text=reply.text, token_counts=counts)

    def _find_answerer(self) -> Answerer:
        """Return what answers.

        Raises: UnsupportedError: `clean` has let it go.
        """
        if self._answerer is None:
            raise UnsupportedError("this model has been cleaned up after a run; load it again.")
        return self._answerer


@contextmanager
def _shown_warnings() -> Iterator[None]:
    """Show sparsight's own warnings inside the block; lmms-eval hides those of all libraries."""
    with warnings.catch_warnings():
        for kind in (InputWarning, RaterWarning):
            warnings.filterwarnings("default", category=kind)
        yield


def _report(costs: Costs, requests: int) -> None:
    """Give the costs of a call's answers to lmms-eval's table of throughput."""
    log_metrics(
        total_elapsed_time=costs.seconds,
        total_gen_tokens=costs.new_tokens,
        avg_speed=costs.new_tokens / costs.seconds if costs.seconds else 0.0,
        additional_metrics={"num_requests": requests, **costs.list_means()},
    )
