"""Reads features, attention and keys of the image encoder, of the blocks that a method names.

A tap reads q and k of a block's attention call; the kernel stays as it is. The class token's row
alone is multiplied out, and attention received is summed in blocks of rows, so that no N x N map
exists. What was read is put on the encoder's output, and travels with the features to wherever they
are used: to a pass, through generate(), into a conversation's memory. Private details of
transformers touched here: that models hand on the encoder's output object as that of their
`get_image_features`, that encoders run blocks behind the one that made the features, and `grid_thw`
of encoders.
"""

from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from sparsight.engine.compat import name_arguments
from sparsight.engine.encoder_needs import (
    KEPT,
    find_attention,
    group_by_block,
    has_signals,
    list_blocks,
    list_needs,
    read_encoder,
)
from sparsight.engine.ledger import Owner
from sparsight.engine.outline import Outline
from sparsight.engine.parts import Parts
from sparsight.engine.passes import Pass, find_pass
from sparsight.engine.tap import AddRemover, attach_tap
from sparsight.errors import TESTED_WITH, UnsupportedError
from sparsight.families.encoders import Sizes, list_window_order
from sparsight.families.reading import read_kinds
from sparsight.methods.encoder import EncoderNeed
from sparsight.methods.method import Method
from sparsight.methods.parts.scores import score_attention_received, score_class_attention
from sparsight.methods.parts.tensors import widen
from sparsight.sequence.encoded import Encoded, SampleSignals, split_encoded
from sparsight.sequence.rater_rows import AttentionCall

WIDE = ("wide_class_attention", "wide_keys")
SELECTION = ("vision_feature_layer", "vision_feature_select_strategy")


@dataclass
class Reading:
    """What was read so far in one call of an encoder.

    Args:
        tap: whose encoder runs.
        sizes: of its images; None where nobody needs them.
        pieces: what was read of each need, (n, ...), in the order of the sequence.
        outer: the call around this one.
        change: the state of what changes the call, if anything does.
    """

    tap: "EncoderTap"
    sizes: Sizes | None
    pieces: dict[EncoderNeed, list[torch.Tensor]] = field(default_factory=dict)
    outer: "Reading | None" = None
    change: Any = None


_CURRENT: ContextVar[Reading | None] = ContextVar("sparsight_encoder", default=None)


class EncoderTap:
    """Reads the image encoder of one model.

    Args:
        owner: whose passes these are.
        parts: of the model.
        method: says what it needs.
    """

    def __init__(self, owner: Owner, parts: Parts, method: Method) -> None:
        self.owner, self.parts = owner, parts
        self.name, self.needs = type(method).__name__, list_needs(method)
        self.encoder = read_encoder(parts.family, parts.config)
        self.tower = parts.family.get_part(parts.base, self.encoder.path)
        self.blocks = list_blocks(self.tower, self.encoder)

    @property
    def reads_alone(self) -> bool:
        """Whether it also reads images that are encoded outside of a pass."""
        return self.encoder.places is None  # sizes of images are known in a pass alone

    def plan(self, outline: Outline) -> Outline:
        """Return an outline that says how its images are encoded; here as the model does it."""
        return outline

    def attach(self, add_remover: AddRemover) -> None:
        """Put hooks and taps on the encoder.

        Args: add_remover: takes a function that removes a hook, as soon as the hook is on.
        """
        tower = self.tower
        add_remover(tower.register_forward_pre_hook(self._on_start, with_kwargs=True).remove)
        add_remover(tower.register_forward_hook(self._on_end, always_call=True).remove)
        if any(need.kind == "features" for need in self.needs):
            path = self.encoder.features
            block = self.blocks[self.encoder.source]
            source = block if path is None else self.parts.family.get_part(tower, path)
            add_remover(source.register_forward_hook(self._on_source).remove)
        for index, needs in group_by_block(self.needs, self.encoder).items():
            attention = find_attention(self.blocks[index])
            add_remover(attach_tap(attention, partial(self._on_attention, needs)))

    def project(self, features: torch.Tensor) -> torch.Tensor:
        """Return visual tokens (..., D) for features (..., D_enc)."""
        projector = self.parts.family.get_part(self.parts.base, str(self.parts.family.projector))
        weight = next(projector.parameters())
        projected: torch.Tensor = projector(features.to(weight.device, weight.dtype))
        return projected.to(features.device)

    def check_call(self, given: dict[str, Any]) -> None:
        """Check that a call takes its features from where the config says.

        Raises: UnsupportedError: it names another layer or strategy.
        """
        for name in SELECTION:
            value, usual = given.get(name), getattr(self.parts.config, name, None)
            if value is not None and value != usual:
                raise UnsupportedError(
                    f"{name}={value!r} is given, and {self.name} reads the image encoder as the "
                    f"config says, {usual!r}; set it in the config before sparsify()."
                )

    def collect(self, state: Pass, given: dict[str, Any]) -> None:
        """Take over what travels with features that were encoded before a pass.

        Args:
            state: the pass.
            given: arguments of the base model.
        Raises: UnsupportedError: features come without what the method reads.
        """
        outputs = given.get("mm_encoder_outputs") or {}
        for kind in ("image", "video"):
            if outputs.get(kind) is not None and state.needs:
                self.take_over(state, outputs[kind])

    def take_over(self, state: Pass, output: Any) -> None:
        """Take over what travels with one output of the encoder.

        Raises: UnsupportedError: it comes without what the method reads.
        """
        if not has_signals(output, self.needs):
            what = " and ".join(need.description for need in self.needs if need.kind != "projector")
            instead = "give pixel_values"
            if self.reads_alone:
                instead += ", or encode them by get_image_features() while this method is attached"
            raise UnsupportedError(
                f"{self.name} reads {what}, and mm_encoder_outputs bring features that were "
                f"encoded without it; {instead}."
            )
        state.encoded_parts.append(getattr(output, KEPT))

    def read_samples(self, state: Pass, counts: Sequence[int]) -> list[SampleSignals]:
        """Return what was read for each sample of a pass.

        Args:
            state: the pass; its images have been encoded.
            counts: (B,) visual tokens of each sample.
        """
        needs = [need for need in state.needs if need.kind != "projector"]
        projector = self.project if len(needs) < len(state.needs) else None
        if not needs:
            return [SampleSignals(projector=projector) for _ in counts]
        kinds = None
        if len(state.encoded_parts) > 1 and state.ids is not None:
            kinds = read_kinds(self.parts.config, state.ids)
        samples = split_encoded(state.encoded_parts, needs, counts, kinds)
        return [SampleSignals(values, projector=projector) for values in samples]

    def _on_start(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        state = find_pass(self.owner)
        if state is not None and not state.needs:
            return
        sizes: Sizes | None = None
        if self.encoder.packed:
            grids = name_arguments(module, args, kwargs)["grid_thw"]
            grids = grids.cpu() if state is None else state.to_host(grids)
            sizes = [(int(t), int(h), int(w)) for t, h, w in grids.tolist()]
        _CURRENT.set(Reading(self, sizes, outer=_CURRENT.get()))

    def _on_end(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Put what was read on the output of the encoder; `output` is None after an error."""
        del module, args
        reading = self._current()
        if reading is None:
            return
        _CURRENT.set(reading.outer)
        state = find_pass(self.owner)
        encoded = None if output is None else self._finish(reading, state)
        if encoded is None:
            return
        if not isinstance(output, tuple):
            setattr(output, KEPT, encoded)
        if state is not None:
            state.encoded_parts.append(encoded)

    def _finish(self, reading: Reading, state: Pass | None) -> Encoded | None:
        """Return what was read, by visual tokens; None if tiles cannot be put together here."""
        self._check_blocks(reading)
        values = {need: self._join(need, reading) for need in reading.pieces}
        if self.encoder.places is not None:
            if state is None or state.image_sizes is None:
                return None
            sizes = state.image_sizes
            places = self.encoder.places(sizes if sizes.is_cpu else state.to_host(sizes))
            values = {need: value[places.to(value.device)] for need, value in values.items()}
        encoding = None if state is None else state.encoding
        return Encoded(values, max(map(len, values.values()), default=0), encoding)

    def _check_blocks(self, reading: Reading) -> None:
        """Check that every block that is read has run, those behind the features too.

        Raises: UnsupportedError: one has not, as its output is used by nobody but the method.
        """
        for need in self.needs:
            if need.kind != "projector" and need not in reading.pieces:
                raise UnsupportedError(
                    f"{self.name} reads {need.description}, and {type(self.tower).__name__} did "
                    f"not run that block; {TESTED_WITH}."
                )

    def _on_source(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        del module, args
        reading = self._current()
        if reading is not None:
            features = output[0] if isinstance(output, tuple) else output  # (I, N, D) or (N, D)
            alone = self.encoder.features is not None
            rows = features.flatten(0, 1) if alone else self._flatten(features)
            reading.pieces[EncoderNeed("features")] = [rows]

    def _on_attention(self, needs: tuple[EncoderNeed, ...], call: AttentionCall) -> None:
        reading = self._current()
        if reading is None:
            return
        self.check_mask(call)
        with torch.autocast(call.query.device.type, enabled=False):
            for need in needs:
                reading.pieces.setdefault(need, []).append(self._read(need, call))

    def check_mask(self, call: AttentionCall) -> None:
        """Check that every patch sees every other one in an attention call.

        Raises: UnsupportedError: the encoder masks some.
        """
        if call.mask is not None or call.causal:
            raise UnsupportedError(
                f"{self.name} reads the attention of the image encoder, and "
                f"{type(self.tower).__name__} masks it here; give images without padding."
            )

    def _current(self) -> Reading | None:
        reading = _CURRENT.get()
        return reading if reading is not None and reading.tap is self else None

    def _read(self, need: EncoderNeed, call: AttentionCall) -> torch.Tensor:
        """Return what is needed of one attention call, (n, ...), in the order of its sequence."""
        query, key = call.query, call.key  # (I, H, N, d), or (1, H, n, d) of one piece
        if need.kind in WIDE:  # one head, whose products are scaled by its own width
            query, key = (part.transpose(1, 2).flatten(2)[:, None] for part in (query, key))
        if need.kind in ("keys", "wide_keys"):
            return self._flatten(widen(key).mean(dim=1))
        if need.kind == "wide_class_attention":
            return score_class_attention(query, key, query.shape[-1] ** -0.5).flatten()
        if need.kind == "class_attention":
            return score_class_attention(query, key, call.scaling).flatten()
        received = score_attention_received(query, key, self.encoder.skip, call.scaling)
        # pieces of an image add up to its rows; `_join` takes the mean over all of them
        return (received * query.shape[2] if self.encoder.packed else received).flatten()

    def _flatten(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the rows of patches of all images, (n, d); class tokens are left out."""
        if self.encoder.packed:
            return rows.reshape(-1, rows.shape[-1])
        return rows[:, self.encoder.skip :].flatten(0, 1)

    def _join(self, need: EncoderNeed, reading: Reading) -> torch.Tensor:
        """Return one row for each visual token, in the order of the features."""
        rows = torch.cat(reading.pieces[need])
        encoder, sizes = self.encoder, reading.sizes
        if sizes is None:
            return rows
        rows = widen(rows).view(-1, encoder.merge, *rows.shape[1:]).mean(dim=1)
        if encoder.window:
            order = list_window_order(sizes, encoder).to(rows.device)
            rows = torch.empty_like(rows).index_copy(0, order, rows)
        if need.kind == "received":
            patches = [(t * h * w // encoder.merge, h * w) for t, h, w in sizes]
            count = torch.cat([torch.full((tokens,), size) for tokens, size in patches])
            rows = rows / count.to(rows.device)
        return rows
