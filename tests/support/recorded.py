"""Models whose image encoder, or one decoder layer, computes what a recording holds."""

import torch
from torch import nn
from transformers import (
    CLIPVisionConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.clip.modeling_clip import CLIPEncoderLayer, eager_attention_forward

from tests.support import tiny


class RecordedAttention(nn.Module):
    """Attends with given q and k, each (I, H, N, d), through transformers' interface."""

    def __init__(self, config, query, key, scaling, causal=False):
        super().__init__()
        self.config, self.is_causal = config, causal
        self.num_key_value_groups = 1
        self.query, self.key = query, key
        self.scaling = scaling

    def forward(self, hidden_states, *_, attention_mask=None, **__):
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        value = torch.zeros_like(self.key)
        attend(self, self.query, self.key, value, attention_mask, scaling=self.scaling)
        return torch.zeros_like(hidden_states), None


class RecordedBlock(CLIPEncoderLayer):  # transformers collects the outputs of this class
    """A block of an image encoder that attends and returns features (I, N, D) as recorded."""

    def __init__(self, config, attention, output=None):
        super().__init__(config)
        self.self_attn, self.output = attention, output

    def forward(self, hidden_states, *_, **__):
        self.self_attn(hidden_states)
        return hidden_states if self.output is None else self.output


class Given(nn.Module):
    """A projector whose answer is given, (I, N, D)."""

    def __init__(self, tokens):
        super().__init__()
        self.tokens = tokens.double()

    def forward(self, features):
        assert features.shape[:2] == self.tokens.shape[:2]
        return self.tokens


def model(width, side, layers=4, depth=5, projected=None, **text):
    """A LLaVA with `side` x `side` visual tokens.

    Its projector leaves them as they are, or answers `projected`, (I, N, D).
    """
    size = side * tiny.PATCH
    vision = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=48,
        num_hidden_layers=depth,
        num_attention_heads=2,
        image_size=size,
        patch_size=tiny.PATCH,
    )
    text = tiny.text_config(
        hidden_size=width if projected is None else projected.shape[-1],
        num_hidden_layers=layers,
        max_position_embeddings=2048,
        **text,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=tiny.IMAGE,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=side**2,
    )
    torch.manual_seed(0)
    made = LlavaForConditionalGeneration._from_config(config, attn_implementation="sdpa")
    plain = nn.Linear(width, width, bias=False)
    plain.weight.data = torch.eye(width)
    made.model.multi_modal_projector = plain if projected is None else Given(projected)
    return tiny.ready(made, torch.float64)


class Constant(nn.Module):
    """Returns what is given."""

    def __init__(self, given):
        super().__init__()
        self.given = given

    def forward(self, _):
        return self.given


def put_keys_in(made, inputs, keys):
    """Have an image encoder's blocks attend with recorded keys (N, d), and add nothing.

    Args: inputs: (N, D) of the first block.
    """
    tower = made.model.vision_tower
    tower.pre_layrnorm = Constant(inputs.double()[None])
    for block, recorded in zip(tower.encoder.layers, keys, strict=False):
        key = recorded.double()[None, None]
        block.self_attn = RecordedAttention(tower.config, torch.zeros_like(key), key, 1.0)
        for part in (block.mlp.fc2.weight, block.mlp.fc2.bias):
            part.data.zero_()


def put_in(made, block, attended, scaling, output=None):
    """Put a recorded block into the image encoder; features have a class token."""
    tower = made.model.vision_tower
    query, key = (part.double() for part in attended)
    attention = RecordedAttention(tower.config, query, key, scaling)
    output = None if output is None else output.double()
    tower.encoder.layers[block] = RecordedBlock(tower.config, attention, output)


FIRST_WORD = 4


def say(model, inputs, text):
    """Have a prompt's last words be those with the input embeddings (M, D)."""
    words = torch.arange(FIRST_WORD, FIRST_WORD + len(text))
    model.get_input_embeddings().weight.data[words] = text.double()
    inputs["input_ids"][:, -len(text) :] = words


def put_in_decoder(made, layer, attended, scaling):
    """Put recorded attention into a decoder layer that changes no hidden state."""
    block = made.model.language_model.layers[layer]
    query, key = (part.double() for part in attended)
    block.self_attn = RecordedAttention(block.self_attn.config, query, key, scaling, causal=True)


def speak(made, before, visual, after):
    """Inputs whose embeddings are as recorded: text before an image, its tokens and text behind it.

    The decoder's layers add nothing to them.
    """
    side = round(len(visual) ** 0.5) * tiny.PATCH
    attended = attending(torch.full((1, 1, len(visual)), 1 / (len(visual) + 1)))
    put_in(made, 3, attended, 1.0, with_class_token(visual[None]))
    decoder = made.model.language_model
    for block in decoder.layers:
        block.self_attn.o_proj.weight.data.zero_()
        block.mlp = Silent()
    words = torch.arange(len(before) + len(after)) + 4  # ids that are no others
    decoder.embed_tokens.weight.data[words] = torch.cat([before, after]).double()
    ids = [words[: len(before)], torch.full((len(visual),), tiny.IMAGE), words[len(before) :]]
    ids = torch.cat(ids)[None]
    pixels = torch.zeros(1, 3, side, side, dtype=torch.float64)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}


class Silent(nn.Module):
    """Adds nothing."""

    def forward(self, hidden_states):
        return torch.zeros_like(hidden_states)


def attending(attention):
    """q and k (I, H, 1 + N, 1) whose class row, scaled by 1, is attention (I, H, N)."""
    attention = attention.double()
    own = (1 - attention.sum(dim=-1, keepdim=True)).clamp_min(1e-9)
    key = torch.cat([own, attention], dim=-1).log()[..., None]
    return torch.ones_like(key), key


def with_class_token(features):
    """Features (I, N, D) behind a class token of zeros."""
    return torch.cat([torch.zeros_like(features[:, :1]), features], dim=1)


def text(width, layers, **changes):
    """A text model with a head."""
    config = tiny.text_config(
        hidden_size=width, num_hidden_layers=layers, max_position_embeddings=1024, **changes
    )
    torch.manual_seed(0)
    return tiny.ready(LlamaForCausalLM(config), torch.float64)


def still(made):
    """A model whose decoder layers attend, and leave hidden states as they are."""
    for layer in getattr(made.model, "language_model", made.model).layers:
        layer.self_attn.o_proj.weight.data.zero_()
        layer.mlp.down_proj.weight.data.zero_()
    return made


def rows_of(attention):
    """q and k (1, H, n, R) of R last rows that, scaled by 1, attend (H, R, n) as recorded."""
    attention = attention.double()[None]
    heads, rows, count = attention.shape[1:]
    own = (1 - attention.sum(dim=-1)).clamp_min(1e-9)  # the first token gets what was not recorded
    attention = torch.cat([own[..., None], attention[..., 1:]], dim=-1)
    query = torch.zeros(1, heads, count, rows, dtype=torch.float64)
    query[:, :, -rows:] = torch.eye(rows, dtype=torch.float64)
    return query, attention.clamp_min(1e-30).log().transpose(-1, -2)
