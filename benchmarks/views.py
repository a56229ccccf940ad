"""Views of random numbers with the widths of LLaVA-1.5-7B, for timing methods without a model."""

from dataclasses import dataclass, replace
from typing import Any

import torch

from sparsight.counts.cost import DecoderShape, decoder_macs
from sparsight.counts.layout import Block, Layout, layout_of
from sparsight.errors import UnsupportedError
from sparsight.methods.decoder import DecoderKeys, TextStates
from sparsight.methods.encoder import CHANGES, EncoderNeed, EncoderSignals, TextSignal
from sparsight.methods.method import Method
from sparsight.methods.view import Distance, View

SHAPE = DecoderShape(32, 4096, 32, 32, 128, 11008)  # LLaVA-1.5-7B's decoder
TEXT, RATERS = 40, 12  # tokens of a question, and those of them that rate
ENCODER = {"features": (1024,), "keys": (64,), "wide_keys": (1024,)}  # widths of CLIP ViT-L/14


@dataclass(frozen=True)
class Size:
    """A budget of one sample.

    Args:
        keeps: tokens that stay.
        stills: grids of the images.
        frames: grids of a video, for methods that prune videos.
    """

    keeps: int
    stills: tuple[Block, ...]
    frames: tuple[Block, ...]

    @property
    def tokens(self) -> int:
        """V."""
        return sum(block.length for block in self.stills)


def _repeat(count: int, rows: int, columns: int, field: str) -> tuple[Block, ...]:
    numbers: list[dict[str, Any]] = [{field: number} for number in range(count)]
    return tuple(Block(rows, columns, **number) for number in numbers)


SIZES = (
    Size(64, _repeat(1, 24, 24, "image"), _repeat(4, 12, 12, "frame")),
    Size(320, _repeat(5, 24, 24, "image"), _repeat(20, 12, 12, "frame")),
    Size(1600, _repeat(1, 125, 128, "image"), _repeat(64, 10, 25, "frame")),
)


def prefill_macs(size: Size) -> int:
    """Return the multiply-accumulates of dense prefill of one sample."""
    return decoder_macs(SHAPE, (size.tokens + TEXT,) * SHAPE.layers)


class Attention:
    """Random rater attention, (G, H, R, V).

    Means over raters are what the engine has ready; they cost no method anything.
    """

    def __init__(self, batch: int, tokens: int, random: torch.Generator) -> None:
        self.present = None
        self._by_rater = torch.rand(batch, RATERS, tokens, generator=random) / tokens
        self._by_head = torch.rand(batch, SHAPE.heads, tokens, generator=random) / tokens

    def mean(self) -> torch.Tensor:
        """Return the mean over heads and raters, (G, V)."""
        return self._by_head.mean(dim=1)

    def mean_over_heads(self) -> torch.Tensor:
        """Return the mean over heads, (G, R, V)."""
        return self._by_rater

    def mean_over_raters(self, weight: torch.Tensor | None = None) -> torch.Tensor:
        """Return the mean over raters, (G, H, V)."""
        return self._by_head if weight is None else self._by_head * weight.mean(1, keepdim=True)


def make_view(method: Method, batch: int, size: Size) -> View:
    """Return what a method sees at its first site.

    Raises: UnsupportedError: the method works in the image encoder, or takes neither images nor
        videos of these grids.
    """
    if any(need.kind in CHANGES for need in method.encoder_needs):
        raise UnsupportedError("it works in the image encoder")
    random = torch.Generator().manual_seed(0)
    layout, plan = _plan(method, size)
    hidden = torch.randn(batch, size.tokens, SHAPE.width, generator=random)
    signals = type(method).signals
    view = View(
        site=plan.sites[0],
        count=plan.counts[0],
        keep_count=plan.kept[0],
        hidden=hidden,
        images=layout.image.expand(batch, -1),
        exact=plan.exact,
    )
    made: dict[str, Any] = {
        "attention": lambda: Attention(batch, size.tokens, random),
        "distance": lambda: _make_distance(batch, size.tokens),
        "layout": lambda: layout,
        "text": lambda: TextSignal(torch.randn(batch, TEXT, SHAPE.width, generator=random)),
        "text_states": lambda: TextStates(hidden[:, :TEXT]),
        "decoder_keys": lambda: _make_keys(batch, size.tokens, random),
        "norm": lambda: torch.nn.functional.normalize,  # costs what a norm costs
        "sizes": lambda: torch.ones(batch, size.tokens),
        "encoder": lambda: _make_encoder(method.encoder_needs, batch, size.tokens, random),
    }
    return replace(view, **{name: made[name]() for name in signals if name in made})


def _plan(method: Method, size: Size) -> tuple[Layout, Any]:
    """Return the layout that a method takes, and its plan."""
    try:
        layout = layout_of(size.stills)
        return layout, method.plan(layout, SHAPE.layers)
    except UnsupportedError:
        layout = layout_of(size.frames)
        return layout, method.plan(layout, SHAPE.layers)


def _make_distance(batch: int, tokens: int) -> Distance:
    visual = torch.arange(tokens).expand(batch, -1)
    raters = (tokens + torch.arange(RATERS)).expand(batch, -1)
    return Distance(visual, raters, tokens + RATERS, torch.logspace(0, -4, SHAPE.head_dim // 2))


def _make_keys(batch: int, tokens: int, random: torch.Generator) -> DecoderKeys:
    """Return keys of visual tokens and text, (G, H, V or T, d)."""
    shape = (SHAPE.kv_heads, SHAPE.head_dim)
    made = [torch.randn(batch, shape[0], n, shape[1], generator=random) for n in (tokens, TEXT)]
    return DecoderKeys(*made)


def _make_encoder(
    needs: tuple[EncoderNeed, ...], batch: int, tokens: int, random: torch.Generator
) -> EncoderSignals:
    values = {
        need: torch.rand(batch, tokens, *ENCODER.get(need.kind, ()), generator=random)
        for need in needs
        if need.kind != "projector"
    }
    weight = torch.randn(1024, SHAPE.width, generator=random)  # of a projector of one layer
    projects = any(need.kind == "projector" for need in needs)
    return EncoderSignals(values, (lambda features: features @ weight) if projects else None)
