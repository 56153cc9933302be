"""llama.vim as it is published, in a real Neovim, against `talaria serve`.

The plugin is looked for in TALARIA_LLAMA_VIM, else in ~/.cache/talaria-test/llama.vim:
`git clone https://github.com/ggml-org/llama.vim` there.
"""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import httpx2
import pytest

from talaria.coder.families.talaria import TalariaTokenizer
from tests.coder.serve.serving import serving
from tests.coder.serve.test_command import ended, line, start
from tests.e2e.neovim import lacking, neovim, quoted
from tests.scripted import scripted

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
PLUGIN = Path(os.environ.get("TALARIA_LLAMA_VIM", CACHE / "talaria-test" / "llama.vim"))
SAID = "return first + second"


def missing() -> str | None:
    """What is missing to run this test, with the remedy; None if nothing is."""
    if not (PLUGIN / "plugin" / "llama.vim").is_file():
        return f"no llama.vim in {PLUGIN}. Remedy: clone it there, or set TALARIA_LLAMA_VIM"
    if shutil.which("curl") is None:
        return "no curl, which llama.vim asks by. Remedy: install curl"
    return lacking()


pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))


def begin(url: str) -> str:
    """What starts the plugin in an editor."""
    settings = {
        "endpoint_fim": quoted(f"{url}/infill"),
        "t_max_prompt_ms": "20000",  # a busy machine must not decide
        "show_info": "0",
    }
    config = ", ".join(f"{name} = {value}" for name, value in settings.items())
    return (
        f"vim.g.llama_config = {{ {config} }}\n"
        f"vim.opt.rtp:append({quoted(str(PLUGIN))})\nvim.o.swapfile = false\n"
    )


def test_llama_vim_shows_and_accepts_a_completion(
    tokenizer: TalariaTokenizer, tmp_path: Path
) -> None:
    """Its ghost text is what the server said, and Tab puts it into the text."""
    path = tmp_path / "add.py"
    path.write_text("def add(first, second):\n\n\nprint(add(1, 2))\n", "utf-8")
    with (
        # On a blank line the plugin asks for all of it, and shows what lies behind its blanks.
        serving(lambda: scripted(tokenizer, [f"    {SAID}"])) as server,
        neovim(tmp_path / "editor", "llama-vim", begin(server.url), path) as editor,
    ):
        editor.keys("jA")
        editor.type("    ", 0.2)
        editor.until(lambda: SAID in editor.screen(), "the ghost text")
        editor.keep("shown")
        assert SAID not in editor.text()
        editor.keys("<Tab>")
        editor.until(lambda: f"\n    {SAID}\n" in editor.text(), "the accepted text")
        assert server.value("talaria_requests_total", format="/infill", status="200") >= 1
        assert server.value("talaria_requests_total", format="/infill", status="400") == 0


def test_a_server_that_is_killed_while_it_owes_an_answer(tmp_path: Path) -> None:
    """What is typed is there, the editor stays usable, and the next server answers it."""
    path = tmp_path / "add.py"
    path.write_text("def add(first, second):\n\n\nprint(add(1, 2))\n", "utf-8")
    process, url = start("--model", "talaria-7m")
    port = int(url.rpartition(":")[2])
    try:
        assert "answers" in line(process)
        with neovim(tmp_path / "editor", "llama-vim-killed", begin(url), path) as editor:
            process.send_signal(signal.SIGSTOP)  # so that it cannot answer before it is killed
            editor.keys("jA")
            editor.type("    ret", 0.2)
            editor.until(lambda: asked(port), "a request under way")
            process.kill()
            ended(process)
            editor.type("urn first", 0.05)
            editor.until(lambda: "\n    return first\n" in editor.text(), "what was typed")
            process, _ = start("--model", "talaria-7m", "--port", str(port))
            assert "answers" in line(process)
            editor.type(" + ", 0.2)
            editor.until(lambda: answered(url), "an answer of the next server")
            editor.keys("<Esc>")
            editor.run("write")
        assert path.read_text("utf-8").startswith("def add(first, second):\n    return first +")
    finally:
        process.kill()
        ended(process)


def asked(port: int) -> bool:
    """Whether somebody is connected to a port of this machine."""
    rows = [row.split() for row in Path("/proc/net/tcp").read_text("ascii").split("\n")[1:] if row]
    established, peers = "01", [(row[2].rpartition(":")[2], row[3]) for row in rows]
    return (f"{port:04X}", established) in peers


def answered(url: str) -> bool:
    """Whether a server has answered a completion."""
    metrics = httpx2.get(f"{url}/metrics", trust_env=False).text
    return 'talaria_requests_total{format="/infill",status="200"}' in metrics
