"""Pipelines: elements of a source are filtered, changed and brought together, in many idioms."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from talaria.finetune.exercises.core import Draft, Goal, negation, say
from talaria.finetune.exercises.streams import (
    SOURCES,
    Change,
    ElementSource,
    ElementTest,
    ExerciseScene,
    change_for,
    digits_of,
    divisors_of,
    singular,
    test_for,
    up_to,
)


@dataclass(frozen=True)
class Gather:
    """How elements are brought together.

    In `phrase`, `@` stands for "the even numbers in xs". In `code` it stands for a generator
    expression, in `step` for one element. `verbs` replace the usual ones.
    """

    tag: str
    phrase: str
    returns: str
    code: str
    init: str = ""
    step: str = ""
    final: str = ""
    notes: tuple[str, ...] = ()
    kind: str = "get"
    verbs: tuple[str, ...] = ()
    raises: tuple[str, str] | None = None


NONE_LEFT = "{if there are none|if there is no such @|when there are none|if no such @ exists}"


def _edge(scene: ExerciseScene, type_: str, empty: bool) -> tuple[str, str, str, tuple[str, str] | None]:
    """What a function gives for nothing: code of a value, its type, the note, an exception."""
    rng = scene.rng
    when = "{if there are none|when there are none}" if empty else "{if there is none|if none is found}"
    forms = [("None", f"{type_} | None"), ("None", f"{type_} | None")]
    forms += [("0", "int"), ("-1", "int")] if type_ == "int" else [('""', "str"), ('""', "str")]
    if rng.random() < 0.12 and empty:
        return "", type_, "", ("ValueError", say(rng, when))
    code, returns = rng.choice(forms)
    said = {'""': "an empty string"}.get(code, code)
    note = f"{{Return {said} {when}|{when}, return {said}}}."
    note = say(rng, note)
    return code, returns, note, None


def _extreme(scene: ExerciseScene, type_: str, largest: bool) -> Gather:
    edge, returns, note, raises = _edge(scene, type_, True)
    sign, name = (">", "max") if largest else ("<", "min")
    if type_ == "int":
        word = "{largest|greatest|maximum}" if largest else "{smallest|lowest|minimum}"
    else:
        word = "alphabetically last" if largest else "alphabetically first"
        note += " Capital letters come before small ones." if scene.rng.random() < 0.5 else ""
    step = f"if $best is None or @ {sign} $best:\n    $best = @"
    if raises:
        code = f'$kept = [@]\nif not $kept:\n    raise ValueError("no values")\nreturn {name}($kept)'
        final = 'if $best is None:\n    raise ValueError("no values")\nreturn $best'
    else:
        code = f"{name}((@), default={edge})"
        final = "return $best" if edge == "None" else f"return {edge} if $best is None else $best"
    return Gather(
        name,
        f"the {word} of @",
        returns,
        code,
        "$best = None",
        step,
        final,
        (note,) if note else (),
        raises=raises,
    )


def _total(_: ExerciseScene) -> Gather:
    return Gather("sum", "{the sum of|the total of|the sum of all} @", "int", "sum(@)", "$total = 0", "$total += @", "return $total")


def _product(scene: ExerciseScene) -> Gather:
    init = "$product_ = 1"
    note = "{The product of no numbers is 1|If there are none, the result is 1|Return 1 if there are none}."
    code = "$math.prod(@)"
    return Gather("product", "the product of @", "int", code, init, "$product_ *= @", "return $product_", (say(scene.rng, note),))


def _count(_: ExerciseScene) -> Gather:
    verbs = ("Count", "Count", "Return the number of", "Find how many", "Return how many")
    return Gather("count", "@", "int", "sum(1 for @)", "$count = 0", "$count += 1", "return $count", verbs=verbs)


def _mean(scene: ExerciseScene) -> Gather:
    zero = scene.rng.random() < 0.6
    value, returns = ("0.0", "float") if zero else ("None", "float | None")
    code = f"$kept = [@]\nif not $kept:\n    return {value}\nreturn sum($kept) / len($kept)"
    note = f"{{Return {value} if there are none|If there are none, the result is {value}}}."
    step = "$total += @\n$count += 1"
    final = f"return $total / $count if $count else {value}"
    return Gather("mean", "the {average|mean|arithmetic mean} of @", returns, code, "$total = 0\n$count = 0", step, final, (say(scene.rng, note),))


def _list(scene: ExerciseScene, type_: str) -> Gather:
    order: tuple[str, ...] = ("Keep their order.", "The order is kept.", "Their order stays the same.")
    order += ("", "", "", "The result is in the original order.")
    note = scene.rng.choice(order)
    verbs = (
        "Return",
        "Return a list of",
        "Collect",
        "List",
        "Get a list of",
        "Return a new list with",
    )
    return Gather("list", "@", f"list[{type_}]", "[@]", "$out = []", "$out.append(@)", "return $out", (note,) if note else (), verbs=verbs)


def _sorted(scene: ExerciseScene, type_: str) -> Gather:
    down = scene.rng.random() < 0.4
    if type_ == "int":
        order = "in {descending|decreasing} order" if down else "in {ascending|increasing} order"
        order = scene.rng.choice((order, "from largest to smallest" if down else "from smallest to largest"))
    else:
        order = "in reverse alphabetical order" if down else "in alphabetical order"
    flag = ", reverse=True" if down else ""
    code = f"sorted((@){flag})" if down else "sorted(@)"
    final = f"$out.sort({'reverse=True' if down else ''})\nreturn $out"
    verbs = ("Return", "Return a list of", "List", "Get a list of")
    return Gather("sorted", f"@, {order}" if "from" in order else f"@~ {order}", f"list[{type_}]", code, "$out = []", "$out.append(@)", final, verbs=verbs)


def _unique(scene: ExerciseScene, type_: str) -> Gather:
    verbs = ("Return", "Return a list of", "List", "Collect")
    phrase = scene.rng.choice(("@, each only once, in order of first appearance", "@ without repetitions, in their order"))
    code = "list(dict.fromkeys(@))"
    return Gather(
        "unique",
        phrase,
        f"list[{type_}]",
        code,
        "$seen = set()\n$out = []",
        "if @ not in $seen:\n    $seen.add(@)\n    $out.append(@)",
        "return $out",
        verbs=verbs,
    )


def _distinct(_: ExerciseScene) -> Gather:
    verbs = ("Count", "Return the number of", "Find the number of")
    return Gather("count_distinct", "the different values among @", "int", "len(set(@))", "$seen = set()", "$seen.add(@)", "return len($seen)", verbs=verbs)


def _set(_: ExerciseScene, type_: str) -> Gather:
    verbs = ("Return the set of", "Collect into a set", "Return a set of", "Build the set of")
    return Gather("set", "@", f"set[{type_}]", "set(@)", "$out = set()", "$out.add(@)", "return $out", verbs=verbs)


def _first(scene: ExerciseScene, type_: str) -> Gather:
    edge, returns, note, _ = _edge(scene, type_, False)
    return Gather("first", "the first of @", returns, f"next((@), {edge})", "", "return @", f"return {edge}", (note,))


def _last(scene: ExerciseScene, type_: str) -> Gather:
    edge, returns, note, _ = _edge(scene, type_, False)
    code = f"$kept = [@]\nreturn $kept[-1] if $kept else {edge}"
    return Gather("last", "the last of @", returns, code, f"$out = {edge}", "$out = @", "return $out", (note,))


def _spread(scene: ExerciseScene) -> Gather:
    code = "$kept = [@]\nif not $kept:\n    return 0\nreturn max($kept) - min($kept)"
    note = say(scene.rng, "{Return 0 if there are none|If there are none, the difference is 0}.")
    return Gather(
        "spread",
        "the difference between the largest and the smallest of @",
        "int",
        code,
        "$kept = []",
        "$kept.append(@)",
        "return max($kept) - min($kept) if $kept else 0",
        (note,),
    )


def _alternating(scene: ExerciseScene) -> Gather:
    code = "$kept = [@]\nreturn sum($kept[::2]) - sum($kept[1::2])"
    note = say(
        scene.rng,
        "{The first is added, the second subtracted, the third added and so on"
        "|Add the first, subtract the second, add the third and so on}; {the result is 0|0} if there are none.",
    )
    return Gather(
        "alternating_sum", "the alternating sum of @", "int", code, "$total = 0\n$sign = 1", "$total += $sign * @\n$sign = -$sign", "return $total", (note,)
    )


def _running(scene: ExerciseScene) -> Gather:
    code = "list($accumulate(@))"
    phrase = "the running totals of @"
    note = scene.rng.choice(("", "Each entry is the sum of all values so far."))
    return Gather(
        "running_totals",
        phrase,
        "list[int]",
        code,
        "$total = 0\n$out = []",
        "$total += @\n$out.append($total)",
        "return $out",
        (note,) if note else (),
        verbs=("Return", "Return a list of", "List", "Compute"),
    )


def _join(scene: ExerciseScene) -> Gather:
    sep, said = scene.rng.choice(
        (
            (", ", "a comma and a blank"),
            ("", ""),
            (" ", "{single blanks|one blank}"),
            ("-", "{hyphens|a hyphen}"),
            (",", "commas"),
            ("/", "slashes"),
            ("_", "underscores"),
            (" | ", '" | "'.replace("|", "+")),
        )
    )
    sep = sep.replace("|", "+")
    said = f"separated by {said}" if sep else "one after the other"
    said = say(scene.rng, f"joined into {{one|a single}} string, {said}")
    note = scene.rng.choice(("", "", "The result is an empty string if there are none."))
    return Gather("join", f"@~ {said}", "str", f'"{sep}".join(@)', "$out = []", "$out.append(@)", f'return "{sep}".join($out)', (note,) if note else ())


def _longest(scene: ExerciseScene) -> Gather:
    edge, returns, note, _ = _edge(scene, "str", True)
    up = scene.rng.random() < 0.6
    name, sign, word = ("max", ">", "longest") if up else ("min", "<", "shortest")
    tie = say(scene.rng, "{If several are equally long, take the first|The first one wins a tie}.")
    code = f"{name}((@), key=len, default={edge or 'None'})"
    if not edge:
        note, returns = "Return None if there are none.", "str | None"
        edge = "None"
    final = "return $best" if edge == "None" else f"return {edge} if $best is None else $best"
    return Gather(
        word,
        f"the {word} of @",
        returns,
        code,
        "$best = None",
        f"if $best is None or len(@) {sign} len($best):\n    $best = @",
        final,
        (note, tie) if scene.rng.random() < 0.5 else (tie, note),
    )


def _all_length(_: ExerciseScene) -> Gather:
    return Gather("total_length", "the {total|combined} length of @", "int", 'len("".join(@))', "$total = 0", "$total += len(@)", "return $total")


def _tally(_: ExerciseScene, type_: str) -> Gather:
    verbs = ("Count", "Return a dictionary that tells", "Find", "Work out")
    phrase = "how often each value occurs among @"
    return Gather(
        "frequencies",
        phrase,
        f"dict[{type_}, int]",
        "dict($Counter(@))",
        f"$counts:: dict[{type_}, int] = {{}}",
        "$counts[@] = $counts.get(@, 0) + 1",
        "return $counts",
        verbs=verbs,
    )


def _top(scene: ExerciseScene, type_: str) -> Gather:
    n = scene.amount(2, 4, "how many to return")
    small = scene.rng.random() < 0.4
    word = ("smallest", "largest") if type_ == "int" else ("alphabetically first", "alphabetically last")
    flag = "" if small else ", reverse=True"
    inner = f"(@){flag}" if flag else "@"
    note = say(scene.rng, "{Return all of them|Give them all} if there are fewer.")
    order = "smallest first" if small else "largest first"
    if type_ == "str":
        order = "in alphabetical order" if small else "in reverse alphabetical order"
    final = f"$out.sort({flag.removeprefix(', ')})\nreturn $out[:{n}]"
    return Gather(
        f"{'lowest' if small else 'top'}",
        f"the {n} {word[not small]} of @, {order}",
        f"list[{type_}]",
        f"sorted({inner})[:{n}]",
        "$out = []",
        "$out.append(@)",
        final,
        (note,),
    )


def _after(scene: ExerciseScene, type_: str) -> Gather:
    """Everything but some at one end, or every second one."""
    which = scene.rng.randrange(4)
    code, phrase, tag = (
        ("[1:]", "all but the first of @", "rest"),
        ("[:-1]", "all but the last of @", "without_last"),
        ("[::2]", "every second one of @, beginning with the first", "every_second"),
        ("[::-1]", "@~ in reverse order", "reversed"),
    )[which]
    verbs = ("Return", "Return a list of", "List")
    return Gather(tag, phrase, f"list[{type_}]", f"[@]{code}", "$out = []", "$out.append(@)", f"return $out{code}", verbs=verbs)


def _numbers(scene: ExerciseScene) -> Gather:
    made: tuple[Callable[[ExerciseScene], Gather], ...] = (
        _total,
        _total,
        _count,
        _mean,
        _product,
        _spread,
        _alternating,
        _running,
        _distinct,
    )
    if scene.rng.random() < 0.55:
        return scene.rng.choice(made)(scene)
    if scene.rng.random() < 0.4:
        return _extreme(scene, "int", scene.rng.random() < 0.6)
    return _either(scene, "int")


def _either(scene: ExerciseScene, type_: str) -> Gather:
    made = (_list, _list, _list, _sorted, _unique, _set, _first, _last, _tally, _top, _after)
    return scene.rng.choice(made)(scene, type_)


def _strings(scene: ExerciseScene) -> Gather:
    roll = scene.rng.random()
    if roll < 0.4:
        return scene.rng.choice((_count, _join, _join, _longest, _all_length, _distinct))(scene)
    if roll < 0.5:
        return _extreme(scene, "str", scene.rng.random() < 0.5)
    return _either(scene, "str")


def gather_for(scene: ExerciseScene, type_: str) -> Gather:
    """A way to bring elements of the type together."""
    return _numbers(scene) if type_ == "int" else _strings(scene)


# From the pieces to prose


def _elements(rng: Random, source: ElementSource, tests: list[ElementTest], link: str) -> str:
    """The elements that meet the tests, in the plural: "the even numbers in xs"."""
    adjective = ""
    verbs = [test.verb for test in tests]
    if tests and tests[0].adjective and rng.random() < 0.7 and link != " or ":
        adjective = tests[0].adjective + " "
        verbs = verbs[1:]
    that = ""
    if verbs:
        joined = f"{link}".join(verbs)
        if len(verbs) == 2 and all(v.startswith("are ") for v in verbs) and rng.random() < 0.6:
            joined = verbs[0] + link + verbs[1].removeprefix("are ")
        that = f" that {joined}"
    every = "{all |}" if not tests else ""
    return say(rng, f"{every}the {adjective}{source.many} {source.where}{that}")


# From the pieces to code


@dataclass(frozen=True)
class PipelinePlan:
    """All pieces of one pipeline, ready to be put together in any idiom."""

    source: ElementSource
    test: str
    opposite: str
    change: str
    gather: Gather


def _generator(plan: PipelinePlan) -> str:
    if plan.gather.code.startswith("sum(1 for"):
        filtered = f" if {plan.test}" if plan.test else ""
        return f"$x in {plan.source.code}{filtered}"
    if "for @" in plan.gather.code:
        filtered = f" if {plan.test}" if plan.test else ""
        return f"$x in {plan.source.code}{filtered}"
    filtered = f" if {plan.test}" if plan.test else ""
    return f"{plan.change} for $x in {plan.source.code}{filtered}"


def _return(code: str) -> str:
    return code if code.startswith("$kept") else f"return {code}"


def _put(code: str, generator: str, bare: str | None) -> str:
    """`code` with a generator in place of `@`, or with an iterable as it stands."""
    if bare is not None and "for @" not in code:
        for mark, plain in (("[@]", f"list({bare})"), ("(@)", bare), ("@", bare)):
            if mark == "(@)" and "((@)" not in code:
                continue
            code = code.replace(mark, plain)
        return code
    if "for @" in code and bare is not None:
        return code.replace("@", f"$x in {bare}")
    return code.replace("@", generator)


def _as_expression(plan: PipelinePlan) -> str:
    bare = plan.source.code if not plan.test and plan.change == "$x" else None
    return _return(_put(plan.gather.code, _generator(plan), bare))


def _as_steps(plan: PipelinePlan) -> str:
    """A list for each stage."""
    lines = []
    current = plan.source.code
    if plan.test:
        lines.append(f"$kept2 = [$x for $x in {current} if {plan.test}]")
        current = "$kept2"
    if plan.change != "$x" and "1 for @" not in plan.gather.code:
        lines.append(f"$mapped = [{plan.change} for $x in {current}]")
        current = "$mapped"
    if plan.gather.tag == "count":
        if current == plan.source.code:
            current = f"list({current})"
        return "\n".join([*lines, f"return len({current})"])
    if plan.gather.code == "[@]" and current != plan.source.code:
        return "\n".join([*lines, f"return {current}"])
    return "\n".join([*lines, _return(_put(plan.gather.code, "", current))])


def _as_lambdas(plan: PipelinePlan) -> str:
    """With map and filter."""
    current = plan.source.code
    if plan.test:
        current = f"filter(lambda $x: {plan.test}, {current})"
    if plan.gather.tag == "count":
        return f"return len(list({current}))"
    if plan.change != "$x":
        function = {"abs($x)": "abs", "len($x)": "len", "str($x)": "str"}.get(plan.change)
        methods = {"$x.upper()": "str.upper", "$x.lower()": "str.lower", "ord($x)": "ord"}
        function = function or methods.get(plan.change) or f"lambda $x: {plan.change}"
        current = f"map({function}, {current})"
    return _return(_put(plan.gather.code, "", current))


def _step(plan: PipelinePlan) -> str:
    step = plan.gather.step
    if plan.change != "$x" and step.count("@") > 1:
        return f"$value = {plan.change}\n" + step.replace("@", "$value")
    change = plan.change
    if "$sign * @" in step:
        change = f"({change})" if re.search(r" [-+%/]", change) else change
    return step.replace("@", change)


def _shift(code: str, levels: int = 1) -> str:
    return "\n".join("    " * levels + line for line in code.split("\n"))


def _as_loop(plan: PipelinePlan, rng: Random) -> str:
    """A loop that accumulates."""
    step = _step(plan)
    head = f"for $x in {plan.source.code}:"
    if plan.source.listed and rng.random() < 0.12:
        head = f"for $i in range(len({plan.source.code})):\n    $x = {plan.source.code}[$i]"
    if plan.test and plan.opposite and rng.random() < 0.3:
        inner = f"if {plan.opposite}:\n    continue\n{step}"
    elif plan.test and step.startswith("if ") and "or" not in step and rng.random() < 0.5:
        inner = re.sub(r"^if (.*):", lambda m: f"if {_tight(plan.test)} and {m[1]}:", step)
    elif plan.test:
        inner = f"if {plan.test}:\n{_shift(step)}"
    else:
        inner = step
    return "\n".join(filter(None, [plan.gather.init, head, _shift(inner), plan.gather.final]))


def _as_while(plan: PipelinePlan) -> str:
    """A loop over positions."""
    code = plan.source.code
    step = _step(plan)
    inner = f"if {plan.test}:\n{_shift(step)}" if plan.test else step
    lines = [plan.gather.init, "$i = 0", f"while $i < len({code}):", f"    $x = {code}[$i]"]
    return "\n".join(filter(None, [*lines, _shift(inner), "    $i += 1", plan.gather.final]))


def _tight(test: str) -> str:
    return f"({test})" if " or " in test else test


def _negated(test: ElementTest) -> str:
    if test.opposite:
        return test.opposite
    return negation(test.code)


LAST = ("sum", "total", "mean", "average", "max", "maximum", "min", "minimum", "count", "product", "spread", "total_length")
"""What may stand at the end of a name: "even_squares_sum"."""


def _names(rng: Random, source: ElementSource, tests: list[ElementTest], change: Change | None, tag: str, noun: str) -> tuple[str, ...]:
    """Names that a function of these pieces might have."""
    picked = [test.tag for test in tests][:1]
    made = change.tag if change else ""
    nouns = source.tag or noun.replace(" ", "_")
    found = []
    verb = {
        "list": ("get", "collect", "list", "find", "select", "extract"),
        "sorted": ("sorted", "sort", "ordered"),
        "join": ("join", "concat", "combine"),
        "set": ("set_of", "unique", "distinct"),
        "max": ("max", "largest", "maximum", "highest"),
        "min": ("min", "smallest", "minimum", "lowest"),
        "sum": ("sum", "total", "sum_of", "add", "add_up"),
        "mean": ("mean", "average", "avg"),
        "count": ("count", "number_of", "how_many", "num"),
    }.get(tag, (tag,))
    for _ in range(3):
        parts = [rng.choice(verb), *picked, made or nouns]
        found.append("_".join(part for part in parts if part))
        if made:
            found.append("_".join(filter(None, [rng.choice(verb), made, *picked, nouns])))
        last = [word for word in verb if word in LAST]
        if last:
            found.append("_".join(filter(None, [*picked, made or nouns, rng.choice(last)])))
    short = [name for name in found if len(name) <= 32]
    if rng.random() < 0.07:
        short = [rng.choice(("solve", "compute", "process", "f", "func", "solution", "evaluate"))]
    return tuple(short or found)


def pipeline(rng: Random) -> Draft:
    """Elements are filtered, changed and gathered."""
    scene = ExerciseScene(rng)
    source = rng.choices(list(SOURCES), list(SOURCES.values()))[0](scene)
    roll = rng.random()
    tests = [] if roll < 0.2 else [test_for(scene, source)]
    link = " and "
    if roll > 0.78:
        second = test_for(scene, source)
        if second.code != tests[0].code:
            tests.append(second)
            link = " or " if rng.random() < 0.3 else " and "
    change = change_for(scene, source) if rng.random() < (0.5 if tests else 0.85) else None
    type_ = change.type if change else source.type.replace("char", "str")
    gather = gather_for(scene, type_)
    if gather.tag in ("first", "last") and not tests:
        tests = [test_for(scene, source)]
    if gather.tag == "count" and (change or not tests):
        change, gather = None, _count(scene) if tests else gather_for(scene, "str")
        gather = gather if tests else _sorted(scene, source.type.replace("char", "str"))
    if gather.tag in ("list", "sum", "join") and not tests and not change:
        tests = [test_for(scene, source)]
    noun = source.many
    return compose(scene, source, tests, link, change, gather, noun)


def compose(
    scene: ExerciseScene,
    source: ElementSource,
    tests: list[ElementTest],
    link: str,
    change: Change | None,
    gather: Gather,
    noun: str,
    family: str = "pipeline",
) -> Draft:
    """Put the pieces of a pipeline together."""
    rng = scene.rng
    elements = _elements(rng, source, tests, link)
    text = (change.phrase if change else "@").replace("@", elements)
    phrase = gather.phrase.replace("~", "," if change else "").replace("@", text)
    if gather.verbs:
        verb = rng.choice(gather.verbs)
        if verb.endswith((" number of", "many")):
            phrase = phrase.removeprefix("all ").removeprefix("the ")
            if verb.endswith("many"):
                verb, phrase = "Return", f"how many {_are(source, tests, link)}"
        goal = Goal(gather.kind, phrase, (verb,))
    else:
        goal = Goal(gather.kind, phrase)
    joined = link.join(_tight(t.code) if link == " and " else t.code for t in tests)
    opposite = _negated(tests[0]) if len(tests) == 1 else ""
    plan = PipelinePlan(source, joined, opposite, change.code if change else "$x", gather)
    body, helpers, reference, returns = _idiom(rng, plan)
    if returns == "Iterator":
        returns = f"Iterator[{gather.returns[5:-1]}]"
        goal = Goal("get", goal.text.removeprefix("the "), ("Yield", "Generate", "Iterate over"))
        goal = Goal("get", text, ("Yield", "Yield", "Generate"))
    else:
        returns = gather.returns
    notes = gather.notes
    raises = None
    if gather.raises:
        raises = (gather.raises[0], gather.raises[1])
        notes = (
            *notes,
            say(rng, f"Raise {{a|}} ValueError {gather.raises[1]}.").replace("  ", " "),
        )
    elif returns.startswith("Iterator"):
        notes = ()
    return Draft(
        family,
        _names(rng, source, tests, change, gather.tag, noun),
        scene.finish(),
        returns,
        goal,
        body,
        notes,
        reference,
        helpers,
        {
            "x": source.var,
            "is_wanted": ("is_wanted", "_matches", "qualifies", "_is_wanted", "keep"),
            "sign": ("sign", "factor", "direction"),
            "kept2": ("kept", "selected", "filtered", "chosen", "matching", "candidates"),
        },
        raises=raises,
    )


def _are(source: ElementSource, tests: list[ElementTest], link: str) -> str:
    """A clause: "numbers in xs are even"."""
    return f"{source.many} {source.where} {link.join(test.verb for test in tests)}"


def _idiom(rng: Random, plan: PipelinePlan) -> tuple[str, str, str, str]:
    """A body, helper functions above it, another body to check it by, and "Iterator" or ""."""
    expression = _as_expression(plan)
    loop = _as_loop(plan, rng)
    roll = rng.random()
    complex_ = bool(plan.test) and plan.change != "$x"
    if plan.gather.tag == "list" and roll < 0.08:
        inner = f"yield {plan.change}"
        inner = f"if {plan.test}:\n    {inner}" if plan.test else inner
        return (
            f"for $x in {plan.source.code}:\n{_shift(inner)}",
            "",
            f"return list({expression[7:]})",
            "Iterator",
        )
    if roll < 0.36:
        return expression, "", loop, ""
    if roll < 0.66:
        return loop, "", expression, ""
    flat = "for @" not in plan.gather.code and not plan.gather.code.startswith("next")
    if roll < 0.74 and (plan.test or plan.change != "$x") and flat:
        return _as_steps(plan), "", loop, ""
    if roll < 0.8 and (plan.test or plan.change != "$x") and flat:
        return _as_lambdas(plan), "", loop, ""
    if roll < 0.87 and plan.source.listed:
        return _as_while(plan), "", expression, ""
    free = not re.search(r"\$(limit2?_|letter_)", plan.test)
    if plan.test and roll < 0.95:
        call = "$is_wanted($x)"
        whole = PipelinePlan(plan.source, call, f"not {call}", plan.change, plan.gather)
        body = _as_expression(whole) if rng.random() < 0.5 else _as_loop(whole, rng)
        if free and rng.random() < 0.6:
            helper = f"def $is_wanted($x):\n    return {plan.test}"
            return body, helper, loop, ""
        inner = f"def $is_wanted($x):\n    return {plan.test}\n\n"
        return inner + body, "", loop, ""
    if complex_ and flat:
        return _as_steps(plan), "", loop, ""
    return loop, "", expression, ""


def every(rng: Random) -> Draft:
    """Whether all, some, none or exactly so many elements meet a condition."""
    scene = ExerciseScene(rng)
    source = rng.choices(list(SOURCES), list(SOURCES.values()))[0](scene)
    tests = [test_for(scene, source)]
    if rng.random() < 0.35:
        second = test_for(scene, source)
        if second.code != tests[0].code:
            tests.append(second)
    link = rng.choice((" and ", " and ", " or "))
    code = link.join(_tight(t.code) for t in tests)
    against = _negated(tests[0]) if len(tests) == 1 and _negated(tests[0]) else negation(code)
    verb = link.join(t.verb for t in tests)
    is_verb = link.join(singular(t.verb) for t in tests)
    one, many, where = source.one, source.many, source.where
    kind = rng.choice(("all", "any", "none", "all", "any", "count", "more"))
    notes: tuple[str, ...] = ()
    tag: tuple[str, ...]
    x = f"for $x in {source.code}"
    if kind == "all":
        goal = f"{{every {one} {where} {is_verb}|all {many} {where} {verb}|each {one} {where} {is_verb}}}"
        bodies = [
            f"return all({code} {x})",
            f"{x}:\n    if {against}:\n        return False\nreturn True",
        ]
        notes = ("{The answer is True if there are none|If there are none, the result is True}.",)
        tag = ("all", "every", "only", "are_all")
    elif kind == "any":
        goal = f"{{any {one} {where} {is_verb}|at least one {one} {where} {is_verb}|some {one} {where} {is_verb}}}"
        bodies = [
            f"return any({code} {x})",
            f"{x}:\n    if {code}:\n        return True\nreturn False",
        ]
        tag = ("has", "any", "contains", "has_any", "includes")
    elif kind == "none":
        goal = f"{{no {one} {where} {is_verb}|none of the {many} {where} {verb}}}"
        bodies = [
            f"return not any({code} {x})",
            f"{x}:\n    if {code}:\n        return False\nreturn True",
            f"return all({against} {x})",
        ]
        tag = ("no", "none", "has_no", "lacks", "without")
    elif kind == "count":
        n = scene.amount(1, 3, "the number needed")
        plain = {"1": "one", "2": "two", "3": "three"}.get(n, n)
        adverb = rng.choice((("exactly", "=="), ("at least", ">="), ("at most", "<=")))
        word, noun = (adverb[0], one if n == "1" else many)
        goal = f"{word} {plain} {noun} {where} {is_verb if n == '1' else verb}"
        bodies = [
            f"return sum(1 {x} if {code}) {adverb[1]} {n}",
            f"$count = 0\n{x}:\n    if {code}:\n        $count += 1\nreturn $count {adverb[1]} {n}",
            f"$kept = [$x {x} if {code}]\nreturn len($kept) {adverb[1]} {n}",
        ]
        tag = ("has_enough", "enough", "check_count", "count_matches")
    else:
        goal = f"more than half of the {many} {where} {verb}"
        bodies = [
            f"$kept = [$x {x} if {code}]\nreturn 2 * len($kept) > len({_sized(source.code)})",
            f"$count = 0\n$total = 0\n{x}:\n    $total += 1\n    if {code}:\n        $count += 1\nreturn 2 * $count > $total",
        ]
        notes = ("{The answer is False if there are none|If there are none, the result is False}.",)
        tag = ("mostly", "majority", "most_are", "mainly")
    rng.shuffle(bodies)
    base = rng.choice(tag)
    noun = source.tag or many.replace(" ", "_")
    names = (
        f"{base}_{tests[0].tag}",
        f"{base}_{tests[0].tag}_{noun}",
        f"{base}_{noun}_{tests[0].tag}",
    )
    return Draft(
        "quantifier",
        tuple(n for n in names if len(n) < 34) or names[:1],
        scene.finish(),
        "bool",
        Goal("whether", say(rng, goal)),
        bodies[0],
        tuple(say(rng, note) for note in notes),
        bodies[1],
        pools={"x": source.var},
    )


def _sized(code: str) -> str:
    return code if re.fullmatch(r"\$\w+(\.split\(\)|\.values\(\))?|range\(.*\)|\[.*\]", code) else f"list({code})"


__all__ = ["compose", "digits_of", "divisors_of", "every", "gather_for", "pipeline", "up_to"]
