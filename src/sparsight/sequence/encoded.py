"""What an image encoder computed: from all images of a call to the samples of a batch."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from sparsight.errors import UnsupportedError
from sparsight.methods.decoder import Norm
from sparsight.methods.encoder import EncoderNeed, EncoderSignals, Projector, TextSignal


@dataclass(frozen=True, eq=False)
class Encoded:
    """What one call of an image encoder computed for each visual token, in order of features.

    Args:
        values: (T, ...) of each need.
        tokens: T.
        encoding: what was done to the images that the model does not do; None for nothing.
    """

    values: Mapping[EncoderNeed, torch.Tensor]
    tokens: int
    encoding: Hashable = None


@dataclass(frozen=True, eq=False)
class SampleSignals:
    """Signals of one sample, beside those that are read in the decoder.

    Args:
        encoder: (V, ...) of each need, for the visual tokens before any was removed.
        text: (T, D) input embeddings of the text behind the images; None if not declared.
        ids: (T) its token ids; None if not declared or not known.
        projector: turns features into visual tokens; None if not declared.
        norm: the decoder's final norm; None if not declared.
    """

    encoder: Mapping[EncoderNeed, torch.Tensor] = field(default_factory=dict)
    text: torch.Tensor | None = None
    ids: tuple[int, ...] | None = None
    projector: Projector | None = None
    norm: Norm | None = None


def split_encoded(
    calls: Sequence[Encoded],
    needs: Sequence[EncoderNeed],
    counts: Sequence[int],
    kinds: Sequence[Sequence[int]] | None,
) -> list[dict[EncoderNeed, torch.Tensor]]:
    """Return the encoder's signals of each sample of a batch, (V, ...) of each need.

    Features fill the placeholders of a batch in order. The samples of a batch may be copies that
    share the features of their original, as beam search makes them.

    Args:
        calls: of the encoder; with several, images first, then videos.
        needs: what is returned, although more may have been read.
        counts: (B,) visual tokens of each sample.
        kinds: (B,) for each sample the call that each visual token belongs to; None for one call.
    Raises: UnsupportedError: the tokens of the calls are not those of the batch.
    """
    copies = _count_copies(calls, counts)
    originals = list(counts[::copies])
    parts: list[dict[EncoderNeed, torch.Tensor]] = [{} for _ in originals]
    for need in needs:
        rows = torch.cat([call.values[need] for call in calls])
        if kinds is not None:
            rows = rows[_list_places(kinds[::copies], calls).to(rows.device)]
        for part, own in zip(parts, torch.split(rows, originals), strict=True):
            part[need] = own
    return [parts[row // copies] for row in range(len(counts))]


def _count_copies(calls: Sequence[Encoded], counts: Sequence[int]) -> int:
    """Return how many copies of each sample share its features.

    Raises: UnsupportedError: the tokens of the calls are not those of the batch.
    """
    tokens, wanted = sum(call.tokens for call in calls), sum(counts)
    copies = max(1, wanted // max(1, tokens))
    if sum(counts[::copies]) != tokens or copies * tokens != wanted:
        raise UnsupportedError(
            f"the image encoder was read for {tokens} visual tokens, and the batch has {wanted}; "
            "give pixel_values with the prompt they belong to."
        )
    return copies


def _list_places(kinds: Sequence[Sequence[int]], calls: Sequence[Encoded]) -> torch.Tensor:
    """Return where the row of each visual token stands among those of all calls, (T,) int64."""
    kind = torch.tensor([one for sample in kinds for one in sample])
    # of each call, its rows in order; a stable sort by call undone
    order = kind.sort(stable=True).indices
    return torch.empty_like(order).scatter(0, order, torch.arange(len(order)))


def gather_encoder(signals: Sequence[SampleSignals], names: torch.Tensor) -> EncoderSignals:
    """Return the encoder's signals of a group at a site.

    Args:
        signals: (G,) of its samples.
        names: (G, V) int64, which of its sample's visual tokens each token is.
    """
    values = {}
    for need in signals[0].encoder:
        rows = [sample.encoder[need].to(names.device) for sample in signals]
        values[need] = torch.stack([own[name] for own, name in zip(rows, names, strict=True)])
    return EncoderSignals(values, signals[0].projector)


def stack_text(signals: Sequence[SampleSignals], device: torch.device) -> TextSignal | None:
    """Return the text of a group, filled up to its longest; None if it is not declared."""
    texts = [
        sample.text.to(device, non_blocking=True) for sample in signals if sample.text is not None
    ]
    if not texts:
        return None
    ids = tuple(sample.ids for sample in signals if sample.ids is not None)
    lengths = [len(text) for text in texts]
    embeds = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True)  # (G, T, D)
    if len(set(lengths)) == 1:
        return TextSignal(embeds, ids=ids)
    index = torch.arange(embeds.shape[1], device=device)
    present = index < torch.tensor(lengths).to(device, non_blocking=True)[:, None]
    return TextSignal(embeds, present, ids)
