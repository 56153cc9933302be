"""The process that keeps a model loaded: quick, private, and never a requirement."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from talaria.coder import checkpoint, daemon, daemon_server, loading
from talaria.coder.checkpoint import Checkpoint
from talaria.coder.daemon_server import Server
from talaria.coder.request import Options, Request

if sys.platform == "win32":
    pytest.skip("there is no such process on Windows", allow_module_level=True)

TEXT = "def mean(values):\n    return sum(values) / <|fill|>\n"
LATE = 30  # seconds; a busy machine must not decide


class Shell:
    """Runs `talaria infill -` in processes of their own, whose daemons are their own, too."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder, self.model = folder, model
        self.environment = {**os.environ, "XDG_RUNTIME_DIR": str(folder), "OMP_NUM_THREADS": "1"}
        del self.environment["TALARIA_DAEMON"]

    def start(self, *options: str) -> subprocess.Popen[str]:
        """A call; it reads the text, and its standard streams are pipes."""
        begin = (sys.executable, "-m", "talaria.coder.cli", "infill", "-")
        calling = subprocess.Popen(
            [*begin, "--max-tokens", "8", "--model", str(self.model), *options],
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # Started in the background, this process ignores Ctrl-C, and so would the call.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        assert calling.stdin
        calling.stdin.write(TEXT)
        calling.stdin.close()
        calling.stdin = None
        return calling

    def __call__(self, *options: str) -> tuple[int, str, str]:
        """Exit code and what is printed."""
        calling = self.start(*options)
        out, err = calling.communicate(timeout=2 * LATE)
        return calling.returncode, out, err

    def processes(self) -> list[psutil.Process]:
        """The processes that keep a model for this shell."""
        found = []
        for process in psutil.process_iter(["cmdline"]):
            line = process.info["cmdline"] or []
            if any(part.startswith(f"{self.folder}/") for part in line) and "-P" in line:
                found.append(process)
        return found


@pytest.fixture
def shell(tmp_path: Path, model_folder: Path) -> Iterator[Shell]:
    """A shell with a runtime folder of its own; what it started is ended."""
    tmp_path.chmod(0o700)
    shell = Shell(tmp_path, model_folder)
    yield shell
    for process in shell.processes():
        process.kill()


def eventually(holds: Callable[[], bool]) -> bool:
    """Whether something is true soon."""
    until = time.monotonic() + LATE
    while not holds() and time.monotonic() < until:
        time.sleep(0.02)
    return holds()


def test_a_second_call_is_answered_by_the_process_of_the_first(shell: Shell) -> None:
    """With the same answer as without it; a kill leaves nothing that would be in the way."""
    code, alone, _ = shell("--json", "--daemon", "0")
    assert code == 0
    assert shell.processes() == []
    for _ in range(2):
        code, out, err = shell("--json")
        assert (code, err) == (0, "")
        assert without_time(out) == without_time(alone)
    (process,) = shell.processes()
    process.kill()
    assert eventually(lambda: not shell.processes())
    assert without_time(shell("--json")[1]) == without_time(alone)
    (other,) = shell.processes()
    assert other.pid != process.pid


def test_an_outdated_process_is_replaced(
    shell: Shell, model_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """At once: the call that finds it out leaves one that makes the next call quick."""
    shell.model = tmp_path_factory.mktemp("changing") / "model"
    shutil.copytree(model_folder, shell.model)
    first = shell("--json")[1]
    (before,) = shell.processes()
    with (shell.model / checkpoint.CONFIG).open("a") as config:
        config.write("\n")
    code, out, err = shell("--json")
    assert (code, err) == (0, "")
    assert without_time(out) == without_time(first)
    assert eventually(lambda: before.pid not in {each.pid for each in shell.processes()})
    assert len(shell.processes()) == 1


def without_time(printed: str) -> dict[str, Any]:
    """An answer but for how long it took."""
    return {**json.loads(printed), "elapsed_ms": 0}


def test_of_several_that_start_at_once_one_stays(shell: Shell) -> None:
    """And all are answered."""
    calls = [shell.start("--json") for _ in range(4)]
    answers = [call.communicate(timeout=2 * LATE)[0] for call in calls]
    assert len({json.dumps(without_time(each)) for each in answers}) == 1
    assert eventually(lambda: len(shell.processes()) == 1)


def test_it_ends_when_nobody_asks(shell: Shell) -> None:
    """And leaves no socket."""
    assert shell("--daemon", "0.005")[0] == 0
    assert eventually(lambda: not shell.processes())
    assert not [path for path in (shell.folder / "talaria").iterdir() if path.is_socket()]


def test_it_can_be_switched_off(shell: Shell) -> None:
    """By an option and by a variable; a wrong value is one line."""
    shell.environment["TALARIA_DAEMON"] = "0"
    assert shell()[0] == 0
    assert not (shell.folder / "talaria").exists()
    for wrong in ("much", "-1"):
        shell.environment["TALARIA_DAEMON"] = wrong
        code, out, err = shell()
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert wrong in err


def test_faults_are_the_same_lines(shell: Shell) -> None:
    """Of the model and of the request; a process without a model does not stay."""
    for options, code in (
        (("--mode", "verify", "--max-tokens", "9999"), 2),
        (("--device", "x"), 1),
    ):
        alone = shell(*options, "--daemon", "0")
        assert alone[0] == code
        assert shell(*options) == alone
    assert eventually(lambda: len(shell.processes()) <= 1)


def test_the_asker_is_light(shell: Shell) -> None:
    """It imports nothing that computes."""
    assert shell()[0] == 0
    program = (
        "import sys; from talaria.coder import cli; cli.main(sys.argv[1:]); "
        "print('loaded:', *sys.modules)"
    )
    done = subprocess.run(
        [
            *(sys.executable, "-c", program, "infill", "-", "--max-tokens", "8"),
            "--model",
            shell.model,
        ],
        env=shell.environment,
        input=TEXT,
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = {name.split(".")[0] for name in done.stdout.rpartition("loaded: ")[2].split()}
    assert "tree_sitter" in loaded
    assert not loaded & {"numpy", "onnx", "onnxruntime", "tokenizers", "psutil", "subprocess"}


@pytest.mark.parametrize("mode", [0o755, 0o770, None])
def test_a_folder_that_others_may_enter_is_not_used(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, mode: int | None
) -> None:
    """Nor a link to a folder; then each call loads the model."""
    folder = shell.folder / "talaria"
    if mode is None:
        (shell.folder / "elsewhere").mkdir(mode=0o700)
        folder.symlink_to(shell.folder / "elsewhere")
    else:
        folder.mkdir()
        folder.chmod(mode)
    shell.environment["TMPDIR"] = str(shell.folder / "nowhere")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(shell.folder))
    monkeypatch.setenv("TMPDIR", shell.environment["TMPDIR"])
    assert daemon.runtime_folder() is None
    assert shell()[0] == 0
    assert shell.processes() == []


def test_a_folder_of_somebody_else_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its owner could answer; a path that is too long for a socket is not used either."""
    tmp_path.chmod(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "nowhere"))
    assert daemon.runtime_folder() == tmp_path / "talaria"
    monkeypatch.setattr(daemon, "LONGEST_PATH", len(str(tmp_path)) + 10)
    assert daemon.place_of([]) is None
    real = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: real + 1)
    assert daemon.runtime_folder() is None


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[socket.socket]:
    """A socket that listens."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        listening.listen()
        yield listening


@pytest.fixture
def server(
    tmp_path: Path,
    listening: socket.socket,
    model: Checkpoint,
    model_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Server]:
    """A server in this process whose model loads once `go` is set."""
    go = threading.Event()

    def load(name: str | None, device: str, reporter: loading.LoadReporter) -> Checkpoint:
        reporter.preparing("tiny", 0.5)
        go.wait(LATE)
        reporter.line("loaded")
        return model

    monkeypatch.setattr(loading, "load", load)
    # Bases of this user are none of a test's business; the loader looks at once what is stored.
    monkeypatch.setenv("TALARIA_HOME", str(tmp_path))
    server = Server(daemon.identity(str(model_folder), "cpu"), tmp_path / "s", listening)
    server.minutes = 10
    serving = threading.Thread(target=server.serve)
    serving.start()
    server.go = go  # type: ignore[attr-defined]
    yield server
    go.set()
    server.ended = True
    if connection := daemon.connected(tmp_path / "s"):
        connection.close()
    serving.join(LATE)
    server.engine.close()


def message(server: Server, **changed: Any) -> dict[str, Any]:
    """A message that the server answers."""
    request = daemon.sent(Request("x = ", "\n", Options(max_tokens=4)))
    said = {"identity": server.identity, "request": request, "trace": False, "minutes": 10}
    return {**said, **changed}


def call(server: Server) -> socket.socket:
    """A connection to the server."""
    connection = daemon.connected(server.place)
    assert connection
    connection.settimeout(LATE)
    return connection


def test_an_asker_that_goes_cancels_its_request(server: Server) -> None:
    """Also while the model loads; who comes next is answered, and hears what the loader says."""
    with call(server) as gone:
        daemon.send(gone, message(server))
        assert daemon.receive(gone) == {"preparing": "tiny", "done": 0.5}
    assert eventually(lambda: server.engine.statistics()["cancelled"] == 1)
    with call(server) as other:
        daemon.send(other, message(server))
        server.go.set()  # type: ignore[attr-defined]
        heard = [daemon.receive(other)]
        while "answer" not in heard[-1]:
            heard.append(daemon.receive(other))
    assert {"line": "loaded"} in heard
    assert heard[-1]["answer"]["model"] == "tiny"


def test_another_version_or_model_is_refused(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process ends then; it would only be in the way."""
    other = ["0.0.0", *server.identity[1:]]
    assert daemon.place_of(other) != daemon.place_of(server.identity)
    with call(server) as connection:
        daemon.send(connection, message(server, identity=other))
        assert "refused" in daemon.receive(connection)
    assert eventually(lambda: server.ended)


def test_a_model_that_has_changed_is_refused(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As when the large one has been fetched since, and is the default now."""
    monkeypatch.setattr(checkpoint, "find", lambda _: tmp_path)
    with call(server) as connection:
        daemon.send(connection, message(server))
        assert "refused" in daemon.receive(connection)


@pytest.mark.parametrize("how", ["fetched", "later"])
def test_a_stand_in_makes_room_for_the_model_that_was_meant(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, how: str
) -> None:
    """Once its base has come, as the line about it advises; else after a while."""
    monkeypatch.setattr(server, "found", lambda: server.model_file)
    server.model_file = ("/models/large", b"")
    server.go.set()  # type: ignore[attr-defined]
    for _ in range(2):  # it stays
        with call(server) as connection:
            daemon.send(connection, message(server))
            while "answer" not in (heard := daemon.receive(connection)):
                assert "refused" not in heard
    if how == "fetched":
        (tmp_path / "bases").mkdir()
        (tmp_path / "bases" / "1234.gguf").write_bytes(b"x")
    else:
        monkeypatch.setattr(daemon_server, "STANDING_IN", 0.0)
    with call(server) as connection:
        daemon.send(connection, message(server))
        assert "refused" in daemon.receive(connection)


@pytest.mark.parametrize("model", ["", "https://example.org/a/b"])
def test_what_is_no_path_is_not_asked_for(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line about it is the same as without a process."""
    monkeypatch.setattr(daemon, "started", lambda *_: pytest.fail("started"))
    request = Request("x = ", "\n", Options())
    assert daemon.ask(request, model, "cpu", 1.0, False, loading.LoadTerminal()) is None


def test_nonsense_on_the_socket_harms_nobody(server: Server) -> None:
    """The process goes on."""
    server.go.set()  # type: ignore[attr-defined]
    sizes = (daemon.MOST_BYTES + 1).to_bytes(8, "big")
    for data in (b"", b"GET / HTTP/1.1\r\n\r\n", sizes, (2).to_bytes(8, "big") + b"[]"):
        with call(server) as connection:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionResetError):  # what it did not read
                assert connection.recv(1) == b""
    with call(server) as connection:
        daemon.send(connection, message(server))
        assert "line" in daemon.receive(connection)
        assert "answer" in daemon.receive(connection)


def test_ctrl_c_ends_the_asker(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """With 130, and the connection is closed; the process is in a session of its own."""
    for name in ("XDG_RUNTIME_DIR", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, shell.environment[name])
    place = daemon.place_of(daemon.identity(str(shell.model), "cpu"))
    assert place
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(place))
        listening.listen()
        listening.settimeout(LATE)
        calling = shell.start()
        connection, _ = listening.accept()
        with connection:
            connection.settimeout(LATE)
            assert daemon.receive(connection)["request"]["suffix"] == "\n"
            calling.send_signal(signal.SIGINT)
            assert connection.recv(1) == b""
    out, err = calling.communicate(timeout=LATE)
    assert (calling.returncode, out, err) == (130, "", "talaria: interrupted\n")


def test_a_process_that_dies_is_no_loss(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it has said before."""
    for name in ("XDG_RUNTIME_DIR", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, shell.environment[name])
    place = daemon.place_of(daemon.identity(str(shell.model), "cpu"))
    assert place
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(place))
        listening.listen()
        listening.settimeout(LATE)
        calling = shell.start("--json")
        connection, _ = listening.accept()
        with connection:
            daemon.receive(connection)
            daemon.send(connection, {"preparing": "tiny", "done": 0.5})
    out, _ = calling.communicate(timeout=2 * LATE)
    assert json.loads(out)["model"] == "tiny"


def test_a_request_crosses_the_socket_whole() -> None:
    """With all its options, and what it replaces."""
    from talaria.coder.daemon_server import request_of

    options = Options("ar", until="line", temperature=0.5)
    request = Request("é\n", "b", options, replaces="x", cell=True, instruction="shorter")
    assert request_of(json.loads(json.dumps(daemon.sent(request)))) == request
