"""Chat: several questions about the same images, and what is kept between them.

Text-guided pruning keeps what the first question needs, which is not what the second one needs. A
later turn can either live with that (`reuse="cache"`), or prune the encoded images again
(`reuse="image"`). Chat knows chat templates and prunes nothing itself.
"""

from contextlib import ExitStack
from typing import Any, Literal, get_args

import torch

from sparsight.engine.compat import generate_cache_argument, output_cache
from sparsight.engine.image_memory import remembered_images
from sparsight.engine.turns import cache_lengths, cut_back, position_offset, restore_position_offset
from sparsight.errors import InputError, PromptError, SettingError
from sparsight.inputs import (
    Messages,
    check_question,
    count_last_turn,
    prompt_inputs,
    read_shown,
    render_last_turn,
    takes_videos,
    user_message,
)
from sparsight.run import run_of
from sparsight.sparsify import base_of

Reuse = Literal["image", "cache"]


class Chat:
    """A conversation with a model about images, sparsified or not.

    Args:
        model: of a supported family; sparsify it before.
        processor: of the model, with a chat template.
        reuse: what a later turn starts from. "image": the encoded images; the whole conversation is
            prefilled again, and pruned for the new question alone. "cache": the key/value cache;
            only the new question is computed, and it sees what the first question left.
        history: whether earlier questions and answers stand in the prompt of a later turn. Without
            them, a question is answered as if it were the first one, and cannot refer to the
            conversation.
        processor_kwargs: passed to the processor in every turn.
        generate: arguments of every `generate()`, such as max_new_tokens.

    Raises:
        UnsupportedError: the model is of no supported family.
        InputError: the processor has no chat template.
        SettingError: `reuse` is neither of the two; or `history` is False with a cache, which holds
            the history.
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
        self._model = model
        self._base = base_of(model)
        self._processor = processor
        self._processor_kwargs = dict(processor_kwargs or {})
        self._options = generate
        self._reuse = reuse
        self._history = history
        self._messages: Messages = []
        # for reuse="cache": all token ids so far, (1, N), their cache, and the M-RoPE offset
        self._sequence: torch.Tensor | None = None
        self._cache: Any = None
        self._offset: Any = None
        # for reuse="image": the encoded images
        self._memory: dict[str, Any] = {}

    @property
    def messages(self) -> Messages:
        """The conversation so far, as chat templates take it."""
        return list(self._messages)

    def ask(
        self, question: str, images: Any = (), *, inputs: dict[str, torch.Tensor] | None = None
    ) -> str:
        """Return the answer to a question, and add both to the conversation.

        After an error the conversation is as it was before.

        Args:
            question: text.
            images: shown with the question, and placed before it: one or several Pillow images,
                paths, NumPy arrays (see `sparsight.pixels.to_rgb`), or clips of
                `sparsight.videos.read_clip`, whose frames are images for a model that takes no
                videos. With `reuse="image"`, new ones in a later turn have all encoded again.
            inputs: the processor's outputs for the first turn, if they exist already.

        Raises:
            InputError: the question is no str, is empty, or holds the processor's image
                placeholder; an image cannot be read; or the processor can make no prompt of them.
            PromptError: new images in a later turn with `reuse="cache"`; or a cache that could not
                be restored after an error.
            BudgetError: the method cannot meet its budget on this prompt.
            UnsupportedError: an option of `generate()` is not supported.
        """
        check_question(question, self._processor)
        shown = read_shown(images)
        message = user_message(question, shown, as_videos=takes_videos(self._processor))
        messages = [*self._messages, message]
        if self._reuse == "cache" and self._messages:
            if shown:
                raise PromptError(
                    "reuse='cache' continues on the cache, which takes no new image; "
                    "use reuse='image'."
                )
            sequence, cache, start = self._continue_on_cache(messages)
        else:
            prompt = messages if self._history else _keep_last_question(messages)
            sequence, cache, start = self._prefill(prompt, inputs)
        answer = str(self._processor.decode(sequence[0, start:], skip_special_tokens=True)).strip()
        reply = {"role": "assistant", "content": [{"type": "text", "text": answer}]}
        self._messages = [*messages, reply]
        if self._reuse == "cache":
            self._sequence = sequence
            self._cache = cache
            self._offset = position_offset(self._base)
        return answer

    def _prefill(
        self, messages: Messages, inputs: dict[str, torch.Tensor] | None
    ) -> tuple[torch.Tensor, Any, int]:
        """Generate from the whole conversation; only the text of its last turn rates the images.

        Returns:
            All token ids, (1, N), the cache, and the index at which the answer starts.
        """
        if inputs is None or self._messages:
            inputs = prompt_inputs(self._model, self._processor, messages, self._processor_kwargs)
        run = run_of(self._base)
        with ExitStack() as stack:
            if run is not None and len(messages) > 1:
                last_turn = count_last_turn(self._processor, messages)
                stack.enter_context(run.rating(last_turn))
            if self._reuse == "image":
                stack.enter_context(remembered_images(self._base, self._memory))
            sequence, cache = self._generate(inputs)
        return sequence, cache, inputs["input_ids"].shape[1]

    def _continue_on_cache(self, messages: Messages) -> tuple[torch.Tensor, Any, int]:
        """Generate from the last turn on the cache of the earlier ones; returns as `_prefill`."""
        if self._sequence is None or self._cache is None:
            raise PromptError(
                "an error in an earlier turn left the cache of this conversation half written, and "
                "it could not be cut back; start a new Chat, or use reuse='image', which starts "
                "each turn afresh."
            )
        new = self._processor.tokenizer(
            render_last_turn(self._processor, messages),
            add_special_tokens=False,
            return_tensors="pt",
        )
        before = self._drop_end_token(self._sequence)
        sequence = torch.cat([before, new["input_ids"].to(before.device)], dim=1)
        inputs = {"input_ids": sequence, "attention_mask": torch.ones_like(sequence)}
        restore_position_offset(self._base, self._offset)
        lengths = cache_lengths(self._cache)
        try:
            output, cache = self._generate(inputs, **generate_cache_argument(self._cache))
        except BaseException:  # an interrupt leaves the cache half written as well
            self._cache = cut_back(self._cache, lengths)
            raise
        return output, cache, sequence.shape[1]

    def _generate(self, inputs: dict[str, torch.Tensor], **more: Any) -> tuple[torch.Tensor, Any]:
        options = {**self._options, **more, "return_dict_in_generate": True}
        with torch.inference_mode():
            output = self._model.generate(**inputs, **options)
        return output.sequences, output_cache(output)

    def _drop_end_token(self, sequence: torch.Tensor) -> torch.Tensor:
        """Return the token ids without the end-of-turn token, if they end with one.

        The chat template writes that token in front of the next turn, and the cache does not hold
        it yet.
        """
        ends = self._find_end_tokens()
        if int(sequence[0, -1]) in (ends if isinstance(ends, list) else [ends]):
            return sequence[:, :-1]
        return sequence

    def _find_end_tokens(self) -> Any:
        """Return the id, or the list of ids, that ends an answer; None if there is none."""
        if "eos_token_id" in self._options:
            return self._options["eos_token_id"]
        # generate() fills what the config of this call leaves open from the model's own config
        for config in (self._options.get("generation_config"), self._model.generation_config):
            ends = getattr(config, "eos_token_id", None)
            if ends is not None:
                return ends
        return None


def _keep_last_question(messages: Messages) -> Messages:
    """Return a conversation of the last question alone, behind all images of the conversation."""
    content = [
        part for message in messages for part in message["content"] if part["type"] != "text"
    ]
    content += [part for part in messages[-1]["content"] if part["type"] == "text"]
    return [{"role": "user", "content": content}]
