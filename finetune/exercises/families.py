"""All families of exercises and how often each is drawn."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from talaria.finetune.exercises import (
    algorithms,
    callers,
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
from talaria.finetune.exercises.core import Draft
from talaria.finetune.exercises.trial import Exercise

FAMILIES: dict[Callable[[Random], Draft | Exercise], float] = {
    pipelines.pipeline: 150,
    pipelines.every: 32,
    groups.grouping: 45,
    scans.runs: 30,
    scans.pairs: 40,
    scans.windows: 18,
    records.records: 70,
    scalars.classify: 5,
    scalars.tariff: 18,
    scalars.cases: 30,
    scalars.relations: 14,
    scalars.procedure: 22,
    strings.words_changed: 25,
    strings.chars_changed: 22,
    strings.shifts: 4,
    strings.run_lengths: 3,
    strings.two_strings: 3,
    strings.chunks: 10,
    sorting.ordering: 30,
    sorting.dictionaries: 25,
    sorting.two_lists: 12,
    numbers.recurrences: 15,
    numbers.digit_loops: 20,
    numbers.shrinking: 8,
    numbers.natural: 14,
    grids.lines: 18,
    grids.cells: 20,
    grids.rebuilt: 20,
    grids.nested: 18,
    formats.pairs_text: 10,
    formats.units: 3,
    formats.brackets: 4,
    machines.validators: 30,
    machines.number_machine: 9,
    machines.walks: 3,
    machines.postfix: 3,
    machines.states: 5,
    dates.date_lists: 18,
    dates.date_steps: 8,
    classes.make_class: 45,
    algorithms.prefixes: 22,
    algorithms.halving: 5,
    algorithms.sorts: 5,
    algorithms.choosing: 10,
    algorithms.tables: 4,
    callers.callers: 60,
}
"""The weights follow how many different exercises a family can give."""
