"""The decoder with LoRA matrices on all its linear layers, fed with visual tokens and questions."""

from __future__ import annotations

from typing import Any

import torch
from packing import Batch, Layout, Prompt
from stage import Machine
from torch import nn
from torch.nn import functional

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
SCALE = 2.0  # of the low-rank product


class LoRA(nn.Module):
    """A frozen linear layer and a trained product of two thin matrices.

    Args:
        linear: the layer; it has no bias.
        rank: of the product.
    """

    weight: torch.Tensor

    def __init__(self, linear: nn.Linear, rank: int) -> None:
        super().__init__()
        self.register_buffer("weight", linear.weight.detach(), persistent=False)
        wide, device = linear.in_features, linear.weight.device
        self.a = nn.Parameter(torch.randn(rank, wide, device=device) / wide**0.5)
        self.b = nn.Parameter(torch.zeros(linear.out_features, rank, device=device))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Return the layer's output."""
        low = functional.linear(functional.linear(states, self.a), self.b)
        return functional.linear(states, self.weight) + SCALE * low


class Student(nn.Module):
    """The decoder with its LoRA matrices, fed with visual tokens and packed questions.

    Args:
        model: the embedded model; its decoder is changed in place.
        prompt: the chat template.
        rank: of the LoRA matrices.
        machine: where it computes.
    """

    prefix: torch.Tensor
    between: torch.Tensor

    def __init__(self, model: Any, prompt: Prompt, rank: int, machine: Machine) -> None:
        super().__init__()
        decoder = model.model.language_model.requires_grad_(False).to(machine.dtype)
        for layer in decoder.layers:
            for parent in (layer.self_attn, layer.mlp):
                for name in TARGETS:
                    if hasattr(parent, name):
                        setattr(parent, name, LoRA(getattr(parent, name), rank))
        self.decoder = decoder
        self._machine = machine
        self.embedding = decoder.embed_tokens.weight  # (vocabulary, D), frozen
        self.register_buffer("prefix", torch.tensor(prompt.prefix, device=machine.device))
        self.register_buffer("between", torch.tensor(prompt.between, device=machine.device))

    def lora(self) -> dict[str, torch.Tensor]:
        """Return the LoRA matrices by name."""
        return {
            name.removeprefix("layers."): value
            for name, value in self.decoder.named_parameters()
            if value.requires_grad
        }

    def forward(self, tokens: torch.Tensor, layout: Layout, batch: Batch) -> torch.Tensor:
        """Return the logits of the predicted tokens, (A, vocabulary)."""
        rows = batch.text.shape[0]
        tokens = tokens.to(self.embedding.dtype)
        images = tokens.view(rows, layout.images, layout.seen, -1).unbind(1)  # each (b, V, D)
        parts = [self._embed(self.prefix).expand(rows, -1, -1), images[0]]
        for image in images[1:]:
            parts += [self._embed(self.between).expand(rows, -1, -1), image]
        embeds = torch.cat([*parts, self._embed(batch.text)], 1)  # (b, N, D)
        lowest = torch.finfo(self._machine.dtype).min
        mask = batch.mask()
        bias = torch.zeros(mask.shape, dtype=self._machine.dtype, device=mask.device)
        bias = bias.masked_fill_(~mask, lowest)
        with self._machine.autocast():
            states = self.decoder(
                inputs_embeds=embeds,
                attention_mask=bias,
                position_ids=batch.positions,
                use_cache=False,
            ).last_hidden_state
            picked = states.flatten(0, 1)[batch.picks]  # (A, D)
            return functional.linear(picked.to(self.embedding.dtype), self.embedding)

    def _embed(self, ids: torch.Tensor) -> torch.Tensor:
        return functional.embedding(ids, self.embedding)
