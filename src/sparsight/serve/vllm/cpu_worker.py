"""A worker of vLLM for CPUs that puts positions right, as that for GPUs does.

vLLM 0.32 sets `is_multimodal_pruning_enabled` of its runner when a model was loaded on a GPU, and
forgets it on a CPU. A user names this class by `worker_cls`. Private details of vLLM touched here:
that attribute, and `load_model` of the worker.
"""

from typing import Any

from vllm.model_executor.models.interfaces import supports_multimodal_pruning
from vllm.v1.worker.cpu_worker import CPUWorker

from sparsight.serve.vllm.hooks import require_hooks

require_hooks(CPUWorker, {"load_model": ()})


class SparseCPUWorker(CPUWorker):
    """vLLM's worker for CPUs, whose runner asks models that prune for positions."""

    model_runner: Any

    def load_model(self, **options: Any) -> None:
        """Load the model, and note whether it prunes."""
        super().load_model(**options)
        media = self.model_config.multimodal_config
        self.model_runner.is_multimodal_pruning_enabled = (
            supports_multimodal_pruning(self.model_runner.get_model())
            and media is not None
            and media.is_multimodal_pruning_enabled()
        )
