"""Batches made ahead of their step, by processes of their own where there are some."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator

import numpy as np
from torch.utils.data import DataLoader, Dataset

from talaria.coder.tokenizer import Tokenizer
from talaria.finetune.objective import Batch, make_batch
from talaria.finetune.recipe import Recipe
from talaria.finetune.samples import Samples


class WorkerLostError(Exception):
    """A process that makes batches was killed, as by a kernel that needs its memory."""


class Batches(Dataset[Batch]):
    """The batch of a step, as a function of its number and the length of its canvases.

    With several processes that train, each makes its own share of the rows.
    """

    def __init__(
        self, samples: Samples, tokenizer: Tokenizer, recipe: Recipe, rank: int, world: int
    ) -> None:
        self.samples, self.tokenizer, self.recipe = samples, tokenizer, recipe
        self.rank, self.world = rank, world

    def __getitem__(self, index: tuple[int, int]) -> Batch:
        number, canvas_length = index
        recipe = self.recipe
        first = number * recipe.rows
        return make_batch(
            [self.samples[i] for i in range(first + self.rank, first + recipe.rows, self.world)],
            self.tokenizer,
            recipe.context_length,
            max(1, canvas_length),
            recipe.canvas_tokens if canvas_length else 0,
            np.random.default_rng((recipe.seed, 2, number, self.rank)),
            middle_weight=recipe.middle_weight,
            suffix_share=recipe.suffix_share if recipe.chain_layers else 0.0,
            end_share=recipe.end_share,
        )


def feed(
    batches: Batches, indices: Iterable[tuple[int, int]], workers: int, pinned: bool
) -> Iterator[Batch]:
    """The batches of these indices, in order; `pinned` in memory that a GPU copies from.

    WorkerLostError if one of the `workers` was killed, and only when a batch is asked for.
    """
    deaths = getattr(signal, "SIGCHLD", None) if workers else None  # none on Windows
    former = deaths and signal.getsignal(deaths)
    made = iter(
        DataLoader(
            batches,
            batch_size=None,
            sampler=indices,
            num_workers=workers,
            worker_init_fn=ignore_signals if workers else None,
            pin_memory=pinned,
        )
    )
    if deaths:
        # torch would raise at once when a worker dies, also in the midst of an update;
        # waiting for a batch notices it too, and no step is torn.
        signal.signal(deaths, former)
    try:
        yield from made
    except (EOFError, OSError, RuntimeError) as error:
        # torch says it in many ways: what breaks first is what was shared with the worker.
        gone = not isinstance(error, RuntimeError) or "exited unexpectedly" in str(error)
        if workers and gone:
            raise WorkerLostError(f"{type(error).__name__} {error}".strip()) from error
        raise


def ignore_signals(worker: int) -> None:
    """Ctrl-C and SIGTERM are for the process that trains; it ends its workers."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
