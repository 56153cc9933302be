"""`talaria bench`: what requests cost on this machine, all modes side by side.

Prompts are holes in the files of `coder/`, cut to one length of context. Every mode fills each
of them *fresh*, with an empty KV cache, and *warm*, right after the same prompt without its last
characters, as while typing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from talaria.coder.arguments import Parser
from talaria.coder.cli import guarded
from talaria.coder.errors import UsageError
from talaria.coder.infill_command import add_decoding_flags
from talaria.coder.request import Mode, Options
from talaria.evals import timing
from talaria.evals.generate import taken
from talaria.evals.intervals import percentile
from talaria.evals.jsonl import environment
from talaria.evals.libraries import require
from talaria.evals.progress import progress
from talaria.evals.prompts import documents, draw_prompts
from talaria.evals.tables import columns
from talaria.evals.timing import Timing, TimingPlan

BASELINE: Mode = "ar"
WHEN = ("fresh", "warm")


def main(argv: list[str]) -> int:
    """Measure and print a table, or JSON; exit code 0."""
    args = arguments(argv)

    plan = TimingPlan((args.context,), args.prompts, args.rounds, args.starts)
    require("tqdm")
    from talaria.coder import capabilities
    from talaria.coder.loading import load

    options = Options(
        max_tokens=args.max_tokens,
        confidence_threshold=args.confidence_threshold,
        lookahead=args.lookahead,
    )
    model = load(args.model, args.device)
    modes = capabilities.modes(model)
    capabilities.check(model, replace(options, mode=modes[0]))
    # Sizes that nobody asked for are the schedule's own, as far as a middle may be long.
    options = replace(taken(model, options), mode=modes[0], sizes=options.sizes)
    assert options.max_tokens is not None
    room = timing.context_room(model, options.max_tokens)
    if args.context > room:
        raise UsageError(
            f"--context is {args.context}; beside middles of {options.max_tokens} tokens this "
            f"model reads {room}: give a smaller --context or --max-tokens"
        )
    problems = draw_prompts(documents(None)[0], model.layout, plan.contexts, plan.prompts)
    bar = progress(plan.starts + plan.rounds * len(problems) * len(modes), "request")
    starts = []
    for _ in range(plan.starts):
        starts.append(timing.cold_start(args.model, args.device, options, problems))
        bar.update()
    timings = []
    planned = timing.turns(problems, modes, plan.rounds)
    for found in timing.measure(model, options, planned, warm=True):
        timings.append(found)
        bar.update()
    bar.close()
    result = {
        "model": {"name": model.name, "weights": model.weights_hash},
        "environment": environment(),
        "options": asdict(options),
        **figures(timings, starts),
    }
    print(json.dumps(result) if args.json else "\n".join(lines(result)))
    return 0


def arguments(argv: list[str]) -> argparse.Namespace:
    """Parse the options of `talaria bench`."""
    parser = Parser(
        prog="talaria bench", description="Measure what requests cost on this machine, by mode."
    )
    parser.add_argument("--model", help="a folder, or a name from `talaria models`")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda or mps")
    parser.add_argument("--prompts", type=int, default=24, metavar="N", help="holes (24)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="for each hole (3)")
    parser.add_argument("--starts", type=int, default=3, metavar="N", help="fresh processes (3)")
    parser.add_argument("--context", type=int, default=384, metavar="N", help="tokens (384)")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="at most N tokens of a middle")
    add_decoding_flags(parser)
    parser.add_argument("--json", action="store_true", help="print all figures as JSON")
    return parser.parse_args(argv)


def figures(timings: Sequence[Timing], starts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Compute times and work by mode, and each mode against the baseline on the same prompts."""
    modes = list(dict.fromkeys(sorted((t.mode for t in timings), key=lambda m: m == BASELINE)))
    by_mode = {mode: [t for t in timings if t.mode == mode] for mode in modes}
    return {
        "start": {
            name: statistics.median(start[name] for start in starts)
            for name in ("load_ms", "first_ms", "peak_bytes")
        },
        "peak_bytes": timing.peak_memory(),
        "modes": {mode: mode_figures(own) for mode, own in by_mode.items()},
        "ratios": {
            mode: against(by_mode[mode], by_mode[BASELINE])
            for mode in modes
            if BASELINE in modes and mode != BASELINE
        },
    }


def elapsed_ms(found: Timing, when: str) -> float:
    """Return the time of a fresh or a warm request."""
    filled = found.fresh if when == "fresh" else found.warm
    assert filled is not None
    return filled.elapsed_ms


def mode_figures(timings: Sequence[Timing]) -> dict[str, Any]:
    """Compute percentiles of times, tokens per evaluation, and tokens per second of warm ones."""
    tokens = sum(found.fresh.best.length for found in timings)
    evaluations = sum(found.fresh.nfe for found in timings)
    times = {
        f"{when}_p{share}_ms": percentile([elapsed_ms(t, when) for t in timings], share / 100)
        for when in WHEN
        for share in (50, 95)
    }
    return {
        "requests": len(timings),
        **times,
        "nfe": evaluations / len(timings),
        "tokens": tokens / len(timings),
        "tokens_per_forward": sum(t.fresh.best.committed for t in timings) / evaluations,
        "tokens_per_second": 1000 * tokens / sum(elapsed_ms(t, "warm") for t in timings),
    }


def against(timings: Sequence[Timing], baseline: Sequence[Timing]) -> dict[str, Any]:
    """Compute how many times as fast as the baseline a mode is.

    Per request and, because modes may write middles of different lengths, per token, over the
    prompts for which both wrote some. `same` counts the prompts with the same text.
    """
    pairs = [
        (
            [t for t in timings if t.problem.id == name],
            [t for t in baseline if t.problem.id == name],
        )
        for name in dict.fromkeys(t.problem.id for t in timings)
    ]
    found: dict[str, Any] = {
        "prompts": len(pairs),
        "same": sum(one[0].fresh.best.text == other[0].fresh.best.text for one, other in pairs),
    }
    both_wrote = [pair for pair in pairs if all(some[0].fresh.best.length for some in pair)]
    for unit, some in (("request", pairs), ("token", both_wrote)):
        clusters = [one[0].problem.cluster for one, _ in some]
        for when in WHEN:
            ratio = timing.ratio_of_times(
                [cost(other, when, unit) for _, other in some],
                [cost(one, when, unit) for one, _ in some],
                clusters,
            )
            found[f"{when}_{unit}"] = {
                "prompts": ratio["prompts"],
                "times": ratio["ratio"],
                "interval": ratio["interval"],
            }
    return found


def cost(rounds: Sequence[Timing], when: str, unit: str) -> float:
    """Return a prompt's median time, per token if that is the unit."""
    tokens = rounds[0].fresh.best.length if unit == "token" else None
    return timing.typical_ms([elapsed_ms(found, when) for found in rounds], tokens)


def lines(found: Mapping[str, Any]) -> list[str]:
    """Format the figures for the terminal."""
    start = found["start"]
    table = [
        [
            *("mode", "fresh p50 ms", "p95", "warm p50 ms", "p95"),
            *("nfe", "tokens", "tokens/nfe", "tokens/s"),
        ]
    ]
    for mode, part in found["modes"].items():
        times = [f"{part[f'{when}_p{share}_ms']:.1f}" for when in WHEN for share in (50, 95)]
        rest = [f"{part[name]:.1f}" for name in ("nfe", "tokens")]
        rest += [f"{part['tokens_per_forward']:.2f}", f"{part['tokens_per_second']:.0f}"]
        table.append([mode, *times, *rest])
    ratios = [[f"times as fast as {BASELINE}", "fresh", "95 %", "warm", "95 %"]]
    for mode, part in found["ratios"].items():
        for unit in ("request", "token"):
            row = [f"{mode}, per {unit}"]
            for when in WHEN:
                ratio = part[f"{when}_{unit}"]
                edges = ratio["interval"]
                row.append("" if ratio["times"] is None else f"{ratio['times']:.2f}")
                row.append(f"{edges[0]:.2f} – {edges[1]:.2f}" if edges else "none")
            ratios.append(row)
    same = ", ".join(
        f"{mode} on {part['same']} of {part['prompts']} prompts"
        for mode, part in found["ratios"].items()
    )
    compared = ["", columns(ratios), "", f"writes what {BASELINE} writes: {same}"]
    return [
        f"{found['model']['name']}, {found['environment']['machine']}",
        f"fresh process: {start['load_ms'] / 1000:.2f} s to load, first request "
        f"{start['first_ms']:.0f} ms, at most {start['peak_bytes'] / 1e6:.0f} MB",
        "",
        columns(table),
        *(compared if found["ratios"] else []),
    ]


if __name__ == "__main__":
    sys.exit(guarded("talaria bench", lambda: main(sys.argv[1:])))
