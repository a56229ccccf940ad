"""Chat: several questions about the same images, and what is kept between them. Knows templates; prunes nothing itself.

Text-guided pruning keeps what the first question needs, which is not what the second needs. There
are two honest ways
on: to live with that (`reuse="cache"`), or to keep the encoded images and prune them anew
(`reuse="image"`).
"""

from contextlib import ExitStack
from typing import Any, Literal, get_args

import torch

from sparsight.engine.compat import generate_cache_argument, output_cache
from sparsight.engine.image_memory import remembered_images
from sparsight.engine.turns import cache_lengths, cut_back, position_offset, restore_position_offset
from sparsight.errors import InputError, PromptError, SettingError
from sparsight.inputs import Messages, check_question, prompt_inputs, rgb_images, user_message
from sparsight.run import run_of
from sparsight.sparsify import base_of

Reuse = Literal["image", "cache"]


class Chat:
    """A conversation with a model about images, sparsified or not.

    Args:
        model: of a supported family; sparsify it before.
        processor: its processor, with a chat template.
        reuse: what a later turn starts from. "image": the encoded images; the whole conversation is
            prefilled again and pruned for the new question alone, at the cost of a prefill.
                "cache": the key/value cache; only the new
            question is computed, and sees what the first one left.
        history: whether earlier questions and answers stand in the prompt of a later turn. Without
            them, a question is answered as if it were the first one, at the price of what the
            conversation was about.
        processor_kwargs: given to the processor with every turn.
        generate: arguments of every `generate()`, such as max_new_tokens.

    Raises:
        UnsupportedError: the model is of no supported family.
        InputError: the processor has no chat template.
        SettingError: `reuse` is neither of the two, or `history` is to be left out of a cache that
            holds it.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        reuse: Reuse = "image",
        history: bool = True,
        processor_kwargs: dict[str, Any] | None = None,
        **generate: Any,
    ) -> None:
        if reuse not in get_args(Reuse):
            raise SettingError(f"reuse={reuse!r} is not known; give 'image' or 'cache'.")
        if reuse == "cache" and not history:
            raise SettingError(
                "history=False needs reuse='image': a cache holds the earlier turns."
            )
        if not getattr(processor, "chat_template", None):
            raise InputError("the processor has no chat template; a chat needs one.")
        self._model, self._processor, self._reuse = model, processor, reuse
        self._base = base_of(model)
        self._settings, self._options = dict(processor_kwargs or {}), generate
        self._history = history
        self._messages: Messages = []
        self._sequence: torch.Tensor | None = None
        self._cache: Any = None
        self._offset: Any = None
        self._memory: dict[str, Any] = {}

    @property
    def messages(self) -> Messages:
        """The conversation so far, as chat templates take it."""
        return list(self._messages)

    def ask(
        self, question: str, images: Any = (), *, inputs: dict[str, torch.Tensor] | None = None
    ) -> str:
        """Ask, and return the answer. After an error the conversation stands where it stood.

        Args:
            question: what is asked.
            images: shown with it, and always before it: one or several Pillow images, paths, or
                NumPy arrays (`sparsight.pixels.to_rgb` says of which kinds). With `reuse="image"`
                new images in a later turn have all of them encoded again.
            inputs: what the processor made of the first turn, if that was called before.

        Raises:
            InputError: the question is empty, no str, or holds the processor's image placeholder;
                an image cannot be read; or the processor can make no prompt of them.
            PromptError: new images in a later turn with `reuse="cache"`.
            BudgetError: the budget cannot be met on this prompt.
            UnsupportedError: an option of `generate()` is not supported.
        """
        check_question(question, self._processor)
        shown = rgb_images(images)
        messages = [*self._messages, user_message(question, shown)]
        if self._reuse == "cache" and self._messages:
            if shown:
                raise PromptError(
                    "reuse='cache' continues on the cache, which takes no new image; use reuse='image'."
                )
            sequence, cache, start = self._go_on(messages)
        else:
            sequence, cache, start = self._afresh(
                messages if self._history else _as_first(messages), inputs
            )
        answer = str(self._processor.decode(sequence[0, start:], skip_special_tokens=True)).strip()
        self._messages = [
            *messages,
            {"role": "assistant", "content": [{"type": "text", "text": answer}]},
        ]
        if self._reuse == "cache":
            self._sequence, self._cache, self._offset = sequence, cache, position_offset(self._base)
        return answer

    def _afresh(
        self, messages: Messages, inputs: dict[str, torch.Tensor] | None
    ) -> tuple[torch.Tensor, Any, int]:
        """Prefill the whole conversation; of a later turn, only its own text rates the images."""
        if inputs is None or self._messages:
            inputs = prompt_inputs(self._model, self._processor, messages, self._settings)
        run = run_of(self._base)
        with ExitStack() as stack:
            if run is not None and len(messages) > 1:
                stack.enter_context(run.rating(self._count(self._rest(messages))))
            if self._reuse == "image":
                stack.enter_context(remembered_images(self._base, self._memory))
            sequence, cache = self._generate(inputs)
        return sequence, cache, inputs["input_ids"].shape[1]

    def _go_on(self, messages: Messages) -> tuple[torch.Tensor, Any, int]:
        """Prefill the new turn alone."""
        if self._sequence is None or self._cache is None:
            raise PromptError(
                "an error in an earlier turn left the cache of this conversation half written, and it could not be cut "
                "back; start a new Chat, or use reuse='image', which starts each turn afresh."
            )
        ids = self._processor.tokenizer(
            self._rest(messages), add_special_tokens=False, return_tensors="pt"
        )
        before = self._without_end(self._sequence)
        sequence = torch.cat([before, ids["input_ids"].to(before.device)], dim=1)
        inputs = {"input_ids": sequence, "attention_mask": torch.ones_like(sequence)}
        restore_position_offset(self._base, self._offset)
        lengths = cache_lengths(self._cache)
        try:
            return (
                *self._generate(inputs, **generate_cache_argument(self._cache)),
                sequence.shape[1],
            )
        except BaseException:  # an interrupt too
            self._cache = cut_back(self._cache, lengths)
            raise

    def _generate(self, inputs: dict[str, torch.Tensor], **more: Any) -> tuple[torch.Tensor, Any]:
        options = {**self._options, **more, "return_dict_in_generate": True}
        with torch.inference_mode():
            output = self._model.generate(**inputs, **options)
        return output.sequences, output_cache(output)

    def _without_end(self, sequence: torch.Tensor) -> torch.Tensor:
        """Leave out the end-of-turn token, which the chat template writes itself; the cache does not hold it yet."""
        configs = (
            self._options.get("generation_config"),
            self._model.generation_config,
        )  # the second fills the first
        given = (getattr(config, "eos_token_id", None) for config in configs)
        ends = self._options.get(
            "eos_token_id", next((end for end in given if end is not None), None)
        )
        ended = int(sequence[0, -1]) in (ends if isinstance(ends, list) else [ends])
        return sequence[:, :-1] if ended else sequence

    def _rest(self, messages: Messages) -> str:
        """Return what stands between the last answer and the next."""
        said = messages[-2]["content"][0]["text"]
        before, after = self._text(messages[:-2]), self._text(messages)
        rest = after.removeprefix(before).lstrip()
        if after.startswith(before) and rest.startswith(said):
            return rest.removeprefix(said)
        alone = self._text(messages[-1:])  # a template that writes earlier turns in its own way
        return alone.removeprefix(
            self._processor.tokenizer.bos_token or ""
        )  # the conversation has begun already

    def _text(self, messages: Messages) -> str:
        return str(
            self._processor.apply_chat_template(
                messages, add_generation_prompt=True, tokenize=False
            )
        )

    def _count(self, text: str) -> int:
        return len(self._processor.tokenizer(text, add_special_tokens=False)["input_ids"])


def _as_first(messages: Messages) -> Messages:
    """Return the last question alone, with all images that were shown."""
    shown = [part for message in messages for part in message["content"] if part["type"] == "image"]
    asked = [part for part in messages[-1]["content"] if part["type"] != "image"]
    return [{"role": "user", "content": [*shown, *asked]}]
