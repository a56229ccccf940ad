"""Choices of methods that rank by attention, written slowly: loops and float64. Imports nothing of sparsight."""

import math

import torch


def ranked(score, among=None):
    """Indices by falling score, of equal scores the lower index first."""
    among = range(len(score)) if among is None else among
    return sorted(among, key=lambda i: (-float(score[i]), i))


def cosine(x, y):
    """The cosine of two vectors, 0 if one of them is zero."""
    x, y = x.double(), y.double()
    length = math.sqrt(float(x @ x)) * math.sqrt(float(y @ y))
    return float(x @ y) / length if length else 0.0


def softmax(values):
    top = max(values)
    powers = [math.exp(v - top) for v in values]
    return [p / math.fsum(powers) for p in powers]


def attention(query, key, scale=None, causal=False):
    """Maps of one sample, H lists of rows, from q and k (H, N, d)."""
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    maps = []
    for q, k in zip(query.double(), key.double(), strict=True):
        rows = []
        for place, row in enumerate(q):
            seen = place + 1 if causal else len(k)
            shares = softmax([float(row @ other) * scale for other in k[:seen]])
            rows.append(shares + [0.0] * (len(k) - seen))
        maps.append(rows)
    return maps


def class_row(maps):
    """What the class token, number 0, pays to each patch, mean over heads."""
    return [math.fsum(m[0][i] for m in maps) / len(maps) for i in range(1, len(maps[0]))]


def received(maps, skip=1, causal=False):
    """What each token receives, mean over heads and the rows that see it."""
    count = len(maps[0])
    return [
        math.fsum(row[i] for m in maps for row in m) / len(maps) / (count - i if causal else count)
        for i in range(skip, count)
    ]


def hiprune(middle, deep, count, anchors, width):
    best = ranked(middle)[:anchors]
    marked = set(best)
    for i in best:
        for j in (i - 1, i + 1, i - width, i + width):
            marked.add(min(max(j, 0), len(deep) - 1))
    if len(marked) > count:  # anchors first, then the neighbours that the deep block finds best
        beside = ranked(deep, marked - set(best))
        return sorted((best + beside)[:count])
    registers = ranked(deep, set(range(len(deep))) - marked)
    return sorted([*marked, *registers[: count - len(marked)]])


def vispruner(score, features, count, important, step=8):
    order = ranked(score)
    others = order[important:]
    while len(others) > count - important:
        even, odd = others[::2], others[1::2]
        gone = min(step, len(others) - (count - important), len(even))
        alike = [max(cosine(features[a], features[b]) for b in odd) for a in even]
        by_likeness = [even[i] for i in ranked(alike)]
        others = by_likeness[gone:] + odd
    return sorted(order[:important] + others)


def visionzip(score, metric, hidden, dominant, contextual):
    """Kept patches, anchors, members of each anchor, merged tokens."""
    keep = sorted(ranked(score)[:dominant])
    rest = [i for i in range(len(score)) if i not in keep]
    step = max(1, len(rest) // contextual)
    anchors = [rest[n * step] for n in range(contextual)]
    members = [[] for _ in anchors]
    for i in rest:
        if i not in anchors:
            members[ranked([cosine(metric[i], metric[a]) for a in anchors])[0]].append(i)
    merged = []
    for anchor, own in zip(anchors, members, strict=True):
        mean = sum(hidden[i].double() for i in own) / len(own) if own else 0.0
        merged.append(hidden[anchor].double() + mean)
    return keep, anchors, members, torch.stack(merged)
