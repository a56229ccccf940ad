"""Registers our architectures beside vLLM's own, and says by name why that cannot be.

Private details of vLLM touched here: none; `ModelRegistry.register_model` is its public way.
"""

import logging

from sparsight.errors import UnsupportedError

PLACE = "sparsight.serve.vllm."
# architecture that a user names: module and class that vLLM imports when it is chosen
ARCHITECTURES = {
    "SparsightLlavaForConditionalGeneration": "llava:SparsightLlava",
    "SparsightLlavaNextForConditionalGeneration": "llava_next:SparsightLlavaNext",
    "SparsightTransformersMultiModalForCausalLM": "backend:SparsightTransformers",
    "SparsightQwen2_5_VLForConditionalGeneration": "qwen2_5_vl:SparsightQwen2_5_VL",
    "SparsightQwen3VLForConditionalGeneration": "qwen3_vl:SparsightQwen3VL",
}
TESTED = ("0.32",)  # minor releases of vLLM that the tests pass on
LOG = logging.getLogger("vllm.sparsight")


def register() -> None:
    """Add our architectures to vLLM's; runs in each of its processes, and may run again.

    Where the release of vLLM was never tested, they are added too, but refuse to be loaded, so that
    whoever did not choose one is not disturbed.
    """
    from vllm import ModelRegistry, __version__  # noqa: PLC0415  # an extra of the user's choice

    refusal = refuse_version(__version__)
    if refusal:
        LOG.warning("%s", refusal)
    known = ModelRegistry.get_supported_archs()
    for name, place in ARCHITECTURES.items():
        if name not in known:
            ModelRegistry.register_model(name, PLACE + ("refused:Refused" if refusal else place))


def refuse_version(version: str) -> str | None:
    """Return why a release of vLLM is refused; None if it is not."""
    if any(version == minor or version.startswith(minor + ".") for minor in TESTED):
        return None
    return (
        f"vLLM {version} was never tested with sparsight; install vLLM {', '.join(TESTED)}.x. "
        "Models without sparsight are not touched."
    )


def check_version(version: str) -> None:
    """Check a release of vLLM.

    Raises: UnsupportedError: it was never tested.
    """
    refusal = refuse_version(version)
    if refusal:
        raise UnsupportedError(refusal)
