"""`talaria bench`: what requests cost on this machine, the three modes side by side.

Prompts are holes in the files of `coder/`, cut to one length of context. Each is asked
in every mode in turn: with nothing remembered (*fresh*), and again when all but its
last characters was asked about just before (*warm*), as while typing.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from talaria.coder.cli import add_rules, check_rules, guarded
from talaria.coder.errors import UsageError
from talaria.evals.generate import progress
from talaria.evals.intervals import bootstrap, percentile
from talaria.evals.jsonl import environment
from talaria.evals.latency import SHORTEST, Plan, documents, most_memory, prompts, start
from talaria.evals.suites import Problem
from talaria.evals.tables import columns

if TYPE_CHECKING:
    from talaria.coder.checkpoint import Checkpoint
    from talaria.coder.infill import Infill, Options

TYPED = 2  # characters that are new in a warm request
BASELINE = "ar"


@dataclass(frozen=True)
class Turn:
    """A prompt asked in one mode: times in milliseconds, and what was written."""

    prompt: str
    cluster: str
    mode: str
    fresh_ms: float
    warm_ms: float
    nfe: int
    tokens: int
    committed: int
    text: str


def main(argv: list[str]) -> int:
    """Measure and print a table, or JSON; exit code 0."""
    args = arguments(argv)
    check_rules(args)
    if args.context < SHORTEST:
        raise UsageError(f"--context is {args.context}; the least is {SHORTEST} tokens")
    from talaria.coder import checkpoint
    from talaria.coder.infill import MODES, Options

    given = {name: value for name, value in vars(args).items() if value is not None}
    options = Options(**{k: v for k, v in given.items() if k in Options.__dataclass_fields__})
    plan = Plan((args.context,), args.prompts, args.rounds, args.starts)
    model = checkpoint.load(args.model, args.device)
    config = model.denoiser.config
    options = options.settled(model.decoding)
    options = replace(options, max_tokens=options.max_tokens or config.context_length // 4)
    blocks = -(-(options.max_tokens or 0) // config.block_length)
    room = config.context_length - blocks * config.block_length
    if args.context > room:
        raise UsageError(
            f"--context is {args.context}; beside middles of {options.max_tokens} tokens this "
            f"model reads {room}: give a smaller --context or --max-tokens"
        )
    asked = prompts(documents(None)[0], model.tokenizer, plan)
    bar = progress(plan.starts + plan.rounds * len(asked) * len(MODES), "request")
    cold = []
    for number in range(plan.starts):
        cold.append(start(args.model, args.device, options, asked, number))
        bar.update()
    turns = []
    for problem in asked[:4]:  # what comes first is slower
        ask(model, problem, options)
    for turn in range(plan.rounds):
        for place, problem in enumerate(asked):
            shift = (turn + place) % len(MODES)  # no mode always follows the same other
            for mode in (*MODES[shift:], *MODES[:shift]):
                turns.append(ask(model, problem, replace(options, mode=mode)))
                bar.update()
    bar.close()
    found = {
        "model": {"name": model.name, "weights": model.weights_hash},
        "environment": environment(),
        "options": asdict(options),
        **figures(turns, cold),
    }
    print(json.dumps(found) if args.json else "\n".join(lines(found)))
    return 0


def arguments(argv: list[str]) -> argparse.Namespace:
    """The options of `talaria bench`."""
    parser = argparse.ArgumentParser(
        prog="talaria bench", description="What requests cost on this machine, by mode."
    )
    parser.add_argument("--model", help="a folder, or a name from `talaria models`")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda or mps")
    parser.add_argument("--prompts", type=int, default=24, metavar="N", help="holes (24)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="for each hole (3)")
    parser.add_argument("--starts", type=int, default=3, metavar="N", help="fresh processes (3)")
    parser.add_argument("--context", type=int, default=384, metavar="N", help="tokens (384)")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="longest middle")
    add_rules(parser)
    parser.add_argument("--json", action="store_true", help="all figures, for programs")
    return parser.parse_args(argv)


def ask(model: Checkpoint, problem: Problem, options: Options) -> Turn:
    """One prompt, fresh and then warm; both write the same."""
    from talaria.coder.infill import Memory, infill

    def timed(prefix: str, memory: Memory | None = None) -> Infill:
        return infill(model, prefix, problem.suffix, options, memory=memory)

    fresh, memory = timed(problem.prefix), Memory(model.denoiser)
    timed(problem.prefix[:-TYPED], memory)
    warm = timed(problem.prefix, memory)
    return Turn(
        problem.id,
        problem.cluster,
        options.mode,
        fresh.elapsed_ms,
        warm.elapsed_ms,
        fresh.nfe,
        fresh.best.length,
        fresh.best.committed,
        fresh.best.text,
    )


def figures(turns: Sequence[Turn], cold: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Times and work of each mode, and each mode against the baseline on the same prompts."""
    modes = list(dict.fromkeys(sorted((t.mode for t in turns), key=lambda m: m == BASELINE)))
    of = {mode: [turn for turn in turns if turn.mode == mode] for mode in modes}
    return {
        "start": {
            name: statistics.median(row[name] for row in cold)
            for name in ("load_ms", "first_ms", "peak_bytes")
        },
        "peak_bytes": most_memory(),
        "modes": {mode: of_mode(own) for mode, own in of.items()},
        "ratios": {mode: against(of[mode], of[BASELINE]) for mode in modes if mode != BASELINE},
    }


def of_mode(turns: Sequence[Turn]) -> dict[str, Any]:
    """Percentiles of times; tokens by evaluations and by time of warm requests."""
    tokens = sum(turn.tokens for turn in turns)
    times = {
        f"{name}_p{share}_ms": percentile([getattr(t, f"{name}_ms") for t in turns], share / 100)
        for name in ("fresh", "warm")
        for share in (50, 95)
    }
    return {
        "requests": len(turns),
        **times,
        "nfe": statistics.fmean(turn.nfe for turn in turns),
        "tokens": tokens / len(turns),
        "tokens_per_forward": sum(turn.committed for turn in turns) / sum(t.nfe for t in turns),
        "tokens_per_second": 1000 * tokens / sum(turn.warm_ms for turn in turns),
    }


def against(turns: Sequence[Turn], baseline: Sequence[Turn]) -> dict[str, Any]:
    """How many times as fast as the baseline: geometric means over prompts, files drawn anew.

    Per request and, for modes may write middles of other lengths, per token; over
    prompts where both wrote some. `same` counts prompts with the same text.
    """
    pairs = [
        ([t for t in turns if t.prompt == name], [t for t in baseline if t.prompt == name])
        for name in dict.fromkeys(turn.prompt for turn in turns)
    ]
    found: dict[str, Any] = {
        "prompts": len(pairs),
        "same": sum(one[0].text == other[0].text for one, other in pairs),
    }
    wrote = [pair for pair in pairs if all(some[0].tokens for some in pair)]
    for unit, some in (("request", pairs), ("token", wrote)):
        for when in ("fresh", "warm"):
            logs = [
                math.log(cost(other, when, unit) / cost(one, when, unit)) for one, other in some
            ]
            interval = bootstrap(logs, [one[0].cluster for one, _ in some]) if logs else None
            found[f"{when}_{unit}"] = {
                "prompts": len(logs),
                "times": math.exp(statistics.fmean(logs)) if logs else None,
                "interval": interval and [math.exp(edge) for edge in interval],
            }
    return found


def cost(turns: Sequence[Turn], when: str, unit: str) -> float:
    """The median time of a prompt's rounds, of each token if that is the unit."""
    typical = statistics.median(float(getattr(turn, f"{when}_ms")) for turn in turns)
    return typical / (turns[0].tokens if unit == "token" else 1)


def lines(found: Mapping[str, Any]) -> list[str]:
    """The figures as a person reads them."""
    begun = found["start"]
    table = [
        [
            *("mode", "fresh p50 ms", "p95", "warm p50 ms", "p95"),
            *("nfe", "tokens", "tokens/nfe", "tokens/s"),
        ]
    ]
    for mode, part in found["modes"].items():
        times = [f"{part[f'{w}_p{share}_ms']:.1f}" for w in ("fresh", "warm") for share in (50, 95)]
        rest = [f"{part[name]:.1f}" for name in ("nfe", "tokens")]
        rest += [f"{part['tokens_per_forward']:.2f}", f"{part['tokens_per_second']:.0f}"]
        table.append([mode, *times, *rest])
    ratios = [[f"times as fast as {BASELINE}", "fresh", "95 %", "warm", "95 %"]]
    for mode, part in found["ratios"].items():
        for unit in ("request", "token"):
            row = [f"{mode}, per {unit}"]
            for when in ("fresh", "warm"):
                ratio = part[f"{when}_{unit}"]
                edges = ratio["interval"]
                row.append("" if ratio["times"] is None else f"{ratio['times']:.2f}")
                row.append(f"{edges[0]:.2f} – {edges[1]:.2f}" if edges else "none")
            ratios.append(row)
    same = ", ".join(
        f"{mode} on {part['same']} of {part['prompts']} prompts"
        for mode, part in found["ratios"].items()
    )
    return [
        f"{found['model']['name']}, {found['environment']['machine']}",
        f"fresh process: {begun['load_ms'] / 1000:.2f} s to load, first request "
        f"{begun['first_ms']:.0f} ms, at most {begun['peak_bytes'] / 1e6:.0f} MB",
        "",
        columns(table),
        "",
        columns(ratios),
        "",
        f"writes what {BASELINE} writes: {same}",
    ]


if __name__ == "__main__":
    sys.exit(guarded("talaria bench", lambda: main(sys.argv[1:])))
