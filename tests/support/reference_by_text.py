"""Methods that are guided by the text, and centred SCOPE, on samples of several grids.

Written slowly in float64 from the papers. Imports nothing of sparsight. Of a method it reads the
settings.
"""

import math
from dataclasses import dataclass

import torch

from tests.support import reference_diversity as diverse
from tests.support.reference_attention import cosine, cosines, ranked
from tests.support.reference_baselines import share


@dataclass
class Sample:
    """One sample.

    Args:
        hidden: (V, D) tokens.
        features: (V, E) features of the image encoder.
        words: (T, D) the text.
        ids: its T token ids.
        grids: image, rows and columns of each grid, in order.
        attention: (V,) of the class token.
        segments: (M, P) sentences in CLIP's space.
        segment_words: (M, W, P) words in CLIP's space.
        clip: takes a token's features to CLIP's space.
    """

    hidden: torch.Tensor
    features: torch.Tensor
    words: torch.Tensor
    ids: tuple
    grids: list
    attention: torch.Tensor
    segments: torch.Tensor
    segment_words: torch.Tensor
    clip: object

    def places(self):
        """Lists of the tokens of each grid."""
        first, found = 0, []
        for _, height, width in self.grids:
            found.append(list(range(first, first + height * width)))
            first += height * width
        return found


def keep(method, sample, count):
    """Ascending tokens of all grids."""
    places, chosen = sample.places(), []
    rate = {"CDPruner": rate_cdpruner, "EADP": rate_eadp}.get(type(method).__name__)
    rated = [None] * len(places) if rate is None else rate(method, sample)
    choose = {"CDPruner": cdpruner, "MMTok": mmtok, "EADP": eadp, "SCOPE": scope}
    for own, score, part in zip(places, rated, share(count, list(map(len, places))), strict=True):
        order = choose[type(method).__name__](method, sample, own, score, part)
        chosen += [own[place] for place in order]
    return sorted(chosen)


def compare(method, sample, own):
    """Points whose cosines count, and Cen-Prune's weights or 1 each."""
    points = {"tokens": sample.hidden, "features": sample.features}[method.space][own].double()
    if not method.centred:
        return points, [1.0] * len(own)
    if method.space == "features":
        points = diverse.standardised(points)
    distinct = diverse.distinctiveness(points)
    if method.space == "tokens":
        return diverse.centred(points), diverse.min_max(distinct)
    mean = math.fsum(distinct) / len(distinct)
    spread = math.sqrt(math.fsum((d - mean) ** 2 for d in distinct) / len(distinct)) + 1e-6
    return diverse.centred(points), [1 / (1 + math.exp((mean - d) / spread)) for d in distinct]


def scale_by_image(sample, rated, above, below):
    """Scores of each grid, scaled over all grids of its image."""
    scaled = []
    for (image, *_), own in zip(sample.grids, rated, strict=True):
        every = []
        for grid, values in zip(sample.grids, rated, strict=True):
            every += values if grid[0] == image else []
        low, high = min(every), max(every)
        scaled.append([(value - low + above) / (high - low + below) for value in own])
    return scaled


def alike(points, other):
    """Cosines of points to one other."""
    return [cosine(point, other) for point in points]


def rate_cdpruner(method, sample):
    """Relevance of each grid's tokens; CLIP's is scaled over the image."""
    if method.relevance == "none":
        return [None] * len(sample.grids)
    if method.relevance == "embedding":
        mean = sample.words.double().mean(dim=0)
        return [alike(sample.hidden[own], mean) for own in sample.places()]
    rated = []
    for own in sample.places():
        values = []
        for i in own:
            point = sample.clip(sample.features[i])
            values.append(-math.fsum(alike(sample.segments, point)) / len(sample.segments))
        rated.append(values)
    return scale_by_image(sample, rated, 1e-6, 0)


def cdpruner(method, sample, own, score, count):
    if method.halves and count > 1:
        half, part = len(own) // 2, count // 2
        first = determine(method, sample, own[:half], score[:half], part)
        second = determine(method, sample, own[half:], score[half:], count - part)
        return first + [place + half for place in second]
    return determine(method, sample, own, score, count)


def determine(method, sample, own, score, count):
    points, weight = compare(method, sample, own)
    rows, blend = cosines(points), method.blend
    if blend is None:
        blend = 0.5 if method.relevance == "embedding" else 1.0
    if method.relevance == "embedding":
        score = diverse.min_max(score, 0, 1e-6)
    start = None
    if score is None and not method.centred:
        everyone = range(len(own))
        nearest = [diverse.highest(row, {*everyone} - {i}) for i, row in enumerate(rows)]
        start = ranked([-value for value in nearest])[0]
    score = [1.0] * len(own) if score is None else score
    quality = [value * factor for value, factor in zip(score, weight, strict=True)]
    kernel = []
    for row, mine in zip(rows, quality, strict=True):
        factors = [1 - blend + blend * mine * other for other in quality]
        kernel.append([value * factor for value, factor in zip(row, factors, strict=True)])
    return diverse.determinantal(kernel, count, start)


def mmtok(method, sample, own, score, count):
    said = [place for place, token in enumerate(sample.ids) if token not in method.skip]
    words = sample.words[said or list(range(len(sample.ids)))]
    points, weight = compare(method, sample, own)
    rows = diverse.mmtok_rows(words, sample.hidden[own], points)
    return diverse.coverage(rows, count, factor=weight)


def rate_eadp(method, sample):
    """Importance of each grid's tokens, smoothed."""
    rated = []
    for own in sample.places():
        if method.relevance == "embedding":
            mean = sample.words.double().mean(dim=0, keepdim=True)
            rated.append(diverse.eadp_relevance(sample.hidden[own], sample.words, mean))
            continue
        points = torch.stack([sample.clip(sample.features[i]) for i in own])
        scores = []
        for words, sentence in zip(sample.segment_words, sample.segments, strict=True):
            scores.append(diverse.eadp_relevance(points, words, sentence[None]))
        columns = zip(*scores, strict=True)
        rated.append([math.fsum(column) / len(column) for column in columns])
    scaled, smoothed = scale_by_image(sample, rated, 1e-6, 1e-6), []
    for (_, *grid), values in zip(sample.grids, scaled, strict=True):
        smoothed.append([value**method.beta for value in diverse.smoothed(values, grid)])
    return smoothed


def eadp(method, sample, own, score, count):
    points, weight = compare(method, sample, own)
    demand = [value * factor for value, factor in zip(score, weight, strict=True)]
    wanted = ((1 + torch.tensor(cosines(points), dtype=torch.float64)) / 2).tolist()
    return diverse.coverage(wanted, count, demand=demand)


def scope(method, sample, own, score, count):
    points, weight = compare(method, sample, own)
    paid = [float(sample.attention[i]) ** method.alpha for i in own]
    factor = [value * other for value, other in zip(paid, weight, strict=True)]
    return diverse.coverage(cosines(points), count, factor=factor)
