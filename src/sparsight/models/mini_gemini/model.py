"""Mini-Gemini as a LLaVA of transformers whose pictures pass through two encoders.

Private details of transformers touched here: `get_placeholder_mask` of `LlavaModel`, the parts
`multi_modal_projector`, `language_model` and `lm_head`, that `generate` leaves out
`high_res_pixel_values` behind the prefill and encodes images by `get_image_features`, and
`embed_scale` of Gemma's word table.
"""

from typing import Any

import torch
from torch import nn
from transformers import AutoModel
from transformers.models.llava.modeling_llava import (
    LlavaForConditionalGeneration,
    LlavaModel,
    LlavaModelOutputWithPast,
    LlavaMultiModalProjector,
)

from sparsight.engine.compat import cache_argument, generate_cache_argument
from sparsight.errors import InputError
from sparsight.models.mini_gemini.config import MiniGeminiConfig
from sparsight.models.mini_gemini.towers import MinedTower


class MiniGeminiModel(LlavaModel):
    """Mini-Gemini without a language-model head.

    Source: Li et al., Mini-Gemini, arXiv 2403.18814; authors' code dvlab-research/MGM, 769820c.
    Differs: encoders run in evaluation mode; the authors' loader leaves drop path on in the second
        one, so that two calls on one picture differ.
    """

    config_class = MiniGeminiConfig

    def __init__(self, config: MiniGeminiConfig) -> None:
        super(LlavaModel, self).__init__(config)  # builds no encoder that would be thrown away
        self.vision_tower = MinedTower(config)
        self.multi_modal_projector = LlavaMultiModalProjector(config)
        self.language_model = AutoModel.from_config(config.text_config)  # type: ignore[no-untyped-call]
        self.post_init()  # type: ignore[no-untyped-call]

    def get_image_features(
        self,
        pixel_values: torch.Tensor,
        high_res_pixel_values: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Return an output whose `pooler_output` is a list of I tensors (V, D).

        Args:
            pixel_values: (I, T, 3, s, s), or (I, 3, s, s) of models with one tile.
            high_res_pixel_values: (I, 3, S, S).
            kwargs: ignored; options of LLaVA that the config fixes here.
        Raises: InputError: there are no high-resolution pictures, or they do not fit.
        """
        del kwargs
        if high_res_pixel_values is None:
            raise InputError(
                "Mini-Gemini reads every picture twice, and high_res_pixel_values are missing; "
                "give them beside pixel_values, as its processor makes them."
            )
        output = self.vision_tower(pixel_values, high_res_pixel_values)
        output.pooler_output = list(self.multi_modal_projector(output.last_hidden_state))
        return output

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        high_res_pixel_values: torch.Tensor | None = None,
        *,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        mm_encoder_outputs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Put the pictures' features into the text, and run the text decoder.

        Args:
            input_ids: (B, L) int64, or `inputs_embeds` (B, L, D).
            pixel_values: as of `get_image_features`; None for text alone.
            high_res_pixel_values: as of `get_image_features`.
            attention_mask: (B, L).
            position_ids: (B, L).
            past_key_values: the cache, also taken as `cache`.
            inputs_embeds: (B, L, D).
            mm_encoder_outputs: under "image" what `get_image_features` returned.
            kwargs: for the text decoder.
        Raises: InputError: both or neither of ids and embeddings are given.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise InputError("give exactly one of input_ids and inputs_embeds.")
        table: Any = self.get_input_embeddings()
        embeds = table(input_ids) if inputs_embeds is None else inputs_embeds
        encoded = (mm_encoder_outputs or {}).get("image")
        if encoded is None and pixel_values is not None:
            encoded = self.get_image_features(pixel_values, high_res_pixel_values)
        if encoded is not None:
            features = torch.cat(list(encoded.pooler_output)).to(embeds.device, embeds.dtype)
            features = _scale(features, table)
            find: Any = self.get_placeholder_mask  # its types leave out embeddings alone
            mask = find(input_ids, embeds, features[None])
            embeds = embeds.masked_scatter(mask, features)
        if past_key_values is not None:
            kwargs |= cache_argument(self.language_model, past_key_values)
        outputs = self.language_model(
            inputs_embeds=embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            **kwargs,
        )
        return LlavaModelOutputWithPast(**outputs)


def _scale(features: torch.Tensor, table: nn.Module) -> torch.Tensor:
    """Return features scaled like words: the authors' Gemma scales both inside the decoder."""
    scale = getattr(table, "embed_scale", None)
    return features if scale is None else features * scale.to(features.device, features.dtype)


class MiniGeminiForConditionalGeneration(  # type: ignore[no-untyped-call]
    LlavaForConditionalGeneration
):
    """Mini-Gemini with a language-model head."""

    config_class = MiniGeminiConfig

    def __init__(self, config: MiniGeminiConfig) -> None:
        super(LlavaForConditionalGeneration, self).__init__(config)
        text: Any = config.text_config
        self.model = MiniGeminiModel(config)
        self.lm_head = nn.Linear(text.hidden_size, text.vocab_size, bias=False)
        self.post_init()  # type: ignore[no-untyped-call]

    def get_image_features(
        self,
        pixel_values: torch.Tensor,
        high_res_pixel_values: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Return what the base model's method of this name returns."""
        return self.model.get_image_features(pixel_values, high_res_pixel_values, **kwargs)

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        high_res_pixel_values: torch.Tensor | None = None,
        *,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        mm_encoder_outputs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Return LLaVA's output; `generate` reads the names of these arguments.

        Args: as of `LlavaForConditionalGeneration` and of the base model.
        """
        if past_key_values is not None:
            kwargs |= generate_cache_argument(past_key_values)
        if mm_encoder_outputs is not None:
            kwargs["mm_encoder_outputs"] = mm_encoder_outputs
        return super().forward(
            input_ids=input_ids,
            pixel_values=pixel_values,
            high_res_pixel_values=high_res_pixel_values,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            labels=labels,
            logits_to_keep=logits_to_keep,
            **kwargs,
        )
