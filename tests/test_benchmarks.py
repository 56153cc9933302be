"""The scripts of `benchmarks/`, in small: they run, and their figures hang together."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from benchmarks import decoding, examples, soak
from benchmarks.decoding import KINDS, Turn, choice, compared
from coder.checkpoint import Decoding
from coder.errors import DataError, UsageError


def test_a_short_soak(capsys: pytest.CaptureFixture[str], model_folder: Path) -> None:
    """Twenty looks at the memory; every request is counted, those given up apart."""
    assert soak.main(["--requests", "60", "--model", str(model_folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [point["requests"] for point in found["points"]] == list(range(3, 61, 3))
    assert 0 < found["points"][0]["bytes"] <= found["peak_bytes"]
    counted = found["engine"]
    assert counted["requests"] == 60
    assert counted["failed"] == 0
    assert counted["answered"] + counted["cancelled"] == 60


def test_too_short_a_soak() -> None:
    """Has no twenty parts."""
    with pytest.raises(UsageError, match="--requests is 3; it must be at least 20"):
        soak.main(["--requests", "3"])


def test_the_fastest_setting_that_loses_little_is_chosen() -> None:
    """A quarter of a point may be lost, a seventh of all may not, however fast that is."""
    slow, quick, hasty = Decoding(0.9), Decoding(0.7), Decoding(0.1)
    right = {slow: range(100), quick: range(1, 100), hasty: range(40)}
    turns = [
        Turn(kind, f"{n}", f"file {n}", setting, n in right[setting], 4, 10 * milliseconds, 6)
        for kind in KINDS
        for n in range(400)
        for setting, milliseconds in ((slow, 3), (quick, 2), (hasty, 1))
    ]
    outcomes = compared(turns)
    assert [outcome.lost for outcome in outcomes] == pytest.approx([0, 1 / 400, 60 / 400])
    assert outcomes[0].exact[KINDS[1]]["share"] == 0.25
    assert outcomes[0].tokens_per_forward == 1.5
    assert choice(outcomes) == quick
    rows = decoding.table(outcomes, quick)
    assert [row[-1] for row in rows] == ["", "", "chosen", ""]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (("--seed", "0"), "another seed than 0"),
        (("--thresholds", "2"), "confidence_threshold is 2.0, outside of 0 to 1"),
    ],
)
def test_wrong_options_of_decoding(given: tuple[str, str], reason: str, tmp_path: Path) -> None:
    """Are refused before anything is loaded."""
    with pytest.raises(UsageError, match=reason):
        decoding.main([*given, "--out", str(tmp_path)])


def test_examples_are_picked_by_their_seed_alone() -> None:
    """The three kinds by turns, each a hole in a real file whose text stands whole around it."""
    modules = examples.files()
    found = examples.picked(6, 0, modules)
    assert [place for place, _ in found] == 2 * ["line-end", "line", "function"]
    assert [p.id for _, p in examples.picked(3, 0, modules)] == [p.id for _, p in found[:3]]
    for _, problem in found:
        text = problem.prefix + problem.solution + problem.suffix
        path = problem.id.split(":")[1]
        assert (examples.ROOT / path).read_text("utf-8") == text
    told = examples.told(1, "line", found[1][1], "")
    assert "different" in told
    assert "(nothing)" in told


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_examples_come_from_files_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a commit, whatever became of them since; a commit that there is not is told of."""
    git = ("git", "-c", "user.name=a", "-c", "user.email=a@b.example")
    for package in examples.PACKAGES:
        (tmp_path / package).mkdir()
        (tmp_path / package / "a.py").write_text(f"{package} = 'é'\n")
    (tmp_path / "coder" / "notes.txt").write_text("no module")
    for command in (("init", "-q"), ("add", "."), ("commit", "-q", "-m", "first")):
        subprocess.run([*git, *command], cwd=tmp_path, check=True)
    (tmp_path / "coder" / "a.py").write_text("changed = 1\n")
    monkeypatch.setattr(examples, "ROOT", tmp_path)
    then = {f"{package}/a.py": f"{package} = 'é'\n" for package in sorted(examples.PACKAGES)}
    assert examples.files("HEAD") == then
    assert examples.files() == then | {"coder/a.py": "changed = 1\n"}
    with pytest.raises(DataError, match=r"--at nowhere: .*see git log"):
        examples.files("nowhere")
