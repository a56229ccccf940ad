"""How tests hand a cache in, by the name that this release of transformers takes."""

import inspect

from transformers import LlamaModel

NAME = "cache" if "cache" in inspect.signature(LlamaModel.forward).parameters else "past_key_values"


def cached(cache):
    """A cache as keyword argument of a model or of generate()."""
    return {NAME: cache}
