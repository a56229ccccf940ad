"""Mini-Gemini's processor: pictures, chat templates, and prompts read in pieces.

Private details of transformers touched here: `ProcessorMixin` saves what its constructor names and
renders `chat_template`; tokenizers' `pad`, `bos_token_id` and `padding_side`.
"""

from typing import Any

from transformers import BatchFeature
from transformers.processing_utils import ProcessorMixin

from sparsight.errors import InputError
from sparsight.models.mini_gemini.images import list_pictures, refuse_options

IMAGE_TOKEN = "<image>"  # noqa: S105 - a token of text


class MiniGeminiProcessor(ProcessorMixin):
    """Makes Mini-Gemini's inputs of pictures and text.

    The text between pictures is read piece by piece, as the authors' code does: some tokenizers
    begin every text with a space, which they would not do behind a special token.

    Args:
        image_processor: makes both inputs of a picture.
        tokenizer: that knows the image token.
        chat_template: how turns are written.
        image_token: stands for a picture in the text.
        image_seq_length: visual tokens of a picture.
    """

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        chat_template: str | None = None,
        image_token: str = IMAGE_TOKEN,
        image_seq_length: int = 576,
    ) -> None:
        self.image_token, self.image_seq_length = image_token, image_seq_length
        self.image_token_id = tokenizer.convert_tokens_to_ids(image_token)
        if self.image_token_id in (None, getattr(tokenizer, "unk_token_id", None)):
            raise InputError(
                f"the tokenizer has no word {image_token!r}; `sparsight convert-mgm` adds it."
            )
        start: Any = super().__init__  # has no types
        start(image_processor, tokenizer, chat_template=chat_template)

    def __call__(
        self, images: Any = None, text: Any = None, videos: Any = None, **kwargs: Any
    ) -> BatchFeature:
        """Return the model's inputs for one prompt or a batch.

        Args:
            images: in the order of the image tokens of all prompts; nested lists are taken.
            text: one prompt or a list, with one image token for each picture.
            videos: refused.
            kwargs: return_tensors, padding, padding_side and add_special_tokens, by themselves or
                as `text_kwargs`.

        Returns:
            input_ids, attention_mask, and of pictures pixel_values and high_res_pixel_values.

        Raises:
            InputError: there is no text, the numbers of pictures and image tokens differ, or
                another option is given.
        """
        if videos is not None or text is None:
            raise InputError("Mini-Gemini takes text with pictures, and no videos; give text.")
        options = {**kwargs.pop("common_kwargs", {}), **kwargs.pop("text_kwargs", {}), **kwargs}
        tensors = options.pop("return_tensors", None)
        special = options.pop("add_special_tokens", True)
        padding, side = options.pop("padding", False), options.pop("padding_side", None)
        refuse_options(options)
        prompts = [text] if isinstance(text, str) else list(text)
        pictures = list_pictures(images)
        wanted = sum(prompt.count(self.image_token) for prompt in prompts)
        if wanted != len(pictures):
            raise InputError(
                f"the text has {wanted} times {self.image_token!r}, and {len(pictures)} pictures "
                "are given; give one for each."
            )
        rows = [self._read(prompt, special) for prompt in prompts]
        inputs = dict(
            self.tokenizer.pad(
                {"input_ids": rows}, padding=padding, padding_side=side, return_tensors=tensors
            )
        )
        if pictures:
            inputs |= self.image_processor(pictures, return_tensors=tensors)
        return BatchFeature(inputs)

    def _read(self, prompt: str, special: bool) -> list[int]:
        """Return the ids of a prompt, each picture as many placeholders as it has tokens."""
        ids: list[int] = []
        for number, piece in enumerate(prompt.split(self.image_token)):
            own = list(self.tokenizer(piece, add_special_tokens=special)["input_ids"])
            if number:
                ids += [self.image_token_id] * self.image_seq_length
                if special and own and own[0] == self.tokenizer.bos_token_id:
                    own = own[1:]
            ids += own
        return ids
