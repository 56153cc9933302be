"""Measure how soon `talaria infill` answers when its process in the background has the model.

`python -m benchmarks.second_call` fills one hole again and again, each time by a command of its own
as a shell starts it, with a process in the background that nobody else asks. Beside the time by the
clock stands the processor time of the command alone, which other load stretches less.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

from talaria.coder.arguments import Parser
from talaria.coder.cli import guarded
from talaria.coder.errors import TalariaError, UsageError
from talaria.evals.timing import load_average

HOLE = "def mean(values):\n    return sum(values) / <|fill|>\n"
LIMIT = 0.3  # seconds, wanted of a second call
IDLE = 0.2  # minutes until the process ends


def main(argv: Sequence[str] | None = None) -> int:
    """Call, and print a line for the first call and one for the others; exit code 0."""
    parser = Parser(description="How soon does a second call answer?")
    parser.add_argument("--calls", type=int, default=20, metavar="N")
    parser.add_argument("--model", help="a folder, or a name from `talaria models`")
    args = parser.parse_args(argv)
    if args.calls < 2:
        raise UsageError(f"--calls is {args.calls}; it must be at least 2")
    options = ["--quiet", "--daemon", str(IDLE)] + (["--model", args.model] if args.model else [])
    with tempfile.TemporaryDirectory(prefix="talaria-") as folder:
        environment = {**os.environ, "XDG_RUNTIME_DIR": folder}
        environment.pop("TALARIA_DAEMON", None)
        times = [call(options, environment) for _ in range(args.calls)]
    later = [wall for wall, _ in times[1:]]
    within = sum(wall <= LIMIT for wall in later)
    print(f"first call: {times[0][0]:.2f} s, {times[0][1]:.2f} s of processor time")
    print(
        f"{len(later)} later calls: {statistics.median(later):.2f} s ({min(later):.2f}–"
        f"{max(later):.2f}), {statistics.median(used for _, used in times[1:]):.2f} s of processor "
        f"time; {within} within {LIMIT} s; load {load_average()}"
    )
    return 0


def call(options: Sequence[str], environment: dict[str, str]) -> tuple[float, float]:
    """One call: seconds by the clock, and of processor time."""
    command = [sys.executable, "-m", "talaria.coder.cli", "infill", "-", *options]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        command, env=environment, input=HOLE, capture_output=True, text=True, check=False
    )
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise TalariaError(f"a call ended with {done.returncode}: {done.stderr.strip()}")
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    sys.exit(guarded("second_call", main))
