"""The first stage: a model fills the holes of a suite; every sample is kept."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coder.errors import TalariaError, UsageError
from evals.jsonl import FORMAT, Results, environment
from evals.suites import Problem, Suite

if TYPE_CHECKING:
    from coder.checkpoint import Checkpoint
    from coder.infill import Options


@dataclass(frozen=True)
class Request:
    """How samples are drawn: so many of each problem, by these options of the decoder."""

    options: Options
    samples: int = 1

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise UsageError(f"--samples is {self.samples}; it must be at least 1")
        if self.samples > 1 and not self.options.temperature:
            raise UsageError(
                f"--samples is {self.samples} at temperature 0, where all are the same; "
                "give a --temperature above 0"
            )


def header(suite: Suite, model: Checkpoint, request: Request, device: str) -> dict[str, Any]:
    """What a file of samples is of: two files with the same header hold the same samples."""
    from coder.checkpoint import TOKENIZER

    return {
        "format": FORMAT,
        "stage": "samples",
        "suite": suite.name,
        "data": suite.digest(),
        "files": dict(suite.files),
        "model": {
            "name": model.name,
            "weights": model.weights_hash,
            "tokenizer": model.config["sha256"][TOKENIZER],
        },
        "options": asdict(request.options),
        "samples": request.samples,
        "device": device,
        "environment": environment(),
    }


def generate(
    suite: Suite,
    model: Checkpoint,
    request: Request,
    path: Path,
    device: str = "cpu",
    watch: Callable[[dict[str, Any]], None] | None = None,
) -> Results:
    """Fill every hole and append what came out to the file; what is there is not redone.

    `watch` sees every row, kept or new.
    """
    from coder.infill import infill

    results = Results(path, header(suite, model, request, device))
    kept = {(row["id"], row["sample"]) for row in results.rows}
    wanted = [(problem, n) for problem in suite.problems for n in range(request.samples)]
    bar = progress(len(wanted), "sample")
    bar.update(len(kept))
    try:
        for problem, number in wanted:
            if (problem.id, number) in kept:
                continue
            options = replace(request.options, seed=request.options.seed + number)
            found = infill(model, problem.prefix, problem.suffix, options)
            results.append(sample(problem, number, found))
            if watch:
                watch(results.rows[-1])
            bar.update()
    finally:
        bar.close()
        results.close()
    return results


def sample(problem: Problem, number: int, found: Any) -> dict[str, Any]:
    """A row of samples: the middle and what it took."""
    return {
        "id": problem.id,
        "sample": number,
        "text": found.best.text,
        "stopped": found.best.stopped,
        "nfe": found.nfe,
        "tokens": len(found.best.tokens),
        "context_tokens": found.context_tokens,
        "elapsed_ms": round(found.elapsed_ms, 2),
        "clean": found.syntax.clean,
    }


def progress(total: int, unit: str) -> Any:
    """A progress bar on standard error: rate, time left."""
    try:
        from tqdm import tqdm
    except ModuleNotFoundError as error:
        raise TalariaError(
            "evaluation needs tqdm, numpy and scipy; install the extra: pip install 'talaria[eval]'"
        ) from error
    return tqdm(total=total, unit=unit, file=sys.stderr)
