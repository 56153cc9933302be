"""Emacs with lsp-mode and with Eglot: what a person does and sees, in the real editor."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import fields
from pathlib import Path

import pytest

from talaria.coder.request import MODES, UNTIL
from talaria.lsp.options import ServerOptions
from tests.e2e.emacs import PACKAGE, Emacs, batch, emacs, lacking, quoted
from tests.e2e.terminal import scripted
from tests.lsp import fim_server

_LACKING = lacking()
needs_emacs = pytest.mark.skipif(_LACKING is not None, reason=_LACKING or "")

REAL = [sys.executable, "-m", "talaria.coder.cli", "lsp"]
CLIENTS = {
    "lsp": """(load "lsp-mode-autoloads" nil t)
      (setq lsp-client-packages '(talaria-lsp) lsp-auto-guess-root t
            lsp-enable-snippet nil lsp-headerline-breadcrumb-enable nil)
      (require 'talaria-lsp)
      (add-hook 'python-base-mode-hook #'lsp)""",
    "eglot": """(require 'talaria-eglot)
      (add-hook 'python-base-mode-hook #'talaria-eglot)""",
}
SCRIPT = [
    {"after": "😀'\n    ret", "texts": ["urn '😀', a"]},
    {"after": "    ret", "texts": ["urn a + b", "urn a - b", "urn b"]},
    {"after": "    if", "texts": [" a:\n        return b\n    return a"]},
    {"after": ":\n    ", "texts": ["return a * b", "return b * a"]},
]
TEXT = "def add(a, b):\n    \n\n\nx = 1\n"
POINT = """class Point:
    def __init__(self, x, y):
        self.x = x
        \n
    def total(self):
        return self.x + self.y


def total(prices):
    \"\"\"The sum of the prices.\"\"\"
    ...
"""

Start = Callable[..., Emacs]


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest) -> str:
    """Whose connection it is."""
    return str(request.param)


@pytest.fixture
def start(
    request: pytest.FixtureRequest, tmp_path: Path, client: str
) -> Iterator[Callable[..., Emacs]]:
    """Start an Emacs with files, given as texts; the cursor is behind the first four blanks."""
    if _LACKING:
        pytest.skip(_LACKING)
    (tmp_path / ".git").mkdir()
    script = tmp_path / "script.json"
    script.write_text(json.dumps(SCRIPT), "utf-8")
    with ExitStack() as stack:

        def start(
            *texts: str,
            command: list[str] | None = None,
            init: str = "",
            ready: bool = True,
            newline: str = "\n",
        ) -> Emacs:
            files = []
            for number, text in enumerate(texts or (TEXT,)):
                files.append(tmp_path / f"file{number}.py")
                files[-1].write_text(text, "utf-8", newline=newline)
            found = " ".join(map(quoted, command or scripted(script)))
            here = stack.enter_context(_emacs(tmp_path, request, found, client, init, *files))
            if ready:
                here.ready()
            here.eval('(progn (goto-char 1) (search-forward "\\n    ") t)')
            return here

        yield start


def _emacs(
    folder: Path,
    request: pytest.FixtureRequest,
    command: str,
    client: str,
    init: str,
    *files: Path,
) -> AbstractContextManager[Emacs]:
    name = request.node.name.removeprefix("test_").replace("[", "-").rstrip("]")
    program = f"(setq talaria-server-command '({command}))"
    return emacs(folder, name, f"{program}\n{CLIENTS[client]}\n{init}", *files)


def _grey_after(here: Emacs, typed: str) -> str:
    here.type(typed)
    return str(here.until(here.grey, "ghost text"))


def test_ghost_text_is_accepted_by_tab(start: Start) -> None:
    """Ghost text appears behind the cursor, which stays before it; Tab takes all of it."""
    here = start()
    assert _grey_after(here, "ret") == "urn a + b"
    assert "    return a + b" in here.keep("grey")
    assert here.text() == TEXT.replace("    \n", "    ret\n", 1)
    here.keys("Tab")
    here.until(lambda: "return a + b\n" in here.text(), "the text")
    here.keep("accepted")
    assert here.text() == TEXT.replace("    \n", "    return a + b\n", 1)
    here.keys("C-_")
    here.until(lambda: "    ret\n" in here.text(), "undo takes all of it back at once")


def test_typing_along_costs_nothing(start: Start) -> None:
    """What is typed along stays right and asks nobody; a wrong sign takes the rest away."""
    here = start()
    _grey_after(here, "ret")
    asked = here.requests()
    here.type("urn ", pause=0.01)
    here.until(lambda: here.grey() == "a + b", "the rest")
    assert "return a + b" in here.keep("along")
    assert here.requests() == asked
    here.type("b")
    here.until(lambda: here.grey() != "a + b", "it to go")
    assert "return b" in here.text()
    assert "a + b" not in here.screen()
    here.keep("dismissed")


def test_choosing(start: Start) -> None:
    """M-n asks for several the first time, then shows one after the other; M-p goes back."""
    here = start()
    _grey_after(here, "ret")
    here.keys("M-n")
    here.until(lambda: here.grey() == "urn a - b", "the second")
    assert "3 suggestions" in here.keep("second")
    here.keys("M-n")
    here.until(lambda: here.grey() == "urn b", "the third")
    here.keys("M-p", "M-p")
    here.until(lambda: here.grey() == "urn a + b", "the first")
    here.keys("M-p")
    here.until(lambda: here.grey() == "urn b", "the last")
    here.keys("Tab")
    here.until(lambda: "    return b\n" in here.text(), "the text")


def test_accepting_parts(start: Start) -> None:
    """M-f takes a word, C-e the rest of the line; what is left stays grey."""
    here = start()
    _grey_after(here, "if")
    here.keep("grey")
    here.keys("M-f")
    here.until(lambda: here.grey() == ":\n        return b\n    return a", "a word less")
    here.keys("C-e")
    here.until(lambda: here.grey() == "\n        return b\n    return a", "a line less")
    # The cursor stands at the end of its line, not of the ghost text.
    screen = here.keep("line")
    assert "        return b" in screen
    column, row = here.cursor()
    assert screen.splitlines()[row][:column].endswith("    if a:")
    here.keys("C-e")
    here.until(lambda: "    if a:\n        return b\n\n" in here.text(), "the second line")
    here.keys("Tab")
    here.until(lambda: "return b\n    return a\n\n" in here.text(), "the rest")


def test_dismissing(start: Start) -> None:
    """C-g takes it away, and it does not come by itself again."""
    here = start()
    _grey_after(here, "ret")
    here.keys("C-g")
    here.until(lambda: here.grey() is None, "it to go")
    here.keep("dismissed")
    here.type("u")
    here.never(lambda: here.grey() in ("rn a + b", "urn a + b"))
    here.keys("BSpace")
    here.never(lambda: here.grey() == "urn a + b")


def test_writing_functions(start: Start) -> None:
    """A command writes the function's body, and then the next candidate in its place."""
    here = start()
    here.command("talaria-fill-function")
    here.until(lambda: "    return a * b\n" in here.text(), "the body")
    assert "x = 1" in here.keep("filled")
    here.command("talaria-next-candidate")
    here.until(lambda: "    return b * a\n" in here.text(), "the next candidate")
    here.keep("next")


def test_filling_and_rewriting(start: Start) -> None:
    """A placeholder is filled in; a selection is written anew."""
    here = start("def f(a, b):\n    ...\n\n\ny = 2\n")
    here.command("talaria-fill-here")
    here.until(lambda: "    return a * b\n" in here.text(), "the filling")
    here.eval('(progn (goto-char 1) (search-forward "return") (set-mark 18) (end-of-line) t)')
    here.eval("(progn (activate-mark) t)")
    here.command("talaria-rewrite")
    here.until(lambda: "    return b * a\n" in here.text(), "the new text")
    here.keep("rewritten")


def test_code_action(start: Start, client: str, tmp_path: Path) -> None:
    """What the editor itself lists writes a body, though it takes longer than it would wait."""
    script = json.dumps([{**each, "seconds": 3} for each in SCRIPT])
    here = start(init="(setq lsp-response-timeout 1 jsonrpc-default-request-timeout 1)")
    (tmp_path / "script.json").write_text(script, "utf-8")
    here.command({"lsp": "lsp-execute-code-action", "eglot": "eglot-code-action-rewrite"}[client])
    here.until(lambda: "    return a * b\n" in here.text(), "the body")
    assert not re.search("time(d |-)?out", here.messages(), re.IGNORECASE)
    here.keys("C-x", "C-s")
    wanted = TEXT.replace("    \n", "    return a * b\n", 1)
    here.until(lambda: (tmp_path / "file0.py").read_text("utf-8") == wanted, "the file")
    here.keep("written")


def test_switching_off(start: Start) -> None:
    """Switched off, nothing is asked; switched on again, it goes on."""
    here = start()
    here.command("talaria-toggle")
    here.until(lambda: here.eval("(talaria--state)") == "off", "it to be off")
    here.type("ret")
    here.never(here.grey, 1)
    assert "Talaria-" in here.eval("(format-mode-line mode-line-format)")
    here.keep("off")
    assert here.requests() == 0
    here.command("talaria-toggle")
    here.until(lambda: here.eval("(talaria--state)") == "ready", "it to be on")
    here.keys("BSpace", "t")
    assert here.until(here.grey, "ghost text") == "urn a + b"
    here.keys("C-u")
    here.command("talaria-toggle")
    here.until(lambda: "suggestions in python are off" in here.screen(), "the message")
    assert here.eval("(talaria--state)") == "off"


def test_switched_off_for_good(start: Start) -> None:
    """What is switched off stays so when the server dies, and comes back in the next one."""
    here = start()
    here.command("talaria-toggle")
    here.until(lambda: here.eval("(talaria--state)") == "off", "it to be off")
    _kill_server(here)
    here.until(lambda: here.eval("(talaria--state)") == "off", "the next one to be off")
    here.type("ret")
    here.never(here.grey, 1)
    assert here.requests() == 0
    here.command("talaria-toggle")
    here.ready()
    here.keys("BSpace")
    assert _grey_after(here, "t") == "urn a + b"


def test_what_others_change(start: Start) -> None:
    """Ghost text goes with the text that it was about: changed by a process, in another mode."""
    here = start()
    _grey_after(here, "ret")
    here.eval('(progn (save-excursion (goto-char 1) (insert "#\n")) t)')
    here.until(lambda: "a + b" not in here.screen(), "it to go")
    assert here.grey() is None
    here.keys("BSpace")
    _grey_after(here, "t")
    here.eval("(progn (normal-mode) t)")
    here.until(lambda: "a + b" not in here.screen(), "it to go")
    here.keep("mode")


@pytest.mark.parametrize("client", ["lsp"], indirect=True)
def test_leaving_lsp_mode(start: Start) -> None:
    """A buffer that lsp-mode has left has no ghost text, and says nothing of a server."""
    here = start()
    _grey_after(here, "ret")
    here.command("lsp-disconnect")
    here.until(lambda: "a + b" not in here.screen(), "it to go")
    assert "Talaria" not in here.eval("(format-mode-line mode-line-format)")


def test_server_killed(start: Start) -> None:
    """A server that dies is started again; the editor and the text are unharmed."""
    here = start()
    _grey_after(here, "ret")
    _kill_server(here)
    here.ready()
    assert "    ret\n" in here.text()
    here.keys("BSpace")
    assert _grey_after(here, "t") == "urn a + b"
    here.keep("again")


@pytest.mark.parametrize("client", ["lsp"], indirect=True)
def test_started_again_by_itself(start: Start) -> None:
    """Who tells lsp-mode not to ask can go on typing where the server dies."""
    here = start(init="(setq lsp-restart 'auto-restart)")
    _grey_after(here, "ret")
    _kill_server(here, "u")
    here.ready()
    assert "    retu\n" in here.text()
    here.keys("BSpace", "BSpace")
    assert _grey_after(here, "t") == "urn a + b"


@pytest.mark.parametrize("client", ["lsp"], indirect=True)
def test_not_started_again(start: Start) -> None:
    """Who says no to lsp-mode's question has no ghost text and writes on undisturbed."""
    here = start()
    _grey_after(here, "ret")
    here.kill_server()
    here.until(lambda: _asks(here), "the question")
    here.keys("n")
    here.until(lambda: not _asks(here), "it to go")
    assert here.grey() is None
    here.type("urn a")
    here.until(lambda: "    return a\n" in here.text(), "the text")
    here.never(here.grey, 1)
    here.keep("without")


def _asks(here: Emacs) -> bool:
    """Whether lsp-mode asks about a server that has ended; Emacs breaks the line by a backslash."""
    shown = here.screen().replace("\\\n", "").rstrip()
    return shown.endswith("Do you want to restart it? (y or n)")


def _kill_server(here: Emacs, typed: str = "") -> None:
    """Type something when the server is dead, say yes if asked, and wait for another one."""
    if here.eval("talaria-client") == "eglot":  # which starts none that did not last
        lasted = "(not (timerp (eglot--inhibit-autoreconnect (eglot-current-server))))"
        here.until(lambda: here.eval(lasted), "Eglot to trust the server")
    asks = here.eval("(eq (bound-and-true-p lsp-restart) 'interactive)")
    former = here.kill_server()
    here.type(typed)
    if asks:
        here.until(lambda: _asks(here), "the question")
        here.keep("question")
        here.keys("y")

    def another() -> bool:
        try:
            return here.server() != former
        except ProcessLookupError:
            return False

    here.until(another, "another server", 30)


def test_no_model(start: Start) -> None:
    """Without a model one message says so, and nothing happens over and over."""
    here = start(command=[*REAL, "--model", "none-such"], ready=False)
    here.until(lambda: here.eval("(talaria--state)") == "failed", "the failure", 60)
    here.type("ret")
    here.never(here.grey, 2)
    here.type("urn a")
    here.never(here.grey, 1)
    here.keep("failed")
    assert here.messages().count("none-such") == 1
    assert "Talaria!" in here.eval("(format-mode-line mode-line-format)")
    assert "none-such" in here.eval("(get-text-property 1 'help-echo (talaria--lighter))")
    here.eval("(progn (talaria-status) t)")  # what M-x has to say would hide it
    here.until(lambda: "failed, 0 requests" in here.screen(), "the state")
    assert "    return a\n" in here.text()


def test_service_without_model(start: Start) -> None:
    """Without a model, a service that is set answers as it would beside one."""
    answer = fim_server.whole(fim_server.text("urn a + b"))
    with fim_server.FimServer(answer) as service:
        command = [*REAL, "--model", "none-such", "--endpoint", service.url]
        here = start(command=command, ready=False)
        here.until(lambda: here.eval("(talaria--state)") == "failed", "the failure", 60)
        assert _grey_after(here, "ret") == "urn a + b"


def test_crlf_and_emoji(start: Start, tmp_path: Path) -> None:
    """Lines that end in CRLF and signs outside the basic plane change nothing."""
    here = start("def f(a):\n    t = '😀'\n    \n    print('😀😀', a)\n", newline="\r\n")
    here.eval('(progn (search-forward "\\n    ") t)')
    assert _grey_after(here, "ret") == "urn '😀', a"
    here.keep("grey")
    here.keys("Tab")
    here.until(lambda: "return '😀', a" in here.text(), "the text")
    here.keys("C-x", "C-s")
    wanted = "def f(a):\r\n    t = '😀'\r\n    return '😀', a\r\n    print('😀😀', a)\r\n"
    file = tmp_path / "file0.py"
    here.until(lambda: file.read_bytes().decode() == wanted, "the file")


def test_two_files(start: Start) -> None:
    """Each of two files has its own ghost text; that of the other is no hindrance."""
    here = start(TEXT, "def g(a, b):\n    \n")  # the cursor is in the latter
    name = here.eval("(buffer-name)")
    assert _grey_after(here, "ret") == "urn a + b"
    here.keys("C-x", "o")
    here.until(lambda: here.eval("(buffer-name)") != name, "the other file")
    here.eval('(progn (goto-char 1) (search-forward "\\n    ") t)')
    here.until(lambda: here.eval("(talaria--state)") == "ready", "the other file")
    here.type("if")
    here.until(lambda: (here.grey() or "").startswith(" a:"), "ghost text")
    here.keep("two")
    here.keys("Tab")
    here.until(lambda: "return a" in here.text(), "the text")
    here.keys("C-x", "o")
    here.until(lambda: here.eval("(buffer-name)") == name, "the first file")
    assert here.text() == "def g(a, b):\n    ret\n"


def test_the_model(start: Start) -> None:
    """With the shipped model and no option set: ghost text, a function, how it came about."""
    here = start(POINT, command=REAL)
    here.eval('(progn (search-forward "x\n        ") t)')
    grey = _grey_after(here, "self.")
    here.keep("grey")
    here.keys("Tab")
    here.until(lambda: f"        self.{grey}\n" in here.text(), "the text")
    before = here.text()
    here.eval('(progn (search-forward "...") t)')
    here.command("talaria-fill-function")
    here.until(lambda: here.text() != before, "a body", 60)
    here.keep("function")
    assert here.text().startswith(before[: before.index("    ...")])
    here.command("talaria-show-trace")
    page = here.until(lambda: here.eval("(car tests-pages)"), "the page")
    assert page.startswith("file:///")
    Path(page.removeprefix("file://")).unlink()


@pytest.mark.parametrize("client", ["lsp"], indirect=True)
def test_lsp_modes_own_ghost_text(start: Start) -> None:
    """Whoever prefers lsp-mode's own way to show ghost text has that alone."""
    here = start(
        init="(setq talaria-lsp-native t lsp-inline-completion-idle-delay 0.2)", command=None
    )
    _grey_after(here, "ret")
    assert here.eval("(or talaria--texts 'none)") == "none"
    assert "return a + b" in here.keep("grey")
    here.eval("(progn (call-interactively 'lsp-inline-completion-accept) t)")
    here.until(lambda: "    return a + b\n" in here.text(), "the text")


def test_options_reach_the_server(start: Start) -> None:
    """A wrong option is told by the server, so right ones reach it too; nil is none."""
    unset = "(until . nil) (model . nil) (debounce_ms . nil)"
    here = start(init=f"(setq talaria-options '((max_tokens . 0) (strings . nil) {unset}))")
    here.until(lambda: "max_tokens is 0" in here.messages(), "the message")
    assert "more in the log" not in here.messages()  # where the server tells of others


@needs_emacs
def test_finding_the_server(tmp_path: Path) -> None:
    """A setting, the clone's own environment, then the project's if the user says yes."""
    clone, project = (
        tmp_path / name / ".venv" / "bin" / "talaria" for name in ("clone", "project")
    )
    for program in (clone, project):
        program.parent.mkdir(parents=True)
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    forms = f"""(progn (require 'talaria) (setq exec-path nil talaria--folder "/")
      (setq default-directory {quoted(str(tmp_path) + "/project/")})
      (dolist (answer '(t nil))
        (setq talaria--trusted nil)
        (cl-letf (((symbol-function 'y-or-n-p) (lambda (_) answer)))
          (princ (format "%S\\n" (talaria-find-command)))))
      (setq talaria--folder {quoted(str(tmp_path) + "/clone/")})
      (princ (format "%S\\n" (talaria-find-command)))
      (setq talaria-server-command '("a" "b"))
      (princ (format "%S" (talaria-find-command))))"""
    told = batch("-L", str(PACKAGE), "--eval", forms).stdout
    assert told == f'("{project}" "lsp")\nnil\n("{clone}" "lsp")\n("a" "b")'


@needs_emacs
def test_options_as_json() -> None:
    """False, lists, numbers and names are written as the server wants them; nil is left out."""
    forms = """(progn (require 'talaria)
      (setq talaria-options '((strings . nil) (usage . t) (languages "python" "lua")
                              (exclude) (max_tokens . 20) (mode . verify)
                              (endpoint . "m") (comments . :json-false) (steps . nil)
                              (until . nil) (model . nil) (device . nil) (debounce_ms . nil)))
      (princ (json-serialize (talaria-initialization-options) :false-object :json-false)))"""
    told = batch("-L", str(PACKAGE), "--eval", forms).stdout
    assert json.loads(told) == {
        "strings": False,
        "usage": True,
        "languages": ["python", "lua"],
        "exclude": [],
        "max_tokens": 20,
        "mode": "verify",
        "endpoint": "m",
        "comments": False,
        "steps": False,
        "status": True,
        "completion": False,
    }


def test_options_are_the_servers() -> None:
    """Customize offers every option of the server, by its type, but for two."""
    # The mode line lives on the one; nothing in Emacs shows the other.
    unlisted = {"status": "bool", "steps": "bool"}
    types = {
        "bool": "boolean",
        "int": "natnum",
        "float": "number",
        "str": "string",
        "tuple": "repeat",
        "Literal": "choice",
        "Mode": "choice",
        "Until": "choice",
    }
    source = (PACKAGE / "talaria.el").read_text("utf-8")
    listed = source.partition("(defconst talaria--options")[2].partition("\n\n")[0]
    offered = dict(re.findall(r"(?m)^ +'?\(+(\w+) \(?(\w+)", listed))
    options = {each.name: str(each.type) for each in fields(ServerOptions)}
    assert unlisted.items() <= options.items()
    assert offered == {
        name: types[str(re.findall(r"\w+", kind)[0])]
        for name, kind in options.items()
        if name not in unlisted
    }
    choices = re.findall(r'\(const "(\w+)"\)', listed)
    assert choices == [*MODES, *UNTIL]


@needs_emacs
def test_compiled_and_documented(tmp_path: Path) -> None:
    """Byte-compilation and checkdoc have nothing to say."""
    names = sorted(path.name for path in PACKAGE.glob("*.el"))
    for name in names:
        source = (PACKAGE / name).read_text("utf-8")
        (tmp_path / name).write_text(
            source.replace("no-byte-compile: t", "no-byte-compile: nil"), "utf-8"
        )
    files = [str(tmp_path / name) for name in names]
    strict = "(setq byte-compile-error-on-warn t)"
    done = batch(
        *("-L", str(tmp_path), "--eval", strict, "-f", "batch-byte-compile", *files),
    )
    assert done.returncode == 0, done.stderr
    for file in files:
        checked = batch("--eval", f"(progn (require 'checkdoc) (checkdoc-file {quoted(file)}))")
        assert checked.stderr == "", checked.stderr
    assert len(list(tmp_path.glob("*.elc"))) == len(names)


@needs_emacs
@pytest.mark.parametrize("background", ["dark", "light"])
@pytest.mark.parametrize("colours", [2**24, 256, 88, 16, 8])
def test_ghost_text_is_grey_in_every_terminal(background: str, colours: int) -> None:
    """Emacs' own `shadow` is green or yellow where there are few colours."""
    forms = f"""(progn
      (require 'talaria)
      (cl-letf (((symbol-function 'display-color-cells) (lambda (&rest _) {colours})))
        (set-frame-parameter nil 'display-type 'color)
        (set-frame-parameter nil 'background-mode '{background})
        (dolist (face '(talaria-ghost shadow))
          (princ (format "%S\\n" (face-spec-choose (face-default-spec face)))))))"""
    ghost, shadow = batch("-L", str(PACKAGE), "--eval", forms).stdout.splitlines()
    few = {"dark": '(:foreground "white" :weight light)'}.get(
        background, '(:foreground "black" :weight light)'
    )
    if colours >= 88:
        assert ghost == "(:inherit shadow)"
        assert "grey" in shadow
    else:
        assert ghost == ('(:foreground "brightblack")' if colours == 16 else few)


def test_the_offer_of_a_model_takes_no_keys(start: Start, tmp_path: Path) -> None:
    """A message comes while somebody types; a command asks, and its answer counts."""
    home = tmp_path / "models"
    here = start(command=["env", f"TALARIA_HOME={home}", *scripted(tmp_path / "script.json")])
    typed = ""
    while "M-x talaria-fetch" not in here.messages():
        typed += "x"
        assert len(typed) < 200, "no offer, as where less than 2 GB are free"
        here.type("x", 0.1)
    here.type("yz")
    here.until(lambda: f"    {typed}yz\n" in here.text(), "all that was typed")
    here.keep("offer")
    here.command("talaria-fetch")
    here.until(lambda: "runs on this machine" in here.screen(), "the question")
    here.type("Never\n")
    here.until(lambda: (home / "offers.json").exists(), "the answer")
    assert "never" in (home / "offers.json").read_text("utf-8").lower()
