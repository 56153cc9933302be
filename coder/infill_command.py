"""`talaria infill`: fill a hole in a file, or write the body of a function."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from talaria.coder import files
from talaria.coder.arguments import Parser
from talaria.coder.errors import TalariaError, UsageError
from talaria.coder.request import MODES, UNTIL

# The model's libraries are imported after the request has been checked: a wrong one is answered at
# once.
if TYPE_CHECKING:
    from talaria.coder.answers import Answer
    from talaria.coder.loading import LoadTerminal
    from talaria.coder.request import Request
    from talaria.coder.source import Target

MOST_MINUTES = 10_000.0  # that a model is kept loaded without being used
# Options without an effect, by mode.
USELESS = {"ar": ("--confidence-threshold", "--lookahead"), "verify": ("--confidence-threshold",)}
BETWEEN = "\n--\n"  # between candidates, as grep separates groups of lines


def build_parser() -> argparse.ArgumentParser:
    """The options of `talaria infill`."""
    parser = Parser(
        prog="talaria infill",
        description="Fill a hole and print what belongs there.",
        epilog="FILE:LINE:COL is a cursor (1-based line, 0-based column), FILE:LINE the end of a "
        "line, FILE::QUALIFIED.NAME the body of a function (@LINE behind it if there are several), "
        "- standard input with the hole marked <|fill|>. Of a notebook, FILE is NAME.ipynb#CELL, "
        "cells of every kind counted from 1.",
    )
    parser.add_argument(
        "target", help="FILE:LINE:COL, FILE:LINE, FILE::QUALIFIED.NAME or -; see below"
    )
    parser.add_argument(
        "--model",
        help="a folder, a GGUF file, or a name from `talaria models` (default: the one marked "
        "there)",
    )
    parser.add_argument(
        "--adapter",
        metavar="FOLDER",
        help="what `talaria adapt` or `talaria finetune` made of a base: the folder `model` of its "
        "run; with --model, of that model's base",
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:N or mps")
    parser.add_argument(
        "-q", "--quiet", action="store_true", help="say nothing on standard error but errors"
    )
    parser.add_argument(
        "--daemon",
        type=float,
        default=10.0,
        metavar="MINUTES",
        help="let a process in the background keep the model loaded until it has been idle for so "
        "many minutes; 0: load it here, and ask no such process (default: TALARIA_DAEMON, else 10)",
    )
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
        "--instruction",
        metavar="TEXT",
        help="what the middle should do; the model reads it as a comment above the hole, which is "
        "not kept (default: none)",
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
        "the best, --write the best that does not break the file",
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
    add_sizes_flag(parser)
    add_cache_flag(parser)
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
        help="the same seed draws the same text",
    )
    return parser


def sizes(text: str) -> tuple[int, ...]:
    """Numbers of tokens, with commas between them."""
    try:
        return tuple(int(each) for each in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of sizes, as 8,16,32") from error


def add_decoding_flags(parser: argparse._ActionsContainer) -> None:
    """The options that decide how much an evaluation writes."""
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
        help="positions beyond the committed tokens that a step evaluates; in the mode verify, one "
        "more than the masks behind a draft (default: the model's setting)",
    )


def add_sizes_flag(parser: argparse._ActionsContainer) -> None:
    """The option that gives the lengths of canvases."""
    parser.add_argument(
        "--sizes",
        type=sizes,
        metavar="N,N,…",
        help="for models that cannot tell how long a middle is: fill canvases of so many tokens "
        "side by side, and take the text that the model is surest of; each costs what one would "
        "alone (default: the model's)",
    )


def add_cache_flag(parser: argparse._ActionsContainer) -> None:
    """The option that computes steps approximately."""
    parser.add_argument(
        "--approximate-cache",
        metavar="KIND",
        help="for models that read in both directions: keep what is before the current block "
        "(prefix), or all around it (dual), as it was computed when the block was begun; faster, "
        "and not exact. dual:4 computes all in every fourth step, too (default: every step does)",
    )


def check_decoding_flags(args: argparse.Namespace, mode: str | None = None) -> None:
    """UsageError for options that have no effect in this mode."""
    values = vars(args)
    useless = [
        name
        for name in USELESS.get(mode or "", ())
        if values[name[2:].replace("-", "_")] is not None
    ]
    if useless:
        raise UsageError(
            f"{' and '.join(useless)} would change nothing in --mode {mode}; "
            "leave it out, or use another mode, as diffuse"
        )


def command(argv: list[str]) -> int:
    """`talaria infill`: read, fill, then write or print."""
    args = arguments(argv)
    from talaria.coder import source

    hole = source.parse_target(args.target, standard_input)
    if args.write and hole.path is None:
        raise UsageError("--write needs a file to write to; standard input has none")
    if args.trace:
        check_page(args.trace, hole.path)
    answer = answered(request_of(args, hole), args)
    allowed = [each for each in answer.offers if each.refused is None] if args.write else []
    best = (allowed or [answer.best])[0]
    # Nothing to offer leaves the file as it was, without a blank line of indentation.
    middle = hole.lead + best.text if best.text else hole.middle
    if args.trace and answer.page is not None:
        write_page(args.trace, answer.page)
    refused = best.refused if args.write else None
    if args.write and not refused:
        source.write(hole, middle)
    if args.json:
        utf8 = (sys.stdout.encoding or "").lower() == "utf-8"
        print(json.dumps(answer.as_json(hole.lead), ensure_ascii=not utf8))
    elif args.diff:
        show_diff(replace(hole, path=hole.path and from_here(hole.path)), middle)
    elif not args.write:
        offered = [hole.lead + offer.text for offer in answer.offers if offer.text]
        print(BETWEEN.join(offered), end="\n" if offered else "")
    if refused:
        raise TalariaError(f"{refused}, so {hole.path} is as it was; print it without --write")
    if not args.json and not args.quiet:
        print(answer.summary, file=sys.stderr)
    return 0


def arguments(argv: list[str]) -> argparse.Namespace:
    """The options of a call: what is not typed, the environment and the files may say."""
    from talaria.coder import preferences

    parser = build_parser()
    defaults = {each.dest: each.default for each in parser._actions}
    unset = object()
    parsed = parser.parse_args(argv, argparse.Namespace(**dict.fromkeys(defaults, unset)))
    typed = {name: value for name, value in vars(parsed).items() if value is not unset}
    file = re.split(r"::|:[0-9]|#[0-9]", typed["target"])[0]
    files = preferences.read(parser, Path(os.path.abspath("." if file == "-" else file)))
    chosen = {**defaults, **files, **preferences.environment(), **typed}
    if "mode" not in typed and chosen["mode"] == "verify":
        # What is typed for one call is not at odds with a preference.
        several = chosen["candidates"] > 1 or (chosen["temperature"] or 0) > 0
        chosen["mode"] = None if several else "verify"
    flags = {name: typed.get(name) for name in ("confidence_threshold", "lookahead")}
    check_decoding_flags(argparse.Namespace(**flags), chosen["mode"])
    if chosen["mode"] not in (None, "diffuse"):
        chosen |= flags
    if "adapter" in typed or ("model" not in typed and chosen["adapter"] is not None):
        from talaria.coder import checkpoint

        chosen["model"] = str(checkpoint.adapter(chosen["adapter"], typed.get("model")))
    if not 0 <= chosen["daemon"] <= MOST_MINUTES:
        limit = f"it must be between 0 and {MOST_MINUTES:,.0f} minutes"
        raise UsageError(f"--daemon is {chosen['daemon']}; {limit}")
    return argparse.Namespace(**chosen)


def request_of(args: argparse.Namespace, hole: Target) -> Request:
    """What the model is asked for a hole; UsageError for options that do not fit."""
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
    replaces = hole.middle.removeprefix(hole.lead) if args.write else None
    prefix, cell = hole.prefix + hole.lead, hole.notebook is not None
    if args.instruction is not None and not args.instruction.strip():
        raise UsageError("--instruction is empty; say what the middle should do, or leave it out")
    return Request(
        prefix,
        hole.suffix,
        Options(**chosen),
        replaces=replaces,
        cell=cell,
        instruction=args.instruction or "",
    )


def answered(request: Request, args: argparse.Namespace) -> Answer:
    """Fill the hole: the process in the background does, or this one, which loads the model."""
    from talaria.coder.loading import LoadTerminal

    terminal = LoadTerminal(None if args.quiet else args.model or "the model")
    try:
        return filled(request, args, terminal)
    finally:
        terminal.close()


def filled(request: Request, args: argparse.Namespace, terminal: LoadTerminal) -> Answer:
    """The same; the terminal hears of what happens meanwhile."""
    if args.daemon:
        from talaria.coder import daemon

        trace = bool(args.trace)
        found = daemon.ask(request, args.model, args.device, args.daemon, trace, terminal)
        if found is not None:
            return found
    from concurrent.futures import wait

    from talaria.coder.answers import answer_of
    from talaria.coder.engine import Engine
    from talaria.coder.loading import load

    with Engine(lambda: load(args.model, args.device, terminal)) as engine:
        future = engine.submit(request).future
        # On Windows, Ctrl-C does not end a wait without a limit.
        while not wait([future], timeout=0.5).done:
            pass
        return answer_of(future.result(), request, engine.model.result(), bool(args.trace))


def show_diff(hole: Target, middle: str) -> None:
    """Print a patch; of a file in another encoding than UTF-8, in that one, so that it applies."""
    from talaria.coder.source import unified_diff

    text = unified_diff(hole, middle)
    if hole.encoding == "utf-8":
        print(text, end="")
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(text.encode(hole.encoding, "backslashreplace"))
        sys.stdout.buffer.flush()


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
