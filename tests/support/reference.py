"""SparseVLM's choices, slowly from the paper: loops and float64. Imports no sparsight."""

import math

import torch


def rate(visual, text):
    """Return the raters: text above the mean share of similarity; all text if there is none."""
    share = [0.0] * len(text)
    for v in visual.tolist():
        dots = [_dot(v, t) for t in text.tolist()]
        top = max(dots)
        total = math.fsum(math.exp(d - top) for d in dots)
        for i, dot in enumerate(dots):
            share[i] += math.exp(dot - top) / total / len(visual)
    chosen = [i for i, s in enumerate(share) if s > 1 / len(text) + 1e-12]
    return chosen or list(range(len(text)))


def _dot(a, b):
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


def _squared(a, b):
    return math.fsum((x - y) ** 2 for x, y in zip(a, b, strict=True))


def choose(score, count, images=None):
    """Return the best, every image's best first where that fits; ties go to the lower index."""
    ranked = sorted(range(len(score)), key=lambda i: (-score[i], i))
    first = []
    if images is not None and len(set(images)) <= count:
        for image in dict.fromkeys(images):
            first.append(next(i for i in ranked if images[i] == image))
    return sorted((first + [i for i in ranked if i not in first])[:count])


def mean_score(attention, raters, columns):
    """Attention (H, n, n) averaged over heads and raters, for each visual column."""
    scores = []
    for c in columns:
        rated = [float(head[r][c]) for head in attention for r in raters]
        scores.append(math.fsum(rated) / len(rated))
    return scores


def prior(distance, base, width, floor):
    """R: what all-ones queries and keys give at a distance, but at least `floor` of R(0)."""
    total = (
        2
        / math.sqrt(width)
        * sum(math.cos(distance * base ** (-2 * f / width)) for f in range(width // 2))
    )
    return max(total, floor * math.sqrt(width))


def corrected_score(attention, raters, columns, prior_of, heads):
    """SparseVLM+: the prior divided out, the heads with most mass, mean over raters."""
    weights = {(r, c): prior_of(r, c) for r in raters for c in columns}
    per_head = []
    for matrix in attention:
        row = []
        for c in columns:
            rated = [float(matrix[r][c]) / weights[r, c] for r in raters]
            row.append(math.fsum(rated) / len(raters))
        per_head.append(row)
    voting = choose([math.fsum(row) for row in per_head], heads)
    columns = zip(*[per_head[h] for h in voting], strict=True)
    return [math.fsum(column) / len(voting) for column in columns]


def rank_of(rows, tolerance):
    """Singular values above a share of the largest."""
    matrix = torch.tensor(rows, dtype=torch.float64)
    share = max(matrix.shape) * torch.finfo(torch.float32).eps if tolerance is None else tolerance
    values = torch.linalg.svd(matrix).S.tolist()
    return sum(value > share * values[0] for value in values)


def pool_size(dropped, tau, theta):
    """Tokens to cluster, and clusters."""
    pool = min(int(tau * dropped) + 1, dropped)
    return pool, min(int(theta * pool + 1e-9) + 1, pool)


def density_peaks(points, clusters):
    """Return centres by falling density times separation, and each point's cluster."""
    count, width = len(points), len(points[0])
    far = []
    density = []
    for p in points:
        row = [math.sqrt(_squared(p, q) / width) for q in points]
        nearest = [d * d for d in sorted(row)[:clusters]]
        far.append(row)
        density.append(math.exp(-math.fsum(nearest) / clusters))
    largest = max(max(row) for row in far)
    peak = []
    for i in range(count):
        denser = [
            j
            for j in range(count)
            if density[j] > density[i] or (density[j] == density[i] and j < i)
        ]
        peak.append(density[i] * min((far[i][j] for j in denser), default=largest))
    centres = sorted(range(count), key=lambda i: (-peak[i], i))[:clusters]
    labels = [min(range(clusters), key=lambda c: (far[i][centres[c]], c)) for i in range(count)]
    for c, centre in enumerate(centres):
        labels[centre] = c
    return centres, labels


def merge(points, labels, clusters, aggregate):
    """Sum or mean of each cluster's members."""
    merged = []
    for c in range(clusters):
        members = [p for p, label in zip(points, labels, strict=True) if label == c]
        total = [math.fsum(column) for column in zip(*members, strict=True)]
        merged.append([t / len(members) if aggregate == "mean" else t for t in total])
    return merged
