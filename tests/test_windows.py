"""What a Linux machine can say about Windows: there are no such modules, calls and signals."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from talaria.coder import files

ROOT = Path(__file__).parent.parent
THIRD = ("numpy", "onnx", "onnxruntime", "tokenizers", "tree_sitter", "psutil", "pygls.lsp.server")
MORE = ("huggingface_hub", "httpx2", "pathspec", "gguf", "filelock", "multiprocessing", "uuid")
SERVER = ("zoneinfo", "pydantic.main", "starlette.applications", "uvicorn", "prometheus_client")
# Third-party modules and the standard library know their system when they are imported, so they
# come first; then everything that Windows lacks goes.
PROGRAM = f"""
import argparse, asyncio, importlib, json, os, signal, socket, subprocess, sys, tempfile, types
for name in {(*THIRD, *MORE, *SERVER)}:
    importlib.import_module(name)
for name in ("fcntl", "resource", "pwd", "grp", "termios", "pty", "tty", "syslog"):
    sys.modules[name] = None
for name in ("fork", "geteuid", "getuid", "chown", "killpg", "setsid", "sched_getaffinity"):
    if hasattr(os, name):
        delattr(os, name)
for name in ("SIGKILL", "SIGHUP", "SIGCHLD", "SIGALRM", "SIGVTALRM", "setitimer", "SIGPIPE"):
    if hasattr(signal, name):
        delattr(signal, name)
if hasattr(socket, "AF_UNIX"):
    del socket.AF_UNIX
sys.platform = "win32"
sys.modules["msvcrt"] = types.ModuleType("msvcrt")
"""


def on_windows(program: str, *arguments: str, given: str = "") -> str:
    """What a program prints on something like Windows."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM + program, *arguments],
        cwd=ROOT,
        env={**os.environ, "TALARIA_DAEMON": "10"},
        input=given,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_everything_between_a_keystroke_and_text_imports() -> None:
    """And the command line's modules; the process in the background is for other systems."""
    names = [
        f"talaria.{'.'.join(path.relative_to(ROOT).with_suffix('').parts)}"
        for folder in ("coder", "lsp")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if not path.name.startswith("__") and not path.stem.endswith(("_torch", "_ray"))
    ]
    assert len(names) > 60
    printed = on_windows(
        "for name in sys.argv[1:]: importlib.import_module(name)\nprint(len(sys.argv))", *names
    )
    assert printed.split() == [str(len(names) + 1)]


def test_a_hole_is_filled_and_written(tmp_path: Path) -> None:
    """Each call loads the model, without asking for a process; the file is replaced."""
    path = tmp_path / "a.py"
    path.write_bytes(b"def mean(values):\r\n    return \r\n")
    printed = on_windows(
        "from talaria.coder import cli, daemon\n"
        "print(daemon.runtime_folder(), cli.main(sys.argv[1:]))",
        *("infill", f"{path}:2:11", "--write"),
    )
    assert printed.split() == ["None", "0"]
    written = path.read_bytes()
    assert written.startswith(b"def mean(values):\r\n    return ")
    assert len(written) > len(b"def mean(values):\r\n    return \r\n")
    assert b"\n" not in written.replace(b"\r\n", b"")


def test_what_is_flushed_may_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows refuses to flush a file that was opened to be read."""
    if sys.platform == "win32":
        return
    import fcntl

    real, modes = os.fsync, []

    def noting(handle: int) -> None:
        modes.append(fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE)
        real(handle)

    monkeypatch.setattr(os, "fsync", noting)
    files.write(tmp_path / "a.txt", "a")
    assert modes == [os.O_RDWR]
