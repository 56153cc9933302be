"""Masked diffusion models in torch: one network for all families, and how its attention is used.

A network with full attention has no keys and values that last: all depend on the canvas. What is
kept of a context is its tokens, and a step evaluates prefix, canvas and suffix. Of a network with
block-causal attention (arXiv 2503.09573), whole blocks are kept, exactly; the tokens behind the
last whole one are read again with the canvas, which stands in the same block.

States are aligned with the canvas: that of a position predicts its token, whatever the network's
own shift is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from talaria.coder.backbone import (
    Array,
    Candidates,
    Constraint,
    Fork,
    KVCache,
    Marks,
    Reading,
    States,
    constrain,
)
from talaria.coder.errors import CheckpointError
from talaria.coder.families.blocks_torch import TorchDecoder
from talaria.coder.families.masked_files import Folder, open_folder
from talaria.coder.families.masked_network_torch import Network, read_network
from talaria.coder.layout import Layout
from talaria.coder.open_families import Family
from talaria.coder.schedule import Schedule, Spread, Window
from talaria.coder.tokenizer import Tokenizer

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

SENTINELS = "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"
LEAST = -1e30  # the logarithm of 0, as a number that 0 may be multiplied with


class CausalBackbone(TorchDecoder):
    """A causal decoder, which writes from left to right: it cannot read a canvas."""

    shift, denoises = True, False
    network: Network

    def __init__(self, network: Network, marks: Marks) -> None:
        self.network, self.marks = network, marks
        self.positions = network.shape.positions


class MaskedBackbone(TorchDecoder):
    """A masked diffusion model as a decoder sees it.

    Keys of a cache begin with a layer of its own, the ids of the tokens, [batch, 1, length, 1];
    with full attention there are no others.

    schedule  how the family's authors decode
    tokens    the marks that a layout puts around and between prefix and suffix
    """

    network: Network

    def __init__(self, network: Network, family: Family, marks: Marks, block: int) -> None:
        self.network, self.family, self.marks = network, family, marks
        self.block, self.positions = block, network.shape.positions
        self.schedule: Schedule = family.schedule
        self.begin_with: tuple[int, ...] = ()
        self.end_with: tuple[int, ...] = ()

    def encode(
        self,
        contexts: Sequence[Sequence[int]],
        cache: KVCache | None = None,
        forks: Sequence[Sequence[Fork]] | None = None,
    ) -> tuple[States, KVCache]:
        """Keep tokens behind the cache, and whole blocks' keys and values if blocks are causal.

        There are no states: nothing is predicted without a canvas.
        """
        batch = len(contexts)
        before = [[] for _ in contexts] if cache is None else tokens_of(cache)
        every = [[*old, *new] for old, new in zip(before, contexts, strict=True)]
        states = np.zeros((batch, max(map(len, contexts)), 0), np.float32)
        if self.family.attention == "full":
            return states, kept_tokens(every)
        ends = [len(row) for row in every]
        _, found = self._read(every, cache, [len(row) for row in before], ends, [0] * batch)
        if self.on_read is not None:
            self.on_read(contexts, cache, found)
        return states, found

    def begin(self, cache: KVCache, last: Sequence[int]) -> Reading:
        """Canvases behind cached contexts: nothing of them is read yet."""
        return Reading(cache, np.array(last, np.int64), np.zeros(len(last), np.int64))

    def denoise(
        self,
        canvas: Int[Array, "batch block"],
        cache: KVCache,
        last: Sequence[int],
        present: Bool[Array, "batch block"] | None = None,
    ) -> States:
        """States that predict the canvas's tokens, as `Backbone` has it: one step."""
        known = (canvas == self.marks.mask).argmax(1)
        widths = np.full(len(canvas), canvas.shape[1])
        return self.denoise_on(canvas, self.begin(cache, last), widths, known)[0]

    def denoise_on(
        self,
        canvas: Int[Array, "batch block"],
        reading: Reading,
        widths: Int[Array, " batch"],
        known: Int[Array, " batch"],
    ) -> tuple[States, Reading]:
        """The states of `denoise`; whole blocks of known tokens are kept from step to step.

        With full attention, the canvas ends at its end mark, behind which the suffix stands; a
        `Window` says that only a part of it is computed anew, and of which states are. With
        blocks, states are those up to the end of the block with the first open position; others
        are zeros. What the canvas lacks of that block is masks.
        """
        if self.family.attention == "full":
            return self._denoise_whole(canvas, reading)
        return self._denoise_block(canvas, reading, known)

    def _denoise_whole(
        self, canvas: Int[Array, "batch block"], reading: Reading
    ) -> tuple[Float[Tensor, "batch block width"], Reading]:
        """States of the canvas between prefix and suffix, all of which are read.

        Where the reading is a `Window`, only of the rows that are fresh; of others, its part.
        """
        texts, length = self._texts(canvas, reading.cache), canvas.shape[1]
        whole = np.array([(0, len(text.tokens)) for text in texts])
        if not isinstance(reading, Window):
            states, _ = self._read_parts(texts, whole, None)
            return self._of_canvas(states, texts, whole, length), reading
        # What predicts the first token of a part may stand before it.
        parts = np.array([[text.start] for text in texts]) + reading.spans
        parts[:, 0] = np.maximum(0, parts[:, 0] - self.family.shift)
        if reading.behind:
            parts[:, 1] = whole[:, 1]
        fresh, stale = np.flatnonzero(reading.fresh), np.flatnonzero(~reading.fresh)
        old, kept, done = reading.states, reading.states, []
        if len(fresh):
            own = [texts[row] for row in fresh]
            states, new = self._read_parts(own, whole[fresh], None, keep=True)
            each, (begins, ends) = np.arange(new.valid.shape[1]), parts[fresh].T
            inside = (each >= begins[:, None]) & (each < ends[:, None])
            kept = replace(new, valid=new.valid & ~inside).compact()
            if old is not None and len(stale):
                kept = with_rows(old, fresh, kept)
            done.append((fresh, self._of_canvas(states, own, whole[fresh], length)))
        if len(stale):
            assert old is not None
            own = [texts[row] for row in stale]
            states, _ = self._read_parts(own, parts[stale], old.rows(stale) if len(fresh) else old)
            done.append((stale, self._of_canvas(states, own, parts[stale], length)))
        if len(done) == 1:
            return done[0][1], replace(reading, states=kept)
        found = torch.cat([states for _, states in done])
        order = np.argsort(np.concatenate([rows for rows, _ in done]))
        return found[order], replace(reading, states=kept)

    def _texts(self, canvas: Int[Array, "batch block"], cache: KVCache) -> list[Text]:
        """Each row's prefix, canvas up to its end mark, and suffix."""
        texts = []
        for context, own in zip(tokens_of(cache), canvas, strict=True):
            divided = context.index(self.marks.mask)
            prefix = [*self.begin_with, *context[divided + 1 :]]
            middle = own[: int(np.append(own == self.marks.eom, True).argmax())].tolist()
            tokens = [*prefix, *middle, *context[:divided], *self.end_with]
            texts.append(Text(tokens, len(prefix), len(middle)))
        return texts

    def _read_parts(
        self,
        texts: Sequence[Text],
        spans: Int[Array, "batch 2"],
        kept: KVCache | None,
        keep: bool = False,
    ) -> tuple[Float[Tensor, "batch longest width"], KVCache]:
        """States of a part of each text, which sees itself and what is kept of the rest.

        With `keep`, also the keys and values of all.
        """
        rows = [text.tokens[begin:end] for text, (begin, end) in zip(texts, spans, strict=True)]
        ids, valid = padded(rows)
        positions = np.where(valid, spans[:, :1] + np.arange(ids.shape[1]), 0)
        seen = valid if kept is None else np.concatenate((kept.valid, valid), axis=1)
        visible = None
        if not seen.all():
            visible = np.broadcast_to(
                seen[:, None, None], (*ids.shape[:1], 1, *ids.shape[1:], seen.shape[1])
            )
        states, keys, values = self.evaluate(ids, positions, visible, kept, keep)
        return states, KVCache(keys, values, seen, seen.sum(1))

    def _of_canvas(
        self,
        states: Float[Tensor, "batch longest width"],
        texts: Sequence[Text],
        spans: Int[Array, "batch 2"],
        length: int,
    ) -> Float[Tensor, "batch block width"]:
        """The states that predict canvases of this length, of states of parts of texts."""
        shift = int(self.family.shift)
        found = states.new_zeros((len(texts), length, states.shape[2]))
        for row, (text, (begin, end)) in enumerate(zip(texts, spans, strict=True)):
            # The state of a position of the text speaks for the canvas's at this distance.
            to = shift - text.start
            first, last = max(0, begin + to), min(text.length, end + to)
            found[row, first:last] = states[row, first - to - begin : last - to - begin]
            if shift and not text.start and text.length and not begin:
                # As published, a first position that nothing stands before speaks for itself.
                found[row, 0] = states[row, 0]
        return found

    def _denoise_block(
        self, canvas: Int[Array, "batch block"], reading: Reading, known: Int[Array, " batch"]
    ) -> tuple[Float[Tensor, "batch block width"], Reading]:
        """States up to the end of each row's current block, and what was read on the way."""
        block, shift = self.block, self.family.shift
        contexts = tokens_of(reading.cache)
        read, length = reading.read.tolist(), canvas.shape[1]
        every, ends, earlier = [], [], []
        for row, context in enumerate(contexts):
            start = len(context) - read[row]
            place = start + int(known[row])
            end = (place // block + 1) * block
            tokens = [*context, *canvas[row, read[row] :].tolist()]
            eom = np.append(canvas[row] == self.marks.eom, True).argmax()
            tokens[start + int(eom) :] = []
            every.append((tokens + [self.marks.mask] * block)[:end])
            ends.append(place)
            # What predicts the first token of a block stands at the end of the block before it.
            earlier.append(int(shift and place % block == 0 and place > 0))
        before = [len(context) for context in contexts]
        states, cache = self._read(every, reading.cache, before, ends, earlier)
        found = states.new_zeros((len(every), length, states.shape[2]))
        for row, context in enumerate(contexts):
            start = len(context) - read[row]
            first = before[row] // block * block - earlier[row] * (
                before[row] // block * block == ends[row]
            )
            offset = first - start + shift  # the place in the canvas that the first state is of
            own = states[row, max(0, -offset) : len(every[row]) - first]
            to = max(0, offset)
            count = min(len(own), length - to)
            found[row, to : to + count] = own[:count]
        return found, replace(reading, cache=cache, read=known.copy())

    def _read(
        self,
        every: Sequence[Sequence[int]],
        cache: KVCache | None,
        before: Sequence[int],
        ends: Sequence[int],
        earlier: Sequence[int],
    ) -> tuple[Float[Tensor, "batch length width"], KVCache]:
        """Read rows of tokens behind their whole blocks in the cache, block-causally.

        The cache has `before` tokens of each row; reading begins `earlier` tokens before those that
        it has no whole block of, where that is needed. Returns the states of what was read, and the
        cache of the first `ends` tokens.
        """
        block, batch = self.block, len(every)
        starts = []
        for row in range(batch):
            whole = before[row] // block * block
            starts.append(whole - earlier[row] * (whole == ends[row]))
        ids, own = padded([row[start:] for row, start in zip(every, starts, strict=True)])
        begin = np.array(starts)[:, None]
        positions = begin + np.arange(ids.shape[1])
        inside = own[:, None, :] & (
            positions[:, None, :] // block <= positions[:, :, None] // block
        )
        past, old = None, np.zeros((batch, 0), bool)
        if cache is not None and cache.valid.shape[1]:
            place = cache.valid.cumsum(1) - 1
            old = cache.valid & (place < begin)
            past = replace(cache, keys=cache.keys[1:], valid=old)
            if not past.keys:
                past = None
        seen = np.broadcast_to(old[:, None, :], (batch, ids.shape[1], old.shape[1]))
        visible = np.concatenate((seen, inside), axis=2)
        # Padding sees itself: a row that sees nothing is no number.
        each = np.arange(ids.shape[1])
        visible[:, each, old.shape[1] + each] = True
        states, keys, values = self.evaluate(ids, positions, visible[:, None], past, keep=True)
        kept = own & (positions < np.array(ends)[:, None])
        old_ids = np.zeros((batch, 1, 0, 1), np.int64) if cache is None else cache.keys[0]
        tokens = np.concatenate((old_ids, ids[:, None, :, None]), axis=2)
        found = KVCache(
            (tokens, *keys),
            values,
            np.concatenate((old, kept), axis=1),
            np.array(ends, np.int64),
        )
        return states, found.compact()

    @torch.inference_mode()
    def candidates(
        self,
        states: States,
        k: int,
        constraints: Sequence[Constraint] | None = None,
        temperatures: Float[Array, " positions"] | None = None,
    ) -> Candidates:
        """The k likeliest tokens, as `Backbone` has it; and entropies, if its schedule needs them.

        Marks that may never stand keep their part of the probability: published confidences are
        those of the whole vocabulary.
        """
        logits = self.network.logits(states)
        if constraints is not None:
            # An end mark that may not stand is left in until the probabilities are known.
            ends = {self.marks.eom}
            constrain(
                logits,
                [
                    replace(each, forbidden=tuple(set(each.forbidden) - ends))
                    for each in constraints
                ],
            )
        if temperatures is not None:
            logits /= self._tensor(temperatures)[:, None]
        logs = logits.log_softmax(-1)
        entropies = None
        if self.schedule.order == "entropy":
            entropies = -(logs.exp() * logs.clamp_min(LEAST)).sum(-1)
        logs.index_fill_(1, self._tensor(np.array(self.marks.never, np.int64)), -torch.inf)
        if constraints is not None:
            for row, each in zip(logs, constraints, strict=True):
                if self.marks.eom in each.forbidden:
                    row[self.marks.eom] = -torch.inf
        found = logs.topk(min(k, logs.shape[-1]))
        ids, chances = found.indices.cpu().numpy(), self.numbers(found.values.cpu().numpy())
        if entropies is None:
            return Candidates(ids, chances)
        return Spread(ids, chances, self.numbers(entropies.cpu().numpy()))


@dataclass(frozen=True)
class Text:
    """What a network with full attention reads: tokens, and from where on so many are a canvas."""

    tokens: list[int]
    start: int
    length: int


def with_rows(old: KVCache, rows: Int[Array, " rows"], new: KVCache) -> KVCache:
    """A cache with other rows in the place of these."""
    count, more = old.valid.shape[1], new.valid.shape[1]
    length = max(count, more)

    def joined(before: Tensor, after: Tensor) -> Tensor:
        found = before.new_zeros((*before.shape[:2], length, before.shape[3]))
        found[:, :, :count] = before
        found[rows, :, :more] = after
        return found

    valid = np.zeros((len(old.valid), length), bool)
    valid[:, :count] = old.valid
    valid[rows] = False
    valid[rows, :more] = new.valid
    keys, values = (
        tuple(map(joined, *pair)) for pair in ((old.keys, new.keys), (old.values, new.values))
    )
    return KVCache(keys, values, valid, valid.sum(1)).compact()


def tokens_of(cache: KVCache) -> list[list[int]]:
    """The tokens that a cache of a masked diffusion model holds, row by row."""
    ids = cache.keys[0][:, 0, :, 0]
    return [row[valid].tolist() for row, valid in zip(ids, cache.valid, strict=True)]


def kept_tokens(rows: Sequence[Sequence[int]]) -> KVCache:
    """A cache of tokens alone."""
    ids, valid = padded(rows)
    return KVCache((ids[:, None, :, None],), (), valid, valid.sum(1))


def padded(
    rows: Sequence[Sequence[int]],
) -> tuple[Int[Array, "rows length"], Bool[Array, "rows length"]]:
    """Rows of tokens in one array, padded on the right, and where they are."""
    length = max(len(row) for row in rows)
    ids, valid = np.zeros((len(rows), length), np.int64), np.zeros((len(rows), length), bool)
    for place, row in enumerate(rows):
        ids[place, : len(row)], valid[place, : len(row)] = row, True
    return ids, valid


def load(path: Path, device: str) -> tuple[TorchDecoder, Tokenizer, Layout]:
    """Load a folder; its tensors are read one by one."""
    folder = open_folder(path)
    marks = folder.marks()
    layout = layout_of(folder, marks)
    network = read_network(folder, device)
    if folder.family.attention == "causal":
        return CausalBackbone(network, marks), folder.tokenizer, layout
    block = folder.family.block
    if folder.family.block_field is not None:
        block = folder.config.get(folder.family.block_field, block)
        if type(block) is not int or not 0 < block <= folder.shape.positions:
            raise CheckpointError(
                f"{path / 'config.json'}: {folder.family.block_field} is {block!r}; it must be a "
                "number of positions"
            )
    backbone = MaskedBackbone(network, folder.family, marks, block)
    schedule = folder.family.schedule
    # What the authors decode by the network's blocks goes by those of this one.
    usual = folder.family.block
    backbone.schedule = replace(
        schedule,
        block=block if usual and schedule.block == usual else schedule.block,
        lead=block if usual and schedule.lead == usual else schedule.lead,
        expand=folder.tokenizer.special.get(folder.family.expand or ""),
    )
    begin = folder.token("bos") if folder.family.begin else None
    backbone.begin_with = () if begin is None else (begin,)
    backbone.end_with = (marks.eom,) if folder.family.close else ()
    return backbone, folder.tokenizer, layout


def layout_of(folder: Folder, marks: Marks) -> Layout:
    """How prefix and suffix become a context.

    With full attention they are kept apart by a mask, which text never holds, until the canvas
    comes between them. Networks that read in blocks from left to right know no suffix; where their
    vocabulary has the base's sentinels for infilling, it stands first, as with the base.
    """
    tokenizer = folder.tokenizer
    if folder.family.attention == "full":
        return Layout(tokenizer, (), (marks.mask,), stride=4)
    special = tokenizer.special
    if all(name in special for name in SENTINELS):
        before, behind, middle = (special[name] for name in SENTINELS)
        return Layout(tokenizer, (before, behind), (middle,), stride=4)
    raise CheckpointError(
        f"{folder.path}: {folder.family.name} reads from left to right, and its vocabulary has no "
        f"{', '.join(SENTINELS)}, so it cannot be told what follows a hole; give another model"
    )
