"""Docstrings: one task said in many ways, from one line to tables of arguments."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from talaria.finetune.exercises.core import SLOT, Draft, Names, Param, pick, say

STYLES: dict[str, float] = {
    "plain": 30,
    "doctest": 26,
    "inline": 18,
    "google": 11,
    "numpy": 8,
    "rest": 7,
}
VERBS = ("Return", "Return", "Return", "Compute", "Calculate", "Find", "Get", "Determine")
MAKING = ("Return", "Return", "Return", "Get", "Give", "Produce")
REPORTING: tuple[str, ...] = ("Check whether", "Check if", "Return whether", "Tell whether", "Determine whether", "Test whether", "Say whether", "Determine if")
TWICE = re.compile(r"\b(\w+) \1\b")
ORDER = re.compile(r"(Count|Return|Compute|Find|Work out) (how|the|a|what) ")


@dataclass(frozen=True)
class Example:
    """A call and what it gives: code of a literal, as the interpreter prints it, or an exception."""

    call: str
    literal: str
    printed: str
    raised: str | None = None


@dataclass(frozen=True)
class Doc:
    """A docstring's text without its quotes, its style, and its words without the examples."""

    style: str
    text: str
    prose: str


def third(verb: str) -> str:
    """The third person of a verb: "Return" becomes "Returns"."""
    if verb in ("do", "go") or verb.endswith(("ch", "sh", "x", "ss")):
        return verb + "es"
    if verb.endswith("y") and verb[-2] not in "aeo":
        return verb[:-1] + "ies"
    return verb + "s"


def enumeration(parts: Sequence[str]) -> str:
    """The parts with commas and "and" between them."""
    if len(parts) < 2:
        return "".join(parts)
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


def capital(sentence: str) -> str:
    """The sentence with its first letter in upper case."""
    return sentence[:1].upper() + sentence[1:]


def write(rng: Random, draft: Draft, names: Names, examples: Sequence[Example], types: dict[str, str]) -> Doc:
    """A docstring in a style drawn at random; `types` are the written types of the parameters."""
    style = pick(rng, STYLES)
    if style in ("doctest", "inline") and not examples:
        style = "plain"
    if style in ("google", "numpy", "rest") and not draft.params:
        style = "plain"
    width = rng.choice((72, 76, 80, 84))
    marks = {"numpy": ("`", "``", ""), "rest": ("``", "`", "")}.get(style, ("", "", "`", "`", "'"))
    mark = rng.choice(marks)
    lead = style in ("plain", "doctest", "inline") and bool(draft.params) and rng.random() < 0.3
    if lead and not mark and rng.random() < 0.8:
        mark = "`"
    nouns = [param.the for param in draft.params if param.the]
    by_noun = len(set(nouns)) == len(nouns) and rng.random() < (0.5 if lead else 0.3)

    def face(param: Param) -> str:
        name = names.chosen[param.role]
        if by_noun and param.the:
            return param.the
        return f"{mark}{name}{mark}"

    by_role = {param.role: param for param in draft.params}

    def fill(prose: str) -> str:
        def put(match: re.Match[str]) -> str:
            param = by_role.get(match[1])
            return face(param) if param else names[match[1]]

        return SLOT.sub(put, say(rng, prose))

    raw = _task(rng, draft, lead, by_noun)
    task = fill(raw)
    if not mark and TWICE.search(task):
        # "the year year": the name needs its marks.
        mark = "``" if style == "rest" else "`"
        task = fill(raw)
    notes = [capital(fill(note)) for note in draft.notes]
    sentences = [capital(task)]
    body = " ".join(notes)
    prose = " ".join([*sentences, *notes])
    if style == "plain":
        text = _paragraphs(rng, sentences[0], body, width)
    elif style == "doctest":
        # The style shows calls as typed at the interpreter's prompt.
        head = _paragraphs(rng, sentences[0], body, width)
        text = head + "\n" + rng.choice(("\n", "\n", "\n", "")) + _doctests(rng, examples)
    elif style == "inline":
        usable = [example for example in examples if example.raised is None]
        if not usable:
            style, text = "plain", _paragraphs(rng, sentences[0], body, width)
        else:
            text = _paragraphs(rng, sentences[0], body, width) + "\n" + _inline(rng, usable)
    else:
        text = _paragraphs(rng, sentences[0], body, width)
        table = {"google": _google, "numpy": _numpy, "rest": _rest}[style]
        text += "\n\n" + table(rng, draft, names, fill, types)
        if examples and rng.random() < 0.5:
            head = {"google": "Examples:\n", "numpy": "Examples\n--------\n"}.get(style, "")
            shown = _doctests(rng, examples, header=False)
            text += f"\n\n{head}" + (textwrap.indent(shown, "    ") if style == "google" else shown)
    return Doc(style, text, prose)


def _task(rng: Random, draft: Draft, lead: bool, by_noun: bool) -> str:
    """The task as one or two sentences."""
    goal = draft.goal
    verb = rng.choice(goal.verbs or (MAKING if draft.returns.startswith(("str", "list")) else VERBS))
    if goal.kind == "whether":
        report = rng.choice(REPORTING)
        told = f"Return True if {goal.text}{{|, False otherwise|, and False otherwise|, else False}}"
        order = told if rng.random() < 0.6 else f"{report} {goal.text}"
    elif goal.kind == "do":
        order = goal.text
    else:
        order = f"{verb} {goal.text}"
    order = say(rng, order)
    if lead:
        given = enumeration([_introduction(rng, param, by_noun) for param in draft.params])
        small = order[:1].lower() + order[1:]
        return rng.choice(
            (
                f"Given {given}, {small}.",
                f"Given {given}, {small}.",
                f"You are given {given}. {order}.",
                f"Take {given} and {small}.",
                f"{capital(given)} {'is' if len(draft.params) == 1 else 'are'} given. {order}.",
            )
        )
    if rng.random() < 0.3 and ";" not in order and not order.startswith("Starting"):
        first, _, rest = order.partition(" ")
        if first.isalpha():
            rest = re.sub(r"\b(and|then) (return|give|add|keep|join|put)\b", _conjugate, rest)
            return f"{third(first)} {rest}."
    return order + "."


def _conjugate(match: re.Match[str]) -> str:
    return f"{match[1]} {third(match[2])}"


def _introduction(rng: Random, param: Param, by_noun: bool) -> str:
    if by_noun and param.the:
        return param.a
    return f"{param.a} ${param.role}"


def _wrap(text: str, width: int) -> str:
    # A break after a comma of an example or within a quoted blank would be hard to read.
    return textwrap.fill(text, width, break_long_words=False, break_on_hyphens=False)


def _paragraphs(rng: Random, first: str, rest: str, width: int) -> str:
    if not rest or rng.random() < 0.5:
        whole = f"{first} {rest}".rstrip()
        # One line that has no room for its closing quotes looks odd.
        return _wrap(whole, width if len(whole) > width else 74)
    return f"{_wrap(first, width)}\n\n{_wrap(rest, width)}"


def _doctests(rng: Random, examples: Sequence[Example], header: bool = True) -> str:
    rows = []
    for example in examples:
        rows.append(f">>> {example.call}")
        if example.raised:
            rows += ["Traceback (most recent call last):", "    ...", example.raised]
        elif example.printed != "None":
            rows.append(example.printed)
        else:
            rows[-1] = f">>> {example.call} is None"
            rows.append("True")
    if header and rng.random() < 0.25:
        return rng.choice(("Examples:", "Example:")) + "\n" + "\n".join(rows)
    return "\n".join(rows)


def _inline(rng: Random, examples: Sequence[Example]) -> str:
    form = rng.choice(("==", "==", "->", "=>", "returns", "should return", "gives", "# ->"))
    rows = [f"{example.call} is None" if form == "==" and example.literal == "None" else f"{example.call} {form} {example.literal}" for example in examples]
    if len(rows) == 1:
        head = rng.choice(("For example, ", "For example: ", "Example: ", "e.g. ", "E.g. "))
        return rng.choice(("", "\n")) + head + rows[0]
    if rng.random() < 0.3:
        return "\n" + "\n".join(rows)
    head = rng.choice(("For example:", "Examples:", "Example:", "Some examples:", "e.g.:"))
    margin = rng.choice(("", "    ", "    ", "  ", "* ", "- "))
    return rng.choice(("", "\n")) + head + "\n" + "\n".join(margin + row for row in rows)


def _about(param: Param, fill: Callable[[str], str]) -> str:
    return capital(fill(param.about))


def _gives(draft: Draft, fill: Callable[[str], str]) -> str:
    if draft.gives:
        return capital(fill(draft.gives))
    if draft.goal.kind == "whether":
        return capital(fill(f"{{True if|Whether}} {draft.goal.text}"))
    if draft.goal.kind == "get":
        return capital(fill(draft.goal.text))
    order = ORDER.match(draft.goal.text)
    if order and order[1] == "Count" and order[2] == "the":
        return "The number of " + fill(draft.goal.text[order.end() :])
    if order and " and return" not in draft.goal.text and "Count" not in order[1]:
        return capital(fill(draft.goal.text[len(order[1]) + 1 :]))
    return "The result"


def _google(rng: Random, draft: Draft, names: Names, fill: Callable[[str], str], types: dict[str, str]) -> str:
    typed = rng.random() < 0.5
    rows = ["Args:"]
    for param in draft.params:
        kind = f" ({types[param.role]})" if typed else ""
        entry = f"{names.chosen[param.role]}{kind}: {_about(param, fill)}."
        rows.append(textwrap.fill(entry, 80, initial_indent="    ", subsequent_indent=" " * 8))
    rows += ["", "Returns:"]
    kind = f"{types['return']}: " if typed else ""
    entry = f"{kind}{_gives(draft, fill)}."
    rows.append(textwrap.fill(entry, 80, initial_indent="    ", subsequent_indent="    "))
    if draft.raises:
        rows += ["", "Raises:", f"    {draft.raises[0]}: {capital(fill(draft.raises[1]))}."]
    return "\n".join(rows)


def _numpy(rng: Random, draft: Draft, names: Names, fill: Callable[[str], str], types: dict[str, str]) -> str:
    rows = ["Parameters", "----------"]
    for param in draft.params:
        rows.append(f"{names.chosen[param.role]} : {types[param.role]}")
        rows.append(textwrap.indent(_wrap(f"{_about(param, fill)}.", 76), "    "))
    rows += ["", "Returns", "-------", types["return"]]
    rows.append(textwrap.indent(_wrap(f"{_gives(draft, fill)}.", 76), "    "))
    if draft.raises:
        rows += ["", "Raises", "------", draft.raises[0]]
        rows.append(f"    {capital(fill(draft.raises[1]))}.")
    return "\n".join(rows)


def _rest(rng: Random, draft: Draft, names: Names, fill: Callable[[str], str], types: dict[str, str]) -> str:
    typed = rng.random() < 0.4
    rows = []
    for param in draft.params:
        name = names.chosen[param.role]
        about = fill(param.about)
        rows.append(textwrap.fill(f":param {name}: {about}", 80, subsequent_indent="    "))
        if typed:
            rows.append(f":type {name}: {types[param.role]}")
    gives = _gives(draft, fill)
    gives = gives if gives.startswith("True") else gives[:1].lower() + gives[1:]
    rows.append(textwrap.fill(f":return: {gives}", 80, subsequent_indent="    "))
    if typed:
        rows.append(f":rtype: {types['return']}")
    if draft.raises:
        rows.append(f":raises {draft.raises[0]}: {fill(draft.raises[1])}")
    return "\n".join(rows)
