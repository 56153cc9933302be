import gzip
import json
import stat
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from talaria.coder.errors import DataError, UsageError
from talaria.finetune import contamination, gather, wheels
from talaria.finetune.corpus import CorpusDocument, corpus_hash, read_corpus, write_corpus
from talaria.finetune.gather import main
from talaria.finetune.ngrams import code_tokens
from tests.finetune.test_corpus import contents, module

Run = Callable[..., int]


def wheel(
    cache: Path,
    name: str,
    files: Mapping[str, str | bytes],
    metadata: str = "License-Expression: MIT",
    version: str = "1.0",
) -> Path:
    """Write a wheel with these files into the cache."""
    cache.mkdir(exist_ok=True)
    path = cache / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file, content in files.items():
            archive.writestr(file, content)
        archive.writestr(f"{name}-{version}.dist-info/METADATA", f"Name: {name}\n{metadata}\n")
    return path


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache and a list of two training packages and a held-out one."""
    folder = tmp_path / "wheels"
    entries = (("train", ("alpha", "beta")), ("valid", ("gamma",)))
    listing = tmp_path / "packages.toml"
    listing.write_text(
        "".join(
            f"[{split}]\n"
            + "".join(f'{name} = {{ version = "1.0", licence = "MIT" }}\n' for name in names)
            for split, names in entries
        )
    )
    monkeypatch.setattr(gather, "PACKAGES", listing)
    wheel(folder, "alpha", {f"alpha/m{i}.py": module(i) for i in range(4)})
    wheel(folder, "beta", {f"beta/m{i}.py": module(10 + i) for i in range(3)})
    wheel(folder, "gamma", {f"gamma/m{i}.py": module(20 + i) for i in range(2)})
    return folder


@pytest.fixture
def run(tmp_path: Path, cache: Path) -> Run:
    """Run `talaria corpus` on that list into `tmp_path / "corpus"`, in one process."""

    def command(*options: str, out: str = "corpus") -> int:
        argv = ["--packages", "alpha,beta,gamma", "--cache", str(cache), "--jobs", "1"]
        return main([*argv, "--out", str(tmp_path / out), *options])

    return command


def dropped(folder: Path, package: str) -> dict[str, int]:
    """The files dropped from a package, by reason, from the manifest."""
    manifest = json.loads((folder / "manifest.json").read_bytes())
    return next(p["dropped"] for p in manifest["packages"] if p["name"] == package)


def no_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every call of pip fail as for a missing version."""
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\necho 'ERROR: No matching distribution found' >&2\nexit 1\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(script))


def serve(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every call of pip download this wheel."""
    script = tmp_path / "python"
    script.write_text(
        f'#!/bin/sh\nwhile [ "$1" != --dest ]; do shift; done\nmkdir -p "$2" && cp "{wheel}" "$2"\n'
    )
    script.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(script))


def test_whole_packages_go_to_their_split(run: Run, tmp_path: Path) -> None:
    """All files of a package are in one split, and texts come back unchanged."""
    assert run() == 0
    train = read_corpus(tmp_path / "corpus", "train")
    valid = read_corpus(tmp_path / "corpus", "valid")
    assert {d.package for d in train} == {"alpha", "beta"}
    assert {(d.package, d.path) for d in valid} == {("gamma", f"gamma/m{i}.py") for i in (0, 1)}
    assert {d.path: d.text for d in train}["alpha/m2.py"] == module(2)
    assert len(train) == 7


def test_manifest_and_table(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The manifest holds source, licence and sizes; standard output shows their sums."""
    run()
    manifest = json.loads((tmp_path / "corpus" / "manifest.json").read_bytes())
    alpha = manifest["packages"][0]
    assert alpha["source"] == "alpha-1.0-py3-none-any.whl"
    assert (alpha["licence"], alpha["split"], alpha["files"]) == ("MIT", "train", 4)
    assert alpha["bytes"] == sum(len(module(i)) for i in range(4))
    assert alpha["tokens"] == sum(len(code_tokens(module(i))) for i in range(4))
    table = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert table[:3] == [["train", "valid"], ["packages", "2", "1"], ["files", "7", "2"]]
    assert [row[:-2] for row in table[3:]] == [
        ["bytes"],
        ["code", "tokens"],
        ["BPE", "tokens,", "about"],
    ]
    reach = manifest["bpe"]["bytes_per_token"]["train"]
    size = sum(p["bytes"] for p in manifest["packages"] if p["split"] == "train")
    assert int(table[5][-2].replace(",", "")) == pytest.approx(size / reach, rel=0.01)


def test_the_same_list_gives_the_same_bytes(run: Run, tmp_path: Path) -> None:
    """One process or two give the same bytes."""
    run()
    run("--jobs", "2", out="again")
    assert contents(tmp_path / "corpus") == contents(tmp_path / "again")
    assert corpus_hash(tmp_path / "corpus") == corpus_hash(tmp_path / "again")


def test_up_to_date_is_not_built_again(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second call says so and builds nothing; another request or --force rebuilds."""
    run()
    builds: list[Any] = []
    monkeypatch.setattr(gather, "build", lambda *args: builds.append(args))
    capsys.readouterr()
    run()
    assert "up to date" in capsys.readouterr().err
    assert builds == []
    run("--force")
    run("--packages", "alpha,gamma")
    assert len(builds) == 2


def test_a_damaged_corpus_is_built_again(run: Run, tmp_path: Path) -> None:
    """A corpus with a damaged part is not up to date."""
    run()
    before = contents(tmp_path / "corpus")
    (tmp_path / "corpus" / "train-000.jsonl.xz").write_bytes(b"")
    run()
    assert contents(tmp_path / "corpus") == before


def test_the_corpus_of_another_command_is_not_replaced(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even by --force; this and an unwritable place are reported before any work."""
    monkeypatch.setattr(gather, "gather", lambda *_: pytest.fail("a package was read"))
    out = tmp_path / "corpus"
    write_corpus(
        out, {"train": [CorpusDocument("mine", "a.py", "x = 1\n")]}, {"repository": "mine"}
    )
    before = contents(out)
    with pytest.raises(UsageError, match=r"by talaria finetune.*another --out"):
        run("--force")
    assert contents(out) == before
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot be written.*another --out"):
        run(out="file/corpus")


def test_a_corpus_without_held_out_text_is_reported(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is written, and a message says what is missing and which packages would add it."""
    assert run("--packages", "alpha") == 0
    assert "no held-out text" in (message := capsys.readouterr().err)
    assert "some of gamma to --packages" in message
    assert run("--packages", "alpha,gamma") == 0
    assert "held-out" not in capsys.readouterr().err


def test_a_download_is_announced(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With how many packages are missing; nothing is said if they all lie in the cache."""
    names = (wheels.STDLIB, "here", "missing")
    packages = [wheels.Package(name, "1", "MIT", "train") for name in names]
    monkeypatch.setattr(
        gather, "find_wheel", lambda package, _: None if package.name == "missing" else cache
    )
    gather.announce(packages, cache)
    said = capsys.readouterr().err
    assert said.startswith(f"talaria corpus: downloading 1 of 2 packages to {cache}, once; ")
    assert "a gigabyte" in said
    gather.announce(packages[:2], cache)
    assert capsys.readouterr().err == ""


def test_reasons_are_counted_and_duplicates_dropped(run: Run, cache: Path, tmp_path: Path) -> None:
    """The first of equal or nearly equal training files is kept, and drops are counted."""
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
    """Exact and near copies of held-out files are dropped; the held-out files are kept."""
    wheel(cache, "alpha", {"alpha/a.py": module(21, 40) + tail, "alpha/b.py": module(1)})
    wheel(cache, "gamma", {"gamma/a.py": module(21, 40)})
    run()
    assert dropped(tmp_path / "corpus", "alpha") == {"near a held-out file": 1}
    assert len(read_corpus(tmp_path / "corpus", "valid")) == 1


@pytest.mark.parametrize(("functions", "kept"), [(1, 2), (3, 1)])
def test_training_holds_no_copy_out_of_a_held_out_file(
    run: Run, cache: Path, tmp_path: Path, functions: int, kept: int
) -> None:
    """Fifty consecutive tokens from a held-out file are a copy, even if all else differs."""
    held_out = module(21, 40)
    copied = "\n\n".join(held_out.split("\n\n")[10 : 10 + functions])
    text = module(1, 40) + "\n\n" + copied
    wheel(cache, "alpha", {"alpha/a.py": text, "alpha/b.py": module(2)})
    wheel(cache, "gamma", {"gamma/a.py": held_out})
    run()
    train = read_corpus(tmp_path / "corpus", "train")
    assert sum(d.package == "alpha" for d in train) == kept
    near = {} if kept == 2 else {"near a held-out file": 1}
    assert dropped(tmp_path / "corpus", "alpha") == near


def benchmark(path: Path, **problem: str) -> str:
    """Write a benchmark with one problem."""
    path.write_bytes(gzip.compress(json.dumps(problem).encode()))
    return str(path)


def test_files_with_a_benchmark_solution_are_dropped(run: Run, cache: Path, tmp_path: Path) -> None:
    """Ten consecutive tokens of a solution are enough, unless three packages contain them.

    Repetitions in a package and copies between packages do not count.
    """
    idiom = "for i in range(len(values)):\n    print(i, values)\n"
    solution = "    total = low * high - sum(rest) + len(low)\n"
    copied = "\ntotal = low * high - \\\n    sum(rest) + len(low)\n"
    twin = module(9, 40) + copied
    wheel(cache, "alpha", {f"alpha/{i}.py": module(30 + i) + "\n" + idiom for i in range(3)})
    wheel(
        cache,
        "beta",
        {f"beta/{i}.py": module(40 + i) + copied for i in range(4)}
        | {"beta/twin.py": twin, "beta/b.py": module(3) + "\n" + idiom},
    )
    wheel(cache, "gamma", {"gamma/twin.py": twin, "gamma/c.py": module(4) + "\n" + idiom})
    files = [
        benchmark(tmp_path / "one.gz", prompt="def f():\n", canonical_solution=solution),
        benchmark(tmp_path / "two.gz", prompt=idiom[:9], canonical_solution="i", suffix=idiom[9:]),
    ]
    run("--exclude", *files)
    assert dropped(tmp_path / "corpus", "alpha") == {}
    assert dropped(tmp_path / "corpus", "beta") == {"benchmark": 4, "near a held-out file": 1}
    assert dropped(tmp_path / "corpus", "gamma") == {"benchmark": 1}
    manifest = json.loads((tmp_path / "corpus" / "manifest.json").read_bytes())
    assert {"one.gz", "two.gz"} < {b["file"] for b in manifest["request"]["exclude"]}


def test_shipped_benchmarks_are_always_excluded(
    run: Run, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shipped hashes exclude files and are in the manifest; --exclude adds no duplicates."""
    solution = "    total = low * high - sum(rest) + len(low)\n"
    wheel(cache, "beta", {"beta/a.py": module(40) + "\n" + solution, "beta/b.py": module(41)})
    shipped = Path(benchmark(tmp_path / "a.gz", prompt="def f():\n", canonical_solution=solution))
    monkeypatch.setattr(contamination, "SHIPPED", tmp_path / "grams.npz")
    contamination.ship_grams([shipped], contamination.SHIPPED)
    first = contamination.SHIPPED.read_bytes()
    contamination.ship_grams([shipped], contamination.SHIPPED)
    assert contamination.SHIPPED.read_bytes() == first
    assert solution.encode() not in first
    run()
    assert dropped(tmp_path / "corpus", "beta") == {"benchmark": 1}
    manifest = json.loads((tmp_path / "corpus" / "manifest.json").read_bytes())
    assert [(b["file"], b["programs"]) for b in manifest["request"]["exclude"]] == [("a.gz", 2)]
    run("--exclude", str(shipped), str(shipped), out="again")
    assert contents(tmp_path / "corpus") == contents(tmp_path / "again")


def test_the_hashes_that_are_shipped() -> None:
    """They are sorted and distinct, as binary search needs, and their files are named."""
    grams = contamination.shipped_grams()
    assert grams.tolist() == sorted(set(grams.tolist()))
    assert len(grams) > 7000
    assert [file.file for file in contamination.shipped_files()] == [
        "HumanEval-RandomSpanInfillingLight.jsonl.gz",
        "HumanEval-SingleLineInfilling.jsonl.gz",
        "HumanEval.jsonl.gz",
    ]


def test_a_file_that_is_not_a_benchmark(run: Run, tmp_path: Path) -> None:
    """A file that is not gzip JSONL is a DataError that names it."""
    path = tmp_path / "text.gz"
    path.write_text("no")
    with pytest.raises(DataError, match=r"text\.gz"):
        run("--exclude", str(path))


def test_a_package_is_cut_to_its_share_tests_first(
    run: Run, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tests of a package are dropped first if it exceeds its limit."""
    names = ["alpha/a.py", "alpha/b.py", "alpha/tests/c.py", "alpha/test_d.py"]
    wheel(cache, "alpha", {name: module(i) for i, name in enumerate(names)})
    monkeypatch.setattr(gather, "PACKAGE_BYTES", len(module(0)) + len(module(1)))
    run()
    train = read_corpus(tmp_path / "corpus", "train")
    assert {d.path for d in train if d.package == "alpha"} == {"alpha/a.py", "alpha/b.py"}


@pytest.mark.parametrize("step", ["gather", "write_corpus"])
def test_a_build_that_fails_leaves_the_former_corpus(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """A failed build leaves the existing corpus intact and no temporary files."""
    run()
    before = contents(tmp_path / "corpus")
    beside = sorted(p.name for p in tmp_path.iterdir())

    def broken(*_: object) -> None:
        raise RuntimeError("power cut")

    monkeypatch.setattr(gather, step, broken)
    with pytest.raises(RuntimeError, match="power cut"):
        run("--force")
    assert contents(tmp_path / "corpus") == before
    assert sorted(p.name for p in tmp_path.iterdir()) == beside


def test_a_package_that_cannot_be_had(
    run: Run, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error has package, version, pip's message and a remedy; the cache is unchanged."""
    (cache / "beta-1.0-py3-none-any.whl").unlink()
    before = contents(cache)
    no_pip(tmp_path, monkeypatch)
    with pytest.raises(DataError, match=r"beta==1\.0: .*No matching distribution.*put its wheel"):
        run()
    assert contents(cache) == before
    assert not (tmp_path / "corpus").exists()


def test_a_download_lands_in_the_cache_whole(
    run: Run, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A completed download is moved into the cache and read from there."""
    path = cache / "beta-1.0-py3-none-any.whl"
    path.rename(tmp_path / path.name)
    serve(tmp_path / path.name, tmp_path, monkeypatch)
    run()
    assert path.exists()
    assert not list(cache.glob(".*"))


def test_wheels_lie_in_the_home_of_talaria(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without --cache, wheels are in $TALARIA_HOME/wheels."""
    monkeypatch.setenv("TALARIA_HOME", str(cache.parent))
    argv = ["--packages", "alpha", "--jobs", "1", "--out", str(tmp_path / "corpus")]
    assert main(argv) == 0
    assert len(read_corpus(tmp_path / "corpus", "train")) == 4


def test_a_wheel_in_the_cache_is_found_by_name_version_and_hash(tmp_path: Path) -> None:
    """Names are normalised as on the index; a wheel with another hash does not match."""
    made = wheel(tmp_path, "More_Things", {}, version="1.2")
    wheel(tmp_path, "more", {}, version="1.2")
    find = wheels.find_wheel
    assert find(wheels.Package("more-things", "1.2", "MIT", "train"), tmp_path) == made
    assert find(wheels.Package("more-things", "1.3", "MIT", "train"), tmp_path) is None
    for sha256, found in ((wheels.digest(made), made), ("0" * 64, None)):
        assert find(wheels.Package("more-things", "1.2", "MIT", "train", sha256), tmp_path) == found


@pytest.mark.parametrize("pinned", [True, False])
def test_downloads_must_match_the_list(
    run: Run, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pinned: bool
) -> None:
    """A download must have the hash in the list, or the build stops."""
    path = cache / "beta-1.0-py3-none-any.whl"
    path.rename(tmp_path / path.name)
    wheel(cache, "beta", {"beta/a.py": module(66)})  # another file of the same name
    sha256 = wheels.digest(tmp_path / path.name) if pinned else "0" * 64
    listing = tmp_path / "packages.toml"
    entry = 'beta = { version = "1.0", licence = "MIT"'
    listing.write_text(listing.read_text().replace(entry, f'{entry}, sha256 = "{sha256}"'))
    serve(tmp_path / path.name, tmp_path, monkeypatch)
    if not pinned:
        with pytest.raises(DataError, match=r"beta-1\.0.*SHA-256.*says 000000000000"):
            run()
        assert wheels.digest(path) != wheels.digest(tmp_path / path.name)
        return
    run()
    assert wheels.digest(path) == sha256
    manifest = json.loads((tmp_path / "corpus" / "manifest.json").read_bytes())
    assert [p["sha256"] for p in manifest["packages"] if p["name"] == "beta"] == [sha256]


def broken_wheels() -> dict[str, Callable[[bytes], bytes]]:
    """Ways to damage a wheel."""
    return {
        "no archive": lambda raw: b"half a download",
        "cut off": lambda raw: raw[: len(raw) // 2],
        "damaged within": lambda raw: raw.replace(b"def ", b"fed "),
        "locked": lambda raw: raw.replace(
            b"PK\x01\x02\x14\x03\x14\0\0", b"PK\x01\x02\x14\x03\x14\0\1"
        ),
    }


@pytest.mark.parametrize("kind", broken_wheels())
def test_a_broken_wheel_is_a_data_error(run: Run, cache: Path, tmp_path: Path, kind: str) -> None:
    """The error names the broken wheel and the remedy; the corpus is kept."""
    run()
    before = contents(tmp_path / "corpus")
    path = cache / "beta-1.0-py3-none-any.whl"
    whole = path.read_bytes()
    path.write_bytes(broken_wheels()[kind](whole))
    assert path.read_bytes() != whole
    with pytest.raises(DataError, match=r"beta-1\.0.*delete it"):
        run("--force")
    assert contents(tmp_path / "corpus") == before


@pytest.mark.parametrize(
    "metadata",
    [
        "License-Expression: LGPL-3.0-only",
        "License: GNU GENERAL PUBLIC LICENSE",
        "Classifier: License :: OSI Approved :: GNU Affero General Public License v3",
        "License-Expression: MIT AND BSD-3-Clause",
        "License-Expression: Apache-2.0",
        "License: Apache 2.0",
        "Classifier: License :: OSI Approved :: BSD License",
        "Classifier: License :: Other/Proprietary License",
    ],
)
def test_a_licence_unlike_the_list_is_refused(run: Run, cache: Path, metadata: str) -> None:
    """A wheel whose metadata contradict the listed licence stops the build."""
    wheel(cache, "beta", {"beta/a.py": module(1)}, metadata)
    with pytest.raises(DataError, match=r"beta 1\.0 states the licence"):
        run()


@pytest.mark.parametrize(
    "metadata",
    [
        "License-Expression: (MIT)",
        "License: MIT, see the file",
        "Classifier: License :: OSI Approved\nClassifier: License :: OSI Approved :: MIT License",
        "License: Copyright, the authors. All rights reserved.",
        "Summary: it states nothing",
    ],
)
def test_a_licence_like_the_list_passes(run: Run, cache: Path, metadata: str) -> None:
    """A different spelling of the same licence, or none at all, is no contradiction."""
    wheel(cache, "beta", {"beta/a.py": module(1)}, metadata)
    assert run() == 0


def test_an_unknown_package_is_a_usage_error(run: Run) -> None:
    """The error names the list and similar packages in it."""
    with pytest.raises(UsageError, match=r"beto not in the list.*packages\.toml; similar: beta$"):
        run("--packages", "alpha,beto")
    with pytest.raises(UsageError, match=r"zz not in the list.*packages\.toml$"):
        run("--packages", "zz")
    with pytest.raises(UsageError, match="--jobs is 0"):
        run("--jobs", "0")


def test_the_list_that_is_shipped() -> None:
    """Packages are pinned by hash, unique and permissive; the held-out ones are fixed."""
    packages = wheels.read_packages(wheels.PACKAGES)
    assert all(len(p.sha256 or "") == 64 for p in packages if p.name != wheels.STDLIB)
    assert len({p.name for p in packages}) == len(packages)
    held_out = "httpx marshmallow more-itertools peewee seaborn structlog tornado werkzeug"
    assert " ".join(p.name for p in packages if p.split == "valid") == held_out


def test_fresh_code_is_for_evaluation_alone(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A dozen packages that no model is trained on make a corpus that says what it is."""
    fresh = wheels.read_packages(wheels.FRESH)
    assert len(fresh) == 12
    assert {p.split for p in fresh} == {"valid"}
    assert all(len(p.sha256 or "") == 64 for p in fresh)
    assert not {p.name for p in fresh} & {p.name for p in wheels.read_packages(wheels.PACKAGES)}
    listing = tmp_path / "fresh.toml"
    listing.write_text('[valid]\nalpha = { version = "1.0", licence = "MIT" }\n')
    monkeypatch.setattr(gather, "FRESH", listing)
    monkeypatch.chdir(tmp_path)
    assert main(["--fresh", "--cache", str(cache), "--jobs", "1"]) == 0
    manifest = json.loads((tmp_path / "data" / "fresh" / "manifest.json").read_bytes())
    assert manifest["source"] == "fresh"
    assert {part["split"] for part in manifest["parts"]} == {"valid"}
    assert "has no training text" not in capsys.readouterr().err
    with pytest.raises(UsageError, match=r"gamma not in the list of 1 in finetune/fresh\.toml"):
        main(["--fresh", "--packages", "gamma", "--cache", str(cache)])


def test_a_list_with_another_licence_is_refused(tmp_path: Path) -> None:
    """Only permissive licences and known splits are accepted."""
    path = tmp_path / "packages.toml"
    path.write_text('[train]\nx = { version = "1", licence = "MPL-2.0" }\n')
    with pytest.raises(DataError, match=r"x has split 'train' and licence 'MPL-2\.0'"):
        wheels.read_packages(path)
    path.write_text('[test]\nx = { version = "1", licence = "MIT" }\n')
    with pytest.raises(DataError, match=r"x has split 'test'"):
        wheels.read_packages(path)


def test_the_standard_library_alone() -> None:
    """Installed packages, invalid test files and machine-specific files are left out."""
    paths = [path for path, _ in wheels.stdlib_files()]
    assert {"argparse.py", "asyncio/tasks.py", "json/decoder.py"} <= set(paths)
    outside = ("site-packages", "lib2to3/tests", "config-", "_sysconfigdata", "test/bad")
    assert not [path for path in paths if path.startswith(outside)]
