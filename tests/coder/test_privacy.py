"""Secret, ignored, excluded and outside files are neither read nor shown."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from talaria.coder.errors import UsageError
from talaria.coder.privacy import Fence, read, secret_name, without_secrets
from tests.pace import within

# Put together here, so that no scanner of this repository takes them for real.
KEY = "-----BEGIN RSA PRIVATE " + "KEY-----\nMIIEpAIBAAKCAQEA7\nq2Zx\n-----END RSA PRIVATE KEY-----"
SECRET_LINES = [
    'password = "correct horse battery"',
    'DB_PASSWORD: str = "hunter2hunter2"',
    'config["api_key"] = "0123456789ab"',
    '    {"client_secret": "abcdefgh1234", "x": 1}',
    'connect(user, password="hunter2-hunter2")',
    'os.environ.setdefault("API_TOKEN", "abcd1234efgh")',
    'access_key=b"1234567890abcdef"',
    'secret_key = """1234567890abcdef',
    "# password: hunter2hunter2",
    'x = "AKIA' + 'IOSFODNN7EXAMPLE"',
    "x = 'ghp_" + "0123456789abcdefghij0123456789abcdef'",
    "client = Client('sk-" + "proj-0123456789abcdefghij')",
    'x = "xoxb-' + '123456789012-abcdefghij"',
    'x = "AIza' + 'SyA0123456789abcdefghijklmnopqrstuv"',
    'x = "eyJhbGciOiJIUzI1NiJ9.' + 'eyJzdWIiOiIxMjM0NTY3ODkwIn0.abc"',
    'x = {"Authorization": "Bearer ' + 'abcdefghijklmnopqrstuvwxyz"}',
    'url = "postgres://someone:some-word@example.org/db"',
    'x = "wJalrXUtnFEMI/K7MDENG/bPxRfiCY' + '0123456789"',
    "x = [" + "1, " * 1000 + "]",
]
PLAIN_LINES = [
    "token = tokens[0]",
    'def login(user="", password="", account=""):',
    'password = getpass("Password: ")',
    'kind = "token"',
    "class Tokenizer:",
    '    """The text of a token: a string."""',
    'tokens: Int[Tensor, "batch block"]',
    '"tokens_per_forward": round(value, 3),',
    "if password == other_password:",
    'SECRET = os.environ["SECRET_NAME_OF_IT"]',
    'url = "https://example.org/a:b"',
    "def test_that_a_long_name_with_2_digits_and_JSON_in_it_stays_34(): ...",
    "class ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789: ...",
]


def files(top: Path, texts: dict[str, str]) -> None:
    """Write files of a workspace, folders included."""
    for name, text in texts.items():
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


@pytest.mark.parametrize("line", SECRET_LINES)
def test_secret_lines_are_emptied(line: str) -> None:
    """Only those, so that line numbers stay."""
    assert without_secrets(f"a = 1\n{line}\nb = 2\n") == "a = 1\n\nb = 2\n"


@pytest.mark.parametrize("line", PLAIN_LINES)
def test_plain_lines_stay(line: str) -> None:
    """Code mentions tokens and passwords without revealing any."""
    assert without_secrets(f"a = 1\n{line}\nb = 2\n") == f"a = 1\n{line}\nb = 2\n"


def test_secrets_of_several_lines() -> None:
    """A key block, even without an end, and a literal on the line after its name."""
    assert without_secrets(f'a\nKEY = """{KEY}"""\nb\n') == "a\n\n\n\n\nb\n"
    assert without_secrets("a\n" + KEY.partition("-----END")[0]) == "a\n\n\n\n"
    assert without_secrets('a\npassword = (\n    "hunter2hunter2"\n)\n') == "a\n\n\n)\n"


@given(st.lists(st.sampled_from(SECRET_LINES + PLAIN_LINES), max_size=8))
def test_lines_are_independent(lines: list[str]) -> None:
    """Secrets go whatever surrounds them, and the number of lines stays."""
    cleaned = without_secrets("\n".join(lines)).split("\n")
    assert len(cleaned) == max(1, len(lines))
    assert not set(cleaned) & set(SECRET_LINES)


@given(st.text(max_size=300))
def test_any_text_keeps_its_lines(text: str) -> None:
    """The number of lines never changes, and cleaning is idempotent."""
    cleaned = without_secrets(text)
    assert cleaned.count("\n") == text.count("\n")
    assert without_secrets(cleaned) == cleaned


@pytest.mark.parametrize(
    "unit",
    [
        "a",
        "A1",
        "password,",
        "token: ",
        "'",
        "'a1B",
        "#",
        "-----BEGIN ",
        "eyJ-",
        "sk-",
        "://a:",
        " ",
    ],
)
def test_cleaning_takes_linear_time(unit: str) -> None:
    """No text causes backtracking."""
    with within(10):
        without_secrets(unit * (200_000 // len(unit)))
        without_secrets((unit * (1_900 // len(unit)) + "\n") * 100)


@pytest.mark.parametrize(
    "name",
    [
        *(".env", ".env.local", "prod.env", "server.pem", "server.KEY", "id_rsa", "id_ed25519.pub"),
        *(".netrc", ".npmrc", ".pypirc", "credentials", "credentials.json", "my_secrets.py"),
        *(".aws/config", ".ssh/config", ".gnupg/x", "secrets/a.txt", "store.jks", "x.kdbx"),
        *("a.tfstate", ".git-credentials", ".bash_history", "service-account-1.json"),
    ],
)
def test_secret_names(name: str) -> None:
    """Files with such names are not read, wherever they are."""
    assert secret_name(Path("/home/someone/work") / name)


@pytest.mark.parametrize(
    "name",
    [
        *("id_of_things.py", "tokens.py", "keys.py", "environment.py", "password.py", "aws/x.py"),
        *("secretary.py", "credentials_provider.py", "secret_santa.py", "v1_secret_list.pyi"),
        *("validate_passwords_policy.py", "kubeconfig.py", "secretariat.json", "secretion/a.txt"),
        *("airflow/secrets/local_filesystem.py", "keyrings/alt/file.py", "gcloud/client.py"),
        *("google/cloud/secretmanager/types.py", "keychains/a.pyx"),
    ],
)
def test_plain_names(name: str) -> None:
    """Modules about such things are ordinary, and so are words that only contain one."""
    path = Path("/home/someone/work") / name
    assert secret_name(path) is None
    assert Fence([Path("/home/someone/work")]).fillable(path)


@pytest.mark.parametrize(
    "name", ["secrets/a.yaml", "keyrings/login.keyring", ".secrets/a.py", "my-secret-keys/a.py"]
)
def test_what_is_no_package_is_a_folder_of_secrets(name: str) -> None:
    """Data in it, and modules that nobody could import from there."""
    assert not Fence([Path("/work")]).fillable(Path("/work") / name)


@pytest.mark.parametrize("name", ["secrets.py", "credentials.py", "my_secrets_prod.py"])
def test_a_module_that_may_hold_secrets_is_judged_by_its_contents(
    tmp_path: Path, name: str
) -> None:
    """Code that the user opened is code; values, an empty file and one that is not there stay
    hidden. For other files, the name is enough.
    """
    path = tmp_path / name
    fence = Fence([tmp_path])
    assert not fence.fillable(path)
    code = (
        "class Credentials:\n    def refresh(self, request):\n        raise NotImplementedError\n"
    )
    for text, allowed in {
        "": False,
        "DEBUG = True\n": False,
        code: True,
        code + SECRET_LINES[0] + "\n": False,
    }.items():
        path.write_text(text, encoding="utf-8")
        assert fence.fillable(path) == allowed, text
        assert not fence.readable(path)


def test_what_is_withheld_says_why(tmp_path: Path) -> None:
    """The reason names what is to blame."""
    fence = Fence([tmp_path], ["*_pb2.py"])
    assert fence.withheld(tmp_path / "a.py") is None
    for name, why in {
        "prod.env": "the name 'prod.env' suggests secrets",
        ".aws/config": "the name '.aws' suggests secrets",
        "Our-Secrets/a.py": "the name 'Our-Secrets' suggests secrets",
        "a_pb2.py": "the option exclude matches it",
    }.items():
        assert fence.withheld(tmp_path / name) == why


def test_ignored_files_are_not_readable(tmp_path: Path) -> None:
    """Every .gitignore counts, deeper ones first; an ignored folder is ignored whole."""
    files(
        tmp_path,
        {
            ".git/HEAD": "",
            ".git/info/exclude": "mine.py\n",
            ".gitignore": "*.log\nbuild/\n/only_top.py\n!\nlocal_*.py\n# no\n",
            "pkg/.gitignore": "!local_kept.py\ndeep.py\n",
        },
    )
    expected = {
        "a.py": True,
        "a.log": False,
        "build/a.py": False,
        "pkg/build/x/a.py": False,
        "only_top.py": False,
        "pkg/only_top.py": True,
        "local_a.py": False,
        "local_kept.py": False,
        "pkg/local_kept.py": True,
        "pkg/sub/deep.py": False,
        "deep.py": True,
        "pkg/mine.py": False,
        ".git/hooks/a.py": False,
    }
    fence = Fence([tmp_path])
    assert {name: fence.readable(tmp_path / name) for name in expected} == expected


def test_the_rules_are_those_of_git(tmp_path: Path) -> None:
    """The fence agrees with git about every file."""
    names = ["a.py", "b/a.py", "b/c/a.py", "b/c/d.py", "x y.py", "b/!a.py", "é/a.py", "b/c/e/f.py"]
    rules = "*.py\n!/b/\n!a.py\nc/*\n!c/d.py\n/b/c/e\n\\!a.py\nx\\ y.py\n**/f.py\n"
    files(
        tmp_path, {".gitignore": rules, "b/.gitignore": "!x*\nc/d.py\n"} | dict.fromkeys(names, "")
    )
    try:
        subprocess.run(["git", "init", "-q", tmp_path], check=True)
    except OSError:
        pytest.skip("git is not installed")
    done = subprocess.run(
        ["git", "-C", tmp_path, "check-ignore", "--no-index", "-z", "--stdin"],
        input="\0".join(names),
        capture_output=True,
        text=True,
        check=False,
    )
    fence = Fence([tmp_path])
    ignored = {name for name in names if not fence.readable(tmp_path / name)}
    assert ignored
    assert ignored == set(done.stdout.split("\0")) - {""}


def test_rules_of_the_repository_above_the_root_count(tmp_path: Path) -> None:
    """A root may be a part of a repository."""
    files(tmp_path, {".git/HEAD": "", ".gitignore": "generated.py\n", "part/a.py": ""})
    fence = Fence([tmp_path / "part"])
    assert fence.readable(tmp_path / "part/a.py")
    assert not fence.readable(tmp_path / "part/generated.py")


def test_rules_that_change_are_read_again(tmp_path: Path) -> None:
    """A file is forbidden as soon as it is ignored."""
    files(tmp_path, {"a.py": "", ".gitignore": "b.py\n"})
    fence = Fence([tmp_path])
    assert fence.readable(tmp_path / "a.py")
    files(tmp_path, {".gitignore": "b.py\na.py\n"})
    assert not fence.readable(tmp_path / "a.py")


def test_excluded_files_are_neither_read_nor_filled(tmp_path: Path) -> None:
    """Patterns follow .gitignore and are relative to each root."""
    exclude = ["private/", "*_pb2.py", "/top.py", "!kept_pb2.py"]
    fence = Fence([tmp_path / "one", tmp_path / "two"], exclude)
    for name, allowed in {
        "one/a.py": True,
        "one/private/a.py": False,
        "two/x/private/a.py": False,
        "two/a_pb2.py": False,
        "two/kept_pb2.py": True,
        "one/top.py": False,
        "one/x/top.py": True,
    }.items():
        assert fence.readable(tmp_path / name) == allowed, name
        assert fence.fillable(tmp_path / name) == allowed, name
        assert Fence(fence.roots, exclude).readable(tmp_path / name) == allowed, name


def test_an_ignored_file_that_the_user_opened_may_be_filled(tmp_path: Path) -> None:
    """Even outside a workspace; secret files may not."""
    files(tmp_path, {".gitignore": "scratch.py\n"})
    fence = Fence([tmp_path], ["*_pb2.py"])
    assert fence.fillable(tmp_path / "scratch.py")
    assert fence.fillable(tmp_path.parent / "elsewhere.py")
    assert not fence.fillable(tmp_path.parent / "elsewhere_pb2.py")
    assert not fence.fillable(tmp_path / ".env")
    assert not fence.fillable(tmp_path / "my-secret-things" / "a.py")
    assert not fence.fillable(tmp_path.parent / "id_rsa")


def test_nothing_outside_is_readable(tmp_path: Path) -> None:
    """Neither by dots nor by links; both ends of a link count."""
    files(
        tmp_path,
        {"out/a.py": "", "in/a.py": "", "in/.gitignore": "i.py", "in/i.py": "", "in/.env": ""},
    )
    root = tmp_path / "in"
    links = {"out.py": "../out/a.py", "env.py": ".env", "same.py": "a.py", "ign.py": "i.py"}
    try:
        for name, target in links.items():
            (root / name).symlink_to(target)
        (root / "folder").symlink_to("../out", target_is_directory=True)
        (root / "loop.py").symlink_to("loop.py")
        (tmp_path / "in2").symlink_to(root, target_is_directory=True)
    except OSError:
        pytest.skip("no links here")
    fence = Fence([root])
    assert fence.readable(root / "a.py")
    assert fence.readable(root / "same.py")
    for name in ("../out/a.py", "out.py", "env.py", "ign.py", "folder/a.py"):
        assert not fence.readable(root / name), name
    assert read(root / "loop.py") is None
    # A root that is a link itself, and a file named through it or not.
    through = Fence([tmp_path / "in2"])
    assert through.readable(tmp_path / "in2" / "a.py")
    assert through.name(tmp_path / "in2" / "a.py") == through.name(root / "a.py") == "a.py"


def test_no_root_means_nothing_to_read(tmp_path: Path) -> None:
    """A single open file has no neighbours."""
    assert not Fence([]).readable(tmp_path / "a.py")


def test_an_invalid_pattern_is_a_usage_error(tmp_path: Path) -> None:
    """It must not be mistaken for one that excludes nothing."""
    with pytest.raises(UsageError, match=r"exclude has .*write patterns as in \.gitignore"):
        Fence([tmp_path], ["!"])


def test_only_small_texts_are_read(tmp_path: Path) -> None:
    """No folders, pipes, binary, huge or non-UTF-8 files; line endings and BOM are removed."""
    (tmp_path / "a.py").write_bytes(b"\xef\xbb\xbfa\r\nb\rc\n")
    (tmp_path / "binary.py").write_bytes(b"a\0b")
    (tmp_path / "latin.py").write_bytes(b"\xe9")
    (tmp_path / "huge.py").write_bytes(b"a" * 300_000)
    assert read(tmp_path / "a.py") == "a\nb\nc\n"
    names = ["binary.py", "latin.py", "huge.py", ".", "none.py", "a\0b.py", "n" * 5000]
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.py")
        names.append("pipe.py")
    assert [read(tmp_path / name) for name in names] == [None] * len(names)


def test_strange_paths_are_not_readable(tmp_path: Path) -> None:
    """And raise no error."""
    fence = Fence([tmp_path])
    for name in ("a\0b.py", "n" * 5000, "x/" * 2000 + "a.py", "\udc80.py"):
        fence.readable(tmp_path / name)
        fence.fillable(tmp_path / name)
    assert not fence.readable(Path("/"))
