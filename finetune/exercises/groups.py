"""Grouping and counting: elements come together under a key, and something is asked of the groups."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from talaria.finetune.exercises.core import Draft, Goal, say
from talaria.finetune.exercises.streams import (
    ElementSource,
    ExerciseScene,
    characters,
    digits_of,
    flattened,
    int_list,
    plural,
    str_list,
    test_for,
    up_to,
    words_of,
)


@dataclass(frozen=True)
class Key:
    """What elements are grouped by: code for `$x`, a noun phrase, the type and a tag."""

    code: str
    noun: str
    type: str
    tag: str


SOURCES = {
    int_list: 6,
    str_list: 6,
    words_of: 5,
    characters: 4,
    up_to: 2,
    digits_of: 1,
    flattened: 1,
}


def _key(scene: ExerciseScene, source: ElementSource) -> Key:
    rng = scene.rng
    if source.type == "char":
        return rng.choice(
            (
                Key("$x", "character", "str", "character"),
                Key("$x.lower()", "character in lower case", "str", "letter"),
                Key(
                    '"letter" if $x.isalpha() else "other"',
                    'kind ("letter" or "other")',
                    "str",
                    "kind",
                ),
                Key("$x.isupper()", "answer to whether they are upper-case letters", "bool", "case"),
            )
        )
    if source.type == "str":
        number = rng.randint(2, 3)
        return rng.choice(
            (
                Key("len($x)", "length", "int", "length"),
                Key("len($x)", "number of characters", "int", "length"),
                Key("$x[:1]", "first character", "str", "initial"),
                Key("$x[:1].lower()", "first character in lower case", "str", "first_letter"),
                Key("$x[-1:]", "last character", "str", "last_letter"),
                Key("$x.lower()", "spelling in lower case", "str", "spelling"),
                Key(f"$x[:{number}]", f"prefix of {number} characters", "str", "prefix"),
                Key("len(set($x))", "number of different characters", "int", "variety"),
                Key('"".join(sorted($x))', "letters in sorted order", "str", "letters"),
                Key('"short" if len($x) < 4 else "long"', 'size, which is "short" below 4 characters and "long" otherwise', "str", "size"),
            )
        )
    if source.many == "digits":
        return rng.choice((Key("$x", "value", "int", "digit"), Key("$x % 2", "remainder by 2", "int", "parity")))
    which = rng.randrange(8)
    if which == 0:
        return Key("$x", "value", "int", "value")
    if which == 1:
        n = scene.amount(2, 5, "the divisor")
        return Key(f"$x % {n}", f"remainder when divided by {n}", "int", "remainder")
    if which == 2:
        n = scene.amount(3, 10, "the divisor")
        return Key(f"$x // {n}", f"quotient when divided by {n} and rounded down", "int", "quotient")
    if which == 3:
        code = '"even" if $x % 2 == 0 else "odd"'
        return Key(code, 'parity ("even" or "odd")', "str", "parity")
    if which == 4:
        return Key("abs($x) % 10", "last digit", "int", "last_digit")
    if which == 5:
        return Key("len(str(abs($x)))", "number of digits", "int", "digit_count")
    if which == 6:
        return Key("abs($x)", "absolute value", "int", "magnitude")
    n = scene.amount(3, 12)
    code = f'"low" if $x < {n} else "high"'
    return Key(code, f'level, which is "low" below {n} and "high" otherwise', "str", "level")


def grouping(rng: Random) -> Draft:
    """Elements are grouped by a key and each group is measured."""
    scene = ExerciseScene(rng)
    source = rng.choices(list(SOURCES), list(SOURCES.values()))[0](scene)
    key = _key(scene, source)
    test = test_for(scene, source) if rng.random() < 0.4 else None
    that = f" that {test.verb}" if test else ""
    type_ = "int" if source.type == "int" else "str"
    loop = f"for $x in {source.code}:\n"
    margin = "    "
    if test and test.opposite and rng.random() < 0.3:
        loop += f"    if {test.opposite}:\n        continue\n"
    elif test:
        loop += f"    if {test.code}:\n"
        margin = "        "
    measures = ["list", "list", "count", "count", "set", "largest", "first", "last", "number"]
    measures += ["sum", "max", "min", "mean"] if type_ == "int" else ["longest", "join", "total"]
    measure = rng.choice(measures)
    if key.code == "$x" and measure not in ("count", "largest"):
        measure = "count"
    group = f"{source.many} {source.where}{that}"
    plain = f"{{the |}}{group}"
    k = key.code
    long_key = len(k) > 14
    bind = f"{margin}$key = {k}\n" if long_key else ""
    at = "$key" if long_key else k
    kt = key.type
    listing = [
        f"$groups = $defaultdict(list)\n{loop}{bind}{margin}$groups[{at}].append($x)\n",
        f"$groups:: dict[{kt}, list[{type_}]] = {{}}\n{loop}{bind}{margin}$groups.setdefault({at}, []).append($x)\n",
        f"$groups:: dict[{kt}, list[{type_}]] = {{}}\n{loop}{margin}$key = {k}\n{margin}if $key not in $groups:\n"
        f"{margin}    $groups[$key] = []\n{margin}$groups[$key].append($x)\n",
    ]
    counting = [
        f"$counts:: dict[{kt}, int] = {{}}\n{loop}{margin}$key = {k}\n{margin}$counts[$key] = $counts.get($key, 0) + 1\n",
        f"$counts = $defaultdict(int)\n{loop}{bind}{margin}$counts[{at}] += 1\n",
        f"$counts = $Counter({k} for $x in {source.code}{f' if {test.code}' if test else ''})\n",
        f"$counts:: dict[{kt}, int] = {{}}\n{loop}{margin}$key = {k}\n{margin}if $key in $counts:\n{margin}    $counts[$key] += 1\n"
        f"{margin}else:\n{margin}    $counts[$key] = 1\n",
    ]
    if k == "$x":
        counting = [code.replace(f"{margin}$key = $x\n", "").replace("$key", "$x") for code in counting]
    rng.shuffle(listing)
    rng.shuffle(counting)
    ending = "return dict($groups)"
    notes: tuple[str, ...] = ()
    names: tuple[str, ...]
    own = f"their {key.noun}"
    values = f"list[{type_}]"
    if measure == "list":
        goal = Goal("do", f"Group {plain} by {own}")
        gives = f"a dictionary from each {key.noun} to the list of {source.many} that have it"
        notes = (
            say(
                rng,
                "{The order within a group is that of the input|Each group keeps the original order}.",
            ),
        )
        if rng.random() < 0.5:
            goal = Goal(
                "get",
                f"a dictionary that maps each {key.noun} to the list of {source.many} {source.where}{' with it' if not that else that + ' and have it'}",
            )
        body, other = listing[0] + ending, listing[1] + ending
        names = (
            f"group_by_{key.tag}",
            f"group_{source.tag or source.many.replace(' ', '_')}_by_{key.tag}",
            f"by_{key.tag}",
        )
    elif measure == "count":
        goal = Goal("do", f"Count {plain} by {own}")
        if key.code == "$x":
            goal = Goal("do", f"Count how often each of the {group} occurs")
        elif rng.random() < 0.5:
            goal = Goal(
                "get",
                f"a dictionary that tells for each {key.noun} how many of the {group} have it",
            )
        gives = f"a dictionary from each {key.noun} to the number of {source.many} that have it"
        ends = "return dict($counts)"
        body, other = counting[0] + ends, counting[1] + ends
        values = "int"
        names = (
            f"count_by_{key.tag}",
            f"{key.tag}_counts",
            f"{key.tag}_histogram",
            f"count_{plural(key.tag)}",
        )
    elif measure == "number":
        goal = Goal(
            "get",
            f"how many groups the {group} {{form|fall into}} {{if|when}} they are grouped by their {key.noun}",
            ("Return", "Count", "Find"),
        )
        code = f"return len({{{k} for $x in {source.code}{f' if {test.code}' if test else ''}}})"
        loop_ = f"$seen = set()\n{loop}{margin}$seen.add({k})\nreturn len($seen)"
        body, other = rng.sample([code, loop_], 2)
        return _draft(
            scene,
            source,
            (f"count_distinct_{plural(key.tag)}", f"number_of_{plural(key.tag)}"),
            "int",
            goal,
            body,
            other,
            (),
            "",
        )
    elif measure == "largest":
        goal = Goal("get", f"the most {{common|frequent}} {key.noun} {{among|of}} the {group}")
        notes = (
            say(
                rng,
                "{If several are equally common, take the one that appears first|The one that appears first wins a tie}.",
            ),
            say(rng, f"{{Return None|The result is None}} if there are no {source.many} to count."),
        )
        choices = [
            "if not $counts:\n    return None\nreturn max($counts, key=lambda $key2: $counts[$key2])",
            "return max($counts, key=$counts.get, default=None)",
            "$best = None\nfor $key2, $count in $counts.items():\n    if $best is None or $count > $counts[$best]:\n        $best = $key2\nreturn $best",
        ]
        body, other = counting[0] + rng.choice(choices), counting[1] + choices[0]
        return _draft(scene, source, (f"most_common_{key.tag}", f"top_{key.tag}", f"mode_{key.tag}"), f"{kt} | None", goal, body, other, notes, "")
    else:
        word, reduce_, values = {
            "set": ("the set of {m}", "set({v})", f"set[{type_}]"),
            "first": ("the first of the {m}", "{v}[0]", type_),
            "last": ("the last of the {m}", "{v}[-1]", type_),
            "sum": ("the sum of the {m}", "sum({v})", "int"),
            "max": ("the largest of the {m}", "max({v})", "int"),
            "min": ("the smallest of the {m}", "min({v})", "int"),
            "mean": ("the average of the {m}", "sum({v}) / len({v})", "float"),
            "longest": ("the longest of the {m}", "max({v}, key=len)", "str"),
            "join": ("the {m} joined with commas", '",".join({v})', "str"),
            "total": ("the total length of the {m}", "sum(map(len, {v}))", "int"),
        }[measure]
        said = word.replace("{m}", source.many)
        goal = Goal("get", f"a dictionary that maps each {key.noun} of the {group} to {said} that have it", ("Return", "Build", "Make", "Return", "Compute"))
        gives = f"a dictionary from each {key.noun} to {said} that have it"
        ends = f"return {{$key2: {reduce_.replace('{v}', '$kept')} for $key2, $kept in $groups.items()}}"
        direct = {
            "first": f"$out = {{}}\n{loop}{bind}{margin}$out.setdefault({at}, $x)\nreturn $out",
            "last": f"$out = {{}}\n{loop}{bind}{margin}$out[{at}] = $x\nreturn $out",
            "sum": f"$out = $defaultdict(int)\n{loop}{bind}{margin}$out[{at}] += $x\nreturn dict($out)",
            "set": f"$out = $defaultdict(set)\n{loop}{bind}{margin}$out[{at}].add($x)\nreturn dict($out)",
            "max": f"$out = {{}}\n{loop}{margin}$key = {k}\n{margin}$out[$key] = max($out.get($key, $x), $x)\nreturn $out",
            "min": f"$out = {{}}\n{loop}{margin}$key = {k}\n{margin}if $key not in $out or $x < $out[$key]:\n{margin}    $out[$key] = $x\nreturn $out",
            "longest": f"$out = {{}}\n{loop}{margin}$key = {k}\n{margin}if $key not in $out or len($x) > len($out[$key]):\n{margin}    $out[$key] = $x\nreturn $out",
        }.get(measure, listing[1] + ends)
        if measure == "longest":
            notes = ("The first one wins a tie.",)
        body, other = listing[0] + ends, direct
        if rng.random() < 0.5:
            body, other = other, body
        names = (f"{measure}_by_{key.tag}", f"{measure}_per_{key.tag}")
        return _draft(scene, source, names, f"dict[{kt}, {values}]", goal, body, other, notes, gives)
    order = rng.random()
    if order < 0.15 and kt != "bool":
        notes += (say(rng, "The keys are in {ascending|sorted} order."),)
        sort = "return dict(sorted($groups.items()))" if measure == "list" else "return dict(sorted($counts.items()))"
        body = "\n".join([*body.split("\n")[:-1], sort])
        other = "\n".join([*other.split("\n")[:-1], sort])
    elif order < 0.3 and measure == "count":
        n = scene.amount(1, 3, "the number needed")
        notes += (
            say(
                rng,
                f"{{Leave out|Drop}} those that {{occur|appear}} {'only ' if n == '1' else ''}{n} time{'' if n == '1' else 's'} or less.",
            ).replace("only 1 time or less", "only once"),
        )
        keep = f"return {{$key2: $count for $key2, $count in $counts.items() if $count > {n}}}"
        body = "\n".join([*body.split("\n")[:-1], keep])
        other = "\n".join([*other.split("\n")[:-1], keep])
        names = tuple(f"frequent_{name}" for name in names)
    return _draft(scene, source, names, f"dict[{kt}, {values}]", goal, body, other, notes, gives)


def _draft(
    scene: ExerciseScene, source: ElementSource, names: tuple[str, ...], returns: str, goal: Goal, body: str, other: str, notes: tuple[str, ...], gives: str
) -> Draft:
    if "$defaultdict" not in body and "$Counter" not in body:
        body = body.replace("return dict($groups)", "return $groups").replace("return dict($counts)", "return $counts")
    return Draft(
        "grouping",
        names,
        scene.finish(),
        returns,
        goal,
        body,
        notes,
        other,
        pools={"x": source.var, "key2": ("k", "key", "name", "group", "label")},
        gives=gives,
    )
