"""Keeps patches out of the blocks of an image encoder that takes them as one list (Qwen-VL).

The method marks visual tokens by the pixels of their patches. Patches of the others are taken out
in front of the first block, with their rotary positions, and the lengths of the pieces within which
patches attend to each other are those of what is left. Behind the last block, and in front of the
modules that make visual tokens of patches, the list is as long as it was: in the place of a patch
that was taken out stands one that was not.

Private details of transformers touched here: `hidden_states`, `cu_seqlens` and
`position_embeddings` of blocks, `hidden_states` of encoders with a patch's colours first, then its
frames, and names of the modules that merge patches, as `families/encoders.py` lists them.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from sparsight.engine.compat import name_arguments
from sparsight.engine.encoder_tap import EncoderTap, Reading
from sparsight.engine.ledger import Owner
from sparsight.engine.outline import Encoding, Outline
from sparsight.engine.parts import Parts
from sparsight.engine.passes import Pass, find_pass
from sparsight.engine.tap import AddRemover
from sparsight.errors import MethodError, UnsupportedError
from sparsight.families.encoders import list_window_order
from sparsight.methods.encoder import EncoderNeed, MarksPatches
from sparsight.methods.method import Method
from sparsight.methods.parts.tensors import widen

ENCODED = EncoderNeed("encoded")
LENGTHS, ROTARY = "cu_seqlens", "position_embeddings"  # arguments of blocks


@dataclass
class Thinning:
    """One call of an encoder that is given fewer patches.

    Args:
        state: the pass that the call belongs to.
        rows: (K,) int64, which of the n patches are left, in the order of the list.
        back: (n,) int64, which of those that are left stands in the place of each patch.
        before: (n + 1,) int64, how many are left of the first patches.
        lengths: ends of pieces, as blocks get them, and as they are among those that are left.
    """

    state: Pass
    rows: torch.Tensor
    back: torch.Tensor
    before: torch.Tensor
    lengths: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list)

    def shorten(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return hidden states (n, D) without the patches that are left out, (K, D)."""
        return hidden[self.rows.to(hidden.device)] if len(hidden) == len(self.back) else hidden

    def spread(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return hidden states (K, D) as a list of all patches, (n, D)."""
        return hidden[self.back.to(hidden.device)] if len(hidden) == len(self.rows) else hidden

    def shorten_lengths(self, ends: torch.Tensor) -> torch.Tensor:
        """Return the ends of pieces among the patches that are left; empty pieces are left out."""
        for given, shortened in self.lengths:
            if given is ends:
                return shortened
        unique: torch.Tensor = torch.unique(self.before.to(ends.device)[ends.long()])  # sorted
        shortened = unique.to(ends.dtype)
        self.lengths.append((ends, shortened))
        return shortened


class ThinningTap(EncoderTap):
    """Keeps patches out of the image encoder of one model, and reads which ones.

    Args: as of `EncoderTap`.
    """

    def __init__(self, owner: Owner, parts: Parts, method: Method) -> None:
        super().__init__(owner, parts, method)
        if not isinstance(method, MarksPatches):
            raise MethodError(
                f"{self.name} declares the need 'encoded'; give it mark_patches(pixels, grid), "
                "which says what the encoder gets."
            )
        self.method: Any = method

    @property
    def reads_alone(self) -> bool:
        """Whether it also reads images that are encoded outside of a pass: no."""
        return False

    def plan(self, outline: Outline) -> Outline:
        """Return an outline that says whether patches of its images are left out.

        Raises: UnsupportedError: this holds for some samples alone.
        """
        prunes = {schedule.prunes for schedule in outline.schedules if schedule is not None}
        if len(prunes) > 1:
            raise UnsupportedError(
                f"a count as retain={self.method.retain} bounds some samples of this batch and "
                "leaves others as they are, and their images are encoded together; give None or a "
                "fraction."
            )
        if True not in prunes:
            return outline
        return replace(outline, encoding=Encoding(ENCODED.kind, method=self.method))

    def attach(self, add_remover: AddRemover) -> None:
        """Put hooks on the encoder.

        Args: add_remover: takes a function that removes a hook, as soon as the hook is on.
        """
        super().attach(add_remover)
        for block in self.blocks:
            handle = block.register_forward_pre_hook(self._on_block, with_kwargs=True)
            add_remover(handle.remove)
        add_remover(self.blocks[-1].register_forward_hook(self._on_last, prepend=True).remove)
        for path in self.encoder.mergers:
            merger = self.parts.family.get_part(self.tower, path)
            add_remover(merger.register_forward_pre_hook(self._on_merger).remove)

    def _on_start(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Mark what goes into the blocks, in a pass whose images are to be thinned out."""
        state = find_pass(self.owner)
        if state is None or not state.needs:
            return
        super()._on_start(module, args, kwargs)
        reading = self._current()
        if reading is not None:
            patches = name_arguments(module, args, kwargs)["hidden_states"]
            self._start(reading, state, patches)

    def _start(self, reading: Reading, state: Pass, patches: torch.Tensor) -> None:
        """Note which patches (n, P) are left, and what hooks need to leave out the others."""
        marks = self._mark(reading, patches)
        kept = state.to_host(marks)
        if self.encoder.window and reading.sizes is not None:
            kept = kept[list_window_order(reading.sizes, self.encoder)]
        kept = kept.repeat_interleave(self.encoder.merge)  # (n,) in the order of the list
        reading.pieces[ENCODED] = [kept.to(patches.device, torch.float32)]
        if bool(kept.all()):
            return
        before = torch.nn.functional.pad(kept.cumsum(0), (1, 0))
        back = (before[1:] - 1).clamp_min(0)
        rows = kept.nonzero().flatten()
        device = patches.device
        reading.change = Thinning(state, rows.to(device), back.to(device), before.to(device))

    def _mark(self, reading: Reading, patches: torch.Tensor) -> torch.Tensor:
        """Return which visual tokens the encoder is given, (V,) bool in raster order.

        Raises: MethodError: the method marks them otherwise than its images have them.
        """
        merge = self.encoder.merge
        side = round(merge**0.5)
        pixels = self._restore_colours(patches).view(len(patches) // merge, -1)  # (V, P)
        marks, first = [], 0
        for frames, height, width in reading.sizes or ():
            grid = height // side, width // side
            shape = (frames, grid[0] * grid[1])
            own = pixels[first : first + shape[0] * shape[1]].view(*shape, -1)
            first += shape[0] * shape[1]
            marked = self._check_marks(self.method.mark_patches(own, grid), shape)
            marks.append(marked.flatten())
        return torch.cat(marks)

    def _check_marks(self, marks: object, shape: tuple[int, int]) -> torch.Tensor:
        """Return a method's marks of one image or video, if they are such.

        Args: shape: F and V.
        Raises: MethodError: they are not.
        """
        right = isinstance(marks, torch.Tensor) and marks.dtype == torch.bool
        if not isinstance(marks, torch.Tensor) or not right or marks.shape != shape:
            raise MethodError(
                f"{self.name}.mark_patches answered for an image of {shape[1]} tokens and "
                f"{shape[0]} frames what is no bool tensor of shape {shape}."
            )
        return marks

    def _restore_colours(self, patches: torch.Tensor) -> torch.Tensor:
        """Return the pixels of patches (n, P) in 0..1, as they were before normalisation."""
        if self.encoder.colours is None:
            return widen(patches)
        mean, deviation = (
            torch.tensor(part, device=patches.device)[:, None] for part in self.encoder.colours
        )
        by_colour = widen(patches).view(len(patches), len(mean), -1)
        return (by_colour * deviation + mean).flatten(1)

    def _find_thinning(self) -> Thinning | None:
        """Return what the running call leaves out; None if it leaves out nothing."""
        reading = self._current()
        change = None if reading is None else reading.change
        # an interrupted call may have left its own open
        if isinstance(change, Thinning) and change.state is find_pass(self.owner):
            return change
        return None

    def _on_block(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Shorten a block's arguments."""
        thinning = self._find_thinning()
        if thinning is None:
            return None
        arguments = name_arguments(module, args, kwargs)
        arguments["hidden_states"] = thinning.shorten(arguments["hidden_states"])
        arguments[LENGTHS] = thinning.shorten_lengths(arguments[LENGTHS])
        arguments[ROTARY] = tuple(map(thinning.shorten, arguments[ROTARY]))
        return (), arguments

    def _on_last(
        self, module: nn.Module, args: tuple[Any, ...], output: torch.Tensor
    ) -> torch.Tensor | None:
        """Spread what the last block returns over all patches."""
        del module, args
        thinning = self._find_thinning()
        return None if thinning is None else thinning.spread(output)

    def _on_merger(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Spread what goes into a module that makes visual tokens of patches."""
        del module
        thinning = self._find_thinning()
        return None if thinning is None else (thinning.spread(args[0]), *args[1:])
