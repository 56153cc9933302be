"""A base is measured as it is, in the modes of a causal model."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from talaria.coder.families.onnx_graph import int8_limit
from talaria.coder.families.talaria import TalariaTokenizer
from talaria.evals import command
from talaria.evals.jsonl import processor, read
from tests.coder.test_qwen2_gguf import adapted, write_gguf
from tests.evals import problems


@pytest.fixture
def base(tmp_path: Path, tokenizer: TalariaTokenizer, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a model that is a tiny random base without an adapter."""
    monkeypatch.setenv("TALARIA_HOME", str(tmp_path))
    write_gguf(tmp_path / "base.gguf", tokenizer)
    digest = hashlib.sha256((tmp_path / "base.gguf").read_bytes()).hexdigest()
    (tmp_path / "bases").mkdir()
    (tmp_path / "base.gguf").rename(tmp_path / "bases" / f"{digest}.gguf")
    adapted(tmp_path / "models" / "tiny", digest)
    return "tiny"


def test_both_modes_write_the_same(
    base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The report names model, base, mode and bound; `verify` is what a base does by default."""
    path = problems.write(tmp_path / "holes.jsonl", problems.HOLES)
    words = ["run", "infill-single-line", "--data", str(path), "--any-data", "--model", base]
    words += ["--until", "line", "--max-tokens", "6", "--workers", "1"]
    texts = {}
    for mode in ("ar", "verify"):
        out = tmp_path / mode
        chosen = ["--mode", "ar"] if mode == "ar" else []
        assert command.main([*words, *chosen, "--out", str(out)]) == 0
        shown = capsys.readouterr().out
        assert shown.startswith(f"infill-single-line, tiny, {mode}, until line")
        assert "the base tiny " in shown
        head, rows, _ = read(out / "results.jsonl")
        assert head["model"]["base"]["name"] == "tiny"
        assert head["rounding"] == {"int8_limit": int8_limit(), "processor": processor()}
        assert f", 8-bit weights up to {int8_limit()}\n" in shown
        assert all(row["text"].endswith("\n") for row in rows)
        texts[mode] = [row["text"] for row in rows]
    assert texts["ar"] == texts["verify"]


def test_times_of_a_causal_model(
    base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`verify` is compared with `ar`, where another model denoises."""
    words = ["latency", "--model", base, "--contexts", "16", "--prompts", "1", "--rounds", "1"]
    words += ["--starts", "1", "--max-tokens", "4", "--out", str(tmp_path / "out")]
    assert command.main(words) == 0
    text = capsys.readouterr().out
    assert "a request took verify " in text
    assert "threshold" not in text.partition("options mode")[0]
