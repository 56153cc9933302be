"""All families of exercises and how often each is drawn."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from finetune.exercises import (
    classes,
    dates,
    formats,
    grids,
    groups,
    machines,
    numbers,
    pipelines,
    records,
    scalars,
    scans,
    sorting,
    strings,
)
from finetune.exercises.core import Draft
from finetune.exercises.trial import Exercise

FAMILIES: dict[Callable[[Random], Draft | Exercise], float] = {
    pipelines.pipeline: 150,
    pipelines.every: 40,
    groups.grouping: 45,
    scans.runs: 35,
    scans.pairs: 40,
    scans.windows: 18,
    records.records: 70,
    scalars.classify: 12,
    scalars.tariff: 25,
    scalars.cases: 30,
    scalars.relations: 14,
    scalars.procedure: 22,
    strings.words_changed: 25,
    strings.chars_changed: 22,
    strings.shifts: 8,
    strings.run_lengths: 5,
    strings.two_strings: 3,
    strings.chunks: 10,
    sorting.ordering: 30,
    sorting.dictionaries: 25,
    sorting.two_lists: 12,
    numbers.recurrences: 25,
    numbers.digit_loops: 20,
    numbers.shrinking: 8,
    numbers.natural: 14,
    grids.lines: 18,
    grids.cells: 20,
    grids.rebuilt: 20,
    grids.nested: 22,
    formats.pairs_text: 14,
    formats.units: 5,
    formats.brackets: 6,
    machines.validators: 30,
    machines.number_machine: 14,
    machines.walks: 3,
    machines.postfix: 3,
    machines.states: 8,
    dates.date_lists: 18,
    dates.date_steps: 8,
    classes.make_class: 45,
}
"""The weights follow how many different exercises a family can give."""
