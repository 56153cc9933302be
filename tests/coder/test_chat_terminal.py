"""What a terminal shows at the end is the answer, whatever was shown on the way."""

from __future__ import annotations

import io
import os
import re
import select
import sys
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from talaria.coder import chat_terminal
from talaria.coder.chat_terminal import Screen, keys_hidden, printable
from talaria.coder.families.talaria import TalariaTokenizer

COLUMNS = 20
texts = st.text(st.characters(codec="utf-8"), max_size=60) | st.sampled_from(
    [
        "def f():\n    return 1\n",
        "x" * 45,
        "x" * 20,
        "日本語" * 8,
        "a\tb\tc\td",
        "\x1b[2J",
        "\n\n",
        "é😀",
    ]
)


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        """Yes."""
        return True


def screen_of(written: str) -> list[str]:
    """The lines that a terminal of COLUMNS shows: a small part of what ECMA-48 says."""
    lines: list[list[str]] = [[]]
    column = 0

    def put(sign: str) -> None:
        line = lines[-1]
        line.extend(" " * (column + 1 - len(line)))
        line[column] = sign

    for part in re.findall(r"\x1b\[[0-9]*[A-Za-z]|.", written, re.DOTALL):
        if part.startswith("\x1b["):
            if part.endswith("D"):
                column -= int(part[2:-1])
                assert column >= 0
            elif part.endswith("K"):
                del lines[-1][column:]
            else:
                assert part[-1] == "m", part
        elif part == "\n":
            lines.append([])
            column = 0
        elif part == "\t":
            column = min(COLUMNS - 1, column + 8 - column % 8)
        else:
            cells = chat_terminal.width(part)
            if column + cells > COLUMNS:
                lines.append([])
                column = 0
            if cells:
                put(part)
            column += cells
    return ["".join(line).rstrip() for line in lines]


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal of COLUMNS that can do what terminals do."""
    monkeypatch.setenv("COLUMNS", str(COLUMNS))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("WT_SESSION", "1")


def shown(stream: io.StringIO, tokenizer: TalariaTokenizer, text: str, ahead: int) -> str:
    """What is written for an answer whose tokens stand one after another, masks behind them."""
    screen = Screen(stream, tokenizer, tokenizer.marks)
    ids = tokenizer.encode(text)
    for count in range(len(ids) + 1):
        behind = [tokenizer.marks.mask] * ahead
        behind[1:2] = ids[count + 1 : count + 2]  # one that stands behind an open position
        screen.step(ids[:count], behind)
    screen.end(tokenizer.decode(ids))
    return stream.getvalue()


@given(text=texts, ahead=st.integers(0, 30))
def test_a_terminal_ends_with_the_answer_alone(
    tokenizer: TalariaTokenizer, text: str, ahead: int
) -> None:
    """No open position is left behind, on lines that wrap too."""
    written = shown(Terminal(), tokenizer, text, ahead)
    # Where combining signs, tabs at the edge or wide signs at the edge stand is no matter here.
    if not re.search(r"[\t\u0300-\uffff\U00010000-]|[^\x00-\u02ff]", text):
        assert screen_of(written) == screen_of(printable(text.rstrip("\n") + "\n"))
    assert "\x1b[2J" not in written


def test_open_positions_are_seen_on_the_way(tokenizer: TalariaTokenizer) -> None:
    """As in traces."""
    written = shown(Terminal(), tokenizer, "def f(a):\n    return a\n", 4)
    assert "░" in written
    assert "⏎" in written


def test_no_mark_alters_the_order_that_is_seen() -> None:
    """Marks of direction, and signs that are not seen, are written out; other scripts are not."""
    marks = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200b\ufeff\xad\U000e0001"
    for mark in marks:
        assert printable(f"a{mark}b") == f"a{mark.encode('unicode_escape').decode()}b"
    assert printable("שלום\tп\n日本 é") == "שלום\tп\n日本 é"
    assert printable("\x1b[2J") == "\\x1b[2J"


@given(text=texts)
def test_a_pipe_gets_the_answer_and_nothing_else(tokenizer: TalariaTokenizer, text: str) -> None:
    """Every byte of it, with the end of its line."""
    wanted = text if text.endswith("\n") else text + "\n"
    assert shown(io.StringIO(), tokenizer, text, 4) == wanted


@pytest.mark.parametrize(("name", "value"), [("TERM", "dumb"), ("TERM", ""), ("encoding", "ascii")])
def test_a_simple_terminal_gets_text_alone(
    tokenizer: TalariaTokenizer, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    """Where nothing can be taken back, or the signs are not there."""
    if name == "encoding":
        monkeypatch.setattr(Terminal, "encoding", value)
    else:
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", "linux")
    assert shown(Terminal(), tokenizer, "x = 1\n", 4) == "x = 1\n"


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_what_is_typed_meanwhile_does_not_stand_in_the_answer() -> None:
    """It stays for the prompt, whatever ends the answer."""
    ours, theirs = os.openpty()
    with os.fdopen(ours, "wb", buffering=0) as keys, os.fdopen(theirs) as terminal:
        with suppress(KeyboardInterrupt), keys_hidden(terminal):
            keys.write(b"later\n")
            assert select.select([terminal], [], [], 60)[0]  # the kernel takes keys in its own time
            raise KeyboardInterrupt
        assert terminal.readline() == "later\n"
        keys.write(b"seen\n")
        assert os.read(ours, 100) == b"seen\r\n"


def test_no_terminal_shows_no_keys() -> None:
    """Then there is nothing to hide."""
    with keys_hidden(None), keys_hidden(io.StringIO()):
        pass
