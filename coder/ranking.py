"""Which of several middles is the best: the one whose tokens the model finds likeliest."""

from __future__ import annotations

import numpy as np

from talaria.coder.backbone import Constraint, KVCache
from talaria.coder.checkpoint import Checkpoint
from talaria.coder.progress import Progress, rows_of
from talaria.coder.results import Candidate, Infill
from talaria.coder.syntax.judge import Verdict


def score_as_committed(holes: list[Progress]) -> None:
    """Mean log-probability of each middle and its `<eom>` when they were committed.

    It takes no evaluation. A middle has none if nothing in it was chosen, or all was trimmed.
    """
    for hole in holes:
        result = Infill([], hole.nfe, 0.0, 0, 0, Verdict(0, 0), hole.frames)
        for number, middle in enumerate(hole.middles):
            chances = result.probabilities(Candidate("", middle, "length", None, number))
            if chances and (middle or hole.stopped[number] == "eom"):
                logs = np.log(np.maximum(chances, np.finfo(np.float32).tiny))
                hole.scores[number] = float(logs.mean())


def score(model: Checkpoint, holes: list[Progress], cache: KVCache) -> None:
    """Mean log-probability of each middle and its `<eom>`, in one causal pass."""
    rows = rows_of(holes)
    ends = [
        [*hole.middles[n], model.marks.eom] if hole.stopped[n] == "eom" else hole.middles[n]
        for hole, n in rows
    ]
    read = [[hole.context[-1], *end[:-1]] for (hole, _), end in zip(rows, ends, strict=True)]
    states, _ = model.backbone.encode(read, cache.without(np.ones(len(rows), np.int64)))
    for place, ((hole, number), end) in enumerate(zip(rows, ends, strict=True)):
        if end:
            first = Constraint(hole.first)  # the choice was among these
            constraints = [first, *[Constraint()] * (len(end) - 1)]
            logs = model.backbone.log_probabilities(
                states[place, : len(end)], np.array(end), constraints
            )
            hole.scores[number] = float(logs.mean())
    for hole in holes:
        hole.nfe += 1
