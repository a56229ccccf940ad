"""Builds prompts: one way for `Chat`, `sparsight ask` and `sparsight eval`.

The images of a user's turn always come first, then its question: only text behind an image can
rate its visual tokens. What reads images and writes turns is imported here as well.
"""

from collections.abc import Mapping
from itertools import chain
from typing import Any

import torch

from sparsight.engine.parts import unwrap
from sparsight.errors import InputError
from sparsight.families import family_of
from sparsight.images import MOST_PIXELS, Source, name_source, read_image, rgb_images
from sparsight.messages import (
    Messages,
    Shown,
    check_mixture,
    hint_at_frames,
    list_parts,
    read_shown,
    takes_videos,
    user_message,
    video_settings,
)

__all__ = [
    "MOST_PIXELS",
    "Messages",
    "Shown",
    "Source",
    "check_question",
    "count_last_turn",
    "find_positions",
    "name_source",
    "prompt_inputs",
    "read_image",
    "read_shown",
    "render_last_turn",
    "rgb_images",
    "takes_videos",
    "user_message",
]

# attributes of processors that hold the placeholder of an image or of a video
PLACEHOLDERS = {
    "image": ("image_token", "boi_token", "fake_image_token"),
    "video": ("video_token",),
}
SECONDS = "second_per_grid_ts"  # of Qwen2.5-VL's processor, between frames; keeps its precision


def check_question(question: Any, processor: Any) -> None:
    """Check that a question is text without an image's placeholder.

    Raises:
        InputError: the question is no str, is empty, or holds a placeholder of the processor.
    """
    if not isinstance(question, str):
        raise InputError(f"the question is of type {type(question).__name__}; give a str.")
    if not question.strip():
        raise InputError("the question is empty; its words decide what is kept.")
    tokens = [token for kind in PLACEHOLDERS for token in _list_placeholders(processor, kind)]
    for token in tokens or ["<image>"]:
        if token in question:
            raise InputError(
                f"the question holds {token!r}, which stands for an image or a video; leave it out."
            )


def _list_placeholders(processor: Any, kind: str) -> list[str]:
    values = [getattr(processor, name, None) for name in PLACEHOLDERS[kind]]
    return [token for token in values if isinstance(token, str) and token]


def prompt_inputs(
    model: Any,
    processor: Any,
    messages: Messages | list[Messages],
    settings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the model's inputs for one conversation or a batch.

    The first token (BOS) stands once in the prompt, even where both the chat template and the
    tokenizer write it. Without a chat template, one question is written as LLaVA-1.5 expects it.

    Args:
        model: that answers, of a supported family.
        processor: of the model.
        messages: as chat templates take them, with the images in RGB.
        settings: passed to the processor.

    Returns:
        Tensors and lists of tensors, on the model's device; floating-point ones have its dtype, but
        for the seconds between frames.
        Other outputs of the processor are left out.

    Raises:
        InputError: the processor can make no prompt of the messages, or loses an image; or the
            prompt is longer than the model has positions for.
    """
    rows = _as_batch(messages)
    images = [list_parts(row) for row in rows]
    together = list(chain.from_iterable(images))
    options = {**video_settings(together), **(settings or {})}
    _check_settings(options)
    check_mixture(family_of(unwrap(model)), together)
    try:
        if getattr(processor, "chat_template", None):
            _check_template(processor, rows, images)
            outputs = _process_with_template(processor, messages, options)
        else:
            outputs = _process_without_template(processor, rows, images, options)
    except InputError:
        raise
    except Exception as error:  # a template or a processor may raise anything
        raise InputError(
            f"the processor can make no prompt of this ({type(error).__name__}: {error})."
            f"{hint_at_frames(together)}"
        ) from error
    _check_placeholders(model, outputs["input_ids"], images)
    _check_length(model, outputs["input_ids"].shape[1])
    moved = {
        name: _move(value, model.device, torch.float32 if name == SECONDS else model.dtype)
        for name, value in outputs.items()
    }
    return {name: value for name, value in moved.items() if value is not None}


def render(processor: Any, messages: Messages) -> str:
    """Return a conversation as its chat template writes it, up to the start of the answer."""
    text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return str(text)


def render_last_turn(processor: Any, messages: Messages) -> str:
    """Return the prompt text behind the last answer: end of turn, question, start of answer.

    Args:
        processor: with a chat template.
        messages: of which the last but one is an answer, in text.
    """
    answer = messages[-2]["content"][0]["text"]
    before = render(processor, messages[:-2])
    whole = render(processor, messages)
    new = whole.removeprefix(before).lstrip()
    if whole.startswith(before) and new.startswith(answer):
        return new.removeprefix(answer)
    # This template writes earlier turns differently once a later one follows. The last turn is
    # rendered alone, without BOS, as the conversation has begun already.
    alone = render(processor, messages[-1:])
    return alone.removeprefix(processor.tokenizer.bos_token or "")


def count_last_turn(processor: Any, messages: Messages) -> int:
    """Return how many tokens the text of `render_last_turn` has."""
    text = render_last_turn(processor, messages)
    return len(processor.tokenizer(text, add_special_tokens=False)["input_ids"])


def _as_batch(messages: Any) -> list[Messages]:
    """Return a batch of conversations; a single conversation becomes a batch of one."""
    return list(messages) if messages and isinstance(messages[0], list) else [messages]


def _check_settings(settings: Mapping[str, Any]) -> None:
    for options in (settings, settings.get("text_kwargs") or {}):
        if options.get("truncation") not in (None, False, "do_not_truncate"):
            raise InputError(
                "truncation would cut an image or the question off the prompt; leave it out."
            )


def _check_template(processor: Any, rows: list[Messages], images: list[list[Any]]) -> None:
    """Check that the chat template writes a placeholder for each image.

    A template that writes none may expand images in its own way; the token ids show it later.
    """
    if isinstance(processor.chat_template, dict) and "default" not in processor.chat_template:
        names = ", ".join(processor.chat_template)
        raise InputError(
            f"the processor has chat templates ({names}), but none named default; "
            "set the one to use."
        )
    for row, row_images in zip(rows, images, strict=True):
        text = processor.apply_chat_template(row, add_generation_prompt=True, tokenize=False)
        found = {kind: _count_places(processor, text, kind) for kind in PLACEHOLDERS}
        for kind, count in found.items():
            wanted = sum(part["type"] == kind for part in row_images)
            if count < wanted and any(found.values()):
                raise InputError(
                    f"the chat template has a place for {count} of {wanted} {kind}s; give fewer."
                )


def _count_places(processor: Any, text: str, kind: str) -> int:
    tokens = _list_placeholders(processor, kind) or [f"<{kind}>"]
    return max(map(text.count, tokens))


def _process_with_template(
    processor: Any, messages: Messages | list[Messages], options: dict[str, Any]
) -> Any:
    return processor.apply_chat_template(
        messages,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs=options,
    )


def _process_without_template(
    processor: Any, rows: list[Messages], images: list[list[Any]], options: dict[str, Any]
) -> Any:
    if any(part["type"] == "video" for part in chain.from_iterable(images)):
        raise InputError("the processor has no chat template; a video needs one.")
    all_images = [part["image"] for part in chain.from_iterable(images)]
    text = [_write_llava_prompt(processor, row) for row in rows]
    return processor(images=all_images or None, text=text, return_tensors="pt", **options)


def _write_llava_prompt(processor: Any, messages: Messages) -> str:
    """Return one question in the prompt format of LLaVA-1.5."""
    if len(messages) != 1:
        raise InputError(
            "the processor has no chat template; a conversation of several turns needs one."
        )
    placeholder = next(iter(_list_placeholders(processor, "image")), "<image>")
    text = ""
    for part in messages[0]["content"]:
        text += f"{placeholder}\n" if part["type"] == "image" else part["text"]
    return f"USER: {text} ASSISTANT:"


def _check_placeholders(model: Any, ids: torch.Tensor, images: list[list[Any]]) -> None:
    """Check that each prompt of (B, N) has visual tokens exactly where it has images."""
    inner: Any = unwrap(model)
    placeholders = torch.tensor(family_of(inner).placeholder_ids(inner.config))
    for row, row_images in zip(ids.cpu(), images, strict=True):
        has_visual = bool(torch.isin(row, placeholders).any())
        if row_images and not has_visual and len(placeholders):
            raise InputError(
                f"the prompt has no place for its images ({len(row_images)}): "
                "the processor's chat template writes none."
            )
        if has_visual and not row_images:
            raise InputError(
                "the prompt holds places of images, but no image was given; "
                "give it, or take them out."
            )


def find_positions(model: Any) -> int | None:
    """Return how many tokens a model has positions for; None where its config sets no limit.

    A rotary table that is scaled, or that differs by layer, may reach further than the config says.
    M-RoPE gives the tokens of an image few positions. Both count as no limit.
    """
    inner: Any = unwrap(model)
    config = inner.config.get_text_config()
    most = getattr(config, "max_position_embeddings", None)
    rope = getattr(config, "rope_parameters", None) or {}
    scaled = rope.get("rope_type", "default") != "default"
    by_layer = any(isinstance(value, dict) for value in rope.values())
    moved = scaled or by_layer or any("mrope" in name for name in rope)
    return None if moved or not most else int(most)


def _check_length(model: Any, length: int) -> None:
    """Check that the model has positions for all tokens."""
    most = find_positions(model)
    if most is not None and length > most:
        raise InputError(
            f"the prompt has {length} tokens, but the model has positions for {most}; "
            "give a shorter question, fewer images, or fewer frames of a video."
        )


def _move(value: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """Return tensors on a device, floating-point ones in a dtype; None for any other value."""
    if isinstance(value, torch.Tensor):
        return value.to(device, dtype) if value.is_floating_point() else value.to(device)
    if isinstance(value, (list, tuple)) and value:
        parts = [_move(part, device, dtype) for part in value]
        return None if any(part is None for part in parts) else parts
    return None
