"""Optimiser steps, their safeguards, and saving and restoring the state of training."""

from __future__ import annotations

import math
import os
import statistics
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from talaria.coder.errors import DataError, UsageError
from talaria.coder.families.talaria import TalariaTokenizer
from talaria.coder.families.talaria_torch import Transformer
from talaria.finetune.batch import TrainingBatch
from talaria.finetune.feed import BatchDataset, feed
from talaria.finetune.joint import block_mask, masks_agree
from talaria.finetune.objective import Objective
from talaria.finetune.optimizers import make_optimizers
from talaria.finetune.recipe import Recipe
from talaria.finetune.samples import Samples
from talaria.finetune.shards import gathered, shard, sharded_like
from talaria.finetune.state import check_identity, read_state, write_state
from talaria.finetune.throughput import has_fast_bfloat16, matrix_peak, step_flops

COUNTERS = ("step", "elapsed", "tokens", "averaged", "validated")  # attributes kept in the state
HISTORY = 64  # number of losses that the next one is compared with
# A loss this far above the mean of the history is a spike: nats or standard deviations, whichever
# is more.
SPIKE = (0.5, 8)
# For bound plus chain. The weights 1/t make the bound jump now and then without a fault: by 2.3
# nats and nine deviations once in 5,165 steps with canvases. Skipping such steps would bias it.
BOUND_SPIKE = (4.0, 16)
PATIENCE = 5  # skipped updates in a row before the last good state is restored
ATTEMPTS = 3  # restores without a new state in between before the run fails


def has_sparse_masks(device: torch.device) -> bool:
    """Whether FlexAttention can train on this device; its backward pass does not support CPUs."""
    return device.type == "cuda"


def is_spike(losses: Sequence[float], loss: float, limit: tuple[float, float]) -> bool:
    """Whether a loss is far above those before it, or not finite.

    Finite losses are judged only against HISTORY earlier ones; `limit` is as in SPIKE.
    """
    if not math.isfinite(loss):
        return True
    if len(losses) < HISTORY:
        return False
    nats, deviations = limit
    return loss > statistics.fmean(losses) + max(nats, deviations * statistics.stdev(losses))


class Trainer:
    """The model, its optimisers and the budget spent so far.

    An update is skipped if its losses or gradient are not finite or a loss spikes. After
    PATIENCE skipped updates in a row, the last good state is restored and training continues
    with later samples. A micro-batch that does not fit into memory is halved, which leaves the
    gradient of the step the same.
    """

    def __init__(
        self,
        recipe: Recipe,
        denoiser: Transformer,
        tokenizer: TalariaTokenizer,
        samples: Samples,
        *,
        micro_batch: int,
        workers: int = 0,
        compiled: bool = False,
        dense_masks: bool = False,
    ) -> None:
        """Masks are block-sparse if the device supports them, unless `dense_masks`."""
        from accelerate import Accelerator, InitProcessGroupKwargs

        self.recipe, self.denoiser, self.tokenizer = recipe, denoiser, tokenizer
        self.micro_batch, self.requested_micro_batch = micro_batch, micro_batch
        self.workers = workers
        # Other processes wait while the first one validates.
        timeout = InitProcessGroupKwargs(timeout=timedelta(hours=4))
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.dtype = torch.bfloat16 if has_fast_bfloat16(device) else torch.float32
        self.accelerator = Accelerator(
            mixed_precision="bf16" if self.dtype == torch.bfloat16 else "no",
            kwargs_handlers=[timeout],
        )
        self.device: torch.device = self.accelerator.device
        self.world: int = self.accelerator.num_processes
        distribution = self.accelerator.distributed_type.value
        if distribution not in ("NO", "MULTI_GPU", "MULTI_CPU", "FSDP"):
            raise UsageError(
                f"accelerate is configured for {distribution}; only data parallelism with whole "
                "(MULTI_GPU) or sharded weights (FSDP) is supported"
            )
        # Set by `accelerate launch --use_fsdp`; accelerate itself ignores it on CPUs.
        self.sharded = self.world > 1 and os.environ.get("ACCELERATE_USE_FSDP", "") == "true"
        if (launched := os.environ.get("WORLD_SIZE", "1")) != str(self.world):
            raise UsageError(
                f"WORLD_SIZE is {launched}, but accelerate found devices for {self.world}; each "
                "process would train alone and write to the same folder: start one process, or set "
                "ACCELERATE_USE_CPU=true to use several on CPUs"
            )
        self.sparse_masks = has_sparse_masks(self.device) and not dense_masks
        self.masks_checked = False
        if recipe.rows % self.world:
            raise UsageError(
                f"--rows is {recipe.rows}; it must be a multiple of the number of processes, "
                f"{self.world}"
            )
        denoiser.to(self.device)
        self.compiled = compiled
        chain_alone = bool(recipe.chain_alone)
        self.objective: Any = Objective(denoiser, tokenizer.mask, chain_alone=chain_alone)
        if compiled:
            self.objective.compile()
        if self.sharded:
            shard(self.objective, self.device, self.world)
        else:
            self.objective = self.accelerator.prepare(self.objective)
        self.optimizers = make_optimizers(denoiser, recipe)
        rank = self.accelerator.process_index
        self.dataset = BatchDataset(samples, tokenizer, recipe, rank, self.world)
        self.step, self.elapsed, self.tokens = 0, 0.0, 0
        self.averaged = 0  # steps in the weight average
        self.validated = 0.0  # `elapsed` at the last validation
        self.average: dict[str, Tensor] = {}
        self.losses: deque[float] = deque(maxlen=HISTORY)  # next-token losses
        self.bounds: deque[float] = deque(maxlen=HISTORY)  # bound + chain of steps with canvases
        self.skipped = 0  # updates skipped in a row
        self.attempts = 0  # restores since the last saved state
        self.updated = True  # since the last restore
        self.events: list[tuple[str, str]] = []  # (event, reason) for the metrics

    def batches(self, canvas_lengths: Iterable[int]) -> Iterator[TrainingBatch]:
        """Yield the batches from the current step on, prepared ahead by worker processes."""
        indices = zip(count(self.step), canvas_lengths, strict=False)
        return feed(self.dataset, indices, self.workers, self.device.type == "cuda")

    def any_process(self, *flags: bool) -> list[bool]:
        """Whether each flag is set in any process; also sets `elapsed` to the main process's.

        Decisions that depend on time must be the same in all processes, or weights diverge.
        """
        if self.world == 1:
            return list(flags)
        elapsed = self.elapsed if self.accelerator.is_main_process else 0.0
        local = torch.tensor([elapsed, *flags], dtype=torch.float64, device=self.device)
        self.elapsed, *sums = self.accelerator.reduce(local, "sum").tolist()
        return [number > 0 for number in sums]

    def shut_down(self) -> None:
        """Wait until all processes are done, so that none exits while another still writes."""
        if self.world > 1:
            self.accelerator.wait_for_everyone()
            self.accelerator.end_training()

    def train_step(self, batches: Iterator[TrainingBatch], progress: float) -> dict[str, float]:
        """Take one optimiser step on the next batch and return its metrics.

        `progress` is the fraction of the budget spent. Faults are appended to `events`.
        """
        began = time.monotonic()
        batch = next(batches)
        recipe, rate = self.recipe, self.recipe.rate(progress)
        if self.sparse_masks and not self.masks_checked and batch.canvas.shape[1]:
            self.check_masks(batch)
        losses = self.gradient(batch)
        norm = gathered(nn.utils.clip_grad_norm_(self.denoiser.parameters(), 1.0))
        # The only synchronisation with the device: decide whether to use this gradient.
        values = torch.cat((losses, norm.reshape(1).float())).tolist()
        next_token, bound, chain, gradient_norm = values
        canvases = bound + chain
        if (
            is_spike(self.losses, next_token, SPIKE)
            or is_spike(self.bounds, canvases, BOUND_SPIKE)
            or not math.isfinite(gradient_norm)
        ):
            self.skipped += 1
            why = f"next token {next_token:.4g}, bound {bound:.4g}, chain {chain:.4g}"
            self.events.append(("skipped", f"{why}, gradient norm {gradient_norm:.4g}"))
        else:
            self.skipped, self.updated = 0, True
            self.losses.append(next_token)
            if canvases:
                self.bounds.append(canvases)
            for optimizer in self.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = group["peak"] * rate
                optimizer.step()
            if progress >= recipe.average_from:
                self.update_average()
        self.clear_gradients()
        seconds = time.monotonic() - began
        tokens = recipe.rows * recipe.context_length
        self.step += 1
        self.elapsed += seconds
        self.tokens += tokens
        size = recipe.rows, batch.canvas.shape[1]
        flops = step_flops(self.denoiser.config, *size, bool(recipe.chain_alone))
        return {
            "tokens": self.tokens,
            "tokens_per_s": round(tokens / seconds),
            "peak_share": round(
                flops / seconds / self.world / matrix_peak(self.device, self.dtype), 4
            ),
            "canvas_length": int((batch.block[:1] == 0).sum()),
            "rate": round(rate, 4),
            "gradient_norm": round(gradient_norm, 4),
            "next_token_loss": round(next_token, 4),
            "bound": round(bound, 4),
            "chain": round(chain, 4),
        }

    def gradient(self, batch: TrainingBatch) -> Tensor:
        """Compute the gradient of a batch and return its losses, averaged over all processes.

        If a micro-batch does not fit into the memory of any process, all halve theirs and try
        again; DataError if it has one row already, or if the weights are sharded.
        """
        while True:
            out_of_memory, losses = False, torch.zeros(3, device=self.device)
            try:
                losses = self.accumulate(batch)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                out_of_memory = True
            # Not within `except`: the exception keeps the memory of the failed pass alive.
            if self.sharded and out_of_memory:  # the other processes are waiting within the pass
                raise DataError(
                    f"a micro-batch of {self.micro_batch} rows does not fit into the memory of "
                    f"{self.device}, and cannot be halved with sharded weights; resume with "
                    f"--resume and --micro-batch below {self.micro_batch}"
                )
            if not self.sharded:
                (out_of_memory,) = self.any_process(out_of_memory)
            if not out_of_memory:
                return self.average_over_processes(losses)
            self.clear_gradients()
            if self.micro_batch == 1:
                raise DataError(
                    f"not even one row of {self.recipe.context_length} tokens and "
                    f"{self.recipe.canvas_tokens} of canvases fits into the memory of "
                    f"{self.device}; start over with a smaller --context-length, "
                    "--canvas-tokens or --width"
                )
            torch.cuda.empty_cache()
            self.micro_batch //= 2
            self.events.append(("out of memory", f"micro-batch now {self.micro_batch} rows"))

    def average_over_processes(self, losses: Tensor) -> Tensor:
        """Average the gradients over all processes in place, and return the mean losses."""
        if self.world == 1:
            return losses
        if not self.sharded:  # sharded backward passes do this themselves
            for parameter in self.denoiser.parameters():
                if parameter.grad is not None:
                    torch.distributed.all_reduce(parameter.grad)
                    parameter.grad /= self.world
        mean: Tensor = self.accelerator.reduce(losses, "mean")
        return mean

    def accumulate(self, batch: TrainingBatch) -> Tensor:
        """Accumulate the gradients of this process's micro-batches and return its losses."""
        losses = torch.zeros(3, device=self.device)
        weights = losses.new_tensor((1, self.recipe.bound_weight, self.recipe.chain_weight))
        rows = len(batch.context)
        for first in range(0, rows, self.micro_batch):
            part = batch.rows(first, first + self.micro_batch).to(self.device)
            # Defer communication: sharded gradients are reduced with the last micro-batch, whole
            # ones only after every process has finished within its memory.
            if self.sharded:
                last = first + self.micro_batch >= rows
                self.objective.set_requires_gradient_sync(last)
            with nullcontext() if self.sharded else self.accelerator.no_sync(self.objective):
                mask = None
                if self.sparse_masks:
                    mask = block_mask(part.context.shape[1], part.block, part.start)
                with self.accelerator.autocast():
                    parts = self.objective(part, mask)
                self.accelerator.backward(parts @ weights)
            losses += parts.detach().float()
        return losses

    def check_masks(self, batch: TrainingBatch) -> None:
        """Fall back to dense masks if block-sparse attention is wrong on this device."""
        self.masks_checked = True
        part = batch.rows(0, self.micro_batch).to(self.device)
        length = part.context.shape[1]
        if not masks_agree(
            self.denoiser, length, part.block, part.start, self.compiled, gradients=True
        ):
            self.sparse_masks = False
            self.events.append(("dense masks", "block-sparse attention gave another result"))

    def clear_gradients(self) -> None:
        """Free all gradients."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def update_average(self) -> None:
        """Add the current weights to the average."""
        self.averaged += 1
        for name, weight in self.denoiser.state_dict().items():
            if self.averaged == 1:
                self.average[name] = weight.clone()
            else:
                self.average[name].lerp_(weight, 1 / self.averaged)

    def model(self, weights: Mapping[str, Tensor] | None = None) -> Transformer:
        """The denoiser with whole weights, for validation and checkpoints.

        `weights` replaces its own, for example by the average. Every process must call this.
        """
        if weights is None and not self.sharded:
            return self.denoiser
        with torch.device("meta"):
            denoiser = Transformer(self.denoiser.config)
        chosen = self.denoiser.state_dict() if weights is None else weights
        denoiser.load_state_dict(gathered(chosen), assign=True)
        return denoiser

    def save(self, path: Path, identity: dict[str, Any]) -> None:
        """Write the state, unless the last update was skipped: the file is the last good state."""
        if self.skipped or not self.updated:
            return
        self.attempts = 0
        if self.sharded or self.accelerator.is_main_process:
            state = {
                "identity": identity,
                "denoiser": self.denoiser.state_dict(),
                "optimizers": [o.state_dict() for o in self.optimizers],
                "average": self.average,
                "losses": list(self.losses),
                "bounds": list(self.bounds),
                "counters": {name: getattr(self, name) for name in COUNTERS},
                "micro_batch": (self.requested_micro_batch, self.micro_batch),
            }
            state = gathered(state)
            if self.accelerator.is_main_process:
                write_state(path, state)

    def restore(self, path: Path, identity: dict[str, Any]) -> None:
        """Load a state; DataError unless a run of the same identity saved it."""
        state = read_state(path)
        check_identity(path, state["identity"], identity)
        self.load_state(state)
        for name in COUNTERS:
            setattr(self, name, state["counters"][name])
        requested, fitting = state["micro_batch"]
        if requested == self.requested_micro_batch:  # a new value overrides the one that fitted
            self.micro_batch = fitting

    def restore_last_good(self, path: Path) -> None:
        """Restore the weights of the last good state, but not its time and position in the data.

        DataError after ATTEMPTS restores without a new state.
        """
        self.attempts += 1
        if self.attempts > ATTEMPTS:
            raise DataError(
                f"training diverged again after {ATTEMPTS} restores of {path} (step {self.step}); "
                f"start over in another --out with a --learning-rate below "
                f"{self.recipe.learning_rate}"
            )
        state = read_state(path)
        self.load_state(state)
        self.averaged = state["counters"]["averaged"]
        self.skipped, self.updated = 0, False
        self.events.append(("restored", f"the state of step {state['counters']['step']}"))

    def load_state(self, state: dict[str, Any]) -> None:
        """Load weights, average, optimisers and loss history from a state."""
        current = self.denoiser.state_dict()
        weights, average = (
            {name: sharded_like(tensor, current[name]) for name, tensor in state[which].items()}
            for which in ("denoiser", "average")
        )
        self.denoiser.load_state_dict(weights)
        self.average = {name: tensor.to(self.device) for name, tensor in average.items()}
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            for number, values in saved["state"].items():
                for name, tensor in values.items():
                    values[name] = sharded_like(tensor, parameters[number])
            optimizer.load_state_dict(saved)
        self.losses = deque(state["losses"], maxlen=HISTORY)
        self.bounds = deque(state.get("bounds", ()), maxlen=HISTORY)  # absent in older states


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether the device or the host ran out of memory."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def is_device_lost(error: RuntimeError) -> bool:
    """Whether a device or the communication between processes failed."""
    known = (torch.AcceleratorError, torch.distributed.DistError)
    words = ("CUDA", "cuDNN", "NCCL", "gloo")
    return isinstance(error, known) or any(word in str(error) for word in words)
