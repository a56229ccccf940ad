"""Methods that compare tokens, written slowly in float64. Imports nothing of sparsight."""

import math

import torch

from tests.support.reference_attention import cosine, cosines, ranked


def highest(row, among):
    """The highest value of a row at some places."""
    return max(row[j] for j in among)


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
        everyone = set(range(size))
        gaps = [1 - highest(alike[i], everyone - {i}) for i in range(size)]
        start = ranked(gaps)[0]
    chosen = [start]
    while len(chosen) < count:
        far = [float(weight[i]) * (1 - highest(alike[i], chosen)) for i in range(size)]
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
        gains = {}
        for j in free:
            raised = [float(demand[i]) * max(0.0, alike[i][j] - best[i]) for i in range(rows)]
            gains[j] = float(factor[j]) * math.fsum(raised)
        chosen.append(ranked(gains, free)[0])
        best = [max(best[i], alike[i][chosen[-1]]) for i in range(rows)]
    return chosen


def discounted(score, alike, count):
    score, chosen = [float(s) for s in score], []
    while len(chosen) < count:
        chosen.append(ranked(score, set(range(len(score))) - set(chosen))[0])
        score = [s * (1 - alike[chosen[-1]][i] ** 2) for i, s in enumerate(score)]
    return chosen


def tops(relevance, alike, count, *, alpha, weight, scale):
    """Relevance, diversity and coverage, each scaled over the tokens that are free."""
    chosen = [ranked(relevance)[0]]
    size = len(alike)
    while len(chosen) < count:
        free = [i for i in range(size) if i not in chosen]
        best = [highest(column, chosen) for column in zip(*alike, strict=True)]
        covered = {}
        for i in free:
            covered[i] = math.fsum(max(0.0, alike[j][i] - best[j]) for j in free)
        parts = [
            (1.0, {i: float(relevance[i]) for i in free}),
            (alpha, {i: 1 - best[i] for i in free}),
            (weight, covered),
        ]
        worth = dict.fromkeys(free, 0.0)
        for factor, values in parts:
            low, high = min(values.values()), max(values.values())
            mean = math.fsum(values.values()) / len(free)
            for i in free:
                if scale == "mean":
                    worth[i] += factor * (values[i] / mean if mean else 0.0)
                else:
                    worth[i] += factor * ((values[i] - low) / (high - low) if high > low else 0.0)
        chosen.append(ranked(worth, free)[0])
    return chosen


def strips(present, count):
    """Lists of the tokens of each strip; leading ones take the remainder."""
    lengths = [present // count + (c < present % count) for c in range(count)]
    return [list(range(sum(lengths[:c]), sum(lengths[: c + 1]))) for c in range(count)]


def deal(count, room, weight):
    """One each by falling weight, round after round, to those with room."""
    given = [0] * len(room)
    while count:
        for c in ranked(weight):
            if count and given[c] < room[c]:
                given[c] += 1
                count -= 1
    return given


def share(weight, count, sizes):
    total = math.fsum(float(w) for w in weight)
    parts = [math.floor(count * float(w) / total) for w in weight]
    for c in ranked(weight)[: count - sum(parts)]:
        parts[c] += 1
    over = sum(max(0, part - size) for part, size in zip(parts, sizes, strict=True))
    parts = [min(part, size) for part, size in zip(parts, sizes, strict=True)]
    room = [size - part for part, size in zip(parts, sizes, strict=True)]
    return [a + b for a, b in zip(parts, deal(over, room, weight), strict=True)]


def strip_scores(score, points, groups):
    weight = []
    for group in groups:
        paid = [1000 * float(score[i]) for i in group]
        spread = []
        for i in group:
            alike = [0.0 if i == j else cosine(points[i], points[j]) for j in group]
            mean = math.fsum(alike) / (len(group) - 1)
            spread.append(math.fsum((a - mean) ** 2 for a in alike) / (len(group) - 1))
        mean_paid, mean_spread = math.fsum(paid) / len(group), math.fsum(spread) / len(group)
        scores = [
            p + 0.09 * s * mean_paid / (mean_spread + 1e-6)
            for p, s in zip(paid, spread, strict=True)
        ]
        weight.append(math.fsum(scores) / len(group))
    return weight


def holov(score, points, count, strip_count):
    groups = strips(len(score), strip_count)
    weight = strip_scores(score, points, groups)
    quotas = share(weight, count, [len(group) for group in groups])
    return sorted(
        i for group, quota in zip(groups, quotas, strict=True) for i in ranked(score, group)[:quota]
    )


def min_max(values, above=0.0, below=0.0):
    low, high = min(values), max(values)
    return [(v - low + above) / (high - low + below) for v in values]


def eadp(points, words, sentence, grid):
    """Importance after scaling and smoothing."""
    return smoothed(min_max(eadp_relevance(points, words, sentence), 1e-6, 1e-6), grid)


def eadp_relevance(points, words, sentence, share_of_words=0.2):
    """Importance before scaling."""
    alike, entropy = [], []
    for word in words:
        row = [-cosine(point, word) for point in points]
        alike.append(row)
        top = max(row)
        powers = [math.exp(100 * (a - top)) for a in row]
        shares = [p / math.fsum(powers) for p in powers]
        entropy.append(-math.fsum(s * math.log(s) for s in shares if s > 0))
    counted = ranked([-e for e in entropy])[: max(1, int(share_of_words * len(words)))]
    powers = [math.exp(-(entropy[m] - entropy[counted[0]]) / 0.01) for m in counted]
    score = []
    for i, point in enumerate(points):
        local = math.fsum(p * alike[m][i] for p, m in zip(powers, counted, strict=True))
        score.append(0.5 * -cosine(point, sentence[0]) + 0.5 * local / math.fsum(powers))
    return score


def smoothed(score, grid):
    height, width = grid
    edge = math.exp(-0.5)

    def mirror(place, size):
        return size - 2 if place == size else abs(place)

    result = []
    for row in range(height):
        for column in range(width):
            total = weight = 0.0
            for down in (-1, 0, 1):
                for right in (-1, 0, 1):
                    factor = edge ** (down * down + right * right)
                    place = mirror(row + down, height) * width + mirror(column + right, width)
                    total, weight = total + factor * score[place], weight + factor
            result.append(total / weight)
    return result


def mmtok_rows(words, projected, features):
    """Rows of words, then of tokens."""
    rows = []
    for of, to, temperature, factor in (
        (words, projected, 0.02, 1 / len(words)),
        (features, features, 0.2, 0.5 / len(features)),
    ):
        for x in of:
            alike = [cosine(x, y) / temperature for y in to]
            top = max(alike)
            powers = [math.exp(a - top) for a in alike]
            rows.append([factor * p / math.fsum(powers) for p in powers])
    return rows


def residuals(visual, text, eta=0.75, epsilon=1e-6):
    """Residuals by the singular vectors of the centred text, each shrunk by the ridge."""
    mean = text.double().mean(dim=0)
    visual, text = visual.double() - mean, text.double() - mean
    _, singular, directions = torch.linalg.svd(text, full_matrices=False)
    squares = [float(s) ** 2 for s in singular]
    k = next(n for n in range(len(squares)) if sum(squares[: n + 1]) >= eta * sum(squares))
    ridge = squares[k] + epsilon
    left = visual.clone()
    for square, direction in zip(squares, directions, strict=True):
        part = (visual @ direction)[:, None] * direction
        left -= square / (square + ridge) * part
    return left, left.norm(dim=-1) / visual.norm(dim=-1)


def suppressed(score, points, groups, threshold):
    """Survivors of each group in the order of choice, and its members by falling score."""
    result = {}
    for group in range(max(groups) + 1):
        members = ranked(score, [i for i, g in enumerate(groups) if g == group])
        alive, survivors = list(members), []
        while alive:
            survivors.append(alive.pop(0))
            alive = [i for i in alive if cosine(points[i], points[survivors[-1]]) <= threshold]
        result[group] = survivors, members
    return result


def prunesid(score, points, groups, budget, count, *, factor=None):
    size = len(score)
    pairs = [cosine(points[i], points[j]) for i in range(size) for j in range(i)]
    factor = budget / 32 if factor is None else factor
    threshold = factor * math.fsum(pairs) / len(pairs)
    ranks = suppressed(score, points, groups, threshold)
    quotas = prunesid_quotas(
        [len(ranks[g][1]) if g in ranks else 0 for g in range(budget // 4)],
        [len(ranks[g][0]) if g in ranks else 0 for g in range(budget // 4)],
        budget,
        count,
    )
    kept = []
    for group, (survivors, members) in ranks.items():
        order = survivors + [i for i in members if i not in survivors]
        kept += order[: quotas[group]]
    return sorted(kept)


def prunesid_quotas(sizes, survivors, budget, count):
    lower = [int(size > 0) for size in sizes]
    most = 5 * math.ceil(budget / 64)
    upper = [min(most, a, b) for a, b in zip(sizes, survivors, strict=True)]
    while sum(upper) < budget:
        upper = [min(u + 1, size) for u, size in zip(upper, sizes, strict=True)]
    others, parts = count - sum(lower), []
    before, total = 0, 0.0
    for low, high, alive in zip(lower, upper, survivors, strict=True):
        total += alive / sum(survivors)
        parts.append(min(low + round(total * others) - before, high))
        before = round(total * others)
    for limits in (upper, sizes):
        room = [limit - part for limit, part in zip(limits, parts, strict=True)]
        given = deal(min(count - sum(parts), sum(room)), room, survivors)
        parts = [a + b for a, b in zip(parts, given, strict=True)]
    return parts
