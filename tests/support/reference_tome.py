"""ToMe in a tiny image encoder, token by token and slowly, from the paper's text, in float64.

Of the model it takes weights, what the patches look like before the first block, and activations.
"""

import itertools
import math

import torch
from torch import nn

from tests.support.reference_merging import bipartite, weighted_means


def halved(present, count, blocks):
    """How many tokens each block merges: equal numbers, earlier ones more; half at most."""
    plan = []
    for behind in reversed(range(blocks)):
        now = present - sum(plan)
        share = math.ceil((now - count) / (behind + 1))
        while now - share > count * 2**behind:  # the blocks behind this one could not halve so far
            share += 1
        plan.append(share)
    return plan


def parts_of(block):
    """Norms, projections, the rest behind attention, and the MLP of one block, by our names."""
    found = dict(block.named_modules())

    def one(*names):
        return next(found[name] for name in names if name in found)

    same = nn.Identity()
    return {
        "norm1": one("layer_norm1", "norm1"),
        "norm2": one("layer_norm2", "norm2"),
        "query": one("self_attn.q_proj", "attention.q_proj", "attention.attention.query"),
        "key": one("self_attn.k_proj", "attention.k_proj", "attention.attention.key"),
        "value": one("self_attn.v_proj", "attention.v_proj", "attention.attention.value"),
        "out": one("self_attn.out_proj", "attention.o_proj", "attention.output.dense"),
        "mlp": found["mlp"],
        "scale1": found.get("layer_scale1", same),
        "scale2": found.get("layer_scale2", same),
    }


def attend(part, hidden, sizes, heads):
    """Attention of one image (n, D) whose logits have the log of the key's size; keys (n, d)."""
    normed = part["norm1"](hidden)
    query, key = (part[name](normed).unflatten(-1, (heads, -1)) for name in ("query", "key"))
    value = part["value"](normed).unflatten(-1, (heads, -1))
    answers = []
    for head in range(heads):
        logits = query[:, head] @ key[:, head].T / math.sqrt(query.shape[-1])
        logits = logits + torch.tensor([math.log(size) for size in sizes], dtype=logits.dtype)
        answers.append(logits.softmax(dim=-1) @ value[:, head])
    return part["scale1"](part["out"](torch.cat(answers, dim=-1))), key.mean(dim=1)


@torch.no_grad()
def encode(tower, pixels, count, blocks, class_token):
    """What the encoder of one image (3, H, W) should give: features of each patch, its token.

    Args:
        count: tokens that are left of the patches.
        blocks: how many there are up to the one that makes the features.
    """
    hidden = tower.embeddings(pixels[None])
    if hasattr(tower, "pre_layrnorm"):
        hidden = tower.pre_layrnorm(hidden)
    hidden = hidden[0]
    layers = getattr(tower.encoder, "layers", None) or tower.encoder.layer
    members = [[i] for i in range(len(hidden))]  # of each token, the first block's tokens
    plan = halved(len(hidden) - class_token, count, blocks)
    for layer, fewer in zip(layers, plan, strict=False):
        part = parts_of(layer)
        sizes = [len(own) for own in members]
        attended, keys = attend(part, hidden, sizes, tower.config.num_attention_heads)
        hidden = hidden + attended
        groups = [[i] for i in range(len(hidden))]
        if fewer:
            groups = bipartite(keys, fewer, bool(class_token))
        hidden, _ = weighted_means(hidden, sizes, groups)
        joined = [itertools.chain.from_iterable(map(members.__getitem__, own)) for own in groups]
        members = [list(tokens) for tokens in joined]
        hidden = hidden + part["scale2"](part["mlp"](part["norm2"](hidden)))
    owner = [0] * sum(map(len, members))
    for number, own in enumerate(members):
        for token in own:
            owner[token] = number - class_token
    return torch.stack([hidden[o + class_token] for o in owner[class_token:]]), owner[class_token:]
