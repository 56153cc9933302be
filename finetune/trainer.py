"""A run in progress: steps, what guards them, and its state on disk."""

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
from talaria.coder.tokenizer import Tokenizer
from talaria.coder.transformer import Transformer
from talaria.finetune.feed import Batches, feed
from talaria.finetune.joint import block_mask, masks_agree
from talaria.finetune.objective import Batch, Objective
from talaria.finetune.recipe import Recipe, make_optimizers
from talaria.finetune.samples import Samples
from talaria.finetune.shards import placed, share_out, whole
from talaria.finetune.state import check_identity, read_state, write_state
from talaria.finetune.throughput import matrix_peak, step_flops

COUNTERS = ("step", "elapsed", "tokens", "averaged", "validated")  # what has been spent
REMEMBERED = 64  # losses that the next one is compared with
# How far above them a jump is: nats and standard deviations, whichever is more.
SPIKE = (0.5, 8)
# Of the bound, whose weights 1/t make it jump now and then with nothing wrong: by 2.3 nats and
# nine deviations once in 5,165 steps of canvases. To leave such steps out would bias it. The
# chain's loss, weighed alike, is judged with it.
BOUND_SPIKE = (4.0, 16)
PATIENCE = 5  # updates given up in a row before the last good state is taken up again
ATTEMPTS = 3  # times that this may happen without a new state in between


def has_sparse_masks(device: torch.device) -> bool:
    """Whether FlexAttention can train there: not on a CPU, which lacks its backward pass."""
    return device.type == "cuda"


def is_spike(losses: Sequence[float], loss: float, limit: tuple[float, float]) -> bool:
    """Whether a loss is far above those before it, or no number at all.

    Judged once REMEMBERED are known; `limit` as in SPIKE.
    """
    if not math.isfinite(loss):
        return True
    if len(losses) < REMEMBERED:
        return False
    nats, deviations = limit
    return loss > statistics.fmean(losses) + max(nats, deviations * statistics.stdev(losses))


class Trainer:
    """The model, its optimisers and what has been spent so far.

    An update whose losses or gradient are no number, or one of whose losses jumps, is given
    up; after PATIENCE of them in a row the last good state comes back, and the
    run goes on with later samples. A micro-batch that does not fit the memory is
    halved; the gradient of a step stays the same.
    """

    def __init__(
        self,
        recipe: Recipe,
        denoiser: Transformer,
        tokenizer: Tokenizer,
        samples: Samples,
        *,
        micro_batch: int,
        workers: int = 0,
        compiled: bool = False,
        dense_masks: bool = False,
    ) -> None:
        """Masks are block-sparse where the device has them, unless `dense_masks`."""
        from accelerate import Accelerator, InitProcessGroupKwargs

        self.recipe, self.denoiser, self.tokenizer = recipe, denoiser, tokenizer
        self.micro_batch, self.asked, self.workers = micro_batch, micro_batch, workers
        # The others wait as long as the first process takes to validate.
        waiting = InitProcessGroupKwargs(timeout=timedelta(hours=4))
        self.accelerator = Accelerator(mixed_precision="bf16", kwargs_handlers=[waiting])
        self.device: torch.device = self.accelerator.device
        self.world: int = self.accelerator.num_processes
        way = self.accelerator.distributed_type.value
        if way not in ("NO", "MULTI_GPU", "MULTI_CPU", "FSDP"):
            raise UsageError(
                f"accelerate was told to train by {way}; only processes with all weights "
                "(MULTI_GPU) or with a share of them (FSDP) are supported"
            )
        # As `accelerate launch --use_fsdp` says it, which accelerate itself does not do on CPUs.
        self.sharded = self.world > 1 and os.environ.get("ACCELERATE_USE_FSDP", "") == "true"
        if (started := os.environ.get("WORLD_SIZE", "1")) != str(self.world):
            raise UsageError(
                f"WORLD_SIZE is {started}, but accelerate found a device for {self.world} process "
                "only; each would train alone into the same folder: start one process, or set "
                "ACCELERATE_USE_CPU=true to train in several on CPUs"
            )
        self.sparse_masks = has_sparse_masks(self.device) and not dense_masks
        self.checked = False  # whether sparse masks were seen to say what dense ones say
        if recipe.rows % self.world:
            raise UsageError(
                f"--rows is {recipe.rows}; it must be a multiple of the {self.world} processes"
            )
        denoiser.to(self.device)
        self.compiled = compiled
        alone = bool(recipe.chain_alone)
        self.objective: Any = Objective(denoiser, tokenizer.mask, chain_alone=alone)
        if compiled:
            self.objective.compile()
        if self.sharded:
            share_out(self.objective, self.device, self.world)
        else:
            self.objective = self.accelerator.prepare(self.objective)
        self.optimizers = make_optimizers(denoiser, recipe)
        rank = self.accelerator.process_index
        self.data = Batches(samples, tokenizer, recipe, rank, self.world)
        self.step, self.elapsed, self.tokens = 0, 0.0, 0
        self.averaged = 0  # steps in the average
        self.validated = 0.0  # `elapsed` at the last validation
        self.average: dict[str, Tensor] = {}
        self.losses: deque[float] = deque(maxlen=REMEMBERED)  # of the next token
        # Of steps with canvases: bound and chain's loss together.
        self.bounds: deque[float] = deque(maxlen=REMEMBERED)
        self.given_up = self.attempts = 0
        self.moved = True  # since the last good state came back
        self.events: list[tuple[str, str]] = []  # what went wrong and why, for the metrics

    def batches(self, canvas_lengths: Iterable[int]) -> Iterator[Batch]:
        """The batches from the present step on, made ahead by worker processes."""
        indices = zip(count(self.step), canvas_lengths, strict=False)
        return feed(self.data, indices, self.workers, self.device.type == "cuda")

    def agree(self, *wishes: bool) -> list[bool]:
        """Of each wish whether any process has it; `elapsed` is then the first one's in all.

        Whatever depends on time must come out the same everywhere, or the weights drift apart.
        """
        if self.world == 1:
            return list(wishes)
        elapsed = self.elapsed if self.accelerator.is_main_process else 0.0
        mine = torch.tensor([elapsed, *wishes], dtype=torch.float64, device=self.device)
        self.elapsed, *sums = self.accelerator.reduce(mine, "sum").tolist()
        return [number > 0 for number in sums]

    def leave(self) -> None:
        """Wait for the other processes, so that none is missed while another still writes."""
        if self.world > 1:
            self.accelerator.wait_for_everyone()
            self.accelerator.end_training()

    def train_step(self, batches: Iterator[Batch], progress: float) -> dict[str, float]:
        """One optimiser step on the next batch; `progress` is the share of the budget spent.

        Returns what the metrics say of it; `events` tells what went wrong.
        """
        began = time.monotonic()
        batch = next(batches)
        recipe, rate = self.recipe, self.recipe.rate(progress)
        if self.sparse_masks and not self.checked and batch.canvas.shape[1]:
            self.check_masks(batch)
        losses = self.gradient(batch)
        norm = whole(nn.utils.clip_grad_norm_(self.denoiser.parameters(), 1.0))
        # One wait for the device: whether this gradient is to be used is decided here.
        next_token, bound, chain, height = torch.cat((losses, norm.reshape(1).float())).tolist()
        canvases = bound + chain
        jumps = is_spike(self.losses, next_token, SPIKE)
        if jumps or is_spike(self.bounds, canvases, BOUND_SPIKE) or not math.isfinite(height):
            self.given_up += 1
            why = f"next token {next_token:.4g}, bound {bound:.4g}, chain {chain:.4g}"
            self.events.append(("skipped", f"{why}, gradient norm {height:.4g}"))
        else:
            self.given_up, self.moved = 0, True
            self.losses.append(next_token)
            if canvases:
                self.bounds.append(canvases)
            for optimizer in self.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = group["peak"] * rate
                optimizer.step()
            if progress >= recipe.average_from:
                self.take_average()
        self.forget_gradient()
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
            "peak_share": round(flops / seconds / self.world / matrix_peak(self.device), 4),
            "canvas_length": int((batch.block[:1] == 0).sum()),
            "rate": round(rate, 4),
            "gradient_norm": round(height, 4),
            "next_token_loss": round(next_token, 4),
            "bound": round(bound, 4),
            "chain": round(chain, 4),
        }

    def gradient(self, batch: Batch) -> Tensor:
        """Leave the gradient of a batch at the weights; its losses, over all processes.

        If a micro-batch does not fit the memory of any of them, all halve theirs and try
        again; DataError if it is of one row, or if the weights are shared out.
        """
        while True:
            full, losses = False, torch.zeros(3, device=self.device)
            try:
                losses = self.accumulate(batch)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                full = True
            # Not within `except`: the error holds on to the memory of what failed.
            # With shared weights the others wait for this process in the midst of a pass.
            if self.sharded and full:
                raise DataError(
                    f"a micro-batch of {self.micro_batch} rows does not fit the memory of "
                    f"{self.device}, and processes that share weights cannot halve it; go on "
                    f"with --resume and --micro-batch below {self.micro_batch}"
                )
            if not self.sharded:
                (full,) = self.agree(full)
            if not full:
                return self.over_all(losses)
            self.forget_gradient()
            if self.micro_batch == 1:
                raise DataError(
                    f"not even one row of {self.recipe.context_length} tokens and "
                    f"{self.recipe.canvas_tokens} of canvases fits the memory of {self.device}; "
                    "start anew with a smaller --context-length, --canvas-tokens or --width"
                )
            torch.cuda.empty_cache()
            self.micro_batch //= 2
            self.events.append(("out of memory", f"micro-batch now {self.micro_batch} rows"))

    def over_all(self, losses: Tensor) -> Tensor:
        """Make each gradient the mean over all processes, and return the mean of their losses."""
        if self.world == 1:
            return losses
        if not self.sharded:  # else each pass has done it
            for parameter in self.denoiser.parameters():
                if parameter.grad is not None:
                    torch.distributed.all_reduce(parameter.grad)
                    parameter.grad /= self.world
        mean: Tensor = self.accelerator.reduce(losses, "mean")
        return mean

    def accumulate(self, batch: Batch) -> Tensor:
        """Add up the gradients of the micro-batches of this process; its losses."""
        losses = torch.zeros(3, device=self.device)
        weights = losses.new_tensor((1, self.recipe.bound_weight, self.recipe.chain_weight))
        rows = len(batch.context)
        for first in range(0, rows, self.micro_batch):
            part = batch.rows(first, first + self.micro_batch).to(self.device)
            # Processes need to agree on a gradient only when it is whole, and where each has
            # all weights only when it fitted the memory of all: until then none waits.
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

    def check_masks(self, batch: Batch) -> None:
        """Go over to dense masks if block-sparse ones do not say the same on this device."""
        self.checked = True
        part = batch.rows(0, self.micro_batch).to(self.device)
        length = part.context.shape[1]
        if not masks_agree(
            self.denoiser, length, part.block, part.start, self.compiled, gradients=True
        ):
            self.sparse_masks = False
            self.events.append(("dense masks", "block-sparse attention gave another result"))

    def forget_gradient(self) -> None:
        """Let go of all gradients and their memory."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def take_average(self) -> None:
        """Take the present weights into the average."""
        self.averaged += 1
        for name, weight in self.denoiser.state_dict().items():
            if self.averaged == 1:
                self.average[name] = weight.clone()
            else:
                self.average[name].lerp_(weight, 1 / self.averaged)

    def model(self, weights: Mapping[str, Tensor] | None = None) -> Transformer:
        """The denoiser with all its weights, or with others, such as the average.

        To be measured or written; all processes must ask for it.
        """
        if weights is None and not self.sharded:
            return self.denoiser
        with torch.device("meta"):
            denoiser = Transformer(self.denoiser.config)
        chosen = self.denoiser.state_dict() if weights is None else weights
        denoiser.load_state_dict(whole(chosen), assign=True)
        return denoiser

    def save(self, path: Path, identity: dict[str, Any]) -> None:
        """Write all state; not while updates are given up: the file holds the last good state."""
        if self.given_up or not self.moved:
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
                "micro_batch": (self.asked, self.micro_batch),
            }
            state = whole(state)
            if self.accelerator.is_main_process:
                write_state(path, state)

    def restore(self, path: Path, identity: dict[str, Any]) -> None:
        """Take up the state in the file, made by a run of the same identity."""
        state = read_state(path)
        check_identity(path, state["identity"], identity)
        self.take_up(state)
        for name in COUNTERS:
            setattr(self, name, state["counters"][name])
        asked, fitting = state["micro_batch"]
        if asked == self.asked:  # else the user knows of another device
            self.micro_batch = fitting

    def go_back(self, path: Path) -> None:
        """Take up the weights of the last good state; time and samples go on.

        DataError if it has not helped ATTEMPTS times.
        """
        self.attempts += 1
        if self.attempts > ATTEMPTS:
            raise DataError(
                f"the loss is no good {ATTEMPTS} times after going back to the state in {path} "
                f"(step {self.step}); start anew in another --out with a --learning-rate below "
                f"{self.recipe.learning_rate}"
            )
        state = read_state(path)
        self.take_up(state)
        self.averaged = state["counters"]["averaged"]
        self.given_up, self.moved = 0, False
        self.events.append(("restored", f"the state of step {state['counters']['step']}"))

    def take_up(self, state: dict[str, Any]) -> None:
        """Weights, optimisers and what is known of former losses, from a state."""
        here = self.denoiser.state_dict()
        weights, average = (
            {name: placed(tensor, here[name]) for name, tensor in state[which].items()}
            for which in ("denoiser", "average")
        )
        self.denoiser.load_state_dict(weights)
        self.average = {name: tensor.to(self.device) for name, tensor in average.items()}
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            for number, values in saved["state"].items():
                for name, tensor in values.items():
                    values[name] = placed(tensor, parameters[number])
            optimizer.load_state_dict(saved)
        self.losses = deque(state["losses"], maxlen=REMEMBERED)
        self.bounds = deque(state.get("bounds", ()), maxlen=REMEMBERED)  # older states have none


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a device or the host had no memory left."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def is_device_lost(error: RuntimeError) -> bool:
    """Whether a device, or the way to another process, failed of itself."""
    known = (torch.AcceleratorError, torch.distributed.DistError)
    words = ("CUDA", "cuDNN", "NCCL", "gloo")
    return isinstance(error, known) or any(word in str(error) for word in words)
