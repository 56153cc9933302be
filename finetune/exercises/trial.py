"""From a draft to an exercise: names are chosen, the code is run, its examples are checked."""

from __future__ import annotations

import ast
import copy
import hashlib
import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from types import CodeType, FrameType
from typing import Any

from talaria.finetune.exercises.core import Draft, Look, Made, Names, Param
from talaria.finetune.exercises.docs import Example, write
from talaria.finetune.exercises.layout import (
    WIDTH,
    TooLongError,
    annotation,
    fit_all,
    indent,
    literal,
    local_types,
    nested_apart,
    requote,
    signature,
)
from talaria.finetune.ngrams import code_tokens

SECONDS = 1.0
"""Longer than this no call may take."""
TRIALS = 12
LONGEST_LINE = 84
LONGEST_FLOAT = 8
LARGEST = 10**9


class RejectedError(Exception):
    """The draft makes no exercise; the message says why in a few words."""


@dataclass(frozen=True)
class Exercise:
    """A function or class that was run: its text, and the imports that it needs above it.

    `defines` are its top-level names. Two exercises with the same `key` differ in names alone,
    those with the same `code_key` in names, numbers, strings and wording alone.
    """

    family: str
    style: str
    imports: tuple[tuple[str, str], ...]
    text: str
    defines: tuple[str, ...]
    key: bytes
    code_key: bytes


@dataclass(frozen=True)
class Raised:
    """An exception of the kind that the draft promises."""

    kind: str
    message: str


def render(draft: Draft, rng: Random) -> Exercise:
    """Write the draft down and run it; RejectedError if anything about it is not as it should be."""
    names = Names(rng, draft.pools, re.findall(r"^def (\w+)", draft.above, re.M))
    # Parameters first: locals give way to them.
    for param in draft.params:
        names.claim(param.role, param.names)
    name = names.claim("self_", draft.names)
    look = draft.look or Look.draw(rng)
    flavour, quote = look.types, look.quote
    body = names.fill(draft.body)
    helpers = names.fill(draft.helpers)
    if quote == "'":
        body, helpers = requote(body), requote(helpers)
    imports = set(draft.imports)
    body, needed = local_types(body, flavour)
    imports |= needed
    helpers, needed = local_types(helpers, flavour)
    imports |= needed
    types = {}
    for role, type_ in [*((p.role, p.type) for p in draft.params), ("return", draft.returns)]:
        types[role], needed = annotation(type_, flavour or "modern")
        imports |= needed if flavour else set()
    dated = ("datetime", "date")
    is_dated = any(re.search(r"\bdate\b", type_) for type_ in types.values())
    if is_dated and flavour:
        imports.add(dated)
    head, defaults = _head(draft, names, name, flavour, types, quote)
    try:
        code = nested_apart(fit_all(indent(body)))
        above = fit_all(helpers) if helpers else draft.above
    except TooLongError:
        raise RejectedError("a line too long") from None
    imports |= names.imports
    top = import_lines(imports | {dated} if is_dated else imports)
    _all_used(f"{head}\n{code}\n")
    calls = _trials(draft, rng, f"{top}\n{above}\n{head}\n{code}\n", name)
    if draft.reference is not None:
        _agree(draft, names, calls, top, above, head, name)
    examples = _choose(rng, draft, name, calls, quote, defaults)
    if not examples:
        raise RejectedError("no example is short and telling")
    doc = write(rng, draft, names, examples, types)
    if re.search(r"\b([a-z]+) \1\b", doc.prose):
        raise RejectedError("a word twice in the prose")
    docstring = _quoted(rng, doc.text)
    gap = "\n" if re.match(r" +(def|@)", code) else ""
    block = f"{head}\n{docstring}\n{gap}{code}"
    text = f"{above}\n\n\n{block}" if above else block
    if is_dated and re.search(r"\bdate\(", doc.text):
        imports.add(dated)
    _prove(top, text, examples)
    if max(map(len, text.split("\n"))) > 100:
        raise RejectedError("a line too long")
    defines = (name, *re.findall(r"^(?:def|class) (\w+)|^(\w+)(?::[^=\n]*)? = ", above, re.M))
    flat = tuple(n for group in defines for n in ([group] if isinstance(group, str) else group) if n)
    key, code_key = keys(f"{above}\n{head}\n{code}", doc.prose)
    return Exercise(draft.family, doc.style, tuple(sorted(imports)), text, flat, key, code_key)


def import_lines(imports: set[tuple[str, str]]) -> str:
    """The import statements in the order that linters ask for."""
    plain = sorted(name for home, name in imports if not home)
    rows = [f"import {name}" for name in plain]
    for home in sorted({home for home, _ in imports if home}):
        found = sorted((n for h, n in imports if h == home), key=lambda n: (n.islower(), n))
        rows.append(f"from {home} import {', '.join(found)}")
    return "\n".join(rows)


def keys(code: str, prose: str) -> tuple[bytes, bytes]:
    """Fingerprints of code and prose with names, and of code with names and literals, set aside."""
    own: set[str] = set()
    for node in ast.walk(ast.parse(code + "\n    pass")):
        if isinstance(node, ast.arg):
            own.add(node.arg)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            own.add(node.id)
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            own.add(node.name)
    number: dict[str, str] = {}
    shape: list[str] = []
    exact: list[str] = []
    for token in code_tokens(code):
        if token in own:
            exact.append(number.setdefault(token, f"#{len(number)}"))
            shape.append(exact[-1])
        else:
            # Quotes are a matter of taste.
            exact.append(token.replace('"', "'"))
            shape.append("0" if token[0].isdigit() or token[0] in "\"'" else token)
    said = [number.get(word, word) for word in re.findall(r"\w+", prose)]
    digest = hashlib.blake2b("\0".join([*exact, *said]).encode(), digest_size=12).digest()
    return digest, hashlib.blake2b("\0".join(shape).encode(), digest_size=12).digest()


def _head(
    draft: Draft,
    names: Names,
    name: str,
    flavour: str | None,
    types: dict[str, str],
    quote: str,
) -> tuple[str, dict[str, str]]:
    written = []
    defaults = {}
    for param in draft.params:
        entry = names.chosen[param.role]
        if flavour:
            entry += f": {types[param.role]}"
        if param.default is not None:
            shown = requote(param.default) if quote == "'" else param.default
            defaults[param.role] = shown
            entry += f" = {shown}" if flavour else f"={shown}"
        written.append(entry)
    try:
        return signature(name, written, types["return"] if flavour else None), defaults
    except TooLongError:
        raise RejectedError("a line too long") from None


def _quoted(rng: Random, text: str) -> str:
    ticks = '"""'
    if "\\" in text:
        raise RejectedError("a backslash in the docstring")
    if "\n" not in text and len(text) + 10 <= WIDTH and not text.endswith('"'):
        return f"    {ticks}{text}{ticks}"
    opening = "\n" if rng.random() < 0.12 else ""
    first = text.split("\n", 1)[0]
    if len(first) > WIDTH - 7:
        opening = "\n"
    return indent(f"{ticks}{opening}{text}\n{ticks}")


def _all_used(code: str) -> None:
    """RejectedError if the function that the code begins with does not use a parameter."""
    _compile(code)
    function = ast.parse(code).body[0]
    assert isinstance(function, ast.FunctionDef)
    used = {node.id for node in ast.walk(function) if isinstance(node, ast.Name)}
    if not {argument.arg for argument in function.args.args} <= used:
        raise RejectedError("a parameter without use")


def _compile(text: str) -> CodeType:
    try:
        return compile(text, "<exercise>", "exec")
    except SyntaxError as error:
        raise RejectedError(f"syntax: {error.msg}") from error


def load(text: str) -> dict[str, Any]:
    """The names that this text defines when it is run."""
    space: dict[str, Any] = {"__name__": "__main__"}  # dataclasses look their module up
    with limited():
        exec(_compile(text), space)
    return space


class limited:
    """Within it, what takes longer than so many seconds is rejected.

    Seconds of the processor: a busy machine must not change what is kept.
    """

    def __init__(self, seconds: float = SECONDS) -> None:
        self.seconds = seconds

    def __enter__(self) -> None:
        signal.signal(signal.SIGVTALRM, self._stop)
        # Again and again: a function may catch whatever is raised in it.
        signal.setitimer(signal.ITIMER_VIRTUAL, self.seconds, self.seconds)

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)

    @staticmethod
    def _stop(_signal: int, _frame: FrameType | None) -> None:
        raise RejectedError("too slow")


def _made(value: Any, space: dict[str, Any]) -> Any:
    """The value with objects of the exercise's own classes in it."""
    if isinstance(value, Made):
        return space[value.cls](*(_made(v, space) for v in value.args))
    if isinstance(value, (list, tuple)):
        return type(value)(_made(v, space) for v in value)
    if isinstance(value, dict):
        return {k: _made(v, space) for k, v in value.items()}
    return value


def _call(space: dict[str, Any], name: str, arguments: tuple[Any, ...], draft: Draft) -> Any:
    function = space[name]
    arguments = _made(arguments, space)
    given = copy.deepcopy(arguments)
    try:
        result = function(*given)
        if isinstance(result, Iterator):
            result = list(result)
    except RejectedError:
        raise
    except Exception as error:
        kind = type(error).__name__
        if draft.raises and kind == draft.raises[0]:
            return Raised(kind, error.args[0] if kind == "KeyError" else str(error))
        raise RejectedError(f"raises {kind} ({draft.family})") from error
    if given != arguments and not draft.mutates:
        raise RejectedError("changes its arguments")
    return result


def _arguments(draft: Draft, rng: Random) -> tuple[Any, ...]:
    if draft.arguments:
        return draft.arguments(rng)
    return tuple(param.values(rng) for param in draft.params)


def _trials(draft: Draft, rng: Random, code: str, name: str) -> list[tuple[tuple[Any, ...], Any, str]]:
    """Calls with their results and the literals of these, without repeated calls."""
    space = load(code)
    calls = []
    met = set()
    with limited():
        for _ in range(TRIALS):
            arguments = _arguments(draft, rng)
            shown = literal(arguments)
            if shown in met:
                continue
            met.add(shown)
            result = _call(space, name, arguments, draft)
            calls.append((arguments, result, literal(result)))
    if draft.params and len({shown for _, _, shown in calls}) < 2:
        raise RejectedError("the same result for all arguments")
    return calls


def _agree(
    draft: Draft,
    names: Names,
    calls: list[tuple[tuple[Any, ...], Any, str]],
    top: str,
    above: str,
    head: str,
    name: str,
) -> None:
    others = Names(Random(0), draft.pools, names.chosen.values())
    others.chosen = dict(names.chosen)
    assert draft.reference is not None
    body, _ = local_types(others.fill(draft.reference), None)
    lines = import_lines(others.imports)
    space = load(f"{top}\n{lines}\n{above}\n{head}\n{indent(body)}\n")
    with limited():
        for arguments, _, shown in calls:
            again = literal(_call(space, name, arguments, draft))
            if again != shown:
                raise RejectedError(f"two bodies disagree ({draft.family})")


def _is_plain(value: Any) -> bool:
    """Whether the value prints briefly, and the same whatever the order of sets in memory."""
    if isinstance(value, float):
        return len(repr(value)) <= LONGEST_FLOAT
    if isinstance(value, int):
        return abs(value) < LARGEST
    if isinstance(value, dict):
        return all(_is_plain(part) and _is_ordered(part) for item in value.items() for part in item)
    if isinstance(value, (list, tuple)):
        return all(_is_plain(part) and _is_ordered(part) for part in value)
    return all(map(_is_plain, value)) if isinstance(value, set) else True


def _is_ordered(value: Any) -> bool:
    return not isinstance(value, set) or len(value) < 2


def _choose(
    rng: Random,
    draft: Draft,
    name: str,
    calls: list[tuple[tuple[Any, ...], Any, str]],
    quote: str,
    defaults: dict[str, str],
) -> list[Example]:
    """One to four examples that show different results, telling ones first."""
    wanted = rng.choices((1, 2, 3, 4), (25, 40, 25, 10))[0]
    lazy = draft.returns.startswith("Iterator")
    found: dict[str, Example] = {}
    dull: dict[str, Example] = {}
    for arguments, result, shown in calls:
        if not _is_plain(result) or len(shown) > 70:
            continue
        given = [literal(value, quote) for value in arguments]
        while given and len(given) <= len(draft.params) and _is_default(draft, given, defaults):
            given.pop()
        call = f"{name}({', '.join(given)})"
        raised = f"{result.kind}: {result.message}" if isinstance(result, Raised) else None
        call = f"list({call})" if lazy and not raised else call
        if isinstance(result, set):
            call = f"sorted({call})"
            result = sorted(result, key=lambda v: (str(type(v)), v))
            shown = literal(result)
        if len(call) > LONGEST_LINE - 8 or len(call) + len(shown) > 110:
            continue
        example = Example(call, literal(result, quote), repr(result), raised)
        place = dull if raised or not result else found
        if shown not in place:
            place[shown] = example
    telling = list(found.values())
    rest = list(dull.values())
    chosen = telling[:wanted]
    if rest and (len(chosen) < 2 or rng.random() < 0.35):
        chosen = [*chosen[: max(1, wanted - 1)], rest[0]]
    if len(chosen) > 1 and rng.random() < 0.3:
        chosen[0], chosen[-1] = chosen[-1], chosen[0]
    return chosen if telling or draft.returns in ("bool", "int") else []


def _is_default(draft: Draft, given: list[str], defaults: dict[str, str]) -> bool:
    param: Param = draft.params[len(given) - 1]
    return param.role in defaults and given[-1] == defaults[param.role]


def _prove(top: str, text: str, examples: list[Example]) -> None:
    """Run the finished text anew and see that each example holds; RejectedError if one does not."""
    space = load(f"{top}\n{text}\n")
    with limited():
        for example in examples:
            try:
                printed = repr(eval(example.call, space))
            except RejectedError:
                raise
            except Exception as error:
                if f"{type(error).__name__}: {error.args[0]}" != example.raised:
                    raise RejectedError("an example does not hold") from error
                continue
            if example.raised or printed != example.printed:
                raise RejectedError("an example does not hold")
