"""Options from files: which file is read, what comes first, and what is wrong with a value."""

from __future__ import annotations

from pathlib import Path

import pytest

from talaria.coder import preferences
from talaria.coder.errors import UsageError
from talaria.coder.infill_command import arguments

pytestmark = pytest.mark.usefixtures("user")


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's file, not yet written."""
    path = tmp_path / "config.toml"
    monkeypatch.setenv("TALARIA_CONFIG", str(path))
    monkeypatch.delenv("TALARIA_DAEMON", raising=False)
    return path


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with a file two folders down."""
    path = tmp_path / "project" / "src" / "a.py"
    path.parent.mkdir(parents=True)
    (tmp_path / "project" / "pyproject.toml").write_text(
        '[project]\nname = "x"\n[tool.talaria]\nuntil = "line"\nseed = 3\n'
    )
    return path


def test_what_comes_first(
    user: Path, project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is typed, the environment, the project, the user, the default."""
    user.write_text("seed = 2\nuntil = 'block'\nmax_tokens = 9\ncheck_syntax = false\ndaemon = 5\n")
    args = arguments([f"{project}:1:0"])
    assert (args.seed, args.until, args.max_tokens) == (3, "line", 9)
    assert (args.check_syntax, args.daemon, args.candidates) == (False, 5, 1)
    monkeypatch.setenv("TALARIA_DAEMON", "0")
    args = arguments([f"{project}:1:0", "--seed", "4"])
    assert (args.seed, args.until, args.daemon) == (4, "line", 0)
    assert arguments([f"{project}:1:0", "--daemon", "7"]).daemon == 7
    assert capsys.readouterr() == ("", "")


def test_the_nearest_table_counts(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the file, whatever the current folder is; for standard input, above that."""
    inner = project.parent / "pyproject.toml"
    inner.write_text("[tool.other]\n")
    assert preferences.project_file(project) == project.parent.parent / "pyproject.toml"
    inner.write_text("[tool.talaria]\nseed = 5\n")
    assert arguments([f"{project}::f"]).seed == 5
    assert arguments([f"{project.parent}/b.ipynb#3:1:0"]).seed == 5
    assert arguments(["-"]).seed == 0
    monkeypatch.chdir(project.parent)
    assert arguments(["-"]).seed == 5
    inner.write_text("[[[")  # broken for reasons of its own
    assert arguments(["-"]).seed == 3


def test_what_is_typed_is_not_at_odds_with_a_preference(user: Path) -> None:
    """A mode that does not fit gives way; speed that another mode does not have is left out."""
    user.write_text("mode = 'verify'\nconfidence_threshold = 0.4\n")
    assert arguments(["-"]).mode == "verify"
    assert arguments(["-"]).confidence_threshold is None
    assert arguments(["-", "--candidates", "3"]).mode is None
    assert arguments(["-", "--temperature", "1"]).mode is None
    assert arguments(["-", "--mode", "diffuse"]).confidence_threshold == 0.4
    with pytest.raises(UsageError, match="--confidence-threshold would change nothing in --mode v"):
        arguments(["-", "--confidence-threshold", "0.3"])
    assert arguments(["-", "--lookahead", "3"]).lookahead == 3  # masks behind a draft


def test_an_adapter_comes_before_a_model_that_is_not_typed(
    user: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And gives way to one that is."""
    asked = []

    def adapter(folder: str, model: str | None) -> Path:
        asked.append((folder, model))
        return Path(folder)

    monkeypatch.setattr("talaria.coder.checkpoint.adapter", adapter)
    assert arguments(["-", "--adapter", "mine"]).model == "mine"
    assert arguments(["-", "--adapter", "mine", "--model", "x"]).model == "mine"
    user.write_text("adapter = 'runs/model'\nmodel = 'talaria-7m'\n")
    assert arguments(["-"]).model == str(user.parent / "runs/model")
    assert arguments(["-", "--model", "x"]).model == "x"
    assert asked == [("mine", None), ("mine", "x"), (str(user.parent / "runs/model"), None)]


def test_a_folder_is_meant_as_seen_from_the_file(user: Path) -> None:
    """A name is a name."""
    user.write_text("model = 'runs/model'\n")
    assert arguments(["-"]).model == str(user.parent / "runs/model")
    user.write_text("model = 'talaria-7m'\n")
    assert arguments(["-"]).model == "talaria-7m"


def test_unknown_keys_are_one_line(user: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With those that are known, which are not what one call is about; the rest holds."""
    user.write_text("modle = 'x'\nseed = 2\nwrite = true\n")
    assert arguments(["-"]).seed == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert f"talaria: {user}: unknown key 'modle' is ignored; known are adapter, " in lines[0]
    assert "'write'" in lines[1]


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("seed = 'x'", "a whole number between 0 and"),
        ("max_tokens = 0", "a whole number between 1 and"),
        ("candidates = true", "a whole number between 1 and 64"),
        ("confidence_threshold = 2", "a number between 0 and 1"),
        ("mode = 'fast'", "one of diffuse, verify, ar"),
        ("check_syntax = 1", "true or false"),
        ("quiet = 'yes'", "true or false"),
        ("model = 1", "a text"),
        ("daemon = -1", "at least 0"),
        ("until = []", "one of line, statement, block"),
    ],
)
def test_values_that_cannot_be_used(user: Path, line: str, wanted: str) -> None:
    """One line with the file, the value and what it must be."""
    user.write_text(line)
    with pytest.raises(UsageError, match=wanted) as caught:
        arguments(["-"])
    assert str(caught.value).startswith(f"{user}: {line.split()[0]} is ")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_toml(user: Path) -> None:
    """The user's own is named; a link that leads nowhere is no file."""
    user.write_text("seed = ")
    with pytest.raises(UsageError, match="not TOML"):
        arguments(["-"])
    user.unlink()
    user.symlink_to(user.parent / "nothing")
    assert arguments(["-"]).seed == 0


@pytest.mark.parametrize(
    ("system", "environ", "path"),
    [
        ("linux", {"XDG_CONFIG_HOME": "/x"}, "/x/talaria/config.toml"),
        ("linux", {"XDG_CONFIG_HOME": "x"}, "~/.config/talaria/config.toml"),
        ("darwin", {}, "~/Library/Application Support/talaria/config.toml"),
        ("win32", {"APPDATA": "/roaming"}, "/roaming/talaria/config.toml"),
        ("win32", {}, "~/AppData/Roaming/talaria/config.toml"),
        ("win32", {"TALARIA_CONFIG": "/a.toml"}, "/a.toml"),
    ],
)
def test_where_the_users_file_lies(system: str, environ: dict[str, str], path: str) -> None:
    """By the customs of each system."""
    assert preferences.user_file(environ, system) == Path(path).expanduser()


def test_sizes_in_a_file(user: Path) -> None:
    """As they would be typed."""
    user.write_text("sizes = '8,16'\n")
    assert arguments(["-"]).sizes == (8, 16)
    assert arguments(["-", "--sizes", "4"]).sizes == (4,)
    for wrong, wanted in (("'8;16'", "a text of the form N,N"), ("8", "a text")):
        user.write_text(f"sizes = {wrong}\n")
        with pytest.raises(UsageError, match=f"sizes is .*it must be {wanted}"):
            arguments(["-"])


def test_a_whole_number_may_have_a_point(user: Path) -> None:
    """As in editors' settings; half of one is refused."""
    user.write_text("max_nfe = 48.0\n")
    found = arguments(["-"]).max_nfe
    assert (found, type(found)) == (48, int)
    user.write_text("max_nfe = 48.5\n")
    with pytest.raises(UsageError, match=r"max_nfe is 48\.5; it must be a whole number"):
        arguments(["-"])
