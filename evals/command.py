"""`talaria eval`: generate samples, score them, report; or all three with `run`."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from talaria.coder.cli import add_rules, check_rules
from talaria.coder.errors import DataError, UsageError
from talaria.evals.suites import SOURCES, Suite, locate, read_suite, take

if TYPE_CHECKING:
    from talaria.coder.infill import Options
    from talaria.evals.generate import Request

SUITES = (*SOURCES, "line-end")
# Of the decoder's options, those that the command line offers.
OPTIONS = (
    *("mode", "max_nfe", "max_tokens", "temperature", "seed"),
    *("confidence_threshold", "confidence_factor", "entropy_bound", "top_k"),
    *("lookahead", "remask", "check_syntax"),
)
SUGGESTED = 32  # tokens of a suggestion while typing, at most: an editor shows a line or two


def main(argv: list[str]) -> int:
    """Run one stage or all; 0, or 1 for a self-test that found something."""
    args = arguments(argv)
    stage = {
        "generate": generate_command,
        "score": score_command,
        "report": report_command,
        "run": run_command,
        "typing": typing_command,
        "latency": latency_command,
        "compare": compare_command,
        "selftest": selftest_command,
    }[args.stage]
    return stage(args)


def arguments(argv: list[str]) -> argparse.Namespace:
    """The options of `talaria eval`; UsageError for numbers out of range."""
    data = argparse.ArgumentParser(add_help=False)
    data.add_argument("suite", choices=SUITES, metavar="SUITE", help=", ".join(SUITES))
    source = data.add_argument_group("problems")
    source.add_argument("--data", type=Path, metavar="FILE", help="the suite's file")
    source.add_argument("--download", action="store_true", help="fetch it if it is not there")
    source.add_argument("--any-data", action="store_true", help="take any file of its fields")
    source.add_argument("--corpus", type=Path, default=Path("data/corpus"), metavar="FOLDER")
    source.add_argument("--cursors", type=int, default=500, metavar="N", help="of line-end")
    source.add_argument("--cursor-seed", type=int, default=0, metavar="S")
    source.add_argument("--limit", type=int, metavar="N", help="only the first N problems")
    engine = argparse.ArgumentParser(add_help=False)
    engine.add_argument("--model", help="a folder, or a name from `talaria models`")
    engine.add_argument("--device", default="cpu", help="cpu (default), cuda or mps")
    engine.add_argument("--max-nfe", type=int, metavar="N")
    engine.add_argument("--max-tokens", type=int, metavar="N")
    add_rules(engine)
    engine.add_argument(
        "--no-syntax-check",
        dest="check_syntax",
        action="store_const",
        const=False,
        help="take middles as they come, neither mended nor cut",
    )
    engine.add_argument("--mode", choices=("diffuse", "verify", "ar"))
    model = argparse.ArgumentParser(add_help=False, parents=[engine])
    model.add_argument("--temperature", type=float, metavar="T")
    model.add_argument("--seed", type=int, metavar="S")
    model.add_argument("--samples", type=int, default=1, metavar="N", help="of each problem")
    model.add_argument(
        "--batch",
        type=int,
        default=1,
        metavar="N",
        help="holes side by side: sooner done, but a hole's time is then its share",
    )
    model.add_argument(
        "--oracle-length", action="store_true", help="tell the model how long each true middle is"
    )
    runs = argparse.ArgumentParser(add_help=False)
    runs.add_argument("--workers", type=int, default=os.cpu_count() or 1, metavar="N")
    runs.add_argument("--require-isolation", metavar="LEVEL", help="refuse to run below it")

    parser = argparse.ArgumentParser(
        prog="talaria eval", description="Measure a model: generate, score, report."
    )
    stages = parser.add_subparsers(dest="stage", required=True)
    one = stages.add_parser("generate", parents=[data, model], help="model -> samples")
    one.add_argument("--out", type=Path, required=True, metavar="SAMPLES.jsonl")
    two = stages.add_parser("score", parents=[data, runs], help="samples -> results; no model")
    two.add_argument("samples", type=Path)
    two.add_argument("--out", type=Path, required=True, metavar="RESULTS.jsonl")
    three = stages.add_parser("report", help="results -> tables, report.json, report.html")
    three.add_argument("results", type=Path, nargs="+")
    three.add_argument("--out", type=Path, metavar="FOLDER")
    all_three = stages.add_parser("run", parents=[data, model, runs], help="all three stages")
    all_three.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    again = stages.add_parser("typing", parents=[engine], help="held-out files are typed again")
    again.add_argument("--corpus", type=Path, default=Path("data/corpus"), metavar="FOLDER")
    again.add_argument("--regions", type=int, default=100, metavar="N", help="of 8 lines each")
    again.add_argument("--seed", type=int, default=0, metavar="S", help="which regions")
    again.add_argument("--every", type=int, default=8, metavar="N", help="characters a request")
    again.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    times = stages.add_parser("latency", parents=[engine], help="how long requests take")
    times.add_argument("--corpus", type=Path, metavar="FOLDER", help="else files of coder/")
    times.add_argument("--contexts", type=int, nargs="+", metavar="N", help="lengths in tokens")
    times.add_argument("--prompts", type=int, metavar="N", help="of each length")
    times.add_argument("--rounds", type=int, metavar="N", help="of each prompt in each mode")
    times.add_argument("--starts", type=int, metavar="N", help="fresh processes in each mode")
    times.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    pair = stages.add_parser("compare", help="two runs on the same problems")
    pair.add_argument("first", type=Path)
    pair.add_argument("second", type=Path)
    check = stages.add_parser("selftest", parents=[data, runs], help="is the harness right?")
    check.add_argument("--out", type=Path, default=Path("selftest"), metavar="FOLDER")
    args = parser.parse_args(argv)
    least = {"limit": 1, "cursors": 1, "cursor_seed": 0, "workers": 1, "regions": 1, "every": 1}
    for name, low in least.items():
        value = getattr(args, name, None)
        if value is not None and value < low:
            raise UsageError(f"--{name.replace('_', '-')} is {value}; it must be at least {low}")
    return args


def suite_of(args: argparse.Namespace) -> Suite:
    """The problems that the command line names."""
    if args.suite == "line-end":
        from talaria.evals.cursors import line_end

        return take(line_end(args.corpus, args.cursors, args.cursor_seed), args.limit)
    path = locate(args.suite, args.data, args.download)
    return take(read_suite(args.suite, path, args.any_data), args.limit)


def options_of(args: argparse.Namespace) -> Options:
    """The decoder's options that the command line gives; UsageError for rules given in vain."""
    check_rules(args, args.mode or "diffuse")
    from talaria.coder.infill import Options

    assert {field.name for field in fields(Options)} >= set(OPTIONS)
    given = {name: getattr(args, name, None) for name in OPTIONS}
    return Options(**{k: v for k, v in given.items() if v is not None})


def request_of(args: argparse.Namespace) -> Request:
    """How samples are drawn, as the command line says."""
    from talaria.evals.generate import Request

    return Request(options_of(args), args.samples, args.batch, args.oracle_length)


def generate_command(args: argparse.Namespace) -> int:
    """Fill the holes."""
    suite = suite_of(args)
    from talaria.coder import checkpoint
    from talaria.evals.generate import generate

    request = request_of(args)
    generate(suite, checkpoint.load(args.model, args.device), request, args.out, args.device)
    print(args.out)
    return 0


def score_command(args: argparse.Namespace) -> int:
    """Compare and run."""
    from talaria.evals.score import score

    score(args.samples, suite_of(args), args.out, args.workers, args.require_isolation)
    print(args.out)
    return 0


def report_command(args: argparse.Namespace) -> int:
    """Print figures, and write them."""
    from talaria.evals.report import as_text, report

    print("\n\n".join(map(as_text, report(args.results, args.out))))
    if args.out:
        print(f"\n{args.out / 'report.html'}")
    return 0


def run_command(args: argparse.Namespace) -> int:
    """All three stages into one folder; what is there is not redone."""
    from talaria.coder import checkpoint
    from talaria.evals.generate import generate
    from talaria.evals.sandbox import Sandbox
    from talaria.evals.score import score

    suite, request = suite_of(args), request_of(args)
    if args.require_isolation and any(problem.test is not None for problem in suite.problems):
        with Sandbox(1, args.require_isolation):
            pass  # before the model has worked for nothing
    samples, results = args.out / "samples.jsonl", args.out / "results.jsonl"
    generate(suite, checkpoint.load(args.model, args.device), request, samples, args.device)
    score(samples, suite, results, args.workers, args.require_isolation)
    return reported(results, args.out)


def reported(results: Path, out: Path) -> int:
    """Print and write the report of one run, and say how to have it again."""
    from talaria.evals.report import as_text, report

    print("\n\n".join(map(as_text, report([results], out))))
    words = ["talaria", "eval", *sys.argv[2:]] if len(sys.argv) > 2 else ["talaria", "eval"]
    print(f"\n{out / 'report.html'}; again: {shlex.join(words)}")
    return 0


def typing_command(args: argparse.Namespace) -> int:
    """Regions of held-out files are typed again; what is there is not redone."""
    from talaria.evals.typing_replay import suite_of_regions, type_again

    suite = suite_of_regions(args.corpus, args.regions, args.seed)
    args.max_tokens, args.seed = args.max_tokens or SUGGESTED, None
    options = options_of(args)
    from talaria.coder import checkpoint
    from talaria.coder.engine import Engine

    results = args.out / "results.jsonl"
    with Engine(lambda: checkpoint.load(args.model, args.device)) as engine:
        type_again(suite, engine, options, args.every, results, args.device)
    return reported(results, args.out)


def latency_command(args: argparse.Namespace) -> int:
    """Both modes take turns on the same prompts; what is there is not redone."""
    from talaria.evals.latency import Plan, measure

    if args.mode is not None:
        raise UsageError(f"--mode is {args.mode}; latency always measures both: leave it out")
    given = {name: getattr(args, name) for name in ("contexts", "prompts", "rounds", "starts")}
    if given["contexts"]:
        given["contexts"] = tuple(sorted(set(given["contexts"])))
    plan = Plan(**{name: value for name, value in given.items() if value is not None})
    results = args.out / "results.jsonl"
    measure(args.corpus, args.model, options_of(args), plan, results, args.device)
    return reported(results, args.out)


def compare_command(args: argparse.Namespace) -> int:
    """Two runs, side by side."""
    from talaria.evals.report import compare_runs

    print(compare_runs(args.first, args.second))
    return 0


def selftest_command(args: argparse.Namespace) -> int:
    """True middles must pass, empty ones pass as often as is known, wrong ones never."""
    from talaria.evals.selftest import selftest

    suite = suite_of(args)
    if suite.problems[0].test is None:
        raise DataError(f"{suite.name} runs no tests: there is nothing to try")
    lines, right = selftest(suite, args.out, args.workers, args.require_isolation)
    print("\n".join(lines))
    return 0 if right else 1
