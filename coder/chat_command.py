"""`talaria chat`: ask a model about code, in a dialogue or one question."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from talaria.coder.arguments import Parser
from talaria.coder.errors import BaseMissingError, SourceError, TalariaError, UsageError
from talaria.coder.infill_command import add_cache_flag
from talaria.coder.request import MODES, Mode, Options

# The model's libraries are imported after the options have been parsed.
if TYPE_CHECKING:
    from talaria.coder.chat import Dialogue, Reply
    from talaria.coder.checkpoint import Checkpoint

MAX_TOKENS = 512
LONGEST_NUMBER = 10  # digits of a code block's
FENCE = '"""'  # alone on a line, begins and ends a text of several lines
HELP = f"""\
/write PATH [N]   write code block N of the last answer into a file, after showing what changes
/help             this list
{FENCE}               a line of it begins a text of several lines, and another ends it
Ctrl-C stops an answer and keeps what there is of it; Ctrl-D ends the dialogue."""


def build_parser() -> argparse.ArgumentParser:
    """The options of `talaria chat`."""
    parser = Parser(
        prog="talaria chat",
        description="Ask a model about code: a dialogue in a terminal, or one question, from the "
        "command line or a pipe. In a dialogue, /write puts code of an answer into a file, /help "
        "says more.",
    )
    parser.add_argument(
        "question", nargs="?", help="what to ask; without it, a dialogue, or standard input"
    )
    parser.add_argument(
        "--model",
        help="a folder, a GGUF file, or a name from `talaria models` (default: the base of the "
        "large model, without its adapter, which answers better; --mode diffuse takes the adapter)",
    )
    parser.add_argument(
        "--adapter",
        metavar="FOLDER",
        help="what `talaria adapt` or `talaria finetune` made of a base: the folder `model` of its "
        "run, or a name from `talaria models`; with --model, of that model's base (default: none)",
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:N or mps")
    parser.add_argument(
        "--mode",
        choices=MODES,
        help="verify writes the same text as ar in fewer steps; diffuse commits several tokens per "
        "step where it is confident, and needs an adapter or a model that reads in both directions "
        "(default: diffuse for these, else verify, and ar for a temperature above 0)",
    )
    parser.add_argument(
        "--max-tokens",
        type=int,
        metavar="N",
        help="at most N tokens in an answer, which may be half of the 4,096 tokens of a dialogue, "
        f"or of what a smaller model reads (default: {MAX_TOKENS}, or that half)",
    )
    parser.add_argument(
        "--temperature",
        type=float,
        default=0.0,
        metavar="T",
        help="0 takes the likeliest token, above 0 draws",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="S", help="the same seed draws the same answers"
    )
    add_cache_flag(parser)
    parser.add_argument(
        "--system", metavar="TEXT", help="what the model is told about its part (default: ours)"
    )
    parser.add_argument(
        "--context",
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE",
        help="files that the model reads before the first turn; - is standard input",
    )
    parser.add_argument("--json", action="store_true", help="print the one answer as JSON")
    parser.add_argument(
        "-q", "--quiet", action="store_true", help="say nothing on standard error but errors"
    )
    return parser


def command(argv: list[str]) -> int:
    """`talaria chat`: answer one question, or hold a dialogue."""
    args = build_parser().parse_args(argv)
    from talaria.coder.chat import LONGEST, SYSTEM, Dialogue

    if args.max_tokens is not None and not 1 <= args.max_tokens <= LONGEST // 2:
        raise UsageError(
            f"--max-tokens is {args.max_tokens}; it must be a whole number between 1 and "
            f"{LONGEST // 2}, half of what a dialogue may have"
        )
    options = Options(
        mode=args.mode,
        max_tokens=args.max_tokens,
        temperature=args.temperature,
        seed=args.seed,
        approximate_cache=args.approximate_cache,
    )
    files = [(name, content(name)) for name in args.context]
    question = args.question
    terminal = sys.stdin is not None and sys.stdin.isatty()
    if question is None and not terminal and "-" not in args.context:
        question = content("-")
    if question is None and (args.json or not terminal):
        raise UsageError(
            "there is no question; give one, or one on standard input (`--json` and pipes are for "
            "one turn)"
        )
    if question is not None and not question.strip():
        raise UsageError("the question is empty; give one, or type `talaria chat` in a terminal")
    model = load(args, args.mode)
    told = [SYSTEM if args.system is None else args.system]
    told += [f"The file {name}:\n```\n{text.rstrip()}\n```" for name, text in files]
    dialogue = Dialogue(model, "\n\n".join(told))
    options = replace(
        options,
        mode=args.mode or mode_of(model, args.temperature),
        max_tokens=args.max_tokens or min(MAX_TOKENS, dialogue.most),
    )
    dialogue.check(options)
    if question is None:
        return talk(dialogue, options, quiet=args.quiet)
    reply = answer(dialogue, question, options, shown=not args.json)
    if args.json:
        utf8 = (sys.stdout.encoding or "").lower() == "utf-8"
        print(json.dumps(as_json(reply, model.name), ensure_ascii=not utf8))
    elif not args.quiet:
        print(summary(reply), file=sys.stderr)
    return 0


def mode_of(model: Checkpoint, temperature: float) -> Mode:
    """How a model answers where nobody says how."""
    if model.schedule is not None:
        return "diffuse"
    return "ar" if temperature > 0 else "verify"


def content(name: str) -> str:
    """The text of a file, or of standard input, up to the largest size that is accepted."""
    from talaria.coder.source import MAX_FILE_BYTES

    called = "standard input" if name == "-" else name
    try:
        if name == "-":
            if sys.stdin is None:
                raise UsageError("standard input is closed; give a question")
            data = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
        else:
            with open(name, "rb") as file:
                data = file.read(MAX_FILE_BYTES + 1)
        text = data.decode()
    except OSError as error:
        raise SourceError(
            f"cannot read {called}: {error.strerror or error}; give readable files behind "
            "--context, and the question before it"
        ) from error
    except UnicodeDecodeError as error:
        raise SourceError(f"{called} is not UTF-8, see byte {error.start}: convert it") from error
    if len(data) > MAX_FILE_BYTES or "\0" in text:
        raise SourceError(
            f"{called} is binary or has more than {MAX_FILE_BYTES} bytes; give an excerpt as text"
        )
    return text.replace("\r\n", "\n")


def load(args: argparse.Namespace, mode: Mode | None) -> Checkpoint:
    """The model that answers.

    Where none is named, the default one's base answers alone, unless it is to denoise: an adapter
    makes a base better at holes and worse at answers (docs/log.md).
    """
    from talaria.coder import checkpoint, loading

    if args.adapter is not None:
        return loading.load(str(checkpoint.adapter(args.adapter, args.model)), args.device)
    name = checkpoint.default()
    if args.model is not None or mode == "diffuse" or name == checkpoint.EMBEDDED:
        return loading.load(args.model, args.device)
    folder = checkpoint.find(name)
    terminal = loading.LoadTerminal()
    try:
        base = checkpoint.find_base(checkpoint.configuration(folder), folder / checkpoint.CONFIG)
        found = checkpoint.load(
            base, args.device, lambda done: terminal.preparing(f"the base of {name}", done)
        )
    except BaseMissingError:
        terminal.line(f"the base of {name} is not here any more; it answers with its adapter")
        return loading.load(name, args.device)
    finally:
        terminal.close()
    return replace(found, name=f"{name} without its adapter")


def answer(
    dialogue: Dialogue,
    text: str,
    options: Options,
    interrupted: Callable[[], bool] = lambda: False,
    *,
    shown: bool = True,
) -> Reply:
    """Ask, and show the answer as it comes to be."""
    if not shown:
        return dialogue.ask(text, options, interrupted)
    from talaria.coder.chat_terminal import Screen, keys_hidden

    screen = Screen(sys.stdout, dialogue.tokenizer, dialogue.marks)
    with keys_hidden(sys.stdin):
        reply = dialogue.ask(text, options, interrupted, screen.step)
        screen.end(reply.text)
    return reply


def as_json(reply: Reply, model: str) -> dict[str, Any]:
    """The fields that other tools rely on."""
    from talaria.coder.chat_code import blocks_of

    approximate = {} if reply.stale_steps is None else {"stale_steps": reply.stale_steps}
    return {
        "text": reply.text,
        "code": [block.text for block in blocks_of(reply.text)],
        "nfe": reply.nfe,
        **approximate,
        "tokens": len(reply.tokens),
        "tokens_per_forward": round(reply.tokens_per_forward, 3),
        "elapsed_ms": round(reply.elapsed_ms, 1),
        "context_tokens": reply.context_tokens,
        "reused_tokens": reply.reused_tokens,
        "mode": reply.mode,
        "model": model,
        "stopped": reply.stopped,
    }


def summary(reply: Reply) -> str:
    """One line about what an answer took."""
    from talaria.coder.answers import counted

    each = f"{reply.tokens_per_forward:.1f} a step"
    steps = counted(reply.nfe, "step")
    if reply.stale_steps is not None:
        steps += f", {len(reply.stale_steps)} of them approximate"
    end = {
        "end": "",
        "max_tokens": ", cut off at --max-tokens",
        "cancelled": ", stopped by Ctrl-C",
    }
    left_out = f", the oldest {counted(reply.dropped, 'turn')} left out" if reply.dropped else ""
    return (
        f"{counted(len(reply.tokens), 'token')} in {steps} ({each}), "
        f"{reply.elapsed_ms / 1000:.1f} s, {reply.mode}, read "
        f"{reply.context_tokens - reply.reused_tokens} of {reply.context_tokens} tokens before it"
        f"{left_out}{end[reply.stopped]}"
    )


class PromptInterrupted(Exception):
    """Ctrl-C at the prompt."""


class Interrupts:
    """Ctrl-C while a dialogue runs: it stops an answer once, and ends no dialogue.

    prompting  whether somebody is asked for a line, which it ends; nowhere else is it raised
    asked      whether the answer is to stop; another Ctrl-C before the next prompt ends the program
    """

    def __init__(self) -> None:
        self.prompting = self.asked = False

    @contextmanager
    def caught(self) -> Iterator[Interrupts]:
        """Take over Ctrl-C within the block."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = signal.signal(signal.SIGINT, self._received)
        try:
            yield self
        finally:
            signal.signal(signal.SIGINT, before)

    @contextmanager
    def stopping(self) -> Iterator[Callable[[], bool]]:
        """Let Ctrl-C stop what is computed within the block, which asks whether it should."""
        yield lambda: self.asked

    def typed(self, prompt: str) -> str:
        """A line that somebody types; PromptInterrupted for Ctrl-C, EOFError for Ctrl-D."""
        self.asked, self.prompting = False, True
        try:
            return input(prompt)
        finally:
            self.prompting = False

    def _received(self, number: int, frame: object) -> None:
        if self.prompting:
            raise PromptInterrupted
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


def talk(dialogue: Dialogue, options: Options, *, quiet: bool = False) -> int:
    """Read turns until the input ends; what goes wrong with one is a line, and the next may come.

    Each turn draws with a seed of its own.
    """
    from talaria.coder.chat_terminal import printable

    with suppress(ImportError):
        import readline  # noqa: F401  # lines can be edited, and earlier ones recalled
    if not quiet:
        print(f"{dialogue.model.name}; /help lists what can be typed", file=sys.stderr)
    last: Reply | None = None
    with Interrupts().caught() as interrupts:
        while True:
            try:
                text = typed(interrupts.typed)
                if text.startswith("/"):
                    obey(text, last, interrupts.typed)
                elif text.strip():
                    with interrupts.stopping() as interrupted:
                        last = answer(dialogue, text, options, interrupted)
                    options = replace(options, seed=options.seed + 1)
                    if not quiet:
                        print(summary(last), file=sys.stderr)
            except EOFError:
                print()
                return 0
            except PromptInterrupted:
                print("\nCtrl-D ends the dialogue", file=sys.stderr)
            except TalariaError as error:
                print(f"talaria: {printable(str(error))}", file=sys.stderr)


def typed(line_for: Callable[[str], str]) -> str:
    """What somebody types: a line, or several between two lines of FENCE."""
    line = line_for("> ")
    if line.strip() != FENCE:
        return line
    lines: list[str] = []
    while (line := line_for(". ")).strip() != FENCE:
        lines.append(line)
    return "\n".join(lines)


def obey(text: str, last: Reply | None, line_for: Callable[[str], str]) -> None:
    """Do what a line that begins with / says."""
    words = text.split()
    if words[0] == "/help":
        print(HELP)
    elif words[0] != "/write":
        raise UsageError(
            f"there is no {words[0]}; there are /write PATH [N] and /help (a text may begin with a "
            "blank instead)"
        )
    else:
        number = words.pop() if len(words) > 2 and words[-1].isdecimal() else None
        write(" ".join(words[1:]), number, last, line_for)


def write(
    name: str, number: str | None, last: Reply | None, line_for: Callable[[str], str]
) -> None:
    """Write a code block of the last answer into a file, if it may be and somebody says so."""
    from talaria.coder.chat_code import blocks_of, change
    from talaria.coder.chat_terminal import printable

    blocks = blocks_of(last.text) if last else []
    if not name:
        raise UsageError("/write needs a file: /write PATH, or /write PATH N for code block N")
    if not blocks:
        raise UsageError("the last answer has no code block, so there is nothing to write")
    if number is None and len(blocks) > 1:
        raise UsageError(f"the last answer has {len(blocks)} code blocks; add which: /write PATH N")
    number = number or "1"
    at = int(number) if len(number) < LONGEST_NUMBER else 0
    if not 1 <= at <= len(blocks):
        called = number[:LONGEST_NUMBER]
        raise UsageError(f"the last answer has code blocks 1 to {len(blocks)}, no {called}")
    block = blocks[at - 1]
    if last and block.cut and last.stopped == "end":
        block = replace(block, cut=False)  # the model takes the end of its turn for that, too
    try:
        path = Path(name).expanduser()
    except RuntimeError as error:
        raise UsageError(f"{name} begins in the folder of a user that is not known") from error
    planned = change(block, path)
    if not planned.diff:
        print(f"{name} is that already", file=sys.stderr)
        return
    print(printable(planned.diff.replace("\r\n", "\n")), end="")
    if line_for(f"write {printable(name)}? [y/N] ").strip().lower() in ("y", "yes"):
        planned.write()
        print(f"written: {name}", file=sys.stderr)
    else:
        print("nothing is written", file=sys.stderr)
