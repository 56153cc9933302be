"""The process that runs programs for the sandbox: one fork for each, confined, watched, ended.

`evals/sandbox.py` starts it with a socket as standard input. It is light: the
standard library alone, with what programs commonly import already there.
`serve` returns only in the process of a program, with what `talaria.evals.trial.run` wants.
"""

from __future__ import annotations

import contextlib
import gc
import json
import math
import mmap
import os
import resource
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from talaria.evals import confine
from talaria.evals.trial import TAKEN, message, one_line

# What programs commonly import; to have it here saves each of them the time.
COMMON = (
    *("abc", "array", "ast", "base64", "bisect", "calendar", "cmath", "collections"),
    *("contextlib", "copy", "dataclasses", "datetime", "decimal", "enum", "fractions"),
    *("functools", "hashlib", "heapq", "inspect", "io", "itertools", "json", "logging"),
    *("math", "numbers", "operator", "queue", "random", "re", "secrets", "statistics"),
    *("string", "struct", "textwrap", "threading", "time", "traceback", "typing"),
    *("unicodedata", "unittest", "uuid", "warnings", "zlib"),
)
VERDICT = confine.FILES - 1  # the descriptor over which a program's process reports
FAILURES = ("failed", "syntax error", "memory", "exited early", "forbidden")
Request = dict[str, Any]


@dataclass(frozen=True)
class Guards:
    """What confines every program of this server.

    names     what holds, as it is reported
    alone     whether programs have name spaces: nothing outside is in sight or reach
    box       the folder in which programs run
    paths     what they may read, for Landlock; None without it
    filter    the seccomp filter; empty if each process needs its own, None without it
    may_fork  whether the filter lets them fork
    user      who programs run as, None if the server's own user
    others    processes that the limit counts besides the program's
    """

    names: tuple[str, ...]
    alone: bool
    box: str
    paths: tuple[str, ...] | None
    filter: bytes | None
    may_fork: bool
    user: int | None
    others: int


def start(mode: str, folder: str) -> tuple[str, str, int, list[bytes]]:
    """Confine this server as far as `mode` says, report what holds, serve.

    Modes: "namespaces", which fails where the kernel has none, and "limits".
    """
    control = socket.socket(fileno=os.dup(0))
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.close(null)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    for name in COMMON:
        __import__(name)
    paths = confine.readable()
    try:
        if confine.LINUX:
            confine.prctl(confine.PR_SET_NO_NEW_PRIVS, 1)
        if mode == "namespaces":
            confine.enter_namespaces(folder)
            split(control)
            confine.mount_box(1 << 20)
            folder = confine.BOX
            os.environ |= {"HOME": folder, "TMPDIR": folder}
        elif confine.LINUX:
            confine.prctl(confine.PR_SET_CHILD_SUBREAPER, 1)
    except OSError as error:
        send(control, {"failed": f"{error}"})
        os._exit(1)
    guards = tried(mode == "namespaces", folder, paths)
    send(control, {"guards": guards.names})
    gc.collect()
    gc.freeze()
    return serve(control, guards)


def split(control: socket.socket) -> None:
    """Go on as the first process of the new process space; this one only waits for it."""
    child = os.fork()
    if child:
        control.close()
        os.waitpid(child, 0)
        os._exit(0)
    confine.prctl(confine.PR_SET_PDEATHSIG, signal.SIGKILL)


def tried(alone: bool, box: str, paths: list[str]) -> Guards:
    """Find out by trying what holds: each guard in a process of its own, then limits under all."""
    names = ["namespaces"] if alone else []
    user = None
    if not alone and os.geteuid() == 0 and holds(lambda: as_nobody()):
        user = confine.NOBODY
        os.chown(box, user, user)
    # The limit on processes does not bind root, who may therefore not fork at all.
    still_root = os.geteuid() == 0 and user is None
    may_fork = not still_root
    seen = ("/",) if alone else tuple(paths)
    landlock = holds(lambda: restrict(confine.landlock_rules(box, seen)))
    filtered = holds(lambda: confine.install_filter(confine.seccomp_filter(may_fork)))
    names += ["Landlock"] * landlock + ["seccomp"] * filtered
    code = confine.seccomp_filter(may_fork) if filtered and alone else b""
    # Processes are counted by user; in a user namespace there are the two of this server.
    others = 2 if alone else confine.processes_of(os.geteuid() if user is None else user)
    shown, rules = (seen if landlock else None), (code if filtered else None)
    guards = Guards((), alone, box, shown, rules, may_fork, user, others)
    # Without Landlock root may write files wherever they belong to root.
    names += ["limits"] * ((landlock or not still_root) and holds(lambda: bound(guards)))
    return replace(guards, names=tuple(names))


def as_nobody() -> None:
    """Become nobody; OSError if Python's library cannot be read then."""
    confine.become_nobody()
    os.listdir(os.path.dirname(os.__file__))


def holds(attempt: Callable[[], None]) -> bool:
    """Whether something succeeds in a process of its own."""
    child = os.fork()
    if not child:
        try:
            attempt()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(child, 0)[1] == 0


def restrict(rules: int) -> None:
    """Put this process under a Landlock ruleset."""
    confine.syscall("landlock_restrict_self", rules, 0)


def bound(guards: Guards) -> None:
    """End this process with status 0 only if memory, files and processes are limited in it."""
    rules = None if guards.paths is None else confine.landlock_rules(guards.box, guards.paths)
    request = {"seconds": 1, "waits": 1, "memory_bytes": 1 << 28, "file_bytes": 0}
    shut_in(guards, request | {"processes": -guards.others}, rules, os.getppid())
    with contextlib.suppress(OSError, ValueError):
        mmap.mmap(-1, 1 << 29)
        os._exit(1)
    with contextlib.suppress(OSError), open("try", "wb", buffering=0) as file:
        file.write(b"x")
        os._exit(1)
    with contextlib.suppress(OSError):
        os.fork()
        os._exit(1)


def shut_in(guards: Guards, request: Request, rules: int | None, server: int) -> None:
    """Confine this process, in the order in which each step still may be taken."""
    os.chdir(guards.box)
    if guards.user is not None:
        confine.become_nobody()
    # The kernel holds this limit by ticks, which can count half as much again as was
    # computed. So where the exact clock can be read (`cpu_time`), that one decides.
    cpu = math.ceil(request["waits" if confine.LINUX else "seconds"]) + 1
    processes = request["processes"] + guards.others
    confine.set_limits(cpu, request["memory_bytes"], request["file_bytes"], processes)
    if confine.LINUX:
        with contextlib.suppress(OSError):  # where the machine's system calls are unknown
            confine.drop_capabilities()
        # Not earlier: whoever becomes somebody else loses it.
        confine.prctl(confine.PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != server:
            os._exit(1)  # it died before it could be followed
    if rules is not None:
        restrict(rules)
    if guards.filter is not None:
        only = None if guards.alone else os.getpid()
        confine.install_filter(guards.filter or confine.seccomp_filter(guards.may_fork, only))


def serve(control: socket.socket, guards: Guards) -> tuple[str, str, int, list[bytes]]:
    """Run what is asked until the other end closes; returns in the processes of programs."""
    wake, woken = os.pipe()
    for descriptor in (wake, woken):
        os.set_blocking(descriptor, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    room, rules, server = 0, None, os.getpid()
    stream = control.makefile("rb")
    while line := stream.readline():
        request = json.loads(line)
        if rules is None or room != request["file_bytes"] or used(guards.box):
            room = request["file_bytes"]
            rules = clean(guards, room, rules)
        secret = [os.urandom(32)]
        verdict, output = os.pipe(), os.pipe()
        child = os.fork()
        if not child:
            try:
                enter(guards, request, rules, server, verdict[1], output[1])
            except BaseException as error:
                os.write(verdict[1], message("forbidden", f"not confined: {error}"))
                os._exit(1)
            return request["code"], request["test"], VERDICT, secret
        os.close(verdict[1])
        os.close(output[1])
        answer = watch(child, request, secret[0], (verdict[0], output[0], wake), control, guards)
        os.close(verdict[0])
        os.close(output[0])
        if answer is None:
            break
        send(control, answer)
    if not guards.alone:
        clean(guards, room, rules)
    os._exit(0)


def clean(guards: Guards, room: int, rules: int | None) -> int | None:
    """Make the folder empty and as it was, and Landlock's rules for it anew."""
    if guards.alone:
        confine.fresh_box(room)
    else:
        os.chmod(guards.box, 0o700)
        for name in os.listdir(guards.box):
            path = os.path.join(guards.box, name)
            # The system's tools take trees of any depth, which Python's recursion does not.
            subprocess.run(["chmod", "-R", "u+rwX", path], check=False)
            subprocess.run(["rm", "-rf", path], check=False)
    if rules is not None:
        os.close(rules)
    return None if guards.paths is None else confine.landlock_rules(guards.box, guards.paths)


def used(box: str) -> bool:
    """Whether the last program left anything behind, or changed the folder's mode."""
    try:
        return bool(os.listdir(box)) or os.stat(box).st_mode & 0o777 != 0o700
    except OSError:
        return True


def enter(
    guards: Guards, request: Request, rules: int | None, server: int, verdict: int, output: int
) -> None:
    """Make the process that `server` forked a program's: own session, four descriptors, guards."""
    os.setsid()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.dup2(verdict, VERDICT)
    shut_in(guards, request, rules, server)
    os.closerange(3, VERDICT)
    os.closerange(VERDICT + 1, 256)


def watch(
    child: int,
    request: Request,
    secret: bytes,
    ends: tuple[int, int, int],
    control: socket.socket,
    guards: Guards,
) -> dict[str, Any] | None:
    """Wait for a program's verdict, and for its end; None if nobody waits for it any more."""
    verdict, output, wake = ends
    began = time.monotonic()
    said, written, status = b"", 0, ""
    ended: tuple[int, resource.struct_rusage] | None = None
    poll = select.poll()
    for descriptor in (verdict, output, wake):
        poll.register(descriptor, select.POLLIN)
    poll.register(control, 0)
    while not status and ended is None:
        left = min(
            request["seconds"] - cpu_time(child),
            request["waits"] - (time.monotonic() - began),
        )
        if left <= 0:
            status = "timeout"
        for descriptor, event in poll.poll(max(0, left) * 1000 + 1):
            if descriptor == control.fileno():
                confine.end_all(child, guards.alone)
                return None
            data = os.read(descriptor, 1 << 16)
            if descriptor == verdict:
                said += data
            elif descriptor == output:
                written += len(data)
            else:
                found, code, usage = os.wait4(child, os.WNOHANG)
                ended = (code, usage) if found else None
            if not data and event & select.POLLHUP:
                poll.unregister(descriptor)
        if said == secret:
            break
        if written > request["output_bytes"]:
            status = "output"
        elif len(said) > TAKEN:
            status = "tampered"
    if ended is None:
        os.kill(child, signal.SIGKILL)
        ended = os.wait4(child, 0)[1:]
    confine.end_all(child, guards.alone)
    said += drain(verdict, TAKEN)
    written += len(drain(output, 1 << 20))
    return judged(request, secret, said, written, status, ended, time.monotonic() - began)


def drain(descriptor: int, most: int) -> bytes:
    """What is left in a pipe that nobody writes to any more."""
    os.set_blocking(descriptor, False)
    found = b""
    with contextlib.suppress(BlockingIOError):
        while len(found) < most and (data := os.read(descriptor, 1 << 16)):
            found += data
    return found


def cpu_time(process: int) -> float:
    """Seconds that a process has computed, all its threads together; 0 where it cannot be seen."""
    try:
        # The kernel's number for the clock of another process: clock_getcpuclockid(3).
        return time.clock_gettime((~process << 3) | 2)
    except OSError:
        return 0.0


def judged(
    request: Request,
    secret: bytes,
    said: bytes,
    written: int,
    status: str,
    ended: tuple[int, resource.struct_rusage],
    elapsed: float,
) -> dict[str, Any]:
    """The verdict, of what a program said, how much it wrote and how it ended."""
    code, usage = ended
    computed = usage.ru_utime + usage.ru_stime
    if written > request["output_bytes"]:
        status, detail = "output", f"wrote more than {request['output_bytes']} bytes"
    elif status == "timeout":
        # No numbers: limits are measured, and two scorings of a program should say the same.
        detail = "took more CPU time than it had"
        if computed < request["seconds"]:
            detail = "took more time on the clock than it had"
    elif said == secret:
        status, detail = "passed", ""
    elif said:
        status, detail = reported(said)
    elif os.WIFSIGNALED(code):
        number = os.WTERMSIG(code)
        status, detail = "killed", signal.Signals(number).name
        if number in (signal.SIGXCPU, signal.SIGKILL) and computed >= request["seconds"]:
            status, detail = "timeout", "took more CPU time than it had"
        elif number == signal.SIGSYS:
            status, detail = "forbidden", "a system call of another machine"
    else:
        status, detail = "exited early", f"exit status {os.waitstatus_to_exitcode(code)}"
    return {"status": status, "detail": detail, "seconds": computed, "elapsed": elapsed}


def reported(said: bytes) -> tuple[str, str]:
    """A failure that a program's process reported; "tampered" if it is none in form."""
    status, _, detail = said.decode(errors="replace").partition("\n")
    if status in FAILURES:
        return status, one_line(detail)
    return "tampered", "something else came where the verdict was due"


def send(control: socket.socket, what: object) -> None:
    """Send an object as a line of JSON."""
    control.sendall(json.dumps(what).encode() + b"\n")
