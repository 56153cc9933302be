"""`talaria serve` as a process, and the files that it reads."""

from __future__ import annotations

import re
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest

from talaria.coder.cli import main
from talaria.coder.errors import UsageError
from talaria.coder.serve import keys
from talaria.coder.serve.command import KEEP, checked, parser
from talaria.lsp.endpoint import KEEP_SECONDS
from tests.coder.serve.serving import PATIENCE, PREFIX, SUFFIX


def start(*flags: str) -> tuple[subprocess.Popen[str], str]:
    """A server in a process of its own, and where it listens."""
    command = [sys.executable, "-m", "talaria.coder.cli", "serve", "--port", "0", *flags]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    found = re.search(r"https?://\S+", line(process))
    if not found:
        process.kill()
    assert found, process.communicate()
    return process, found[0]


def within_patience(process: subprocess.Popen[str], read: Callable[[], str]) -> str:
    """What is read of a process; one that says nothing is killed, which ends the reading."""
    timer = threading.Timer(PATIENCE, process.kill)
    timer.start()
    try:
        return read()
    finally:
        timer.cancel()


def line(process: subprocess.Popen[str]) -> str:
    """The next line of a process; empty if it says none."""
    assert process.stderr is not None
    return within_patience(process, process.stderr.readline)


def ended(process: subprocess.Popen[str]) -> str:
    """The rest of what a process says, until it ends."""
    return within_patience(process, lambda: process.communicate()[1])


def test_a_process_that_says_nothing_holds_no_test_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is killed, and has said nothing."""
    monkeypatch.setitem(globals(), "PATIENCE", 0.1)
    silent = [sys.executable, "-c", "import time; time.sleep(600)"]
    with subprocess.Popen(silent, stderr=subprocess.PIPE, text=True) as process:
        assert line(process) == ended(process) == ""
    assert process.returncode


def test_a_connection_outlives_the_patience_of_the_language_server() -> None:
    """Else its next request could meet a connection that is just being closed."""
    assert KEEP > KEEP_SECONDS


def test_a_life(model_folder: Path, tmp_path: Path) -> None:
    """It answers whoever has a key, and a signal ends it without a complaint."""
    key, table = keys.new("ada")
    (tmp_path / "keys.toml").write_text(table, "utf-8")
    process, url = start("--model", str(model_folder), "--keys", str(tmp_path / "keys.toml"))
    try:
        assert line(process) == "talaria: tiny answers\n"
        body = {"prompt": PREFIX, "suffix": SUFFIX}
        with httpx2.Client(base_url=url, timeout=PATIENCE, trust_env=False) as client:
            assert client.post("/v1/completions", json=body).status_code == 401
            sent = {"authorization": f"Bearer {key}"}
            assert client.post("/v1/completions", json=body, headers=sent).status_code == 200
    finally:
        process.send_signal(signal.SIGTERM)
        output = ended(process)
    assert (process.returncode, output) == (0, "")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make a certificate")
def test_tls(model_folder: Path, tmp_path: Path) -> None:
    """With a certificate and its key it speaks TLS; with another certificate's key, it refuses."""
    for name in ("one", "other"):
        made = ("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost")
        files = ("-keyout", str(tmp_path / f"{name}.key"), "-out", str(tmp_path / f"{name}.pem"))
        named = ("-addext", "subjectAltName=IP:127.0.0.1")
        subprocess.run(["openssl", *made, *files, *named], check=True, capture_output=True)
    cert, key = str(tmp_path / "one.pem"), str(tmp_path / "one.key")
    with pytest.raises(UsageError, match="cannot be used"):
        checked(parser().parse_args(["--tls-cert", cert, "--tls-key", str(tmp_path / "other.key")]))
    process, url = start("--model", str(model_folder), "--tls-cert", cert, "--tls-key", key)
    try:
        assert url.startswith("https://")
        assert line(process) == "talaria: tiny answers\n"
        trusted = ssl.create_default_context(cafile=cert)
        with httpx2.Client(base_url=url, verify=trusted, timeout=PATIENCE, trust_env=False) as it:
            assert it.get("/health").status_code == 200
        with (
            httpx2.Client(base_url=url, timeout=PATIENCE, trust_env=False) as strict,
            pytest.raises(httpx2.ConnectError),
        ):
            strict.get("/health")
    finally:
        process.send_signal(signal.SIGTERM)
        output = ended(process)
    assert process.returncode == 0, output


def test_a_signal_while_the_model_loads() -> None:
    """It ends as at any other time; the thread that loads does not abort the process."""
    for seconds in (0, 0.05, 0.1):
        process, _ = start("--model", "talaria-7m")
        time.sleep(seconds)
        process.send_signal(signal.SIGTERM)
        output = ended(process)
        # By the signal itself if it came before the server took it over.
        assert process.returncode in (0, -signal.SIGTERM), output
        assert "Traceback" not in output


def test_a_model_that_cannot_be_loaded_ends_it() -> None:
    """With one line."""
    process, _ = start("--model", "no-such-model")
    output = ended(process)
    assert process.returncode == 1
    assert output.startswith("talaria: ")
    assert output.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--host", "0.0.0.0"], "--keys"),
        (["--port", "65536"], "--port is 65536"),
        (["--queue", "0"], "--queue is 0"),
        (["--tls-cert", "cert.pem"], "--tls-key"),
        (["--tls-cert", "KEYS", "--tls-key", "KEYS"], "name a certificate and its own key"),
        (["--keys", "no-such-file"], "no-such-file"),
        (["--host", "203.0.113.1", "--keys", "KEYS"], "cannot listen"),
        (["--new-key", "a b"], "--new-key is 'a b'"),
    ],
)
def test_wrong_usage(
    flags: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, with what is wrong."""
    (tmp_path / "KEYS").write_text(keys.new("ada")[1], "utf-8")
    named = [str(tmp_path / "KEYS") if flag == "KEYS" else flag for flag in flags]
    assert main(["serve", "--model", "no-such-model", *named]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_new_keys(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The table goes into the file, which does not hold the key."""
    assert main(["serve", "--new-key", "ada"]) == 0
    table, told = capsys.readouterr()
    key = told.split()[-1]
    assert key not in table
    (tmp_path / "keys.toml").write_text(table + "per_minute = 60\n", "utf-8")
    read = keys.read(tmp_path / "keys.toml")
    assert keys.Keys(read).owner(f"Bearer {key}") == "ada"
    assert read[0].per_minute == 60


@pytest.mark.parametrize(
    "text",
    [
        "keys = 3",
        "",
        "[keys.ada]",
        '[keys.ada]\nsha256 = "ab"',
        f'[keys.ada]\nsha256 = "{"a" * 64}"\nper_minute = 0',
        f'[keys.ada]\nsha256 = "{"a" * 64}"\nper_minute = inf',
        f'[keys.ada]\nsha256 = "{"a" * 64}"\nper_minutes = 3',
        f'[keys.ada]\nsha256 = "{"A" * 64}"',
        "[keys",
    ],
)
def test_files_of_keys_that_are_wrong(text: str, tmp_path: Path) -> None:
    """They are named, with what is wrong."""
    path = tmp_path / "keys.toml"
    path.write_text(text, "utf-8")
    with pytest.raises(UsageError, match=r"keys\.toml"):
        keys.read(path)
