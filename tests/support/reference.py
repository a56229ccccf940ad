"""SparseVLM's choices written slowly from the paper: loops and float64. Imports nothing of sparsight."""

import math

import torch


def rate(visual, text):
    """Raters: text tokens with more than the mean share of the visual tokens' similarity; all of them if none has."""
    share = [0.0] * len(text)
    for v in visual.tolist():
        dots = [math.fsum(a * b for a, b in zip(v, t, strict=True)) for t in text.tolist()]
        top = max(dots)
        total = math.fsum(math.exp(d - top) for d in dots)
        for i, dot in enumerate(dots):
            share[i] += math.exp(dot - top) / total / len(visual)
    chosen = [i for i, s in enumerate(share) if s > 1 / len(text) + 1e-12]
    return chosen or list(range(len(text)))


def choose(score, count, images=None):
    """The best, lower index first where scores are equal; where it fits, every image's best comes before the rest."""
    ranked = sorted(range(len(score)), key=lambda i: (-score[i], i))
    first = []
    if images is not None and len(set(images)) <= count:
        for image in dict.fromkeys(images):
            first.append(next(i for i in ranked if images[i] == image))
    return sorted((first + [i for i in ranked if i not in first])[:count])


def mean_score(attention, raters, columns):
    """Attention (H, n, n) averaged over heads and raters, for each visual column."""
    heads = len(attention)
    return [
        math.fsum(float(attention[h][r][c]) for h in range(heads) for r in raters)
        / heads
        / len(raters)
        for c in columns
    ]


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
    per_head = [
        [
            math.fsum(float(matrix[r][c]) / weights[r, c] for r in raters) / len(raters)
            for c in columns
        ]
        for matrix in attention
    ]
    voting = choose([math.fsum(row) for row in per_head], heads)
    return [math.fsum(per_head[h][i] for h in voting) / len(voting) for i in range(len(columns))]


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
    """Centres in falling order of density times separation, and each point's cluster; ties go to the lower index."""
    count, width = len(points), len(points[0])
    far = [
        [
            math.sqrt(math.fsum((a - b) ** 2 for a, b in zip(p, q, strict=True)) / width)
            for q in points
        ]
        for p in points
    ]
    density = [
        math.exp(-math.fsum(d * d for d in sorted(row)[:clusters]) / clusters) for row in far
    ]
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
