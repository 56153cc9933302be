"""`talaria eval`: generate samples, score them, report; `run` does all three."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from talaria.coder.arguments import Parser
from talaria.coder.errors import DataError, UsageError
from talaria.coder.infill_command import (
    add_cache_flag,
    add_decoding_flags,
    add_sizes_flag,
    check_decoding_flags,
)
from talaria.coder.request import MODES, UNTIL, Options
from talaria.evals.libraries import require
from talaria.evals.suites import SUITE_FILES, Suite, locate, read_suite, take

if TYPE_CHECKING:
    from talaria.evals.generate import Sampling

DRAWN = ("line-end", "whole-line", "function-body")  # from a corpus; the kinds in `cursors.HOLES`
SUITES = (*SUITE_FILES, *DRAWN)
# The decoder's options that the command line offers.
OPTIONS = (
    *("mode", "max_nfe", "max_tokens", "until", "temperature", "seed"),
    *("confidence_threshold", "lookahead", "check_syntax", "sizes", "approximate_cache"),
)
CORPUS = Path("data/corpus")
SUGGESTED = 32  # tokens of a suggestion while typing: an editor shows a line or two


def main(argv: list[str]) -> int:
    """Run one command; exit code 0, or 1 if a self-test fails."""
    args = arguments(argv)
    command, libraries = COMMANDS[args.stage]
    if args.stage == "report" and args.out:
        libraries += ("matplotlib",)
    require(*libraries)
    return command(args)


def arguments(argv: list[str]) -> argparse.Namespace:
    """Parse the options of `talaria eval`; UsageError for numbers out of range."""
    corpus, out, mode = corpus_flags(), out_flags(), mode_flags()
    data, runs = data_flags(corpus), run_flags()
    engine = engine_flags()
    model = sampling_flags(engine, mode)

    parser = Parser(prog="talaria eval", description="Measure a model: generate, score, report.")
    stages = parser.add_subparsers(dest="stage", required=True)
    generate_stage = stages.add_parser(
        "generate", parents=[data, model], help="write middles for a suite's holes"
    )
    add_out(generate_stage, "file for the middles; one that is there is continued", "SAMPLES.jsonl")
    score_stage = stages.add_parser(
        "score", parents=[data, runs], help="compare texts and run the tests (needs no model)"
    )
    score_stage.add_argument("samples", type=Path, help="a file that `generate` wrote")
    add_out(score_stage, "file for the verdicts; one that is there is continued", "RESULTS.jsonl")
    report_stage = stages.add_parser("report", help="print the figures of one or more runs")
    report_stage.add_argument("results", type=Path, nargs="+", help="files of results")
    add_out(report_stage, "also write report.json and report.html here", required=False)
    stages.add_parser(
        "run",
        parents=[data, model, runs, out],
        help="generate, score and report",
        description="Write middles for a suite's holes, score them and report, in one folder. Run "
        "again, the command continues its files.",
    )
    typing_stage = stages.add_parser(
        "typing", parents=[corpus, engine, mode, out], help="retype held-out files"
    )
    typing_stage.add_argument(
        "--regions",
        type=int,
        default=100,
        metavar="N",
        help="regions of 8 lines to retype (default: 100)",
    )
    typing_stage.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="S",
        help="seed from which the regions are drawn (default: 0)",
    )
    typing_stage.add_argument(
        "--every",
        type=int,
        default=8,
        metavar="N",
        help="characters typed between requests (default: 8)",
    )
    programs = stages.add_parser(
        "programs", parents=[corpus, out], help="type whole programs through the language server"
    )
    programs.add_argument("--model", help="a folder, or a name from `talaria models`")
    programs.add_argument("--device", default="cpu", help="cpu (the default), cuda or mps")
    programs.add_argument(
        "--programs", type=int, default=5, metavar="N", help="of different packages (default: 5)"
    )
    programs.add_argument(
        "--windows", type=int, metavar="N", help="type only N windows of 12 lines, drawn at random"
    )
    programs.add_argument(
        "--seed", type=int, default=0, metavar="S", help="of the draws (default: 0)"
    )
    programs.add_argument(
        "--least-confidence", type=float, metavar="P", help="the server's option of this name"
    )
    latency_stage = stages.add_parser(
        "latency",
        parents=[corpus_flags(None, "the files of coder/"), engine, out],
        help="time ar and diffuse, or verify, on the same prompts",
    )
    # Refused with the reason; without it, argparse would take `--mode` for `--model`.
    latency_stage.add_argument("--mode", help=argparse.SUPPRESS)
    latency_stage.add_argument(
        "--contexts",
        type=int,
        nargs="+",
        metavar="N",
        help="lengths of the context in tokens (default: 64 128 256 384)",
    )
    latency_stage.add_argument(
        "--prompts", type=int, metavar="N", help="prompts for each length (default: 12)"
    )
    latency_stage.add_argument(
        "--rounds",
        type=int,
        metavar="N",
        help="repetitions of each prompt in each mode (default: 3)",
    )
    latency_stage.add_argument(
        "--starts",
        type=int,
        metavar="N",
        help="fresh processes that time the start of each mode (default: 3)",
    )
    compare_stage = stages.add_parser("compare", help="compare two runs on the same problems")
    compare_stage.add_argument("first", type=Path, help="a file of results")
    compare_stage.add_argument("second", type=Path, help="another one")
    selftest_stage = stages.add_parser("selftest", parents=[data, runs], help="test the harness")
    kept = "keep samples and results in this folder (default: they are removed)"
    add_out(selftest_stage, kept, required=False)
    args = parser.parse_args(argv)
    least = {"limit": 1, "limit_seed": 0, "cursors": 1, "cursor_seed": 0}
    least |= {"workers": 1, "regions": 1, "every": 1}
    for name, low in least.items():
        value = getattr(args, name, None)
        if value is not None and value < low:
            raise UsageError(f"--{name.replace('_', '-')} is {value}; it must be at least {low}")
    return args


def flags(*parents: Parser) -> Parser:
    """Return an empty set of options that commands share."""
    return Parser(add_help=False, parents=parents)


def add_out(parser: Parser, what: str, metavar: str = "FOLDER", required: bool = True) -> None:
    """Say where a command writes."""
    parser.add_argument("--out", type=Path, required=required, metavar=metavar, help=what)


def corpus_flags(default: Path | None = CORPUS, otherwise: str = str(CORPUS)) -> Parser:
    """Say which real files problems are drawn from; `otherwise` names those without the option."""
    shared = flags()
    shared.add_argument(
        "--corpus",
        type=Path,
        default=default,
        metavar="FOLDER",
        help=f"the corpus whose held-out files are used (default: {otherwise})",
    )
    return shared


def out_flags() -> Parser:
    """Say where results and the report go."""
    shared = flags()
    what = "folder for samples, results and the report; those that are there are continued"
    add_out(shared, what)
    return shared


def data_flags(corpus: Parser) -> Parser:
    """Say which problems are asked."""
    shared = flags(corpus)
    shared.add_argument("suite", choices=SUITES, metavar="SUITE", help=", ".join(SUITES))
    source = shared.add_argument_group("problems")
    source.add_argument("--data", type=Path, metavar="FILE", help="the suite's file")
    source.add_argument("--download", action="store_true", help="download it if it is missing")
    source.add_argument(
        "--any-data", action="store_true", help="accept any file with the same fields"
    )
    source.add_argument(
        "--cursors",
        type=int,
        default=500,
        metavar="N",
        help=f"holes that {', '.join(DRAWN)} draw (default: 500)",
    )
    source.add_argument(
        "--cursor-seed",
        type=int,
        default=0,
        metavar="S",
        help="seed from which they are drawn (default: 0)",
    )
    source.add_argument("--limit", type=int, metavar="N", help="only N problems: the first ones")
    source.add_argument(
        "--limit-seed",
        type=int,
        metavar="S",
        help="with --limit, draw the problems at random from this seed",
    )
    return shared


def engine_flags() -> Parser:
    """Say which model runs where, and how it decodes."""
    shared = flags()
    shared.add_argument(
        "--model",
        help="a folder, or a name from `talaria models` (default: the one marked there)",
    )
    shared.add_argument("--device", default="cpu", help="cpu (the default), cuda, cuda:N or mps")
    shared.add_argument(
        "--max-nfe",
        type=int,
        metavar="N",
        help="at most N evaluations of the model per hole (default: the model's setting)",
    )
    shared.add_argument(
        "--max-tokens",
        type=int,
        metavar="N",
        help=f"at most N tokens (default: the model's setting; for typing {SUGGESTED})",
    )
    shared.add_argument(
        "--until",
        choices=UNTIL,
        help="end middles no later than the end of this (default: the model decides)",
    )
    add_decoding_flags(shared)
    shared.add_argument(
        "--no-syntax-check",
        dest="check_syntax",
        action="store_const",
        const=False,
        help="keep middles that add a syntax error as they are, neither repaired nor trimmed",
    )
    return shared


def mode_flags() -> Parser:
    """Say in which mode."""
    shared = flags()
    shared.add_argument(
        "--mode", choices=MODES, help="how middles are decoded (default: the model's setting)"
    )
    return shared


def sampling_flags(*engine: Parser) -> Parser:
    """Say how samples are drawn."""
    shared = flags(*engine)
    shared.add_argument(
        "--temperature",
        type=float,
        metavar="T",
        help="0 takes the likeliest token, above 0 draws (default: 0)",
    )
    shared.add_argument(
        "--seed",
        type=int,
        metavar="S",
        help="seed of a problem's first sample; sample n, from 0, has the seed S + n (default: 0)",
    )
    add_sizes_flag(shared)
    add_cache_flag(shared)
    shared.add_argument(
        "--samples", type=int, default=1, metavar="N", help="samples per problem (default: 1)"
    )
    shared.add_argument(
        "--batch",
        type=int,
        default=1,
        metavar="N",
        help="holes at a time: faster, but a hole's time is then its share of the batch's",
    )
    shared.add_argument(
        "--oracle-length", action="store_true", help="give the model the length of each true middle"
    )
    return shared


def run_flags() -> Parser:
    """Say how programs are run."""
    shared = flags()
    shared.add_argument(
        "--workers",
        type=int,
        default=os.cpu_count() or 1,
        metavar="N",
        help="programs run at a time (default: one per core)",
    )
    shared.add_argument(
        "--require-isolation",
        metavar="LEVEL",
        help="refuse to run programs in a sandbox below this level: limits, namespaces or full",
    )
    return shared


def suite_of(args: argparse.Namespace) -> Suite:
    """Read the problems that the command line names."""
    if args.limit is None and args.limit_seed is not None:
        raise UsageError(
            f"--limit-seed is {args.limit_seed}, but all problems are asked; give a --limit too"
        )
    if args.suite in DRAWN:
        from talaria.evals.cursors import drawn_suite

        suite = drawn_suite(args.suite, args.corpus, args.cursors, args.cursor_seed)
    else:
        suite = read_suite(args.suite, locate(args.suite, args.data, args.download), args.any_data)
    return take(suite, args.limit, args.limit_seed)


def options_of(args: argparse.Namespace) -> Options:
    """Build the decoder's options; UsageError for those that have no effect in the mode."""
    check_decoding_flags(args, args.mode)
    given = {name: getattr(args, name, None) for name in OPTIONS}
    return Options(**{k: v for k, v in given.items() if v is not None})


def sampling_of(args: argparse.Namespace) -> Sampling:
    """Read how samples are drawn from the command line."""
    from talaria.evals.generate import Sampling

    return Sampling(options_of(args), args.samples, args.batch, args.oracle_length)


def generate_command(args: argparse.Namespace) -> int:
    """`talaria eval generate`: fill the holes of a suite."""
    suite = suite_of(args)
    from talaria.coder.loading import load
    from talaria.evals.generate import generate

    sampling = sampling_of(args)
    generate(suite, load(args.model, args.device), sampling, args.out, args.device)
    print(args.out)
    return 0


def score_command(args: argparse.Namespace) -> int:
    """`talaria eval score`: compare texts and run programs."""
    from talaria.evals.score import score

    score(args.samples, suite_of(args), args.out, args.workers, args.require_isolation)
    print(args.out)
    return 0


def report_command(args: argparse.Namespace) -> int:
    """`talaria eval report`: print figures and, with --out, write them."""
    from talaria.evals.report import as_text, report

    print("\n\n".join(map(as_text, report(args.results, args.out))))
    if args.out:
        print(f"\n{args.out / 'report.html'}")
    return 0


def run_command(args: argparse.Namespace) -> int:
    """`talaria eval run`: all three stages into one folder; existing rows are kept."""
    from talaria.coder.loading import load
    from talaria.evals.generate import generate
    from talaria.evals.sandbox import Sandbox
    from talaria.evals.score import score

    suite, sampling = suite_of(args), sampling_of(args)
    if args.require_isolation and any(problem.test is not None for problem in suite.problems):
        with Sandbox(1, args.require_isolation):
            pass  # raises now rather than after sampling
    samples, results = args.out / "samples.jsonl", args.out / "results.jsonl"
    generate(suite, load(args.model, args.device), sampling, samples, args.device)
    score(samples, suite, results, args.workers, args.require_isolation)
    return report_run(results, args.out)


def report_run(results: Path, out: Path) -> int:
    """Print and write the report of one run, and the command that repeats it."""
    from talaria.evals.report import as_text, report

    print("\n\n".join(map(as_text, report([results], out))))
    words = ["talaria", "eval", *sys.argv[2:]] if len(sys.argv) > 2 else ["talaria", "eval"]
    print(f"\n{out / 'report.html'}; again: {shlex.join(words)}")
    return 0


def typing_command(args: argparse.Namespace) -> int:
    """`talaria eval typing`: retype regions of held-out files; existing rows are kept."""
    from talaria.evals.typing_replay import suite_of_regions, type_again

    suite = suite_of_regions(args.corpus, args.regions, args.seed)
    args.max_tokens, args.seed = args.max_tokens or SUGGESTED, None
    options = options_of(args)
    from talaria.coder.engine import Engine
    from talaria.coder.loading import load

    results = args.out / "results.jsonl"
    with Engine(lambda: load(args.model, args.device)) as engine:
        type_again(suite, engine, options, args.every, results, args.device)
    return report_run(results, args.out)


def programs_command(args: argparse.Namespace) -> int:
    """`talaria eval programs`: type programs through the language server; rows are kept."""
    from talaria.evals.typing_programs import suite_of_programs, type_programs

    suite = suite_of_programs(args.corpus, args.programs, args.windows, args.seed)
    results = args.out / "results.jsonl"
    type_programs(suite, args.model, args.device, args.least_confidence, results)
    return report_run(results, args.out)


def latency_command(args: argparse.Namespace) -> int:
    """`talaria eval latency`: time both modes on the same prompts; existing rows are kept."""
    from talaria.evals.latency import measure
    from talaria.evals.timing import TimingPlan

    if args.mode is not None:
        raise UsageError(f"--mode is {args.mode}; latency always measures both: leave it out")
    given = {name: getattr(args, name) for name in ("contexts", "prompts", "rounds", "starts")}
    if given["contexts"]:
        given["contexts"] = tuple(sorted(set(given["contexts"])))
    plan = TimingPlan(**{name: value for name, value in given.items() if value is not None})
    results = args.out / "results.jsonl"
    measure(args.corpus, args.model, options_of(args), plan, results, args.device)
    return report_run(results, args.out)


def compare_command(args: argparse.Namespace) -> int:
    """`talaria eval compare`: compare two runs pair by pair."""
    from talaria.evals.report import compare_runs

    print(compare_runs(args.first, args.second))
    return 0


def selftest_command(args: argparse.Namespace) -> int:
    """`talaria eval selftest`: score true, empty and wrong middles; exit code 1 on a surprise."""
    from talaria.evals.selftest import selftest

    suite = suite_of(args)
    if suite.problems[0].test is None:
        raise DataError(f"{suite.name} runs no tests; choose a suite with tests")
    with tempfile.TemporaryDirectory(prefix="talaria-") as passing:
        folder = args.out or Path(passing)
        lines, as_expected = selftest(suite, folder, args.workers, args.require_isolation)
    print("\n".join(lines))
    return 0 if as_expected else 1


# Each command and the libraries it will need before it is done, checked before it starts.
COMMANDS: dict[str, tuple[Callable[[argparse.Namespace], int], tuple[str, ...]]] = {
    "generate": (generate_command, ("tqdm",)),
    "score": (score_command, ("rapidfuzz", "tqdm")),
    "report": (report_command, ("scipy",)),
    "run": (run_command, ("matplotlib", "rapidfuzz", "scipy", "tqdm")),
    "typing": (typing_command, ("matplotlib", "tqdm")),
    "programs": (programs_command, ("tqdm",)),
    "latency": (latency_command, ("matplotlib", "tqdm")),
    "compare": (compare_command, ("scipy",)),
    "selftest": (selftest_command, ("rapidfuzz", "tqdm")),
}
