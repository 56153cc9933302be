"""`talaria infill`: fill a hole in a file, or write the body of a function."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from talaria.coder import files
from talaria.coder.errors import TalariaError, UsageError
from talaria.coder.request import MODES, UNTIL

# The model's libraries are imported after the request has been checked: a wrong one is answered at
# once.
if TYPE_CHECKING:
    from talaria.coder.request import Options, Until
    from talaria.coder.results import Infill

BETWEEN = "\n--\n"  # between candidates, as grep separates groups of lines


def build_parser() -> argparse.ArgumentParser:
    """The options of `talaria infill`."""
    parser = argparse.ArgumentParser(
        prog="talaria infill",
        description="Fill a hole and print what belongs there.",
        epilog="FILE:LINE:COL is a cursor (1-based line, 0-based column), FILE::QUALIFIED.NAME "
        "the body of a function, - standard input with the hole marked <|fill|>.",
    )
    parser.add_argument("target", help="FILE:LINE:COL, FILE::QUALIFIED.NAME or -")
    parser.add_argument(
        "--model",
        help="a folder, a GGUF file, or a name from `talaria models` (default: the one marked "
        "there)",
    )
    parser.add_argument("--device", default="cpu", help="cpu (the default), cuda, cuda:N or mps")
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--json", action="store_true", help="print the result as JSON")
    shown.add_argument(
        "--diff",
        action="store_true",
        help="print a unified diff for `patch -p1`; paths are relative to this folder, absolute "
        "for files outside it (apply in /)",
    )
    parser.add_argument(
        "--write",
        action="store_true",
        help="put the middle into the file; prints nothing unless --json or --diff is given, and "
        "refuses text that would break the file",
    )
    parser.add_argument(
        "--trace", type=Path, metavar="OUT.html", help="write a page that replays the steps"
    )
    parser.add_argument(
        "--mode",
        choices=MODES,
        help="diffuse commits several tokens per step where it is confident; ar writes one per "
        "step from left to right; verify writes the same text as ar in fewer steps (default: the "
        "model's setting)",
    )
    parser.add_argument(
        "--candidates",
        type=int,
        default=1,
        metavar="N",
        help="print up to N distinct middles, best first, separated by a line of --; --diff takes "
        "the best, --write the best that does not break the file (default: 1)",
    )
    parser.add_argument(
        "--max-nfe",
        type=int,
        metavar="N",
        help="at most N evaluations of the model (default: the model's setting)",
    )
    parser.add_argument(
        "--max-tokens",
        type=int,
        metavar="N",
        help="at most N tokens (default: the model's setting)",
    )
    parser.add_argument(
        "--until",
        choices=UNTIL,
        help="end the middle no later than the end of this (default: block for a function's "
        "body, else the model decides; where it cannot, block for a missing body, else line)",
    )
    parser.add_argument(
        "--temperature",
        type=float,
        metavar="T",
        help="0 takes the likeliest token, above 0 draws (default: 0, and 0.7 for candidates after "
        "the first)",
    )
    add_decoding_flags(parser)
    parser.add_argument(
        "--no-syntax-check",
        dest="check_syntax",
        action="store_false",
        help="offer middles that add a syntax error as they are, neither repaired nor trimmed; "
        "--write still refuses them",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="S",
        help="the same seed draws the same text (default: 0)",
    )
    return parser


def add_decoding_flags(parser: argparse._ActionsContainer) -> None:
    """The options that trade quality for speed in the mode "diffuse"."""
    parser.add_argument(
        "--confidence-threshold",
        type=float,
        metavar="P",
        help="commit tokens of at least this confidence; lower is faster and less accurate "
        "(default: the model's setting)",
    )
    parser.add_argument(
        "--lookahead",
        type=int,
        metavar="N",
        help="positions beyond the committed tokens that a step evaluates (default: the model's "
        "setting)",
    )


def check_decoding_flags(args: argparse.Namespace, mode: str | None = None) -> None:
    """UsageError for options that have no effect in this mode."""
    values = vars(args)
    names = ("--confidence-threshold", "--lookahead")
    useless = [name for name in names if values[name[2:].replace("-", "_")] is not None]
    if useless and mode not in (None, "diffuse"):
        raise UsageError(
            f"{' and '.join(useless)} would change nothing in --mode {mode}; "
            "leave it out, or use --mode diffuse"
        )


def command(argv: list[str]) -> int:
    """`talaria infill`: read, fill, then write or print."""
    args = build_parser().parse_args(argv)
    check_decoding_flags(args, args.mode)
    from talaria.coder import source

    hole = source.parse_target(args.target, standard_input)
    if args.write and hole.path is None:
        raise UsageError("--write needs a file to write to; standard input has none")
    if args.trace:
        check_page(args.trace, hole.path)

    from talaria.coder.bounds import until_of
    from talaria.coder.engine import Engine
    from talaria.coder.loading import load
    from talaria.coder.request import Options, Request

    chosen = {
        name: getattr(args, name)
        for name in Options.__dataclass_fields__
        if getattr(args, name, None) is not None
    }
    if hole.name:
        chosen.setdefault("until", "block")  # a function ends where its body does
    # At a cursor, the user may type the block's body next, so it may be missing.
    chosen["complete"] = bool(hole.name or args.write)
    options = Options(**chosen)
    prefix = hole.prefix + hole.lead
    replaces = hole.middle.removeprefix(hole.lead) if args.write else None
    request = Request(prefix, hole.suffix, options, replaces=replaces)
    with Engine(lambda: load(args.model, args.device)) as engine:
        result = engine.fill(request)
        model = engine.model.result()
    until = until_of(request, model.settings)
    allowed = [each for each in result.candidates if each.refused is None] if args.write else []
    best = (allowed or [result.best])[0]
    # Nothing to offer leaves the file as it was, without a blank line of indentation.
    middle = hole.lead + best.text if best.text else hole.middle
    if args.trace:
        from talaria.coder.trace import page

        write_page(args.trace, page(result, model, prefix, hole.suffix))
    refused = best.refused if args.write else None
    if args.write and not refused:
        source.write(hole, middle)
    if args.json:
        utf8 = (sys.stdout.encoding or "").lower() == "utf-8"
        print(json.dumps(as_json(result, model.name, until, hole.lead), ensure_ascii=not utf8))
    elif args.diff:
        named = replace(hole, path=hole.path and from_here(hole.path))
        print(source.unified_diff(named, middle), end="")
    elif not args.write:
        offered = [hole.lead + candidate.text for candidate in result.candidates if candidate.text]
        print(BETWEEN.join(offered), end="\n" if offered else "")
    if refused:
        raise TalariaError(f"{refused}, so {hole.path} is as it was; print it without --write")
    if not args.json:
        settled = replace(options.settled(model.settings), until=until)
        print(summary(result, settled), file=sys.stderr)
    return 0


def standard_input() -> bytes:
    """Standard input, up to the largest size that is accepted."""
    from talaria.coder.source import MAX_FILE_BYTES

    if sys.stdin is None:
        raise UsageError("standard input is closed; give a file, or text on standard input")
    return sys.stdin.buffer.read(MAX_FILE_BYTES + 1)


def check_page(page: Path, source: Path | None) -> None:
    """Refuse a page that would replace another file or cannot be written, before computing."""
    with naming(page):
        there = page.exists()
        if there and (not page.is_file() or (source and page.samefile(source))):
            raise UsageError(
                f"--trace is {str(page)!r}, which is the file to fill, a folder or a device; "
                "give the name of a page to write"
            )
        with tempfile.TemporaryFile(dir=page.parent):
            pass


def write_page(page: Path, text: str) -> None:
    """Write a page, wholly or not at all."""
    with naming(page):
        files.write(page, text)


@contextlib.contextmanager
def naming(page: Path) -> Iterator[None]:
    """Report a page that cannot be written by the name that the user gave."""
    try:
        yield
    except OSError as error:
        raise TalariaError(
            f"--trace is {str(page)!r}, which cannot be written ({error.strerror}); "
            "give a name in a folder that is there and may be written to"
        ) from error


def from_here(path: Path) -> Path:
    """A file's path with links resolved, relative to this folder if it is inside."""
    real, here = path.resolve(), Path.cwd()
    return real.relative_to(here) if real.is_relative_to(here) else real


def as_json(result: Infill, model: str, until: Until | None, lead: str = "") -> dict[str, object]:
    """The fields that other tools rely on."""

    def with_lead(text: str) -> str:
        return lead + text if text else ""

    return {
        "text": with_lead(result.best.text),
        "candidates": [
            {
                "text": with_lead(c.text),
                "score": c.score,
                "tokens": c.length,
                "stopped": c.stopped,
                "unfinished": c.unfinished,
            }
            for c in result.candidates
        ],
        "nfe": result.nfe,
        "tokens": result.best.length,
        "tokens_per_forward": round(result.tokens_per_forward, 3),
        "elapsed_ms": round(result.elapsed_ms, 1),
        "context_tokens": result.context_tokens,
        "model": model,
        "stopped": result.best.stopped,
        "until": until,
        "syntax": {
            "errors_before": result.syntax.errors_before,
            "errors_after": result.syntax.errors_after,
            "clean": result.syntax.clean,
            "refused": result.syntax.refused,
            "unfinished": result.syntax.unfinished,
        },
    }


def summary(result: Infill, options: Options) -> str:
    """One line about what it took."""
    best, asked = result.best, options.candidates
    texts = counted(sum(bool(c.text) for c in result.candidates), "different text")
    of = f"{texts} of {asked} candidates, the best: " if asked > 1 else ""
    end = " and <eom>" if best.stopped == "eom" else ""
    steps = counted(result.nfe, "step")
    if best.text:
        each = f"{result.tokens_per_forward:.1f} a step"
        work = f"{counted(best.length, 'token')}{end} in {steps} ({each})"
    else:
        # Of several, others may have a text that the model holds less likely than none.
        nothing = "empty" if len(result.candidates) > 1 else "nothing to offer"
        work = f"{nothing} after {steps}"
    bound = f" ({options.until})" if best.stopped == "bound" else ""
    flaw = ", its block still lacks a body" if result.syntax.unfinished else ""
    flaw = flaw if result.syntax.sound else ", adds a syntax error"
    return (
        f"{of}{work}, {result.elapsed_ms:.0f} ms, {options.mode}, stopped at {best.stopped}{bound}"
        f"{flaw}"
    )


def counted(number: int, noun: str) -> str:
    """A number with its noun, in the plural where it must be."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
