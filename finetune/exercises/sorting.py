"""Ordering by one or two keys, ranks, and what dictionaries, sets and two lists give together."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from talaria.finetune.exercises.core import (
    Draft,
    Goal,
    Param,
    ints,
    negation,
    number,
    pairs_of,
    rows_of,
    say,
    word,
    words,
)
from talaria.finetune.exercises.streams import (
    ElementSource,
    ExerciseScene,
    int_list,
    int_test,
    singular,
    str_list,
    str_test,
    words_of,
)

INT_KEYS = (
    ("$x", "value", "value"),
    ("abs($x)", "absolute value", "absolute"),
    ("$x % 10", "remainder when divided by 10", "remainder"),
    ("sum(int(d) for d in str(abs($x)))", "sum of digits", "digit_sum"),
    ("len(str(abs($x)))", "number of digits", "length"),
    ("$x % 2", "remainder when divided by 2 (even numbers first)", "parity"),
    ("$x % 3", "remainder when divided by 3", "remainder"),
    ("abs($x - K)", "distance from K", "distance"),
    ("str($x)", "decimal spelling", "spelling"),
    ("($x > 0)", "sign (numbers that are not positive first)", "sign"),
    ("str(abs($x))[::-1]", "decimal spelling read backwards, without the sign,", "mirror"),
    ('bin(abs($x)).count("1")', "number of ones in binary, without the sign,", "bits"),
)
STR_KEYS = (
    ("$x", "alphabet", "alphabet"),
    ("len($x)", "length", "length"),
    ("$x.lower()", "alphabet, ignoring case,", "name"),
    ("$x[-1:]", "last character", "last_letter"),
    ("$x[::-1]", "spelling backwards", "ending"),
    ("len(set($x))", "number of different characters", "variety"),
    ("$x.count(L)", "number of times that L occurs", "count"),
    ('sum($c in "aeiou" for $c in $x)', "number of lower-case vowels", "vowels"),
    ("$x[1:]", "spelling without the first character", "rest"),
    ("$x[:1].isupper()", "capitalisation (words that do not start with a capital first)", "case"),
    ("$x.swapcase()", "spelling with upper and lower case swapped", "case"),
)


def _key(scene: ExerciseScene, source: ElementSource) -> tuple[str, str, str]:
    code, said, tag = scene.rng.choice(INT_KEYS if source.type == "int" else STR_KEYS)
    if "K" in code:
        n = scene.amount(0, 12, "the centre", 0.5)
        code, said = code.replace("K", n), said.replace("K", n)
    if "L" in code:
        letter, name = scene.letter()
        code, said = code.replace("L", letter), said.replace("L", name)
    return code, said, tag


def ordering(rng: Random) -> Draft:
    """A list is sorted by one or two keys, in either direction."""
    scene = ExerciseScene(rng)
    source = rng.choice((int_list, str_list, str_list, words_of))(scene)
    xs = source.code
    one, said, tag = _key(scene, source)
    down = rng.random() < 0.35
    two = None
    if rng.random() < 0.55:
        two = _key(scene, source)
        if two[1] == said:
            two = None
    number_key = (source.type == "int" and not one.startswith("str")) or one.startswith(("len", "sum", "$x.count"))
    element = "int" if source.type == "int" else "str"
    first = "{descending|decreasing} order of" if down else "{ascending|increasing} order of"
    by = f"by {said}" if said != "alphabet" else "alphabetically"
    what = f"the {source.many} {source.where}"
    way = ", in descending order" if down else rng.choice(("", ", in ascending order"))
    text = f"{what} sorted {by}{way}".replace(",,", ",")
    notes: tuple[str, ...] = ()
    flag = ", reverse=True" if down else ""
    lam = f"lambda $x: {one}"
    if one == "$x":
        lam = ""
    key = f", key={lam}" if lam else ""
    if one in ("len($x)", "abs($x)", "str($x)"):
        key = f", key={one[:3]}"
    bodies: list[str]
    if two:
        second, said2, _ = two
        back = rng.random() < 0.3 and two[0].startswith(("len", "abs", "sum", "$x.count"))
        word2 = said2 if said2 != "alphabet" else "alphabetical order"
        notes = (
            say(
                rng,
                f"{{Ties are broken by|Equal ones are ordered by|Among equals, order by}} {word2.rstrip(',')}{{}}{', largest first' if back else ''}.".replace(
                    "{}", ""
                ),
            ),
        )
        minus = "-" if back else ""
        pair = f"({'-' if down else ''}{one}, {minus}{second})"
        if down and not number_key:
            bodies = [f"$out = sorted({xs}, key=lambda $x: {minus}{second})\n$out.sort(key={lam or 'None'}{flag})\nreturn $out"]
            bodies = bodies * 2 if lam else [f"$out = sorted({xs}, reverse=True)\nreturn $out"] * 2
            if not lam:
                notes = ()
        else:
            key_ = f"key=lambda $x: {pair}"
            bodies = [
                f"return sorted({xs}, {key_})",
                f"$out = sorted({xs}, key=lambda $x: {minus}{second})\n$out.sort(key=lambda $x: {'-' if down else ''}{one})\nreturn $out",
                f"def $convert($x):\n    return {pair}\n\nreturn sorted({xs}, key=$convert)",
                f"$out = list({xs})\n$out.sort({key_})\nreturn $out",
            ]
    else:
        if lam and rng.random() < 0.6:
            notes = (
                say(
                    rng,
                    "{Ties keep their order|The order of equal ones stays the same|Equal ones keep their order}.",
                ),
            )
        bodies = [
            f"return sorted({xs}{key}{flag})",
            f"$out = list({xs})\n$out.sort({(key + flag).removeprefix(', ')})\nreturn $out",
            f"def $convert($x):\n    return {one}\n\nreturn sorted({xs}, key=$convert{flag})" if lam else f"return sorted({xs}{flag})",
            # Insertion sort, spelled out.
            f"$out:: list[{element}] = []\nfor $x in {xs}:\n    $i = len($out)\n    while $i > 0 and {one.replace('$x', '$out[$i - 1]')} {'<' if down else '>'} {one}:\n        $i -= 1\n    $out.insert($i, $x)\nreturn $out",
        ]
        bodies = [b.replace("sort()", "sort()") for b in bodies]
    returns = f"list[{element}]"
    measure = rng.random()
    if measure < 0.16:
        n = scene.amount(1, 3, "how many to return", 0.6)
        text = f"the first {n} of {text}"
        notes = (*notes, say(rng, "{Return all of them|Return everything} if there are fewer."))
        bodies = [
            b.replace("return sorted(", "$out2 = sorted(") + f"\nreturn $out2[:{n}]"
            if "return sorted(" in b
            else b.replace("return $out", f"return $out[:{n}]")
            for b in bodies
        ]
        tag = f"first_by_{tag}"
    elif measure < 0.26 and not two:
        text = f"the index that each of {text} has in the {'list' if source.listed else 'text'}".replace("each of the", "each of the")
        text = f"the positions of {what} in the order that sorts them {by}{way}".replace(",,", ",")
        notes = ("The sort is stable.",)
        at = one.replace("$x", f"{xs}[$i]")
        returns = "list[int]"
        if not source.listed:
            at = one.replace("$x", "$words[$i]")
            bodies = [
                f"$words = {xs}\nreturn sorted(range(len($words)), key=lambda $i: {at}{flag})",
                f"$pairs = sorted(enumerate({xs}), key=lambda $pair: {one.replace('$x', '$pair[1]')}{flag})\nreturn [$pair[0] for $pair in $pairs]",
            ]
        else:
            bodies = [
                f"return sorted(range(len({xs})), key=lambda $i: {at}{flag})",
                f"$pairs = sorted(enumerate({xs}), key=lambda $pair: {one.replace('$x', '$pair[1]')}{flag})\nreturn [$i for $i, _ in $pairs]",
            ]
        tag = f"{tag}_positions"
    bodies = [body.replace("lambda $x: ($x > 0)", "lambda $x: $x > 0").replace("return ($x > 0)", "return $x > 0") for body in bodies]
    # A key that gives the element itself is none.
    bodies = [body.replace(", key=lambda $x: $x)", ")").replace("key=lambda $x: $x)", ")") for body in bodies]
    rng.shuffle(bodies)
    if bodies[0] == bodies[1]:
        bodies[1] = bodies[-1]
    del first
    return Draft(
        "sorting",
        (f"sort_by_{tag}", f"sorted_by_{tag}", f"order_by_{tag}", f"{source.tag or source.many.replace(' ', '_')}_by_{tag}".replace("by_first_by", "by")),
        scene.finish(),
        returns,
        Goal("get", text, ("Return", "Return", "Give", "List", "Get")),
        bodies[0],
        notes,
        bodies[1],
        pools={
            "x": source.var,
            "out2": ("ordered", "out", "ranked", "in_order", "result"),
            "out": ("ordered", "out", "result", "arranged"),
            "convert": ("rank", "key", "sort_key", "weight"),
        },
    )


DICT_NAMES = (
    "scores",
    "prices",
    "stock",
    "ages",
    "counts",
    "d",
    "mapping",
    "points",
    "data",
    "inventory",
    "votes",
    "table",
    "totals",
)


def _dict(scene: ExerciseScene, role: str, names: tuple[str, ...] = DICT_NAMES) -> str:
    return scene.add(
        Param(
            role,
            names,
            "dict[str, int]",
            "a dictionary from strings to integers",
            "the dictionary" if role == "d" else None,
            "a dictionary from strings to integers",
            pairs_of(lambda rng: word(rng), number(-5, 30)),
        )
    )


def dictionaries(rng: Random) -> Draft:
    """A dictionary is filtered, turned around, or merged with another."""
    scene = ExerciseScene(rng)
    kind = rng.choice(("filter", "filter", "map", "invert", "merge", "merge", "top", "keys", "compare", "extreme"))
    pools = {"k": ("key", "k", "name"), "v": ("value", "v", "amount"), "x": ("value", "v")}
    pools["key"] = ("key", "k", "name")
    pools["value"] = ("value", "v", "amount", "count")
    notes: tuple[str, ...] = ()
    names: tuple[str, ...]
    if kind in ("merge", "compare"):
        first, second = rng.choice(
            (
                ("a", "b"),
                ("first", "second"),
                ("left", "right"),
                ("old", "new"),
                ("d1", "d2"),
                ("base", "extra"),
                ("one", "two"),
                ("mine", "yours"),
            )
        )
        p, q = _dict(scene, "d", (first,)), _dict(scene, "e_", (second,))
        scene.params[0] = replace(scene.params[0], the=None)

        def both(rng: Random) -> tuple[object, ...]:
            keys = [word(rng) for _ in range(5)]
            return tuple({k: rng.randint(-5, 20) for k in rng.sample(keys, rng.randint(0, 4))} for _ in range(2))

        if kind == "merge":
            rule, said, tag = rng.choice(
                (
                    ("$old + $new", "their sum", "sum"),
                    ("max($old, $new)", "the larger of the two values", "max"),
                    ("min($old, $new)", "the smaller of the two values", "min"),
                    ("$old - $new", f"the value in {p} minus the one in {q}", "difference"),
                    ("$old * $new", "their product", "product"),
                    ("$new", f"the value from {q}", "update"),
                    ("$old", f"the value from {p}", "keep"),
                    ("abs($old - $new)", "the absolute difference of the two values", "gap"),
                    ("($old, $new)", "a tuple of both values", "pairs"),
                    ("[$old, $new]", "a list of both values", "lists"),
                )
            )
            only_common = rng.random() < 0.4 or rule[0] in "[("
            code = rule.replace("$old", f"{p}[$key]").replace("$new", f"{q}[$key]")
            if only_common:
                goal = Goal(
                    "get",
                    f"a dictionary with the keys that {p} and {q} have in common; each value is {said}",
                    ("Return", "Build", "Make"),
                )
                notes = (f"The keys are in the order of {p}.",) if rng.random() < 0.4 else ()
                bodies = [
                    f"return {{$key: {code} for $key in {p} if $key in {q}}}",
                    f"$out = {{}}\nfor $key, $old in {p}.items():\n    if $key in {q}:\n        $new = {q}[$key]\n        $out[$key] = {rule}\nreturn $out".replace(
                        f"        $new = {q}[$key]\n",
                        "" if "$new" not in rule else f"        $new = {q}[$key]\n",
                    ),
                ]
                names = (f"{tag}_of_common", f"common_{tag}", f"intersect_{tag}", "join_common")
                if "$old" not in rule:
                    bodies[1] = bodies[1].replace("$key, $old in " + p + ".items()", "$key in " + p)
            else:
                goal = Goal(
                    "do",
                    f"{{Merge|Combine}} {p} and {q} into a new dictionary and return it; {{for a key in both|if both have a key}}, the value is {said}",
                )
                bodies = [
                    f"$out = dict({p})\nfor $key, $new in {q}.items():\n    if $key in $out:\n        $old = $out[$key]\n        $out[$key] = {rule}\n    else:\n        $out[$key] = $new\nreturn $out",
                    f"$out = {p}.copy()\nfor $key in {q}:\n    $out[$key] = {code} if $key in {p} else {q}[$key]\nreturn $out",
                ]
                if rule == "$new":
                    bodies = [
                        f"return {{**{p}, **{q}}}",
                        f"$out = dict({p})\n$out.update({q})\nreturn $out",
                        f"return {p} | {q}",
                    ]
                elif rule == "$old":
                    bodies = [
                        f"return {{**{p}, **{{$key: $new for $key, $new in {q}.items() if $key not in {p}}}}}",
                        f"$out = dict({p})\nfor $key, $new in {q}.items():\n    $out.setdefault($key, $new)\nreturn $out",
                    ]
                elif rule == "$old + $new":
                    bodies[1] = f"$out = dict({p})\nfor $key, $new in {q}.items():\n    $out[$key] = $out.get($key, 0) + $new\nreturn $out"
                names = (f"merge_{tag}", f"combine_{tag}", f"merge_by_{tag}", "merge_dicts")
            returns = (
                "dict[str, int]"
                if rule[0] not in "[(" or (rule.startswith("($old, $new)") is False and rule[0] != "[")
                else ("dict[str, list[int]]" if rule[0] == "[" else "dict[str, tuple[int, int]]")
            )
        else:
            what, code, tag = rng.choice(
                (
                    (f"that are in {p} but not in {q}", f"$key not in {q}", "missing"),
                    (
                        f"that are in both {p} and {q} with different values",
                        f"$key in {q} and {p}[$key] != {q}[$key]",
                        "changed",
                    ),
                    (
                        f"that are in both {p} and {q} with the same value",
                        f"$key in {q} and {p}[$key] == {q}[$key]",
                        "unchanged",
                    ),
                    (
                        f"whose value in {q} is greater than in {p}",
                        f"$key in {q} and {q}[$key] > {p}[$key]",
                        "increased",
                    ),
                    (
                        f"of {p} that {q} lacks or has with another value",
                        f"{q}.get($key) != {p}[$key]",
                        "differing",
                    ),
                )
            )
            goal = Goal("get", f"the sorted list of the keys {what}", ("Return", "Get", "Give"))
            bodies = [
                f"return sorted($key for $key in {p} if {code})",
                f"$out = []\nfor $key in {p}:\n    if {code}:\n        $out.append($key)\nreturn sorted($out)",
                f"$out = [$key for $key in {p} if {code}]\n$out.sort()\nreturn $out",
            ]
            returns, names = "list[str]", (f"{tag}_keys", f"find_{tag}", f"{tag}_entries")
        rng.shuffle(bodies)
        return Draft(
            "dictionaries",
            names,
            scene.finish(),
            returns,
            Goal(goal.kind, say(rng, goal.text), goal.verbs),
            bodies[0],
            notes,
            bodies[1],
            pools={**pools, "old": ("old", "value", "before", "mine"), "new": ("new", "value", "other", "v")},
            arguments=both,
            gives="the new dictionary" if goal.kind == "do" else "",
        )
    d = _dict(scene, "d")
    on_key = rng.random() < 0.4
    test = str_test(scene) if on_key else int_test(scene)
    var = "$key" if on_key else "$value"
    code = test.code.replace("$x", var)
    clause = f"whose {'key' if on_key else 'value'} {singular(test.verb)}"
    if kind == "filter":
        goal = Goal(
            "get",
            f"a {{new |}}dictionary with {{the|those}} {{entries|items}} of {d} {clause}",
            ("Return", "Build", "Make", "Give"),
        )
        bodies = [
            f"return {{$key: $value for $key, $value in {d}.items() if {code}}}",
            f"$out = {{}}\nfor $key, $value in {d}.items():\n    if {code}:\n        $out[$key] = $value\nreturn $out",
            f"$out = dict({d})\nfor $key, $value in {d}.items():\n    if {_not(code)}:\n        del $out[$key]\nreturn $out",
        ]
        returns, names = (
            "dict[str, int]",
            (
                "filter_entries",
                f"keep_{test.tag}",
                f"{test.tag}_entries",
                f"only_{test.tag}",
                "select_entries",
            ),
        )
    elif kind == "map":
        k = rng.randint(2, 9)
        change, said = rng.choice(
            (
                (f"$value * {k}", f"multiplied by {k}"),
                (f"$value + {k}", f"increased by {k}"),
                ("-$value", "with the sign reversed"),
                (f"min($value, {k})", f"capped at {k}"),
                ("$value**2", "squared"),
                ("str($value)", "turned into a string"),
                ("abs($value)", "replaced by its absolute value"),
                ("[$value]", "put into a list of its own"),
            )
        )
        goal = Goal(
            "get",
            f"a dictionary like {d}, but with {{each|every}} value {clause[6:] if not on_key else 'of an entry ' + clause} {said}".replace(
                "value value", "value that"
            ),
            ("Return", "Build", "Make"),
        )
        if not on_key:
            goal = Goal(
                "get",
                f"a dictionary like {d}, but with {{each|every}} value that{clause[11:]} {said}",
                ("Return", "Build", "Make"),
            )
        notes = (say(rng, "{Other entries stay the same|The other entries are copied as they are}."),)
        bodies = [
            f"return {{$key: {change} if {code} else $value for $key, $value in {d}.items()}}",
            f"$out = {{}}\nfor $key, $value in {d}.items():\n    if {code}:\n        $out[$key] = {change}\n    else:\n        $out[$key] = $value\nreturn $out",
        ]
        returns = "dict[str, int]" if change[0] not in "s[" else "dict[str, Any]"
        names = ("change_values", f"adjust_{test.tag}", f"update_{test.tag}", "map_values")
    elif kind == "invert":
        goal = Goal(
            "do",
            f"{{Turn {d} around|Invert {d}}} and return a dictionary from each value to the list of keys that have it; only entries {clause} count",
        )
        notes = (say(rng, "{The keys are listed|Keys stand} in the order of the dictionary."),)
        bodies = [
            f"$groups:: dict[int, list[str]] = {{}}\nfor $key, $value in {d}.items():\n    if {code}:\n        $groups.setdefault($value, []).append($key)\nreturn $groups",
            f"$groups = $defaultdict(list)\nfor $key, $value in {d}.items():\n    if {code}:\n        $groups[$value].append($key)\nreturn dict($groups)",
        ]
        returns, names = (
            "dict[int, list[str]]",
            ("invert", f"invert_{test.tag}", "keys_by_value", "turn_around"),
        )
    elif kind == "top":
        n = scene.amount(1, 3, "how many to return", 0.6)
        up = rng.random() < 0.4
        goal = Goal(
            "get",
            f"the keys of the {n} {{entries|items}} of {d} with the {'smallest' if up else 'largest'} values{', only counting those ' + clause}",
            ("Return", "Get", "List"),
        )
        notes = (f"{'Smallest' if up else 'Largest'} values come first; ties are ordered by key.",)
        sign = "" if up else "-"
        bodies = [
            f"$kept = [($value, $key) for $key, $value in {d}.items() if {code}]\n$kept.sort(key=lambda $pair: ({sign}$pair[0], $pair[1]))\nreturn [$key for _, $key in $kept[:{n}]]",
            f"$kept = [$key for $key, $value in {d}.items() if {code}]\nreturn sorted($kept, key=lambda $key: ({sign}{d}[$key], $key))[:{n}]",
        ]
        returns, names = (
            "list[str]",
            (
                "top_keys" if not up else "lowest_keys",
                f"{'smallest' if up else 'largest'}_entries",
                f"top_{test.tag}",
            ),
        )
    elif kind == "keys":
        goal = Goal(
            "get",
            f"{{the sorted keys|a sorted list of the keys}} of all entries of {d} {clause}",
            ("Return", "Get", "List"),
        )
        bodies = [
            f"return sorted($key for $key, $value in {d}.items() if {code})" if not on_key else f"return sorted($key for $key in {d} if {code})",
            f"$out = []\nfor $key, $value in {d}.items():\n    if {code}:\n        $out.append($key)\n$out.sort()\nreturn $out",
        ]
        if on_key:
            bodies[1] = bodies[1].replace(f"$key, $value in {d}.items()", f"$key in {d}")
        returns, names = "list[str]", (f"keys_with_{test.tag}", f"{test.tag}_keys", "select_keys")
    else:
        up = rng.random() < 0.5
        goal = Goal(
            "get",
            f"the key with the {'largest' if up else 'smallest'} value among the entries of {d} {clause}",
        )
        notes = (
            say(
                rng,
                "{The first one wins a tie|In case of a tie, take the first}. {Return None if there is none|If there is none, return None}.",
            ),
        )
        name, sign = ("max", ">") if up else ("min", "<")
        bodies = [
            f"$kept = [$key for $key, $value in {d}.items() if {code}]\nreturn {name}($kept, key=lambda $key: {d}[$key], default=None)",
            f"$best = None\nfor $key, $value in {d}.items():\n    if {code} and ($best is None or $value {sign} {d}[$best]):\n        $best = $key\nreturn $best",
            f"$kept = {{$key: $value for $key, $value in {d}.items() if {code}}}\nif not $kept:\n    return None\nreturn {name}($kept, key=$kept.get)",
        ]
        returns, names = (
            "str | None",
            (
                f"{'best' if up else 'worst'}_key",
                f"key_of_{name}",
                f"{name}_{test.tag}",
                f"{'largest' if up else 'smallest'}_entry",
            ),
        )
    bodies = [b.replace(f"$key, $value in {d}.items() if", f"$key, $value in {d}.items() if") for b in bodies]
    rng.shuffle(bodies)
    return Draft(
        "dictionaries",
        names,
        scene.finish(),
        returns,
        Goal(goal.kind, say(rng, goal.text), goal.verbs),
        bodies[0],
        notes,
        bodies[1],
        pools=pools,
        gives="a dictionary from values to lists of keys" if kind == "invert" else "",
    )


def _not(code: str) -> str:
    return negation(code)


PAIR_MAPS = (
    ("$a + $b", "the sums", "sum", "add", "int"),
    ("$a - $b", "the differences (first minus second)", "difference", "subtract", "int"),
    ("$a * $b", "the products", "product", "multiply", "int"),
    ("max($a, $b)", "the larger ones", "larger", "maximum", "int"),
    ("min($a, $b)", "the smaller ones", "smaller", "minimum", "int"),
    ("abs($a - $b)", "the absolute differences", "absolute difference", "gaps", "int"),
    ("$a * $a + $b * $b", "the sums of the squares", "sum of squares", "square_sums", "int"),
    ("($a, $b)", "tuples", "tuple", "pair", "tuple[int, int]"),
    ("$a if $i % 2 == 0 else $b", "", "", "alternate", "int"),
    ("$a == $b", "whether they are equal", "", "equal", "bool"),
    ("$a > $b", "whether the first is greater", "", "greater", "bool"),
    ("2 * $a - $b", "twice the first minus the second", "", "combine", "int"),
    (
        "$a % 10 + $b % 10",
        "the sums of the last digits (remainders when divided by 10)",
        "",
        "digit_sums",
        "int",
    ),
    ("($a + $b) / 2", "the averages", "average", "averages", "float"),
)


def two_lists(rng: Random) -> Draft:
    """Two lists are combined element by element, or as sets."""
    scene = ExerciseScene(rng)
    strings = rng.random() < 0.3
    pair = rng.choice(
        (
            ("a", "b"),
            ("first", "second"),
            ("xs", "ys"),
            ("left", "right"),
            ("list1", "list2"),
            ("old", "new"),
            ("nums1", "nums2"),
            ("p", "q"),
            ("one", "other"),
        )
    )
    type_ = "str" if strings else "int"
    kind = "strings" if strings else "integers"

    def draw(rng: Random) -> object:
        if strings:
            return [rng.choice(("red", "blue", "sun", "tea", "Oslo", "fig", "cat", "RED")) for _ in range(rng.randint(0, 5))]
        return [rng.randint(-3, 9) for _ in range(rng.randint(0, 6))]

    p = scene.add(Param("xs", (pair[0],), f"list[{type_}]", f"a list of {kind}", None, "the first list", draw))
    q = scene.add(Param("ys", (pair[1],), f"list[{type_}]", f"a list of {kind}", None, "the second list", draw))
    notes: tuple[str, ...] = ()
    names: tuple[str, ...]
    what = rng.random()
    if what < 0.45 and not strings:
        code, said, _, tag, result = rng.choice(PAIR_MAPS)
        test, that = "", ""
        if rng.random() < 0.4:
            test, that = rng.choice(
                (
                    ("$a != $b", "that differ"),
                    ("$a > $b", f"where the one from {p} is greater"),
                    ("$a + $b > 5", "whose sum is greater than 5"),
                    ("$a % 2 == $b % 2", "of the same parity"),
                    ("$a < $b", f"where the one from {p} is smaller"),
                    ("$a > 0 and $b > 0", "that are both positive"),
                    ("$a * $b % 2 == 0", "with an even product"),
                )
            )
        if "$i" in code:
            code, said, test, that = (
                "$a + $b",
                "the sums",
                "$a >= 0",
                "where the first is not negative",
            )
        keep = f" if {test}" if test else ""
        long = rng.random() < 0.25
        zipper = f"$zip_longest({p}, {q}, fillvalue=0)" if long else f"zip({p}, {q})"
        goal = Goal(
            "get",
            f"{{a list of |}}{said} of the {'pairs of ' if test else ''}elements at the same position of {p} and {q}{' ' + that if that else ''}".replace(
                "a list of whether", "whether"
            ).replace("a list of twice", "twice"),
            ("Return", "Compute", "List"),
        )
        if said.startswith(("whether", "twice", "tuples")):
            goal = Goal(
                "get",
                f"a list that tells {said} for each pair of elements at the same position of {p} and {q}{' ' + that if that else ''}".replace(
                    "tells twice", "holds twice"
                ).replace("tells tuples", "holds a tuple"),
                ("Return", "Build"),
            )
        notes = (
            ("Zeros stand in for the missing elements of the shorter list.",)
            if long
            else (
                say(
                    rng,
                    "{Elements beyond the end of the shorter list are ignored|What is left of the longer list is ignored|The result is as long as the shorter list}.",
                )
                if not test
                else "Elements beyond the end of the shorter list are ignored.",
            )
        )
        step = f"    if {test}:\n        $out.append({code})" if test else f"    $out.append({code})"
        bodies = [
            f"return [{code} for $a, $b in {zipper}{keep}]",
            f"$out = []\nfor $a, $b in {zipper}:\n{step}\nreturn $out",
        ]
        if not long:
            bodies.append(f"$out = []\nfor $i in range(min(len({p}), len({q}))):\n    $a, $b = {p}[$i], {q}[$i]\n{step}\nreturn $out")
        else:
            bodies.append(
                f"$out = []\nfor $i in range(max(len({p}), len({q}))):\n    $a = {p}[$i] if $i < len({p}) else 0\n    $b = {q}[$i] if $i < len({q}) else 0\n{step}\nreturn $out"
            )
        ending = rng.random()
        returns = f"list[{result}]"
        names = (f"{tag}_lists", f"{tag}_pairs", f"pairwise_{tag}", f"elementwise_{tag}")
        if ending < 0.3 and result == "int":
            aggregate, told, name = rng.choice(
                (
                    ("sum", "the sum of", "sum"),
                    ("max", "the largest of", "max"),
                    ("min", "the smallest of", "min"),
                )
            )
            goal = Goal(
                "get",
                f"{told} {said} of the {'pairs of ' if test else ''}elements at the same position of {p} and {q}{' ' + that if that else ''}",
            )
            if name == "sum":
                bodies = [
                    b.replace("return [", "return sum(").replace("]", ")") if b.startswith("return [") else b.replace("return $out", "return sum($out)")
                    for b in bodies
                ]
                bodies[0] = f"return sum({code} for $a, $b in {zipper}{keep})"
                bodies.append(f"$total = 0\nfor $a, $b in {zipper}:\n{step.replace('$out.append(', '$total += ')[:-1]}\nreturn $total")
                notes = (*notes, "The sum of nothing is 0.") if rng.random() < 0.4 else notes
                returns = "int"
            else:
                bodies[0] = f"return {aggregate}(({code} for $a, $b in {zipper}{keep}), default=None)"
                bodies[1:] = [b.replace("return $out", f"return {aggregate}($out) if $out else None") for b in bodies[1:]]
                notes = (
                    *notes,
                    say(rng, "{Return None if there are none|If there is no pair, return None}."),
                )
                returns = "int | None"
            names = (f"{name}_of_{tag}", f"{tag}_{name}", f"{name}_{tag}")
    else:
        options = [
            (
                f"the sorted list of values that occur in both {p} and {q}, without repetitions",
                "common",
                [
                    f"return sorted(set({p}) & set({q}))",
                    f"$out = []\nfor $x in {p}:\n    if $x in {q} and $x not in $out:\n        $out.append($x)\nreturn sorted($out)",
                ],
            ),
            (
                f"the sorted list of values that occur in {p} or {q}, without repetitions",
                "union",
                [f"return sorted(set({p}) | set({q}))", f"$seen = set({p})\n$seen.update({q})\nreturn sorted($seen)", f"return sorted({{*{p}, *{q}}})"],
            ),
            (
                f"the sorted list of values that occur in exactly one of {p} and {q}, without repetitions",
                "exclusive",
                [
                    f"return sorted(set({p}) ^ set({q}))",
                    f"$out = {{$x for $x in {p} if $x not in {q}}}\n$out |= {{$x for $x in {q} if $x not in {p}}}\nreturn sorted($out)",
                ],
            ),
            (
                f"the elements of {p} that do not occur in {q}, in their order and with repetitions",
                "missing",
                [
                    f"return [$x for $x in {p} if $x not in {q}]",
                    f"$seen = set({q})\nreturn [$x for $x in {p} if $x not in $seen]",
                    f"$out = []\nfor $x in {p}:\n    if $x not in {q}:\n        $out.append($x)\nreturn $out",
                ],
            ),
            (
                f"the elements of {p} that also occur in {q}, in their order and with repetitions",
                "shared",
                [
                    f"return [$x for $x in {p} if $x in {q}]",
                    f"$seen = set({q})\n$out = []\nfor $x in {p}:\n    if $x in $seen:\n        $out.append($x)\nreturn $out",
                ],
            ),
            (
                f"the elements that {p} and {q} have in common, each as often as it occurs in both, sorted",
                "intersection",
                [
                    f"$counts = $Counter({p}) & $Counter({q})\nreturn sorted($counts.elements())",
                    f"$rest = list({q})\n$out = []\nfor $x in {p}:\n    if $x in $rest:\n        $rest.remove($x)\n        $out.append($x)\nreturn sorted($out)",
                ],
            ),
            (
                f"a list with the elements of {p} and {q} in turn, beginning with {p}; what is left of the longer one follows at the end",
                "interleave",
                [
                    f"$out = []\nfor $a, $b in zip({p}, {q}):\n    $out += [$a, $b]\n$n = min(len({p}), len({q}))\nreturn $out + {p}[$n:] + {q}[$n:]",
                    f"$out = []\nfor $i in range(max(len({p}), len({q}))):\n    $out.extend({p}[$i : $i + 1])\n    $out.extend({q}[$i : $i + 1])\nreturn $out",
                ],
            ),
            (
                f"for each element of {p} how often it occurs in {q}, as a list",
                "occurrences",
                [f"return [{q}.count($x) for $x in {p}]", f"$counts = $Counter({q})\nreturn [$counts[$x] for $x in {p}]"],
            ),
            (
                f"for each element of {p} the index of its first occurrence in {q}, or -1 if it is not there",
                "lookup",
                [
                    f"return [{q}.index($x) if $x in {q} else -1 for $x in {p}]",
                    f"$seen:: dict[{type_}, int] = {{}}\nfor $i, $x in enumerate({q}):\n    $seen.setdefault($x, $i)\nreturn [$seen.get($x, -1) for $x in {p}]",
                ],
            ),
            (
                f"the elements of {p} and {q} merged into one sorted list",
                "merge_sorted",
                [
                    f"return sorted({p} + {q})",
                    f"$left, $right = sorted({p}), sorted({q})\n$out = []\n$i = $j = 0\nwhile $i < len($left) and $j < len($right):\n    if $left[$i] <= $right[$j]:\n        $out.append($left[$i])\n        $i += 1\n    else:\n        $out.append($right[$j])\n        $j += 1\nreturn $out + $left[$i:] + $right[$j:]",
                ],
            ),
            (
                f"a dictionary from each element of {p} to the element of {q} at the same position",
                "zip_to_dict",
                [
                    f"return dict(zip({p}, {q}))",
                    f"$out = {{}}\nfor $a, $b in zip({p}, {q}):\n    $out[$a] = $b\nreturn $out",
                    f"return {{$a: $b for $a, $b in zip({p}, {q})}}",
                ],
            ),
            (
                f"all pairs (x, y) with x from {p} and y from {q} and x < y, as a list of tuples",
                "ordered_pairs",
                [
                    f"return [($a, $b) for $a in {p} for $b in {q} if $a < $b]",
                    f"$out = []\nfor $a in {p}:\n    for $b in {q}:\n        if $a < $b:\n            $out.append(($a, $b))\nreturn $out",
                    f"return [($a, $b) for $a, $b in $product({p}, {q}) if $a < $b]",
                ],
            ),
            (
                f"the length of the longest common subsequence of {p} and {q}",
                "common_subsequence_length",
                [
                    f"$table = [[0] * (len({q}) + 1) for _ in range(len({p}) + 1)]\nfor $i, $a in enumerate({p}, 1):\n    for $j, $b in enumerate({q}, 1):\n        if $a == $b:\n            $table[$i][$j] = $table[$i - 1][$j - 1] + 1\n        else:\n            $table[$i][$j] = max($table[$i - 1][$j], $table[$i][$j - 1])\nreturn $table[-1][-1]",
                    f"def $step($i, $j):\n    if $i == len({p}) or $j == len({q}):\n        return 0\n    if {p}[$i] == {q}[$j]:\n        return 1 + $step($i + 1, $j + 1)\n    return max($step($i + 1, $j), $step($i, $j + 1))\n\nreturn $step(0, 0)",
                ],
            ),
        ]
        text, tag, bodies = rng.choice(options)
        goal = Goal("get", text, ("Return", "Return", "Get", "Give"))
        if tag == "zip_to_dict":
            notes = (
                say(
                    rng,
                    "{If an element occurs twice, the later one counts|The last occurrence wins}. What is left of the longer list is ignored.",
                ),
            )
        returns = {
            "occurrences": "list[int]",
            "lookup": "list[int]",
            "zip_to_dict": f"dict[{type_}, {type_}]",
            "ordered_pairs": f"list[tuple[{type_}, {type_}]]",
            "common_subsequence_length": "int",
        }.get(tag, f"list[{type_}]")
        names = (
            (tag, f"{tag}_elements", f"{tag}_values", f"find_{tag}")
            if tag
            not in (
                "interleave",
                "merge_sorted",
                "zip_to_dict",
                "ordered_pairs",
                "common_subsequence_length",
            )
            else (tag, f"{tag}_lists", f"{tag}_of_lists")
        )
    rng.shuffle(bodies)
    return Draft(
        "two lists",
        names,
        scene.finish(),
        returns,
        Goal(goal.kind, say(rng, goal.text), goal.verbs),
        bodies[0],
        notes,
        bodies[1],
        pools={"a": ("a", "x", "left_value", "u", "first_item"), "b": ("b", "y", "right_value", "w", "second_item"), "x": ("x", "item", "value", "element")},
    )


__all__ = ["dictionaries", "ints", "ordering", "rows_of", "two_lists", "words"]
