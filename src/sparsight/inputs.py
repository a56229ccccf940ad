"""Builds prompts, and passes on what reads images: the one way for `Chat`, `sparsight ask` and `sparsight eval`.

The images of a user's turn always come first, then its question: pruning needs text behind the
images to rate them.
"""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from PIL import Image

from sparsight.engine.parts import unwrap
from sparsight.errors import InputError
from sparsight.families import family_of
from sparsight.images import MOST_PIXELS, Source, read_image, rgb_images, source_name

__all__ = [
    "MOST_PIXELS",
    "Messages",
    "Source",
    "check_question",
    "prompt_inputs",
    "read_image",
    "rgb_images",
    "source_name",
    "user_message",
]

PLACES = (
    "image_token",
    "boi_token",
    "video_token",
    "fake_image_token",
)  # a processor's words for an image's place

Messages = list[dict[str, Any]]


def check_question(question: Any, processor: Any) -> None:
    """Check that a question is text, and holds nothing that stands for an image.

    Raises: InputError: it is not, is empty, or holds a placeholder of the processor.
    """
    if not isinstance(question, str):
        raise InputError(f"the question is of type {type(question).__name__}; give a str.")
    if not question.strip():
        raise InputError("the question is empty; its words decide what is kept.")
    for token in _places(processor):
        if token in question:
            raise InputError(
                f"the question holds {token!r}, which stands for an image; leave it out."
            )


def _places(processor: Any) -> list[str]:
    found = [getattr(processor, name, None) for name in PLACES]
    return [token for token in found if isinstance(token, str) and token] or ["<image>"]


def user_message(question: str, images: Sequence[Image.Image]) -> dict[str, Any]:
    """Return a user's turn as chat templates take it: the images, then the question."""
    content = [
        *({"type": "image", "image": image} for image in images),
        {"type": "text", "text": question},
    ]
    return {"role": "user", "content": content}


def prompt_inputs(
    model: Any,
    processor: Any,
    messages: Messages | list[Messages],
    settings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return what a model gets for a conversation or a batch of them, on its device and in its number format.

    A chat template may write the first token (BOS) itself; it stands there once all the same.
    Without a chat template, one question is put in LLaVA-1.5's own words.

    Args:
        model: that answers, of a supported family.
        processor: its processor.
        messages: as chat templates take them, with the images in RGB.
        settings: given to the processor.
    Returns: tensors and lists of tensors; whatever else the processor says is left out.
    Raises: InputError: no prompt can be made of it, it loses an image, or is longer than the model
    has positions for.
    """
    rows = _rows(messages)
    images = [_images(row) for row in rows]
    _check_settings(settings or {})
    try:
        if getattr(processor, "chat_template", None):
            _check_template(processor, rows, images)
            found = processor.apply_chat_template(
                messages,
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                processor_kwargs=dict(settings or {}),
            )
        else:
            text = [_in_own_words(processor, row) for row in rows]
            found = processor(
                images=list(chain(*images)) or None,
                text=text,
                return_tensors="pt",
                **(settings or {}),
            )
    except InputError:
        raise
    except Exception as error:  # whatever a template or a processor raises
        raise InputError(
            f"the processor can make no prompt of this ({type(error).__name__}: {error})."
        ) from error
    _check_ids(model, found["input_ids"], images)
    moved = {name: _moved(value, model.device, model.dtype) for name, value in found.items()}
    return {name: value for name, value in moved.items() if value is not None}


def _rows(messages: Any) -> list[Messages]:
    """Return a batch of conversations; of one, a batch of one."""
    return list(messages) if messages and isinstance(messages[0], list) else [messages]


def _images(messages: Messages) -> list[Any]:
    parts = [part for message in messages for part in message["content"] if isinstance(part, dict)]
    return [part.get(part["type"]) for part in parts if part.get("type") in ("image", "video")]


def _check_settings(settings: Mapping[str, Any]) -> None:
    for given in (settings, settings.get("text_kwargs") or {}):
        if given.get("truncation") not in (None, False, "do_not_truncate"):
            raise InputError(
                "truncation would cut an image or the question off the prompt; leave it out."
            )


def _check_template(processor: Any, rows: list[Messages], images: list[list[Any]]) -> None:
    """Check that the chat template writes a place for each image, where it is known what a place looks like."""
    if isinstance(processor.chat_template, dict) and "default" not in processor.chat_template:
        names = ", ".join(processor.chat_template)
        raise InputError(
            f"the processor has chat templates ({names}), but none named default; set the one to use."
        )
    for row, own in zip(rows, images, strict=True):
        text = processor.apply_chat_template(row, add_generation_prompt=True, tokenize=False)
        count = max(map(text.count, _places(processor)))
        if 0 < count < len(own):
            raise InputError(
                f"the chat template has a place for {count} of {len(own)} images; give fewer."
            )


def _in_own_words(processor: Any, messages: Messages) -> str:
    """Write one question as LLaVA-1.5 was taught it."""
    if len(messages) != 1:
        raise InputError(
            "the processor has no chat template; a conversation of several turns needs one."
        )
    place, parts = _places(processor)[0], messages[0]["content"]
    words = (f"{place}\n" if part["type"] == "image" else part["text"] for part in parts)
    return f"USER: {''.join(words)} ASSISTANT:"


def _check_ids(model: Any, ids: torch.Tensor, images: list[list[Any]]) -> None:
    """Check the token ids of a prompt: images have their visual tokens, and all tokens have a position."""
    inner: Any = unwrap(model)
    places = torch.tensor(family_of(inner).placeholder_ids(inner.config))
    for row, own in zip(ids.cpu(), images, strict=True):
        visual = bool(torch.isin(row, places).any())
        if own and not visual and len(places):
            raise InputError(
                f"the prompt has no place for its images ({len(own)}): the processor's chat template writes none."
            )
        if visual and not own:
            raise InputError(
                "the prompt holds places of images, but no image was given; give it, or take them out."
            )
    config = inner.config.get_text_config()
    most, rope = (
        getattr(config, "max_position_embeddings", None),
        getattr(config, "rope_parameters", None) or {},
    )
    plain = rope.get("rope_type", "default") == "default" and not any(
        "mrope" in name for name in rope
    )
    if (
        most
        and plain
        and not any(isinstance(value, dict) for value in rope.values())
        and ids.shape[1] > most
    ):
        raise InputError(
            f"the prompt has {ids.shape[1]} tokens, but the model has positions for {most}; give fewer images."
        )


def _moved(value: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """Return tensors on a device, floating-point ones in a number format; None for what holds no tensor."""
    if isinstance(value, torch.Tensor):
        return value.to(device, dtype) if value.is_floating_point() else value.to(device)
    if isinstance(value, (list, tuple)) and value:
        parts = [_moved(part, device, dtype) for part in value]
        return None if any(part is None for part in parts) else parts
    return None
