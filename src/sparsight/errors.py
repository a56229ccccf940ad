"""Every error that sparsight raises on purpose: each says what was given, what is allowed and what to do."""

TESTED = (
    5,
    24,
)  # the newest minor release that the tests pass on; pyproject.toml has the same bound
TESTED_WITH = f"sparsight is tested with transformers up to {'.'.join(map(str, TESTED))}; install one of those"


class SparsightError(Exception):
    """Base of all errors raised by sparsight."""


class BudgetError(SparsightError, ValueError):
    """A retention budget that cannot be met, or that says nothing."""


class SettingError(SparsightError, ValueError):
    """A setting of a method outside its range."""


class MethodError(SparsightError, ValueError):
    """A method's answer that is none: wrong in kind, count or indices."""


class UnsupportedError(SparsightError, NotImplementedError):
    """A model, option or pair of options that sparsight refuses by name."""


class PromptError(SparsightError, ValueError):
    """A prompt in which visual tokens cannot be rated or found."""


class RaterWarning(UserWarning):
    """A prompt in which the words that could rate an image seem to stand before it."""


class AttachError(SparsightError, RuntimeError):
    """A second attach on one model, or use of a pruned cache outside its block."""


class InputError(SparsightError, ValueError):
    """An image, a question or a prompt that cannot be read, or that no prompt can be made of."""


class ModelError(SparsightError, RuntimeError):
    """A model that cannot be found, reached or read."""


class EmbeddedModelError(SparsightError, RuntimeError):
    """The embedded model is not prepared, cannot be fetched, or is damaged."""


class InputWarning(UserWarning):
    """An image that is shown otherwise than its file might be meant: one frame of several, a profile left out."""
