"""Scans with state: runs of elements, neighbours, windows, pairs and prefixes."""

from __future__ import annotations

from random import Random

from talaria.finetune.exercises.core import Draft, Goal, negation, say
from talaria.finetune.exercises.streams import ElementSource, ExerciseScene, characters, int_list, str_list, test_for


def _source(scene: ExerciseScene, share: tuple[int, int, int] = (5, 3, 3)) -> ElementSource:
    made = scene.rng.choices((int_list, characters, str_list), share)[0]
    return made(scene)


def runs(rng: Random) -> Draft:
    """Maximal runs of consecutive elements that meet a condition, or are equal, or rise."""
    scene = ExerciseScene(rng)
    source = _source(scene)
    many, where, code = source.many, source.where, source.code
    roll = rng.random()
    by_pair = roll > 0.6
    if not by_pair:
        test = test_for(scene, source)
        run = f"consecutive {many} {where} that {test.verb}"
        joins = test.code
        pair = test.tag
    else:
        number = source.type == "int"
        options = [("$x == $previous", f"{{equal|identical}} consecutive {many} {where}", "equal")]
        if number:
            n = rng.randint(2, 6)
            options += [
                ("$x > $previous", f"consecutive {many} {where} that are strictly increasing", "rising"),
                ("$x < $previous", f"consecutive {many} {where} that are strictly decreasing", "falling"),
                ("$x >= $previous", f"consecutive {many} {where} that never decrease", "steady"),
                (f"abs($x - $previous) <= {n}", f"consecutive {many} {where} in which neighbours differ by at most {n}", "smooth"),
                ("$x == $previous + 1", f"consecutive {many} {where} in which each is one more than the one before", "counting"),
                ("$x % 2 != $previous % 2", f"consecutive {many} {where} that alternate between even and odd", "alternating"),
            ]
        elif source.type == "str":
            options += [
                ("len($x) > len($previous)", f"consecutive {many} {where} of strictly increasing length", "growing"),
                ("$x[:1] == $previous[:1]", f"consecutive {many} {where} with the same first character", "same_initial"),
                ("len($x) == len($previous)", f"consecutive {many} {where} of the same length", "same_length"),
                ("$x > $previous", f"consecutive {many} {where} in strictly increasing alphabetical order", "ordered"),
            ]
        else:
            options += [
                ("$x > $previous", f"consecutive {many} {where} in strictly increasing order", "rising"),
                ("$x.lower() == $previous.lower()", f"consecutive {many} {where} that are equal apart from case", "same"),
                ("$x.isupper() == $previous.isupper()", f"consecutive {many} {where} that are all upper case or all not", "same_case"),
            ]
        joins, run, tag = rng.choice(options)
        pair = tag
    type_ = "str" if source.type in ("char", "str") else "int"
    measure = rng.choice(("longest", "longest", "count", "start", "lengths", "run"))
    if source.type == "char" and measure == "run":
        empty, add, kind = '""', "$current += $x", "str"
        fresh = "$x"
    else:
        empty, add, kind = "[]", "$current.append($x)", f"list[{type_}]"
        fresh = "[$x]"
    notes: tuple[str, ...] = ()
    names: tuple[str, ...]
    n = 1 if rng.random() < 0.6 else 2
    if not by_pair:
        lines = {
            "longest": f"$longest = 0\n$current = 0\nfor $x in {code}:\n    if {joins}:\n        $current += 1\n"
            "        $longest = max($longest, $current)\n    else:\n        $current = 0\nreturn $longest",
            "count": f"$count = 0\n$flag = False\nfor $x in {code}:\n    if {joins}:\n        if not $flag:\n"
            "            $count += 1\n        $flag = True\n    else:\n        $flag = False\nreturn $count",
            "lengths": f"$out = []\n$current = 0\nfor $x in {code}:\n    if {joins}:\n        $current += 1\n    elif $current:\n"
            "        $out.append($current)\n        $current = 0\nif $current:\n    $out.append($current)\nreturn $out",
            "start": f"$best = -1\n$longest = 0\n$current = 0\nfor $i, $x in enumerate({code}):\n    if {joins}:\n        $current += 1\n"
            "        if $current > $longest:\n            $longest = $current\n            $best = $i - $current + 1\n"
            "    else:\n        $current = 0\nreturn $best",
            "run": f"$best = {empty}\n$current = {empty}\nfor $x in {code}:\n    if {joins}:\n        {add}\n        if len($current) > len($best):\n"
            f"            $best = $current{'' if empty != '[]' else '[:]'}\n    else:\n        $current = {empty}\nreturn $best",
        }
        grouped = f"for $flag, $run in $groupby({code}, key=lambda $x: {joins}):\n    if $flag:\n        "
        other = {
            "longest": f"return max((len(list($run)) for $flag, $run in $groupby({code}, key=lambda $x: {joins}) if $flag), default=0)",
            "count": f"return sum(1 for $flag, _ in $groupby({code}, key=lambda $x: {joins}) if $flag)",
            "lengths": f"$out = []\n{grouped}$out.append(len(list($run)))\nreturn $out",
            "start": f"$best = -1\n$longest = 0\n$i = 0\nwhile $i < len({code}):\n    $j = $i\n    while $j < len({code}) and (TEST):\n"
            "        $j += 1\n    if $j - $i > $longest:\n        $best = $i\n        $longest = $j - $i\n    $i = max($j, $i + 1)\nreturn $best".replace(
                "(TEST)", _at(joins, f"{code}[$j]")
            ),
            "run": f"$best = {empty}\n$i = 0\nwhile $i < len({code}):\n    $j = $i\n    while $j < len({code}) and (TEST):\n"
            "        $j += 1\n    if $j - $i > len($best):\n".replace("(TEST)", _at(joins, f"{code}[$j]"))
            + f"        $best = {code}[$i:$j]\n    $i = max($j, $i + 1)\nreturn $best",
        }
    else:
        head = f"if not {code}:\n    return "
        step = f"for $previous, $x in zip({code}, {code}[1:]):\n    if {joins}:\n        "
        lines = {
            "longest": f"{head}0\n$longest = $current = 1\n{step}$current += 1\n        $longest = max($longest, $current)\n"
            "    else:\n        $current = 1\nreturn $longest",
            "count": f"{head}0\n$count = 1\nfor $previous, $x in zip({code}, {code}[1:]):\n    if {negation(joins)}:\n        $count += 1\nreturn $count",
            "lengths": f"{head}[]\n$out = [1]\n{step}$out[-1] += 1\n    else:\n        $out.append(1)\nreturn $out",
            "start": f"{head}-1\n$best = $left = 0\n$longest = 1\nfor $i in range(1, len({code})):\n    $previous, $x = {code}[$i - 1], {code}[$i]\n"
            f"    if {negation(joins)}:\n        $left = $i\n    if $i - $left + 1 > $longest:\n        $longest = $i - $left + 1\n"
            "        $best = $left\nreturn $best",
            "run": f"{head}{empty}\n$best = $current = {code}[:1]\n{step}$current = $current + {fresh}\n    else:\n        $current = {fresh}\n"
            "    if len($current) > len($best):\n        $best = $current\nreturn $best",
        }
        ends = f"$j < len({code}) and {_at(joins, f'{code}[$j]').replace('$previous', f'{code}[$j - 1]')}"
        walk = f"$i = 0\nwhile $i < len({code}):\n    $j = $i + 1\n    while {ends}:\n        $j += 1\n"
        other = {
            "longest": f"$longest = 0\n{walk}    $longest = max($longest, $j - $i)\n    $i = $j\nreturn $longest",
            "count": f"$count = 0\n{walk}    $count += 1\n    $i = $j\nreturn $count",
            "lengths": f"$out = []\n{walk}    $out.append($j - $i)\n    $i = $j\nreturn $out",
            "start": f"$best = -1\n$longest = 0\n{walk}    if $j - $i > $longest:\n        $best, $longest = $i, $j - $i\n    $i = $j\nreturn $best",
            "run": f"$best = {empty}\n{walk}    if $j - $i > len($best):\n        $best = {code}[$i:$j]\n    $i = $j\nreturn $best",
        }
    thing = f"run of {run}"
    things = f"runs of {run}"
    tag = pair
    if measure == "longest":
        goal = Goal("get", f"the length of the longest {thing}")
        notes = (say(rng, "{Return 0|The result is 0|It is 0} if there {is none|are none}."),)
        returns, names = (
            "int",
            (f"longest_{tag}_run", f"longest_{tag}_streak", f"max_{tag}_length", "longest_streak"),
        )
    elif measure == "count":
        goal = Goal(
            "do",
            f"{{Count|Return the number of}} the maximal {things}".replace("number of the", "number of"),
        )
        goal = Goal(
            "do",
            rng.choice((f"Count the maximal {things}", f"Return the number of maximal {things}")),
        )
        returns, names = (
            "int",
            (f"count_{tag}_runs", f"number_of_{tag}_runs", f"count_{tag}_streaks"),
        )
    elif measure == "lengths":
        goal = Goal(
            "get",
            f"the lengths of {{the|all}} maximal {things}, in {{order|their order}}",
            ("Return", "List", "Collect"),
        )
        returns, names = (
            "list[int]",
            (f"{tag}_run_lengths", f"lengths_of_{tag}_runs", "run_lengths"),
        )
    elif measure == "start":
        goal = Goal("get", f"the index at which the longest {thing} begins")
        notes = (
            say(
                rng,
                "{The first one wins a tie|If there are several, take the first}. {Return -1|The result is -1} if there is none.",
            ),
        )
        returns, names = (
            "int",
            (f"start_of_longest_{tag}_run", f"longest_{tag}_start", f"find_longest_{tag}"),
        )
    else:
        goal = Goal(
            "get",
            f"the longest {thing}" + (", as a {string|text}" if empty == '""' else ", as a list"),
        )
        notes = (
            say(
                rng,
                "{The first one wins a tie|If there are several of the same length, return the first}.",
            ),
        )
        if not by_pair or rng.random() < 0.6:
            notes += (f"The result is empty if there {rng.choice(('is none', 'are none'))}.",)
        returns = kind
        names = (f"longest_{tag}_stretch", f"longest_{tag}", f"longest_{tag}_part")
    bodies = [lines[measure], other[measure]]
    rng.shuffle(bodies)
    if source.type != "char" and measure == "run" and n == 3:
        bodies.reverse()
    return Draft(
        "run",
        names,
        scene.finish(),
        returns,
        goal,
        bodies[0],
        notes,
        bodies[1],
        pools={
            "x": source.var,
            "flag": ("inside", "in_run", "active", "matches", "good"),
            "run": ("run", "group", "members", "part"),
            "longest": ("longest", "best_length", "max_length", "record"),
        },
    )


def _at(code: str, element: str) -> str:
    changed = code.replace("$x", element)
    return f"({changed})" if " or " in changed or " if " in changed else changed


NEIGHBOUR_TESTS = (
    ("$b > $a", "in which the second {is greater than|exceeds} the first", "rises", "int"),
    ("$b < $a", "in which the second is smaller than the first", "falls", "int"),
    ("$a == $b", "that are equal", "repeats", "any"),
    ("$a != $b", "that differ", "changes", "any"),
    ("abs($a - $b) > K", "that differ by more than K", "jumps", "int"),
    ("abs($a - $b) <= K", "that differ by at most K", "close_pairs", "int"),
    ("($a + $b) % 2 == 0", "whose sum is even", "even_sums", "int"),
    ("($a + $b) % 2 == 1", "whose sum is odd", "odd_sums", "int"),
    ("$a + $b > K", "whose sum is greater than K", "big_sums", "int"),
    ("$a * $b < 0", "with opposite signs, neither being zero", "sign_changes", "int"),
    ("$a % 2 == $b % 2", "of the same parity", "same_parity", "int"),
    ("($a + $b) % K == 0", "whose sum is divisible by K", "divisible_sums", "int"),
    ("len($a) == len($b)", "of the same length", "same_length", "str"),
    ("len($a) < len($b)", "in which the second is longer than the first", "growing", "str"),
    ("$a[:1] == $b[:1]", "that start with the same character", "same_initial", "str"),
    ("$a[-1:] == $b[:1]", "in which the second starts with the last character of the first", "chained", "str"),
    ("$a == $b[::-1]", "in which the second is the first written backwards", "mirrored", "str"),
    ("$a.lower() == $b.lower()", "that are equal apart from upper and lower case", "same", "any_str"),
    ("len($a) + len($b) > K", "with more than K characters together", "long_pairs", "str"),
    ("$a < $b", "in which the first comes before the second in alphabetical order", "ordered", "any_str"),
    ("set($a) & set($b)", "that have a character in common", "related", "str"),
    ("$a.isupper() and $b.islower()", "in which an upper-case letter comes before a lower-case one", "falls", "char"),
    ("$a.isalpha() and $b.isdigit()", "in which a letter comes before a digit", "letter_digit", "char"),
)


def pairs(rng: Random) -> Draft:
    """Pairs of neighbours, of any two elements, or of elements of two lists."""
    scene = ExerciseScene(rng)
    form = rng.choice(("neighbours", "any", "any", "two"))
    source = _source(scene, (6, 1 if form == "neighbours" else 0, 3))
    kinds = {
        "int": ("int", "any"),
        "str": ("str", "any", "any_str"),
        "char": ("any", "any_str", "char"),
    }[source.type]
    code, said, tag, _ = rng.choice([t for t in NEIGHBOUR_TESTS if t[3] in kinds])
    if "K" in code:
        n = scene.amount(2, 8, "the divisor" if "%" in code else "the limit")
        code, said = code.replace("K", n), said.replace("K", n)
    said = say(rng, said)
    xs, many = source.code, source.many
    number = source.type == "int"
    element = "int" if number else "str"
    if form == "two":
        second = int_list(scene, "ys") if number else str_list(scene, "ys")
        ys = second.code
        said = said.replace("the second", "the one from " + ys).replace("the first", "the one from " + xs)
        where = f"at the same position of {xs} and {ys}"
        loop = f"for $a, $b in zip({xs}, {ys}):\n"
        generator = f"for $a, $b in zip({xs}, {ys})"
        what = f"pairs of elements {where} {said}"
        index = f"for $i in range(min(len({xs}), len({ys}))):\n    $a, $b = {xs}[$i], {ys}[$i]\n"
        params = list(scene.params)
        params.sort(key=lambda p: p.role in ("limit_", "limit2_"))
        scene.params = params
    elif form == "neighbours":
        loop = rng.choice((f"for $a, $b in zip({xs}, {xs}[1:]):\n", f"for $a, $b in $pairwise({xs}):\n"))
        generator = loop[:-2]
        what = f"pairs of {{neighbouring|adjacent|consecutive}} {many} {source.where} {said}"
        index = f"for $i in range(len({xs}) - 1):\n    $a, $b = {xs}[$i], {xs}[$i + 1]\n"
    else:
        loop = f"for $a, $b in $combinations({xs}, 2):\n"
        generator = loop[:-2]
        what = f"pairs of {many} at different positions {source.where.replace('in ', 'of ')} {said}"
        index = f"for $i in range(len({xs})):\n    for $j in range($i + 1, len({xs})):\n        $a, $b = {xs}[$i], {xs}[$j]\n"
        enumerated = f"for $i, $a in enumerate({xs}):\n    for $b in {xs}[$i + 1 :]:\n"
        index = rng.choice((index, enumerated))
    what = say(rng, what)
    margin = "        " if form == "any" else "    "
    measures = ["count", "count", "list", "any", "all", "first"]
    measures += ["sum", "max_sum", "min_gap", "positions"] if number else ["positions"]
    measure = rng.choice(measures)
    notes: tuple[str, ...] = ()
    names: tuple[str, ...]
    pool = {"a": ("a", "left", "first", "x", "p"), "b": ("b", "right", "second", "y", "q")}
    if form == "neighbours":
        pool = {
            "a": ("a", "previous", "left", "first", "current"),
            "b": ("b", "following", "right", "second", "nxt"),
        }

    def put(init: str, step: str, final: str, head: str, blanks: str) -> str:
        inner = "\n".join(blanks + "    " + row for row in step.split("\n"))
        return "\n".join(filter(None, [init, f"{head}{blanks}if {code}:\n{inner}", final]))

    def both(init: str, step: str, final: str) -> list[str]:
        return [put(init, step, final, loop, "    "), put(init, step, final, index, margin)]

    if measure == "count":
        goal = Goal(
            "do",
            rng.choice(
                (
                    f"Count the {what}",
                    f"Return the number of {what}",
                )
            ),
        )
        bodies = [
            *both("$count = 0", "$count += 1", "return $count"),
            f"return sum(1 {generator} if {code})",
        ]
        returns, names = "int", (f"count_{tag}", f"number_of_{tag}", f"{tag}_count")
    elif measure == "list":
        goal = Goal("get", f"the {what}, as a list of tuples", ("Return", "Find", "Collect", "List"))
        bodies = [
            *both("$out = []", "$out.append(($a, $b))", "return $out"),
            f"return [($a, $b) {generator} if {code}]",
        ]
        returns, names = (
            f"list[tuple[{element}, {element}]]",
            (f"find_{tag}", f"{tag}", f"get_{tag}", f"pairs_with_{tag}"),
        )
    elif measure in ("any", "all"):
        there = what.replace("pairs of", "a pair of", 1)
        if measure == "any":
            goal = Goal("whether", f"there is {there}")
            bodies = [*both("", "return True", "return False"), f"return any({code} {generator})"]
            names = (f"has_{tag}", f"any_{tag}", f"contains_{tag}")
            if code.startswith("set("):
                bodies = bodies[:2]
        else:
            goal = Goal("whether", f"there {{is no|is not a single}} {there.removeprefix('a ')}")
            goal = Goal("whether", say(rng, goal.text))
            bodies = [
                *both("", "return False", "return True"),
                f"return not any({code} {generator})",
            ]
            names = (f"no_{tag}", f"has_no_{tag}", f"without_{tag}")
        returns = "bool"
    elif measure == "first":
        goal = Goal("get", f"the first of the {what}, as a tuple")
        notes = (say(rng, "{Return None if there is none|If there is none, the result is None}."),)
        bodies = [
            *both("", "return $a, $b", "return None"),
            f"return next((($a, $b) {generator} if {code}), None)",
        ]
        returns, names = (
            f"tuple[{element}, {element}] | None",
            (f"first_of_{tag}", f"find_first_{tag}", f"first_{tag}"),
        )
    elif measure == "positions":
        if form == "any":
            goal = Goal(
                "get",
                f"the positions (i, j), with i < j, of all {what}",
                ("Return", "Find", "List"),
            )
            step, returns = "$out.append(($i, $j))", "list[tuple[int, int]]"
            one = f"for $i in range(len({xs})):\n    for $j in range($i + 1, len({xs})):\n        $a, $b = {xs}[$i], {xs}[$j]\n"
            bodies = [put("$out = []", step, "return $out", one, margin)] * 2
            two = f"for $j in range(len({xs})):\n    for $i in range($j):\n        $a, $b = {xs}[$i], {xs}[$j]\n"
            bodies[1] = put("$out = []", step, "return sorted($out)", two, margin)
        else:
            place = "the positions" if form == "two" else "the index of the first element of each"
            goal = Goal(
                "get",
                f"{place} of all {what}" if form == "two" else f"{place} of the {what}",
                ("Return", "Find", "List"),
            )
            returns = "list[int]"
            pair = f"zip({xs}, {ys if form == 'two' else xs + '[1:]'})"
            bodies = [
                put("$out = []", "$out.append($i)", "return $out", index, margin),
                f"return [$i for $i, ($a, $b) in enumerate({pair}) if {code}]",
            ]
        names = (f"{tag}_positions", f"positions_of_{tag}", f"where_{tag}", f"{tag}_indices")
    else:
        init, value, said2, name = {
            "sum": ("$total = 0", "$a * $b", "the sum of the products of the", "product_sum"),
            "max_sum": ("", "$a + $b", "the largest sum of one of the", "max_sum"),
            "min_gap": (
                "",
                "abs($a - $b)",
                "the smallest difference (never negative) within one of the",
                "min_gap",
            ),
        }[measure]
        goal = Goal("get", f"{said2} {what}")
        if measure == "sum":
            notes = ("It is 0 if there are none.",)
            bodies = [
                *both(init, f"$total += {value}", "return $total"),
                f"return sum({value} {generator} if {code})",
            ]
            returns = "int"
        else:
            name_, sign = ("max", ">") if measure == "max_sum" else ("min", "<")
            notes = (say(rng, "{Return None if there are none|If there are none, return None}."),)
            step = f"$value = {value}\nif $best is None or $value {sign} $best:\n    $best = $value"
            bodies = [
                *both("$best = None", step, "return $best"),
                f"return {name_}(({value} {generator} if {code}), default=None)",
            ]
            returns = "int | None"
        names = (f"{name}_of_{tag}", f"{tag}_{name}", f"{name}_{tag}")
    rng.shuffle(bodies)
    return Draft(
        f"pairs of {form}",
        names,
        scene.finish(),
        returns,
        goal,
        bodies[0],
        notes,
        bodies[1],
        pools=pool,
    )


WINDOW = {
    "sum": ("sum($part)", "the sum of", "int"),
    "max": ("max($part)", "the largest number in", "int"),
    "min": ("min($part)", "the smallest number in", "int"),
    "spread": (
        "max($part) - min($part)",
        "the difference between the largest and smallest number in",
        "int",
    ),
    "mean": ("sum($part) / K", "the average of", "float"),
    "distinct": ("len(set($part))", "the number of different values in", "int"),
    "ends": ("$part[0] + $part[-1]", "the sum of the first and last number of", "int"),
}


def windows(rng: Random) -> Draft:
    """A window of fixed length slides over a list, or blocks of it are taken one by one."""
    scene = ExerciseScene(rng)
    source = int_list(scene)
    xs = source.code
    n = scene.amount(2, 4, "the length", 0.7)
    tag = rng.choice(list(WINDOW))
    value, said, type_ = WINDOW[tag]
    value = value.replace("K", n)
    blocks = rng.random() < 0.35
    if blocks and tag == "mean":
        value = "sum($part) / len($part)"
    if blocks:
        each = f"block of {n} consecutive {source.many}"
        where = f"of {xs}, one block after the other; the last one may be shorter"
        loop = f"for $i in range(0, len({xs}), {n}):\n    $part = {xs}[$i : $i + {n}]\n"
        back = f"$i = 0\nwhile $i < len({xs}):\n    $part = {xs}[$i : $i + {n}]\n    $i += {n}\n"
    else:
        each = rng.choice((f"window of {n} consecutive {source.many}", f"run of {n} consecutive {source.many}"))
        where = source.where
        loop = f"for $i in range(len({xs}) - {n} + 1):\n    $part = {xs}[$i : $i + {n}]\n"
        back = f"$i = 0\nwhile $i + {n} <= len({xs}):\n    $part = {xs}[$i : $i + {n}]\n    $i += 1\n"
    measure = rng.choice(("list", "list", "best", "count", "where"))
    notes: tuple[str, ...] = ()
    names: tuple[str, ...]
    direct = value.replace("$part", f"{xs}[$i : $i + {n}]")
    over = f"range(0, len({xs}), {n})" if blocks else f"range(len({xs}) - {n} + 1)"
    if measure == "list":
        goal = Goal("get", f"{said} each {each} {where}", ("Return", "Compute", "List"))
        bodies = [
            f"$out = []\n{loop}    $out.append({value})\nreturn $out",
            f"return [{direct} for $i in {over}]",
            f"$out = []\n{back}    $out.append({value})\nreturn $out",
        ]
        if tag == "sum" and not blocks:
            bodies.append(
                f"if len({xs}) < {n}:\n    return []\n$total = sum({xs}[:{n}])\n$out = [$total]\nfor $i in range({n}, len({xs})):\n"
                f"    $total += {xs}[$i] - {xs}[$i - {n}]\n    $out.append($total)\nreturn $out"
            )
        notes = (
            ()
            if blocks
            else (
                say(
                    rng,
                    f"{{The result is empty|Return an empty list}} if there are fewer than {n} {source.many}.",
                ),
            )
        )
        returns = f"list[{type_}]"
        names = (
            f"{'block' if blocks else 'window'}_{tag}s",
            f"{tag}_of_{'blocks' if blocks else 'windows'}",
            f"sliding_{tag}" if not blocks else f"chunk_{tag}s",
        )
    elif measure == "best":
        up = rng.random() < 0.6
        word = "largest" if up else "smallest"
        goal = Goal(
            "get",
            f"the {word} value that {said} a {each} {where.split(',')[0]} {{takes|can take}}".replace("that the", "that the"),
        )
        notes = ("The blocks follow each other; the last one may be shorter.",) if blocks else ()
        notes += (
            say(
                rng,
                f"{{Return None|The result is None}} if {'the list is empty' if blocks else f'there are fewer than {n} {source.many}'}.",
            ),
        )
        name, sign = ("max", ">") if up else ("min", "<")
        bodies = [
            f"$best = None\n{loop}    $value = {value}\n    if $best is None or $value {sign} $best:\n        $best = $value\nreturn $best",
            f"return {name}(({direct} for $i in {over}), default=None)",
        ]
        returns = f"{type_} | None"
        names = (f"{name}_{'block' if blocks else 'window'}_{tag}", f"best_{tag}", f"{word}_{tag}")
    elif measure == "count":
        least = scene.amount(3, 20)
        goal = Goal(
            "do",
            f"Count the {each.replace('block', 'blocks').replace('window', 'windows').replace('run', 'runs', 1)} {where.replace(', one block after the other; the last one may be shorter', ', taken one after the other (the last may be shorter),')} for which {said} them is at least {least}".replace(
                "of them", "them all"
            )
            .replace("in them", "in it")
            .replace("the sum them all", "the sum"),
        )
        goal = Goal(
            "get",
            f"the number of {each.replace('block', 'blocks').replace('window', 'windows').replace('run', 'runs', 1)} {where.split(',')[0]} with {said} each at least {least}",
        )
        verb = {
            "sum": "a sum",
            "max": "a largest number",
            "min": "a smallest number",
            "spread": "a difference between largest and smallest number",
            "mean": "an average",
            "distinct": "a number of different values",
            "ends": "a sum of first and last number",
        }[tag]
        goal = Goal(
            "get",
            f"the number of {each.replace('block', 'blocks').replace('window', 'windows').replace('run', 'runs', 1)} {where.split(',')[0]} with {verb} of at least {least}",
        )
        notes = ("The last block may be shorter.",) if blocks else ()
        bodies = [f"$count = 0\n{loop}    if {value} >= {least}:\n        $count += 1\nreturn $count", f"return sum(1 for $i in {over} if {direct} >= {least})"]
        returns, names = (
            "int",
            (f"count_{tag}_{'blocks' if blocks else 'windows'}", f"{tag}_windows_above"),
        )
    else:
        goal = Goal(
            "get",
            f"the index at which the {each} {where.split(',')[0]} begins for which {said} it is largest".replace("of it", "it contains").replace(
                "in it", "in it"
            ),
        )
        verb = {
            "sum": "the largest sum",
            "max": "the largest maximum",
            "min": "the largest minimum",
            "spread": "the largest difference between its largest and smallest number",
            "mean": "the largest average",
            "distinct": "the most different values",
            "ends": "the largest sum of its first and last number",
        }[tag]
        goal = Goal("get", f"the index at which the {each} {where.split(',')[0]} with {verb} begins")
        notes = (say(rng, "{The first one wins a tie|If there are several, take the first}."),)
        notes += (("The last block may be shorter. Return -1 if the list is empty." if blocks else f"Return -1 if there are fewer than {n} {source.many}."),)
        bodies = [
            f"$best = -1\n$best_key = None\n{loop}    $value = {value}\n    if $best_key is None or $value > $best_key:\n        $best, $best_key = $i, $value\nreturn $best",
            f"return max({over}, key=lambda $i: {direct}, default=-1)",
        ]
        returns, names = (
            "int",
            (
                f"best_{'block' if blocks else 'window'}_by_{tag}",
                f"{tag}_window_start",
                f"where_{tag}_is_largest",
            ),
        )
    rng.shuffle(bodies)
    return Draft(
        "window",
        names,
        scene.finish(),
        returns,
        goal,
        bodies[0],
        notes,
        bodies[1],
        pools={"part": ("window", "part", "chunk", "block", "piece"), "i": ("i", "start", "begin", "left")},
    )


__all__ = ["pairs", "runs", "windows"]
