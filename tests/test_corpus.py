import gzip
import json
import random
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coder.errors import DataError, UsageError
from finetune import corpus, filters
from finetune.corpus import corpus_hash, main, read_corpus

Run = Callable[..., int]


def module(seed: int, functions: int = 12) -> str:
    """A module unlike that of any other seed."""
    rng = random.Random(seed)

    def word() -> str:
        return "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(7))

    return "\n\n".join(
        f"def {word()}({word()}, {word()}):\n    {word()} = {word()}({word()} + {word()})\n"
        f"    return {word()}.{word()}({word()})"
        for _ in range(functions)
    )


def wheel(
    cache: Path,
    name: str,
    files: dict[str, str | bytes],
    metadata: str = "License-Expression: MIT",
    version: str = "1.0",
) -> Path:
    """Put a wheel with these files into the cache."""
    cache.mkdir(exist_ok=True)
    path = cache / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file, content in files.items():
            archive.writestr(file, content)
        archive.writestr(f"{name}-{version}.dist-info/METADATA", f"Name: {name}\n{metadata}\n")
    return path


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with two packages to train on and one held out, which are all of the list."""
    folder = tmp_path / "wheels"
    entries = (("alpha", "train"), ("beta", "train"), ("gamma", "valid"))
    listing = tmp_path / "packages.toml"
    listing.write_text(
        "\n".join(
            f'[[package]]\nname = "{name}"\nversion = "1.0"\nlicence = "MIT"\nsplit = "{split}"'
            for name, split in entries
        )
    )
    monkeypatch.setattr(corpus, "PACKAGES", listing)
    wheel(folder, "alpha", {f"alpha/m{i}.py": module(i) for i in range(4)})
    wheel(folder, "beta", {f"beta/m{i}.py": module(10 + i) for i in range(3)})
    wheel(folder, "gamma", {f"gamma/m{i}.py": module(20 + i) for i in range(2)})
    return folder


@pytest.fixture
def run(tmp_path: Path, cache: Path) -> Run:
    """`talaria corpus` on that list, into `tmp_path / "corpus"`, in one process."""

    def command(*options: str, out: str = "corpus") -> int:
        argv = ["--packages", "alpha,beta,gamma", "--cache", str(cache), "--jobs", "1"]
        return main([*argv, "--out", str(tmp_path / out), *options])

    return command


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def dropped(folder: Path, package: str) -> dict[str, int]:
    """What the manifest says was dropped of a package."""
    manifest = json.loads((folder / "manifest.json").read_bytes())
    return next(p["dropped"] for p in manifest["packages"] if p["name"] == package)


def no_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every call of pip fail as it does for a version that is not there."""
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\necho 'ERROR: No matching distribution found' >&2\nexit 1\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(script))


def test_whole_packages_go_to_their_split(run: Run, tmp_path: Path) -> None:
    """Each package is in one split with all its files, and the texts come back unchanged."""
    assert run() == 0
    train = read_corpus(tmp_path / "corpus", "train")
    valid = read_corpus(tmp_path / "corpus", "valid")
    assert {d.package for d in train} == {"alpha", "beta"}
    assert {(d.package, d.path) for d in valid} == {("gamma", f"gamma/m{i}.py") for i in (0, 1)}
    assert {d.path: d.text for d in train}["alpha/m2.py"] == module(2)
    assert len(train) == 7


def test_manifest_and_table(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The manifest names source, licence and sizes; the table on standard output sums them up."""
    run()
    manifest = json.loads((tmp_path / "corpus" / "manifest.json").read_bytes())
    alpha = manifest["packages"][0]
    assert alpha["source"] == "alpha-1.0-py3-none-any.whl"
    assert (alpha["licence"], alpha["split"], alpha["files"]) == ("MIT", "train", 4)
    assert alpha["bytes"] == sum(len(module(i)) for i in range(4))
    table = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert table[:3] == [["train", "valid"], ["packages", "2", "1"], ["files", "7", "2"]]


def test_the_same_list_gives_the_same_bytes(run: Run, tmp_path: Path) -> None:
    """One process or two: each file of the corpus is equal byte by byte."""
    run()
    run("--jobs", "2", out="again")
    assert contents(tmp_path / "corpus") == contents(tmp_path / "again")
    assert corpus_hash(tmp_path / "corpus") == corpus_hash(tmp_path / "again")


def test_up_to_date_is_not_built_again(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second call says so and builds nothing; another request or --force does build."""
    run()
    builds: list[Any] = []
    monkeypatch.setattr(corpus, "build", lambda *args: builds.append(args))
    capsys.readouterr()
    run()
    assert "up to date" in capsys.readouterr().err
    assert builds == []
    run("--force")
    run("--packages", "alpha,gamma")
    assert len(builds) == 2


def test_a_damaged_corpus_is_built_again(run: Run, tmp_path: Path) -> None:
    """A part that was tampered with does not count as up to date."""
    run()
    before = contents(tmp_path / "corpus")
    (tmp_path / "corpus" / "train-000.jsonl.gz").write_bytes(b"")
    run()
    assert contents(tmp_path / "corpus") == before


@pytest.mark.parametrize(
    ("reason", "path", "content"),
    [
        ("too short", "a.py", "x = 1\n"),
        ("too long", "a.py", module(1, 2500)),
        ("not UTF-8", "a.py", b"# caf\xe9\n" + module(1).encode()),
        ("not UTF-8", "a.py", b"\0" + module(1).encode()),
        ("does not parse", "a.py", module(1) + "\nprint 'two'\n"),
        ("generated", "a.py", "# Generated by a tool. DO NOT EDIT.\n" + module(1)),
        ("generated", "a.py", module(1) + "\n_lr_action_items = {}\n"),
        ("long lines", "a.py", module(1) + f"\nx = '{'a' * 1000}'\n"),
        ("data", "a.py", "x = [" + "1,\n" * 200 + "]\n"),
        ("vendored", "_vendor/p/a.py", module(1)),
        ("bytecode cache", "__pycache__/a.py", module(1)),
    ],
)
def test_filters_give_their_reason(reason: str, path: str, content: str | bytes) -> None:
    """Each kind of file that is not worth learning from is dropped under its own name."""
    raw = content.encode() if isinstance(content, str) else content
    assert filters.judge((path, raw), filters.benchmark_grams([])).reason == reason


def test_invalid_escapes_do_not_warn() -> None:
    """A file at which Python grumbles is kept, and the grumbling is kept quiet."""
    text = module(1) + "\nx = '\\d' is 1\n"
    assert filters.judge(("a.py", text.encode()), filters.benchmark_grams([])).reason is None


def test_line_ends_and_byte_order_mark() -> None:
    """Line ends become \\n and the byte-order mark goes."""
    raw = b"\xef\xbb\xbf" + module(1).replace("\n", "\r\n").encode()
    verdict = filters.judge(("a.py", raw), filters.benchmark_grams([]))
    assert verdict.text == module(1)


def test_tokens_leave_comments_and_layout_out() -> None:
    """Code tokens are names, numbers, operators and strings; triple quotes are one token."""
    text = 'x=1.5 # no \'string\'\nf(\'a#b\', """c\n\'d\\"""e""")**= r\'\\\'\''
    tokens = ["x", "=", "1.5", "f", "(", "'a#b'", ",", '"""c\n\'d\\"""e"""', ")", "**=", "r'\\''"]
    assert filters.code_tokens(text) == tokens


def test_reasons_are_counted_and_duplicates_dropped(run: Run, cache: Path, tmp_path: Path) -> None:
    """Of equal and of nearly equal files of training the first is kept, each drop is counted."""
    near = module(1, 40)
    wheel(
        cache,
        "beta",
        {
            "beta/a.py": near,
            "beta/b.py": near.replace("    ", "        ") + "\n\n",
            "beta/c.py": near + "\n\nprint(1)\n",
            "beta/d.py": "x = 1\n",
            "beta/e.py": module(2),
            "beta/_vendor/f.py": module(55),
        },
    )
    run()
    assert dropped(tmp_path / "corpus", "beta") == {
        "duplicate": 2,
        "near duplicate": 1,
        "too short": 1,
        "vendored": 1,
    }


@pytest.mark.parametrize("tail", ["", "\n\nprint(1)\n"])
def test_training_holds_nothing_near_a_held_out_file(
    run: Run, cache: Path, tmp_path: Path, tail: str
) -> None:
    """A copy, exact or near, of a held-out file leaves training; the held-out file stays."""
    wheel(cache, "alpha", {"alpha/a.py": module(21, 40) + tail, "alpha/b.py": module(1)})
    wheel(cache, "gamma", {"gamma/a.py": module(21, 40)})
    run()
    assert dropped(tmp_path / "corpus", "alpha") == {"near a held-out file": 1}
    assert len(read_corpus(tmp_path / "corpus", "valid")) == 1


def benchmark(path: Path, **problem: str) -> str:
    """A benchmark of one problem."""
    path.write_bytes(gzip.compress(json.dumps(problem).encode()))
    return str(path)


def test_files_with_a_benchmark_solution_are_dropped(
    run: Run, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten tokens of a solved program, whatever the layout, are enough; a common idiom is not."""
    monkeypatch.setattr(corpus, "COMMON_GRAM_FILES", 2)
    idiom = "for i in range(len(values)):\n    print(i, values)\n"
    solution = "    total = low * high - sum(rest) + len(low)\n"
    copied = "\ntotal = low * high - \\\n    sum(rest) + len(low)\n"
    wheel(cache, "alpha", {f"alpha/{i}.py": module(30 + i) + "\n" + idiom for i in range(3)})
    wheel(cache, "beta", {"beta/a.py": module(2) + copied, "beta/b.py": module(3)})
    files = [
        benchmark(tmp_path / "one.gz", prompt="def f():\n", canonical_solution=solution),
        benchmark(tmp_path / "two.gz", prompt=idiom[:9], canonical_solution="i", suffix=idiom[9:]),
    ]
    run("--exclude", *files)
    assert dropped(tmp_path / "corpus", "beta") == {"benchmark": 1}
    assert dropped(tmp_path / "corpus", "alpha") == {}
    manifest = json.loads((tmp_path / "corpus" / "manifest.json").read_bytes())
    assert [b["file"] for b in manifest["request"]["exclude"]] == ["one.gz", "two.gz"]


def test_a_benchmark_that_is_none(run: Run, tmp_path: Path) -> None:
    """A file that is no gzip JSONL is a DataError that names it."""
    path = tmp_path / "text.gz"
    path.write_text("no")
    with pytest.raises(DataError, match=r"text\.gz"):
        run("--exclude", str(path))


def test_a_package_is_cut_to_its_share_tests_first(
    run: Run, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the share of bytes the tests of a package go before anything else."""
    names = ["alpha/a.py", "alpha/b.py", "alpha/tests/c.py", "alpha/test_d.py"]
    wheel(cache, "alpha", {name: module(i) for i, name in enumerate(names)})
    monkeypatch.setattr(corpus, "PACKAGE_BYTES", len(module(0)) + len(module(1)))
    run()
    train = read_corpus(tmp_path / "corpus", "train")
    assert {d.path for d in train if d.package == "alpha"} == {"alpha/a.py", "alpha/b.py"}


def test_parts_are_cut_at_their_limit(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No part is larger than the limit before compression, and reading puts them together."""
    monkeypatch.setattr(corpus, "PART_BYTES", 3000)
    run()
    parts = sorted((tmp_path / "corpus").glob("train-*.jsonl.gz"))
    assert [p.name for p in parts][:2] == ["train-000.jsonl.gz", "train-001.jsonl.gz"]
    assert all(len(gzip.decompress(part.read_bytes())) <= 3000 for part in parts)
    assert len(read_corpus(tmp_path / "corpus", "train")) == 7


@pytest.mark.parametrize("step", ["gather", "write_parts"])
def test_a_build_that_fails_leaves_the_former_corpus(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Whatever breaks midway, the corpus of before is whole and nothing lies beside it."""
    run()
    before = contents(tmp_path / "corpus")
    beside = sorted(p.name for p in tmp_path.iterdir())

    def broken(*_: object) -> None:
        raise RuntimeError("power cut")

    monkeypatch.setattr(corpus, step, broken)
    with pytest.raises(RuntimeError, match="power cut"):
        run("--force")
    assert contents(tmp_path / "corpus") == before
    assert sorted(p.name for p in tmp_path.iterdir()) == beside


def test_a_build_killed_between_its_two_renames(run: Run, tmp_path: Path) -> None:
    """The corpus that had been put aside comes back, and is up to date."""
    run()
    before = contents(tmp_path / "corpus")
    (tmp_path / "corpus").rename(tmp_path / ".corpus.former")
    run()
    assert contents(tmp_path / "corpus") == before
    assert not (tmp_path / ".corpus.former").exists()


def test_a_folder_with_other_things_is_refused(run: Run, tmp_path: Path) -> None:
    """A folder that is no corpus is not replaced."""
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="no corpus"):
        run()
    assert (tmp_path / "corpus" / "thesis.txt").exists()


def test_a_damaged_part_is_a_data_error(run: Run, tmp_path: Path) -> None:
    """Reading says which part is damaged or missing, and what to do."""
    run()
    part = tmp_path / "corpus" / "valid-000.jsonl.gz"
    part.write_bytes(part.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"valid-000.*--force"):
        read_corpus(tmp_path / "corpus", "valid")
    part.unlink()
    with pytest.raises(DataError, match=r"valid-000.*--force"):
        read_corpus(tmp_path / "corpus", "valid")
    assert len(read_corpus(tmp_path / "corpus", "train")) == 7


@pytest.mark.parametrize("manifest", [None, "{", "[]", "{}", '{"format": 0}'])
def test_no_corpus_or_another_format(tmp_path: Path, manifest: str | None) -> None:
    """A folder without a manifest of this format is a DataError with the remedy."""
    if manifest is not None:
        (tmp_path / "manifest.json").write_text(manifest)
    for read in (corpus_hash, lambda folder: read_corpus(folder, "train")):
        with pytest.raises(DataError, match="talaria corpus"):
            read(tmp_path)


def test_an_unknown_split_is_a_usage_error(tmp_path: Path) -> None:
    """A split that no corpus has is a mistake of the caller."""
    with pytest.raises(UsageError, match="train and valid"):
        read_corpus(tmp_path, "test")


def test_a_package_that_cannot_be_had(
    run: Run, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names package, version, pip's own words and the remedy; the cache is as before."""
    (cache / "beta-1.0-py3-none-any.whl").unlink()
    before = contents(cache)
    no_pip(tmp_path, monkeypatch)
    with pytest.raises(DataError, match=r"beta==1\.0 .*No matching distribution.*put its wheel"):
        run()
    assert contents(cache) == before
    assert not (tmp_path / "corpus").exists()


def test_a_download_lands_in_the_cache_whole(
    run: Run, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What pip leaves in its folder is moved into the cache and read from there."""
    path = cache / "beta-1.0-py3-none-any.whl"
    path.rename(tmp_path / path.name)
    script = tmp_path / "python"
    script.write_text(
        '#!/bin/sh\nwhile [ "$1" != --dest ]; do shift; done\n'
        f'mkdir -p "$2" && cp "{tmp_path / path.name}" "$2"\n'
    )
    script.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(script))
    run()
    assert path.exists()
    assert not list(cache.glob(".*"))


def test_wheels_lie_in_the_home_of_talaria(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without --cache, wheels are looked for in $TALARIA_HOME/wheels."""
    monkeypatch.setenv("TALARIA_HOME", str(cache.parent))
    argv = ["--packages", "alpha", "--jobs", "1", "--out", str(tmp_path / "corpus")]
    assert main(argv) == 0
    assert len(read_corpus(tmp_path / "corpus", "train")) == 4


def test_a_place_that_cannot_be_written(run: Run, tmp_path: Path) -> None:
    """A corpus beneath a file is a DataError that names the place."""
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        run(out="file/corpus")


def test_a_wheel_in_the_cache_is_found_by_name_and_version(tmp_path: Path) -> None:
    """Names are compared as the index does, a local version belongs to its public one."""
    made = wheel(tmp_path, "More_Things", {}, version="1.2+cpu")
    wheel(tmp_path, "more", {}, version="1.2")
    find = corpus.find_wheel
    assert find(corpus.Package("more-things", "1.2", "MIT", "train"), tmp_path) == made
    assert find(corpus.Package("more-things", "1.3", "MIT", "train"), tmp_path) is None


def test_a_damaged_wheel_is_a_data_error(run: Run, cache: Path) -> None:
    """A file in the cache that is no wheel is named, with the remedy."""
    (cache / "beta-1.0-py3-none-any.whl").write_bytes(b"half a download")
    with pytest.raises(DataError, match=r"beta-1\.0.*delete it"):
        run()


@pytest.mark.parametrize(
    "metadata",
    [
        "License-Expression: LGPL-3.0-only",
        "License: GNU GENERAL PUBLIC LICENSE",
        "Classifier: License :: OSI Approved :: GNU Affero General Public License v3",
    ],
)
def test_copyleft_is_refused(run: Run, cache: Path, metadata: str) -> None:
    """A wheel whose own metadata name a copyleft licence stops the build."""
    wheel(cache, "beta", {"beta/a.py": module(1)}, metadata)
    with pytest.raises(DataError, match=r"beta 1\.0 states the licence"):
        run()


def test_an_unknown_package_is_a_usage_error(run: Run) -> None:
    """A name that is not in the list is answered with the list."""
    with pytest.raises(UsageError, match=r"delta not in the list.*cpython, alpha, beta"):
        run("--packages", "alpha,delta")
    with pytest.raises(UsageError, match="--jobs is 0"):
        run("--jobs", "0")


def test_the_list_that_is_shipped() -> None:
    """Each package is pinned once, permissively licensed; six to eight are held out."""
    packages = corpus.read_packages(corpus.PACKAGES)
    assert len({p.name for p in packages}) == len(packages)
    assert 6 <= sum(p.split == "valid" for p in packages) <= 8


def test_a_list_with_another_licence_is_refused(tmp_path: Path) -> None:
    """Only licences known to be permissive may stand in the list."""
    path = tmp_path / "packages.toml"
    path.write_text('[[package]]\nname="x"\nversion="1"\nlicence="MPL-2.0"\nsplit="train"\n')
    with pytest.raises(DataError, match=r"x has split 'train' and licence 'MPL-2\.0'"):
        corpus.read_packages(path)


def test_the_standard_library_alone() -> None:
    """Installed packages, tests of bad syntax and files of this machine's build stay out."""
    paths = [path for path, _ in corpus.stdlib_files()]
    assert {"argparse.py", "asyncio/tasks.py", "json/decoder.py"} <= set(paths)
    outside = ("site-packages", "lib2to3/tests", "config-", "_sysconfigdata", "test/bad")
    assert not [path for path in paths if path.startswith(outside)]


def test_reading_imports_nothing_heavy() -> None:
    """Training and tokenizer read a corpus without numpy, datasketch or tqdm being imported."""
    code = "import sys, finetune.corpus; print({'numpy', 'datasketch', 'tqdm'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
