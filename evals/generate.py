"""The first stage: a model fills the holes of a suite; every sample is kept."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from talaria.coder.errors import TalariaError, UsageError
from talaria.evals.jsonl import FORMAT, Results, environment, made_by
from talaria.evals.suites import Problem, Suite

if TYPE_CHECKING:
    from talaria.coder.checkpoint import Checkpoint
    from talaria.coder.infill import Hole, Options


@dataclass(frozen=True)
class Request:
    """How samples are drawn: so many of each problem, by these options of the decoder.

    batch          holes filled side by side; texts do not depend on it, times do
    oracle_length  whether the model is told how many tokens each true middle has
    """

    options: Options
    samples: int = 1
    batch: int = 1
    oracle_length: bool = False

    def __post_init__(self) -> None:
        for name in ("samples", "batch"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name} is {getattr(self, name)}; it must be at least 1")
        if self.samples > 1 and not self.options.temperature:
            raise UsageError(
                f"--samples is {self.samples} at temperature 0, where all are the same; "
                "give a --temperature above 0"
            )


def header(suite: Suite, model: Checkpoint, request: Request, device: str) -> dict[str, Any]:
    """What a file of samples is of: two files with the same header hold the same samples."""
    from talaria.coder.checkpoint import TOKENIZER

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
        "options": asdict(request.options.settled(model.decoding)),
        "samples": request.samples,
        "expected": len(suite.problems) * request.samples,
        "batch": request.batch,
        "oracle_length": request.oracle_length,
        "device": device,
        "environment": environment(),
        "made_by": [made_by()],
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

    `watch` sees every new row. An interruption loses at most the batch in flight.
    """
    from talaria.coder.infill import infill_batch

    results = Results(path, header(suite, model, request, device))
    kept = {(row["id"], row["sample"]) for row in results.rows}
    wanted = [(problem, n) for problem in suite.problems for n in range(request.samples)]
    rest = [(problem, n) for problem, n in wanted if (problem.id, n) not in kept]
    solutions = {problem.id: problem.solution.strip() for problem in suite.problems}
    right = sum(row["text"].strip() == solutions[row["id"]] for row in results.rows)
    bar = progress(len(wanted), "sample")
    bar.update(len(kept))
    try:
        for start in range(0, len(rest), request.batch):
            asked = rest[start : start + request.batch]
            holes = [hole_of(problem, number, model, request) for problem, number in asked]
            filled = infill_batch(model, holes, request.options)
            for (problem, number), found in zip(asked, filled, strict=True):
                results.append(sample(problem, number, found))
                if watch:
                    watch(results.rows[-1])
                right += found.best.text.strip() == solutions[problem.id]
                bar.update()
                bar.set_postfix_str(f"exact {right / len(results.rows):.1%}", refresh=False)
    finally:
        bar.close()
        results.close()
    return results


def hole_of(problem: Problem, number: int, model: Checkpoint, request: Request) -> Hole:
    """What is asked for a sample: sample n has the seed of the options, plus n."""
    from talaria.coder.infill import Hole

    seed, length = request.options.seed + number, None
    if request.oracle_length:
        length = len(model.tokenizer.encode(problem.solution))
    return Hole(problem.prefix, problem.suffix, seed, length)


def sample(problem: Problem, number: int, found: Any) -> dict[str, Any]:
    """A row of samples: the middle and what it took; beside others, its share of their time."""
    return {
        "id": problem.id,
        "sample": number,
        "text": found.best.text,
        "stopped": found.best.stopped,
        "nfe": found.nfe,
        "tokens": found.best.length,
        "context_tokens": found.context_tokens,
        "elapsed_ms": round(found.elapsed_ms, 2),
        "clean": found.syntax.clean,
    }


def progress(total: int, unit: str) -> Any:
    """A progress bar on standard error: rate, time left; who has one adds the running score."""
    try:
        from tqdm import tqdm
    except ModuleNotFoundError as error:
        raise TalariaError(
            "evaluation needs tqdm, numpy and scipy; install the extras: "
            "make test, or pip install -e '.[train,eval]'"
        ) from error
    return tqdm(total=total, unit=unit, file=sys.stderr)
