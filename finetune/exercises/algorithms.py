"""Algorithms on lists: running values, searching by halves, sorting by hand, choosing subsets, tables."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from talaria.finetune.exercises.core import Draft, Goal, Param, ints, number, say
from talaria.finetune.exercises.streams import ExerciseScene, int_list, int_test

RUNNING = (
    ("sum", "$total = 0", "$total += $x", "$total", "sum", "list($accumulate({xs}))"),
    ("maximum", "$total = None", "$total = $x if $total is None else max($total, $x)", "$total", "largest number", "list($accumulate({xs}, max))"),
    ("minimum", "$total = None", "$total = $x if $total is None else min($total, $x)", "$total", "smallest number", "list($accumulate({xs}, min))"),
    ("alternating", "$total = 0\n$sign = 1", "$total += $sign * $x\n$sign = -$sign", "$total", "sum with alternating signs (plus first)", ""),
    ("product", "$total = 1", "$total *= $x", "$total", "product", "list($accumulate({xs}, $operator.mul))"),
    ("absolute", "$total = 0", "$total += abs($x)", "$total", "sum of absolute values", "list($accumulate(map(abs, {xs})))"),
    ("distinct", "$seen = set()", "$seen.add($x)", "len($seen)", "number of different values", "[len(set({xs}[: $i + 1])) for $i in range(len({xs}))]"),
    (
        "spread",
        "$low = $high = None",
        "$low = $x if $low is None else min($low, $x)\n$high = $x if $high is None else max($high, $x)",
        "$high - $low",
        "difference between the largest and smallest number",
        "[max({xs}[: $i + 1]) - min({xs}[: $i + 1]) for $i in range(len({xs}))]",
    ),
)


def prefixes(rng: Random) -> Draft:
    """A value is kept up to date along a list, and something is asked of its course."""
    scene = ExerciseScene(rng)
    source = int_list(scene)
    xs = source.code
    tag, init, step, value, said, short = rng.choice(RUNNING)
    if rng.random() < 0.25:
        test = int_test(scene)
        tag, init, step, value, said = "count", "$total = 0", f"if {test.code}:\n    $total += 1", "$total", f"number of {source.many} that {test.verb}"
        short = f"list($accumulate(int({test.code}) for $x in {xs}))"
    inner = "\n".join("    " + line for line in step.split("\n"))
    loop = f"{init}\nfor $x in {xs}:\n{inner}\n"
    counted = f"{init}\nfor $i, $x in enumerate({xs}):\n{inner}\n"
    every = short.replace("{xs}", xs)
    whole = f"$out = {every}\n" if every else f"$out = []\n{loop}    $out.append({value})\n"
    first = rng.choice((f"the first elements of {xs}", f"a beginning of {xs}"))
    measure = rng.choice(("list", "first", "count", "best", "where", "last_below"))
    notes: tuple[str, ...] = ()
    names: tuple[str, ...]
    if measure == "list":
        goal = Goal("get", f"a list with the {said} of the elements up to each position of {xs}, that position included", ("Return", "Build", "Compute"))
        bodies = [f"$out = []\n{loop}    $out.append({value})\nreturn $out", f"{whole}return $out"]
        if every:
            bodies.append(f"return {every}")
        returns, names = "list[int]", (f"running_{tag}", f"{tag}_so_far", f"prefix_{tag}s", f"cumulative_{tag}")
    elif measure == "first":
        n = scene.amount(3, 20, "the limit", 0.7)
        goal = Goal("get", f"the index of the first position of {xs} up to which the {said} is at least {n}")
        notes = (say(rng, "{Return -1 if there is none|If there is no such position, return -1}."),)
        bodies = [
            f"{counted}    if {value} >= {n}:\n        return $i\nreturn -1",
            f"{whole}for $i, $y in enumerate($out):\n    if $y >= {n}:\n        return $i\nreturn -1",
        ]
        returns, names = "int", (f"first_{tag}_reaching", "first_position_reaching", f"when_{tag}_reaches", "reach")
    elif measure == "count":
        n = scene.amount(0, 15, "the limit", 0.6)
        sign, word = rng.choice(((">", "greater than"), ("<", "less than"), ("==", "equal to")))
        goal = Goal("get", f"the number of positions of {xs} up to which, themselves included, the {said} is {word} {n}")
        bodies = [f"$count = 0\n{loop}    if {value} {sign} {n}:\n        $count += 1\nreturn $count", f"{whole}return sum(1 for $y in $out if $y {sign} {n})"]
        returns, names = "int", (f"count_positions_by_{tag}", f"{tag}_positions", "count_beginnings")
    elif measure == "best":
        if tag in ("maximum", "minimum", "distinct", "absolute", "count", "spread"):
            return prefixes(rng)
        up = rng.random() < 0.6
        name, word = ("max", "largest") if up else ("min", "smallest")
        sign = ">" if up else "<"
        goal = Goal("get", f"the {word} {said} that {first} {{can have|has}}")
        notes = (say(rng, "At least one element is taken; {return None if the list is empty|for an empty list the result is None}."),)
        bodies = [
            f"$best = None\n{loop}    if $best is None or {value} {sign} $best:\n        $best = {value}\nreturn $best",
            f"{whole}return {name}($out, default=None)",
        ]
        returns, names = "int | None", (f"{name}_prefix_{tag}", f"{word}_{tag}_so_far", f"best_{tag}")
    elif measure == "where":
        goal = Goal(
            "get",
            f"the positions of {xs} at which the {said} of all elements so far, this one included, is {{even|an even number}}",
            ("Return", "List", "Find"),
        )
        bodies = [
            f"$out = []\n{counted}    if {f'({value})' if '-' in value else value} % 2 == 0:\n        $out.append($i)\nreturn $out",
            f"{whole}return [$i for $i, $y in enumerate($out) if $y % 2 == 0]",
        ]
        returns, names = "list[int]", (f"even_{tag}_positions", f"where_{tag}_is_even")
    else:
        if tag not in ("sum", "absolute", "count", "distinct", "spread"):
            return prefixes(rng)
        n = scene.amount(5, 25, "the limit", 0.7)
        goal = Goal("get", f"the longest beginning of {xs}, as a list, such that the {said} stays at most {n} throughout")
        bodies = [
            f"{counted}    if {value} > {n}:\n        return {xs}[:$i]\nreturn list({xs})",
            f"$kept = []\n{loop}    if {value} > {n}:\n        break\n    $kept.append($x)\nreturn $kept",
        ]
        returns, names = "list[int]", (f"take_while_{tag}", f"prefix_within_{tag}", "longest_beginning", "take_up_to")
    rng.shuffle(bodies)
    return Draft(
        "prefixes",
        names,
        scene.finish(),
        returns,
        Goal(goal.kind, say(rng, goal.text), goal.verbs),
        bodies[0],
        notes,
        bodies[1],
        pools={
            "x": source.var,
            "y": ("y", "value", "v", "current"),
            "total": ("total", "running", "current", "acc", "so_far"),
            "low": ("low", "smallest"),
            "high": ("high", "largest"),
        },
    )


GROWING = (
    ("$m * $m", "the square of it"),
    ("$m**3", "its cube"),
    ("$m * ($m + 1) // 2", "the sum of the integers from 1 to it"),
    ("2**$m", "two to its power"),
    ("$m * $m + $m", "the sum of it and its square"),
    ("3 * $m + $m // 4", "three times it plus a quarter of it, rounded down,"),
    ("$m // 2 + $m // 3", "the sum of its half and its third, both rounded down,"),
    ("$m * ($m + 1) * (2 * $m + 1) // 6", "the sum of the squares from 1 to it"),
    ("5 * $m - $m // 3", "five times it minus a third of it, rounded down,"),
    ("$m * len(bin($m))", "the product of it and the length of its binary spelling by bin"),
)
SEARCHES = (
    (
        "first_at_least",
        "the index of the first element of X that is at least K, or the length of the list if there is none",
        "$mid_value < K",
        "left",
        "bisect_left",
    ),
    (
        "first_above",
        "the index of the first element of X that is greater than K, or the length of the list if there is none",
        "$mid_value <= K",
        "left",
        "bisect_right",
    ),
    ("count_below", "the number of elements of X that are less than K", "$mid_value < K", "left", "bisect_left"),
    ("count_up_to", "the number of elements of X that are at most K", "$mid_value <= K", "left", "bisect_right"),
    ("last_below", "the index of the last element of X that is less than K, or -1 if there is none", "$mid_value < K", "left - 1", "bisect_left"),
    ("last_up_to", "the index of the last element of X that is at most K, or -1 if there is none", "$mid_value <= K", "left - 1", "bisect_right"),
)


def halving(rng: Random) -> Draft:
    """A sorted list, or the integers, are searched by halves."""
    scene = ExerciseScene(rng)
    names: tuple[str, ...]
    notes: tuple[str, ...] = ()
    pools = {"left": ("left", "low", "lo", "start"), "right": ("right", "high", "hi", "end"), "mid": ("mid", "middle", "m"), "m": ("n", "m", "x", "candidate")}
    if rng.random() < 0.55:
        role_names = ("numbers", "values", "xs", "items", "sorted_list", "data", "arr", "nums")
        down = rng.random() < 0.12
        xs = scene.add(
            Param(
                "xs",
                role_names,
                "list[int]",
                "a sorted list of integers" if not down else "a list of integers in descending order",
                "the list",
                f"the numbers, in {'descending' if down else 'ascending'} order",
                lambda r: sorted((r.randint(0, 20) for _ in range(r.randint(0, 8))), reverse=down),
            )
        )
        k = scene.add(Param("k", ("target", "k", "value", "x", "key", "wanted"), "int", "an integer", None, "the number to compare with", number(0, 22)))
        kind = rng.random()
        if kind < 0.6 and not down:
            tag, said, test, result, library = rng.choice(SEARCHES)
            said, test = said.replace("X", xs).replace("K", k), test.replace("K", k).replace("$mid_value", f"{xs}[$mid]")
            result = "$" + result
            goal = Goal("get", said)
            bodies = [
                f"$left, $right = 0, len({xs})\nwhile $left < $right:\n    $mid = ($left + $right) // 2\n    if {test}:\n        $left = $mid + 1\n    else:\n        $right = $mid\nreturn {result}",
                f"return ${library}({xs}, {k}){' - 1' if '-' in result else ''}",
                f"$i = 0\nwhile $i < len({xs}) and {test.replace('$mid', '$i')}:\n    $i += 1\nreturn $i{' - 1' if '-' in result else ''}",
            ]
            returns, names = "int", (tag, f"find_{tag}", f"search_{tag}", tag)
        elif kind < 0.8:
            found = rng.random() < 0.5
            goal = Goal("whether", f"{k} occurs in {xs}") if found else Goal("get", f"an index at which {k} stands in {xs}, or -1 if it does not occur")
            good, bad = ("True", "False") if found else ("$mid", "-1")
            sign = ">" if down else "<"
            loop = f"$left, $right = 0, len({xs}) - 1\nwhile $left <= $right:\n    $mid = ($left + $right) // 2\n    if {xs}[$mid] == {k}:\n        return {good}\n    if {xs}[$mid] {sign} {k}:\n        $left = $mid + 1\n    else:\n        $right = $mid - 1\nreturn {bad}"
            step = f"def $step($left, $right):\n    if $left > $right:\n        return {bad}\n    $mid = ($left + $right) // 2\n    if {xs}[$mid] == {k}:\n        return {good}\n    if {xs}[$mid] {sign} {k}:\n        return $step($mid + 1, $right)\n    return $step($left, $mid - 1)\n\nreturn $step(0, len({xs}) - 1)"
            bodies = [loop, step]
            notes = (say(rng, "{Search by halving|The list is searched by halves|Use binary search}."),)
            if not found:
                notes = (*notes, "If it occurs several times, any of its places will do.")
            returns, names = (
                ("bool" if found else "int"),
                ("binary_search", "contains", "search", "find") if found else ("binary_search", "find_index", "search", "locate"),
            )
        else:
            if down:
                return halving(rng)
            form = rng.choice(("between", "nearest", "equal"))
            if form == "between":
                k2 = scene.add(Param("k2", ("upper", "high_limit", "b", "to"), "int", "a second integer", None, "the upper limit, included", number(8, 25)))
                goal = Goal("get", f"the number of elements of {xs} from {k} to {k2}, both included")
                bodies = [
                    f"return max($bisect_right({xs}, {k2}) - $bisect_left({xs}, {k}), 0)",
                    f"return sum(1 for $y in {xs} if {k} <= $y <= {k2})",
                    f"$count = 0\nfor $y in {xs}:\n    if $y > {k2}:\n        break\n    if $y >= {k}:\n        $count += 1\nreturn $count",
                ]
                returns, names = "int", ("count_between", "count_in_range", "how_many_between")
            elif form == "equal":
                goal = Goal("get", f"how often {k} occurs in {xs}", ("Return", "Find", "Count"))
                bodies = [
                    f"return $bisect_right({xs}, {k}) - $bisect_left({xs}, {k})",
                    f"$left = $bisect_left({xs}, {k})\n$count = 0\nwhile $left + $count < len({xs}) and {xs}[$left + $count] == {k}:\n    $count += 1\nreturn $count",
                ]
                returns, names = "int", ("count_occurrences", "count_equal", "multiplicity")
            else:
                goal = Goal("get", f"the element of {xs} that is nearest to {k}, the smaller one in case of a tie, or None if the list is empty")
                bodies = [
                    f"$i = $bisect_left({xs}, {k})\n$kept = {xs}[max($i - 1, 0) : $i + 1]\nreturn min($kept, key=lambda $y: abs($y - {k}), default=None)",
                    f"$best = None\nfor $y in {xs}:\n    if $best is None or abs($y - {k}) < abs($best - {k}):\n        $best = $y\nreturn $best",
                ]
                returns, names = "int | None", ("nearest", "closest", "find_nearest")
        rng.shuffle(bodies)
        return Draft("halving", names, scene.finish(), returns, Goal(goal.kind, say(rng, goal.text), goal.verbs), bodies[0], notes, bodies[1], pools=pools)
    code, said = rng.choice(GROWING)
    n = scene.add(Param("n", ("limit", "n", "target", "total", "amount"), "int", "a non-negative integer", None, "the limit, not negative", number(0, 200)))
    up = rng.random() < 0.5
    if up:
        goal = Goal("get", f"the smallest non-negative integer for which {said} is at least {n}")
        bodies = [
            f"$m = 0\nwhile {code} < {n}:\n    $m += 1\nreturn $m",
            f"$left, $right = 0, 2 * {n} + 3\nwhile $left < $right:\n    $m = ($left + $right) // 2\n    if {code} >= {n}:\n        $right = $m\n    else:\n        $left = $m + 1\nreturn $left",
            f"return next($m for $m in $itertools.count() if {code} >= {n})",
        ]
        names = ("smallest_reaching", "first_number_reaching", "least_enough", "minimum_needed", "lower_bound")
    else:
        if code.startswith(("2**", "3 * ", "$m // 2")):
            return halving(rng)
        goal = Goal("get", f"the largest non-negative integer for which {said} is at most {n}")
        bodies = [
            f"$m = 0\nwhile {code.replace('$m', '($m + 1)')} <= {n}:\n    $m += 1\nreturn $m",
            f"$left, $right = 0, {n} + 1\nwhile $left < $right:\n    $m = ($left + $right + 1) // 2\n    if {code} <= {n}:\n        $left = $m\n    else:\n        $right = $m - 1\nreturn $left",
        ]
        names = ("largest_within", "greatest_fitting", "most_possible", "upper_bound", "last_number_within")
    rng.shuffle(bodies)
    return Draft("halving", names, scene.finish(), "int", goal, bodies[0], notes, bodies[1], pools=pools)


KEYS = (
    ("@", "", "int"),
    ("abs(@)", " by absolute value", "int"),
    ("@ % 10", " by last digit (remainder by 10)", "int"),
    ("-@", " from largest to smallest", "int"),
    ("len(@)", " by length", "str"),
    ("@.lower()", " alphabetically, ignoring case", "str"),
    ("@[::-1]", " by their spelling backwards", "str"),
    ("@[1]", " by their second component", "pair"),
    ("(@[1], @[0])", " by their second and then their first component", "pair"),
    ("@[0] + @[1]", " by the sum of their components", "pair"),
)


def sorts(rng: Random) -> Draft:
    """A list is sorted by hand, by one of the well-known methods."""
    scene = ExerciseScene(rng)
    key, said, kind = rng.choice(KEYS)
    type_, noun = {"int": ("int", "numbers"), "str": ("str", "words"), "pair": ("tuple[int, int]", "pairs")}[kind]
    names_ = {
        "int": ("numbers", "values", "xs", "items", "arr", "nums"),
        "str": ("words", "names", "items", "strings"),
        "pair": ("pairs", "points", "items", "spans"),
    }[kind]

    def draw(r: Random) -> object:
        if kind == "int":
            return [r.randint(-12, 20) for _ in range(r.randint(0, 6))]
        if kind == "str":
            return [r.choice(("fig", "Pear", "tea", "ivy", "Oak", "plum", "noon", "ab")) for _ in range(r.randint(0, 5))]
        return [(r.randint(0, 9), r.randint(0, 9)) for _ in range(r.randint(0, 4))]

    about = {"int": "integers", "str": "strings", "pair": "pairs of integers"}[kind]
    xs = scene.add(Param("xs", names_, f"list[{type_}]", f"a list of {about}", "the list", f"the {noun} to sort", draw))

    def k(element: str) -> str:
        return key.replace("@", element)

    method = rng.choice(("bubble", "insertion", "selection", "merge", "quick", "insertion"))
    goal = Goal("get", f"{{a new list with |}}the {noun} {{of|in}} {xs} sorted{said}", ("Return", "Return", "Give"))
    notes = [
        {
            "bubble": "Neighbours in the wrong order are exchanged until there are none (bubble sort).",
            "insertion": "Each one is inserted at its place among those before it (insertion sort).",
            "selection": "The smallest of the rest is chosen again and again (selection sort).",
            "merge": "Both halves are sorted and then merged (merge sort).",
            "quick": "The list is split around a pivot and both parts are sorted likewise (quicksort).",
        }[method]
    ]
    if rng.random() < 0.5:
        notes = [rng.choice((f"Use {method} sort.", f"The method is {method} sort.", f"This is {method} sort."))]
    notes.append(rng.choice(("The list itself stays as it is.", "The argument is not changed.", "")))
    reference = f"return sorted({xs}, key=lambda $x: {k('$x')})"
    if method == "bubble":
        body = f"$out = list({xs})\n$flag = True\nwhile $flag:\n    $flag = False\n    for $i in range(len($out) - 1):\n        if {k('$out[$i]')} > {k('$out[$i + 1]')}:\n            $out[$i], $out[$i + 1] = $out[$i + 1], $out[$i]\n            $flag = True\nreturn $out"
        if rng.random() < 0.5:
            body = f"$out = {xs}[:]\nfor $n in range(len($out) - 1, 0, -1):\n    for $i in range($n):\n        if {k('$out[$i]')} > {k('$out[$i + 1]')}:\n            $out[$i], $out[$i + 1] = $out[$i + 1], $out[$i]\nreturn $out"
    elif method == "insertion":
        body = f"$out = []\nfor $x in {xs}:\n    $i = len($out)\n    while $i > 0 and {k('$out[$i - 1]')} > {k('$x')}:\n        $i -= 1\n    $out.insert($i, $x)\nreturn $out"
        if rng.random() < 0.5:
            body = f"$out = list({xs})\nfor $i in range(1, len($out)):\n    $x = $out[$i]\n    $j = $i\n    while $j > 0 and {k('$out[$j - 1]')} > {k('$x')}:\n        $out[$j] = $out[$j - 1]\n        $j -= 1\n    $out[$j] = $x\nreturn $out"
    elif method == "selection":
        body = f"$rest = list({xs})\n$out = []\nwhile $rest:\n    $best = 0\n    for $i in range(1, len($rest)):\n        if {k('$rest[$i]')} < {k('$rest[$best]')}:\n            $best = $i\n    $out.append($rest.pop($best))\nreturn $out"
        if rng.random() < 0.4:
            body = f"$rest = list({xs})\n$out = []\nwhile $rest:\n    $x = min($rest, key=lambda $y: {k('$y')})\n    $rest.remove($x)\n    $out.append($x)\nreturn $out"
    elif method == "merge":
        body = f"if len({xs}) < 2:\n    return list({xs})\n$mid = len({xs}) // 2\n$left, $right = $self_({xs}[:$mid]), $self_({xs}[$mid:])\n$out = []\n$i = $j = 0\nwhile $i < len($left) and $j < len($right):\n    if {k('$left[$i]')} <= {k('$right[$j]')}:\n        $out.append($left[$i])\n        $i += 1\n    else:\n        $out.append($right[$j])\n        $j += 1\nreturn $out + $left[$i:] + $right[$j:]"
    else:
        body = f"if not {xs}:\n    return []\n$x, *$rest = {xs}\n$left = [$y for $y in $rest if {k('$y')} < {k('$x')}]\n$right = [$y for $y in $rest if {k('$y')} >= {k('$x')}]\nreturn $self_($left) + [$x] + $self_($right)"
    return Draft(
        "sorts",
        (f"{method}_sort", f"{method}_sort_by" if said else "sort_list", "sort_items", f"sorted_{noun}", "order"),
        scene.finish(),
        f"list[{type_}]",
        Goal("get", say(rng, goal.text), goal.verbs),
        body,
        tuple(n for n in notes if n),
        reference,
        pools={
            "x": ("pivot", "first", "head", "p") if method == "quick" else ("x", "item", "current", "value"),
            "y": ("y", "item", "other", "e"),
            "flag": ("swapped", "changed", "again"),
            "left": ("left", "smaller", "before"),
            "right": ("right", "larger", "after"),
            "out": ("out", "result", "ordered", "merged"),
        },
    )


def choosing(rng: Random) -> Draft:
    """Subsets, combinations, permutations or cuts of a list that meet a condition."""
    scene = ExerciseScene(rng)
    xs = scene.add(
        Param(
            "xs",
            ("numbers", "values", "items", "xs", "coins", "weights", "nums"),
            "list[int]",
            "a list of integers",
            "the list",
            "the numbers to choose from",
            ints(1, 9, 0, 5),
        )
    )
    shape = rng.choice(("subsets", "subsets", "combinations", "permutations", "cuts", "slices", "slices"))
    goal_code, goal_said, tag = rng.choice(
        (
            ("sum($part) == K", "whose sum is K", "with_sum"),
            ("sum($part) > K", "whose sum is greater than K", "above"),
            ("sum($part) % 2 == 0", "with an even sum", "even"),
            ("len(set($part)) == len($part)", "without repeated values", "distinct"),
            ("max($part) - min($part) <= K", "whose largest and smallest number differ by at most K", "close"),
            ("sum($part) % K == 0", "whose sum is divisible by K", "divisible"),
            ("list($part) == sorted($part)", "that are in ascending order", "ascending"),
            ("$part[0] < $part[-1]", "whose last element is greater than their first", "rising"),
        )
    )
    n = ""
    if "K" in goal_code:
        n = scene.amount(2, 12, "the divisor" if "%" in goal_code else "the limit", 0.7)
        goal_code, goal_said = goal_code.replace("K", n), goal_said.replace("K", n)
    size = ""
    if shape == "combinations":
        size = str(rng.randint(2, 3))
    many, generator, doc = {
        "subsets": (
            f"non-empty selections of elements of {xs} (at different positions, in their order)",
            f"for $size_ in range(1, len({xs}) + 1)\n for $part in $combinations({xs}, $size_)",
            "subsets",
        ),
        "combinations": (
            f"selections of {size} elements of {xs} (at different positions, in their order)",
            f"for $part in $combinations({xs}, {size})",
            "selections",
        ),
        "permutations": (f"arrangements of all elements of {xs} (one for each order of their positions)", f"for $part in $permutations({xs})", "arrangements"),
        "cuts": (f"beginnings of {xs} with at least one element", f"for $part in ({xs}[:$size_] for $size_ in range(1, len({xs}) + 1))", "beginnings"),
        "slices": (
            f"non-empty stretches of neighbouring elements of {xs}",
            f"for $i in range(len({xs}))\n for $part in ({xs}[$i:$j] for $j in range($i + 1, len({xs}) + 1))",
            "stretches",
        ),
    }[shape]
    if shape == "permutations":
        if "sum" in goal_code or "set" in goal_code or "max" in goal_code:
            return choosing(rng)
        scene.params[0] = replace(scene.params[0], values=ints(1, 9, 1, 4))
    loops = {
        "subsets": (f"for $size_ in range(1, len({xs}) + 1):\n    for $part in $combinations({xs}, $size_):\n", "        "),
        "combinations": (f"for $part in $combinations({xs}, {size}):\n", "    "),
        "permutations": (f"for $part in $permutations({xs}):\n", "    "),
        "cuts": (f"for $size_ in range(1, len({xs}) + 1):\n    $part = {xs}[:$size_]\n", "    "),
        "slices": (f"for $i in range(len({xs})):\n    for $j in range($i + 1, len({xs}) + 1):\n        $part = {xs}[$i:$j]\n", "        "),
    }
    head, margin = loops[shape]
    other_head, other_margin = head, margin
    if shape == "subsets":
        other_head, other_margin = f"for $n in range(1, 2 ** len({xs})):\n    $part = [$y for $i, $y in enumerate({xs}) if $n >> $i & 1]\n", "    "
    elif shape == "combinations" and size == "2":
        other_head, other_margin = f"for $i, $y in enumerate({xs}):\n    for $part in (($y, $z) for $z in {xs}[$i + 1 :]):\n", "        "
    elif shape == "slices":
        other_head, other_margin = (
            f"for $n in range(1, len({xs}) + 1):\n    for $i in range(len({xs}) - $n + 1):\n        $part = {xs}[$i : $i + $n]\n",
            "        ",
        )
    names: tuple[str, ...]
    notes: tuple[str, ...] = ()
    measure = rng.choice(("count", "count", "any", "longest" if shape in ("subsets", "slices", "cuts") else "count", "max"))

    def spell(start: str, indent: str, init: str, step: str, final: str) -> str:
        inner = "\n".join(indent + "    " + line for line in step.split("\n"))
        return "\n".join(filter(None, [init, f"{start}{indent}if {goal_code}:\n{inner}", final]))

    if measure == "count":
        goal = Goal("do", rng.choice((f"Count the {many} {goal_said}", f"Return the number of {many} {goal_said}")))
        bodies = [
            spell(head, margin, "$count = 0", "$count += 1", "return $count"),
            spell(other_head, other_margin, "$count = 0", "$count += 1", "return $count"),
        ]
        if "\n" not in generator:
            bodies.append(f"return sum(1 {generator} if {goal_code})")
        returns, names = "int", (f"count_{doc}_{tag}", f"count_{tag}_{doc}", f"number_of_{doc}", f"{tag}_{doc}")
    elif measure == "any":
        goal = Goal(
            "whether",
            f"there is one among the {many} {goal_said}".replace("one among the", "at least one among the")
            .replace("that are", "that is")
            .replace("their first", "its first"),
        )
        bodies = [spell(head, margin, "", "return True", "return False"), spell(other_head, other_margin, "", "return True", "return False")]
        returns, names = "bool", (f"has_{tag}_{doc}", f"exists_{tag}", f"can_find_{tag}", f"any_{doc}_{tag}")
    elif measure == "longest":
        goal = Goal("get", f"the greatest number of elements that one of the {many} {goal_said} has")
        notes = (say(rng, "{Return 0 if there are none|If there are none, the result is 0}."),)
        bodies = [
            spell(head, margin, "$best = 0", "$best = max($best, len($part))", "return $best"),
            spell(other_head, other_margin, "$best = 0", "$best = max($best, len($part))", "return $best"),
        ]
        returns, names = "int", (f"longest_{tag}", f"largest_{doc}_{tag}", f"max_length_{tag}")
    else:
        goal = Goal("get", f"the largest sum that one of the {many} {goal_said} has")
        notes = (say(rng, "{Return None if there are none|If there are none, return None}."),)
        step = "$value = sum($part)\nif $best is None or $value > $best:\n    $best = $value"
        bodies = [spell(head, margin, "$best = None", step, "return $best"), spell(other_head, other_margin, "$best = None", step, "return $best")]
        if "sum($part) == " in goal_code or shape == "permutations":
            return choosing(rng)
        returns, names = "int | None", (f"max_sum_{tag}", f"best_{tag}_sum", f"largest_{doc}_sum")
    rng.shuffle(bodies)
    if bodies[0] == bodies[1] and len(bodies) > 2:
        bodies[1] = bodies[2]
    return Draft(
        "choosing",
        names,
        scene.finish(),
        returns,
        goal,
        bodies[0],
        notes,
        bodies[1],
        pools={
            "part": ("part", "chosen", "subset", "group", "piece"),
            "size_": ("size", "k", "length", "r"),
            "n": ("mask", "code", "bits") if shape == "subsets" else ("length", "size", "width"),
            "y": ("x", "value", "y"),
            "z": ("z", "other", "partner"),
        },
    )


COINS = ((1, 5, 10), (1, 2, 5), (1, 3, 4), (2, 5), (1, 5, 10, 25), (3, 7), (1, 2, 5, 10, 20), (4, 6, 9), (1, 7, 10))


def tables(rng: Random) -> Draft:
    """Tables of partial answers: change, steps, paths through a grid, loads."""
    scene = ExerciseScene(rng)
    kind = rng.choice(("change", "change", "stairs", "paths", "paths", "load", "jumps"))
    names: tuple[str, ...]
    notes: tuple[str, ...] = ()
    pools = {
        "known": ("known", "memo", "counts"),
        "x": ("coin", "c", "value", "size"),
        "table": ("table", "ways", "dp", "best_for"),
        "i": ("i", "amount_", "s", "part"),
        "n": ("n", "m", "amount"),
    }
    if kind == "change":
        fixed = rng.random() < 0.5
        n = scene.add(Param("n", ("amount", "n", "total", "sum_", "target"), "int", "a non-negative integer", None, "the amount to pay", number(0, 30)))
        coins = rng.choice(COINS)
        if fixed:
            xs = f"({', '.join(map(str, coins))})"
            said = f"coins of {', '.join(map(str, coins[:-1]))} and {coins[-1]}"
        else:
            xs = scene.add(
                Param(
                    "xs",
                    ("coins", "values", "sizes", "denominations"),
                    "list[int]",
                    "a list of positive integers",
                    None,
                    "the coins, different positive integers",
                    lambda r: sorted(r.choice(COINS)),
                )
            )
            said = f"coins from {xs}"
        what = rng.choice(("ways", "fewest", "possible", "ordered"))
        if what == "ways":
            goal = Goal("get", f"the number of ways to pay {n} with {said}, any number of each; the order does not matter")
            bodies = [
                f"$table = [1] + [0] * {n}\nfor $x in {xs}:\n    for $i in range($x, {n} + 1):\n        $table[$i] += $table[$i - $x]\nreturn $table[{n}]",
                f"def $step($rest, $j):\n    if $rest == 0:\n        return 1\n    if $rest < 0 or $j == len($parts):\n        return 0\n    return $step($rest - $parts[$j], $j) + $step($rest, $j + 1)\n\n$parts = {xs}\nreturn $step({n}, 0)",
            ]
            returns, names = "int", ("count_ways", "ways_to_pay", "change_ways", "number_of_ways")
        elif what == "ordered":
            goal = Goal("get", f"the number of sequences of {said} whose sum is {n}; the order matters")
            bodies = [
                f"$table = [1] + [0] * {n}\nfor $i in range(1, {n} + 1):\n    for $x in {xs}:\n        if $x <= $i:\n            $table[$i] += $table[$i - $x]\nreturn $table[{n}]",
                f"$known = {{0: 1}}\n\ndef $step($rest):\n    if $rest < 0:\n        return 0\n    if $rest not in $known:\n        $known[$rest] = sum($step($rest - $x) for $x in {xs})\n    return $known[$rest]\n\nreturn $step({n})",
            ]
            returns, names = "int", ("count_sequences", "ordered_ways", "count_orders", "sequences_with_sum")
        elif what == "fewest":
            goal = Goal("get", f"the smallest number of {said} that make up {n}")
            notes = (say(rng, "{Return -1 if it cannot be done|If that is impossible, return -1}."),)
            bodies = [
                f"$table:: list[int | None] = [0] + [None] * {n}\nfor $i in range(1, {n} + 1):\n    for $x in {xs}:\n        if $x <= $i and $table[$i - $x] is not None:\n            $value = $table[$i - $x] + 1\n            if $table[$i] is None or $value < $table[$i]:\n                $table[$i] = $value\nreturn -1 if $table[{n}] is None else $table[{n}]",
                f"$count = 0\n$seen = {{0}}\n$current = {{0}}\nwhile $current:\n    if {n} in $current:\n        return $count\n    $count += 1\n    $current = {{$i + $x for $i in $current for $x in {xs} if $i + $x <= {n}}} - $seen\n    $seen |= $current\nreturn -1",
            ]
            returns, names = "int", ("fewest_coins", "min_coins", "smallest_number_of_coins", "least_coins")
        else:
            goal = Goal("whether", f"{n} can be paid exactly with {said}, any number of each")
            bodies = [
                f"$table = [True] + [False] * {n}\nfor $i in range(1, {n} + 1):\n    $table[$i] = any($x <= $i and $table[$i - $x] for $x in {xs})\nreturn $table[{n}]",
                f"if {n} == 0:\n    return True\nreturn any($x <= {n} and $self_({n} - $x{', ' + xs if not fixed else ''}) for $x in {xs})",
            ]
            returns, names = "bool", ("can_pay", "is_payable", "can_make", "reachable_amount")
    elif kind == "stairs":
        steps = sorted(rng.sample((1, 2, 3, 4, 5), rng.choice((2, 2, 3))))
        n = scene.add(Param("n", ("n", "steps", "height", "stairs"), "int", "a non-negative integer", None, "the number of steps", number(0, 12)))
        said = ", ".join(map(str, steps[:-1])) + f" or {steps[-1]}"
        goal = Goal("get", f"the number of ways to climb {n} steps if one takes {said} at a time")
        notes = (say(rng, "There is one way to climb no steps."),)
        sizes = f"({', '.join(map(str, steps))})"
        total = " + ".join(f"$self_({n} - {k})" for k in steps)
        bodies = [
            f"$table = [1]\nfor $i in range(1, {n} + 1):\n    $table.append(sum($table[$i - $x] for $x in {sizes} if $x <= $i))\nreturn $table[{n}]",
            f"if {n} < 0:\n    return 0\nif {n} == 0:\n    return 1\nreturn {total}",
        ]
        returns, names = "int", ("climb", "count_climbs", "ways_to_climb", "stair_ways")
        pools["x"] = ("step", "k", "size", "s")
    elif kind == "paths":
        moves = rng.choice((("right or down", ((0, 1), (1, 0))), ("right, down or diagonally right down", ((0, 1), (1, 0), (1, 1)))))

        def grid(r: Random) -> object:
            width = r.randint(1, 4)
            return [[r.randint(0, 9) if what != "open" else int(r.random() < 0.25) for _ in range(width)] for _ in range(r.randint(1, 4))]

        what = rng.choice(("min", "max", "open"))
        g = scene.add(
            Param(
                "g",
                ("grid", "cells", "field_", "costs", "matrix"),
                "list[list[int]]",
                "a list of rows of equal length",
                "the grid",
                "the rows of the grid",
                grid,
            )
        )
        diagonal = len(moves[1]) == 3
        start = f"$n, $m = len({g}), len({g}[0])\n"
        if what == "open":
            goal = Goal("get", f"the number of ways from the upper left to the lower right cell of {g}, going {moves[0]} and only over cells that are 0")
            plus = " + $table[$i - 1][$j - 1]" if diagonal else ""
            bodies = [
                f"{start}$table = [[0] * ($m + 1) for _ in range($n + 1)]\nfor $i in range(1, $n + 1):\n    for $j in range(1, $m + 1):\n        if {g}[$i - 1][$j - 1]:\n            continue\n        if $i == $j == 1:\n            $table[$i][$j] = 1\n        else:\n            $table[$i][$j] = $table[$i - 1][$j] + $table[$i][$j - 1]{plus}\nreturn $table[$n][$m]",
                f"{start}\ndef $step($i, $j):\n    if $i == $n or $j == $m or {g}[$i][$j]:\n        return 0\n    if $i == $n - 1 and $j == $m - 1:\n        return 1\n    return $step($i + 1, $j) + $step($i, $j + 1){' + $step($i + 1, $j + 1)' if diagonal else ''}\n\nreturn $step(0, 0)",
            ]
            returns, names = "int", ("count_paths", "number_of_paths", "ways_through")
        else:
            word = {"min": "smallest", "max": "largest"}[what]
            goal = Goal("get", f"the {word} sum of the cells on a way from the upper left to the lower right cell of {g}, going {moves[0]}")
            edge = 'float("inf")' if what == "min" else '-float("inf")'
            last = "$i == $n - 1 and $j == $m - 1"
            plus = ", $step($i + 1, $j + 1)" if diagonal else ""
            bodies = [
                f"{start}$table = [[0] * $m for _ in range($n)]\nfor $i in range($n):\n    for $j in range($m):\n        $near = []\n        if $i > 0:\n            $near.append($table[$i - 1][$j])\n        if $j > 0:\n            $near.append($table[$i][$j - 1])\n"
                + ("        if $i > 0 and $j > 0:\n            $near.append($table[$i - 1][$j - 1])\n" if diagonal else "")
                + f"        $table[$i][$j] = {g}[$i][$j] + {what}($near, default=0)\nreturn $table[-1][-1]",
                f"{start}\ndef $step($i, $j):\n    if $i == $n or $j == $m:\n        return {edge}\n    if {last}:\n        return {g}[$i][$j]\n    return {g}[$i][$j] + {what}($step($i + 1, $j), $step($i, $j + 1){plus})\n\nreturn $step(0, 0)",
            ]
            returns, names = "int", (f"{what}_path", f"{word}_path_sum", f"{'cheapest' if what == 'min' else 'richest'}_way")
        pools |= {
            "i": ("i", "r", "y", "row"),
            "j": ("j", "c", "x", "col"),
            "n": ("n", "height", "n_rows"),
            "m": ("m", "width", "n_columns"),
            "near": ("before", "ways", "options"),
        }
    elif kind == "load":
        xs = scene.add(
            Param("xs", ("weights", "sizes", "boxes", "loads"), "list[int]", "a list of positive integers", None, "the weights, all positive", ints(1, 9, 0, 5))
        )
        n = scene.add(Param("n", ("capacity", "limit", "room", "space"), "int", "a limit", None, "what can be carried at most", number(0, 20)))
        what = rng.choice(("most", "exact", "greedy"))
        if what == "most":
            goal = Goal("get", f"the largest sum of some of the {{numbers|elements}} of {xs} (each used at most once) that is not greater than {n}")
            bodies = [
                f"$seen = {{0}}\nfor $x in {xs}:\n    $seen |= {{$i + $x for $i in $seen if $i + $x <= {n}}}\nreturn max($seen)",
                f"if not {xs}:\n    return 0\n$x, *$rest = {xs}\n$best = $self_($rest, {n})\nif $x <= {n}:\n    $best = max($best, $x + $self_($rest, {n} - $x))\nreturn $best",
            ]
            returns, names = "int", ("best_load", "fill", "largest_load", "max_load")
        elif what == "exact":
            goal = Goal("whether", f"some of the {{numbers|elements}} of {xs}, each used at most once, add up to {n}")
            bodies = [
                f"$seen = {{0}}\nfor $x in {xs}:\n    $seen |= {{$i + $x for $i in $seen}}\nreturn {n} in $seen",
                f"if {n} == 0:\n    return True\nif not {xs}:\n    return False\n$x, *$rest = {xs}\nreturn $self_($rest, {n}) or ($x <= {n} and $self_($rest, {n} - $x))",
            ]
            returns, names = "bool", ("can_fill_exactly", "has_subset_sum", "fits_exactly")
        else:
            goal = Goal(
                "get",
                f"the {{numbers|elements}} of {xs} that are taken if one goes from the largest to the smallest and takes each that still fits into what is left of {n}",
                ("Return", "List"),
            )
            bodies = [
                f"$out = []\n$rest = {n}\nfor $x in sorted({xs}, reverse=True):\n    if $x <= $rest:\n        $out.append($x)\n        $rest -= $x\nreturn $out",
                f"$out = []\nfor $x in sorted({xs}, key=lambda $i: -$i):\n    if sum($out) + $x <= {n}:\n        $out.append($x)\nreturn $out",
            ]
            returns, names = "list[int]", ("take_largest_first", "pack", "greedy_load")
        pools["x"] = ("weight", "w", "x", "first")
    else:
        xs = scene.add(
            Param("xs", ("numbers", "heights", "values", "xs", "sequence"), "list[int]", "a list of integers", "the list", "the numbers", ints(0, 15, 0, 7))
        )
        sign, said = rng.choice(
            (("<", "strictly increasing"), ("<=", "never decreasing"), (">", "strictly decreasing"), ("!= 1 and $y <", ""), ("% 2 != $x % 2 and $y <", ""))
        )
        if not said:
            test, said = rng.choice(
                (
                    ("$y < $x and ($x - $y) % 2 == 1", "strictly increasing, with odd differences between neighbours,"),
                    ("abs($x - $y) <= 2", "such that neighbours differ by at most 2,"),
                    ("$x % 2 != $y % 2", "such that even and odd numbers alternate,"),
                )
            )
        else:
            test = f"$y {sign} $x"
        sums = rng.random() < 0.3
        goal = Goal(
            "get",
            f"the {'largest sum' if sums else 'length of the longest'} {'that a ' if sums else ''}subsequence of {xs}{' can have if it is ' if sums else ' that is '}{said.rstrip(',')}".replace(
                "that is such that", "such that"
            ).replace("if it is such that", "such that"),
        )
        notes = ("Its elements need not be neighbours. {Return 0|The result is 0} for an empty list.",)
        notes = (say(rng, notes[0]),)
        one, add = ("$x", " + $x") if sums else ("1", " + 1")
        bodies = [
            f"$table = []\nfor $i, $x in enumerate({xs}):\n    $best = {one}\n    for $j in range($i):\n        $y = {xs}[$j]\n        if {test}:\n            $best = max($best, $table[$j]{add})\n    $table.append($best)\nreturn max($table, default=0)",
            f"$table = [0] * len({xs})\nfor $i in range(len({xs})):\n    $x = {xs}[$i]\n    $kept = [$table[$j] for $j, $y in enumerate({xs}[:$i]) if {test}]\n    $table[$i] = max($kept, default=0){add}\nreturn max($table, default=0)",
        ]
        returns, names = (
            "int",
            (
                "longest_subsequence" if not sums else "largest_subsequence_sum",
                "best_subsequence",
                "max_chain" if not sums else "richest_chain",
                "longest_chain" if not sums else "chain_sum",
            ),
        )
        pools |= {
            "x": ("x", "current", "value"),
            "y": ("y", "earlier", "before"),
            "i": ("i", "k", "pos"),
            "table": ("table", "best_to", "lengths" if not sums else "sums"),
        }
    rng.shuffle(bodies)
    return Draft(f"tables: {kind}", names, scene.finish(), returns, Goal(goal.kind, say(rng, goal.text), goal.verbs), bodies[0], notes, bodies[1], pools=pools)
