"""Exercises: proven, told apart, the same from the same seed, and far from the benchmarks."""

from __future__ import annotations

import ast
import contextlib
import doctest
import gzip
import io
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import pytest

from talaria.coder.errors import DataError, UsageError
from talaria.finetune.contamination import GRAM, benchmark_grams
from talaria.finetune.corpus import check_corpus, read_corpus
from talaria.finetune.exercises import build, main
from talaria.finetune.exercises.core import Draft, Goal, Names, Param, negation, number, say
from talaria.finetune.exercises.docs import STYLES
from talaria.finetune.exercises.families import FAMILIES
from talaria.finetune.exercises.layout import TooLongError, annotation, fit, literal, requote
from talaria.finetune.exercises.mirrors import Mirrors, read_tasks
from talaria.finetune.exercises.trial import (
    Exercise,
    RejectedError,
    import_lines,
    keys,
    load,
    render,
)
from talaria.finetune.ngrams import code_tokens, hashed_grams

PROGRAM = "import sys; from talaria.finetune.exercises import main; sys.exit(main(sys.argv[1:]))"


def some(family: Callable[[Random], Draft | Exercise], count: int, seed: int = 0) -> list[Exercise]:
    """The first exercises that a family gives from a seed."""
    found: list[Exercise] = []
    for trial in range(40 * count):
        rng = Random(f"{seed}:{trial}")
        with contextlib.suppress(RejectedError):
            made = family(rng)
            found.append(made if isinstance(made, Exercise) else render(made, rng))
        if len(found) == count:
            break
    return found


def text_of(exercise: Exercise) -> str:
    """The exercise as a module."""
    return f"{import_lines(set(exercise.imports))}\n\n\n{exercise.text}\n"


def draft(body: str, reference: str | None = None, **changes: object) -> Draft:
    """A draft of a function of one number."""
    n = Param("n", ("n",), "int", "an integer", None, "the number", number(0, 50))
    fields: dict[str, object] = {
        "family": "test",
        "names": ("f",),
        "params": (n,),
        "returns": "int",
    }
    fields |= {"goal": Goal("get", "twice $n"), "body": body, "reference": reference} | changes
    return Draft(**fields)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small corpus of exercises, made by one process."""
    out = tmp_path_factory.mktemp("exercises") / "out"
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(["--out", str(out), *["--count", "500", "--seed", "7", "--jobs", "1"]]) == 0
    return out


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_every_family_gives_functions_whose_doctests_pass(
    family: Callable[[Random], Draft | Exercise],
) -> None:
    """Python's own doctest agrees with every example, and each text parses with a docstring."""
    exercises = some(family, 12)
    assert len(exercises) == 12
    for exercise in exercises:
        text = text_of(exercise)
        tree = ast.parse(text)
        assert isinstance(tree.body[-1], (ast.FunctionDef, ast.ClassDef))
        docstring = ast.get_docstring(tree.body[-1])
        assert docstring
        assert max(map(len, text.split("\n"))) <= 100
        space: dict[str, object] = {"__name__": "__main__"}
        exec(compile(text, "exercise", "exec"), space)
        examples = doctest.DocTestParser().get_doctest(docstring, space, "exercise", None, 0)
        report = io.StringIO()
        doctest.DocTestRunner().run(examples, out=report.write)
        assert not report.getvalue(), text


def test_the_same_seed_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    """Whatever the number of processes and the order of sets in memory."""
    out = tmp_path / "again"
    subprocess.run(
        [
            sys.executable,
            "-c",
            PROGRAM,
            "--out",
            str(out),
            *["--count", "500", "--seed", "7", "--jobs", "2"],
        ],
        check=True,
        capture_output=True,
        env={**os.environ, "PYTHONHASHSEED": "12345"},
    )
    assert {p.name: p.read_bytes() for p in out.iterdir()} == {
        p.name: p.read_bytes() for p in folder.iterdir()
    }


def test_modules_hold_what_was_asked_for(folder: Path) -> None:
    """All functions lie in modules of one to six, no name twice in a module, some held out."""
    manifest = check_corpus(folder)
    train, valid = read_corpus(folder, "train"), read_corpus(folder, "valid")
    assert valid
    assert len(valid) < len(train) / 10
    assert manifest["functions"] == 500
    for document in [*train, *valid]:
        assert document.package == "exercises"
        tree = ast.parse(document.text)
        names = [n.name for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef))]
        assert len(set(names)) == len(names)
        assert document.text.endswith("\n")
        assert "\n\n\n\n" not in document.text
    assert len({document.path for document in [*train, *valid]}) == len(train) + len(valid)


def test_styles_and_families_are_mixed(folder: Path) -> None:
    """Every style of docstring and most families occur, none of them alone."""
    manifest = check_corpus(folder)
    assert set(manifest["styles"]) == set(STYLES)
    assert sum(manifest["styles"].values()) == sum(manifest["families"].values()) == 500
    assert len(manifest["families"]) > 30
    assert max(manifest["families"].values()) < 200


def test_no_two_are_alike_but_for_names() -> None:
    """Exercises of one seed have different keys, and few share a shape."""
    kept, rejected = build.make(300, 1, np.empty(0, np.uint64), (), 1)
    assert len({exercise.key for exercise in kept}) == 300
    assert max(Counter(exercise.code_key for exercise in kept).values()) <= build.ALIKE
    assert rejected["the same result for all arguments"] > 0


def test_keys_see_through_names_and_literals() -> None:
    """Names do not make a difference, numbers only to the first key, words and operators do."""
    one = keys("def f(xs, k):\n    return [x + 1 for x in xs if x > k]", "Add to xs above k.")
    two = keys("def g(b, a):\n    return [c + 1 for c in b if c > a]", "Add to b above a.")
    assert one == two
    said = keys("def g(b, a):\n    return [c + 1 for c in b if c > a]", "Add to b over a.")
    assert said[0] != one[0]
    assert said[1] == one[1]
    more = keys("def f(xs, k):\n    return [x + 2 for x in xs if x > k]", "Add to xs above k.")
    assert more[0] != one[0]
    assert more[1] == one[1]
    less = keys("def f(xs, k):\n    return [x + 1 for x in xs if x < k]", "Add to xs above k.")
    assert less[1] != one[1]


def test_what_a_benchmark_holds_is_dropped(tmp_path: Path) -> None:
    """No 10-gram of an excluded program is left, and the report counts what went."""
    target = text_of(build.draft_number(3, 0))
    line = json.dumps({"prompt": "", "canonical_solution": target})
    benchmark = tmp_path / "bench.jsonl.gz"
    benchmark.write_bytes(gzip.compress(line.encode()))
    out = tmp_path / "out"
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        arguments = ["--out", str(out), "--count", "60", "--seed", "3", "--jobs", "1"]
        main([*arguments, "--exclude", str(benchmark)])
    grams = benchmark_grams([target])
    for document in read_corpus(out, "train") + read_corpus(out, "valid"):
        assert not np.intersect1d(hashed_grams(code_tokens(document.text), GRAM), grams).size
    assert check_corpus(out)["rejected"]["shares a 10-gram with a benchmark"] >= 1
    assert "shares a 10-gram with a benchmark" in shown.getvalue()


def test_what_does_what_a_benchmark_asks_is_dropped(tmp_path: Path) -> None:
    """Whatever its words and code are, and whatever else its parameters can do."""
    task = {
        "prompt": "def twice(n):\n",
        "canonical_solution": "    return 2 * n\n",
        "test": "def check(candidate):\n    assert [candidate(n) for n in (0, 3)] == [0, 6]",
        "entry_point": "twice",
    }
    file = tmp_path / "bench.jsonl.gz"
    file.write_bytes(gzip.compress(json.dumps(task).encode()))
    tasks = read_tasks([file, file])
    assert len(tasks) == 1
    mirrors = Mirrors(tasks)
    code = """
def plus(a, b=None):
    return a + (a if b is None else b)
def half(a):
    return a / 2
def stuck(a):
    while True:
        a += 1
def twice(text, other):
    return text + other
class Other:
    pass
"""
    space = load(code)
    mirrors.reject(["half", "stuck", "Other"], space)
    with pytest.raises(RejectedError, match="passes the tests"):
        mirrors.reject(["half", "plus"], space)
    with pytest.raises(RejectedError, match="named as"):
        mirrors.reject(["twice"], space)
    task["canonical_solution"] = "    return 3 * n\n"
    file.write_bytes(gzip.compress(json.dumps(task).encode()))
    with pytest.raises(DataError, match="twice fails its own test"):
        Mirrors(read_tasks([file]))


def test_idioms_of_library_code_exclude_nothing(tmp_path: Path) -> None:
    """A 10-gram that three packages hold is no trace of a benchmark; one of two packages is."""
    from talaria.finetune.corpus import CorpusDocument, write_corpus

    common = "for i in range(len(numbers) - 1):\n    pass\n"
    rare = "total = first * second - third // fourth + fifth ** sixth\n"
    documents = [CorpusDocument(name, f"{name}/a.py", common) for name in ("a", "b", "c")]
    documents += [CorpusDocument(name, f"{name}/b.py", rare) for name in ("a", "b")]
    write_corpus(tmp_path / "library", {"train": documents}, {})
    grams = benchmark_grams([common, rare])
    left = build.telling(grams, tmp_path / "library", 1)
    assert set(left.tolist()) == set(benchmark_grams([rare]).tolist())
    assert build.telling(grams, None, 1) is grams


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"body": "return 7"}, "a parameter without use"),
        ({"body": "return 0 * $n"}, "the same result for all arguments"),
        ({"body": "return $n + 1", "reference": "return $n + 2"}, "two bodies disagree (test)"),
        ({"body": "while True:\n    $n"}, "too slow"),
        ({"body": "return $n // 0"}, "raises ZeroDivisionError (test)"),
        ({"body": "return $n +"}, "syntax: invalid syntax"),
        ({"body": "return $n, '" + "a" * 90 + "'"}, "a line too long"),
        ({"body": "return $n + __import__('time').time_ns() % 10**6"}, "an example does not hold"),
    ],
)
def test_what_does_not_hold_is_rejected(changes: dict[str, str], reason: str) -> None:
    """A draft that is dull, wrong, endless, broken or random makes no exercise."""
    with pytest.raises(RejectedError) as caught:
        render(draft(**changes), Random(0))
    assert str(caught.value) == reason


def test_arguments_that_are_changed_are_seen() -> None:
    """A function that changes its argument is rejected unless it says so."""
    xs = Param("xs", ("xs",), "list[int]", "a list", None, "the list", lambda r: [r.randint(0, 9)])
    with pytest.raises(RejectedError, match="changes its arguments"):
        render(draft("$xs.append(1)\nreturn len($xs)", params=(xs,)), Random(0))


def test_names_are_chosen_once_and_never_twice() -> None:
    """A role keeps its name, another role gets another, imports are remembered."""
    names = Names(Random(0), {"a": ("x", "y"), "b": ("x", "y"), "d": ("x",)}, ())
    filled = names.fill("$a $b $a $d $Counter")
    first, second, again, third, counter = filled.split()
    assert (first, {first, second}, third, counter) == (again, {"x", "y"}, "x2", "Counter")
    assert names.imports == {("collections", "Counter")}


def test_wordings_are_chosen_from_the_inside_out() -> None:
    """Each choice leaves one wording and no brace."""
    said = {say(Random(seed), "{a {b|c}|d} e") for seed in range(30)}
    assert said == {"a b e", "a c e", "d e"}


@pytest.mark.parametrize(
    ("code", "opposite"),
    [
        ("a > b", "a <= b"),
        ("x in y", "x not in y"),
        ("not x.isdigit()", "x.isdigit()"),
        ("x.isdigit()", "not x.isdigit()"),
        ("sum(c > 1 for c in s) == 2", "sum(c > 1 for c in s) != 2"),
        ("a > b and c", "not (a > b and c)"),
        ("1 < x < 2", "not (1 < x < 2)"),
        ('" in " not in x', '" in " in x'),
    ],
)
def test_conditions_are_turned_round(code: str, opposite: str) -> None:
    """The negation is as plain as a person would write it."""
    assert negation(code) == opposite


def test_values_are_written_as_black_would() -> None:
    """Double quotes unless single ones are asked for; sets in order."""
    assert literal(["a", 'b"', "c'"]) == """["a", 'b"', "c'"]"""
    assert literal({"b", "a"}, "'") == "{'a', 'b'}"
    assert literal({1: ("x",)}) == '{1: ("x",)}'
    assert requote('f("a", "it\'s")  # "b"') == 'f(\'a\', "it\'s")  # "b"'


def test_types_have_two_spellings() -> None:
    """Built-in generics as they are, or those of `typing` with their imports."""
    assert annotation("dict[str, list[int]] | None", "modern") == (
        "dict[str, list[int]] | None",
        set(),
    )
    assert annotation("dict[str, list[int]] | None", "typing") == (
        "Optional[Dict[str, List[int]]]",
        {("typing", "Dict"), ("typing", "List"), ("typing", "Optional")},
    )


def test_long_lines_are_broken_at_brackets() -> None:
    """A comprehension gets a line for each clause, a list one for each element."""
    name = "a" * 40
    assert fit(f"    return sum({name} * v for v in {name} if v)") == (
        f"    return sum(\n        {name} * v\n        for v in {name}\n        if v\n    )"
    )
    assert fit(f"x = [{name}, {name}, {name}]") == (
        f"x = [\n    {name},\n    {name},\n    {name},\n]"
    )
    with pytest.raises(TooLongError):
        fit(f"# {name} {name} {name}")


def test_wrong_requests_are_told(tmp_path: Path) -> None:
    """No count below one, and no more exercises than the grammar gives."""
    with pytest.raises(UsageError, match="--count is 0"):
        main(["--out", str(tmp_path / "out"), "--count", "0"])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("mine")
    with pytest.raises(UsageError, match="full"):
        main(["--out", str(tmp_path / "full"), "--count", "1"])


def test_what_is_no_exercises_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A corpus of library code and a place without rights are refused before any work."""
    from talaria.finetune.corpus import CorpusDocument, write_corpus

    monkeypatch.setattr(build, "make", lambda *_: pytest.fail("exercises were made"))
    library = tmp_path / "library"
    write_corpus(library, {"train": [CorpusDocument("p", "a.py", "x = 1\n")]}, {"packages": []})
    with pytest.raises(UsageError, match=r"by talaria corpus.*another --out"):
        main(["--out", str(library), "--count", "5"])
    assert len(read_corpus(library, "train")) == 1
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot be written.*another --out"):
        main(["--out", str(tmp_path / "file" / "out"), "--count", "5"])
