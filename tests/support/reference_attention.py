"""Methods that rank by attention, written slowly in float64. Imports nothing of sparsight."""

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


def cosines(points):
    """All cosines of a sample's tokens, a list of rows."""
    rows = []
    for point in points:
        rows.append([cosine(point, other) for other in points])
    return rows


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
    columns = zip(*(m[0] for m in maps), strict=True)
    return [math.fsum(column) / len(maps) for column in columns][1:]


def received(maps, skip=1, causal=False):
    """What each token receives, mean over heads and the rows that see it."""
    count = len(maps[0])
    result = []
    for i in range(skip, count):
        total = math.fsum(row[i] for m in maps for row in m)
        result.append(total / len(maps) / (count - i if causal else count))
    return result


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


def most_alike(point, others):
    """The highest cosine of a token with others."""
    return max(cosine(point, other) for other in others)


def vispruner(score, features, count, important, step=8):
    order = ranked(score)
    others = order[important:]
    while len(others) > count - important:
        even, odd = others[::2], others[1::2]
        gone = min(step, len(others) - (count - important), len(even))
        alike = [most_alike(features[a], features[odd]) for a in even]
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


def quantile(values, share):
    """The quantile, interpolated linearly."""
    ordered = sorted(float(v) for v in values)
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def outliers(score):
    low, high = quantile(score, 0.25), quantile(score, 0.75)
    return max(1, sum(float(s) > high + 1.5 * (high - low) for s in score))


def prumerge_plus(score, important):
    """Published places: every n-th of the image that is not important."""
    order = ranked(score)[:important]
    step = max(1, int(int(1 / (important / len(score))) / 3))
    return order + [i for i in range(0, len(score) - 1, step) if i not in order]


def prumerge_tokens(points, keys, score, keep, neighbours):
    """Each kept token plus its nearest others by keys, then what is left."""
    points, rows = points.double(), []
    for i in keep:
        alike = [cosine(keys[i], key) for key in keys]
        near = ranked(alike, set(range(len(keys))) - {i})[:neighbours]
        rows.append(points[i] + sum(float(score[j]) * points[j] for j in near))
    rows.append(sum(float(score[j]) * points[j] for j in range(len(points)) if j not in keep))
    return torch.stack(rows)


def windows(height, width, side):
    """The window of each token; what fills no window belongs to the last one."""
    down, across = max(1, height // side), max(1, width // side)
    return [
        min(row // side, down - 1) * across + min(column // side, across - 1)
        for row in range(height)
        for column in range(width)
    ]


def vscan(local, overall, count, grid, side):
    window_of = windows(*grid, side)
    limit = math.ceil(count // 2 / (max(window_of) + 1))
    chosen, used = [], [0] * (max(window_of) + 1)
    for i in ranked(local):
        if used[window_of[i]] < limit and len(chosen) < count // 2:
            chosen.append(i)
            used[window_of[i]] += 1
    others = ranked(overall, set(range(len(overall))) - set(chosen))
    return sorted(chosen + others[: count - len(chosen)])


def mean_of_nearest(points, keep):
    """Each kept token's mean with the dropped ones that are most like it."""
    members = [[i] for i in keep]
    for i in range(len(points)):
        if i not in keep:
            members[ranked([cosine(points[i], points[k]) for k in keep])[0]].append(i)
    return torch.stack([points[group].double().mean(dim=0) for group in members])


def last_row(hidden, norm, q_proj, k_proj, *, heads):
    """What the last token pays to all, mean over heads, by a layer that rotates."""
    hidden = hidden.double()
    normed = hidden / (hidden.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt() * norm.double()
    width = len(q_proj) // heads
    angles = torch.outer(
        torch.arange(len(hidden), dtype=torch.float64),
        10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width),
    )
    row = [0.0] * len(hidden)
    for head in range(heads):
        rows = slice(head * width, (head + 1) * width)
        q, k = (turn(normed @ w[rows].double().T, angles) for w in (q_proj, k_proj))
        shares = softmax([float(q[-1] @ other) / math.sqrt(width) for other in k])
        row = [total + share / heads for total, share in zip(row, shares, strict=True)]
    return row


def turn(vectors, angles):
    """Llama's rotation: the first half of the width with the second."""
    first, second = vectors.chunk(2, dim=-1)
    cosines, sines = angles.cos(), angles.sin()
    return torch.cat([first * cosines - second * sines, second * cosines + first * sines], dim=-1)


def dart(hidden, pivots, visual, counts):
    """Kept among the visual tokens: pivots among them, and for each pivot those least like it."""
    kept = [visual.index(p) for p in pivots if p in visual]
    for pivot, count in zip(pivots, counts, strict=True):
        unlike = [-cosine(hidden[pivot], hidden[v]) for v in visual]
        kept += ranked(unlike, set(range(len(visual))) - set(kept))[:count]
    return sorted(kept)
