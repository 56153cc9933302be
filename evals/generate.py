"""Stage one: a model fills the holes of a suite; every sample is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from talaria.coder.errors import UsageError
from talaria.evals.jsonl import FORMAT, Results, environment, made_by, processor
from talaria.evals.progress import progress
from talaria.evals.suites import Problem, Suite

if TYPE_CHECKING:
    from talaria.coder.checkpoint import Checkpoint
    from talaria.coder.request import Options, Request
    from talaria.coder.results import Infill


@dataclass(frozen=True)
class Sampling:
    """How samples are drawn.

    samples        number for each problem; sample n uses the seed of `options` plus n
    batch          holes filled at a time; changes times, not texts
    oracle_length  whether the model is given the length of each true middle, in tokens
    """

    options: Options
    samples: int = 1
    batch: int = 1
    oracle_length: bool = False

    def __post_init__(self) -> None:
        for name in ("samples", "batch"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name} is {getattr(self, name)}; it must be at least 1")
        if self.oracle_length and self.options.sizes:
            raise UsageError(
                f"--sizes is {','.join(map(str, self.options.sizes))}, and --oracle-length gives "
                "each middle its own; leave one out"
            )
        if self.samples > 1 and not self.options.temperature:
            raise UsageError(
                f"--samples is {self.samples}, but at temperature 0 all would be the same; "
                "give a --temperature above 0"
            )


def header(suite: Suite, model: Checkpoint, sampling: Sampling, device: str) -> dict[str, Any]:
    """Describe a run of samples; two files with the same header hold the same samples."""
    from talaria.coder.checkpoint import TOKENIZER

    return {
        "format": FORMAT,
        "stage": "samples",
        "suite": suite.name,
        "source": suite.source,
        "data": suite.digest(),
        "files": dict(suite.files),
        "model": {
            "name": model.name,
            "weights": model.weights_hash,
            # An adapter's tokenizer is part of its base, which the weights' hash names.
            "tokenizer": model.config["sha256"].get(TOKENIZER, ""),
            "base": model.config.get("base"),
        },
        **decoding(model, sampling),
        "samples": sampling.samples,
        "expected": len(suite.problems) * sampling.samples,
        "batch": sampling.batch,
        "oracle_length": sampling.oracle_length,
        "device": device,
        "rounding": rounding(device) if rounds(model) else None,
        "environment": environment(),
        "made_by": [made_by()],
    }


def decoding(model: Checkpoint, sampling: Sampling) -> dict[str, Any]:
    """Describe what decides which tokens are committed when: the options as the model takes them.

    An open family follows its authors' schedule, with what a request changes about it. The options
    repeat its threshold and sizes, and have no lookahead: nothing there depends on it.
    """
    options = taken(model, sampling.options)
    if model.schedule is None:
        return {"options": asdict(options), "schedule": None}
    schedule = model.schedule.asked(options)
    if sampling.oracle_length:
        options, schedule = replace(options, sizes=None), replace(schedule, sizes=())
    return {"options": asdict(options), "schedule": asdict(schedule)}


def taken(model: Checkpoint, options: Options) -> Options:
    """Return the options as the model takes them: what is not asked for is its own."""
    settled = options.settled(model.settings)
    if model.schedule is None:
        return settled
    schedule = model.schedule.asked(options)
    return replace(
        settled,
        confidence_threshold=schedule.threshold,
        lookahead=None,
        sizes=schedule.sizes or None,
    )


def rounds(model: Checkpoint) -> bool:
    """Whether a base's weights are rounded to 8 bits; torch computes with them as they are."""
    return bool(model.config.get("base")) and model.schedule is None


def rounding(device: str) -> dict[str, Any] | None:
    """Describe what decides how a base's weights are rounded here; None off the CPU: nothing."""
    from talaria.coder.families.onnx_graph import int8_limit

    return {"int8_limit": int8_limit(), "processor": processor()} if device == "cpu" else None


def generate(
    suite: Suite,
    model: Checkpoint,
    sampling: Sampling,
    path: Path,
    device: str = "cpu",
    watch: Callable[[dict[str, Any]], None] | None = None,
) -> Results:
    """Fill every hole and append the samples to the file; existing ones are kept.

    Calls `watch` with every new row. An interruption loses at most the current batch. UsageError,
    and no file, for options that the model cannot serve.
    """
    from talaria.coder.capabilities import check
    from talaria.coder.infill import fill_batch

    check(model, sampling.options)
    results = Results(path, header(suite, model, sampling, device))
    kept = {(row["id"], row["sample"]) for row in results.rows}
    wanted = [(problem, n) for problem in suite.asked() for n in range(sampling.samples)]
    rest = [(problem, n) for problem, n in wanted if (problem.id, n) not in kept]
    solutions = {problem.id: problem.solution.strip() for problem in suite.problems}
    exact = sum(row["text"].strip() == solutions[row["id"]] for row in results.rows)
    bar = progress(len(wanted), "sample")
    bar.update(len(kept))
    try:
        for start in range(0, len(rest), sampling.batch):
            batch = rest[start : start + sampling.batch]
            requests = [request_of(problem, number, model, sampling) for problem, number in batch]
            filled = fill_batch(model, requests)
            for (problem, number), found in zip(batch, filled, strict=True):
                results.append(sample_row(problem, number, found, sampling.options))
                if watch:
                    watch(results.rows[-1])
                exact += found.best.text.strip() == solutions[problem.id]
                bar.update()
                bar.set_postfix_str(f"exact {exact / len(results.rows):.1%}", refresh=False)
    finally:
        bar.close()
        results.close()
    return results


def request_of(problem: Problem, number: int, model: Checkpoint, sampling: Sampling) -> Request:
    """Return the request for sample `number` of a problem, with its own seed."""
    from talaria.coder.request import Request

    length = None
    if sampling.oracle_length:
        length = len(model.tokenizer.encode(problem.solution))
    options = replace(sampling.options, seed=sampling.options.seed + number)
    suffix = line_break(problem, options) + problem.suffix
    return Request(problem.prefix, suffix, options, length=length)


def line_break(problem: Problem, options: Options) -> str:
    """Return the line break that belongs to the hole, but that a bound leaves to the suffix.

    A hole of whole lines takes their last line break too. A bound (`--until`) ends a middle before
    its line break, as in an editor, where the break stands behind the cursor.
    """
    starts_line = problem.prefix[-1:] in ("", "\n")
    whole = starts_line and (problem.solution.endswith("\n") or problem.whole)
    return "\n" if options.until and whole else ""


def sample_row(problem: Problem, number: int, found: Infill, options: Options) -> dict[str, Any]:
    """Make a row of a filled hole; its time is its share of the batch's."""
    return {
        "id": problem.id,
        "sample": number,
        "text": found.best.text + line_break(problem, options),
        "stopped": found.best.stopped,
        "nfe": found.nfe,
        "tokens": found.best.length,
        "context_tokens": found.context_tokens,
        "elapsed_ms": round(found.elapsed_ms, 2),
        "clean": found.syntax.sound,
    }
