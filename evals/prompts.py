"""Prompts for timing: holes in real files, whose surroundings are cut to a length in tokens."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import talaria.coder
from talaria.coder.errors import UsageError
from talaria.coder.syntax.lexical import lines_of
from talaria.evals.cursors import held_out
from talaria.evals.suites import Problem

if TYPE_CHECKING:
    from talaria.coder.layout import Layout

HOLE_LINES = (0, 1, 4)  # whole lines that a hole spans; 0 is the rest of a line
SHORTEST = 8  # tokens of a context


def documents(corpus: Path | None) -> tuple[list[dict[str, str]], dict[str, str]]:
    """Read a corpus's held-out files, or without a corpus the modules of `coder/`.

    Returns the files (package, path, text) and the SHA-256 of what was read, by name.
    """
    if corpus is not None:
        files, hashes, _ = held_out(corpus)
        return files, hashes
    found, hashes = [], {}
    for path in sorted(Path(talaria.coder.__file__).parent.glob("*.py")):
        raw = path.read_bytes()
        found.append({"package": "talaria", "path": f"coder/{path.name}", "text": raw.decode()})
        hashes[f"coder/{path.name}"] = hashlib.sha256(raw).hexdigest()
    return found, hashes


def draw_prompts(
    files: Sequence[dict[str, str]],
    layout: Layout,
    lengths: Sequence[int],
    number: int,
    seed: int = 0,
) -> list[Problem]:
    """Draw `number` prompts of each length, in tokens; UsageError if the files have too few."""
    found: list[Problem] = []
    for length in lengths:
        rng = random.Random(f"{seed}/{length}")
        some: dict[str, Problem] = {}
        for _ in range(200 * number):
            if len(some) == number:
                break
            hole_lines = HOLE_LINES[len(some) % len(HOLE_LINES)]
            made = cut_prompt(rng, rng.choice(files), layout, length, hole_lines)
            if made is not None:
                some[made.id] = made
        if len(some) < number:
            raise UsageError(
                f"--prompts is {number}; only {len(some)} places with {length} tokens around "
                "them were found: ask for fewer or shorter ones"
            )
        found += some.values()
    return found


def cut_prompt(
    rng: random.Random, file: dict[str, str], layout: Layout, length: int, hole_lines: int
) -> Problem | None:
    """Cut a hole at a random line; None if that line is blank or the file too short around it."""
    from talaria.coder.layout import SUFFIX

    lines = lines_of(file["text"])
    if len(lines) <= hole_lines:
        return None
    first = rng.randrange(len(lines) - hole_lines)
    code = lines[first].strip()
    if len(code) < 2:
        return None
    column = lines[first].index(code) + (0 if hole_lines else rng.randrange(1, len(code)))
    last = first + max(hole_lines, 1) - 1
    end = len(lines[last].rstrip("\r\n"))
    before = "".join(lines[:first]) + lines[first][:column]
    after = lines[last][end:] + "".join(lines[last + 1 :])
    tokenizer = layout.tokenizer
    room = length - len(layout.arrange((), ()))
    suffix = tokenizer.encode(after[: 12 * length])[: int(SUFFIX * room)]
    prefix = tokenizer.encode(before[-12 * length :])[-(room - int(SUFFIX * room)) :]
    if len(prefix) + len(suffix) < room:
        return None
    whole = "".join(lines[first : last + 1])
    return Problem(
        id=f"{file['package']}:{file['path']}:{first + 1}:{column}/{length}",
        cluster=f"{file['package']}:{file['path']}",
        prefix=tokenizer.decode(prefix),
        suffix=tokenizer.decode(suffix),
        solution=whole[column : len(whole) - (len(lines[last]) - end)],
    )
