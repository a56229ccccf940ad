"""Sums up what answers have cost, and how they ended. Knows no lmms-eval."""

from collections.abc import Sequence
from dataclasses import dataclass

from sparsight.sequence.trace import Stats


@dataclass
class Costs:
    """What answers have cost.

    Args:
        questions: that have visual tokens.
        visual: tokens of their prompts.
        entering: of them, that entered a decoder layer, layer mean.
        flops: of the prefills of batches that have visual tokens; 0 where nothing is pruned.
        dense_flops: of the same prefills, had nothing been pruned.
        new_tokens: that were generated.
        seconds: that generate() took.
        answers: all of them.
        stopped: of them, that a stop text cut.
        unfinished: of them, that reached the limit of new tokens before they ended.
    """

    questions: int = 0
    visual: int = 0
    entering: float = 0.0
    flops: int = 0
    dense_flops: int = 0
    new_tokens: int = 0
    seconds: float = 0.0
    answers: int = 0
    stopped: int = 0
    unfinished: int = 0

    def add_dense(self, visual: Sequence[int]) -> None:
        """Add a batch from which nothing was pruned, by the visual tokens of its rows."""
        self.questions += sum(count > 0 for count in visual)
        self.visual += sum(visual)
        self.entering += sum(visual)

    def add_pruned(self, stats: Stats) -> None:
        """Add a batch that was pruned."""
        rows = [schedule for schedule in stats.schedules if schedule.visual_tokens]
        self.questions += len(rows)
        self.visual += sum(stats.visual_tokens)
        self.entering += sum(schedule.mean("entering") for schedule in rows)
        self.flops += stats.prefill_flops
        self.dense_flops += stats.dense_prefill_flops

    def list_means(self) -> dict[str, float]:
        """Return how answers ended, and the means over questions with visual tokens, if any."""
        ends = {
            "share_stopped": self.stopped / max(self.answers, 1),
            "share_unfinished": self.unfinished / max(self.answers, 1),
        }
        if not self.questions:
            return ends
        return ends | {
            "visual_tokens": self.visual / self.questions,
            "visual_tokens_entering": self.entering / self.questions,
            "prefill_flops_share": self.flops / self.dense_flops if self.dense_flops else 1.0,
        }
