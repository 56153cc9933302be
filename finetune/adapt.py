"""`talaria adapt`: train low-rank updates that teach a causal base to denoise canvases.

One process and one family so far. The run's folder holds `state.pt` (everything needed to resume),
`metrics.jsonl`, and `model/`, an adapter checkpoint for `talaria infill --model`.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save as dump_weights
from tqdm import tqdm

from talaria.coder import bases, checkpoint, files
from talaria.coder.cli import guarded
from talaria.coder.errors import DataError, UsageError
from talaria.coder.families import qwen2
from talaria.coder.families.qwen2_tokenizer import layout_of, marks_of, read_tokenizer
from talaria.coder.families.qwen2_torch import module
from talaria.coder.layout import Layout
from talaria.finetune.adaptation import (
    Adaptation,
    CanvasBatch,
    HoleRows,
    draw_batch,
    matched_drafts,
)
from talaria.finetune.corpus import corpus_hash, read_nonempty
from talaria.finetune.recipe import flag
from talaria.finetune.state import (
    check_identity,
    read_state,
    truncate_metrics,
    write_state,
    writing,
)
from talaria.finetune.stop import GracefulStop

LEAST_CONTEXT = 8  # tokens of a row beside its middle: three sentinels and some text
HELD_OUT_ROWS, HELD_OUT_CANVASES = 24, 8
LICENCE = "Apache-2.0"


@dataclass(frozen=True)
class AdaptationRecipe:
    """Everything that determines the result of an adaptation.

    rank                  rank of the low-rank updates
    block                 positions of a canvas
    canvases              canvases per row
    length, longest       most tokens of a row, and of a middle
    rows                  rows per step
    next_token_weight     weight of the next-token loss on middles and their ends
    """

    rank: int = 32
    block: int = 8
    canvases: int = 32
    length: int = 384
    longest: int = 96
    rows: int = 6
    next_token_weight: float = 0.5
    learning_rate: float = 6e-4
    warmup: float = 0.02
    decay_from: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("rank", "canvases", "longest", "rows"):
            if getattr(self, name) < 1:
                raise UsageError(f"{flag(name)} is {getattr(self, name)}; it must be 1 or more")
        if self.block < 2:
            raise UsageError(f"--block is {self.block}; a canvas of 1 has nothing to learn: give 2")
        for name in ("next_token_weight", "learning_rate", "warmup"):
            if not 0 < getattr(self, name) < math.inf:
                raise UsageError(f"{flag(name)} is {getattr(self, name)}; it must be above 0")
        if not 0 <= self.decay_from < 1:
            raise UsageError(
                f"--decay-from is {self.decay_from}; it must be at least 0 and below 1"
            )
        if not 0 <= self.seed < 2**63:
            raise UsageError(f"--seed is {self.seed}; it must lie between 0 and 2**63 - 1")
        if self.length < self.longest + LEAST_CONTEXT:
            raise UsageError(
                f"--length is {self.length}; a middle of {self.longest} tokens (--longest) and "
                f"its context need at least {self.longest + LEAST_CONTEXT}"
            )


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line; every field of the recipe is a flag."""
    parser = argparse.ArgumentParser(prog="talaria adapt", description=__doc__.split("\n")[0])
    parser.add_argument("base", type=Path, help="the base: a GGUF file")
    parser.add_argument("--corpus", type=Path, default=Path("data/corpus"))
    parser.add_argument("--out", type=Path, required=True, help="the run's folder")
    parser.add_argument("--minutes", type=float, required=True, help="total training time")
    parser.add_argument("--resume", action="store_true", help="continue from the last saved state")
    parser.add_argument("--save-every", type=float, default=120, metavar="SECONDS")
    parser.add_argument("--validate-every", type=float, default=600, metavar="SECONDS")
    for name, default in asdict(AdaptationRecipe()).items():
        parser.add_argument(
            flag(name), type=type(default), default=default, help=f"(default {default})"
        )
    args = parser.parse_args(argv)
    for name in ("minutes", "save_every", "validate_every"):
        if not 0 < getattr(args, name) < math.inf:
            raise UsageError(f"{flag(name)} is {getattr(args, name)}; it must be above 0")
    recipe = {name: getattr(args, name) for name in asdict(AdaptationRecipe())}
    args.recipe = AdaptationRecipe(**recipe)
    if not args.base.is_file():
        raise UsageError(f"{args.base}: no such file; give the base's GGUF file")
    return args


class AdaptationRun:
    """A base being adapted: its weights, the optimiser, and the time spent."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.recipe: AdaptationRecipe = args.recipe
        reader = qwen2.open_file(args.base)
        self.shape = qwen2.shape_of(reader, args.base)
        self.tokenizer, rows = read_tokenizer(reader, args.base)
        self.marks = marks_of(self.tokenizer)
        weights = dict(qwen2.BaseWeights(reader, self.shape, args.base, rows))
        self.shape = replace(self.shape, vocab_size=len(rows))
        decoder = module(self.shape, weights)
        add_updates(decoder, self.recipe.rank, self.recipe.seed)
        self.adaptation = Adaptation(decoder, self.marks.mask).train()
        self.trained = {
            name: each for name, each in self.adaptation.named_parameters() if each.requires_grad
        }
        self.optimizer = torch.optim.AdamW(
            self.trained.values(), self.recipe.learning_rate, (0.9, 0.98), weight_decay=0.0
        )
        layout = layout_of(self.tokenizer)
        self.rows = self.rows_of("train", layout)
        held_out = self.rows_of("valid", layout)
        rng = np.random.default_rng(0)
        self.held_out = [
            draw_batch([held_out[n]], self.marks.mask, HELD_OUT_CANVASES, self.recipe.block, rng, 1)
            for n in range(HELD_OUT_ROWS)
        ]
        self.identity = {
            "recipe": asdict(self.recipe),
            "base": files.digest(args.base),
            "corpus": corpus_hash(args.corpus),
        }
        self.step, self.elapsed, self.validated = 0, 0.0, 0.0

    def rows_of(self, split: str, layout: Layout) -> HoleRows:
        """Rows of a split of the corpus."""
        texts = [document.text for document in read_nonempty(self.args.corpus, split)]
        recipe = self.recipe
        return HoleRows(texts, layout, self.marks.eom, recipe.length, recipe.longest, recipe.seed)

    @property
    def progress(self) -> float:
        """The fraction of the minutes that is spent."""
        minutes: float = self.args.minutes
        return min(1.0, self.elapsed / (60 * minutes))

    def batch(self) -> CanvasBatch:
        """The batch of the next step; it depends only on the seed and the step's number."""
        first = self.step * self.recipe.rows
        rows = [self.rows[first + number] for number in range(self.recipe.rows)]
        rng = np.random.default_rng((self.recipe.seed, 2, self.step))
        return draw_batch(rows, self.marks.mask, self.recipe.canvases, self.recipe.block, rng)

    def update(self) -> dict[str, float]:
        """Take one step; it is skipped if loss or gradient are not finite."""
        recipe = self.recipe
        warm = min(1.0, self.progress / recipe.warmup)
        cooling = max(0.0, (self.progress - recipe.decay_from) / (1 - recipe.decay_from))
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.learning_rate * max(0.05, warm) * (1 - 0.95 * cooling)
        with torch.autocast("cpu", torch.bfloat16, enabled=has_fast_bfloat16()):
            canvas, weight, following = self.adaptation(self.batch())
            loss = canvas / weight.clamp(min=1) + recipe.next_token_weight * following
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.trained.values(), 1.0)
        if torch.isfinite(loss) and torch.isfinite(norm):
            self.optimizer.step()
        return {
            "canvas": (canvas.detach() / weight.clamp(min=1)).item(),
            "next_token": following.detach().item(),
            "norm": norm.detach().item(),
        }

    def validate(self) -> float:
        """Mean tokens per pass that drafts get right on held-out middles."""
        self.adaptation.eval()
        found = torch.cat([matched_drafts(self.adaptation, batch) for batch in self.held_out])
        self.adaptation.train()
        return float(found.mean())

    def save(self) -> None:
        """Write the state and the adapter checkpoint."""
        out: Path = self.args.out
        out.mkdir(parents=True, exist_ok=True)
        write_state(
            out / "state.pt",
            {
                "identity": self.identity,
                "weights": {name: each.detach() for name, each in self.trained.items()},
                "optimizer": self.optimizer.state_dict(),
                "step": self.step,
                "elapsed": self.elapsed,
                "validated": self.validated,
            },
        )
        write_adapter(out / "model", self)

    def restore(self) -> None:
        """Continue from the state on disk; DataError if it was made with other settings."""
        path = self.args.out / "state.pt"
        state = read_state(path)
        check_identity(path, state["identity"], self.identity)
        with torch.no_grad():
            for name, each in self.trained.items():
                each.copy_(state["weights"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.elapsed = state["step"], state["elapsed"]
        self.validated = state["validated"]


def add_updates(decoder: torch.nn.Module, rank: int, seed: int) -> None:
    """Add low-rank updates, initially zero, to the matrices of each block."""
    from peft import LoraConfig, inject_adapter_in_model

    torch.manual_seed(seed)
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=[*qwen2.MATRICES])
    inject_adapter_in_model(config, decoder)


def base_name(run: AdaptationRun) -> str:
    """What `talaria models` calls the base; the name of its file if it knows no such hash."""
    names = {base.sha256: name for name, base in bases.known().items()}
    own: str = run.args.base.name
    return names.get(str(run.identity["base"]), own)


def write_adapter(folder: Path, run: AdaptationRun) -> None:
    """Write the trained weights as a checkpoint that names its base by hash."""
    tensors = {}
    for name, each in run.trained.items():
        short = name.removeprefix("decoder.").replace(".default.", ".")
        tensors[short] = each.detach().to(torch.float16).contiguous()
    config: dict[str, Any] = {
        "family": "qwen2",
        "licence": LICENCE,
        "parameters": sum(each.numel() for each in tensors.values()),
        "base": {"name": base_name(run), "sha256": run.identity["base"]},
        "decoding": {"block_length": run.recipe.block, "lookahead": run.recipe.block},
        "training": {**run.identity, "steps": run.step, "minutes": round(run.elapsed / 60, 1)},
    }
    with writing(folder):
        checkpoint.write(folder, dump_weights(tensors), config, name=checkpoint.ADAPTER)


def has_fast_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 natively (AMX or AVX512-BF16)."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def main(argv: list[str]) -> int:
    """Adapt until the minutes are spent; an interrupt saves the state for --resume.

    Returns 0 if the run finished, 1 if it was interrupted.
    """
    args = parse(argv)
    state = args.out / "state.pt"
    if state.exists() and not args.resume:
        raise UsageError(
            f"{args.out} holds a run; add --resume to continue it, or name another --out"
        )
    if args.resume and not state.exists():
        raise DataError(f"{state}: nothing to resume; start without --resume")
    args.out.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(args.out).free < 2**30:
        raise DataError(f"{args.out}: less than 1 GiB is free; a run needs room for its state")
    run = AdaptationRun(args)
    if args.resume:
        run.restore()
        truncate_metrics(args.out / "metrics.jsonl", run.step)
    saved = run.elapsed
    bar = tqdm(total=100, unit="%", initial=int(100 * run.progress), desc="adapting")
    with GracefulStop() as stop, (args.out / "metrics.jsonl").open("a") as metrics:
        while run.progress < 1 and not stop.requested:
            began = time.monotonic()
            entry = run.update()
            run.step += 1
            run.elapsed += time.monotonic() - began
            if run.elapsed - run.validated >= args.validate_every or run.progress == 1:
                entry["tokens_per_pass"] = run.validate()
                run.validated = run.elapsed
            metrics.write(json.dumps({"step": run.step, "elapsed": run.elapsed, **entry}) + "\n")
            metrics.flush()
            bar.set_postfix({name: f"{value:.3f}" for name, value in entry.items()})
            bar.update(int(100 * run.progress) - bar.n)
            if run.elapsed - saved >= args.save_every:
                run.save()
                saved = run.elapsed
        run.save()
    bar.close()
    return 1 if stop.requested else 0


if __name__ == "__main__":
    sys.exit(guarded("talaria adapt", lambda: main(sys.argv[1:])))
