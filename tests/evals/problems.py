"""Problems written for the tests, in the form of the published files."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

HOLES: list[dict[str, Any]] = [
    {
        "task_id": "SingleLineInfilling/Tests/0/L0",
        "entry_point": "twice",
        "prompt": "def twice(n):\n",
        "canonical_solution": "    return 2 * n\n",
        "suffix": "",
        "test": "def check(candidate):\n    assert candidate(2) == 4\n",
    },
    {
        "task_id": "SingleLineInfilling/Tests/1/L0",
        "entry_point": "longest",
        "prompt": "def longest(words):\n    best = ''\n    for word in words:\n",
        "canonical_solution": "        if len(word) > len(best):\n",
        "suffix": "            best = word\n    return best\n",
        "test": "def check(candidate):\n    assert candidate(['a', 'abc', 'ab']) == 'abc'\n",
    },
    {
        "task_id": "SingleLineInfilling/Tests/1/L1",
        "entry_point": "longest",
        "prompt": "def longest(words):\n",
        "canonical_solution": "    best = ''\n",
        "suffix": "    best = max(words, key=len)\n    return best\n",
        "test": "def check(candidate):\n    assert candidate(['a', 'abc', 'ab']) == 'abc'\n",
    },
]
FUNCTIONS: list[dict[str, Any]] = [
    {
        "task_id": "Tests/0",
        "entry_point": "halves",
        "prompt": 'def halves(numbers):\n    """Each number divided by two."""\n',
        "canonical_solution": "    return [n / 2 for n in numbers]\n",
        "test": "def check(candidate):\n    assert candidate([2, 3]) == [1, 1.5]\n",
    }
]
MBPP: list[dict[str, Any]] = [
    {
        "task_id": 7,
        "text": "Write a function to add one.",
        "code": "import math\r\ndef more(n):\r\n\treturn n + 1",
        "test_list": ["assert more(1) == 2", "assert more(-1) == 0"],
        "test_setup_code": "",
    }
]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows as JSONL, gzipped if the name ends in .gz."""
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path
