"""Code blocks of an answer, and how one gets into a file: checked, shown, asked for, atomic."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from talaria.coder import files, source
from talaria.coder.errors import SourceError
from talaria.coder.guard import Guard
from talaria.coder.request import Options, Request
from talaria.coder.syntax.python import compiles

# A fence, what stands behind it, the lines up to one that is as long; or to the end of the answer.
_FENCED = re.compile(
    r"^(?P<indent>[ \t]*)(?P<fence>`{3,}|~{3,})(?P<kind>[^\n`]*)\n"
    r"(?P<text>.*?)(?:^[ \t]*(?P=fence)[`~]*[ \t]*\r?$|(?P<open>\Z))",
    re.MULTILINE | re.DOTALL,
)
PYTHON = (".py", ".pyi", ".pyw")  # a new file of another name is only checked if its block says so


@dataclass(frozen=True)
class Block:
    """A fenced block of an answer.

    kind  what its fence says, such as "python"
    text  its lines, each ended
    cut   whether the answer ended before it did
    """

    kind: str
    text: str
    cut: bool


def blocks_of(answer: str) -> list[Block]:
    """The fenced blocks of an answer, in their order, without the indentation of their fence."""
    found = []
    for each in _FENCED.finditer(answer):
        indent = each["indent"]
        # What else splitlines() takes for the end of a line may stand within one, in a string.
        lines = each["text"].replace("\r\n", "\n").removesuffix("\n").split("\n")
        text = "".join(f"{line.removeprefix(indent)}\n" for line in lines if each["text"])
        found.append(Block(each["kind"].strip(), text, each["open"] is not None))
    return found


@dataclass(frozen=True)
class Change:
    """A block in the place of all that a file holds; `new`: there is no such file yet."""

    target: source.Target
    text: str
    new: bool

    @property
    def diff(self) -> str:
        """What it would change; empty for nothing."""
        return source.unified_diff(self.target, self.text)

    def write(self) -> None:
        """Write it, wholly or not at all.

        SourceError where the file has changed since it was read, or cannot be written.
        """
        path = self.target.path
        assert path is not None
        if not self.new:
            source.write(self.target, self.text)
            return
        if exists(path):
            raise SourceError(f"{path} has come to be since it was looked for; try again")
        try:
            files.write(path, self.text)
        except OSError as error:
            raise SourceError(
                f"cannot write {path}: {error.strerror or error}; give a name in a folder that is "
                "there and may be written to"
            ) from error


def exists(path: Path) -> bool:
    """Whether there is such a file; SourceError where nobody can tell."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:  # a NUL within, and what cannot be encoded
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise SourceError(f"{path} cannot be a file ({why}); give another name") from error
    return True


def change(block: Block, path: Path) -> Change:
    """What writing a block into a file would do; nothing is written yet.

    SourceError where it must not be: the block was cut off, the file cannot be read or is not
    Python, by its name or else by its text, or the guard refuses (`Guard.refusal`), which keeps
    Python from refusing a file that it took before.
    """
    if block.cut:
        raise SourceError("the answer ended within the block; ask for the rest, or for it again")
    new, named = not exists(path), path.suffix.lower() in PYTHON
    target = source.Target("", 0, 0, path) if new else source.whole(path)
    if not named and not compiles(target.middle):
        raise SourceError(
            f"{path} is not Python, as what it holds now is none, and other files are not "
            "replaced; give another name"
        )
    if not new or named or block.kind.lower() in ("python", "py", "python3"):
        request = Request("", "", Options(complete=True), replaces=target.middle)
        if why := Guard(request).refusal(block.text):
            raise SourceError(f"{why}, so {path} is as it was")
    return Change(target, block.text, new)
