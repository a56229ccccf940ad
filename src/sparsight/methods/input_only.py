"""Settings that methods share which choose once, before the decoder."""

from sparsight.errors import SettingError
from sparsight.methods.encoder import EncoderNeed, TextSignal
from sparsight.methods.method import Method
from sparsight.methods.view import View

INPUT = (0,)
SCORES = ("class", "received")  # what the attention of an encoder's block is read as


def check_input_only(method: Method) -> None:
    """Raise SettingError if a method has sites other than the input."""
    if method.sites != INPUT:
        raise SettingError(
            f"{type(method).__name__} works on the input alone; sites={method.sites}, give "
            "sites=(0,)."
        )


def attention_need(score: str) -> EncoderNeed:
    """Return what is read of the block that made the features, for one of SCORES."""
    return EncoderNeed("class_attention" if score == "class" else "received")


def require_text(method: Method, view: View) -> TextSignal:
    """Return the text behind the images of a view.

    Raises: SettingError: the view has none.
    """
    if view.text is None:
        raise SettingError(
            f"{type(method).__name__} needs the text behind the images; a view without it cannot "
            "be rated."
        )
    return view.text
