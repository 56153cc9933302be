"""The canvas: the block of positions being denoised, a row of tokens and masks per candidate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from talaria.coder.backbone import Array, Marks

if TYPE_CHECKING:
    from jaxtyping import Bool, Int


@dataclass(frozen=True)
class Canvas:
    """Token ids, [batch, block], some of them masks.

    `<eom>` ends the middle: positions behind it stay masked, cost no step and are never read,
    as in training.
    """

    ids: Int[Array, "batch block"]
    marks: Marks

    @classmethod
    def blank(cls, batch: int, length: int, marks: Marks) -> Canvas:
        """A canvas of masks alone."""
        return cls(np.full((batch, length), marks.mask, np.int64), marks)

    def ending(self, lengths: Sequence[int | None]) -> Canvas:
        """The canvas with `<eom>` frozen after this many tokens of each row.

        None, or a length beyond the canvas, freezes nothing.
        """
        ids = self.ids.copy()
        for row, length in enumerate(lengths):
            if length is not None and length < ids.shape[1]:
                ids[row, length] = self.marks.eom
        return replace(self, ids=ids)

    def with_row(self, row: int, ids: Int[Array, " block"]) -> Canvas:
        """The canvas with other token ids in a row."""
        changed = self.ids.copy()
        changed[row] = ids
        return replace(self, ids=changed)

    def rows(self, index: Int[Array, " rows"] | slice) -> Canvas:
        """The named rows, in that order."""
        return replace(self, ids=self.ids[index])

    @cached_property
    def masked(self) -> Bool[Array, "batch block"]:
        """Where masks stand."""
        found: Array = self.ids == self.marks.mask
        return found

    @cached_property
    def ended(self) -> Int[Array, " batch"]:
        """The position of each row's first `<eom>`; the block length where there is none."""
        length = self.ids.shape[1]
        found: Array = np.where(self.ids == self.marks.eom, np.arange(length), length).min(1)
        return found

    @cached_property
    def open(self) -> Bool[Array, "batch block"]:
        """Positions still to be committed: masked, and not behind an `<eom>`."""
        found: Array = self.masked & (np.arange(self.ids.shape[1]) < self.ended[:, None])
        return found

    @property
    def unfinished(self) -> Bool[Array, " batch"]:
        """Which rows have open positions."""
        return np.asarray(self.open.any(1))

    def commit(
        self, tokens: Int[Array, "batch block"], where: Bool[Array, "batch block"]
    ) -> Canvas:
        """The canvas with the masks at `where` made tokens; all other positions are frozen.

        Positions behind an `<eom>` become masks again.
        """
        canvas = replace(self, ids=np.where(where & self.masked, tokens, self.ids))
        behind = np.arange(self.ids.shape[1]) > canvas.ended[:, None]
        return replace(canvas, ids=np.where(behind, self.marks.mask, canvas.ids))

    def middle(self, row: int) -> list[int]:
        """The committed tokens of a row up to its `<eom>` or its first mask."""
        ids: list[int] = self.ids[row, : self.ended[row]].tolist()
        return ids[: ids.index(self.marks.mask)] if self.marks.mask in ids else ids
