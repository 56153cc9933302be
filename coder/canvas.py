"""The canvas: the block of positions being denoised, a row of tokens and masks per candidate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Bool, Int


@dataclass(frozen=True)
class Canvas:
    """Token ids, [batch, block], of which some are masks.

    `<eom>` ends the middle: what stands after it stays masked, costs no step and
    is never read, as in training.
    """

    ids: Int[Tensor, "batch block"]
    mask: int
    eom: int

    @classmethod
    def blank(cls, batch: int, length: int, mask: int, eom: int, device: torch.device) -> Canvas:
        """A canvas of masks alone."""
        return cls(torch.full((batch, length), mask, device=device), mask, eom)

    def ending(self, lengths: Sequence[int | None]) -> Canvas:
        """The canvas with an `<eom>` frozen after so many tokens of each row; None freezes none.

        A length that reaches beyond the canvas freezes none either.
        """
        ids = self.ids.clone()
        for row, length in enumerate(lengths):
            if length is not None and length < ids.shape[1]:
                ids[row, length] = self.eom
        return replace(self, ids=ids)

    def with_row(self, row: int, ids: Int[Tensor, " block"]) -> Canvas:
        """The canvas with other token ids in a row."""
        changed = self.ids.clone()
        changed[row] = ids
        return replace(self, ids=changed)

    def rows(self, index: Int[Tensor, " rows"] | slice) -> Canvas:
        """The named rows, in that order."""
        return replace(self, ids=self.ids[index])

    @cached_property
    def ended(self) -> Int[Tensor, " batch"]:
        """The position of each row's first `<eom>`; the block length where there is none."""
        length = self.ids.shape[1]
        place = torch.arange(length, device=self.ids.device)
        return torch.where(self.ids == self.eom, place, length).amin(1)

    @cached_property
    def open(self) -> Bool[Tensor, "batch block"]:
        """The positions still to be committed: masked, and not after an `<eom>`."""
        place = torch.arange(self.ids.shape[1], device=self.ids.device)
        return (self.ids == self.mask) & (place < self.ended[:, None])

    def commit(
        self, tokens: Int[Tensor, "batch block"], where: Bool[Tensor, "batch block"]
    ) -> Canvas:
        """The canvas with masks at `where` made tokens; other positions are frozen.

        Positions after an `<eom>` become masks again.
        """
        where = where & (self.ids == self.mask)
        canvas = replace(self, ids=torch.where(where, tokens, self.ids))
        place = torch.arange(self.ids.shape[1], device=self.ids.device)
        after = place > canvas.ended[:, None]
        return replace(canvas, ids=canvas.ids.masked_fill(after, self.mask))

    def middle(self, row: int) -> list[int]:
        """The committed tokens of a row up to its `<eom>` or its first mask."""
        ids = self.ids[row, : int(self.ended[row])].tolist()
        return ids[: ids.index(self.mask)] if self.mask in ids else ids
