"""Refuses to be loaded: what architectures stand for on a release of vLLM that was never tested."""

from vllm import __version__

from sparsight.serve.vllm.registering import check_version

check_version(__version__)
