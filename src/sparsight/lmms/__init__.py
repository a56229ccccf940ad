"""A model of lmms-eval: `lmms-eval eval --model sparsight`, without a dependency on lmms-eval.

lmms-eval finds `manifest` by the entry point of group `lmms_eval.models`, and calls it whenever its
list of models is imported, whichever model is then used. So this module imports no torch, and
`manifest` never raises: one entry point that raises hides those behind it.

The model's arguments are read by `arguments`, what a task asks of generate() by `generation`, the
turns of a question by `turns`; `answering` answers batches. Only `model` imports lmms-eval.
`outcome` checks what a run has written.
"""

import warnings
from typing import Any

MODEL = "sparsight"
CLASS = "sparsight.lmms.model.Sparsight"


def manifest() -> Any:
    """Return what lmms-eval registers: the model's name, and the class that is imported for it.

    Returns: a `ModelManifest`; () with a warning where this lmms-eval takes none.
    """
    try:
        from lmms_eval.models.registry_v2 import ModelManifest  # noqa: PLC0415

        return ModelManifest(model_id=MODEL, chat_class_path=CLASS)
    except Exception as error:  # whatever it is, it must not hide the models of others
        warnings.warn(
            f"--model {MODEL} cannot be registered in this lmms-eval "
            f"({type(error).__name__}: {error}); sparsight is tested with lmms-eval 0.7.3.",
            stacklevel=2,
        )
        return ()
