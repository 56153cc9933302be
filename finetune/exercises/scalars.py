"""Functions of one to three numbers: classes with limits, tariffs, conditions and procedures."""

from __future__ import annotations

from random import Random

from talaria.finetune.exercises.core import Draft, Goal, Param, negation, number, say
from talaria.finetune.exercises.docs import enumeration
from talaria.finetune.exercises.streams import ExerciseScene

CLASSES = (
    ("temperature", "t temperature degrees temp", "temperature", "freezing cold cool mild warm hot", -10, 35),
    ("score", "score points marks result", "score", "fail poor fair good excellent", 10, 95),
    ("grade", "score percent points", "score", "F E D C B A", 10, 95),
    ("age", "age years", "age", "infant child teenager adult senior", 2, 80),
    ("speed", "speed kmh velocity", "speed", "slow normal fast dangerous", 5, 180),
    ("size", "width size length", "width", "XS S M L XL", 5, 90),
    ("price", "price cost amount", "price", "cheap fair expensive luxury", 5, 200),
    ("wind", "wind wind_speed speed", "wind speed", "calm breeze wind storm hurricane", 2, 120),
    ("noise", "level decibels noise", "noise level", "quiet moderate loud harmful", 20, 120),
    ("income", "income salary earnings", "income", "low middle high top", 10, 200),
    ("weight", "weight grams kilos", "weight", "light medium heavy oversized", 1, 60),
    ("distance", "distance km metres", "distance", "near close far remote", 1, 90),
    ("battery", "battery charge level", "charge", "empty low medium high full", 5, 95),
    ("priority", "urgency days_left priority", "urgency", "low normal high critical", 1, 10),
    ("load", "load usage cpu", "load", "idle normal busy overloaded", 10, 95),
    ("hour", "hour h", "hour", "night morning afternoon evening", 5, 22),
    ("depth", "depth metres", "depth", "shallow medium deep abyssal", 2, 90),
    ("rating", "rating stars value", "rating", "bad mediocre good great", 1, 9),
    ("stock", "stock quantity left", "stock", "none scarce enough plenty", 1, 90),
    ("ph", "ph value", "value", "acidic neutral basic alkaline", 3, 12),
)


def classify(rng: Random) -> Draft:
    """A number falls into one of several classes with limits between them."""
    scene = ExerciseScene(rng)
    tag, names, noun, labels, low, high = rng.choice(CLASSES)
    words = labels.split()
    count = rng.randint(2, min(4, len(words)))
    at = rng.randint(0, len(words) - count)
    words = words[at : at + count]
    if rng.random() < 0.25:
        words = list(map(str, range(count))) if rng.random() < 0.6 else [str(10 * n) for n in range(count)]
    limits = sorted(rng.sample(range(low, high), count - 1))
    x = scene.add(
        Param(
            "x",
            tuple(names.split()),
            "int",
            f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}",
            None,
            f"the {noun}",
            number(low - 5, high + 15),
        )
    )
    shown = [str(limit) for limit in limits]
    if count == 2 and rng.random() < 0.4:
        shown = [scene.amount(low, high, "the limit", 1.0)]
    is_text = not words[0].isdigit()
    codes = [f'"{word}"' if is_text else word for word in words]
    strict = rng.random() < 0.6
    sign, said = ("<", rng.choice(("is below", "is less than"))) if strict else ("<=", rng.choice(("is at most", "is not above")))
    parts = [f"{codes[0]} if {x} {said} {shown[0]}"]
    parts += [f"{code} if it {said} {limit}" for code, limit in zip(codes[1:], shown[1:], strict=False)]
    form = rng.random()
    if form < 0.6:
        goal = Goal(
            "do",
            f"{{Return|Give}} {', '.join(parts)}{',' if count > 2 else ''} and {codes[-1]} otherwise",
        )
    else:
        rest = enumeration([f"{code} {'below' if strict else 'up to'} {limit}" for code, limit in zip(codes, shown, strict=False)])
        goal = Goal(
            "do",
            f"{{Classify|Label}} {x}: {rest}{',' if count > 2 else ' and'} {codes[-1]} {'from there on' if strict else 'above'}",
        )
        if not is_text:
            goal = Goal(
                "do",
                f"{{Return|Give}} the {rng.choice(('level', 'class', 'band', 'code'))} of {x}: {rest}{',' if count > 2 else ' and'} {codes[-1]} {'from there on' if strict else 'above'}",
            )
    chain = [f"if {x} {sign} {limit}:\n    return {code}" for code, limit in zip(codes, shown, strict=False)]
    chosen = [f"{'if' if n == 0 else 'elif'} {x} {sign} {limit}:\n    $out = {code}" for n, (code, limit) in enumerate(zip(codes, shown, strict=False))]
    bodies = [
        "\n".join([*chain, f"return {codes[-1]}"]),
        "\n".join([*chosen, f"else:\n    $out = {codes[-1]}", "return $out"]),
    ]
    if count == 2:
        bodies.append(f"return {codes[0]} if {x} {sign} {shown[0]} else {codes[1]}")
    else:
        table = ", ".join(f"({limit}, {code})" for code, limit in zip(codes, shown, strict=False))
        bodies.append(f"for $limit, $out in ({table}):\n    if {x} {sign} $limit:\n        return $out\nreturn {codes[-1]}")
        lists = f"[{', '.join(shown)}]"
        side = "right" if strict else "left"
        bodies.append(f"$parts = [{', '.join(codes)}]\nreturn $parts[$bisect_{side}({lists}, {x})]")
        back = [f"if {x} {'>=' if strict else '>'} {limit}:\n    return {code}" for code, limit in reversed(list(zip(codes[1:], shown, strict=True)))]
        bodies.append("\n".join([*back, f"return {codes[0]}"]))
    rng.shuffle(bodies)
    base = {"grade": "grade", "size": "size"}.get(tag, tag)
    return Draft(
        "classes",
        (f"{base}_class", f"classify_{base}", f"{base}_level", f"{base}_label", f"describe_{base}", f"{base}_category"),
        scene.finish(),
        "str" if is_text else "int",
        Goal("do", say(rng, goal.text)),
        bodies[0],
        (),
        bodies[1],
        pools={"limit": ("limit", "bound", "upper"), "out": ("label", "name", "result", "level", "category"), "parts": ("labels", "names", "levels")},
        gives=f"the {rng.choice(('label', 'class', 'level'))}",
    )


TARIFFS = (
    ("tickets", "ticket", "tickets"),
    ("kilometres", "kilometre", "kilometres"),
    ("hours", "hour", "hours"),
    ("pages", "page", "pages"),
    ("units", "unit", "units"),
    ("nights", "night", "nights"),
    ("minutes", "minute", "minutes"),
    ("copies", "copy", "copies"),
    ("days", "day", "days"),
    ("kilos", "kilogram", "kilograms"),
    ("items", "item", "items"),
    ("guests", "guest", "guests"),
    ("litres", "litre", "litres"),
    ("messages", "message", "messages"),
)


def tariff(rng: Random) -> Draft:
    """A price with steps, discounts, a base fee and limits."""
    scene = ExerciseScene(rng)
    name, one, many = rng.choice(TARIFFS)
    n = scene.add(
        Param(
            "n",
            (name, "n", "count", f"n_{name}"),
            "int",
            f"a number of {many}",
            None,
            f"the number of {many}",
            number(0, 30),
        )
    )
    price = rng.randint(2, 12)
    rate = str(price)
    if rng.random() < 0.35:
        rate = scene.add(
            Param(
                "p",
                ("price", "rate", "fee", "cost"),
                "int",
                "a price",
                None,
                f"the price of one {one}",
                number(2, 12),
            )
        )
    steps: list[str] = []
    lines: list[str] = []
    form = rng.choice(("plain", "tiers", "cheaper", "free"))
    if form == "plain":
        steps.append(f"{{Each {one} costs|The price of one {one} is}} {rate}")
        lines.append(f"$total = {n} * {rate}")
        short = f"{n} * {rate}"
    elif form == "tiers":
        limit, less = rng.randint(3, 12), rng.randint(1, max(1, price - 1))
        steps.append(f"The first {limit} {many} cost {rate} each, all {{further|other}} ones {less} each")
        lines.append(f"$total = min({n}, {limit}) * {rate} + max({n} - {limit}, 0) * {less}")
        if rng.random() < 0.5:
            lines[-1] = f"if {n} <= {limit}:\n    $total = {n} * {rate}\nelse:\n    $total = {limit} * {rate} + ({n} - {limit}) * {less}"
        short = f"min({n}, {limit}) * {rate} + max({n} - {limit}, 0) * {less}"
    elif form == "cheaper":
        limit, less = rng.randint(4, 15), rng.randint(1, max(1, price - 1))
        steps.append(f"Each {one} costs {rate}, or {less} if there are {{at least {limit}|{limit} or more}} of them")
        lines.append(f"$price = {less} if {n} >= {limit} else {rate}\n$total = {n} * $price")
        short = f"{n} * ({less} if {n} >= {limit} else {rate})"
    else:
        every = rng.randint(3, 6)
        steps.append(
            f"Each {one} costs {rate}, but every {every}th one is free".replace("3th", "third")
            .replace("4th", "fourth")
            .replace("5th", "fifth")
            .replace("6th", "sixth")
        )
        lines.append(f"$total = ({n} - {n} // {every}) * {rate}")
        short = f"({n} - {n} // {every}) * {rate}"
    extras = rng.sample(("base", "discount", "least", "most", "zero", "flat"), rng.randint(1, 3))
    order = ["zero", "base", "discount", "flat", "least", "most"]
    reference = [f"$total = {short}"]
    for extra in sorted(extras, key=order.index):
        if extra == "base":
            fee = rng.randint(2, 15)
            steps.append(f"{{A base fee of {fee} is added|Add a base fee of {fee}}}")
            lines.append(f"$total += {fee}")
            reference.append(f"$total = $total + {fee}")
        elif extra == "discount":
            percent, least = rng.choice((5, 10, 20, 25, 50)), rng.randint(20, 60)
            steps.append(
                f"If the {{sum|amount}} is above {least}, {{take off {percent} percent|{percent} percent are taken off}}, rounded down to a whole number".replace(
                    "rounded down to a whole number", "the discount being rounded down"
                )
            )
            lines.append(f"if $total > {least}:\n    $total -= $total * {percent} // 100")
            reference.append(f"$total = $total - ($total * {percent} // 100 if $total > {least} else 0)")
        elif extra == "flat":
            fee, least = rng.randint(2, 9), rng.randint(10, 40)
            steps.append(f"{{Delivery|Shipping}} costs {fee} unless the {{sum|amount}} is {{at least {least}|{least} or more}}")
            lines.append(f"if $total < {least}:\n    $total += {fee}")
            reference.append(f"$total = $total + {fee} if $total < {least} else $total")
        elif extra == "least":
            least = rng.randint(5, 20)
            steps.append(f"{{The result is never less than {least}|At least {least} must be paid}}")
            lines.append(f"$total = max($total, {least})")
            reference.append(f"if $total < {least}:\n    $total = {least}")
        elif extra == "most":
            most = rng.randint(60, 150)
            steps.append(f"{{The result is never more than {most}|No more than {most} is charged}}")
            lines.append(f"$total = min($total, {most})")
            reference.append(f"if $total > {most}:\n    $total = {most}")
        else:
            steps.append(f"{{Nothing is due for no {many}|The result is 0 if there are no {many}}}")
            lines.insert(0, f"if {n} == 0:\n    return 0")
            reference.insert(0, f"if not {n}:\n    return 0")
    end = "return $total"
    goal = Goal(
        "get",
        f"{{the price of {n} {many}|what {n} {many} cost|the cost of {n} {many}}}",
        ("Return", "Compute", "Calculate", "Work out"),
    )
    return Draft(
        "tariffs",
        (f"price_of_{name}", f"{one}_price", f"{name}_cost", f"total_{one}_cost", "price", "compute_fee", "bill"),
        scene.finish(),
        "int",
        Goal("get", say(rng, goal.text), goal.verbs),
        "\n".join([*lines, end]),
        tuple(say(rng, step) + "." for step in steps),
        "\n".join([*reference, end]),
        pools={"total": ("total", "amount", "cost", "result", "price_total", "bill_total"), "price": ("price", "each", "unit_price", "rate")},
        gives="the price",
    )


def _conditions(names: list[str], rng: Random) -> list[tuple[str, str]]:
    a, b = names[0], names[1]
    k = rng.randint(2, 12)
    d = rng.randint(2, 5)
    found = [
        (f"{a} > {b}", f"{a} is greater than {b}"),
        (f"{a} == {b}", f"{a} and {b} are equal"),
        (f"{a} < {b}", f"{a} is smaller than {b}"),
        (f"{a} % 2 == 0 and {b} % 2 == 0", f"both {a} and {b} are even"),
        (f"{a} % 2 == {b} % 2", f"{a} and {b} are both even or both odd"),
        (f"{a} < 0 or {b} < 0", f"at least one of {a} and {b} is negative"),
        (f"{a} + {b} > {k}", f"the sum of {a} and {b} exceeds {k}"),
        (f"({a} + {b}) % {d} == 0", f"the sum of {a} and {b} is divisible by {d}"),
        (f"abs({a} - {b}) <= {d}", f"{a} and {b} differ by at most {d}"),
        (f"{a} * {b} > {k}", f"the product of {a} and {b} is greater than {k}"),
        (f"{a} >= {k} and {b} >= {k}", f"both {a} and {b} are at least {k}"),
        (f"{a} % {d} == 0", f"{a} is divisible by {d}"),
        (f"{b} > {k}", f"{b} is greater than {k}"),
        (f"{a} > {k}", f"{a} is greater than {k}"),
        (f"{b} % {d} == 0", f"{b} is divisible by {d}"),
        (f"{a} == 0 or {b} == 0", f"{a} or {b} is zero"),
        (f"({a} > 0) != ({b} > 0)", f"exactly one of {a} and {b} is positive"),
        (f"{a} == 2 * {b}", f"{a} is twice {b}"),
    ]
    if len(names) == 3:
        c = names[2]
        found += [
            (f"{a} < {b} < {c}", f"{a}, {b} and {c} are in strictly ascending order"),
            (f"{a} + {b} == {c}", f"{a} and {b} add up to {c}"),
            (f"{a} <= {c} <= {b}", f"{c} lies between {a} and {b}, both included"),
            (f"{a} == {b} == {c}", "all three are equal"),
            (f"{c} > {a} + {b}", f"{c} is greater than the sum of {a} and {b}"),
            (f"len({{{a}, {b}, {c}}}) == 2", "exactly two of the three are equal"),
            (f"max({a}, {b}, {c}) > {k}", f"the largest of the three is greater than {k}"),
            (f"{c} % 2 == 0", f"{c} is even"),
            (f"{c} < {k}", f"{c} is less than {k}"),
        ]
    return found


def _values(names: list[str], rng: Random) -> list[tuple[str, str]]:
    a, b = names[0], names[1]
    k = rng.randint(2, 9)
    found = [
        (f"{a} + {b}", f"the sum of {a} and {b}"),
        (f"{a} - {b}", f"{a} minus {b}"),
        (f"{a} * {b}", f"the product of {a} and {b}"),
        (f"abs({a} - {b})", f"the absolute difference of {a} and {b}"),
        (f"max({a}, {b})", f"the larger of {a} and {b}"),
        (f"min({a}, {b})", f"the smaller of {a} and {b}"),
        (f"{a} * {k}", f"{a} times {k}"),
        (f"{b} + {k}", f"{b} plus {k}"),
        (f"{a} * {a} + {b}", f"the square of {a}, plus {b},"),
        (f"({a} + {b}) // 2", f"half the sum of {a} and {b}, rounded down,"),
        (f"{a} * {a} - {b} * {b}", f"the square of {a} minus the square of {b}"),
        ("0", "0"),
        ("-1", "-1"),
        (a, a),
        (b, b),
        (f"-{a}", f"{a} with its sign reversed"),
        (f"2 * {a} + {b}", f"twice {a} plus {b}"),
    ]
    if len(names) == 3:
        c = names[2]
        found += [
            (f"{a} + {b} + {c}", "the sum of all three"),
            (f"{a} * {b} * {c}", "the product of all three"),
            (f"max({a}, {b}, {c})", "the largest of the three"),
            (f"min({a}, {b}, {c})", "the smallest of the three"),
            (f"{a} * {b} + {c}", f"{c} plus the product of {a} and {b}"),
            (f"{a} + {b} - {c}", f"the sum of {a} and {b} minus {c}"),
            (c, c),
            (f"sorted([{a}, {b}, {c}])[1]", "the median of the three"),
        ]
    return found


def _numbers(scene: ExerciseScene, count: int) -> list[str]:
    rng = scene.rng
    triple = rng.choice(
        (
            ("a", "b", "c"),
            ("x", "y", "z"),
            ("first", "second", "third"),
            ("p", "q", "r"),
            ("m", "n", "k"),
            ("left", "right", "limit"),
            ("i", "j", "k"),
            ("u", "v", "w"),
            ("num1", "num2", "num3"),
        )
    )
    order = ("first", "second", "third")
    return [scene.add(Param(f"a{n}_", (triple[n],), "int", "an integer", None, f"the {order[n]} number", number(-6, 15))) for n in range(count)]


def cases(rng: Random) -> Draft:
    """A value that depends on conditions between two or three numbers."""
    scene = ExerciseScene(rng)
    names = _numbers(scene, rng.choice((2, 2, 3)))
    count = rng.choice((1, 1, 2, 2, 3))
    tests = rng.sample(_conditions(names, rng), count)
    values = rng.sample(_values(names, rng), count + 1)
    parts = []
    for n, ((_, when), (_, said)) in enumerate(zip(tests, values, strict=False)):
        otherwise = "if " if n == 0 else rng.choice(("otherwise, if ", "else if ")) if count > 2 and rng.random() < 0.4 else "if "
        parts.append(f"{said} {otherwise}{when}" if otherwise == "if " else f"{otherwise}{when}, {said}")
    text = f"{'; '.join(parts) if count > 2 else ', '.join(parts)}{',' if count < 3 else ';'} and {values[-1][1]} otherwise"
    if count == 1:
        text = rng.choice(
            (
                f"{values[0][1]} if {tests[0][1]}, and {values[1][1]} otherwise",
                f"{values[0][1]} if {tests[0][1]}, otherwise {values[1][1]}",
            )
        )
    notes: tuple[str, ...] = ()
    if count > 1:
        notes = (
            rng.choice(
                (
                    "The first condition that holds decides.",
                    "The conditions are tried in this order.",
                    "Conditions are checked in the given order.",
                )
            ),
        )
    early = "\n".join(f"if {test}:\n    return {value}" for (test, _), (value, _) in zip(tests, values, strict=False)) + f"\nreturn {values[-1][0]}"
    chain = "\n".join(f"{'if' if n == 0 else 'elif'} {test}:\n    $out = {value}" for n, ((test, _), (value, _)) in enumerate(zip(tests, values, strict=False)))
    chain += f"\nelse:\n    $out = {values[-1][0]}\nreturn $out"
    bodies = [early, chain]
    if count == 1:
        bodies.append(f"return {values[0][0]} if {tests[0][0]} else {values[1][0]}")
        flip = f"if {negation(tests[0][0])}:\n    return {values[1][0]}\nreturn {values[0][0]}"
        bodies.append(flip)
    rng.shuffle(bodies)
    return Draft(
        "cases",
        (
            "combine",
            "choose",
            "pick_value",
            "evaluate",
            "compute",
            "decide",
            "calculate",
            "merge_numbers",
            "resolve",
            "f",
            "select_value",
            "compare",
            "mix",
            "func",
            "balance",
        ),
        scene.finish(),
        "int",
        Goal("get", text, ("Return", "Return", "Compute", "Give")),
        bodies[0],
        notes,
        bodies[1],
        gives="the value chosen",
    )


def relations(rng: Random) -> Draft:
    """Whether a condition, or several joined, hold between two or three numbers."""
    scene = ExerciseScene(rng)
    names = _numbers(scene, rng.choice((2, 2, 3)))
    count = rng.choice((1, 2, 2, 3))
    tests = rng.sample(_conditions(names, rng), count)
    tight = [f"({code})" if " or " in code and count > 1 else code for code, _ in tests]
    link = rng.choice(("and", "and", "or"))
    said = (
        f", {link} ".join(when for _, when in tests)
        if count > 2 or any(" or " in w or " and " in w for _, w in tests)
        else f" {link} ".join(when for _, when in tests)
    )
    if link == "or":
        tight = [f"({code})" if " and " in code and count > 1 else code for code, _ in tests]
    bodies = [f"return {f' {link} '.join(tight)}"]
    if link == "and":
        bodies.append("\n".join(f"if {negation(code)}:\n    return False" for code, _ in tests) + "\nreturn True")
        bodies.append(f"return all([{', '.join(code for code, _ in tests)}])" if count > 1 else f"return bool({tests[0][0]})")
    else:
        bodies.append("\n".join(f"if {code}:\n    return True" for code, _ in tests) + "\nreturn False")
        bodies.append(f"return any([{', '.join(code for code, _ in tests)}])" if count > 1 else f"return bool({tests[0][0]})")
    rng.shuffle(bodies)
    return Draft(
        "relations",
        ("check", "is_valid", "holds", "fits", "is_match", "test_numbers", "satisfies", "is_ok", "matches", "is_allowed", "accept", "is_special", "qualifies"),
        scene.finish(),
        "bool",
        Goal("whether", said),
        bodies[0],
        (),
        bodies[1],
    )


STEPS = (
    ("$x += K", "{Add K|Add K to it}", 1, 9),
    ("$x -= K", "{Subtract K|Take away K}", 1, 9),
    ("$x *= K", "Multiply it by K", 2, 5),
    ("$x //= K", "Divide it by K, rounding down", 2, 5),
    ("$x = $x % K", "Replace it by its remainder when divided by K", 5, 17),
    ("$x = abs($x)", "{Take its absolute value|Drop its sign}", 0, 0),
    ("$x = -$x", "{Reverse its sign|Negate it}", 0, 0),
    ("if $x % 2 == 0:\n    $x //= 2", "If it is even, halve it", 0, 0),
    ("if $x % 2 == 1:\n    $x += K", "If it is odd, add K", 1, 9),
    (
        "if $x < 0:\n    $x = -$x",
        "{Make it positive if it is negative|If it is negative, reverse its sign}",
        0,
        0,
    ),
    ("if $x > K:\n    $x -= K", "If it is greater than K, subtract K", 5, 25),
    ("if $x > K:\n    $x = K", "{Cap it at K|If it is greater than K, replace it by K}", 15, 40),
    (
        "if $x < K:\n    $x = K",
        "{Raise it to K if it is less than that|If it is less than K, replace it by K}",
        0,
        8,
    ),
    ("$x = $x * $x", "Square it", 0, 0),
    ("if $x % K == 0:\n    $x += 1", "If it is divisible by K, add 1", 2, 5),
    (
        "if $x % 2 == 0:\n    $x += K\nelse:\n    $x -= K",
        "Add K if it is even, otherwise subtract K",
        1,
        9,
    ),
    ("if $x < K:\n    $x *= 2", "If it is less than K, double it", 5, 25),
    ("$x = max($x, K)", "{Replace it by K if that is larger|Take the larger of it and K}", 0, 9),
    (
        "$x = min($x, K)",
        "{Take the smaller of it and K|Replace it by K if that is smaller}",
        12,
        40,
    ),
)


def procedure(rng: Random) -> Draft:
    """A few steps that change a number one after the other."""
    scene = ExerciseScene(rng)
    x = scene.add(
        Param(
            "n",
            ("n", "number", "value", "start", "x", "num", "initial"),
            "int",
            "an integer",
            None,
            "the number to start with",
            number(-15, 40),
        )
    )
    count = rng.randint(2, 4)
    chosen = rng.sample(STEPS, count)
    code: list[str] = []
    said: list[str] = []
    for body, prose, low, high in chosen:
        k = str(rng.randint(low, high))
        code.append(body.replace("K", k))
        said.append(say(rng, prose).replace("K", k))
    repeat = ""
    if rng.random() < 0.25:
        times = scene.amount(2, 5, "how often to repeat the steps", 0.6)
        repeat = times
    form = rng.choice(("words", "numbered", "words"))
    lead = f"{{Start with|Take|Begin with}} {x} and {{apply these steps|do the following}} in {{this order|order}}"
    if form == "words":
        steps = said[0] + "".join(f". {{Then|Next|After that}} {s[:1].lower()}{s[1:]}" for s in said[1:])
        goal = Goal("do", f"Change {x} {{step by step|in several steps}} and return the result")
        notes = [say(rng, steps) + "."]
    else:
        goal = Goal("do", f"{lead}, then return the result")
        notes = [" ".join(f"({n}) {s}." for n, s in enumerate(said, 1))]
    start = f"$x = {x}"
    if repeat:
        notes.append(f"{{Repeat all this|Do all of this|These steps are carried out}} {repeat} times {{in all|altogether}}.")
        inner = "\n".join("    " + line for part in code for line in part.split("\n"))
        body = f"{start}\nfor _ in range({repeat}):\n{inner}\nreturn $x"
        other = f"$x = {x}\n$i = 0\nwhile $i < {repeat}:\n{inner}\n    $i += 1\nreturn $x"
    else:
        body = "\n".join([start, *code, "return $x"])
        other = None
        if rng.random() < 0.4:
            body = body.replace("$x = $n\n", "", 1).replace("$x", "$n")
    return Draft(
        "procedures",
        ("transform", "process", "adjust", "apply_steps", "compute", "run_steps", "change", "evolve", "rework", "update", "convert", "shape"),
        scene.finish(),
        "int",
        Goal("do", say(rng, goal.text)),
        body,
        tuple(say(rng, note) for note in notes),
        other,
        pools={"x": ("value", "result", "current", "x", "out", "number")},
        gives="the number after all steps",
    )
