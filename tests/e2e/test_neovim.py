"""The plugin in a real Neovim: what is typed, what the terminal shows, what the text becomes."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.neovim import (
    PLUGIN,
    Neovim,
    editor,
    lacking,
    neovim,
    quoted,
    version,
)
from tests.e2e.record_neovim import record, svg
from tests.e2e.terminal import ROOT, scripted

pytestmark = pytest.mark.skipif(lacking() is not None, reason=str(lacking()))

TALARIA = str(Path(sys.executable).parent / "talaria")

ADD = "def add(first, second):\n    \n\n\nprint(add(1, 2))\n"
STUB = 'def mean(values):\n    """Return the mean."""\n    pass\n\n\nprint(mean([1, 2]))\n'

Open = Callable[..., Neovim]


def setup(cmd: list[str], more: str = "", before: str = "") -> str:
    """A configuration: the three lines of the README, with the server of a test."""
    command = ", ".join(quoted(word) for word in cmd)
    return (
        f"{before}\nvim.opt.rtp:append({quoted(str(PLUGIN))})\n"
        f'require("talaria").setup({{ cmd = {{ {command} }}, {more} }})\n'
    )


@pytest.fixture(params=["native", "drawn"])
def opened(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[Callable[..., tuple[Neovim, Path]]]:
    """Opens a text with a scripted server, where Neovim draws and where the plugin does."""
    program = editor()
    if request.param == "native" and program and version(program) < (0, 12):
        pytest.skip("this Neovim has no vim.lsp.inline_completion. Remedy: Neovim 0.12 or newer")
    native = "native = " + str(request.param == "native").lower()
    name = f"{request.node.originalname.removeprefix('test_')}-{request.param}"
    with ExitStack() as stack:

        def begin(
            answers: list[dict[str, Any]],
            text: str | bytes = ADD,
            more: str = "",
            earlier: str = "",
            files: tuple[Path, ...] = (),
        ) -> tuple[Neovim, Path]:
            script, file = tmp_path / "script.json", tmp_path / "module.py"
            script.write_text(json.dumps(answers), "utf-8")
            file.write_bytes(text.encode() if isinstance(text, str) else text)
            init = setup(scripted(script), f"{native}, {more}", earlier)
            here = stack.enter_context(neovim(tmp_path / "nvim", name, init, file, *files))
            here.ready()
            return here, file

        yield begin


SUM = {"after": "return ", "texts": ["first + second", "first - second", "second"]}

Begin = Callable[..., tuple[Neovim, Path]]


def grey_sum(opened: Begin, **how: Any) -> Neovim:
    """An editor in which `first + second` is shown."""
    here, _ = opened([SUM], **how)
    here.keys("jA")
    here.type("return ")
    here.until(lambda: here.grey() == "first + second", "ghost text")
    return here


class TestGreyText:
    def test_appears_and_tab_accepts_it(self, opened: Begin) -> None:
        """It is behind the cursor and not in the text, until Tab puts it there."""
        here = grey_sum(opened)
        assert "return first + second" in here.keep("grey")
        assert here.text() == ADD.replace("    \n", "    return \n").rstrip("\n")
        here.keys("<Tab>")
        here.until(lambda: "return first + second\n" in here.text(), "the text")
        assert here.grey() is None
        assert here.lua("vim.fn.col('.')") == len("    return first + second") + 1
        here.keep("accepted")
        here.keys("<Esc>u")
        here.until(lambda: "    return \n" in here.text(), "one undo to take back just that")

    def test_tab_without_it_is_tab(self, opened: Begin) -> None:
        """Where nothing is shown, the key does what it did before, mapped or not."""
        here, _ = opened([], earlier='vim.keymap.set("i", "<M-Right>", "mapped")')
        here.keys("jA<Tab>x<M-Right>")
        here.until(lambda: "        xmapped\n" in here.text(), "a tab and what was mapped")

    def test_of_several_lines(self, opened: Begin) -> None:
        """Further lines stand below the cursor's; accepting them puts the cursor at their end."""
        text = "total = first + second\n    return total"
        here, _ = opened([{"after": "    ", "texts": [text]}])
        here.keys("jA")
        here.until(lambda: here.grey() == text, "ghost text")
        assert "    total = first + second\n    return total\n" in here.keep("grey")
        here.keys("<Tab>!")
        here.until(lambda: f"    {text}!\n" in here.text(), "the text, and what was typed behind")

    def test_typing_through(self, opened: Begin) -> None:
        """What is typed along is taken off, at once and without a question to the engine."""
        here = grey_sum(opened)
        asked = here.requests()
        for number, sign in enumerate("first +", 1):
            here.keys(sign)
            assert here.grey() == "first + second"[number:]
        time.sleep(0.6)  # Neovim's own 200 ms, and the server's wait
        assert here.grey() == " second"
        assert here.requests() == asked
        here.keep("typed along")
        here.keys("<BS>")
        assert here.grey() == "+ second"
        here.keys("<Tab>")
        here.until(lambda: "return first + second\n" in here.text(), "the text")

    def test_typing_and_accepting_at_once(self, opened: Begin) -> None:
        """Keys that come faster than any screen double nothing (neovim#36529)."""
        here = grey_sum(opened)
        here.keys("fir<Tab>")
        here.until(lambda: "return first + second\n" in here.text(), "the text")
        here.never(lambda: "return first + second\n" not in here.text(), 0.6)

    def test_accepting_by_neovims_own(self, opened: Begin) -> None:
        """Who mapped `vim.lsp.inline_completion.get` gets no text twice either."""
        own = 'vim.keymap.set("i", "<C-y>", function() vim.lsp.inline_completion.get() end)'
        here = grey_sum(opened, earlier=own)
        if not here.lua("require('talaria').native()"):
            pytest.skip("there is none here")
        here.keys("f")
        here.keys("<C-y>")
        here.until(lambda: "return first + second\n" in here.text(), "the text")

    def test_switching_neovims_own_off(self, opened: Begin) -> None:
        """Who switches `vim.lsp.inline_completion` off gets no ghost text from elsewhere."""
        here = grey_sum(opened)
        if not here.lua("require('talaria').native()"):
            pytest.skip("there is none here")
        here.run("lua vim.lsp.inline_completion.enable(false, { bufnr = 0 })")
        here.keys("f")
        here.until(lambda: here.grey() is None, "it to go")
        here.never(here.grey, 0.8)
        here.keys("<C-u>    return")
        asked = here.requests()
        here.keys(" ")
        here.never(here.grey, 0.8)
        assert here.requests() == asked
        here.run("lua vim.lsp.inline_completion.enable(true, { bufnr = 0 })")
        here.keys("<BS> ")
        here.until(lambda: here.grey() == "first + second", "it to be back")

    def test_no_other_server_is_asked(self, opened: Begin) -> None:
        """One whose inline completions nobody switched on gets no code, whenever it comes."""
        start = "vim.lsp.start({ name = 'cloud', cmd = _G.cloud }, { bufnr = 0 })"
        early = f"vim.api.nvim_create_autocmd('FileType', {{ callback = function() {start} end }})"
        here = grey_sum(opened, earlier=CLOUD + early)
        clients = "#vim.lsp.get_clients({ name = 'cloud', bufnr = 0 })"
        here.until(lambda: here.lua(clients) == 1, "the one that was there")
        here.run(f"lua {start.replace('cloud', 'later', 1)}")
        here.until(lambda: here.lua(clients.replace("cloud", "later")) == 1, "a later one")
        here.type("first")
        here.until(lambda: here.grey() == " + second", "ghost text")
        here.keys("<C-u>    ")
        here.type("return ")
        here.until(lambda: here.grey() == "first + second", "ghost text")
        here.never(lambda: here.lua("_G.asked") > 0, 0.8)
        if here.lua("require('talaria').native()"):
            here.run("lua vim.lsp.inline_completion.enable(true, { bufnr = 0 })")
            here.keys("f")
            here.until(lambda: here.lua("_G.asked") > 0, "it, now that somebody switched it on")
            assert here.grey() == "irst + second"

    def test_a_wrong_sign_dismisses(self, opened: Begin) -> None:
        """What contradicts it takes it off the screen at once, and it stays off."""
        here = grey_sum(opened)
        here.keys("x")
        assert here.grey() is None
        here.keep("dismissed")
        here.never(here.grey, 0.8)
        here.keys("<Tab>")
        here.until(lambda: "return x    " in here.text(), "an ordinary tab")

    def test_a_late_answer(self, opened: Begin) -> None:
        """What was typed while the engine thought does not stand there twice."""
        here, _ = opened([{**SUM, "seconds": 0.5}, {"after": "return f", "texts": ["irst * 2"]}])
        here.keys("jA")
        here.type("return ")
        time.sleep(0.4)
        here.keys("f")
        here.until(lambda: here.grey() in ("irst + second", "irst * 2"), "ghost text")
        here.keys("<Tab>")
        here.until(lambda: "return first" in here.text(), "the text")
        assert "ff" not in here.text()

    def test_in_the_middle_of_a_pair(self, opened: Begin) -> None:
        """What stands behind the cursor stays there."""
        here, _ = opened([{"after": "print(", "texts": ["first, second"]}], "print()\n")
        here.keys("A<Left>")
        here.until(lambda: here.grey() == "first, second", "ghost text")
        assert "print(first, second)" in here.keep("grey")
        here.keys("<M-Right>")
        here.until(lambda: here.text() == "print(first)", "a word")
        here.keys("<Tab>")
        here.until(lambda: here.text() == "print(first, second)", "all of it")


class TestChoosing:
    def test_cycling(self, opened: Begin) -> None:
        """The next ones come by a key, and the first one after the last."""
        here = grey_sum(opened)
        for wanted in ("first - second", "second", "first + second"):
            here.keys("<M-]>")
            here.until(lambda wanted=wanted: here.grey() == wanted, wanted)  # type: ignore[misc]
            assert "/3" in here.keep(wanted)
        here.lua("require('talaria').cycle(-1)")
        here.until(lambda: here.grey() == "second", "the one before")
        here.keys("s")
        assert here.grey() == "econd"
        here.keys("<Tab>")
        here.until(lambda: "return second\n" in here.text(), "the one that was chosen")

    def test_cycling_behind_what_was_typed(self, opened: Begin) -> None:
        """In both directions, those that do not begin with it are passed over."""
        here = grey_sum(opened)
        here.keys("<M-]>")
        here.until(lambda: here.grey() == "first - second", "the next one")
        here.keys("f")
        for key, wanted in (
            *(("<M-[>", "irst + second"), ("<M-[>", "irst - second")),
            *(("<M-]>", "irst + second"), ("<M-]>", "irst - second")),
        ):
            here.keys(key)
            assert here.grey() == wanted

    def test_parts(self, opened: Begin) -> None:
        """A word, a line, and the rest stays grey."""
        text = "first + second  # all\n    print(first)"
        here, _ = opened([{"after": "return ", "texts": [text]}])
        here.keys("jA")
        here.type("return ")
        here.until(here.grey, "ghost text")
        here.keys("<M-Right>")
        here.until(lambda: here.grey() == text.removeprefix("first "), "the rest")
        assert "return first \n" in here.text()
        here.keep("word")
        here.keys("<M-Down>")
        here.until(lambda: here.grey() == "    print(first)", "the rest")
        here.keep("line")
        here.keys("<Tab>")
        here.until(lambda: f"return {text}\n" in here.text(), "all of it")

    def test_dismissing(self, opened: Begin) -> None:
        """What was dismissed does not come back by itself; asked for, it does."""
        here = grey_sum(opened)
        here.keys("<C-]>")
        here.until(lambda: here.grey() is None, "it to go")
        here.keys("<Left><Right>")
        here.never(here.grey)
        here.keys("<M-\\>")
        here.until(lambda: here.grey() == "first + second", "it to be back")

    def test_leaving_insert_mode(self, opened: Begin) -> None:
        """Ghost text is for whoever types."""
        here = grey_sum(opened)
        here.keys("<Esc>")
        here.until(lambda: here.grey() is None, "it to go")
        here.keys("A")
        here.until(lambda: here.grey() == "first + second", "it to be back")


class TestCommands:
    def test_filling_a_function(self, opened: Begin) -> None:
        """`:Talaria fill` writes the body; `next` puts another in its place; `u` takes it back."""
        texts = ["return sum(values) / len(values)", "return 0"]
        here, _ = opened([{"after": '"""\n    ', "texts": texts}], STUB)
        here.keys("jj")
        here.run("Talaria fill")
        here.until(lambda: texts[0] in here.text(), "the body")
        assert "pass" not in here.text()
        here.keep("filled")
        here.run("Talaria next")
        here.until(lambda: texts[1] in here.text(), "the next one")
        assert texts[0] not in here.text()
        here.keys("uu")
        here.until(lambda: here.text() == STUB.rstrip("\n"), "what was there before")

    def test_code_actions(self, opened: Begin) -> None:
        """What is chosen from Neovim's own code actions is written, and can be saved."""
        body = "return sum(values) / len(values)"
        here, file = opened([{"after": '"""\n    ', "texts": [body]}], STUB)
        here.keys("jj")
        chosen = 'filter = function(it) return it.title == "Talaria: Write the body of mean" end'
        here.run(f"lua vim.lsp.buf.code_action({{ apply = true, {chosen} }})")
        here.until(lambda: body in here.text(), "the body")
        here.run("write")
        here.until(lambda: file.read_text() == STUB.replace("pass", body), "the file")

    def test_filling_a_placeholder(self, opened: Begin) -> None:
        """`:Talaria here` replaces what stands for code to come."""
        here, _ = opened([{"after": "x = ", "texts": ["42"]}], "x = ...\nprint(x)\n")
        here.run("Talaria here")
        here.until(lambda: here.text() == "x = 42\nprint(x)", "what was filled in")

    def test_rewriting_a_selection(self, opened: Begin) -> None:
        """`:Talaria rewrite` writes just the selection anew, whatever signs it ends with."""
        here, _ = opened([{"after": "x = ", "texts": ["'new"]}], "x = 'old 🙂' + y\n")
        here.keys("f'vf🙂:Talaria rewrite<CR>")
        here.until(lambda: here.text() == "x = 'new' + y", "the selection")
        here.keys("uV:Talaria rewrite<CR>")
        here.until(lambda: "nothing to offer" in here.messages(), "silence for the whole line")

    def test_why_nothing_was_done(self, opened: Begin) -> None:
        """Who asks for what is not there is told."""
        here, _ = opened([], "x = 1\n")
        here.run("Talaria fill")
        here.until(lambda: "no function at line 1" in here.messages(), "the reason")
        here.keys(":Talaria nonsense<CR>")
        here.until(lambda: "unknown command: nonsense" in here.messages(), "the reason")
        here.keep("told")

    def test_off_means_no_requests(self, opened: Begin) -> None:
        """Switched off, in a language or as a whole, nothing is asked; on again, it is."""
        here, _ = opened([SUM])
        here.keys("jA")
        for where in ("", " python"):
            here.run(f"Talaria toggle{where}")
            here.until(lambda: "off" in str(here.lua("require('talaria').status()")), "off")
            asked = here.requests()
            here.type("return ")
            here.never(here.grey)
            assert here.requests() == asked
            here.keep("off")
            here.run(f"Talaria toggle{where}")
            here.until(lambda: here.lua("require('talaria').status()") == "Talaria: ready", "on")
            here.keys("<C-u>    ")
            here.type("return ")
            here.until(lambda: here.grey() == "first + second", "ghost text")
            here.keys("<C-u>")

    @pytest.mark.parametrize(
        ("choice", "said"),
        [("b is not here", "a answers; b is not here"), ("a answers: b is slow", "b is slow")],
    )
    def test_status_says_once_who_answers(self, opened: Begin, choice: str, said: str) -> None:
        """The reason that the server gives may say so already."""
        here, _ = opened([SUM])
        engine = f"{{ state = 'ready', requests = 1, model = 'a', choice = '{choice}' }}"
        answer = f"function(_, _, _, done) done(nil, {{ engine = {engine} }}) end"
        here.run(f"lua require('talaria.server').execute = {answer}")
        here.run("Talaria status")
        here.until(lambda: said in here.messages(), "the status")
        assert here.messages().count("a answers") == 1

    def test_status_line(self, opened: Begin) -> None:
        """The component says what the server is about."""
        line = "vim.o.statusline = \"%f [%{v:lua.require'talaria'.status()}]\""
        here, _ = opened([{**SUM, "seconds": 1}], earlier=line)
        here.until(lambda: "[Talaria: ready]" in here.screen(), "the component")
        here.keys("jA")
        here.type("return ")
        here.until(lambda: "[Talaria: busy]" in here.screen(), "busy")
        here.keep("busy")
        here.until(lambda: "[Talaria: ready]" in here.screen(), "ready again")

    def test_status_while_typing(self, opened: Begin) -> None:
        """What is answered at once is not worth drawing the status line anew."""
        here, _ = opened([SUM])
        noting = "callback = function() _G.drawn = (_G.drawn or 0) + 1 end"
        here.run(f"lua vim.api.nvim_create_autocmd('User', {{ {noting} }})")
        here.keys("jA")
        here.type("return ")
        here.until(lambda: here.grey() == "first + second", "ghost text")
        asked = here.requests()
        here.type("x y z", 0.3)
        here.until(lambda: here.requests() > asked, "more questions")
        time.sleep(0.3)
        assert here.lua("_G.drawn") is None

    def test_the_offer_of_a_model_takes_no_keys(self, tmp_path: Path) -> None:
        """A short message comes while somebody types; a command asks, and its answer counts."""
        script, file, home = tmp_path / "script.json", tmp_path / "module.py", tmp_path / "home"
        script.write_text("[]")
        file.write_text(ADD)
        select = "vim.ui.select = function(all, how, say) _G.asked = how.prompt; say(all[#all]) end"
        init = setup(["env", f"TALARIA_HOME={home}", *scripted(script)], before=select)
        with neovim(tmp_path / "nvim", "offer", init, file) as here:
            here.keys("jA")
            typed = ""
            while ":Talaria fetch" not in here.messages():
                typed += "x"
                assert len(typed) < 200, "no offer, as where less than 2 GB are free"
                here.type("x", 0.1)
            here.type("yz")
            here.until(lambda: f"    {typed}yz\n" in here.text(), "all that was typed")
            assert here.lua("vim.api.nvim_get_mode()") == {"mode": "i", "blocking": False}
            here.keep("offer")
            assert here.lua("_G.asked") is None
            here.run("Talaria fetch")
            here.until(lambda: (home / "offers.json").exists(), "the answer")
            assert "never" in (home / "offers.json").read_text().lower()
            assert "Fetch it now?" in here.lua("_G.asked")


class TestTexts:
    def test_crlf_and_signs_beyond_the_plane(self, opened: Begin) -> None:
        """Lines that end in CR LF stay so, and an emoji shifts nothing."""
        before = "names = ['🙂🙂', 'é']\r\n"
        rest = "len(names)\nprint(x)"
        here, file = opened([{"after": "'🙂'; x = ", "texts": [rest]}], before.encode())
        assert here.lua("vim.bo.fileformat") == "dos"
        here.keys("o")
        here.type("y = '🙂'; x = ")
        here.until(lambda: here.grey() == rest, "ghost text")
        assert "^M" not in here.keep("grey")
        here.keys("l<Tab>")
        here.until(lambda: here.text().endswith(f"y = '🙂'; x = {rest}"), "the text")
        here.keys("<Esc>")
        here.run("write")
        wanted = (before + f"y = '🙂'; x = {rest}\n".replace("\n", "\r\n")).encode()
        here.until(lambda: file.read_bytes() == wanted, "the file")

    def test_two_files_at_once(self, opened: Begin, tmp_path: Path) -> None:
        """Each window has its own ghost text, and one server does for both."""
        other = tmp_path / "other.py"
        other.write_text("y = \n")
        here, _ = opened([SUM, {"after": "y = ", "texts": ["'other'"]}], files=(other,))
        here.run(f"vsplit {other}")
        here.until(lambda: here.status()["documents"] == 2, "both")
        here.keys("A")
        here.until(lambda: here.grey() == "'other'", "ghost text")
        here.keep("the other")
        here.keys("<Esc><C-w>wjA")
        here.type("return ")
        here.until(lambda: here.grey() == "first + second", "ghost text")
        here.keep("the first")
        here.keys("<Tab>")
        here.until(lambda: "return first + second\n" in here.text(), "the text")
        here.keys("<Esc><C-w>w")
        assert here.text() == "y = "
        assert here.lua("#vim.lsp.get_clients({ name = 'talaria' })") == 1


class TestTrouble:
    def test_a_killed_server(self, opened: Begin) -> None:
        """It starts again; the editor and what was typed stay."""
        here = grey_sum(opened)
        os.kill(here.server(), signal.SIGKILL)
        here.until(lambda: "starts again in 1 s" in here.messages(), "a message")
        assert here.grey() is None
        here.keys("first")
        here.until(lambda: "return first\n" in here.text(), "the text")
        here.keep("killed")
        here.ready()
        here.keys("<C-u>    ")
        here.type("return ")
        here.until(lambda: here.grey() == "first + second", "ghost text again")
        here.keep("again")
        here.keys("<Esc>")
        here.run("edit!")
        here.keys("2GA")
        here.type("return ")
        here.until(lambda: here.grey() == "first + second", "ghost text in what was read anew")

    def test_switched_off_before_a_restart(self, opened: Begin) -> None:
        """What was switched stays: the new server is asked nothing, until it is switched on."""
        here = grey_sum(opened)
        here.run("Talaria toggle")
        here.until(lambda: here.status()["enabled"] is False, "off")
        former = here.server()
        os.kill(former, signal.SIGKILL)
        here.until(lambda: "starts again in 1 s" in here.messages(), "a message")
        here.ready()
        assert here.server() != former
        here.until(lambda: here.status()["enabled"] is False, "the new one to be told")
        here.keys("<C-u>    ")
        here.type("return ")
        here.never(here.grey)
        assert here.requests() == 0
        assert here.lua("require('talaria').status()") == "Talaria: off"
        here.run("Talaria toggle")
        here.until(lambda: here.status()["enabled"], "on")
        here.keys("<C-u>    ")
        here.type("return ")
        here.until(lambda: here.grey() == "first + second", "ghost text again")

    def test_servers_of_two_projects(self, opened: Begin, tmp_path: Path) -> None:
        """The crashes of each are counted apart."""
        other = tmp_path / "other" / "b.py"
        other.parent.mkdir()
        (other.parent / "pyproject.toml").touch()
        other.write_text("y = \n")
        here, _ = opened([SUM])
        here.run(f"edit {other}")
        clients = "#vim.lsp.get_clients({ name = 'talaria' })"
        here.until(lambda: here.lua(clients) == 2, "both servers")
        for server in here.servers():
            os.kill(server, signal.SIGKILL)
        here.until(lambda: here.messages().count("starts again in 1 s") == 2, "both messages")
        here.until(lambda: here.lua(clients) == 2, "both again")

    def test_a_server_that_keeps_ending(self, tmp_path: Path) -> None:
        """It is started ever later, and then no more."""
        with neovim(
            *(tmp_path / "nvim", "keeps-ending"),
            setup(["sh", "-c", "exit 3"], before=SOON),
        ) as here:
            (tmp_path / "a.py").write_text("x = 1\n")
            here.run(f"edit {tmp_path / 'a.py'}")
            here.until(lambda: "ended 5 times;" in here.messages(), "the last message")
            time.sleep(0.5)
            assert here.messages().count("the server ended") == 5

    def test_no_model(self, tmp_path: Path) -> None:
        """One message, however much is typed, and no loop."""
        file = tmp_path / "a.py"
        file.write_text("x = 1\n")
        init = setup([TALARIA, "lsp", "--model", str(tmp_path / "none")])
        with neovim(tmp_path / "nvim", "no-model", init, file) as here:
            here.until(lambda: "Talaria: " in here.screen(), "a message", 60)
            here.keep("failed")
            here.enter()
            state = "require('talaria').status()"
            here.until(lambda: here.lua(state) == "Talaria: failed", "the state")
            here.keys("o")
            here.type("def f(x):\n    return ")
            here.never(here.grey)
            assert "def f(x):" in here.text()
            assert here.messages().count("Talaria: ") == 1

    def test_no_server(self, tmp_path: Path) -> None:
        """One message that names the places and the remedy."""
        file, other = tmp_path / "a.py", tmp_path / "b.py"
        file.write_text("x = 1\n")
        other.write_text("y = 1\n")
        with neovim(tmp_path / "nvim", "no-server", setup([str(tmp_path / "none")]), file) as here:
            here.until(lambda: "Talaria: no server found" in here.messages(), "a message")
            here.keep("told")
            here.run(f"edit {other}")
            time.sleep(0.5)
            assert here.messages().count("Talaria: no server") == 1
            here.run("checkhealth talaria")
            here.until(lambda: "not found; looked for" in here.text(), "the report")


class TestAProgramOfTheProject:
    """`.venv/bin/talaria` of an opened project: it runs only where the user trusts it."""

    @pytest.fixture
    def project(self, tmp_path: Path) -> Path:
        """A file in a project that brings a server, which notes down that it ran."""
        program = tmp_path / "project" / ".venv" / "bin" / "talaria"
        program.parent.mkdir(parents=True)
        script = tmp_path / "script.json"
        script.write_text(json.dumps([SUM]), "utf-8")
        server = shlex.join(scripted(script))
        program.write_text(f"#!/bin/sh\ntouch {tmp_path / 'ran'}\nexec {server}\n")
        program.chmod(0o755)
        (tmp_path / "project" / "pyproject.toml").touch()
        file = tmp_path / "project" / "module.py"
        file.write_text(ADD)
        return file

    @pytest.fixture
    def init(self, tmp_path: Path) -> str:
        """A configuration in which no other server is found."""
        plugin = tmp_path / "plugin" / "editors" / "nvim"
        shutil.copytree(PLUGIN, plugin)
        empty = "vim.env.PATH, vim.env.VIRTUAL_ENV = '/usr/bin:/bin', nil\n"
        return (
            f"{empty}vim.opt.rtp:append({quoted(str(plugin))})\n"
            'require("talaria").setup({ keys = false })'
        )

    def test_runs_only_if_trusted(self, tmp_path: Path, project: Path, init: str) -> None:
        """It is asked about; refused, it does not run, and `:checkhealth` says what helps."""
        program = project.parent / ".venv" / "bin" / "talaria"
        with neovim(tmp_path / "nvim", "trust", init, columns=120) as here:
            here.run(f"edit {project}")
            here.until(lambda: "(v)iew" in here.screen(), "a question")
            here.keep("asked")
            here._tmux("send-keys", "v")
            here.until(lambda: "#!/bin/sh" in here.text(), "a look at it")
            here.keep("viewed")
            here.run("wincmd p")
            here.run(f"edit {project.with_name('other.py')}")
            here.never(lambda: (tmp_path / "ran").exists(), 0.8)
            assert "Talaria" not in here.messages()
            here.run("checkhealth talaria")
            here.until(lambda: f"belongs to the project: {program}" in here.text(), "the report")
            here.run("tabclose")
            here.run(f"buffer {program}")
            here.run("trust")
            here.run("Talaria restart")
            here.ready()
            assert (tmp_path / "ran").exists()
            program.write_text(program.read_text() + "# another\n")
            here.run("Talaria restart")
            here.until(lambda: "(v)iew" in here.screen(), "a question about another content")
            here.keep("another")
            here._tmux("send-keys", "i")
            here.until(lambda: here.lua("1 + 1") == 2, "it to go on")
            here.never(lambda: here.lua("#vim.lsp.get_clients()") > 0)

    @pytest.mark.parametrize("flags", [["--headless"], ["-es"]], ids=" ".join)
    def test_nobody_is_there(
        self, tmp_path: Path, project: Path, init: str, flags: list[str]
    ) -> None:
        """Where nobody can be asked it is passed over, and nothing waits."""
        config = tmp_path / "init.lua"
        config.write_text(init)
        own = ["-u", str(config), "-n", "-i", "NONE"]
        done = subprocess.run(
            [str(editor()), *flags, *own, str(project), "+sleep 800m", "+qa!"],
            env={**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")},
            stdin=subprocess.PIPE,
            capture_output=True,
            timeout=20,
            check=False,
        )
        assert done.returncode == 0
        assert not (tmp_path / "ran").exists()


class TestTheNeovimOfTheTests:
    @pytest.mark.parametrize("said", [None, "no Neovim", "NVIM v0.9.5"])
    def test_one_that_does_not_fit(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str | None
    ) -> None:
        """If TALARIA_NVIM names none that fits, no other is tried in its place."""
        program = tmp_path / "nvim"
        if said:
            program.write_text(f"#!/bin/sh\necho {said}\n")
            program.chmod(0o755)
        monkeypatch.setenv("TALARIA_NVIM", str(program))
        with pytest.raises(ValueError, match=f"TALARIA_NVIM is {program}, .* Remedy: "):
            editor()


class TestPlugin:
    def test_health(self, opened: Begin) -> None:
        """`:checkhealth talaria` says what runs, and which key was taken by something else."""
        late = 'vim.schedule(function() vim.keymap.set("i", "<C-]>", "x") end)'
        here, _ = opened([], earlier=late)
        here.run("checkhealth talaria")
        here.until(lambda: "ready, 0 requests" in here.text(), "the report")
        assert "draws" in here.text()
        assert "<C-]> (dismiss) does something else" in here.text()
        here.keep("health")

    def test_options_that_mean_nothing(self, tmp_path: Path) -> None:
        """Each is told once with what it should be; the others count."""
        init = f"""
            vim.opt.rtp:append({quoted(str(PLUGIN))})
            _G.mine = {{ cmd = "talaria", option = {{}}, keys = {{ acept = "x" }} }}
            require("talaria").setup(_G.mine)
        """
        file = tmp_path / "a.py"
        file.write_text("x = 1\n")
        with neovim(tmp_path / "nvim", "options", init, file) as here:
            here.enter()
            for wanted in ("cmd: must be a table", "option: unknown option", "unknown key acept"):
                here.until(lambda wanted=wanted: wanted in here.messages(), wanted)  # type: ignore[misc]
            here.keep("told")
            here.ready()
            assert here.messages().count("Talaria: ") == 3
            assert here.lua("_G.mine.cmd") == "talaria"  # the caller's table stays as it is

    def test_completing_commands(self, tmp_path: Path) -> None:
        """`:Talaria` offers its commands, and languages to switch off."""
        init = f"vim.opt.rtp:append({quoted(str(PLUGIN))})\nrequire('talaria').setup()"
        every = ["fetch", "fill", "here", "next", "restart", "rewrite", "status", "toggle", "trace"]
        with neovim(tmp_path / "nvim", "completing", init) as here:
            for line, wanted in (
                ("Talaria ", every),
                ("Talaria re", ["restart", "rewrite"]),
                ("Talaria toggle ", ["python"]),
            ):
                assert here.lua(f"vim.fn.getcompletion({quoted(line)}, 'cmdline')") == wanted

    def test_help(self, tmp_path: Path) -> None:
        """Every option, key and command has its place in `:help`."""
        folder = tmp_path / "plugin"
        shutil.copytree(PLUGIN, folder)
        # A Neovim that was unpacked beside the system's libraries does not find its parsers.
        parsers = Path(str(editor())).parent / "tree" / "usr" / "lib" / "nvim"
        init = f"vim.opt.rtp:append({{ {quoted(str(folder))}, {quoted(str(parsers))} }})"
        with neovim(tmp_path / "nvim", "help", init) as here:
            here.run(f"helptags {folder / 'doc'}")
            here.run("help talaria")
            here.until(lambda: here.lua("vim.bo.buftype") == "help", "the page")
            here.keep("help")
            text = here.text()
            names = here.lua("vim.tbl_keys(require('talaria').config.keys)")
            for name in [*names, "root_markers", "native", "steps", ":Talaria-rewrite"]:
                assert name in text, name

    def test_installing_from_a_subfolder(self, tmp_path: Path) -> None:
        """`vim.pack` of Neovim 0.12 installs the repository, builds, and loads its subfolder."""
        program = editor()
        if program and version(program) < (0, 12):
            pytest.skip("this Neovim has no vim.pack. Remedy: Neovim 0.12 or newer")
        repository = tmp_path / "talaria"
        shutil.copytree(PLUGIN, repository / "editors" / "nvim")
        (repository / "Makefile").write_text("setup:\n\ttouch built\n")
        git = ["git", "-c", "user.name=t", "-c", "user.email=t@t", "-C", str(repository)]
        for arguments in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-qm", "all"]):
            subprocess.run([*git, *arguments], check=True)
        init = f"""
            vim.api.nvim_create_autocmd("PackChanged", {{
              callback = function(event)
                if event.data.spec.name ~= "talaria" or event.data.kind == "delete" then return end
                vim.system({{ "make", "setup" }}, {{ cwd = event.data.path }}):wait()
              end,
            }})
            vim.pack.add({{ {{ src = {quoted(f"file://{repository}")}, name = "talaria" }} }}, {{
              confirm = false,
              load = function(plugin) vim.opt.rtp:append(plugin.path .. "/editors/nvim") end,
            }})
            require("talaria").setup()
        """
        with neovim(tmp_path / "nvim", "pack", init) as here:
            here.until(lambda: here.lua("vim.fn.exists(':Talaria')") == 2, "the command")
            place = here.lua("vim.api.nvim_get_runtime_file('lua/talaria/init.lua', false)[1]")
            assert str(tmp_path / "nvim") in place
            assert (Path(place).parents[4] / "built").exists()


class TestSteps:
    def test_a_step(self, opened: Begin) -> None:
        """Tokens stand where they will be written, masks between them, until the text changes."""
        here, _ = opened([], STUB)
        here.lua(STEP)
        here.until(lambda: "    if not░:\n        return ░░\n" in here.screen(), "the step")
        here.keep("step")
        assert here.text() == STUB.rstrip("\n")
        here.run("Talaria fill")
        here.until(lambda: "░" not in here.screen(), "it to be gone with the answer")
        here.lua(STEP)
        here.until(lambda: "░" in here.screen(), "the step")
        here.keys("x")
        here.until(lambda: "░" not in here.screen(), "it to be gone with the text")

    def test_a_step_of_a_server_that_ends(self, opened: Begin) -> None:
        """No mask is left behind."""
        here, _ = opened([], STUB)
        here.lua(STEP)
        here.until(lambda: "░" in here.screen(), "the step")
        os.kill(here.server(), signal.SIGKILL)
        here.until(lambda: "░" not in here.screen(), "it to be gone")


class TestShippedModel:
    def test_first_ghost_text(self, tmp_path: Path) -> None:
        """Three lines of configuration and the server that lies beside: ghost text comes."""
        file = tmp_path / "account.py"
        file.write_text(ACCOUNT)
        init = (
            f"vim.opt.rtp:append({quoted(str(PLUGIN))})\n"
            'require("talaria").setup({ options = { deadline_ms = 5000 } })\n'
        )
        with neovim(tmp_path / "nvim", "shipped", init, file, lines=30) as here:
            here.ready()
            here.keys("GA")
            here.type("self.balance += ")
            here.until(here.grey, "ghost text", 30)
            grey = here.grey()
            here.keep("grey")
            here.keys("<Tab>")
            here.until(lambda: f"self.balance += {grey}" in here.text(), "the text")
            here.keep("accepted")

    def test_watching_a_function_come_about(self, tmp_path: Path) -> None:
        """With `steps`, each step is drawn where the body will stand, and gone when it does."""
        file = tmp_path / "stub.py"
        file.write_text(STUB)
        init = setup([TALARIA, "lsp"], "options = { steps = true }", "vim.ui.open = OPEN")
        init = init.replace("OPEN", "function(page) _G.page = page end")
        with neovim(tmp_path / "nvim", "steps", init, file) as here:
            here.ready()
            here.keys("jj")
            here.lua(WATCH)
            here.run("Talaria fill")
            here.until(lambda: here.lua("#_G.seen") > 1, "steps", 30, 0.1)
            here.keep("steps")
            here.until(lambda: "    pass" not in here.text(), "the body", 40)
            here.until(lambda: here.lua(DRAWN) == 0, "the drawing to be gone")
            here.keep("filled")
            for step in here.lua("_G.seen"):
                assert step.replace("░", "").split()[0] in here.text()
            here.run("Talaria trace")
            here.until(lambda: str(here.lua("_G.page")).startswith("file:"), "the trace")


# Waiting takes a twentieth of its time.
SOON = "local wait = vim.defer_fn; vim.defer_fn = function(f, ms) return wait(f, ms / 20) end"

# A server within the editor that answers everything with nothing, and notes what it must not get.
CLOUD = """
_G.asked = 0
function _G.cloud()
  local closing = false
  return {
    request = function(method, _, callback)
      if method == "textDocument/inlineCompletion" then _G.asked = _G.asked + 1 end
      local able = { inlineCompletionProvider = true, textDocumentSync = 1 }
      callback(nil, method == "initialize" and { capabilities = able } or nil)
      return true, 1
    end,
    notify = function() return true end,
    is_closing = function() return closing end,
    terminate = function() closing = true end,
  }
end
"""

# A step in the middle: what `talaria/step` brings for line 3 of STUB.
STEP = """(function()
  local client = vim.lsp.get_clients({ name = "talaria" })[1]
  client.handlers["talaria/step"](nil, {
    uri = vim.uri_from_bufnr(0), version = vim.lsp.util.buf_versions[vim.fn.bufnr()],
    position = { line = 2, character = 4 },
    pieces = { "if", " not", vim.NIL, ":", "\\n        return ", vim.NIL, vim.NIL },
  }, { client_id = client.id })
  return 1
end)()""".replace("\n", " ")

ACCOUNT = '''\
class Account:
    """What somebody has at the bank."""

    def __init__(self, owner, balance=0):
        self.owner = owner
        self.balance = balance

    def deposit(self, amount):
        """Add an amount to the balance."""
        if amount < 0:
            raise ValueError
        '''

# Notes down what each step draws.
WATCH = """(function()
  _G.seen = {}
  local set = vim.api.nvim_buf_set_extmark
  vim.api.nvim_buf_set_extmark = function(buf, space, row, col, what)
    if space == vim.api.nvim_get_namespaces()["talaria.steps"] then
      local text = ""
      for _, line in ipairs({ what.virt_text, unpack(what.virt_lines or {}) }) do
        for _, chunk in ipairs(line) do text = text .. chunk[1] end
      end
      table.insert(_G.seen, text)
    end
    return set(buf, space, row, col, what)
  end
  return 1
end)()""".replace("\n", " ")

DRAWN = (
    '#vim.api.nvim_buf_get_extmarks(0, vim.api.nvim_get_namespaces()["talaria.steps"], 0, -1, {})'
)


def test_the_picture_of_the_readme() -> None:
    """A function is written before one's eyes: several screens, masks and text among them."""
    frames = record()
    kept = ROOT / "build" / "e2e" / "neovim" / "denoising.svg"
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(svg(frames), "utf-8")
    screens = [screen for screen, *_ in frames]
    assert len(screens) > 4
    assert any("░" in screen for screen in screens)


@pytest.mark.parametrize(("colours", "grey"), [(256, 244), (88, 8), (16, 8), (8, 7)])
def test_ghost_text_is_grey_without_true_colour(tmp_path: Path, colours: int, grey: int) -> None:
    """In every terminal and after a change of colour scheme; a grey of its own, or yours, stays."""
    script = tmp_path / "greys.lua"
    script.write_text(
        f"""
        local uis = {{ {{ rgb = false, term_colors = {colours} }} }}
        vim.api.nvim_list_uis = function() return uis end
        vim.opt.rtp:append({quoted(str(PLUGIN))})
        require("talaria").setup({{ cmd = {{ "true" }} }})
        local function greys()
          return vim.tbl_map(function(name)
            return vim.api.nvim_get_hl(0, {{ name = name, link = false }}).ctermfg
          end, {{ "TalariaGhost", "TalariaMask", "TalariaStep" }})
        end
        local found = {{ greys() }}
        for _, scheme in ipairs({{ "habamax", "default" }}) do
          vim.cmd.colorscheme(scheme)
          table.insert(found, greys())
        end
        vim.cmd("highlight TalariaGhost ctermfg=5")
        vim.api.nvim_exec_autocmds("UIEnter", {{}})
        print(vim.json.encode({{ found, greys()[1] }}))
        """,
        "utf-8",
    )
    told = subprocess.run(
        [str(editor()), "--headless", "-u", "NONE", "-l", str(script)],
        capture_output=True,
        text=True,
        check=True,
    )
    (first, scheme, again), mine = json.loads(told.stdout + told.stderr)
    assert first == again == [grey] * 3
    assert scheme != first
    assert None not in scheme
    assert mine == 5
