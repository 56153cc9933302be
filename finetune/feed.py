"""Prepare batches ahead of their step, in worker processes if there are any."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator

import numpy as np
from torch.utils.data import DataLoader, Dataset

from talaria.coder.families.talaria import TalariaTokenizer
from talaria.finetune.batch import TrainingBatch, make_batch
from talaria.finetune.recipe import Recipe
from talaria.finetune.samples import Samples


class WorkerLostError(Exception):
    """A worker process was killed, for example by the kernel when memory ran out."""


class BatchDataset(Dataset[TrainingBatch]):
    """A map from (step, canvas length) to the step's batch.

    With several training processes, each makes its share of the rows.
    """

    def __init__(
        self, samples: Samples, tokenizer: TalariaTokenizer, recipe: Recipe, rank: int, world: int
    ) -> None:
        self.samples, self.tokenizer, self.recipe = samples, tokenizer, recipe
        self.rank, self.world = rank, world

    def __getitem__(self, index: tuple[int, int]) -> TrainingBatch:
        step, canvas_length = index
        recipe = self.recipe
        first = step * recipe.rows
        return make_batch(
            [self.samples[i] for i in range(first + self.rank, first + recipe.rows, self.world)],
            self.tokenizer,
            recipe.context_length,
            max(1, canvas_length),
            recipe.canvas_tokens if canvas_length else 0,
            np.random.default_rng((recipe.seed, 2, step, self.rank)),
            middle_weight=recipe.middle_weight,
            suffix_share=recipe.suffix_share if recipe.chain_layers else 0.0,
            end_share=recipe.end_share,
        )


def feed(
    dataset: BatchDataset, indices: Iterable[tuple[int, int]], workers: int, pinned: bool
) -> Iterator[TrainingBatch]:
    """Yield the batches of these indices in order; `pinned` puts them in page-locked memory.

    Raises WorkerLostError if a worker was killed, but only when a batch is requested.
    """
    child_signal = getattr(signal, "SIGCHLD", None) if workers else None  # absent on Windows
    handler = child_signal and signal.getsignal(child_signal)
    batches = iter(
        DataLoader(
            dataset,
            batch_size=None,
            sampler=indices,
            num_workers=workers,
            worker_init_fn=ignore_signals if workers else None,
            pin_memory=pinned,
        )
    )
    if child_signal:
        # torch's handler would raise as soon as a worker dies, even in the middle of an update.
        # Without it the next request for a batch fails instead, and every step is complete.
        signal.signal(child_signal, handler)
    try:
        yield from batches
    except (EOFError, OSError, RuntimeError) as error:
        # The error depends on which shared resource fails first.
        lost = not isinstance(error, RuntimeError) or "exited unexpectedly" in str(error)
        if workers and lost:
            raise WorkerLostError(f"{type(error).__name__} {error}".strip()) from error
        raise


def ignore_signals(worker: int) -> None:
    """Leave Ctrl-C and SIGTERM to the training process, which ends its workers."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
