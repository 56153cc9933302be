"""What lines and brackets say about a text without a parse."""

from __future__ import annotations

import io
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

# A string, which ends with its line or the text if nothing closes it; a comment, in which a
# backslash continues nothing; a continued line; a bracket; a line break. Q stands for a quote.
# Atomic groups, not possessive ones: before 3.11.5, Python matches those wrongly (gh-106052).
_STRING = r"QQQ(?>(?:[^Q\\]++|\\.|Q(?!QQ))*)(?:QQQ|\Z)|Q(?>(?:[^Q\\\n]++|\\.)*)Q?"
_LEXEME = re.compile(
    "|".join(_STRING.replace("Q", quote) for quote in "\"'") + r"|#[^\n]*|\\\n|[()\[\]{}]|\n",
    re.DOTALL,
)
_STATEMENT_WORD = re.compile(STATEMENT_WORD, re.MULTILINE)

CLOSING = {"(": ")", "[": "]", "{": "}"}
_LEXEMES = re.compile(
    r"""\"\"\"(?s:.*?)\"\"\"|\'\'\'(?s:.*?)\'\'\'|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'"""
    r"|#[^\n]*|[()\[\]{}]"
)


def lines_of(text: str) -> list[str]:
    r"""Split a text into lines as Python's tokenizer does, each with its end.

    They end at `\n`, `\r\n` or `\r` and nowhere else: unlike for `str.splitlines`, a form feed, a
    vertical tab or U+2028 is a character like any other.
    """
    return io.StringIO(text, newline="").readlines()


def logical_starts(text: str) -> list[int]:
    """List the offsets at which logical lines begin; the last line may be empty.

    The text must begin with one, and may be broken: an unclosed string ends with its line, and a
    keyword that no bracket can hold closes all brackets.
    """
    begins, depth = [0], 0
    for lexeme in _LEXEME.finditer(text):
        sign, end = lexeme[0], lexeme.end()
        if sign in "([{":
            depth += 1
        elif sign in ")]}":
            depth = max(0, depth - 1)
        elif sign == "\n" and (not depth or _STATEMENT_WORD.match(text, end)):
            begins.append(end)
            depth = 0
    return begins


def first_unopened(text: str) -> tuple[int, str] | None:
    """The offset and sign of the first closing bracket that nothing in a text opens; None without.

    The text begins in code and may be unfinished: what stands in an open string is no bracket.
    """
    depth = 0
    for lexeme in _LEXEME.finditer(text):
        sign = lexeme[0]
        depth += (sign in CLOSING) - (sign in CLOSING.values())
        if depth < 0:
            return lexeme.start(), sign
    return None


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
