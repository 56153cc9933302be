"""A repository becomes an adapter; what no model must see stays out of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from talaria.coder import checkpoint, files
from talaria.coder.errors import UsageError
from talaria.coder.families.talaria import TalariaTokenizer
from talaria.finetune import repository
from talaria.finetune.corpus import read_corpus
from talaria.finetune.repository import by_files, gather
from tests.coder.test_qwen2_gguf import write_gguf

SHAPE = ["--rank", "2", "--masks", "2", "--canvases", "4", "--length", "96", "--longest", "40"]
SHAPE += ["--units", "8", "--steps", "2"]


def source(number: int) -> str:
    """A module unlike the others."""
    names = [f"value_{number}_{place}" for place in range(6)]
    lines = (f"def {name}(items):\n    return [{name}, len(items), {number}]\n" for name in names)
    return "\n\n".join(lines)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository of twelve modules, and files that are left out."""
    root = tmp_path / "project"
    (root / ".git").mkdir(parents=True)
    (root / "package").mkdir()
    for number in range(12):
        (root / "package" / f"module_{number}.py").write_text(source(number))
    (root / "package" / "keys.py").write_text(
        source(20) + '\n\nAPI_KEY = "0123456789' + 'abcdefghij"\n'
    )
    (root / ".gitignore").write_text("local.py\n")
    (root / "local.py").write_text(source(30))
    (root / "secrets.py").write_text(source(31))
    (root / "excluded.py").write_text(source(32))
    (root / "generated.py").write_text("# Automatically generated\n" + source(33))
    (root / "binary.py").write_bytes(b"x = 1\0" * 100)
    (root / "venv" / "lib").mkdir(parents=True)
    (root / "venv" / "pyvenv.cfg").write_text("")
    (root / "venv" / "lib" / "other.py").write_text(source(34))
    return root


def test_what_no_model_must_see_is_left_out(root: Path) -> None:
    """Ignored, secret-looking and excluded files, and secret-looking lines of the others."""
    found = gather(root, ["excluded.py"])
    documents = [*found.splits["train"], *found.splits["valid"]]
    wanted = {f"package/module_{number}.py" for number in range(12)} | {"package/keys.py"}
    assert {document.path for document in documents} == wanted
    assert not any("0123456789" in document.text for document in documents)
    assert found.dropped == {"private or ignored": 3, "generated": 1, "too long, or no text": 1}


def test_a_tenth_of_the_files_is_held_out(root: Path) -> None:
    """Always the same ones; what copies from them is not learnt from."""
    first, second = gather(root), gather(root)
    assert first == second
    assert (len(first.splits["valid"]), len(first.splits["train"])) == (1, 13)
    (held_out,) = first.splits["valid"]
    (root / "package" / "copied.py").write_text("import os\n\n\n" + held_out.text)
    third = gather(root)
    assert not {each.path for each in third.splits["train"]} & {
        each.path for each in third.splits["valid"]
    }
    assert third.dropped["near a held-out file"] == 1


def test_three_files_are_too_few(tmp_path: Path) -> None:
    """The message counts them, and says why others were left out."""
    for number in range(3):
        (tmp_path / f"{number}.py").write_text(source(number))
    (tmp_path / "short.py").write_text("x = 1\n")
    with pytest.raises(UsageError, match=r"has 3 Python files .*1 too short.* at least 10"):
        gather(tmp_path)
    with pytest.raises(UsageError, match="is no folder"):
        gather(tmp_path / "short.py")


@pytest.fixture
def model(tmp_path: Path, tokenizer: TalariaTokenizer, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny base without an adapter, fetched."""
    home = tmp_path / "home"
    (home / "bases").mkdir(parents=True)
    monkeypatch.setenv("TALARIA_HOME", str(home))
    write_gguf(tmp_path / "base.gguf", tokenizer)
    digest = files.digest(tmp_path / "base.gguf")
    shutil.move(tmp_path / "base.gguf", home / "bases" / f"{digest}.gguf")
    folder = tmp_path / "tiny"
    folder.mkdir()
    config = {
        "format_version": checkpoint.FORMAT_VERSION,
        "family": "qwen2",
        "parameters": 1,
        "base": {"name": "tiny", "sha256": digest},
        "sha256": {},
        "decoding": {"working_context": 96, "max_tokens": 24},
    }
    (folder / checkpoint.CONFIG).write_text(json.dumps(config))
    return folder


def test_the_command(
    root: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It leaves an adapter and figures; a second one stacks on the first, with its shape."""
    out = tmp_path / "out"
    argv = [str(root), "--model", str(model), "--out", str(out), "--cursors", "3", *SHAPE]
    assert repository.main(argv) == 0
    printed = capsys.readouterr().out
    assert "13 files to learn from, 1 held out" in printed
    assert "exact at 3 held-out line ends: " in printed
    figures = json.loads((out / repository.FIGURES).read_text())
    assert (figures["cursors"], figures["files"], figures["error"]) == (3, 1, None)
    assert figures["difference"] == pytest.approx((figures["after"] - figures["before"]) / 3)
    assert len(read_corpus(out / "corpus", "valid")) == 1
    corpus = (out / "corpus" / "manifest.json").read_bytes()
    with pytest.raises(UsageError, match="holds a run"):
        repository.main(argv)
    assert (out / "corpus" / "manifest.json").read_bytes() == corpus
    assert repository.main([*argv, "--resume"]) == 0  # nothing is left to do but to compare
    with pytest.raises(UsageError, match=r"made with exclude \[\], not \['own.py'\]; resume with"):
        repository.main([*argv, "--resume", "--exclude", "own.py"])
    with pytest.raises(UsageError, match=r"made with repository .*, not 'elsewhere'"):
        repository.main([str(tmp_path / "elsewhere"), *argv[1:], "--resume"])

    more = tmp_path / "more"
    first = str(out / "model")
    shape = [*SHAPE[SHAPE.index("--canvases") : SHAPE.index("--units")], "--steps", "1"]
    stacked = [str(root), "--model", first, "--out", str(more), "--cursors", "0", *shape]
    assert repository.main(stacked) == 0
    training = checkpoint.read_config(more / "model")["training"]
    assert training["init"] == checkpoint.weights_hash(checkpoint.read_config(out / "model"))
    assert (training["recipe"]["rank"], training["recipe"]["masks"]) == (2, 2)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--model", "talaria-7m"], "talaria-7m has no base to adapt"),
        (["--cursors", "1"], "--cursors is 1"),
        (["--rank", "0"], "--rank is 0"),
    ],
)
def test_wrong_options(
    root: Path, model: Path, tmp_path: Path, more: list[str], sentence: str
) -> None:
    """Nothing is written."""
    out = tmp_path / "out"
    with pytest.raises(UsageError, match=sentence):
        repository.main([str(root), "--model", str(model), "--out", str(out), *more])
    assert not out.exists()


def test_the_error_is_of_files(tmp_path: Path) -> None:
    """Equal values within files count once each; with files of one value it is the usual one."""
    rng = np.random.default_rng(0)
    values = rng.integers(-1, 2, 40).astype(float)
    mean, error = by_files(values.tolist(), [str(number) for number in range(40)])
    assert mean == pytest.approx(values.mean())
    assert error == pytest.approx(values.std(ddof=1) / 40**0.5)
    again = by_files(np.repeat(values, 3).tolist(), [str(n) for n in range(40) for _ in "abc"])
    assert again[0] == pytest.approx(mean)
    assert again[1] == pytest.approx(error)
    assert by_files([1.0, 0.0], ["a", "a"]) == (0.5, None)
