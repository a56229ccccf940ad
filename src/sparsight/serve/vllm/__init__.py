"""Prunes visual tokens in vLLM: a plug-in, which vLLM finds by itself. See docs/vllm.md.

vLLM imports this module in every process, also for users who chose none of our architectures;
nothing heavy is imported here.
"""

from sparsight.serve.vllm.registering import register

__all__ = ["register"]
