"""Holes that several tests fill."""

from __future__ import annotations

from functools import cache, partial

from talaria.coder.checkpoint import Checkpoint
from talaria.coder.infill import surroundings
from talaria.coder.progress import Progress, begin
from talaria.coder.request import Options, Request

# What a random model writes is no code, and would be cut to nothing.
raw = partial(Options, check_syntax=False)

PREFIX, SUFFIX = "def mean(values):\n    total = ", "\n    return total\n"
FRESH = "def mean(values):\n    total = 0\n    "  # no token at its end that may go on

CODE = [
    "def area(width, height):\n    return width * height\n",
    "import json\n\n\ndef load(path):\n    with open(path) as file:\n"
    "        return json.load(file)\n",
    "class Counter:\n    def __init__(self, start=0):\n        self.value = start\n\n"
    "    def increment(self):\n        self.value += 1\n        return self.value\n",
    "def evens(numbers):\n    found = []\n    for number in numbers:\n"
    "        if number % 2 == 0:\n            found.append(number)\n    return found\n",
    "from pathlib import Path\n\nroot = Path('.')\nfor path in root.glob('*.py'):\n"
    "    text = path.read_text()\n    print(path.name, len(text))\n",
    "try:\n    value = int(text)\nexcept ValueError:\n    value = None\nprint(value)\n",
    "names = ['ada', 'grace']\nfor index, name in enumerate(names):\n    print(index, name)\n"
    "total = sum(len(name) for name in names)\nassert total > 0\n",
    'def read(path, lines=10):\n    """The first lines of a file."""\n    result = []\n'
    "    for line in open(path):\n        if len(result) == lines:\n            break\n"
    "        result.append(line.rstrip())\n    return result\n",
]


def holes_of(code: str, above: str = "") -> list[tuple[str, str, str]]:
    """A hole for each line of a text: the line itself, or its second half.

    Prefix, what stood in the hole, suffix.
    """
    lines = code.splitlines(keepends=True)
    found = []
    for number, line in enumerate(lines):
        cut = len(line) // 2 if number % 2 else 0
        prefix = above + "".join(lines[:number]) + line[:cut]
        found.append((prefix, line[cut:], "".join(lines[number + 1 :])))
    return [hole for hole in found if hole[0]]


def progress(model: Checkpoint, request: Request) -> Progress:
    """A request of which nothing has been written."""
    return begin(model, request, cache(partial(surroundings, request, None, lambda: False)), None)
