"""Which methods a model refuses whatever it is asked: known before the first image is encoded."""

from collections.abc import Iterable
from typing import Any

from sparsight.engine.parts import find_parts
from sparsight.engine.support import check
from sparsight.errors import UnsupportedError
from sparsight.evaluate.settings import Configuration


def find_refusals(
    model: Any, configurations: Iterable[Configuration]
) -> dict[str, UnsupportedError]:
    """Return why the methods of configurations cannot prune a model, by key; {} if all can.

    Args:
        model: of a supported family.
        configurations: that are compared.

    Raises:
        UnsupportedError: none of the methods can, so that nothing would be compared with the dense
            model; the reason is that of the first.
        SettingError: the sites of a method do not fit the model.
    """
    parts = find_parts(model)
    refused: dict[str, UnsupportedError] = {}
    count = 0
    for one in configurations:
        if one.method is None:
            continue
        count += 1
        try:
            check(parts, one.method)
        except UnsupportedError as error:
            refused[one.key] = error
    if refused and len(refused) == count:
        raise next(iter(refused.values()))
    return refused
