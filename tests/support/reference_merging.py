"""Merging, videos and duplicates written slowly. Imports nothing of sparsight."""

import itertools
import math
from fractions import Fraction

import torch

from tests.support.reference_attention import cosine, cosines, ranked


def bipartite(metric, fewer, class_token=True):
    """Lists of the old tokens of each new one, in the order of the new ones."""
    size = len(metric)
    even, odd = list(range(0, size, 2)), list(range(1, size, 2))
    nearest, likeness = {}, {}
    for a in even:
        alike = [cosine(metric[a], metric[b]) for b in odd]
        nearest[a] = odd[ranked(alike)[0]]
        likeness[a] = -math.inf if class_token and a == 0 else max(alike)
    joining = ranked(likeness, even)[: min(fewer, (size - class_token) // 2)]
    kept = [[a] for a in even if a not in joining]
    for b in odd:
        kept.append(sorted([b, *(a for a in joining if nearest[a] == b)]))
    return kept


def weighted_means(values, sizes, groups):
    """New values and new sizes."""
    rows, totals = [], []
    for group in groups:
        total = math.fsum(float(sizes[i]) for i in group)
        rows.append(sum(float(sizes[i]) * values[i].double() for i in group) / total)
        totals.append(total)
    return torch.stack(rows), totals


def middles(owner, width, count):
    """Which patch of each group lies nearest to their mean place; the number of all if none."""
    found = []
    for group in range(count):
        places = [divmod(i, width) for i, own in enumerate(owner) if own == group]
        apart = {}
        for row, column in places:
            down = Fraction(sum(place[0] for place in places), len(places)) - row
            across = Fraction(sum(place[1] for place in places), len(places)) - column
            apart[row * width + column] = down**2 + across**2
        found.append(min(apart, key=apart.get) if apart else len(owner))
    return found


def anchors(points, count, form):
    """RESTORE's anchors, by falling score; the paper compares with denser tokens."""
    alike = cosines(points)
    density = [math.fsum(row) for row in alike]
    score = []
    for i, own in enumerate(density):
        compared = [
            alike[i][j]
            for j, other in enumerate(density)
            if (other > own if form == "paper" else other < own)
        ]
        if form == "paper":
            score.append(own * (1 - max(compared)) if compared else math.inf)
        else:
            score.append(own * (1 - max(compared, default=0.0)))
    return ranked(score)[:count]


def distance_bias(positions, inverse_frequencies, constant=2.0):
    """Positions of one axis or more: lists of numbers, and a list of frequencies for each axis."""
    total = sum(len(axis) for axis in inverse_frequencies)
    rows = []
    for m, query in enumerate(positions):
        row = []
        for n, key in enumerate(positions):
            alike = math.fsum(
                math.cos((q - k) * f)
                for q, k, axis in zip(query, key, inverse_frequencies, strict=True)
                for f in axis
            )
            row.append(math.log(constant - alike / total) if n <= m else 0.0)
        rows.append(row)
    return torch.tensor(rows, dtype=torch.float64)


def changes(frames):
    """1 - cosine to the same place of the frame before; 255 in the first one."""
    score = [255.0] * len(frames[0])
    for before, frame in itertools.pairwise(frames):
        score += [1 - cosine(x, y) for x, y in zip(frame, before, strict=True)]
    return score


def vidcom2(frames, rate, count):
    """Kept tokens by the authors' counts, those counts, and kept tokens by the exact total."""
    flat = [token.double() for frame in frames for token in frame]
    width, size = len(flat[0]), len(frames[0])
    variance = torch.stack(flat).var(dim=0)
    calm = ranked([-v for v in variance.tolist()])[: width // 2]
    units = [token[calm] / token[calm].norm() for token in flat]

    def near(token, mean):
        squared = float((token - mean).square().sum())
        return math.fsum(math.exp(-squared / 2.0 ** (e + 1)) for e in range(-3, 2))

    clip_mean = sum(units) / len(units)
    near_clip, common = [], []
    for first in range(0, len(units), size):
        frame = units[first : first + size]
        mean = sum(frame) / size
        near_clip.append([near(token, clip_mean) for token in frame])
        common += [a + near(token, mean) for a, token in zip(near_clip[-1], frame, strict=True)]
    means = [-math.fsum(row) / size / 0.01 for row in near_clip]
    powers = [math.exp(m - max(means)) for m in means]
    shares = [p / math.fsum(powers) for p in powers]
    counts, kept = [], []
    for number, share in enumerate(shares):
        part = (1 - rate) * (1 + share - 1 / len(shares))
        counts.append(max(1, round(min(1.0, part) * size)))
        members = range(number * size, (number + 1) * size)
        kept += ranked([-c for c in common], members)[: counts[-1]]
    by_common = ranked([-c for c in common])
    exact = [i for i in by_common if i in kept] + [i for i in by_common if i not in kept]
    return sorted(kept), counts, sorted(exact[:count])


def unpredicted(pixels, grid, tolerance, metric="max"):
    """Kept tokens, walked one by one in raster order."""
    height, width = grid
    known, kept = [list(map(float, token)) for token in pixels], [0]

    def alike(x, y):
        apart = [abs(a - b) for a, b in zip(x, y, strict=True)]
        size = {
            "max": max(apart),
            "mean": sum(apart) / len(apart),
            "rms": math.sqrt(sum(a * a for a in apart) / len(apart)),
        }[metric]
        return size <= tolerance

    for i in range(1, height * width):
        row, column = divmod(i, width)
        if row == 0:
            predicted = known[i - 1]
        elif column == 0:
            predicted = known[i - width]
        else:
            left, upper = known[i - 1], known[i - width]
            corner = known[i - width - 1]
            predicted = upper if alike(corner, left) and not alike(corner, upper) else left
        if alike(known[i], predicted):
            known[i] = predicted
        else:
            kept.append(i)
    return kept


def information(attention):
    """Mutual information in bits, summed over heads (H, M, N), rows not scaled up."""
    total = 0.0
    for head in attention.double().tolist():
        joint = (torch.tensor(head, dtype=torch.float64) / len(head)).tolist()
        for column in range(len(joint[0])):
            expected = math.fsum(row[column] for row in joint) / len(head)
            for row in joint:
                total += row[column] * math.log2(max(row[column] / (expected + 1e-6), 1e-6))
    return total
