"""llama.vim as it is published, in a real Neovim, against `talaria serve`.

The plugin is looked for in TALARIA_LLAMA_VIM, else in ~/.cache/talaria-test/llama.vim:
`git clone https://github.com/ggml-org/llama.vim` there.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from talaria.coder.families.talaria import TalariaTokenizer
from tests.coder.serve.serving import serving
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


def test_llama_vim_shows_and_accepts_a_completion(
    tokenizer: TalariaTokenizer, tmp_path: Path
) -> None:
    """Its ghost text is what the server said, and Tab puts it into the text."""
    path = tmp_path / "add.py"
    path.write_text("def add(first, second):\n\n\nprint(add(1, 2))\n", "utf-8")
    with serving(lambda: scripted(tokenizer, [SAID])) as server:
        settings = {
            "endpoint_fim": quoted(f"{server.url}/infill"),
            "t_max_prompt_ms": "20000",  # a busy machine must not decide
            "show_info": "0",
        }
        config = ", ".join(f"{name} = {value}" for name, value in settings.items())
        init = (
            f"vim.g.llama_config = {{ {config} }}\n"
            f"vim.opt.rtp:append({quoted(str(PLUGIN))})\nvim.o.swapfile = false\n"
        )
        with neovim(tmp_path / "editor", "llama-vim", init, path) as editor:
            editor.keys("jA")
            editor.type("    ", 0.2)
            editor.until(lambda: SAID in editor.screen(), "the ghost text")
            editor.keep("shown")
            assert SAID not in editor.text()
            editor.keys("<Tab>")
            editor.until(lambda: f"\n    {SAID}\n" in editor.text(), "the accepted text")
        assert server.value("talaria_requests_total", format="/infill", status="200") >= 1
        assert server.value("talaria_requests_total", format="/infill", status="400") == 0
