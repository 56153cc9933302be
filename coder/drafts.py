"""What `verify` reads ahead: drafts, by masks and by repetition, and masks for the next draft."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from talaria.coder.backbone import Backbone, Candidates, Constraint, Fork, Marks, States

DRAFTS = 3  # tokens that repetition suggests, at most; docs/decoding.md has figures
LIKELY = 0.2  # least probability that what masks say ahead is all right, to be worth a position
REPEATED = 0.6  # how likely a token is what repetition suggests, if those before it are

Draft = tuple[list[int], list[float]]  # tokens, and how likely each is right with all before it
NONE: Draft = [], []


@dataclass(frozen=True)
class Plan:
    """What an evaluation reads behind the last tokens that are known.

    tokens  a draft, and masks
    length  of the draft
    forks   what masks follow, as `Backbone.encode` has it
    behind  where the masks stand, among all that is read, which follow so much of the draft
    """

    tokens: list[int]
    length: int
    forks: list[Fork]
    behind: dict[int, slice]


def likely(backbone: Backbone, states: States, before: int, least: float = LIKELY) -> Draft:
    """What masks say, [masks, width], as far as it is at least so likely that all of it is right.

    `before` is the token that was chosen before the first of them; nothing follows an `<eom>`.
    """
    draft: list[int] = []
    chances: list[float] = []
    if not len(states):
        return draft, chances
    chance = 1.0
    among = backbone.among if backbone.chained else None
    own = backbone.candidates(states, among or 1)
    for place in range(len(states)):
        best = Candidates(own.ids[place : place + 1], own.log_probabilities[place : place + 1])
        if among:
            linked, _ = backbone.chain(states[None, place : place + 1], np.array([[before]]), ())
            part = np.exp(best.log_probabilities).sum()
            best = backbone.candidates(linked[0], 1, [Constraint(best.ids[0].tolist())])
            chance *= float(part)
        chance *= float(np.exp(best.log_probabilities[0, 0]))
        if chance < least:
            break
        before = int(best.ids[0, 0])
        draft.append(before)
        chances.append(chance)
        if before == backbone.marks.eom:
            break
    return draft, chances


def drafted_on(said: Draft, known: Sequence[int], marks: Marks) -> Draft:
    """What masks said follows the tokens that are known, and behind it what repetition suggests."""
    tokens, chances = said
    if tokens and tokens[-1] == marks.eom:
        return said
    more = lookup([*known, *tokens], marks)
    chance = chances[-1] if chances else 1.0
    return [*tokens, *more], [*chances, *(chance * REPEATED**n for n in range(1, 1 + len(more)))]


def lookup(known: Sequence[int], marks: Marks) -> list[int]:
    """A draft: what followed the previous occurrence of the last two tokens.

    At most DRAFTS tokens, up to a mark; [] if these two have not stood together before.
    """
    for place in range(len(known) - 3, -1, -1):
        if known[place] == known[-2] and known[place + 1] == known[-1]:
            found = known[place + 2 : place + 2 + DRAFTS]
            ends = (number for number, token in enumerate(found) if token in marks.never)
            return list(found[: next(ends, len(found))])
    return []


def stops_of(chances: Sequence[float]) -> list[int]:
    """How much of a draft may be kept, the likeliest first, by the chances of its tokens.

    Of equally likely ones, first the most.
    """
    reached = [1.0, *chances, 0.0]
    stops = [reached[n] - reached[n + 1] for n in range(len(chances) + 1)]
    return sorted(range(len(stops)), key=lambda n: (stops[n], n), reverse=True)


def plan(draft: Draft, unread: int, masks: int, backbone: Backbone) -> Plan:
    """A draft that stands behind `unread` tokens, and masks behind parts of it.

    They follow the parts that are likeliest to be kept: behind one, as many as the model tells
    apart, if it does; behind the next, as many as are left of `masks`. None follow an end.
    """
    tokens, chances = draft
    each = masks if backbone.masks == 1 else backbone.masks
    counts: dict[int, int] = {}
    for stop in stops_of(chances):
        if not stop or tokens[stop - 1] != backbone.marks.eom:
            counts[stop] = min(each, masks - sum(counts.values()))
    begin = unread + len(tokens)
    forks, behind = [], {}
    for stop in sorted(counts, reverse=True):  # of two forks, the first follows more
        if counts[stop]:
            forks.append((begin, unread + stop))
            behind[stop] = slice(begin, begin + counts[stop])
            begin += counts[stop]
    blanks = [backbone.marks.mask] * (begin - unread - len(tokens))
    return Plan([*tokens, *blanks], len(tokens), forks, behind)


def agreement(drafts: Sequence[int], written: Sequence[int]) -> int:
    """How many leading tokens of a draft the model would have written itself.

    `written` is what it predicts at the place of each drafted token and after the last.
    """
    pairs = zip(drafts, written[:-1], strict=False)
    return next(
        (number for number, (a, b) in enumerate(pairs) if a != b),
        min(len(drafts), len(written) - 1),
    )
