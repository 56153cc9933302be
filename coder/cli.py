"""The command line: `talaria infill`, `models`, `doctor`, and the way to all other commands."""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib.util
import io
import json
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from talaria.coder.errors import TalariaError, UsageError

# torch is imported where a model is needed, so that a wrong request is answered at once.
if TYPE_CHECKING:
    from talaria.coder.infill import Infill, Options
    from talaria.coder.source import Hole

COMMANDS = "talaria.commands"  # entry points of the commands that live outside `coder`
GUARDED = 2_000_000  # characters of a file that is compiled before and after it is written to
BETWEEN = "\n--\n"  # between candidates, as grep puts it between groups of lines
RULES = (
    ("--confidence-threshold", float, "P", "lower is faster and less sure (the model's own)"),
    ("--confidence-factor", float, "F", "instead: surer, the more a step commits; 0 is one"),
    ("--entropy-bound", float, "NATS", "instead: as far as their doubts sum to no more"),
    ("--top-k", int, "K", "instead: so many a step"),
)

USAGE = """usage: talaria COMMAND [OPTIONS]

Fill in code by diffusion.

  infill     fill a hole in a file, or write the body of a function
  models     what can be loaded, where it lies, size, licence
  doctor     what to paste into a bug report
{others}
`talaria COMMAND --help` says more. Version {version}."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; exit code 0, 1 (it could not be done) or 2 (wrong usage)."""
    if argv is None:
        # A terminal that lacks a character shows its code; it is no reason to fail.
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
    argv = list(sys.argv[1:] if argv is None else argv)
    return guarded("talaria", lambda: run(argv))


def guarded(name: str, command: Callable[[], int]) -> int:
    """Run a command; what its user can mend is a line on standard error, no traceback.

    Returns its exit code, 1 (it could not be done) or 2 (wrong usage). The line begins with
    the `name` of the program.
    """
    try:
        return command()
    except TalariaError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # Whoever read the output went away; Python must not complain at exit too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        where = error.filename or "reading or writing"
        print(
            f"{name}: {where}: {error.strerror}; check the path, its permissions and free space",
            file=sys.stderr,
        )
        return 1


def run(argv: list[str]) -> int:
    """Find the command and call it; errors reach the caller."""
    name = argv[0] if argv else "--help"
    builtin: dict[str, Callable[[list[str]], int]] = {
        "infill": infill_command,
        "models": models_command,
        "doctor": doctor_command,
    }
    if name in builtin:
        return builtin[name](argv[1:])
    others = {point.name: point for point in metadata.entry_points(group=COMMANDS)}
    if name in ("-h", "--help"):
        listing = "".join(f"  {other:10} {about(others[other])}\n" for other in sorted(others))
        print(USAGE.format(others=listing, version=metadata.version("talaria")))
        return 0 if argv else 2
    if name == "--version":
        print(metadata.version("talaria"))
        return 0
    if name not in others:
        known = ", ".join([*builtin, *sorted(others)])
        raise UsageError(f"no command {name!r}; there are {known}")
    try:
        return int(others[name].load()(argv[1:]))
    except ModuleNotFoundError as error:
        raise TalariaError(
            f"`talaria {name}` needs {error.name}, which is not installed; "
            "in the folder of the project: make test, or pip install -e '.[train,eval]'"
        ) from error


def about(command: metadata.EntryPoint) -> str:
    """What a command does: the first line of its module, which is read but not imported."""
    try:
        found = importlib.util.find_spec(command.module)
        source = Path(found.origin).read_text(encoding="utf-8") if found and found.origin else ""
    except (ImportError, OSError):
        source = ""
    line = (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]
    said = line.removeprefix(f"`talaria {command.name}`: ").rstrip(".")
    return said or f"`talaria {command.name} --help`"


def infill_parser() -> argparse.ArgumentParser:
    """The options of `talaria infill`."""
    parser = argparse.ArgumentParser(
        prog="talaria infill",
        description="Fill a hole and print what belongs there. Values in brackets are those that "
        "hold where none is given.",
        epilog="FILE:LINE:COL is a cursor (1-based line, 0-based column), FILE::QUALIFIED.NAME "
        "the body of a function, - standard input with the hole marked <|fill|>.",
    )
    parser.add_argument("target", help="FILE:LINE:COL, FILE::QUALIFIED.NAME or -")
    parser.add_argument(
        "--model", help="a folder, or a name from `talaria models` (the one that is shipped)"
    )
    parser.add_argument("--device", default="cpu", help="(cpu), cuda or mps")
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--json", action="store_true", help="print everything about the result")
    shown.add_argument(
        "--diff",
        action="store_true",
        help="print a unified diff for `patch -p1` in this folder, or in / for a file elsewhere",
    )
    parser.add_argument("--write", action="store_true", help="put the middle into the file")
    parser.add_argument("--trace", type=Path, metavar="OUT.html", help="a page that replays it")
    parser.add_argument(
        "--mode",
        choices=("diffuse", "verify", "ar"),
        default="diffuse",
        help="(diffuse) commits several tokens a step where it is sure of them, ar writes one a "
        "step from left to right, verify writes what ar would in fewer steps",
    )
    parser.add_argument(
        "--candidates",
        type=int,
        default=1,
        metavar="N",
        help="print so many middles, the best first, with a line of -- between them; alike ones "
        "once, empty ones not; --diff and --write take the best (1)",
    )
    parser.add_argument(
        "--max-nfe", type=int, metavar="N", help="evaluations of the model (the model's own)"
    )
    parser.add_argument(
        "--max-tokens", type=int, metavar="N", help="longest middle (a quarter of the context)"
    )
    parser.add_argument(
        "--until",
        choices=("line", "statement", "block"),
        help="end with it at the latest (block for the body of a function, else nothing)",
    )
    parser.add_argument(
        "--temperature",
        type=float,
        metavar="T",
        help="0 takes the likeliest token, more draws (0, and 0.7 for candidates after the first)",
    )
    add_rules(parser)
    parser.add_argument(
        "--no-syntax-check",
        dest="check_syntax",
        action="store_false",
        help="offer what adds a syntax error too, neither mended nor cut",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="S", help="the same seed draws the same text (0)"
    )
    return parser


def add_rules(parser: argparse._ActionsContainer) -> None:
    """The options that say how many tokens a step commits."""
    for name, kind, value, what in RULES:
        parser.add_argument(name, type=kind, metavar=value, help=what)
    parser.add_argument(
        "--lookahead",
        type=int,
        metavar="N",
        help="positions that a step looks at behind what stands (the model's own)",
    )
    parser.add_argument(
        "--remask",
        type=float,
        metavar="P",
        help="choose tokens of less confidence again once all others are there (never)",
    )


def check_rules(args: argparse.Namespace, mode: str = "diffuse") -> None:
    """UsageError for a rule that would be given in vain: beside another, or in another mode."""
    values = vars(args)
    given = [name for name, *_ in RULES if values[name[2:].replace("-", "_")] is not None]
    others = [name for name in ("--lookahead", "--remask") if values[name[2:]] is not None]
    vain = given + others
    if vain and mode != "diffuse":
        raise UsageError(
            f"{' and '.join(vain)} would change nothing in --mode {mode}; "
            "leave it out, or use --mode diffuse"
        )
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} are rules of their own; give one of them")


def infill_command(argv: list[str]) -> int:
    """`talaria infill`: read, fill, then write or print."""
    args = infill_parser().parse_args(argv)
    check_rules(args, args.mode)
    from talaria.coder import source

    hole = source.parse_target(args.target, standard_input)
    if args.write and hole.path is None:
        raise UsageError("--write needs a file to write to; standard input has none")
    if args.trace:
        check_page(args.trace, hole.path)

    with plain_interrupts():
        from talaria.coder import checkpoint
        from talaria.coder.engine import Engine
        from talaria.coder.infill import Options

    chosen = {
        name: getattr(args, name)
        for name in Options.__dataclass_fields__
        if getattr(args, name, None) is not None
    }
    if hole.name:
        chosen.setdefault("until", "block")  # a function ends where its body does
    # Who asks at a cursor may type the body of a block that is offered.
    chosen["complete"] = bool(hole.name or args.write)
    options = Options(**chosen)
    prefix = hole.prefix + hole.lead
    with Engine(lambda: checkpoint.load(args.model, args.device)) as engine:
        result = engine.infill(prefix, hole.suffix, options)
        model = engine.model.result()
    # Nothing to offer leaves the file as it was, without a blank line of indentation.
    middle = hole.lead + result.best.text if result.best.text else hole.middle
    if args.trace:
        from talaria.coder.trace import page

        write_page(args.trace, page(result, model, prefix, hole.suffix))
    refused = None
    if args.write and not result.best.text:
        refused = "the model has nothing to offer"
    elif args.write and not result.syntax.clean:
        refused = f"what the model offers adds a syntax error ({shorten(result.best.text)})"
    elif args.write and breaks(hole, middle):
        refused = f"Python would no longer take the file ({shorten(result.best.text)})"
    if args.write and not refused:
        source.write(hole, middle)
    if args.json:
        utf8 = (sys.stdout.encoding or "").lower() == "utf-8"
        print(json.dumps(as_json(result, model.name, hole.lead), ensure_ascii=not utf8))
    elif args.diff:
        named = replace(hole, path=hole.path and from_here(hole.path))
        print(source.unified_diff(named, middle), end="")
    elif not args.write:
        offered = [hole.lead + candidate.text for candidate in result.candidates if candidate.text]
        print(BETWEEN.join(offered), end="\n" if offered else "")
    if refused:
        raise TalariaError(f"{refused}, so {hole.path} is as it was; print it without --write")
    if not args.json:
        print(summary(result, options), file=sys.stderr)
    return 0


@contextlib.contextmanager
def plain_interrupts() -> Iterator[None]:
    """Ctrl-C ends the program at once, as for one that handles no signals.

    While torch is imported, an exception out of a handler may be lost in its
    own code, or abort it; and nothing is being written yet.
    """
    former = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, former)


def standard_input() -> bytes:
    """What stands on standard input, as far as it can be used."""
    from talaria.coder.source import MAX_FILE_BYTES

    if sys.stdin is None:
        raise UsageError("standard input is closed; give a file, or text on standard input")
    return sys.stdin.buffer.read(MAX_FILE_BYTES + 1)


def check_page(page: Path, source: Path | None) -> None:
    """Refuse, before anything is computed, a page that would take another's place or has none."""
    with telling(page):
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
    partial = page.with_name(f".{page.name}.partial")
    with telling(page):
        try:
            partial.write_text(text, encoding="utf-8")
            os.replace(partial, page)
        finally:
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def telling(page: Path) -> Iterator[None]:
    """A page that cannot be written is named as it was given, not as what failed on the way."""
    try:
        yield
    except OSError as error:
        raise TalariaError(
            f"--trace is {str(page)!r}, which cannot be written ({error.strerror}); "
            "give a name in a folder that is there and may be written to"
        ) from error


def from_here(path: Path) -> Path:
    """Where a file lies, links followed: from this folder on if it is in it, else from the root."""
    real, here = path.resolve(), Path.cwd()
    return real.relative_to(here) if real.is_relative_to(here) else real


def breaks(hole: Hole, middle: str) -> bool:
    """Whether a file that Python takes, and soon, would be one that it does not."""
    from talaria.coder.source import splice
    from talaria.coder.syntax import compiles

    if len(hole.original) > GUARDED:
        return False
    return compiles(hole.original) and not compiles(splice(hole, middle))


def shorten(text: str) -> str:
    """A text in quotes that fits into a line."""
    return repr(text if len(text) <= 60 else text[:57] + "...")


def as_json(result: Infill, model: str, lead: str = "") -> dict[str, object]:
    """The fields that other tools rely on."""

    def led(text: str) -> str:
        return lead + text if text else ""  # nothing to offer is nothing

    return {
        "text": led(result.best.text),
        "candidates": [
            {"text": led(c.text), "score": c.score, "tokens": c.length, "stopped": c.stopped}
            for c in result.candidates
        ],
        "nfe": result.nfe,
        "tokens": result.best.length,
        "tokens_per_forward": round(result.tokens_per_forward, 3),
        "elapsed_ms": round(result.elapsed_ms, 1),
        "context_tokens": result.context_tokens,
        "model": model,
        "stopped": result.best.stopped,
        "syntax": {
            "errors_before": result.syntax.errors_before,
            "errors_after": result.syntax.errors_after,
            "clean": result.syntax.clean,
            "refused": result.syntax.refused,
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
    return (
        f"{of}{work}, {result.elapsed_ms:.0f} ms, {options.mode}, stopped at {best.stopped}"
        f"{'' if result.syntax.clean else ', adds a syntax error'}"
    )


def counted(number: int, noun: str) -> str:
    """So many of a thing, in words."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def models_command(argv: list[str]) -> int:
    """`talaria models`: a line for each model found by name."""
    argparse.ArgumentParser(prog="talaria models", description="What can be loaded.").parse_args(
        argv
    )
    from talaria.coder import checkpoint

    listings = checkpoint.available()
    for listing in listings:
        default = "  (default)" if listing.name == checkpoint.DEFAULT_MODEL else ""
        print(
            f"{listing.name}  {listing.parameters / 1e6:.1f}M parameters  "
            f"{listing.bytes / 1e6:.1f} MB  {listing.licence}  {listing.path}{default}"
        )
    if not listings:
        folders = ", ".join(map(str, checkpoint.model_folders()))
        raise TalariaError(f"no model found in {folders}; train one with `talaria train`")
    return 0


def doctor_command(argv: list[str]) -> int:
    """`talaria doctor`: versions, machine, model and a timed infill; exit code 1 if it fails."""
    parser = argparse.ArgumentParser(prog="talaria doctor", description="For a bug report.")
    parser.add_argument("--model", help="a folder, or a name from `talaria models`")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args(argv)

    print(f"talaria        {metadata.version('talaria')}")
    print(f"python         {platform.python_version()} ({sys.executable})")
    print(f"system         {platform.platform()}, {os.cpu_count()} cores")
    for name in (
        "torch",
        "onnx",
        "onnxruntime",
        "tokenizers",
        "safetensors",
        "tree-sitter",
        "tree-sitter-python",
        "pygls",
    ):
        try:
            print(f"{name:14} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            print(f"{name:14} missing")
    try:
        examine(args.model, args.device)
    except ImportError as error:
        raise TalariaError(
            f"{error.name or error} cannot be imported ({error}); install it again, in the folder "
            "of the project: pip install --force-reinstall -c constraints.txt -e ."
        ) from error
    return 0


def examine(name: str | None, device: str) -> None:
    """Print what grammar, torch and model do on this machine."""
    from talaria.coder import syntax

    right, wrong = (syntax.count_errors(text) for text in ("f(1)\n", "f(1\n"))
    print(f"grammar        {right} errors in a right text, {wrong} in a wrong one")
    began = time.perf_counter()
    import torch

    from talaria.coder import checkpoint
    from talaria.coder.infill import Options, infill

    imported = time.perf_counter()
    print(f"import         {imported - began:.2f} s")
    devices = ["cpu"]
    devices += ["cuda"] * torch.cuda.is_available() + ["mps"] * torch.backends.mps.is_available()
    print(f"devices        {', '.join(devices)}")
    model = checkpoint.load(name, device)
    loaded = time.perf_counter() - imported
    print(
        f"model          {model.name}, {model.config['parameters'] / 1e6:.1f}M parameters, "
        f"loaded in {loaded:.2f} s; {model.denoiser.threads} threads"
    )
    options = Options()
    result = infill(model, "def mean(values):\n    return ", "\n", options)
    print(f"infill         {summary(result, options)}: {result.best.text!r}")


if __name__ == "__main__":
    sys.exit(main())
