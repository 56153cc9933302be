"""Right programs pass, wrong ones fail, and hostile ones fail without doing harm."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from talaria.coder.errors import DataError, UsageError
from talaria.evals.sandbox import ForkServer, Level, Limits, Program, ProgramVerdict, Sandbox
from tests.evals.programs import (
    DOUBLE,
    HOSTILE,
    RIGHT,
    SHADOWING,
    SHARING,
    UNSHADOWED,
    UNSHARED,
    VICTIM,
    WRONG,
    plain,
)

# Processor time decides, so that a busy machine does not; only for those who wait, the clock does.
SHORT = Limits(
    seconds=0.2, wall_seconds=60, file_bytes=1 << 20, memory_bytes=128 << 20, output_bytes=1 << 16
)
WAITING = ("waits forever", "stops itself", "kills its parent")
ENOUGH = Limits(seconds=1, wall_seconds=60)
SECRET = "a file that no program may read"


DAEMON = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep({seconds})
    os._exit(0)
"""


def verdicts(
    sandbox: Sandbox, programs: dict[str, Program], limits: Limits = ENOUGH
) -> dict[str, ProgramVerdict]:
    """Run programs and return their verdicts."""
    return dict(sandbox.run_all((name, program, limits) for name, program in programs.items()))


@pytest.fixture(scope="module", params=[True, False], ids=["namespaces", "limits"])
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    """A sandbox, once with namespaces and once without."""
    with Sandbox(namespaces=request.param) as sandbox:
        if request.param and sandbox.level < Level.namespaces:
            pytest.skip(f"no namespaces here, only {sandbox.guards}")
        yield sandbox


@pytest.fixture(scope="module")
def outcomes(sandbox: Sandbox) -> Iterator[dict[str, ProgramVerdict]]:
    """Verdicts of all hostile programs, which a file outside must survive."""
    victim = VICTIM / "talaria-victim"
    victim.write_text(SECRET)
    hostile = {name: program for name, (program, _) in HOSTILE.items()}
    if not set(sandbox.guards) >= {"Landlock", "seccomp"}:
        # Without these it could harm the machine that tests it.
        for name in ("kills its parent", "kills all it can", "removes files outside"):
            del hostile[name]
    try:
        jobs = (
            (name, program, replace(SHORT, wall_seconds=2) if name in WAITING else SHORT)
            for name, program in hostile.items()
        )
        yield dict(sandbox.run_all(jobs))
        assert victim.read_text() == SECRET
        assert not (VICTIM / "talaria-x").exists()
    finally:
        victim.unlink()


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_programs_get_a_kind_of_failure(
    name: str, outcomes: dict[str, ProgramVerdict]
) -> None:
    """Each gets its verdict in bounded time and leaves harness and machine unchanged."""
    if name not in outcomes:
        pytest.skip("nothing here keeps it from doing harm")
    verdict = outcomes[name]
    assert verdict.status in HOSTILE[name][1], verdict
    assert verdict.elapsed < 90
    assert "\n" not in verdict.detail
    assert len(verdict.detail) <= 200


@pytest.mark.parametrize("name", RIGHT)
def test_right_programs_pass(name: str, rightful: dict[str, ProgramVerdict]) -> None:
    """Right programs find what they need."""
    assert rightful[name].status == "passed", rightful[name]
    assert rightful[name].detail == ""
    assert 0 < rightful[name].seconds < ENOUGH.seconds


@pytest.fixture(scope="module")
def rightful(sandbox: Sandbox) -> dict[str, ProgramVerdict]:
    """Verdicts of all right programs."""
    return verdicts(sandbox, RIGHT)


def test_programs_of_several_processes(sandbox: Sandbox) -> None:
    """In namespaces they work; elsewhere, and where they need more, they are called forbidden."""
    found = verdicts(sandbox, SHARING | UNSHARED)
    kinds = {name: verdict.status for name, verdict in found.items()}
    assert {kinds[name] for name in UNSHARED} == {"forbidden"}, found
    if sandbox.level >= Level.namespaces:
        assert {kinds[name] for name in SHARING} == {"passed"}, found
    elif "Landlock" in sandbox.guards:
        assert {kinds[name] for name in SHARING} == {"forbidden"}, found
    else:
        assert kinds["shared memory"] == "forbidden"  # it would stay behind


def test_a_test_means_pythons_built_ins(sandbox: Sandbox) -> None:
    """Names of the program's own change no built-in for the test, except where it asks for it."""
    found = verdicts(sandbox, SHADOWING | UNSHADOWED)
    kinds = {name: verdict.status for name, verdict in found.items()}
    assert {kinds[name] for name in SHADOWING} == {"failed"}, found
    assert {kinds[name] for name in UNSHADOWED} == {"passed"}, found
    assert all(found[name].detail.startswith("AssertionError at <test>") for name in SHADOWING)


def test_a_wrong_program_fails_with_the_line_of_its_assertion(sandbox: Sandbox) -> None:
    """The detail names the error, its text and the innermost line of program or test."""
    programs = {
        "plain": plain(WRONG, "assert f(0) == 0\nassert f(2) == 4"),
        "text": plain(WRONG, "assert f(2) == 4, 'not\\ntwice'"),
        "inner": plain("def f(n):\n    return [][n]"),
        "test": plain(DOUBLE, "assert f(2) == (4"),
        "address": plain("def f(n): raise ValueError(object())"),
    }
    found = {name: (v.status, v.detail) for name, v in verdicts(sandbox, programs).items()}
    assert found == {
        "plain": ("failed", "AssertionError at <test> line 2: assert f(2) == 4"),
        "text": (
            "failed",
            "AssertionError: not twice at <test> line 1: assert f(2) == 4, 'not\\ntwice'",
        ),
        "inner": (
            "failed",
            "IndexError: list index out of range at <program> line 2: return [][n]",
        ),
        "test": ("syntax error", "'(' was never closed at <test> line 1"),
        "address": (
            "failed",
            "ValueError: <object object at 0x…> at <program> line 1: "
            "def f(n): raise ValueError(object())",
        ),
    }


def descendants(process: int) -> int:
    """Count a process and its descendants in the process table."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(entry.name)] = int(fields[1])
    found = {process}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return len(found)


@pytest.mark.skipif(sys.platform != "linux", reason="without a subreaper orphans cannot be found")
def test_nothing_that_a_program_started_outlives_it(sandbox: Sandbox) -> None:
    """Daemons in their own session end with the program, whether it passed or failed."""
    started = DAEMON.format(seconds=1000)
    if "seccomp" in sandbox.guards and sandbox.level < Level.namespaces and os.geteuid() == 0:
        started = f"try:\n    exec({started!r})\nexcept OSError: pass\n"  # root may not fork there
    before = [descendants(server.process.pid) for server in sandbox.servers]
    programs = {"right": plain(started + DOUBLE), "wrong": plain(started + WRONG)}
    found = verdicts(sandbox, programs)
    assert {name: v.status for name, v in found.items()} == {"right": "passed", "wrong": "failed"}
    assert max(v.elapsed for v in found.values()) < 90
    assert [descendants(server.process.pid) for server in sandbox.servers] == before


def test_verdicts_are_the_same_again_and_on_a_busy_machine(sandbox: Sandbox) -> None:
    """Load, order and Python's randomness change no verdict."""
    programs = RIGHT | {
        "random": plain("import random\ndef f(n): raise ValueError(random.random())"),
        "sets": plain("def f(n): raise ValueError(*{'a', 'b', 'c', 'd', 'e'})"),
        "long": plain("for _ in range(1_000_000): pass\n" + DOUBLE),
        "endless": HOSTILE["loops forever"][0],
    }
    limits = Limits(seconds=0.5, wall_seconds=60)
    first = verdicts(sandbox, programs, limits)
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(3)]
    try:
        second = verdicts(sandbox, dict(reversed(programs.items())), limits)
    finally:
        for process in busy:
            process.kill()
            process.wait()
    for name in programs:
        assert (first[name].status, first[name].detail) == (
            second[name].status,
            second[name].detail,
        )


def test_what_one_program_leaves_the_next_does_not_find(sandbox: Sandbox) -> None:
    """Each program finds an empty folder, fresh modules and intact built-ins."""
    leave = (
        "import os, math, builtins\nmath.pi = 3\nbuiltins.len = None\nos.environ['X'] = '1'\n"
        "open('left', 'w').close()\nos.mkdir('folder')\nos.chmod('folder', 0)\n" + DOUBLE
    )
    look = (
        "import os, math\nassert math.pi > 3\nassert len('x') == 1\n"
        "assert 'X' not in os.environ\nassert not os.listdir('.')\n" + DOUBLE
    )
    programs = {
        f"{i} {kind}": plain(text)
        for i in range(4)
        for kind, text in {"leave": leave, "look": look}.items()
    }
    assert {v.status for v in verdicts(sandbox, programs).values()} == {"passed"}


def test_programs_see_nothing_of_the_machine(sandbox: Sandbox) -> None:
    """In namespaces: no other process, no file but the library's, no variable of the user's."""
    if sandbox.level < Level.full:
        pytest.skip(f"only {sandbox.guards}")
    code = (
        "import os\n"
        "assert os.getpid() > 1 and os.getppid() == 1\n"
        "assert not os.path.exists('/proc/self') and not os.path.exists('/etc/passwd')\n"
        "assert not os.path.exists('/home') and not os.path.exists('/work')\n"
        "assert os.getuid() != 0\n"
        "assert 'USER' not in os.environ\n"
        "for path in ('/', '/usr/lib', '/dev'):\n"
        "    try: open(path + '/x', 'w')\n"
        "    except OSError: pass\n"
        "    else: raise ValueError(path)\n" + DOUBLE
    )
    assert verdicts(sandbox, {"": plain(code)})[""].status == "passed"


def test_sockets_of_the_machine_are_out_of_reach(sandbox: Sandbox) -> None:
    """Neither the loopback interface nor abstract names lead outside."""
    if "seccomp" not in sandbox.guards:
        pytest.skip(f"only {sandbox.guards}")
    with socket.socket() as listening, socket.socket(socket.AF_UNIX) as named:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        name = f"\0talaria-{os.getpid()}"
        named.bind(name)
        named.listen()
        for family, address in (("AF_INET", listening.getsockname()), ("AF_UNIX", name)):
            code = f"import socket\ns = socket.socket(socket.{family})\ns.connect({address!r})\n"
            assert verdicts(sandbox, {"": plain(code + DOUBLE)})[""].status == "forbidden"


def test_jobs_are_taken_as_workers_are_free(sandbox: Sandbox) -> None:
    """An endless supply of jobs works; after stopping early, the sandbox is still usable."""
    taken = []

    def supply() -> Iterator[tuple[int, Program, Limits]]:
        for number in range(1_000_000):
            taken.append(number)
            yield number, plain(DOUBLE), ENOUGH

    running = sandbox.run_all(supply())
    assert isinstance(running, Generator)
    assert next(running)[1].status == "passed"
    assert len(taken) <= 2 * sandbox.workers
    running.close()
    assert verdicts(sandbox, {"": plain(DOUBLE)})[""].status == "passed"


def test_a_lost_fork_server_is_replaced(sandbox: Sandbox) -> None:
    """A server killed from outside, even while idle, loses at most one program."""

    def lose() -> Iterator[tuple[str, Program, Limits]]:
        yield "first", HOSTILE["loops forever"][0], Limits(seconds=100)
        for server in sandbox.servers:
            server.process.kill()
            server.process.wait()
        yield "second", plain(DOUBLE), ENOUGH

    found = dict(sandbox.run_all(lose()))
    assert found["first"].status == "killed"
    assert found["second"].status in {"passed", "killed"}
    assert verdicts(sandbox, {"": plain(DOUBLE)})[""].status == "passed"


def until(what: Callable[[], bool]) -> None:
    """Wait for something that comes to be at once, unless the machine is very busy."""
    for _ in range(3000):
        if what():
            return
        time.sleep(0.02)
    raise AssertionError("it did not come to that in a minute")


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.parametrize("namespaces", [True, False])
def test_a_program_does_not_outlive_its_fork_server(namespaces: bool) -> None:
    """Otherwise it would run on with nobody watching its time."""

    def below(process: int) -> list[int]:
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
        return [int(child) for child in children]

    def state(process: int) -> str:
        try:
            return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return "gone"

    with Sandbox(workers=1, namespaces=namespaces) as sandbox:
        server = sandbox.servers[0]
        server.ask(HOSTILE["loops forever"][0], Limits(seconds=100))
        first = server.process.pid
        if sandbox.level >= Level.namespaces:  # then there is a process between them
            (first,) = below(first)
        until(lambda: len(below(first)) == 1)
        (program,) = below(first)
        until(lambda: state(program) == "R")
        time.sleep(0.1)  # it is confined before it runs
        server.process.kill()
        until(lambda: state(program) in ("gone", "Z"))


def test_limits_are_kept(sandbox: Sandbox) -> None:
    """Exceeding a limit fails; staying just below it passes."""
    output = Limits(seconds=2, output_bytes=1000)
    jobs = [
        ("output", plain("print('x' * 2000)\nimport sys; sys.stdout.flush()\n" + DOUBLE), output),
        ("less", plain("print('x' * 900)\nimport sys; sys.stdout.flush()\n" + DOUBLE), output),
        ("memory", plain("x = bytearray(110 << 20)\n" + DOUBLE), Limits(memory_bytes=128 << 20)),
        ("more", plain("x = bytearray(110 << 20)\n" + DOUBLE), Limits(memory_bytes=512 << 20)),
        ("file", plain("with open('x', 'wb') as f: f.write(bytes(9999))"), Limits(file_bytes=1000)),
    ]
    found = {name: verdict.status for name, verdict in sandbox.run_all(jobs)}
    assert found["output"] == "output"
    assert found["less"] == found["more"] == "passed"
    if sandbox.level > Level.none:
        assert found["memory"] == "memory"
        assert found["file"] == "forbidden"


def test_arguments_of_the_sandbox_are_checked() -> None:
    """Unreached and unknown levels, no workers, a zero limit and a closed sandbox are errors."""
    with pytest.raises(UsageError, match="below 'full'"), Sandbox(1, "full", namespaces=False):
        pytest.fail("it ran below what was required")
    with Sandbox(1, namespaces=False) as lesser:
        assert lesser.described() == f"{lesser.level.name} ({', '.join(lesser.guards)})"
    with pytest.raises(UsageError, match="choose from none, limits, namespaces, full"):
        Sandbox(require="best")
    with pytest.raises(UsageError, match="0 workers; it must be at least 1"):
        Sandbox(workers=0)
    with pytest.raises(UsageError, match="the limit seconds is 0; it must be more than 0"):
        Limits(seconds=0)
    with pytest.raises(UsageError, match="use it in a with statement"):
        next(Sandbox().run_all([]))


def test_the_reason_for_a_lower_level_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the system's reason, as in a container without user namespaces."""
    start = ForkServer.start

    def contained(server: ForkServer) -> None:
        if server.mode == "namespaces":
            raise DataError("no sandbox in mode namespaces: unshare: Operation not permitted")
        start(server)

    monkeypatch.setattr(ForkServer, "start", contained)
    with Sandbox(1) as sandbox:
        assert sandbox.level < Level.namespaces
        assert "without namespaces: no sandbox in mode namespaces: unshare" in sandbox.described()
    with pytest.raises(UsageError, match="unshare: Operation not permitted"), Sandbox(1, "full"):
        pytest.fail("it ran below what was required")


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]),) * 2)
from talaria.coder.errors import DataError
from talaria.evals.sandbox import Limits, Program, Sandbox
try:
    with Sandbox(2) as sandbox:
        right = Program("open('x', 'w').write('x')\\nassert open('x').read() == 'x'")
        found = [v.status for _, v in sandbox.run_all((n, right, Limits()) for n in range(4))]
        print(sandbox.level.name, *found)
except DataError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limits are Linux's")
def test_few_descriptors_change_no_level() -> None:
    """A user who may open only few files gets the same level, or one line that says why not."""
    with Sandbox(1) as sandbox:
        level = sandbox.level.name

    def limited(files: int) -> str:
        command = [sys.executable, "-c", LIMITED, str(files)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        return done.stdout

    for files in (48, 20):
        assert limited(files) == f"{level} passed passed passed passed\n"
    assert limited(8) == (
        "no sandbox in mode limits: Too many open files; allow more (ulimit -n)\n"
    )


def test_a_mode_in_which_nothing_passes_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """The level is that of the strongest mode in which a program passes; without any, an error."""
    answer, failing = ForkServer.answer, {"namespaces"}

    def answered(server: ForkServer, seconds: float = 1.0) -> ProgramVerdict:
        verdict = answer(server, seconds)
        broken = ProgramVerdict("forbidden", "not confined: because", 0, 0)
        return broken if server.mode in failing else verdict

    monkeypatch.setattr(ForkServer, "answer", answered)
    with Sandbox(1) as sandbox:
        assert sandbox.level <= Level.limits
        assert "an empty program is forbidden (not confined: because)" in sandbox.described()
    failing.add("limits")
    expected = r"mode limits: even an empty program is forbidden \(not confined: because\)"
    with pytest.raises(DataError, match=expected), Sandbox(1):
        pytest.fail("it ran although nothing passes")


@pytest.mark.skipif(sys.platform != "linux", reason="needs a parent's death signal")
@pytest.mark.parametrize("namespaces", [True, False])
def test_a_killed_client_leaves_no_folder(namespaces: bool, tmp_path: Path) -> None:
    """The fork servers end with it, and remove what they worked in."""
    program = (
        "import sys\nfrom talaria.evals.sandbox import Program, Limits, Sandbox\n"
        f"with Sandbox(2, namespaces={namespaces}) as sandbox:\n"
        '    right = Program(\'open("x", "w")\')\n'
        "    dict(sandbox.run_all((n, right, Limits()) for n in range(2)))\n"
        "    print('ready', flush=True)\n    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    ) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"ready\n"
        client.kill()
    until(lambda: not list(tmp_path.iterdir()))


@pytest.mark.parametrize("namespaces", [True, False])
def test_closing_leaves_nothing(
    namespaces: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Folders and processes are gone, even if a program was still running."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with Sandbox(1, namespaces=namespaces) as sandbox:
        assert len(list(tmp_path.iterdir())) == (sandbox.level < Level.namespaces)
        process = sandbox.servers[0].process
        sandbox.servers[0].ask(HOSTILE["loops forever"][0], Limits(seconds=10_000))
    assert process.returncode == 0  # it ended by itself, without waiting for the program
    assert sandbox.servers == []
    assert list(tmp_path.iterdir()) == []
