"""The extension in a real VS Code: keys go in, ghost text and files come out.

`npm run package` makes the package that is tried.
"""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.e2e.vscode import (
    CLIENT,
    QUIET,
    SCREENS,
    Code,
    becomes,
    code,
    extension,
    lacking,
    program,
    until,
)

pytestmark = pytest.mark.skipif(lacking() is not None, reason=str(lacking()))

SCRIPT = [
    {"after": "total = ", "texts": ["first + second", "sum(values)", "len(values)"]},
    {"after": "first + second\n", "texts": ["return total"]},
    {"after": "éß🎉', ", "texts": ["flush=True)"]},
    {"after": '"""Return the mean."""\n    ', "texts": ["a = 1\n    return a", "return 2"]},
    {"after": "other = ", "texts": ["elsewhere()"]},
    {"after": "x = ", "texts": ["wanted()"]},
]
STUB = 'def mean(values):\n    """Return the mean."""\n    ...\n'
EMPTY = ("first", "along", "wrong", "cycle", "part", "escape", "theirs")
LATER = ("off", "killed", "stays", "left", "right")
NOTEBOOK = """{
  "cells": [
    {"cell_type": "code", "execution_count": null, "metadata": {}, "outputs": [], "source": ""}
  ],
  "metadata": {"language_info": {"name": "python"}},
  "nbformat": 4,
  "nbformat_minor": 5
}
"""
FILES = {f"{name}.py": "" for name in EMPTY + LATER} | {
    "fill.py": STUB,
    "bulb.py": STUB,
    "here.py": STUB,
    "anew.py": STUB,
    "cells.ipynb": NOTEBOOK,
    "windows.py": "def say():\r\n    pass\r\n",
}

# Another extension, which has ghost text of its own.
OTHER = """
exports.activate = () =>
  require("vscode").languages.registerInlineCompletionItemProvider("*", {
    provideInlineCompletionItems: (document, position) =>
      document.lineAt(position).text === "their = " ? [{ insertText: "theirs()" }] : [],
  });
"""


@pytest.fixture(scope="module", autouse=True)
def package() -> None:
    """The package, of what the sources say now."""
    subprocess.run(["npm", "run", "package"], cwd=CLIENT, check=True, capture_output=True)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the window with the scripted server has everything."""
    return tmp_path_factory.mktemp("scripted", numbered=False)


@pytest.fixture(scope="module")
def scripted(home: Path) -> Iterator[Code]:
    """A window whose server answers by a script."""
    script = home / "script.json"
    script.write_text(json.dumps(SCRIPT))
    program(home, script)
    other = extension(home / "other.vsix", "other", OTHER)
    with code(home, FILES, QUIET, extensions=(other,)) as window:
        window.open("first.py")
        window.ready()
        window.trace()
        yield window


@pytest.fixture
def window(scripted: Code, request: pytest.FixtureRequest) -> Iterator[Code]:
    """The same window; how a test ends is kept, and what it leaves open is closed."""
    yield scripted
    scripted.shot(request.node.name.removeprefix("test_"))
    scripted.press("Escape", "Escape")


def last_start(home: Path) -> int:
    """The number of the server's process that was started last."""
    return int((home / "started").read_text().split()[-1])


def test_ghost_text_appears_and_tab_accepts_it(window: Code) -> None:
    """What is grey becomes text."""
    window.offered("first.py", "total = ", "first + second")
    window.shot("grey")
    window.press("Tab")
    window.grey("")
    window.shot("accepted")
    window.holds("first.py", "total = first + second")


def test_typing_through_keeps_it_right_and_asks_nothing(window: Code) -> None:
    """Each key takes one from the ghost text, and no engine is asked."""
    window.offered("along.py", "total = ", "first + second")
    asked = window.requests()
    for place, key in enumerate("first +"):
        window.type(key)
        window.grey("first + second"[place + 1 :])
    window.shot("along")
    assert window.requests() == asked
    window.type(" ")
    window.grey("second")
    window.press("Tab")
    window.holds("along.py", "total = first + second")


def test_a_wrong_character_dismisses_it(window: Code) -> None:
    """What no longer fits is gone at once."""
    window.offered("wrong.py", "total = ", "first + second")
    window.type("g")
    window.grey("")
    window.shot("wrong")
    window.holds("wrong.py", "total = g")


def test_cycling_shows_the_others(window: Code) -> None:
    """The next, the one after it, and the first again."""
    window.offered("cycle.py", "total = ", "first + second")
    for text in ("sum(values)", "len(values)", "first + second"):
        window.press("Alt+]")
        window.grey(text)
    window.press("Alt+[")
    window.grey("len(values)")
    window.shot("cycled")
    window.press("Tab")
    window.holds("cycle.py", "total = len(values)")


def test_words_are_accepted_one_by_one(window: Code) -> None:
    """The rest stays grey."""
    window.offered("part.py", "total = ", "first + second")
    window.press("Control+ArrowRight")
    window.grey(" + second")
    window.shot("word")
    while rest := window.ghost():
        window.press("Control+ArrowRight")
        window.moves_on(rest)
    window.holds("part.py", "total = first + second")


def test_escape_puts_it_away_for_good(window: Code) -> None:
    """The same does not come by itself again; asked for, it does."""
    window.offered("escape.py", "total = ", "first + second")
    window.press("Escape")
    window.grey("")
    window.press("Backspace")
    window.type(" ")
    time.sleep(1)
    assert window.ghost() == ""
    window.run("Trigger Inline Suggestion")
    window.grey("first + second")


def test_what_another_extension_offers_is_not_put_away_here(window: Code) -> None:
    """Escape tells the server of its own ghost text alone."""
    window.offered("theirs.py", "their = ", "theirs()")
    told = dismissals(window)
    window.press("Escape")
    window.grey("")
    window.press("Enter")
    window.type("x = ")
    window.grey("wanted()")
    window.press("Escape")
    window.grey("")
    until(lambda: dismissals(window) > told, "a message to the server")
    time.sleep(1)
    assert dismissals(window) == told + 1


def dismissals(window: Code) -> int:
    """How often the server was told that something is not wanted."""
    return window.log().count("Sending notification 'talaria/didDismiss'")


def test_a_function_is_written_and_turned(window: Code) -> None:
    """By a key, with another candidate, and undone in one step each."""
    window.open("fill.py")
    window.press("ArrowUp", "Control+Alt+g")
    body = STUB.replace("...", "a = 1\n    return a")
    window.holds("fill.py", body)
    window.shot("filled")
    window.press("Control+Alt+Shift+g")
    window.holds("fill.py", STUB.replace("...", "return 2"))
    window.shot("turned")
    window.press("Control+z", "Control+z")
    window.holds("fill.py", STUB)


def test_the_light_bulb_offers_what_can_be_filled(window: Code) -> None:
    """Placeholders and functions; what is chosen is written."""
    window.open("bulb.py")
    window.press("ArrowUp")

    def actions() -> list[str]:
        window.press("Control+.")
        time.sleep(0.5)
        return window.texts(".action-widget .monaco-list-row")

    until(actions, "actions")
    window.shot("actions")
    offered = " ".join(window.texts(".action-widget .monaco-list-row"))
    assert "Fill in `...`" in offered
    assert "Write the body of mean" in offered
    window.click(".action-widget .monaco-list-row:has-text('Fill in')")
    window.holds("bulb.py", STUB.replace("...", "a = 1\n    return a"))


@pytest.mark.parametrize(
    ("file", "before", "command"),
    [
        ("here.py", ("ArrowUp",), "Talaria: Fill In Here"),
        ("anew.py", ("ArrowUp", "Home", "Shift+End"), "Talaria: Rewrite the Selection"),
    ],
)
def test_commands_write(window: Code, file: str, before: tuple[str, ...], command: str) -> None:
    """For a placeholder and for a selection."""
    window.open(file)
    window.press(*before)
    window.run(command)
    window.holds(file, STUB.replace("...", "a = 1\n    return a"))


def test_cells_of_a_notebook(window: Code) -> None:
    """They get ghost text, too."""
    row = ".explorer-folders-view .monaco-list-row[aria-label^='cells.ipynb']"
    window.js("await page.locator(args[0]).dblclick()", row)
    window.click(".notebookOverlay .cell-editor-container .view-lines")
    window.type("x = ")
    window.grey("wanted()")
    window.press("Tab")
    until(lambda: "x = wanted()" in " ".join(window.texts(".notebookOverlay .view-line")), "text")
    window.press("Control+s")
    becomes(lambda: "x = wanted()" in (window.folder / "cells.ipynb").read_text(), True)


def test_switched_off_it_asks_nothing(window: Code) -> None:
    """In the menu of the status bar; switched on, it asks again."""
    window.open("off.py")
    window.menu()
    window.shot("menu")
    window.press("Enter")
    until(lambda: "off" in window.status(), "off")
    window.click("[id='talaria.talaria.talaria']")
    until(lambda: "Turn on" in "".join(window.texts(".quick-input-list")), "the same by a click")
    window.press("Escape")
    window.click(".editor-instance .view-lines")
    asked = window.requests()
    window.type("x = ")
    time.sleep(1.5)
    window.shot("off")
    assert (window.ghost(), window.requests()) == ("", asked)
    language = "Talaria: Toggle Suggestions in This Language"
    for _ in range(2):  # while all are off, each time counts too
        window.run(language)
    window.menu()
    window.press("Enter")
    until(lambda: "ready" in window.status(), "all on")
    window.run(language)
    until(lambda: "off" in window.status(), "off in Python")
    window.run(language)
    until(lambda: "ready" in window.status(), "on")
    window.press("Enter")
    window.type("x = ")
    window.grey("wanted()")


def test_emoji_and_lines_of_windows(window: Code) -> None:
    """What stands before the cursor is counted right, and line ends stay what they are."""
    window.open("windows.py")
    window.type("    print('éß🎉', ")
    window.grey("flush=True")  # the bracket is there already
    window.shot("emoji")
    window.press("Tab")
    window.holds("windows.py", "def say():\r\n    pass\r\n    print('éß🎉', flush=True)")


def test_two_files_at_once(window: Code) -> None:
    """Each has its own."""
    window.open("left.py")
    window.press("Control+\\")
    window.offered("right.py", "other = ", "elsewhere()")
    window.press("Control+1")
    window.type("x = ")
    window.grey("wanted()")
    window.shot("two-files")
    window.press("Tab", "Control+2", "Enter")
    window.type("x = ")
    window.grey("wanted()")
    window.press("Tab")
    window.holds("right.py", "other = \nx = wanted()")
    window.press("Control+1")
    window.holds("left.py", "x = wanted()")
    window.press("Control+k", "Control+w")


def test_a_killed_server_comes_back(window: Code, home: Path) -> None:
    """The text stays what it is, and suggestions come again."""
    window.offered("killed.py", "x = ", "wanted()")
    process = last_start(home)
    os.kill(process, signal.SIGKILL)
    window.type("wa")
    until(lambda: last_start(home) != process, "a new server")
    window.ready()
    window.shot("came-back")
    assert window.messages() == []
    window.press("Backspace", "Backspace", "Backspace")
    window.type(" ")
    window.grey("wanted()")
    window.press("Tab")
    window.holds("killed.py", "x = wanted()")


def test_what_was_switched_off_stays_off(window: Code, home: Path) -> None:
    """A server that comes back asks no engine there, until it is switched on."""
    window.open("stays.py")
    language = "Talaria: Toggle Suggestions in This Language"
    window.run(language)
    until(lambda: "off" in window.status(), "off in Python")
    process = last_start(home)
    os.kill(process, signal.SIGKILL)
    until(lambda: last_start(home) != process, "a new server")
    until(lambda: "off" in window.status(), "still off")
    window.type("x = ")
    time.sleep(1.5)
    assert (window.ghost(), window.requests()) == ("", 0)
    window.run(language)
    window.ready()
    window.press("Enter")
    window.type("x = ")
    window.grey("wanted()")


def test_a_server_that_hangs_can_be_restarted(window: Code, home: Path) -> None:
    """The menu comes without its answer."""
    window.open("killed.py")
    process = last_start(home)
    os.kill(process, signal.SIGSTOP)
    window.menu()
    window.shot("hangs")
    window.type("Restart")
    window.press("Enter")
    until(lambda: last_start(home) != process, "a new server")
    window.ready()


def test_a_program_that_says_nothing_can_be_replaced(window: Code, home: Path) -> None:
    """It is waited for, but a new setting counts at once."""
    silent = home / "silent"
    silent.write_text(f'#!/bin/sh\necho $$ >>"{home}/started"\nexec sleep 600\n')
    silent.chmod(0o755)
    process = last_start(home)
    window.set(server_path=str(silent))
    until(lambda: last_start(home) != process, "the program")
    assert "loading the model" in window.status()
    window.set()
    window.ready()


def test_a_path_that_is_no_text_is_none(window: Code, home: Path) -> None:
    """The server is looked for as if nothing were set, and can be restarted."""
    process = last_start(home)
    window.set(server_path=5)
    until(lambda: last_start(home) != process, "a new server")
    window.ready()
    process = last_start(home)
    window.run("Talaria: Restart the Server")
    until(lambda: last_start(home) != process, "another one")
    window.set()
    window.ready()


def test_the_server_tells_more_where_it_is_asked_to(window: Code, home: Path) -> None:
    """A setting of its own, which restarts it."""
    assert " DEBUG " not in window.log()
    process = last_start(home)
    window.set(log_level="debug")
    until(lambda: last_start(home) != process, "a new server")
    until(lambda: " DEBUG " in window.log(), "more in the log")
    window.set()
    window.ready()


def test_a_server_that_cannot_run_is_given_up_with_one_message(window: Code, home: Path) -> None:
    """After some tries; the message restarts it once it can run."""
    window.open("killed.py")
    place = program(home, home / "script.json")
    sound = place.read_text()
    place.write_text(f'#!/bin/sh\necho $$ >>"{home}/started"\nexit 1\n')
    os.kill(last_start(home), signal.SIGKILL)
    until(lambda: "not running" in window.status(), "giving up", 60)
    before = (home / "started").read_text()
    time.sleep(1)  # it glides in
    window.shot("given-up")
    assert len(window.messages()) == 1, window.messages()
    time.sleep(2)
    assert (home / "started").read_text() == before
    # Each is a line in the log as well; on the screen, the same again would take its place.
    assert window.log().count("the server keeps exiting") == 1
    place.write_text(sound)
    window.answer("Restart")
    window.ready()
    assert window.messages() == []


def test_without_a_server_it_offers_help(window: Code, home: Path) -> None:
    """One message, with a way to install it, and the status says so."""
    place = home / "bin" / "talaria"
    place.rename(place.with_name("elsewhere"))
    place.mkdir()  # a folder of this name is no program
    before = window.log().count("[warning] the program `talaria` is neither")
    window.run("Talaria: Restart the Server")
    until(lambda: "neither" in window.status(), "no server")
    until(window.messages, "a message")
    time.sleep(1)
    window.shot("missing")
    assert len(window.messages()) == 1
    assert window.log().count("[warning] the program `talaria` is neither") == before + 1
    window.answer("Choose")
    window.choose(place.with_name("elsewhere"))
    window.ready()
    assert window.messages() == []
    place.rmdir()
    place.with_name("elsewhere").rename(place)
    window.set()
    window.ready()


PYTHON = """#!/bin/sh
# A Python that says that it makes an environment and installs into it.
echo "$0 $@" >>"{home}/pythons"
if [ "$2" = venv ]; then
  mkdir -p "$3/bin"
  cp "$0" "$3/bin/python"
elif [ -e "{home}/clone/constraints.txt" ]; then
  cp "{home}/bin/elsewhere" "$(dirname "$0")/talaria"
else
  echo "Looking in indexes"
  echo "ERROR: Could not open requirements file" >&2
  exit 1
fi
"""


def test_a_server_is_installed(window: Code, home: Path) -> None:
    """From a clone, by `python3`; what is wrong is told."""
    window.open("killed.py")
    place = home / "bin" / "talaria"
    place.rename(place.with_name("elsewhere"))
    python, clone = home / "bin" / "python3", home / "clone"
    python.write_text(PYTHON.format(home=home))
    python.chmod(0o755)
    clone.mkdir()
    window.run("Talaria: Restart the Server")
    until(window.messages, "a message")
    window.answer("Install")
    window.choose(clone)
    until(lambda: "ERROR: Could not" in "".join(window.messages()), "a failure")
    time.sleep(1)
    window.shot("not-installed")
    assert "Looking in indexes" in window.log()
    window.dismiss_messages()
    (clone / "constraints.txt").touch()
    window.menu()
    window.type("Install")
    window.press("Enter")
    window.choose(clone)
    window.ready()
    window.shot("installed")
    assert window.messages() == []
    own = next((home / "user").glob("User/globalStorage/*/server"))
    venv, pip = (home / "pythons").read_text().splitlines()[-2:]
    assert venv == f"{python} -m venv {own}"
    assert pip.startswith(f"{own}/bin/python -m pip install ")
    assert pip.endswith(f"--constraint {clone}/constraints.txt {clone}")
    python.unlink()
    place.with_name("elsewhere").rename(place)
    window.run("Talaria: Restart the Server")
    window.ready()


def test_without_an_editor_it_says_so(window: Code) -> None:
    """A command that needs a place is no error."""
    window.run("View: Close All Editors")
    window.run("Talaria: Write This Function")
    until(lambda: "nothing to fill" in "".join(window.messages()), "a message")
    window.dismiss_messages()


def test_the_walkthrough_opens(window: Code) -> None:
    """It has four steps, and its sample function is written."""
    window.run("Welcome: Open Walkthrough")
    window.wait(".quick-input-widget input")
    window.type("Get Started with Talaria")
    window.wait(".quick-input-list .monaco-list-row.focused[aria-label*='Talaria']")
    window.press("Enter")
    window.wait(".getting-started-step")
    time.sleep(1)
    window.shot("walkthrough")
    assert len(window.texts(".getting-started-step")) == 4
    window.click(".getting-started-step:has-text('Let it write a function')")
    window.click(".monaco-button:has-text('Write a Sample Function')")
    written = ".editor-instance .view-line:has-text('return a')"
    window.wait(written)
    window.shot("sample")
    window.run("View: Revert and Close Editor")
    window.press("Control+k", "Control+w")


STACK = '''"""A stack."""


class Stack:
    """Last in, first out."""

    def __init__(self):
        self.items = []

    def push(self, item):
        """Put an item on top."""
        ...

    def __len__(self):
        """Return how many items there are."""
        ...
'''
SLOWER = 3  # the picture for the README, than what happens


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Code]:
    """A window in which no setting was ever touched; `talaria` is the real one, on PATH."""
    home = tmp_path_factory.mktemp("real", numbered=False)
    program(home)
    files = {"shop.py": "class Shop:\n    def __init__(self, name):\n        ", "stack.py": STACK}
    with code(home, files, None, trust=True) as window:
        window.press("Control+Alt+b")  # it opens with a side bar for chats
        yield window


@pytest.fixture
def real(untouched: Code, request: pytest.FixtureRequest) -> Iterator[Code]:
    """The same window; how a test ends is kept."""
    yield untouched
    untouched.shot(request.node.name.removeprefix("test_"))


def test_first_ghost_text_with_no_setting_touched(real: Code) -> None:
    """In a folder that is not even trusted."""
    real.open("shop.py")
    real.ready()
    real.shot("ready")
    real.type("self.na")
    until(lambda: real.ghost().startswith("me"), "ghost text")
    real.shot("first-grey-text")
    real.press("Tab")
    until(lambda: "self.name" in (real.folder / "shop.py").read_text(), "a name")


def test_a_function_sharpens_before_the_eyes(real: Code) -> None:
    """Each step of the denoising lies over the place; then the text is written."""
    real.open("stack.py")
    real.ready()
    file = real.folder / "stack.py"
    frames = []
    for line, text in (("12", "self.items.append(item)"), ("16", "return len(self.items)")):
        real.press("Control+g")
        real.wait(".quick-input-widget input")
        real.type(line)
        real.press("Enter")
        time.sleep(0.5)
        frames += real.film("Control+Alt+g", file, text)
    real.shot("sharpened")
    assert moving(real, frames) > 5, "fewer pictures than steps"
    assert (SCREENS / "denoising.gif").stat().st_size < 2_000_000
    real.run("Talaria: Replay the Last Answer")
    real.wait(".tab[aria-label*='the last answer']")
    time.sleep(1)
    real.shot("trace")


def moving(window: Code, frames: list[tuple[float, bytes]]) -> int:
    """Make one of them that moves, of the editor alone and slower; how many differ."""
    box = window.js("return await page.locator('.editor-instance').first().boundingBox()")
    left, top, width, height = (int(box[side]) for side in ("x", "y", "width", "height"))
    area = (left, top, left + width * 3 // 4, top + height * 3 // 4)
    shown: list[tuple[float, Image.Image]] = []
    for when, data in frames:
        image = Image.open(io.BytesIO(data)).convert("RGB").crop(area)
        if not shown or image.tobytes() != shown[-1][1].tobytes():
            shown.append((when, image))
    ends = [when for when, _ in shown[1:]] + [shown[-1][0] + 0.4]
    times = [
        round(min(900, max(60, 1000 * SLOWER * (end - when))))
        for (when, _), end in zip(shown, ends, strict=True)
    ]
    images = [image.quantize(255) for _, image in shown]
    path = SCREENS / "denoising.gif"
    images[0].save(path, save_all=True, append_images=images[1:], duration=times, loop=0)
    return len(images)


def test_a_model_that_is_missing_is_one_message(real: Code) -> None:
    """And no loop of them; the status says so until there is a model again."""
    real.open("shop.py")
    real.ready()
    real.trace()
    real.set(model="/nowhere")
    until(lambda: "no model" in real.status(), "trouble")
    until(real.messages, "a message")
    real.type("\nself.na")
    time.sleep(2)
    real.shot("no-model")
    assert len([each for each in real.messages() if "nowhere" in each]) == 1
    assert real.log().count("Received notification 'window/showMessage'") == 1
    assert real.ghost() == ""
    real.set()
    real.ready()


def test_a_folder_that_is_trusted_may_bring_its_server(real: Code) -> None:
    """Its virtual environment is not looked into before."""
    place = real.folder.parent / "bin" / "talaria"
    inside = real.folder / ".venv" / "bin" / "talaria"
    inside.parent.mkdir(parents=True)
    place.rename(inside)
    real.run("Talaria: Restart the Server")
    until(lambda: "only if you trust" in real.status(), "no server")
    real.run("Workspaces: Manage Workspace Trust")
    real.click(".workspace-trust-editor .monaco-button:has-text('Trust')")
    real.ready()
    real.shot("trusted")
    assert str(inside) in real.log()
