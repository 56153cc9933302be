"""Programs for the sandbox's tests: hostile ones, each with its kind of failure, and right ones."""

from __future__ import annotations

import os
from pathlib import Path

from talaria.evals.sandbox import Program

# A folder that programs must not be able to touch.
VICTIM = Path("/var/tmp") if os.access("/var/tmp", os.W_OK) else Path.home()


def plain(code: str, test: str = "assert f(2) == 4") -> Program:
    """A program, with the test of a function that doubles."""
    return Program(code, test)


DOUBLE = "def f(n): return 2 * n\n"
WRONG = "def f(n): return n\n"
# name -> program, the kinds of failure it may get, which may depend on the level
HOSTILE: dict[str, tuple[Program, set[str]]] = {
    "loops forever": (plain("while True: pass"), {"timeout"}),
    "waits forever": (plain("import time\ntime.sleep(1000)"), {"timeout"}),
    "catches everything and goes on": (
        plain("while True:\n    try:\n        while True: pass\n    except BaseException: pass"),
        {"timeout"},
    ),
    "ignores every signal": (
        plain(
            "import signal\nfor s in signal.valid_signals():\n"
            "    try: signal.signal(s, signal.SIG_IGN)\n    except (OSError, ValueError): pass\n"
            "while True: pass"
        ),
        {"timeout"},
    ),
    "stops itself": (
        plain("import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)"),
        {"timeout"},
    ),
    "forks without end": (
        plain("import os\nwhile True: os.fork()"),
        {"forbidden", "timeout"},
    ),
    "forks and goes on": (
        plain("import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"),
        {"timeout"},
    ),
    "passes in a child alone": (
        plain(
            f"import os\nchild = os.fork()\nif child: os._exit(os.waitpid(child, 0)[1])\n{DOUBLE}"
        ),
        {"exited early", "forbidden"},
    ),
    "starts threads without end": (
        plain(
            "import threading, time\n"
            "while True: threading.Thread(target=time.sleep, args=(99,)).start()"
        ),
        {"forbidden", "memory"},
    ),
    "allocates without end": (
        # bytes are not written to before they are read: else a busy machine runs out of time.
        plain("x = []\nwhile True: x.append(bytes(1 << 20))"),
        {"memory"},
    ),
    "allocates at once": (plain("x = bytearray(1 << 40)"), {"memory"}),
    "copies a huge structure": (
        plain("import copy\nx = [0]\nwhile True: x = [copy.deepcopy(x), x, x, x]"),
        {"memory", "timeout"},
    ),
    "computes a huge number": (plain("9 ** 9 ** 9"), {"timeout", "memory"}),
    "writes a big file": (
        plain("with open('big', 'wb') as f:\n    while True: f.write(bytes(1 << 16))"),
        {"forbidden"},
    ),
    "writes outside": (plain(f"open({str(VICTIM / 'talaria-x')!r}, 'w')"), {"forbidden", "failed"}),
    "removes files outside": (
        plain(f"import os\nos.remove({str(VICTIM / 'talaria-victim')!r})"),
        {"forbidden", "failed"},
    ),
    "reads files outside": (
        plain(f"print(open({str(VICTIM / 'talaria-victim')!r}).read())"),
        {"forbidden", "failed"},
    ),
    "opens a TCP socket": (plain("import socket\nsocket.socket()"), {"forbidden"}),
    "opens a UNIX socket": (
        plain("import socket\nsocket.socket(socket.AF_UNIX)"),
        {"forbidden"},
    ),
    "asks the network": (
        plain("import urllib.request\nurllib.request.urlopen('http://127.0.0.1:9', timeout=1)"),
        {"failed", "forbidden"},
    ),
    "starts another program": (
        plain("import subprocess\nsubprocess.run(['/bin/sh', '-c', 'true'])"),
        {"forbidden", "failed"},
    ),
    "kills its parent": (
        plain("import os\nos.kill(os.getppid(), 9)\nimport time\ntime.sleep(99)"),
        {"forbidden", "timeout"},
    ),
    "kills all it can": (
        plain("import os\nos.kill(-1, 9)\nwhile True: pass"),
        {"forbidden", "failed", "timeout"},  # "failed" where there is nobody else
    ),
    "kills itself": (plain("import os\nos.kill(os.getpid(), 9)"), {"killed"}),
    "crashes": (plain("import os\nos.abort()"), {"killed"}),
    "prints gigabytes": (plain("while True: print('x' * 65536)"), {"output"}),
    "writes gigabytes of errors": (
        plain("import os\nwhile True: os.write(2, bytes(65536))"),
        {"output"},
    ),
    "exits": (plain("import sys\nsys.exit(0)"), {"exited early"}),
    "exits by the exception": (plain("raise SystemExit"), {"exited early"}),
    "exits by the builtin": (plain("exit()"), {"exited early"}),
    "exits at once": (plain("import os\nos._exit(0)"), {"exited early"}),
    "exits in the function": (plain("import os\ndef f(n): os._exit(0)"), {"exited early"}),
    "exits from a thread": (
        plain(
            "import os, threading\nthreading.Thread(target=lambda: os._exit(0)).start()\nwhile 1: 0"
        ),
        {"exited early"},
    ),
    "exits at the end of the interpreter": (
        plain("import atexit, os\natexit.register(lambda: os._exit(0))\nraise SystemExit(0)"),
        {"exited early"},
    ),
    "leaves by an alarm": (
        plain("import signal\nsignal.setitimer(signal.ITIMER_REAL, 0.01)\nwhile True: pass"),
        {"killed"},
    ),
    "replaces itself": (
        plain("import os, sys\nos.execv('/bin/true', ['true'])"),
        {"forbidden", "failed", "exited early"},
    ),
    "forges a verdict": (
        plain(
            "import os\nfor fd in range(1, 64):\n"
            "    try: os.write(fd, b'passed\\n')\n    except OSError: pass\nos._exit(0)"
        ),
        {"tampered"},
    ),
    "forges a verdict, then is right": (
        plain("import os\nos.write(63, bytes(32))\n" + DOUBLE),
        {"tampered"},
    ),
    "floods the verdict": (
        plain("import os\nwhile True: os.write(63, bytes(65536))"),
        {"tampered"},
    ),
    "prints a verdict": (plain("print('passed', flush=True)\n" + WRONG), {"failed"}),
    "patches the builtins": (
        plain(
            "import builtins, sys, os\n"
            "for name in ('exec', 'print', 'bytes', 'map', 'filter', 'AssertionError'):\n"
            "    setattr(builtins, name, lambda *a, **k: None)\n"
            "sys.exit = os._exit = sys.excepthook = os.write = lambda *a: None\n" + WRONG
        ),
        {"failed", "exited early"},
    ),
    "patches the harness": (
        plain(
            "import sys\nframe = sys._getframe()\nwhile frame:\n"
            "    for space in (frame.f_globals, frame.f_locals):\n"
            "        for name in list(space):\n"
            "            if name in ('failure', 'message', 'codes', 'spaces', 'write',\n"
            "                        'location'):\n"
            "                space[name] = lambda *a: b'passed'\n"
            "    frame = frame.f_back\n" + WRONG
        ),
        {"failed", "exited early", "tampered"},
    ),
    "looks for the secret": (
        plain("import gc\nsecrets = gc.get_objects()\n" + WRONG),
        {"forbidden"},
    ),
    "traces the harness": (
        plain("import sys\nsys.settrace(lambda *a: None)\n" + WRONG),
        {"forbidden"},
    ),
    "reads memory": (plain("import ctypes\nctypes.string_at(1)\n" + WRONG), {"forbidden"}),
    "recurses without end": (plain("def f(n): return f(n)"), {"failed"}),
    "recurses beyond the limit": (
        plain("import sys\nsys.setrecursionlimit(10**9)\ndef f(n): return [f(n)]"),
        {"memory", "killed", "timeout"},
    ),
    "crashes the stack": (
        plain("x = ()\nfor _ in range(300_000): x = (x,)\nhash(x)"),
        {"killed"},
    ),
    "closes all descriptors": (
        plain("import os\nos.closerange(0, 999)\n" + DOUBLE),
        {"exited early"},
    ),
    "is no Python": (plain("def f(:"), {"syntax error"}),
    "holds a null byte": (plain("x = '\0'"), {"syntax error"}),
    "holds half a surrogate": (plain("x = '\ud800'"), {"syntax error"}),
    "is nested too deeply": (plain("(" * 100_000 + ")" * 100_000), {"syntax error", "memory"}),
    "raises what cannot be described": (
        plain("class E(Exception):\n    def __str__(self): raise E\nraise E"),
        {"failed"},
    ),
    "leaves a maze behind": (
        plain(
            "import os\nfor _ in range(300):\n    os.mkdir('d')\n    os.chdir('d')\n"
            "os.chmod('.', 0)\nassert False"
        ),
        {"failed"},
    ),
}
# Right programs, some of them odd.
RIGHT = {
    "is right": plain(DOUBLE),
    "prints": plain("print('x' * 1000)\n" + DOUBLE),
    "finds its folder empty": plain("import os\nassert os.listdir('.') == []\n" + DOUBLE),
    "writes a file": plain("open('mine', 'w').write('x')\n" + DOUBLE),
    "uses threads": plain(
        "from concurrent.futures import ThreadPoolExecutor\n"
        "def f(n):\n    with ThreadPoolExecutor(4) as p: return sum(p.map(int, [n, n]))"
    ),
    "leaves a thread running": plain(
        "import threading, time\n"
        "threading.Thread(target=time.sleep, args=(999,)).start()\n" + DOUBLE
    ),
    "runs an event loop": plain(
        "import asyncio\nasync def g(n): return 2 * n\ndef f(n): return asyncio.run(g(n))"
    ),
    "uses annotations and data classes": plain(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "from typing import ClassVar, NamedTuple, get_type_hints\n"
        "@dataclass\nclass A:\n    n: int\n    c: ClassVar[int] = 2\n"
        "assert get_type_hints(A)['n'] is int\ndef f(n): return A(n).n * A.c"
    ),
    "imports what nobody imported": plain("import xml.dom.minidom, sqlite3, lzma\n" + DOUBLE),
    "reads no input": plain(
        "try: input()\nexcept EOFError: pass\nelse: raise ValueError\n" + DOUBLE
    ),
    "catches a bad exit": plain("try: raise SystemExit\nexcept SystemExit: pass\n" + DOUBLE),
    "is not in Latin letters": plain("größe = 'Ω'\nassert len(größe.encode()) == 2\n" + DOUBLE),
}
# Right programs of several processes, which need semaphores or shared memory of their own.
SHARING = {
    name: plain(f"{code}\n{DOUBLE}")
    for name, code in {
        "a lock": "from multiprocessing import Lock\nwith Lock(): pass",
        "other signs": "from multiprocessing import Barrier, Condition, Event, Semaphore\n"
        "Barrier(2), Condition(), Semaphore()\ne = Event()\ne.set()\nassert e.wait()",
        "a queue": "from multiprocessing import Process, Queue\nq = Queue()\n"
        "p = Process(target=q.put, args=(3,))\np.start()\nassert q.get() == 3\np.join()",
        "a pool": "from multiprocessing import Pool\ndef g(n): return n * n\n"
        "with Pool(3) as p: assert p.map(g, range(9)) == [n * n for n in range(9)]",
        "a pool of threads": "from multiprocessing.pool import ThreadPool\n"
        "with ThreadPool(3) as p: assert p.map(abs, [-1, 1]) == [1, 1]",
        "an executor": "from concurrent.futures import ProcessPoolExecutor\n"
        "def g(n): return n * n\n"
        "with ProcessPoolExecutor(3) as p: assert list(p.map(g, [2, 3])) == [4, 9]",
        "shared memory": "from multiprocessing import Process\n"
        "from multiprocessing.shared_memory import SharedMemory\n"
        "m = SharedMemory(create=True, size=9)\ndef g():\n"
        "    other = SharedMemory(m.name)\n    other.buf[0] = 7\n    other.close()\n"
        "p = Process(target=g)\np.start()\np.join()\n"
        "assert m.buf[0] == 7\nm.close()\nm.unlink()",
        "a shared list": "from multiprocessing.shared_memory import ShareableList\n"
        "l = ShareableList([1, 'a'])\nassert l[1] == 'a'\nl.shm.close()\nl.shm.unlink()",
        # Nothing of it is there the next time.
        "memory left behind": "from multiprocessing.shared_memory import SharedMemory\n"
        "SharedMemory('left', create=True, size=9)",
        "memory left behind, again": "from multiprocessing.shared_memory import SharedMemory\n"
        "SharedMemory('left', create=True, size=9)",
    }.items()
}
# Programs of several processes that the sandbox lets nobody run.
UNSHARED = {
    "a manager": plain("from multiprocessing import Manager\nManager()"),
    "a new interpreter": plain(
        "from multiprocessing import get_context\n"
        "p = get_context('spawn').Process(target=print)\np.start()\np.join()\n"
        "assert not p.exitcode"
    ),
    "a server that forks": plain(
        "from multiprocessing import get_context\n"
        "p = get_context('forkserver').Process(target=print)\np.start()\np.join()\n"
        "assert not p.exitcode"
    ),
    "a shared value": plain("from multiprocessing import Value\nValue('i')"),
    "too many processes": plain("from multiprocessing import Pool\nPool(64)"),
    "too much shared memory": plain(
        "from multiprocessing.shared_memory import SharedMemory\n"
        "SharedMemory(create=True, size=1 << 30)"
    ),
}
# Wrong functions with a helper that means something else by a built-in's name, and their tests.
SHADOWING = {
    "a function": plain("def f(n): return n\ndef abs(x): return 0\n", "assert abs(f(2) - 4) < 1"),
    "a class": plain(
        "def f(n): return n\nclass set(list):\n    def __eq__(self, o): return True\n",
        "assert set([f(2)]) == {4}",
    ),
    "a variable": plain("def f(n): return n\nall = bool\n", "assert all([f(2) == 4])"),
    "an import": plain(
        "def f(n): return n\nfrom cmath import isnan as any\n",
        "assert not any([f(2) != 4]) and any([True])",
    ),
    "a patch": plain(
        "import builtins\ndef f(n): return n\nbuiltins.abs = lambda x: 0\n",
        "assert abs(f(2) - 4) < 1",
    ),
    "a name set in the function": plain(
        "def f(n):\n    global len\n    len = lambda x: n\n    return [n]\n",
        "assert len(f(2)) == 2",
    ),
    "in the test's own function": plain(
        "def f(n): return n\ndef abs(x): return 0\n",
        "def check(g): assert abs(g(2) - 4) < 1\ncheck(f)",
    ),
}
# Right ones.
UNSHADOWED = {
    "a helper of the function's own": plain(
        "def f(n): return sum(n, n)\ndef sum(a, b): return a + b\n", "assert sum([f(2)]) == 4"
    ),
    "a name that the test gives": plain(
        "def f(n): return math.floor(n) + given", "import math\ngiven = 2\nassert f(2.5) == 4"
    ),
    "a name that the program changes": plain(
        "calls = 0\ndef f(n):\n    global calls\n    calls += 1\n    return 2 * n\n",
        "assert f(2) == 4\nassert f(3) == 6\nassert calls == 2 and __name__ == '__main__'",
    ),
    "a built-in that is asked for": Program(
        "def pow(n): return 2 * n\n", "assert pow(2) == 4", ("pow",)
    ),
}
