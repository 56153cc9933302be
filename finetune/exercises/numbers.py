"""Number theory: recurrences, digits in any base, divisors and primes, and numbers that shrink."""

from __future__ import annotations

from random import Random

from talaria.finetune.exercises.core import Draft, Goal, Param, number, say
from talaria.finetune.exercises.pipelines import compose, gather_for
from talaria.finetune.exercises.streams import Change, ElementSource, ElementTest, ExerciseScene, int_change, int_test, plural

ORDINALS = ("zeroth", "first", "second", "third", "fourth")


def _term(factor: int, what: str, first: bool) -> tuple[str, str]:
    """Code and prose of one summand of a recurrence."""
    size = abs(factor)
    code = what if size == 1 else f"{size} * {what}"
    said = {1: "", 2: "twice ", 3: "three times "}.get(size, f"{size} times ")
    if first:
        return (f"-{code}" if factor < 0 else code), ("minus " if factor < 0 else "") + said
    return f" {'-' if factor < 0 else '+'} {code}", f" {'minus' if factor < 0 else 'plus'} {said}"


def recurrences(rng: Random) -> Draft:
    """A sequence given by its first terms and a rule for the next one."""
    scene = ExerciseScene(rng)
    order = rng.choice((1, 1, 2, 2, 2, 3))
    starts = [rng.randint(0, 4) for _ in range(order)]
    factors = [rng.choice((1, 1, 1, 2, -1, 3)) for _ in range(order)]
    if order == 1 and factors[0] in (1, -1):
        factors[0] = rng.choice((2, 3, -2))
    extra = rng.choice((0, 0, 1, 2, -1, 5)) if order > 1 else rng.choice((1, 2, -1, 3))
    index = rng.random() < 0.2
    words = ["the term before", "the term two places before", "the term three places before"]
    if order > 1:
        words[0] = "the last term" if rng.random() < 0.5 else "the term before"
    roles = ["$a", "$b", "$d"]
    codes, said = "", ""
    for place, factor in enumerate(factors):
        code, told = _term(factor, roles[place], place == 0)
        codes += code
        said += told + words[place]
    if extra:
        codes += f" {'+' if extra > 0 else '-'} {abs(extra)}"
        said += f" {'plus' if extra > 0 else 'minus'} {abs(extra)}"
    if index:
        codes += " + $i"
        said += " plus its own index"
    measure = rng.choice(("term", "term", "list", "sum", "upto", "generator"))
    meaning = {
        "term": "the index of the term, starting at 0",
        "list": "the number of terms",
        "sum": "the number of terms",
        "upto": "the limit",
        "generator": "the number of terms",
    }[measure]
    n = scene.add(
        Param(
            "n",
            ("n", "count", "k", "limit") if measure != "term" else ("n", "k", "index", "n"),
            "int",
            "a non-negative integer",
            None,
            meaning,
            number(0, 10) if measure != "upto" else number(0, 90),
        )
    )
    listed = ", ".join(map(str, starts[:-1])) + (" and " if order > 1 else "") + str(starts[-1])
    rule = f"{{a|the}} sequence that {{starts|begins}} with {listed} and in which each {{further|later|following}} term is {said}"
    notes: tuple[str, ...] = ()
    names_: tuple[str, ...]
    step = "\n".join([f"$value = {codes}", *_shift_down(order)])
    begin = f"{', '.join(['$a', '$b', '$d'][:order][::-1])} = {', '.join(map(str, starts))}"
    if order > 1 and rng.random() < 0.6 and not index:
        olds = ["$a", "$b", "$d"][:order]
        step = f"{', '.join(olds[::-1])} = {', '.join([*olds[:-1][::-1], codes])}"
    oldest = ["$a", "$b", "$d"][order - 1]
    inner = "\n".join("    " + line for line in step.split("\n"))
    grown = codes
    for k, role in enumerate(("$a", "$b", "$d")):
        grown = grown.replace(role, f"$out[-{k + 1}]")
    first = f"$out = [{', '.join(map(str, starts))}]"
    counter = f"range({order}, {n} + {order})" if index else f"range({n})"
    counter_ = "$i" if index else "_"
    recursion = codes
    for k, role in enumerate(("$a", "$b", "$d")):
        recursion = recursion.replace(role, f"$self_({n} - {k + 1})")
    recursion = recursion.replace("$i", n)
    base = "\n".join(f"if {n} == {k}:\n    return {start}" for k, start in enumerate(starts))
    if order > 1 and starts == list(range(order)):
        base = f"if {n} < {order}:\n    return {n}"
    goal_verbs = ("Return", "Compute", "Calculate", "Find")
    returns = "int"
    tag = rng.choice(("sequence", "recurrence", "series", "seq"))
    if measure == "term":
        goal = Goal("get", f"the term with index {n} of {rule}", goal_verbs)
        notes = (say(rng, "{Indices start at 0|The first term has index 0|Counting starts at 0}."),)
        bodies = [
            f"{begin}\nfor {counter_} in {counter}:\n{inner}\nreturn {oldest}",
            f"{base}\nreturn {recursion}",
            f"{first}\nwhile len($out) <= {n}:\n    $out.append({grown.replace('$i', 'len($out)')})\nreturn $out[{n}]",
        ]
        memo = recursion
        for k in range(order):
            memo = memo.replace(f"$self_({n} - {k + 1})", f"$step($j - {k + 1})")
        memo = memo.replace(f" + {n}", " + $j") if index else memo
        small = "\n".join(f"    if $j == {k}:\n        return {start}" for k, start in enumerate(starts))
        bodies.append(f"@$lru_cache(maxsize=None)\ndef $step($j):\n{small}\n    return {memo}\n\nreturn $step({n})")
        names_ = (f"{tag}_term", f"nth_{tag}", f"{tag}", f"{tag}_at", "term", "nth_term", "nth")
    elif measure in ("list", "generator"):
        bodies = [
            f"{first}\nwhile len($out) < {n}:\n    $out.append({grown.replace('$i', 'len($out)')})\nreturn $out[:{n}]",
            f"$out = []\n{begin}\nfor {counter_} in {counter}:\n    $out.append({oldest})\n{inner}\nreturn $out",
        ]
        goal = Goal("get", f"the first {n} terms of {rule}", ("Return", "List", "Compute"))
        returns = "list[int]"
        names_ = (f"{tag}_terms", "first_terms", f"{tag}_list", f"list_{tag}", "first_n_terms")
        if measure == "generator":
            other = bodies[0]
            bodies = [f"{begin}\nfor {counter_} in {counter}:\n    yield {oldest}\n{inner}", other]
            goal = Goal("get", goal.text, ("Yield", "Generate"))
            return Draft(
                "recurrences",
                (f"{tag}_terms", f"generate_{tag}", f"iter_{tag}"),
                scene.finish(),
                "Iterator[int]",
                Goal("get", say(rng, goal.text), goal.verbs),
                bodies[0],
                (),
                None,
                pools=_POOLS,
            )
    elif measure == "sum":
        goal = Goal("get", f"the sum of the first {n} terms of {rule}", goal_verbs)
        notes = (say(rng, "The sum of no terms is 0."),) if rng.random() < 0.5 else ()
        bodies = [
            f"$total = 0\n{begin}\nfor {counter_} in {counter}:\n    $total += {oldest}\n{inner}\nreturn $total",
            f"{first}\nwhile len($out) < {n}:\n    $out.append({grown.replace('$i', 'len($out)')})\nreturn sum($out[:{n}])",
        ]
        names_ = (f"{tag}_sum", f"sum_of_{tag}", f"{tag}_total")
    else:
        if any(f < 0 for f in factors) or extra < 0 or starts[0] > starts[-1] or (not any(starts) and extra == 0):
            factors = [1] * order
            extra = 2 if order == 1 else 1
            starts = sorted(starts)
            codes = " + ".join(roles[:order]) + f" + {extra}"
            said = " plus ".join(words[:order]) + f" plus {extra}"
            index = False
            listed = ", ".join(map(str, starts[:-1])) + (" and " if order > 1 else "") + str(starts[-1])
            rule = f"{{a|the}} sequence that {{starts|begins}} with {listed} and in which each {{further|later|following}} term is {said}"
            first = f"$out = [{', '.join(map(str, starts))}]"
            begin = f"{', '.join(['$a', '$b', '$d'][:order][::-1])} = {', '.join(map(str, starts))}"
            inner = "\n".join("    " + line for line in [f"$value = {codes}", *_shift_down(order)])
            grown = codes
            for k, role in enumerate(("$a", "$b", "$d")):
                grown = grown.replace(role, f"$out[-{k + 1}]")
        if index:
            codes, index = codes.replace(" + $i", ""), False
            said = said.replace(" plus its own index", "")
            rule = rule.replace(" plus its own index", "")
            grown = grown.replace(" + $i", "")
            inner = inner.replace(" + $i", "")
        if (order == 1 and factors[0] == 1 and extra <= 0) or (not any(starts) and extra <= 0):
            return recurrences(rng)
        goal = Goal(
            "get",
            f"all terms {{up to {n}|that are not greater than {n}}} of {rule}",
            ("Return", "List", "Compute"),
        )
        notes = ("Stop at the first term that is greater.",)
        bodies = [
            f"$out = []\n{begin}\nwhile {oldest} <= {n}:\n    $out.append({oldest})\n{inner}\nreturn $out",
            f"{first}\nwhile $out[-1] <= {n}:\n    $out.append({grown})\n$kept = []\nfor $value in $out:\n    if $value > {n}:\n        break\n    $kept.append($value)\nreturn $kept",
        ]
        returns, names_ = "list[int]", (f"{tag}_up_to", f"{tag}_below", "terms_up_to")
    rng.shuffle(bodies)
    return Draft(
        "recurrences",
        names_,
        scene.finish(),
        returns,
        Goal("get", say(rng, goal.text), goal.verbs),
        bodies[0],
        notes,
        bodies[1],
        pools=_POOLS,
    )


_POOLS = {
    "a": ("a", "current", "last", "x"),
    "b": ("b", "before", "previous", "y"),
    "d": ("c", "oldest", "third", "z"),
    "value": ("value", "following", "nxt", "new", "term"),
    "out": ("terms", "sequence", "seq", "result", "out", "values"),
    "step": ("term", "value_at", "compute", "f"),
    "j": ("i", "j", "m", "k", "index"),
}


def _shift_down(order: int) -> list[str]:
    roles = ["$a", "$b", "$d"][:order]
    return [f"{', '.join(roles[::-1])} = {', '.join([*roles[:-1][::-1], '$value'])}"]


def _digits(scene: ExerciseScene) -> tuple[str, str, str]:
    """A parameter n and a base: the slot of n, code of the base, and what prose says of its digits."""
    n = scene.add(
        Param(
            "n",
            ("n", "number", "num", "value", "x"),
            "int",
            "a non-negative integer",
            "the number",
            "a non-negative integer",
            lambda rng: rng.randint(0, rng.choice((9, 99, 9999, 99999))),
        )
    )
    roll = scene.rng.random()
    if roll < 0.5:
        return n, "10", "{decimal digits|digits}"
    if roll < 0.75:
        base = scene.rng.choice(("2", "3", "4", "5", "6", "7", "8", "9"))
        return (
            n,
            base,
            {"2": "binary digits", "8": "octal digits", "3": "ternary digits"}.get(base, f"digits in base {base}"),
        )
    base = scene.add(Param("k", ("base", "b", "radix"), "int", "a base", None, "a base from 2 to 10", number(2, 10)))
    return n, base, f"digits in base {base}"


IN_ORDER = ("list", "first", "last", "alternating_sum", "running_totals", "unique", "rest", "without_last", "every_second", "reversed", "frequencies")
"""Ways to gather for which the order of the digits matters."""


def digit_loops(rng: Random) -> Draft:
    """The digits of a number in some base are filtered, changed and gathered."""
    scene = ExerciseScene(rng)
    n, base, said = _digits(scene)
    said = say(rng, said)
    source = ElementSource(
        "int",
        "$parts",
        "digit",
        said.replace(" in base", " in base"),
        f"of {n}",
        ("digit", "d", "x"),
        "digits",
    )
    tests = [int_test(scene, True)] if rng.random() < 0.6 else []
    change: Change | None = int_change(scene) if rng.random() < 0.35 else None
    if change and change.type != "int":
        change = None
    gather = gather_for(scene, "int")
    if (gather.tag == "count" and not tests) or (gather.tag in ("first", "last") and not tests) or gather.raises:
        return digit_loops(rng)
    scene.params.sort(key=lambda p: p.role != "n")
    draft = compose(
        scene,
        source,
        tests,
        " and ",
        change if gather.tag != "count" else None,
        gather,
        "digits",
        "digits",
    )
    if draft.returns.startswith("Iterator"):
        return digit_loops(rng)
    ordered = gather.tag in IN_ORDER
    turn = "$parts.reverse()\n" if ordered else ""
    collect = f"$parts = []\n$rest = {n}\nwhile $rest > 0:\n    $rest, $digit = divmod($rest, {base})\n    $parts.append($digit)\n{turn}"
    if rng.random() < 0.4:
        add = "$parts.insert(0, $rest % BASE)" if ordered else "$parts.append($rest % BASE)"
        collect = f"$parts = []\n$rest = {n}\nwhile $rest:\n    {add.replace('BASE', base)}\n    $rest //= {base}\n"
    text = f"$parts = []\n$rest = {n}\nwhile $rest > 0:\n    $parts = [$rest % {base}, *$parts]\n    $rest = $rest // {base}\n"
    notes = draft.notes
    if ordered:
        notes = (
            say(
                rng,
                "{Start with the leading digit|The digits are taken from left to right|The most significant digit comes first}.",
            ),
            *notes,
        )
    notes = (*notes, "The number 0 has no digits here.")
    pools = {
        **draft.pools,
        "parts": ("digits", "figures", "parts"),
        "digit": ("digit", "d", "last"),
        "rest": ("rest", "remaining", "left", "m"),
    }
    assert draft.reference is not None
    return Draft(
        "digits",
        draft.names,
        draft.params,
        draft.returns,
        draft.goal,
        collect + draft.body,
        notes,
        text + draft.reference,
        draft.helpers,
        pools,
    )


SHRINK = (
    ("$x // K", "divide it by K, rounding down", 2, 5),
    ("$x - sum(int(d) for d in str($x))", "subtract the sum of its digits", 0, 0),
    ("sum(int(d) ** 2 for d in str($x)) % 100", "", 0, 0),
    ("$x - K", "subtract K", 2, 9),
    ("$x - max(1, $x // K)", "", 2, 5),
    ("$x // 2 if $x % 2 == 0 else $x - 1", "halve it if it is even, otherwise subtract 1", 0, 0),
    (
        "$x // 3 if $x % 3 == 0 else $x - 1",
        "divide it by 3 if it is divisible by 3, otherwise subtract 1",
        0,
        0,
    ),
    ("$x - K if $x % 2 == 1 else $x // 2", "subtract K if it is odd, otherwise halve it", 1, 3),
    ("$x - int(str($x)[0])", "subtract its first digit", 0, 0),
    ("$x - max(int(d) for d in str($x))", "subtract its largest digit", 0, 0),
    ("int(str($x)[1:] or 0)", "drop its first digit", 0, 0),
    ("$x // 10 - 2 * ($x % 10)", "drop the last digit and subtract twice that digit", 0, 0),
)


def shrinking(rng: Random) -> Draft:
    """A rule is applied again and again until a number is small; steps are counted or listed."""
    scene = ExerciseScene(rng)
    names: tuple[str, ...]
    usable = [rule for rule in SHRINK if rule[1]]
    code, said, low, high = rng.choice(usable)
    k = str(rng.randint(low, high))
    code, said = code.replace("K", k), said.replace("K", k)
    n = scene.add(
        Param(
            "n",
            ("n", "number", "start", "value", "x"),
            "int",
            "a non-negative integer",
            None,
            "the number to start with",
            number(0, 150),
        )
    )
    bound = rng.choice(("0", "0", "9", "1", "20"))
    if rng.random() < 0.25:
        bound = scene.add(
            Param(
                "k",
                ("limit", "bound", "stop", "threshold"),
                "int",
                "a limit",
                None,
                "the limit, not negative",
                number(0, 25),
            )
        )
    until = f"until it is {bound} or less" if bound != "0" else "until it is 0 or less"
    while_ = f"while it is greater than {bound}"
    when = rng.choice((until, while_))
    comma = "," if "," in said else ""
    loop = f"while $x > {bound}:\n"
    measure = rng.choice(("steps", "list", "last", "sum", "odd", "max"))
    start = f"$x = {n}\n"
    if measure == "steps":
        goal = Goal(
            "do",
            f"Count how {{many steps it takes|often one has}} to {said}, starting from {n}, {until}".replace("often one has to", "often one must"),
        )
        bodies = [
            f"{start}$count = 0\n{loop}    $x = {code}\n    $count += 1\nreturn $count",
            f"if {n} <= {bound}:\n    return 0\nreturn 1 + $self_({code.replace('$x', n)}{', ' + bound if bound[0] == '$' else ''})",
        ]
        names = ("count_steps", "steps_to_limit", "number_of_steps", "steps", "steps_down")
        returns = "int"
    elif measure == "list":
        goal = Goal(
            "do",
            f"Starting from {n}, {said}{comma} again and again {when}, and return the list of all values, {{including|beginning with}} {n} {{itself|}}".replace(
                "  ", " "
            ),
        )
        bodies = [
            f"{start}$out = [$x]\n{loop}    $x = {code}\n    $out.append($x)\nreturn $out",
            f"$out = [{n}]\nwhile $out[-1] > {bound}:\n    $x = $out[-1]\n    $out.append({code})\nreturn $out",
        ]
        names, returns = ("trajectory", "path_down", "all_values", "chain", "descend"), "list[int]"
    elif measure == "last":
        goal = Goal(
            "do",
            f"Starting from {n}, {said}{comma} again and again {when}, and return the {{last value|value reached}}",
        )
        bodies = [
            f"{start}{loop}    $x = {code}\nreturn $x",
            f"if {n} <= {bound}:\n    return {n}\nreturn $self_({code.replace('$x', n)}{', ' + bound if bound[0] == '$' else ''})",
        ]
        names, returns = (
            ("reduce_number", "final_value", "shrink", "reach_limit", "boil_down"),
            "int",
        )
    elif measure == "sum":
        goal = Goal(
            "do",
            f"Starting from {n}, {said}{comma} again and again {when}, and return the sum of all values, without the last one",
        )
        bodies = [
            f"{start}$total = 0\n{loop}    $total += $x\n    $x = {code}\nreturn $total",
            f"$out = []\n{start}{loop}    $out.append($x)\n    $x = {code}\nreturn sum($out)",
        ]
        names, returns = ("sum_of_values", "chain_sum", "total_down", "sum_while_shrinking"), "int"
    elif measure == "odd":
        word, test = rng.choice(
            (
                ("odd", "$x % 2 == 1"),
                ("even", "$x % 2 == 0"),
                ("two-digit", "10 <= $x <= 99"),
                ("divisible by 3", "$x % 3 == 0"),
            )
        )
        goal = Goal(
            "do",
            f"Starting from {n}, {said}{comma} again and again {when}, and {{count|return}} how many of the values were {word}, not counting the last one".replace(
                "return how many", "return how many"
            ),
        )
        bodies = [
            f"{start}$count = 0\n{loop}    if {test}:\n        $count += 1\n    $x = {code}\nreturn $count",
            f"$out = []\n{start}{loop}    $out.append($x)\n    $x = {code}\nreturn sum(1 for $x in $out if {test})",
        ]
        names, returns = (
            ("count_on_the_way", f"count_{word.split('-')[0].split()[0]}", "count_values"),
            "int",
        )
    else:
        return shrinking(rng)
    notes = (
        (
            say(
                rng,
                f"{{If|When}} {n} is not greater than {bound} {{at the start|to begin with}}, {{nothing is done|no step is taken}}.",
            ),
        )
        if rng.random() < 0.5
        else ()
    )
    if "$self_" in bodies[1] and rng.random() < 0.5:
        bodies.reverse()
    return Draft(
        "shrinking",
        names,
        scene.finish(),
        returns,
        Goal("do", say(rng, goal.text)),
        bodies[0],
        notes,
        bodies[1],
        pools={"x": ("x", "current", "value", "m", "left")},
        gives={"steps": "the number of steps", "list": "all values in order", "last": "the last value", "sum": "the sum of the values", "odd": "the count"}[
            measure
        ],
    )


NATURAL_TESTS = (
    (
        "prime",
        "prime numbers",
        "$x > 1 and all($x % d for d in range(2, int($x**0.5) + 1))",
        "if $x < 2:\n    return False\n$y = 2\nwhile $y * $y <= $x:\n    if $x % $y == 0:\n        return False\n    $y += 1\nreturn True",
    ),
    ("perfect_square", "perfect squares", "$math.isqrt($x) ** 2 == $x", "$y = 0\nwhile $y * $y < $x:\n    $y += 1\nreturn $y * $y == $x"),
    (
        "palindrome",
        "numbers that read the same backwards",
        "str($x) == str($x)[::-1]",
        "$value, $y = $x, 0\nwhile $value:\n    $y = 10 * $y + $value % 10\n    $value //= 10\nreturn $y == $x",
    ),
    (
        "divisible_by_digit_sum",
        "numbers that are divisible by the sum of their digits",
        "$x > 0 and $x % sum(int(d) for d in str($x)) == 0",
        "if $x == 0:\n    return False\n$total = 0\nfor $digit in str($x):\n    $total += int($digit)\nreturn $x % $total == 0",
    ),
    ("power_of_two", "powers of two", "$x > 0 and $x & ($x - 1) == 0", "$y = 1\nwhile $y < $x:\n    $y *= 2\nreturn $y == $x"),
    (
        "triangular",
        "triangular numbers (sums 1 + 2 + ... + k with k of at least 1)",
        "$x > 0 and $math.isqrt(8 * $x + 1) ** 2 == 8 * $x + 1",
        "$total = $y = 0\nwhile $total < $x:\n    $y += 1\n    $total += $y\nreturn $x > 0 and $total == $x",
    ),
    (
        "increasing",
        "numbers whose digits are strictly increasing from left to right",
        "all(a < b for a, b in zip(str($x), str($x)[1:]))",
        "$rest = $x\n$previous = 10\nwhile $rest > 0:\n    $rest, $digit = divmod($rest, 10)\n    if $digit >= $previous:\n        return False\n    $previous = $digit\nreturn True",
    ),
    (
        "distinct",
        "numbers without repeated digits",
        "len(set(str($x))) == len(str($x))",
        "$seen = set()\nfor $digit in str($x):\n    if $digit in $seen:\n        return False\n    $seen.add($digit)\nreturn True",
    ),
    (
        "abundant",
        "numbers that are smaller than the sum of their proper divisors",
        "sum(d for d in range(1, $x) if $x % d == 0) > $x",
        "$total = 0\nfor $y in range(1, $x // 2 + 1):\n    if $x % $y == 0:\n        $total += $y\nreturn $total > $x",
    ),
    (
        "square_free",
        "numbers that no square greater than 1 divides",
        "$x > 0 and all($x % (d * d) for d in range(2, int($x**0.5) + 1))",
        "if $x < 1:\n    return False\n$y = 2\nwhile $y * $y <= $x:\n    if $x % ($y * $y) == 0:\n        return False\n    $y += 1\nreturn True",
    ),
    (
        "semiprime",
        "products of exactly two primes, which may be equal",
        "next(($x // d > 1 and all($x // d % e for e in range(2, int(($x // d) ** 0.5) + 1)) for d in range(2, $x + 1) if $x % d == 0), False)",
        "$count = 0\n$y = 2\nwhile $x > 1:\n    while $x % $y == 0:\n        $x //= $y\n        $count += 1\n    $y += 1\nreturn $count == 2",
    ),
    (
        "even_ones",
        "numbers with an even number of ones in binary",
        'bin($x).count("1") % 2 == 0',
        "$count = 0\nwhile $x:\n    $count += $x & 1\n    $x >>= 1\nreturn $count % 2 == 0",
    ),
)


def natural(rng: Random) -> Draft:
    """Numbers of a kind (primes, squares, ...) are found below a limit, with a helper that tells."""
    scene = ExerciseScene(rng)
    tag, said, short, long = rng.choice(NATURAL_TESTS)
    from_param = rng.random() < 0.35
    low = (
        scene.add(
            Param(
                "a",
                ("start", "low", "a", "first"),
                "int",
                "an integer",
                None,
                "the lower limit, included",
                number(0, 40),
            )
        )
        if from_param
        else "1"
    )
    high = scene.add(
        Param(
            "n",
            ("n", "limit", "stop", "high", "last"),
            "int",
            "an integer",
            None,
            "the upper limit, included",
            number(5, 120),
        )
    )
    span = f"from {low} to {high}" if from_param else rng.choice((f"from 1 to {high}", f"up to {high}", f"between 1 and {high}"))
    where = f"range({low}, {high} + 1)"
    helper = "def $is_kind($x):\n" + "\n".join("    " + line for line in (long if rng.random() < 0.6 else f"return {short}").split("\n"))
    nested = rng.random() < 0.25
    extra: ElementTest | None = int_test(scene) if rng.random() < 0.4 else None
    more = f" that {extra.verb}" if extra else ""
    also = f" and {extra.code.replace('$x', '$i')}" if extra else ""
    measure = rng.choice(("list", "list", "count", "sum", "first", "gaps", "last"))
    call = "$is_kind($i)"
    notes: tuple[str, ...] = ("Both limits are included.",) if from_param else ()
    names: tuple[str, ...]
    kinds = said
    if measure == "list":
        goal = Goal("get", f"{{a list of |}}the {kinds} {span}{more}", ("Return", "List", "Find"))
        bodies = [
            f"return [$i for $i in {where} if {call}{also}]",
            f"$out = []\nfor $i in {where}:\n    if {call}{also}:\n        $out.append($i)\nreturn $out",
        ]
        returns, names = (
            "list[int]",
            (
                f"{plural(tag)}_up_to",
                f"list_{plural(tag)}",
                f"find_{plural(tag)}",
                f"{tag}_numbers",
            ),
        )
    elif measure == "count":
        goal = Goal("do", f"{{Count the|Return the number of}} {kinds} {span}{more}")
        bodies = [
            f"return sum(1 for $i in {where} if {call}{also})",
            f"$count = 0\nfor $i in {where}:\n    if {call}{also}:\n        $count += 1\nreturn $count",
        ]
        returns, names = "int", (f"count_{plural(tag)}", f"number_of_{plural(tag)}")
    elif measure == "sum":
        goal = Goal("get", f"the sum of {{all|the}} {kinds} {span}{more}")
        bodies = [
            f"return sum($i for $i in {where} if {call}{also})",
            f"$total = 0\nfor $i in {where}:\n    if {call}{also}:\n        $total += $i\nreturn $total",
        ]
        returns, names = (
            "int",
            (f"sum_of_{plural(tag)}", f"sum_{plural(tag)}", f"total_of_{plural(tag)}"),
        )
    elif measure == "gaps":
        goal = Goal(
            "get",
            f"the differences between consecutive {kinds} {span}{more}",
            ("Return", "List", "Compute"),
        )
        bodies = [
            f"$kept = [$i for $i in {where} if {call}{also}]\nreturn [$b - $a for $a, $b in zip($kept, $kept[1:])]",
            f"$out = []\n$previous = None\nfor $i in {where}:\n    if {call}{also}:\n        if $previous is not None:\n            $out.append($i - $previous)\n        $previous = $i\nreturn $out",
        ]
        returns, names = (
            "list[int]",
            (f"{tag}_gaps", f"gaps_between_{plural(tag)}", f"{tag}_distances"),
        )
    else:
        first = measure == "first"
        goal = Goal("get", f"the {'smallest' if first else 'largest'} of the {kinds} {span}{more}")
        notes = (*notes, say(rng, "{Return None if there is none|If there is none, return None}."))
        over = where if first else f"range({high}, {low} - 1, -1)"
        bodies = [
            f"for $i in {over}:\n    if {call}{also}:\n        return $i\nreturn None",
            f"return next(($i for $i in {over} if {call}{also}), None)",
        ]
        returns, names = (
            "int | None",
            (
                f"{'first' if first else 'last'}_{tag}",
                f"{'smallest' if first else 'largest'}_{tag}",
            ),
        )
    rng.shuffle(bodies)
    pools = {
        "is_kind": (f"is_{tag}", f"_is_{tag}", "check", "is_one"),
        "x": ("n_", "number", "x", "m", "k_"),
        "i": ("i", "number", "candidate", "x"),
        "y": ("d", "divisor", "k2", "i2", "step"),
    }
    pools["x"] = ("number", "x", "m", "value")
    pools["i"] = ("i", "candidate", "k", "c")
    body, above = bodies[0], helper
    reference = bodies[1]
    if nested:
        body, above = f"{helper}\n\n{body}", ""
        reference = f"{helper}\n\n{reference}"
    return Draft(
        "kinds of numbers",
        names,
        scene.finish(),
        returns,
        Goal(goal.kind, say(rng, goal.text), goal.verbs),
        body,
        notes,
        reference,
        above,
        pools,
    )
