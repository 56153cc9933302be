"""Confine a process by what the kernel offers: limits, namespaces, Landlock, a seccomp filter.

Runs inside the fork server, so it imports only the standard library. All calls go through
ctypes: `os.unshare` is newer than the oldest supported Python, and the Landlock and seccomp
packages on PyPI are early single-author releases. Sources: the manual pages namespaces(7),
landlock(7), seccomp(2), pivot_root(2), mount_setattr(2) and the kernel's system call tables.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import resource
import signal
import struct
import sys
from collections.abc import Iterable
from pathlib import Path

LINUX = sys.platform == "linux"
NOBODY = 65534
FILES = 64  # open descriptors per program, where the user may have as many
BOX = "/tmp"  # the program's working folder, inside the root that it sees
SHARED_MEMORY = "/dev/shm"
DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share/zoneinfo", "/etc/ld.so.cache")

CLONE_NEWUSER, CLONE_NEWNS, CLONE_NEWPID = 0x10000000, 0x00020000, 0x20000000
CLONE_NEWNET, CLONE_NEWIPC, CLONE_NEWUTS = 0x40000000, 0x08000000, 0x04000000
CLONE_NEWCGROUP, CLONE_THREAD = 0x02000000, 0x00010000
SPACES = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS
MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 4096, 16384, 1 << 18
MNT_DETACH, AT_FDCWD, AT_RECURSIVE = 2, -100, 0x8000
MOUNT_ATTR_RDONLY_NOSUID = 3
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP = 1, 4, 22
PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 36, 38

# System call numbers on (x86_64, aarch64); None where the call does not exist.
CALLS: dict[str, tuple[int | None, int]] = {
    "clone": (56, 220),
    "clone3": (435, 435),
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_send_signal": (424, 424),
    "prlimit64": (302, 261),
    "capset": (126, 91),
    "pivot_root": (155, 41),
    "mount_setattr": (442, 442),
    "landlock_create_ruleset": (444, 444),
    "landlock_add_rule": (445, 445),
    "landlock_restrict_self": (446, 446),
}
SIGNALS = ("kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo")
# Nothing that tests a function needs these: networking, other programs, other processes,
# mounts, namespaces, memory that escapes the limits, kernel administration.
REFUSED: dict[str, tuple[int | None, int]] = {
    "socket": (41, 198),
    "connect": (42, 203),
    "bind": (49, 200),
    "listen": (50, 201),
    "accept": (43, 202),
    "accept4": (288, 242),
    "execve": (59, 221),
    "execveat": (322, 281),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "unshare": (272, 97),
    "setns": (308, 268),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "syslog": (103, 116),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "personality": (135, 92),
    "iopl": (172, -1),
    "ioperm": (173, -1),
    "modify_ldt": (154, -1),
}
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
MACHINE = platform.machine() if LINUX and sys.maxsize > 1 << 32 else ""

libc = ctypes.CDLL(None, use_errno=True)


def checked(result: int, what: str) -> int:
    """Return the result of a C call; OSError from errno if it is negative."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def number_of(name: str, table: dict[str, tuple[int | None, int]] = CALLS) -> int:
    """Return a system call's number on this machine; OSError on an unknown architecture."""
    if MACHINE not in AUDIT_ARCH:
        raise OSError(38, f"no table of system calls for {MACHINE or sys.platform}")
    found = table[name][MACHINE == "aarch64"]
    return -1 if found is None else found


def syscall(name: str, *arguments: object) -> int:
    """Make a system call by name; integers are passed as longs. OSError if it fails."""
    passed = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    return checked(libc.syscall(ctypes.c_long(number_of(name)), *passed), name)


def prctl(option: int, value: int = 0, pointer: object = None) -> None:
    """Call prctl(2) on this process; OSError if it fails."""
    zero = ctypes.c_ulong(0)
    given = zero if pointer is None else pointer
    checked(libc.prctl(option, ctypes.c_ulong(value), given, zero, zero), f"prctl {option}")


def mount(source: str | None, target: str, kind: str | None, flags: int, data: str = "") -> None:
    """Call mount(2); OSError if it fails."""
    texts = [None if text is None else os.fsencode(text) for text in (source, target, kind, data)]
    passed = (*texts[:3], ctypes.c_ulong(flags), texts[3])
    checked(libc.mount(*passed), f"mount {target}")


def readable() -> list[str]:
    """List the paths a program may read: Python's library and the libraries it links to."""
    library = os.path.dirname(os.__file__)
    wanted = [*LIBRARIES, os.path.dirname(library), *sys.path]
    found = sorted({os.path.abspath(path) for path in wanted if path and os.path.exists(path)})
    # A listed folder covers everything below it.
    return [p for p in found if not any(p.startswith(f"{other}/") for other in found)]


def enter_namespaces(folder: str) -> None:
    """Enter new namespaces that show only the paths of `readable`, read-only.

    The new root is built in `folder`, which must be empty. The next process forked becomes
    process 1 of the new PID namespace. Root becomes nobody, because RLIMIT_NPROC does not bind
    root. OSError if the kernel refuses any step.
    """
    user, group = os.geteuid(), os.getegid()
    process = os.open("/proc/self", os.O_DIRECTORY)  # the new root has no /proc
    if user == 0:
        checked(libc.unshare(CLONE_NEWNS), "unshare")
        change_root(folder)
        user = group = NOBODY
        become_nobody()
        prctl(PR_SET_DUMPABLE, 1)  # otherwise root keeps owning /proc/self
        checked(libc.unshare(CLONE_NEWUSER | SPACES), "unshare")
        map_user(process, user, group)
    else:
        checked(libc.unshare(CLONE_NEWUSER | SPACES), "unshare")
        map_user(process, user, group)
        change_root(folder)
    os.close(process)


def become_nobody() -> None:
    """Drop root irrevocably."""
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


def map_user(process: int, user: int, group: int) -> None:
    """Map a user and group to themselves in a new user namespace.

    `process` is a descriptor of /proc/self.
    """
    texts = {"setgroups": "deny", "uid_map": f"{user} {user} 1", "gid_map": f"{group} {group} 1"}
    for name, text in texts.items():
        file = os.open(name, os.O_WRONLY, dir_fd=process)
        try:
            os.write(file, text.encode())
        finally:
            os.close(file)


def change_root(folder: str) -> None:
    """Build a root of read-only bind mounts of `readable` in `folder` and drop the old root."""
    mount(None, "/", None, MS_REC | MS_PRIVATE)
    mount("tmpfs", folder, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=755")
    Path(folder + BOX).mkdir(parents=True)
    Path(folder + "/dev").mkdir()
    # Where the C library keeps semaphores and shared memory: emptied and limited with the box.
    Path(folder + SHARED_MEMORY).symlink_to(BOX)
    for path in [*readable(), *filter(os.path.exists, DEVICES)]:
        place = Path(folder + path)
        if os.path.isdir(path):
            place.mkdir(parents=True, exist_ok=True)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.touch()
        mount(path, str(place), None, MS_BIND | MS_REC)
    attributes = struct.pack("QQQQ", MOUNT_ATTR_RDONLY_NOSUID, 0, 0, 0)
    syscall("mount_setattr", AT_FDCWD, folder.encode(), AT_RECURSIVE, attributes, len(attributes))
    os.chdir(folder)
    syscall("pivot_root", b".", b".")
    checked(libc.umount2(b".", MNT_DETACH), "umount2")
    os.chdir("/")


def mount_box(room: int) -> None:
    """Mount an empty in-memory folder of `room` bytes at `BOX`."""
    mount("tmpfs", BOX, "tmpfs", MS_NOSUID | MS_NODEV, f"size={room},nr_inodes=4096,mode=700")


def fresh_box(room: int) -> None:
    """Replace the folder at `BOX` by an empty one, discarding what the last program left."""
    checked(libc.umount2(BOX.encode(), MNT_DETACH), "umount2")
    mount_box(room)


def landlock_rules(folder: str, paths: Iterable[str]) -> int:
    """Return a Landlock ruleset's descriptor: read `paths`, read and write below `folder`.

    Also refuses TCP, and signals and abstract sockets to other domains, where this kernel's
    Landlock version supports it. OSError if the kernel has no Landlock.
    """
    version = syscall("landlock_create_ruleset", None, 0, 1)
    kinds = 13 + sum(version >= v for v in (2, 3, 5))
    everything = (1 << kinds) - 1
    read, of_files = 0b1100, 0b111 | (everything & 0b11 << 14)
    in_folder = everything & ~0b100001000001  # all but executing files and making devices
    attributes = struct.pack("QQQ", everything, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    rules = syscall("landlock_create_ruleset", attributes, len(attributes), 0)
    os.set_inheritable(rules, False)
    allowed = dict.fromkeys(paths, read) | dict.fromkeys(DEVICES, 6)
    for path, rights in {**allowed, folder: in_folder}.items():
        with contextlib.suppress(FileNotFoundError):
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
            right = rights if os.path.isdir(path) else rights & of_files
            syscall("landlock_add_rule", rules, 1, struct.pack("=Qi", right, place), 0)
            os.close(place)
    return rules


def seccomp_filter(may_fork: bool, only: int | None = None) -> bytes:
    """Build a classic BPF filter that refuses the calls in `REFUSED` and new namespaces.

    `only` is the one process that may be sent signals; None where a PID namespace already hides
    all others. OSError on an unknown architecture.
    """
    load, equal, at_least, bits, give = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, refuse, unknown, kill = 0x7FFF0000, 0x50001, 0x50026, 0x80000000
    call, machine, argument = 0, 4, 16  # offsets in struct seccomp_data
    number_of("clone")
    rules = [(load, 0, 0, machine), (equal, 1, 0, AUDIT_ARCH[MACHINE]), (give, 0, 0, kill)]
    rules += [(load, 0, 0, call)]
    if MACHINE == "x86_64":  # the x32 numbers reach the same calls
        rules += [(at_least, 0, 1, 0x40000000), (give, 0, 0, unknown)]
    for name in REFUSED:
        if (number := number_of(name, REFUSED)) >= 0:
            rules += [(equal, 0, 1, number), (give, 0, 0, refuse)]
    # Without clone3, glibc falls back to clone, whose flags a filter can read.
    rules += [(equal, 0, 1, number_of("clone3")), (give, 0, 0, unknown)]
    # Calls that name a process in their first argument; 0 is the caller itself.
    allowed = {"prlimit64": 0}
    if only is not None:
        rules += [(equal, 0, 1, number_of("pidfd_send_signal")), (give, 0, 0, refuse)]
        allowed |= dict.fromkeys(SIGNALS, only)
    for name, process in allowed.items():
        rules += [(equal, 0, 4, number_of(name)), (load, 0, 0, argument)]
        rules += [(equal, 0, 1, process), (give, 0, 0, allow), (give, 0, 0, refuse)]
    spaces = CLONE_NEWUSER | SPACES | CLONE_NEWCGROUP
    rules += [(equal, 0, 3 if may_fork else 5, number_of("clone")), (load, 0, 0, argument)]
    rules += [(bits, 0, 1, spaces), (give, 0, 0, refuse)]
    if not may_fork:
        rules += [(bits, 1, 0, CLONE_THREAD), (give, 0, 0, refuse)]
    rules += [(give, 0, 0, allow)]
    return b"".join(struct.pack("HBBI", *rule) for rule in rules)


def install_filter(rules: bytes) -> None:
    """Put this process under a seccomp filter, irrevocably."""
    buffer = ctypes.create_string_buffer(rules, len(rules))
    program = struct.pack("HxxxxxxQ", len(rules) // 8, ctypes.addressof(buffer))
    prctl(PR_SET_SECCOMP, 2, ctypes.c_char_p(program))


def drop_capabilities() -> None:
    """Drop every capability, so that root inside a namespace has no more rights than others."""
    syscall("capset", struct.pack("Ii", 0x20080522, 0), struct.pack("IIIIII", *[0] * 6))


def descriptors() -> int:
    """How many descriptors a program may have open: `FILES`, or what the user has if fewer."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return FILES if most == resource.RLIM_INFINITY else min(FILES, most)


def set_limits(cpu: int, memory: int, file: int, processes: int) -> None:
    """Set resource limits: CPU seconds, bytes of address space and of a file, processes."""
    limits = {
        resource.RLIMIT_CPU: cpu,
        resource.RLIMIT_FSIZE: file,
        resource.RLIMIT_NOFILE: descriptors(),
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NPROC: processes,
        resource.RLIMIT_AS: memory,
    }
    for kind, value in limits.items():
        # The isolation level is determined by trying, so a limit that fails here lowers it.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(kind, (value, value))


def processes_of(user: int) -> int:
    """Count a user's processes and threads; 0 where /proc does not show them."""
    total = 0
    with contextlib.suppress(OSError):
        for entry in os.scandir("/proc"):
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and entry.stat().st_uid == user:
                    total += len(os.listdir(f"{entry.path}/task"))
    return total


def end_all(leader: int, alone: bool) -> None:
    """Kill every descendant of this process and wait until none is left.

    In its own PID namespace (`alone`) one call reaches them all. Otherwise this process is a
    subreaper: orphans become its children, and it repeats until it has none. `leader` is the
    process group the program was started in.
    """
    while True:
        for group in (-1,) if alone else (-leader, *children()):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(group, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def children() -> list[int]:
    """List this process's children; empty where the system does not tell."""
    try:
        return [int(word) for word in Path("/proc/thread-self/children").read_text().split()]
    except OSError:
        return []
