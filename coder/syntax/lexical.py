"""What lines and brackets say about a text without a parse."""

from __future__ import annotations

import re
from collections.abc import Iterator

CODE_LINE = re.compile(r"^([ \t]*)[^\s#]", re.MULTILINE)
"""A line with code; group 1 is its indentation."""

BRANCH_KEYWORDS = ("elif", "else", "except", "finally", "case")
STATEMENT_LINE = re.compile(
    rf"^([ \t]*)(?!(?:{'|'.join(BRANCH_KEYWORDS)})\b)[^\s#)\]}}]", re.MULTILINE
)
"""A line that can start a statement: no closing bracket, no further branch. Group 1 as above."""

STATEMENT_WORD = (
    r"^[ \t]*(?:def|class|return|import|raise|try|while|with|pass|break|continue|del|assert"
    r"|global|nonlocal|except|finally|elif)\b"
)
"""A word that starts a line only outside brackets, at the start of its line (multi-line mode)."""

CLOSING = {"(": ")", "[": "]", "{": "}"}
_LEXEMES = re.compile(
    r"""\"\"\"(?s:.*?)\"\"\"|\'\'\'(?s:.*?)\'\'\'|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'"""
    r"|#[^\n]*|[()\[\]{}]"
)


def indentation(line: str) -> str:
    """The white space that a line begins with."""
    return line[: len(line) - len(line.lstrip())]


def last_line_with_text(lines: list[str]) -> str:
    """The last line that is not blank; empty if there is none."""
    return next((line for line in reversed(lines) if line.strip()), "")


def brackets(text: str) -> Iterator[tuple[int, str]]:
    """Yield the offset and sign of each bracket outside strings and comments."""
    return ((it.start(), it[0]) for it in _LEXEMES.finditer(text) if it[0] in "()[]{}")


def open_brackets(text: str) -> list[tuple[int, str]]:
    """The offset and sign of each bracket that is opened and not closed again."""
    opened: list[tuple[int, str]] = []
    for place, bracket in brackets(text):
        if bracket in CLOSING:
            opened.append((place, bracket))
        elif opened:
            opened.pop()
    return opened


def code_end(text: bytes) -> int:
    """The offset, in bytes, where the last line ends that is neither blank nor a comment."""
    end = len(text)
    while end > 0:
        start = text.rfind(b"\n", 0, end) + 1
        line = text[start:end].rstrip()
        if line.strip() and not line.lstrip().startswith(b"#"):
            return start + len(line)
        end = start - 1
    return 0
