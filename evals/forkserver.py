"""The sandbox's fork server: fork a confined process for each program, watch it, end it.

`evals/sandbox.py` starts this process with a socket as standard input. It uses only the standard
library and preloads the modules that programs commonly import. `serve` returns only in a forked
program's process, with the arguments for `talaria.evals.trial.run`.
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
from talaria.evals.trial import MESSAGE_BYTES, Trial, message, one_line

# Modules that programs commonly import, preloaded so that no fork has to load them.
COMMON = (
    *("abc", "array", "ast", "base64", "bisect", "calendar", "cmath", "collections"),
    *("contextlib", "copy", "dataclasses", "datetime", "decimal", "enum", "fractions"),
    *("functools", "hashlib", "heapq", "inspect", "io", "itertools", "json", "logging"),
    *("math", "numbers", "operator", "queue", "random", "re", "secrets", "statistics"),
    *("string", "struct", "textwrap", "threading", "time", "traceback", "typing"),
    *("unicodedata", "unittest", "uuid", "warnings", "zlib"),
)
VERDICT = confine.descriptors() - 1  # the descriptor on which a program's process reports
FAILURES = ("failed", "syntax error", "memory", "exited early", "forbidden")
Job = dict[str, Any]  # the fields of `sandbox.Program` and `sandbox.Limits`


@dataclass(frozen=True)
class Guards:
    """What confines every program of this server.

    names     the guards that hold, as reported
    alone     whether programs run in namespaces and can neither see nor reach anything outside
    box       the working folder of programs
    paths     paths that Landlock lets them read; None without Landlock
    filter    the seccomp filter; empty if each process needs its own, None without seccomp
    may_fork  whether the filter lets them fork
    user      the user programs run as; None for the server's own
    others    processes that count against the limit besides the program's own
    """

    names: tuple[str, ...]
    alone: bool
    box: str
    paths: tuple[str, ...] | None
    filter: bytes | None
    may_fork: bool
    user: int | None
    others: int


def start(mode: str, folder: str) -> tuple[Trial, list[bytes]]:
    """Confine this server, report which guards hold, and serve.

    `mode` is "namespaces", which fails where the kernel does not allow them, or "limits".
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
            fork_first_process(control)
            confine.mount_box(1 << 20)
            folder = confine.BOX
            os.environ |= {"HOME": folder, "TMPDIR": folder}
            keep_no_track()
        elif confine.LINUX:
            confine.prctl(confine.PR_SET_CHILD_SUBREAPER, 1)
    except OSError as error:
        send(control, {"failed": f"{error}"})
        os._exit(1)
    guards = probe_guards(mode == "namespaces", folder, paths)
    send(control, {"guards": guards.names})
    gc.collect()
    gc.freeze()
    return serve(control, guards)


def keep_no_track() -> None:
    """Let programs use shared memory, which goes with the box, without Python's tracker.

    The tracker is another program, which removes what is left; no other program may run here.
    """
    from multiprocessing import resource_tracker

    for name in ("register", "unregister"):
        setattr(resource_tracker, name, lambda name, kind: None)


def fork_first_process(control: socket.socket) -> None:
    """Continue as process 1 of the new PID namespace; the parent only waits for it."""
    child = os.fork()
    if child:
        control.close()
        os.waitpid(child, 0)
        os._exit(0)
    confine.prctl(confine.PR_SET_PDEATHSIG, signal.SIGKILL)


def probe_guards(alone: bool, box: str, paths: list[str]) -> Guards:
    """Try each guard in a process of its own, then the limits under all of them together."""
    names = ["namespaces"] if alone else []
    user = None
    if not alone and os.geteuid() == 0 and works_in_child(try_nobody):
        user = confine.NOBODY
        os.chown(box, user, user)
    # RLIMIT_NPROC does not bind root, so programs that stay root may not fork at all.
    still_root = os.geteuid() == 0 and user is None
    may_fork = not still_root
    visible = ("/",) if alone else tuple(paths)
    landlock = works_in_child(lambda: restrict(confine.landlock_rules(box, visible)))
    filtered = works_in_child(lambda: confine.install_filter(confine.seccomp_filter(may_fork)))
    names += ["Landlock"] * landlock + ["seccomp"] * filtered
    code = confine.seccomp_filter(may_fork) if filtered and alone else b""
    # The limit counts processes by user; in a user namespace, this server has two.
    others = 2 if alone else confine.processes_of(os.geteuid() if user is None else user)
    landlock_paths, rules = (visible if landlock else None), (code if filtered else None)
    guards = Guards((), alone, box, landlock_paths, rules, may_fork, user, others)
    # Without Landlock, root could write to any file that belongs to root.
    limits = (landlock or not still_root) and works_in_child(lambda: check_limits(guards))
    names += ["limits"] * limits
    return replace(guards, names=tuple(names))


def try_nobody() -> None:
    """Become nobody; OSError if nobody cannot read Python's library."""
    confine.become_nobody()
    os.listdir(os.path.dirname(os.__file__))


def works_in_child(attempt: Callable[[], None]) -> bool:
    """Whether a call succeeds in a forked process."""
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


def check_limits(guards: Guards) -> None:
    """Return only if memory, files and processes are limited here; otherwise exit with 1."""
    rules = None if guards.paths is None else confine.landlock_rules(guards.box, guards.paths)
    job = {"seconds": 1, "wall_seconds": 1, "memory_bytes": 1 << 28, "file_bytes": 0}
    apply_guards(guards, job | {"processes": -guards.others}, rules, os.getppid())
    with contextlib.suppress(OSError, ValueError):
        mmap.mmap(-1, 1 << 29)
        os._exit(1)
    with contextlib.suppress(OSError), open("try", "wb", buffering=0) as file:
        file.write(b"x")
        os._exit(1)
    with contextlib.suppress(OSError):
        os.unlink("try")  # a box that is empty need not be reset
    with contextlib.suppress(OSError):
        os.fork()
        os._exit(1)


def apply_guards(guards: Guards, job: Job, rules: int | None, server: int) -> None:
    """Confine this process, in the one order in which each step is still allowed."""
    os.chdir(guards.box)
    if guards.user is not None:
        confine.become_nobody()
    # The kernel counts this limit in ticks and can overcount by half. Where the exact clock is
    # readable (`cpu_time`), that decides, and the kernel's limit is only a backstop.
    cpu = math.ceil(job["wall_seconds" if confine.LINUX else "seconds"]) + 1
    processes = job["processes"] + guards.others
    confine.set_limits(cpu, job["memory_bytes"], job["file_bytes"], processes)
    if confine.LINUX:
        with contextlib.suppress(OSError):  # system call numbers unknown on this architecture
            confine.drop_capabilities()
        # Only now: changing the user clears it.
        confine.prctl(confine.PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != server:
            os._exit(1)  # the server died before the signal was set
    if rules is not None:
        restrict(rules)
    if guards.filter is not None:
        only = None if guards.alone else os.getpid()
        confine.install_filter(guards.filter or confine.seccomp_filter(guards.may_fork, only))


def serve(control: socket.socket, guards: Guards) -> tuple[Trial, list[bytes]]:
    """Run jobs until the other end closes; returns only in the processes of programs."""
    wake, woken = os.pipe()
    for descriptor in (wake, woken):
        os.set_blocking(descriptor, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    room, rules, server = 0, None, os.getpid()
    stream = control.makefile("rb")
    while line := stream.readline():
        job = json.loads(line)
        if rules is None or room != job["file_bytes"] or is_dirty(guards.box):
            room = job["file_bytes"]
            rules = reset_box(guards, room, rules)
        secret = [os.urandom(32)]
        verdict, output = os.pipe(), os.pipe()
        child = os.fork()
        if not child:
            try:
                become_program(guards, job, rules, server, verdict[1], output[1])
            except BaseException as error:
                os.write(verdict[1], message("forbidden", f"not confined: {error}"))
                os._exit(1)
            return Trial(job["code"], job["test"], job["builtins"], guards.alone, VERDICT), secret
        os.close(verdict[1])
        os.close(output[1])
        answer = watch(child, job, secret[0], (verdict[0], output[0], wake), control, guards)
        os.close(verdict[0])
        os.close(output[0])
        if answer is None:
            break
        send(control, answer)
    if not guards.alone:
        reset_box(guards, room, rules)
        with contextlib.suppress(OSError):  # the client may have been killed
            os.rmdir(guards.box)
    os._exit(0)


def reset_box(guards: Guards, room: int, rules: int | None) -> int | None:
    """Empty the box, restore its mode, and return new Landlock rules for it."""
    if guards.alone:
        confine.fresh_box(room)
    else:
        os.chmod(guards.box, 0o700)
        for name in os.listdir(guards.box):
            path = os.path.join(guards.box, name)
            # A program may nest folders deeper than Python's recursion limit.
            subprocess.run(["chmod", "-R", "u+rwX", path], check=False)
            subprocess.run(["rm", "-rf", path], check=False)
    if rules is not None:
        os.close(rules)
    return None if guards.paths is None else confine.landlock_rules(guards.box, guards.paths)


def is_dirty(box: str) -> bool:
    """Whether the last program left files behind or changed the folder's mode."""
    try:
        return bool(os.listdir(box)) or os.stat(box).st_mode & 0o777 != 0o700
    except OSError:
        return True


def become_program(
    guards: Guards, job: Job, rules: int | None, server: int, verdict: int, output: int
) -> None:
    """Turn a forked process into a program's: own session, four descriptors, all guards."""
    os.setsid()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.dup2(verdict, VERDICT)
    apply_guards(guards, job, rules, server)
    os.closerange(3, VERDICT)
    os.closerange(VERDICT + 1, 256)


def watch(
    child: int,
    job: Job,
    secret: bytes,
    ends: tuple[int, int, int],
    control: socket.socket,
    guards: Guards,
) -> dict[str, Any] | None:
    """Wait for a program's report and its end; None if the client hung up meanwhile."""
    verdict, output, wake = ends
    began = time.monotonic()
    reported, written, status = b"", 0, ""
    ended: tuple[int, resource.struct_rusage] | None = None
    poll = select.poll()
    for descriptor in (verdict, output, wake):
        poll.register(descriptor, select.POLLIN)
    poll.register(control, 0)
    while not status and ended is None:
        left = min(
            job["seconds"] - cpu_time(child),
            job["wall_seconds"] - (time.monotonic() - began),
        )
        if left <= 0:
            status = "timeout"
        for descriptor, event in poll.poll(max(0, left) * 1000 + 1):
            if descriptor == control.fileno():
                confine.end_all(child, guards.alone)
                return None
            data = os.read(descriptor, 1 << 16)
            if descriptor == verdict:
                reported += data
            elif descriptor == output:
                written += len(data)
            else:
                found, code, usage = os.wait4(child, os.WNOHANG)
                ended = (code, usage) if found else None
            if not data and event & select.POLLHUP:
                poll.unregister(descriptor)
        if reported == secret:
            break
        if written > job["output_bytes"]:
            status = "output"
        elif len(reported) > MESSAGE_BYTES:
            status = "tampered"
    if ended is None:
        os.kill(child, signal.SIGKILL)
        ended = os.wait4(child, 0)[1:]
    confine.end_all(child, guards.alone)
    reported += drain(verdict, MESSAGE_BYTES)
    written += len(drain(output, 1 << 20))
    return verdict_of(job, secret, reported, written, status, ended, time.monotonic() - began)


def drain(descriptor: int, most: int) -> bytes:
    """Read what is left in a pipe that has no writer any more."""
    os.set_blocking(descriptor, False)
    found = b""
    with contextlib.suppress(BlockingIOError):
        while len(found) < most and (data := os.read(descriptor, 1 << 16)):
            found += data
    return found


def cpu_time(process: int) -> float:
    """Return a process's CPU seconds over all its threads; 0 where they cannot be read."""
    try:
        # The clock id of another process's CPU clock: clock_getcpuclockid(3).
        return time.clock_gettime((~process << 3) | 2)
    except OSError:
        return 0.0


def verdict_of(
    job: Job,
    secret: bytes,
    reported: bytes,
    written: int,
    status: str,
    ended: tuple[int, resource.struct_rusage],
    elapsed: float,
) -> dict[str, Any]:
    """Decide a program's verdict from its report, its output and how it ended."""
    code, usage = ended
    computed = usage.ru_utime + usage.ru_stime
    if written > job["output_bytes"]:
        status, detail = "output", f"wrote more than {job['output_bytes']} bytes"
    elif status == "timeout":
        # No figures here: the limits are measured, yet two scorings must give the same detail.
        detail = "took more CPU time than it had"
        if computed < job["seconds"]:
            detail = "took more time on the clock than it had"
    elif reported == secret:
        status, detail = "passed", ""
    elif reported:
        status, detail = parse_failure(reported)
    elif os.WIFSIGNALED(code):
        number = os.WTERMSIG(code)
        status, detail = "killed", signal.Signals(number).name
        if number in (signal.SIGXCPU, signal.SIGKILL) and computed >= job["seconds"]:
            status, detail = "timeout", "took more CPU time than it had"
        elif number == signal.SIGSYS:
            status, detail = "forbidden", "a system call of another machine"
    else:
        status, detail = "exited early", f"exit status {os.waitstatus_to_exitcode(code)}"
    return {"status": status, "detail": detail, "seconds": computed, "elapsed": elapsed}


def parse_failure(reported: bytes) -> tuple[str, str]:
    """Read the failure a program's process reported; "tampered" if it is malformed."""
    status, _, detail = reported.decode(errors="replace").partition("\n")
    if status in FAILURES:
        return status, one_line(detail)
    return "tampered", "something else came where the verdict was due"


def send(control: socket.socket, what: object) -> None:
    """Send a value as one line of JSON."""
    control.sendall(json.dumps(what).encode() + b"\n")
