"""All errors of sparsight. Each message says what was given, what is allowed and what to do."""

# The newest minor release that the tests pass on; pyproject.toml has the same bound.
TESTED = (5, 24)
TESTED_WITH = (
    f"sparsight is tested with transformers up to {'.'.join(map(str, TESTED))}; "
    "install one of those"
)


class SparsightError(Exception):
    """Base of all errors raised by sparsight."""


class BudgetError(SparsightError, ValueError):
    """A retention budget that is out of range, or that the method cannot meet on this prompt."""


class SettingError(SparsightError, ValueError):
    """A setting of a method outside its range."""


class MethodError(SparsightError, ValueError):
    """A method's answer that cannot be used: of a wrong type, count or index."""


class UnsupportedError(SparsightError, NotImplementedError):
    """A model, option or pair of options that sparsight refuses by name."""


class PromptError(SparsightError, ValueError):
    """A prompt in which visual tokens cannot be found, or that has no text that could rate them."""


class RaterWarning(UserWarning):
    """A prompt whose question seems to stand in front of its image, where it cannot rate it."""


class AttachError(SparsightError, RuntimeError):
    """A second run on one model, or a pruned cache used outside the block that pruned it."""


class InputError(SparsightError, ValueError):
    """An image, a question or a prompt that cannot be read, or that makes no prompt."""


class ModelError(SparsightError, RuntimeError):
    """A model that cannot be found, reached or read."""


class EmbeddedModelError(SparsightError, RuntimeError):
    """The embedded model is not prepared, cannot be fetched, or is damaged."""


class ProcessError(SparsightError, RuntimeError):
    """Processes that share a command: one of them ended or hangs, or sees another folder."""


class InputWarning(UserWarning):
    """An input of which a part is ignored: frames of an image, a colour profile, half a line."""
