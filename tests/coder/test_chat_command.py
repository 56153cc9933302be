"""`talaria chat` as people and tools use it: one question, a dialogue, Ctrl-C, writing of code."""

from __future__ import annotations

import io
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from talaria.coder import chat_command, cli
from talaria.coder.checkpoint import Checkpoint
from talaria.coder.families.talaria import TalariaTokenizer
from tests.coder import test_qwen2_gguf
from tests.coder.chat_models import OPENING, Saying, random_model, saying
from tests.coder.test_qwen2_gguf import write_gguf

FIELDS = {
    *("text", "code", "nfe", "tokens", "tokens_per_forward", "elapsed_ms", "context_tokens"),
    *("reused_tokens", "mode", "model", "stopped"),
}
ANSWER = "Here:\n```python\ndef f(a):\n    return a\n```\nDone."


class Chat:
    """Runs `talaria chat` with a model, and keeps what it prints."""

    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.capsys, self.monkeypatch = capsys, monkeypatch
        self.out = self.err = ""
        self.typed: Iterator[Any] = iter(())

    def of(self, model: Checkpoint) -> Chat:
        """With this model, whatever is named."""
        self.monkeypatch.setattr(chat_command, "load", lambda args, mode: model)
        return self

    def __call__(self, *argv: str, stdin: bytes = b"") -> int:
        """The exit code of a call whose standard input is a pipe."""
        self.monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code = cli.main(["chat", "--max-tokens", "64", *argv])
        self.out, self.err = self.capsys.readouterr()
        return code

    def talk(self, *typed: str | Callable[[], str], argv: tuple[str, ...] = ()) -> int:
        """The exit code of a dialogue in which this is typed, and then Ctrl-D."""
        lines = iter(typed)

        def read(prompt: str) -> str:
            print(prompt, end="")
            line = next(lines, None)
            if line is None:
                raise EOFError
            return line() if callable(line) else line

        terminal = io.TextIOWrapper(io.BytesIO())
        self.monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
        self.monkeypatch.setattr(sys, "stdin", terminal)
        self.monkeypatch.setattr("builtins.input", read)
        code = cli.main(["chat", "--max-tokens", "64", *argv])
        self.out, self.err = self.capsys.readouterr()
        return code


@pytest.fixture
def chat(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Chat:
    """`talaria chat`."""
    return Chat(capsys, monkeypatch)


def ctrl_c() -> str:
    """What the terminal sends while something is typed."""
    signal.raise_signal(signal.SIGINT)
    return "never"


def test_one_question(chat: Chat, tokenizer: TalariaTokenizer) -> None:
    """From the command line and from a pipe: the answer alone is on standard output."""
    chat.of(saying(tokenizer, ANSWER))
    assert chat("what?") == 0
    assert (chat.out, chat.err.count("\n")) == (ANSWER + "\n", 1)
    assert "verify" in chat.err
    assert chat("--quiet", stdin=b"what?\n") == 0
    assert (chat.out, chat.err) == (ANSWER + "\n", "")


def test_json(chat: Chat, tokenizer: TalariaTokenizer) -> None:
    """One object with the fields that tools rely on."""
    assert chat.of(saying(tokenizer, ANSWER))("what?", "--json", "--mode", "ar") == 0
    found = json.loads(chat.out)
    assert set(found) == FIELDS
    assert (found["text"], found["stopped"], found["mode"]) == (ANSWER, "end", "ar")
    assert found["code"] == ["def f(a):\n    return a\n"]
    assert found["nfe"] == found["tokens"] + 1
    assert chat.err == ""


def test_a_temperature_draws_token_by_token(chat: Chat, tokenizer: TalariaTokenizer) -> None:
    """As verify writes the likeliest text."""
    chat.of(random_model(tokenizer))
    assert chat("what?", "--json", "--temperature", "1", "--max-tokens", "8") == 0
    assert json.loads(chat.out)["mode"] == "ar"
    assert chat("what?", "--temperature", "1", "--mode", "verify") == 2
    assert "temperature 0" in chat.err


def test_files_come_first(chat: Chat, tokenizer: TalariaTokenizer, tmp_path: Path) -> None:
    """Standard input too; they are text like any other."""
    path = tmp_path / "some.py"
    path.write_text(f"x = '{OPENING}'\r\n")
    chat.of(saying(tokenizer, "yes"))
    assert chat("what?", "--json", "--system", "Be.") == 0
    before = json.loads(chat.out)["context_tokens"]
    more = ("--context", str(path), "-")
    assert chat("what?", "--json", "--system", "Be.", *more, stdin=b"y = 2\n") == 0
    name = tokenizer.encode(f"Be.\n\nThe file {path}:\n```\nx = '{OPENING}'\n```")
    assert json.loads(chat.out)["context_tokens"] > before + len(name) // 2


def test_what_cannot_be_asked_is_a_line(chat: Chat, tokenizer: TalariaTokenizer) -> None:
    """With what to do."""
    chat.of(saying(tokenizer, ANSWER))
    for argv, stdin, code, said in (
        ((), b"", 2, "the question is empty"),
        (("--json", "--context", "-"), b"x", 2, "there is no question"),
        (("what?", "--context", "/no/where.py"), b"", 1, "cannot read /no/where.py"),
        ((), b"\xff", 1, "standard input is not UTF-8"),
        ((), b"a\0b", 1, "binary"),
        (("what?", "--max-tokens", "0"), b"", 2, "--max-tokens is 0"),
        (("what?", "--max-tokens", "999"), b"", 2, "--max-tokens is 999; the limit is 512"),
        (("what?", "--max-tokens", "99999"), b"", 2, "between 1 and 2048"),
        (("what?", "--system", "word " * 1500), b"", 2, "what --system and --context say"),
        (("what?", "--context", "-"), b"word " * 1500, 2, "room for 952 beside an answer"),
        (("what?", "--mode", "diffuse"), b"", 2, "use --mode verify or ar"),
    ):
        assert chat(*argv, stdin=stdin) == code, argv
        assert said in chat.err
        assert (chat.out, chat.err.count("\n")) == ("", 1)


def test_a_model_that_answers_nothing(chat: Chat, model_folder: Path) -> None:
    """Is named, and one that does."""
    assert chat("what?", "--model", str(model_folder)) == 1
    assert "tiny has no chat template" in chat.err
    assert chat("what?") == 1  # the embedded model: no base is here
    assert "talaria models get qwen2.5-coder-0.5b" in chat.err.splitlines()[-1]


def test_a_dialogue(chat: Chat, tokenizer: TalariaTokenizer) -> None:
    """Turn after turn, each reading only what is new, until Ctrl-D; blank lines are nothing."""
    chat.of(saying(tokenizer, "one", "two", "three"))
    assert chat.talk("first", " ", '"""', "second", "", "still", '"""', "/help", "third") == 0
    assert [chat.out.index(each) for each in ("one", "two", "/write PATH", "three")] == sorted(
        chat.out.index(each) for each in ("one", "two", "/write PATH", "three")
    )
    lines = chat.err.splitlines()
    assert lines[0].startswith("tiny-chat")
    assert len(lines) == 4
    read = [[int(n) for n in line.split("read ")[1].split()[0:3:2]] for line in lines[1:]]
    assert read[0][0] == read[0][1]
    assert all(new < whole / 2 for new, whole in read[1:])
    assert chat.talk("first", argv=("--quiet",)) == 0
    assert chat.err == ""


def test_a_turn_that_goes_wrong_ends_nothing(chat: Chat, tokenizer: TalariaTokenizer) -> None:
    """It is a line, and the next turn is answered."""
    chat.of(saying(tokenizer, "one"))
    assert chat.talk("word " * 900, "/fly away", "/write", "/write x.py", "first") == 0
    assert "one" in chat.out
    for said in ("there is room for", "there is no /fly", "/write needs a file", "no code block"):
        assert said in chat.err


def test_ctrl_c_stops_an_answer_and_a_line(chat: Chat, tokenizer: TalariaTokenizer) -> None:
    """And no dialogue; what stood is kept. Afterwards Ctrl-C is what it was."""
    model = saying(tokenizer, "a b c d e f g h i j k l", "two")
    assert isinstance(model.backbone, Saying)
    passes = 0

    def heard(count: int) -> None:
        nonlocal passes
        passes += 1
        if passes == 6:
            signal.raise_signal(signal.SIGINT)

    model.backbone.heard = heard
    before = signal.getsignal(signal.SIGINT)
    assert chat.of(model).talk("first", ctrl_c, "second", argv=("--mode", "ar")) == 0
    assert "a b" in chat.out
    assert "k l" not in chat.out
    assert "two" in chat.out
    assert "stopped by Ctrl-C" in chat.err
    assert "Ctrl-D ends the dialogue" in chat.err
    assert signal.getsignal(signal.SIGINT) is before


def test_names_and_numbers_that_cannot_be_end_nothing(
    chat: Chat, tokenizer: TalariaTokenizer, tmp_path: Path
) -> None:
    """Each is a line, and the dialogue goes on."""
    chat.of(saying(tokenizer, ANSWER, "two"))
    typed = (
        "/write ~nosuchuser/x.py",
        f"/write {tmp_path}/x.py {'9' * 5000}",
        f"/write {tmp_path}/a\0b.py",
        f"/write {tmp_path}/{'x' * 300}.py",
    )
    assert chat.talk("first", *typed, "second") == 0
    assert "two" in chat.out
    said = [line for line in chat.err.splitlines() if line.startswith("talaria: ")]
    assert len(said) == len(typed)
    assert all(len(line) < 1000 and "\0" not in line for line in said)
    assert [*tmp_path.iterdir()] == []


def test_ctrl_c_between_prompts_is_raised_nowhere(
    chat: Chat,
    tokenizer: TalariaTokenizer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither while a file is written nor while an error is printed."""
    from talaria.coder import chat_code, chat_terminal

    written, shown = chat_code.Change.write, chat_terminal.printable

    def write(self: chat_code.Change) -> None:
        signal.raise_signal(signal.SIGINT)
        written(self)

    def printed(text: str) -> str:
        if "there is no /fly" in text:
            signal.raise_signal(signal.SIGINT)
        return shown(text)

    monkeypatch.setattr(chat_code.Change, "write", write)
    monkeypatch.setattr(chat_terminal, "printable", printed)
    path = tmp_path / "new.py"
    chat.of(saying(tokenizer, ANSWER, "two"))
    assert chat.talk("first", f"/write {path}", "y", "/fly", ctrl_c, "second") == 0
    assert path.read_text() == "def f(a):\n    return a\n"
    assert "two" in chat.out
    assert "Ctrl-D ends the dialogue" in chat.err


def test_a_second_ctrl_c_ends_the_program(chat: Chat, tokenizer: TalariaTokenizer) -> None:
    """With the code that shells have for it."""
    model = saying(tokenizer, "a b c d e f g h i j k l")
    assert isinstance(model.backbone, Saying)

    def heard(count: int) -> None:
        signal.raise_signal(signal.SIGINT)

    model.backbone.heard = heard
    chat.of(model)
    interrupts = chat_command.Interrupts()
    with interrupts.caught(), interrupts.stopping() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_code_is_written_once_somebody_says_so(
    chat: Chat, tokenizer: TalariaTokenizer, tmp_path: Path
) -> None:
    """After showing it; a file that is there is replaced, one that would break is not."""
    path, broken = tmp_path / "a name.py", "```python\ndef f(:\n```"
    two = f"{ANSWER}\n```\ny = 2\n```"
    chat.of(saying(tokenizer, ANSWER, two, broken))
    assert chat.talk("first", f"/write {path}", "n") == 0
    assert "+def f(a):" in chat.out
    assert "nothing is written" in chat.err
    assert not path.exists()
    write = f"/write {path}"
    assert chat.talk("first", write, "y", "second", write, f"{write} 3", f"{write} 2", "yes") == 0
    assert "2 code blocks; add which" in chat.err
    assert "code blocks 1 to 2, no 3" in chat.err
    assert path.read_text() == "y = 2\n"
    assert chat.talk("first", "second", "third", write, f"{write} 1") == 0
    assert chat.err.count("adds a syntax error") == 2
    assert path.read_text() == "y = 2\n"
    assert [*tmp_path.iterdir()] == [path]
    # Ctrl-C and Ctrl-D where it asks write nothing.
    assert chat.talk("first", write, ctrl_c, write) == 0
    assert path.read_text() == "y = 2\n"


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_in_a_terminal_of_its_own(
    tmp_path: Path, tokenizer: TalariaTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model from a file, open positions on the way, Ctrl-D."""
    monkeypatch.setattr(test_qwen2_gguf, "SPECIAL", (*test_qwen2_gguf.SPECIAL, OPENING))
    model = tmp_path / "tiny.gguf"
    write_gguf(model, tokenizer)
    ours, theirs = os.openpty()
    program = (*(sys.executable, "-m", "talaria.coder.cli", "chat"), "--model", str(model))
    process = subprocess.Popen(
        [*program, "--max-tokens", "12", "--mode", "ar"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "PYTHONIOENCODING": "utf-8"},
        start_new_session=True,
    )
    os.close(theirs)
    said = b""

    def until(wanted: bytes) -> None:
        nonlocal said
        end = time.monotonic() + 120
        while wanted not in said:
            assert time.monotonic() < end, said
            if select.select([ours], [], [], 1)[0]:
                said += os.read(ours, 4096)
        said = said.partition(wanted)[2]

    try:
        until(b"> ")
        os.write(ours, b"hello\n")
        until(b"tokens in 12 steps")
        until(b"> ")
        os.write(ours, b"\x04")
        assert process.wait(timeout=120) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)
