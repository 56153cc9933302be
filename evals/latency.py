"""`talaria eval latency`: time `ar` and the model's own mode on the same prompts, in a result file.

The model's own mode is `diffuse`, or `verify` for a causal model.

Prompts are holes in held-out files of a corpus or, without one, in the files of `coder/`: the
rest of a line, a line, or several lines, with contexts of several lengths.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from talaria.coder.errors import UsageError
from talaria.evals import timing
from talaria.evals.generate import Sampling, header
from talaria.evals.jsonl import ResultRow, Results
from talaria.evals.progress import progress
from talaria.evals.prompts import documents, draw_prompts
from talaria.evals.suites import Suite
from talaria.evals.timing import Timing, TimingPlan

if TYPE_CHECKING:
    from talaria.coder.request import Mode, Options

BASELINE: Mode = "ar"


def measure(
    corpus: Path | None,
    model: str | None,
    options: Options,
    plan: TimingPlan,
    path: Path,
    device: str,
) -> Results:
    """Measure cold starts and requests and append them to the file; existing rows are kept.

    `options` hold for both modes, whatever mode they name.
    """
    from talaria.coder import capabilities, checkpoint

    loaded = checkpoint.load(model, device)
    able = capabilities.modes(loaded)
    if BASELINE not in able:
        raise UsageError(
            f"latency compares with --mode {BASELINE}, and {loaded.name} has only "
            f"{', '.join(able)}; time it with `talaria bench`"
        )
    modes: tuple[Mode, ...] = ("diffuse" if "diffuse" in able else "verify", BASELINE)
    for mode in modes:
        capabilities.check(loaded, replace(options, mode=mode))
    files, hashes = documents(corpus)
    max_tokens = options.max_tokens or loaded.settings.max_tokens
    room = timing.context_room(loaded, max_tokens)
    if max(plan.contexts) > room:
        raise UsageError(
            f"--contexts has {max(plan.contexts)}; beside middles of up to {max_tokens} tokens "
            f"this model reads {room}: give shorter ones, or a smaller --max-tokens"
        )
    problems = draw_prompts(files, loaded.layout, plan.contexts, plan.prompts)
    suite = Suite("latency", problems, hashes, "files")
    head = header(suite, loaded, Sampling(options), device)
    head["options"] = {**head["options"], "mode": "both"}
    results = Results(
        path,
        {
            **head,
            "stage": "results",
            "expected": len(modes) * (plan.rounds * len(problems) + plan.starts),
            "plan": {**vars(plan), "contexts": list(plan.contexts)},
            "threads": loaded.backbone.threads,
            "from": "held-out files of a corpus" if corpus else "files of coder/",
        },
    )
    kept = {(row["id"], row["sample"]) for row in results.rows}
    starts = [
        (mode, number)
        for number in range(plan.starts)
        for mode in modes
        if (start_id(mode), number) not in kept
    ]
    turns = [
        (problem, mode, number)
        for problem, mode, number in timing.turns(problems, modes, plan.rounds)
        if (f"{problem.id}@{mode}", number) not in kept
    ]
    bar = progress(len(turns) + len(starts), "request")
    try:
        for mode, number in starts:
            chosen = replace(options, mode=mode)
            longest = problems[-plan.prompts :]  # for the peak of memory
            results.append(
                {
                    "id": start_id(mode),
                    "sample": number,
                    "cluster": "start",
                    "mode": mode,
                    **timing.cold_start(model, device, chosen, longest),
                }
            )
            bar.update()
        for found in timing.measure(loaded, options, turns):
            results.append(row_of(found))
            bar.update()
    finally:
        bar.close()
        results.close()
    return results


def start_id(mode: Mode) -> str:
    """Return the id of the rows of cold starts."""
    return f"start@{mode}"


def row_of(found: Timing) -> ResultRow:
    """Make a row of a timed prompt."""
    problem, fresh = found.problem, found.fresh
    return {
        "id": f"{problem.id}@{found.mode}",
        "sample": found.round,
        "cluster": problem.cluster,
        "prompt": problem.id,
        "mode": found.mode,
        "context": int(problem.id.rpartition("/")[2]),
        "context_tokens": fresh.context_tokens,
        "tokens": fresh.best.length,
        "nfe": fresh.nfe,
        "elapsed_ms": round(fresh.elapsed_ms, 3),
        "stopped": fresh.best.stopped,
        "load": timing.load_average(),
    }
