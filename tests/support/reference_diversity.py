"""Choices of methods that compare tokens, written slowly: loops and float64. Imports nothing of sparsight."""

import math

import torch

from tests.support.reference_attention import cosine, ranked


def cosines(points):
    """All cosines of a sample's tokens, a list of rows."""
    return [[cosine(a, b) for b in points] for a in points]


def centred(points):
    """Tokens without the mean token."""
    points = points.double()
    return points - points.mean(dim=0)


def standardised(points, epsilon=1e-6):
    """Tokens with each channel over its deviation."""
    columns = []
    for channel in points.double().T.tolist():
        mean = math.fsum(channel) / len(channel)
        variance = math.fsum((c - mean) ** 2 for c in channel) / len(channel)
        columns.append([c / math.sqrt(variance + epsilon) for c in channel])
    return torch.tensor(columns, dtype=torch.float64).T


def distinctiveness(points):
    alike = cosines(points)
    count = len(alike)
    return [-math.fsum(row[:i] + row[i + 1 :]) / (count - 1) for i, row in enumerate(alike)]


def max_min(alike, count, weight=None, start=None):
    """Farthest first: the order of choice."""
    size = len(alike)
    weight = [1.0] * size if weight is None else weight
    if start is None:
        gaps = [min(1 - alike[i][j] for j in range(size) if j != i) for i in range(size)]
        start = ranked(gaps)[0]
    chosen = [start]
    while len(chosen) < count:
        far = [float(weight[i]) * min(1 - alike[i][j] for j in chosen) for i in range(size)]
        chosen.append(ranked(far, set(range(size)) - set(chosen))[0])
    return chosen


def determinantal(kernel, count, start=None):
    """The token that raises the determinant of the chosen part most, by determinants."""
    kernel = torch.tensor(kernel, dtype=torch.float64)
    chosen = [] if start is None else [start]
    while len(chosen) < count:
        worth = []
        for i in range(len(kernel)):
            if i in chosen:
                worth.append(-math.inf)
                continue
            part = [*chosen, i]
            worth.append(float(torch.linalg.det(kernel[part][:, part])))
        chosen.append(ranked(worth)[0])
    return chosen


def coverage(alike, count, *, demand=None, factor=None, floor=0.0, allowed=None):
    """The naive form: every gain is summed anew at every step; rows are covered by columns."""
    rows, size = len(alike), len(alike[0])
    demand = [1.0] * rows if demand is None else demand
    factor = [1.0] * size if factor is None else factor
    best, chosen = [floor] * rows, []
    while len(chosen) < count:
        free = [i for i in range(size) if i not in chosen and (allowed is None or allowed[i])]
        gains = {
            j: float(factor[j])
            * math.fsum(float(demand[i]) * max(0.0, alike[i][j] - best[i]) for i in range(rows))
            for j in free
        }
        chosen.append(ranked(gains, free)[0])
        best = [max(best[i], alike[i][chosen[-1]]) for i in range(rows)]
    return chosen


def discounted(score, alike, count):
    score, chosen = [float(s) for s in score], []
    while len(chosen) < count:
        chosen.append(ranked(score, set(range(len(score))) - set(chosen))[0])
        score = [s * (1 - alike[chosen[-1]][i] ** 2) for i, s in enumerate(score)]
    return chosen
