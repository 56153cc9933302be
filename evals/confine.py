"""What a kernel offers to confine a process: limits, namespaces, Landlock, a seccomp filter.

Runs inside the fork server, so it imports the standard library alone. All calls
go through ctypes: `os.unshare` is newer than the oldest Python we run on, and the
packages for Landlock and seccomp on PyPI are early versions of one author each.
Sources: the manual pages namespaces(7), landlock(7), seccomp(2), pivot_root(2),
mount_setattr(2) and the kernel's tables of system calls.
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
FILES = 64  # descriptors that a program may have
BOX = "/tmp"  # the folder of a program, in the root that it sees
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

# Numbers of system calls on (x86_64, aarch64); None where it does not exist.
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
# What no program for a function's test needs: the network, other programs, other
# processes, mounts, namespaces, memory that no limit counts, the kernel's own affairs.
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
    """The result of a call; OSError if it is negative."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def number_of(name: str, table: dict[str, tuple[int | None, int]] = CALLS) -> int:
    """A system call's number on this machine; OSError if it is not known."""
    if MACHINE not in AUDIT_ARCH:
        raise OSError(38, f"no table of system calls for {MACHINE or sys.platform}")
    found = table[name][MACHINE == "aarch64"]
    return -1 if found is None else found


def syscall(name: str, *arguments: object) -> int:
    """Call the kernel by name; integers are passed as longs. OSError if it refuses."""
    passed = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    return checked(libc.syscall(ctypes.c_long(number_of(name)), *passed), name)


def prctl(option: int, value: int = 0, pointer: object = None) -> None:
    """Change this process's settings; OSError if the kernel does not know them."""
    zero = ctypes.c_ulong(0)
    given = zero if pointer is None else pointer
    checked(libc.prctl(option, ctypes.c_ulong(value), given, zero, zero), f"prctl {option}")


def mount(source: str | None, target: str, kind: str | None, flags: int, data: str = "") -> None:
    """Mount; OSError if the kernel refuses."""
    texts = [None if text is None else os.fsencode(text) for text in (source, target, kind, data)]
    passed = (*texts[:3], ctypes.c_ulong(flags), texts[3])
    checked(libc.mount(*passed), f"mount {target}")


def readable() -> list[str]:
    """What a program may read: Python's library and what that links to."""
    library = os.path.dirname(os.__file__)
    wanted = [*LIBRARIES, os.path.dirname(library), *sys.path]
    found = sorted({os.path.abspath(path) for path in wanted if path and os.path.exists(path)})
    # A folder below another one comes with it.
    return [p for p in found if not any(p.startswith(f"{other}/") for other in found)]


def enter_namespaces(folder: str) -> None:
    """Leave for own namespaces in which nothing is seen but what `readable` names, read-only.

    `folder` is an empty folder, where the new root is built. The next process
    forked is the first of the new process space. Root becomes nobody, because
    the limit on processes does not bind root. OSError if the kernel refuses any step.
    """
    user, group = os.geteuid(), os.getegid()
    process = os.open("/proc/self", os.O_DIRECTORY)  # /proc is out of sight later
    if user == 0:
        checked(libc.unshare(CLONE_NEWNS), "unshare")
        change_root(folder)
        user = group = NOBODY
        become_nobody()
        prctl(PR_SET_DUMPABLE, 1)  # or /proc/self would go on belonging to root
        checked(libc.unshare(CLONE_NEWUSER | SPACES), "unshare")
        map_user(process, user, group)
    else:
        checked(libc.unshare(CLONE_NEWUSER | SPACES), "unshare")
        map_user(process, user, group)
        change_root(folder)
    os.close(process)


def become_nobody() -> None:
    """Give up root for good."""
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


def map_user(process: int, user: int, group: int) -> None:
    """In a new user namespace, keep the same numbers; `process` is the open /proc/self."""
    texts = {"setgroups": "deny", "uid_map": f"{user} {user} 1", "gid_map": f"{group} {group} 1"}
    for name, text in texts.items():
        file = os.open(name, os.O_WRONLY, dir_fd=process)
        try:
            os.write(file, text.encode())
        finally:
            os.close(file)


def change_root(folder: str) -> None:
    """Make a root of read-only views of what may be read, and drop the old one."""
    mount(None, "/", None, MS_REC | MS_PRIVATE)
    mount("tmpfs", folder, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=755")
    Path(folder + BOX).mkdir(parents=True)
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
    """An empty folder in memory with so many bytes of room at `BOX`."""
    mount("tmpfs", BOX, "tmpfs", MS_NOSUID | MS_NODEV, f"size={room},nr_inodes=4096,mode=700")


def fresh_box(room: int) -> None:
    """Put another empty folder at `BOX`; what the last program left goes with the old one."""
    checked(libc.umount2(BOX.encode(), MNT_DETACH), "umount2")
    mount_box(room)


def landlock_rules(folder: str, paths: Iterable[str]) -> int:
    """A Landlock ruleset, as a descriptor: read `paths`, read and write below `folder`, no more.

    TCP, signals and abstract sockets to outside are refused where the kernel's
    version of Landlock can. OSError if there is none.
    """
    version = syscall("landlock_create_ruleset", None, 0, 1)
    kinds = 13 + sum(version >= v for v in (2, 3, 5))
    everything = (1 << kinds) - 1
    read, of_files = 0b1100, 0b111 | (everything & 0b11 << 14)
    in_folder = everything & ~0b100001000001  # all but execute, devices
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
    """A filter that refuses `REFUSED` and new namespaces, as classic BPF.

    `only` is the one process that may be sent signals, None where a process
    space keeps all others out of reach. OSError on an unknown machine.
    """
    load, equal, at_least, bits, give = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, refuse, unknown, kill = 0x7FFF0000, 0x50001, 0x50026, 0x80000000
    call, machine, argument = 0, 4, 16  # offsets in struct seccomp_data
    number_of("clone")
    rules = [(load, 0, 0, machine), (equal, 1, 0, AUDIT_ARCH[MACHINE]), (give, 0, 0, kill)]
    rules += [(load, 0, 0, call)]
    if MACHINE == "x86_64":  # the x32 numbers are other ways to the same calls
        rules += [(at_least, 0, 1, 0x40000000), (give, 0, 0, unknown)]
    for name in REFUSED:
        if (number := number_of(name, REFUSED)) >= 0:
            rules += [(equal, 0, 1, number), (give, 0, 0, refuse)]
    # glibc falls back to clone, whose flags a filter can see.
    rules += [(equal, 0, 1, number_of("clone3")), (give, 0, 0, unknown)]
    # Calls on another process: its number is the first argument, 0 for oneself.
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
    """Put this process under a filter, for good."""
    buffer = ctypes.create_string_buffer(rules, len(rules))
    program = struct.pack("HxxxxxxQ", len(rules) // 8, ctypes.addressof(buffer))
    prctl(PR_SET_SECCOMP, 2, ctypes.c_char_p(program))


def drop_capabilities() -> None:
    """Give up every capability, so that root inside a namespace can do no more than others."""
    syscall("capset", struct.pack("Ii", 0x20080522, 0), struct.pack("IIIIII", *[0] * 6))


def set_limits(cpu: int, memory: int, file: int, processes: int) -> None:
    """Resource limits: seconds, bytes of memory, of a file, processes of this user."""
    limits = {
        resource.RLIMIT_CPU: cpu,
        resource.RLIMIT_FSIZE: file,
        resource.RLIMIT_NOFILE: FILES,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NPROC: processes,
        resource.RLIMIT_AS: memory,
    }
    for kind, value in limits.items():
        # What does not hold here is found out when the level is determined.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(kind, (value, value))


def processes_of(user: int) -> int:
    """How many processes and threads a user has, 0 where that cannot be seen."""
    total = 0
    with contextlib.suppress(OSError):
        for entry in os.scandir("/proc"):
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and entry.stat().st_uid == user:
                    total += len(os.listdir(f"{entry.path}/task"))
    return total


def end_all(leader: int, alone: bool) -> None:
    """Kill every process that came from this one, and wait until none is left.

    In a process space of its own one call reaches them all; else orphans come
    to the subreaper that this is, which goes on until it has no child. `leader`
    is the number of the process group that a program was started in.
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
    """This process's children, none where the system does not say."""
    try:
        return [int(word) for word in Path("/proc/thread-self/children").read_text().split()]
    except OSError:
        return []
