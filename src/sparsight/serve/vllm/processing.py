"""The front end's part: checks a request, promises counts, and makes honest cache keys.

`SparseProcessor` goes before a processor class of vLLM. Private details of vLLM touched here, and
checked when this module is imported: the methods in HOOKS, fields of `ProcessorInputs`, and that
keyword arguments of an image reach the model's `embed_multimodal`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from vllm.multimodal.hasher import MultiModalHasher
from vllm.multimodal.inputs import MultiModalFieldConfig
from vllm.multimodal.processing import BaseMultiModalProcessor, PromptReplacement

from sparsight.counts.layout import Layout
from sparsight.errors import PromptError, SettingError, UnsupportedError
from sparsight.methods.method import Space
from sparsight.serve.vllm.choosing import count_kept
from sparsight.serve.vllm.guides import Ids, find_guides, find_mark
from sparsight.serve.vllm.hooks import require_hooks
from sparsight.serve.vllm.settings import (
    GUIDE,
    PREFIX,
    RETAIN,
    Settings,
    read_budget,
    read_settings,
)

KEEP = "sparsight_keep"  # field of an image: how many of its tokens stay
NO_GUIDE = (-1,)  # stands for no words
HOOKS = {
    "apply": ("inputs", "timing_ctx"),
    "get_dummy_inputs": ("seq_len", "mm_counts", "mm_options"),
    "_get_mm_hashes": ("inputs",),
    "_get_cache_missing_processor_kwargs": ("inputs", "mm_is_cached"),
    "_apply_hf_processor_main": ("mm_items", "hf_kwargs"),
    "_get_mm_fields_config": ("hf_inputs", "hf_processor_mm_kwargs"),
    "_get_prompt_updates": ("mm_items", "hf_processor_mm_kwargs", "out_mm_kwargs"),
}
require_hooks(BaseMultiModalProcessor, HOOKS)


class SparseProcessor:
    """Goes before a processor class of vLLM; a subclass says where tokens of its images lie."""

    space: ClassVar[Space] = "tokens"
    signals: ClassVar[tuple[str, ...]] = ()  # what the model's part reads of the image encoder
    placeholder: ClassVar[str]  # field of the config that holds the id of an image's placeholder
    info: Any

    def __init__(self, info: Any, dummy_inputs: Any) -> None:
        super().__init__(info, dummy_inputs)  # type: ignore[call-arg]
        self.check_config(info.get_hf_config())
        given = info.ctx.get_mm_config().mm_processor_kwargs or {}
        ours = sorted(key for key in given if str(key).startswith(PREFIX))
        if ours:
            raise SettingError(
                f"mm_processor_kwargs of an engine has {', '.join(ours)}; give the budget of all "
                "requests by hf_overrides={'sparsight': {'retain': ...}}."
            )
        wanted = {need.kind for need in self.settings.method.encoder_needs} - set(self.signals)
        if wanted:
            raise UnsupportedError(
                f"{self.settings.method.name} reads {', '.join(sorted(wanted))} of the image "
                "encoder, which are not read of this model in vLLM; set space='tokens'."
            )

    @staticmethod
    def read_layouts(config: Any, given: Mapping[str, Any]) -> list[Layout]:
        """Return the layout of each image; each family has its own.

        Args:
            config: of the model.
            given: what the processor made of the images.
        """
        raise NotImplementedError

    @staticmethod
    def check_config(config: Any) -> None:
        """Check that a model is of a kind whose tokens can be placed; a family may refuse some.

        Raises: UnsupportedError: it is not.
        """

    @cached_property
    def settings(self) -> Settings:
        """Settings of the engine."""
        return read_settings(self.info.get_hf_config(), self.space)

    @property
    def image_id(self) -> int:
        """Id of an image's placeholder."""
        return int(getattr(self.info.get_hf_config(), self.placeholder))

    @cached_property
    def mark(self) -> Ids:
        """Tokens with which the chat template begins an assistant's turn; () without a template."""
        tokenizer = self.info.get_tokenizer()
        template = getattr(self.info.get_hf_processor(), "chat_template", None)
        template = template or tokenizer.chat_template
        if isinstance(template, dict):
            template = template.get("default")
        if not template:
            return ()
        return find_mark(lambda opened: _render(tokenizer, template, opened))

    def apply(self, inputs: Any, timing_ctx: Any) -> Any:
        """Check what a request asks for, and add the guiding words to its arguments.

        Raises:
            SettingError: an entry of ours that is not known.
            BudgetError: the budget is out of range.
            PromptError: the images are given as embeddings, or no words follow them.
        """
        budget = read_budget(inputs.hf_processor_mm_kwargs, self.settings)
        images = inputs.mm_data_items.get_count("image", strict=False)
        for items in inputs.mm_data_items.values():
            if len(items.get_passthrough_data()):
                raise PromptError("embeddings of an image cannot be pruned; give the image itself.")
        if images:
            self.check_prompt(inputs.prompt)
        # an image that keeps everything needs no guide, such as the one that memory is measured by
        keeps_all = budget is None or (isinstance(budget, float) and budget == 1.0)
        if images and self.settings.reads_text and not keeps_all:
            guides = self._find_guides(inputs.prompt, images)
            given = {**inputs.hf_processor_mm_kwargs, GUIDE: guides}
            inputs = replace(inputs, hf_processor_mm_kwargs=given)
        return super().apply(inputs, timing_ctx)  # type: ignore[misc]

    def check_prompt(self, ids: Sequence[int]) -> None:
        """Check a prompt with images; a family with rules of its own refuses here.

        Raises: PromptError: it breaks one.
        """

    def _find_guides(self, ids: Sequence[int], images: int) -> list[Ids]:
        """Return the guide of each image."""
        tokenizer = self.info.get_tokenizer()
        ends = frozenset(() if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,))
        special = frozenset(tokenizer.all_special_ids)
        guides = find_guides(ids, self.image_id, self.mark, special, ends)
        if len(guides) != images:
            raise PromptError(
                f"the prompt has {len(guides)} placeholders for {images} images; give one each."
            )
        return guides

    def get_dummy_inputs(self, seq_len: int, mm_counts: Any, mm_options: Any) -> Any:
        """Measure memory with images that keep everything, as a request may ask for that."""
        inputs = super().get_dummy_inputs(seq_len, mm_counts, mm_options)  # type: ignore[misc]
        return replace(
            inputs, hf_processor_mm_kwargs={**inputs.hf_processor_mm_kwargs, RETAIN: 1.0}
        )

    def _get_mm_hashes(self, inputs: Any) -> Any:
        """Make image, settings, budget and its own guide the key of an image in every cache."""
        given = inputs.hf_processor_mm_kwargs
        plain = {key: value for key, value in given.items() if key != GUIDE}
        hashes = super()._get_mm_hashes(  # type: ignore[misc]
            replace(inputs, hf_processor_mm_kwargs=plain)
        )
        if "image" not in hashes:
            return hashes
        algorithm = self.info.ctx.get_mm_config().mm_hasher_algorithm
        guides = given.get(GUIDE, [NO_GUIDE] * len(hashes["image"]))
        keys = []
        for image, guide in zip(hashes["image"], guides, strict=True):
            key = f"{image} {self.settings!r} {tuple(guide)}"
            keys.append(MultiModalHasher.hash_kwargs(algorithm, sparsight=key))
        return {**hashes, "image": keys}

    def _get_cache_missing_processor_kwargs(self, inputs: Any, mm_is_cached: Any) -> Any:
        given = super()._get_cache_missing_processor_kwargs(  # type: ignore[misc]
            inputs, mm_is_cached
        )
        if GUIDE not in given:
            return given
        pairs = zip(given[GUIDE], mm_is_cached["image"], strict=True)
        return {**given, GUIDE: [guide for guide, cached in pairs if not cached]}

    def _apply_hf_processor_main(self, mm_items: Any, hf_kwargs: Any) -> Any:
        """Add the count and the guide of each image to what the processor makes of it."""
        data = super()._apply_hf_processor_main(  # type: ignore[misc]
            mm_items=mm_items, hf_kwargs=drop_ours(hf_kwargs)
        )
        layouts = self.read_layouts(self.info.get_hf_config(), data)
        if not layouts:
            return data
        budget = hf_kwargs.get(RETAIN, self.settings.retain)
        counts = [count_kept(self.settings.method, layout, budget) for layout in layouts]
        guides = hf_kwargs.get(GUIDE, [NO_GUIDE] * len(layouts))
        data[KEEP] = torch.tensor(counts)
        data[GUIDE] = [torch.tensor(guide) for guide in guides]
        return data

    def _get_mm_fields_config(self, hf_inputs: Any, hf_processor_mm_kwargs: Any) -> Any:
        theirs = super()._get_mm_fields_config(  # type: ignore[misc]
            hf_inputs, drop_ours(hf_processor_mm_kwargs)
        )
        ours = MultiModalFieldConfig.batched("image", keep_on_cpu=True)
        return {**theirs, KEEP: ours, GUIDE: ours}

    def _get_prompt_updates(
        self, mm_items: Any, hf_processor_mm_kwargs: Any, out_mm_kwargs: Any
    ) -> Any:
        theirs = super()._get_prompt_updates(  # type: ignore[misc]
            mm_items=mm_items,
            hf_processor_mm_kwargs=drop_ours(hf_processor_mm_kwargs),
            out_mm_kwargs=out_mm_kwargs,
        )

        def shorten(item: int) -> list[int]:
            return [self.image_id] * int(out_mm_kwargs["image"][item][KEEP].data)

        ours = PromptReplacement("image", [self.image_id], shorten)
        return [ours, *(update for update in theirs if update.modality != "image")]


def drop_ours(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments of a request without ours, which transformers does not know."""
    return {key: value for key, value in given.items() if not str(key).startswith(PREFIX)}


def _render(tokenizer: Any, template: str, opened: bool) -> list[int]:
    """Return the ids of a prompt with one user turn, with an assistant's turn begun or not."""
    options = {"chat_template": template, "tokenize": False, "add_generation_prompt": opened}
    parts = [{"type": "text", "text": "x"}]
    try:
        text = tokenizer.apply_chat_template([{"role": "user", "content": parts}], **options)
    except TypeError:  # a template for turns that are plain text
        text = tokenizer.apply_chat_template([{"role": "user", "content": "x"}], **options)
    return list(tokenizer.encode(text, add_special_tokens=False))
