"""Texts checked by rules, and commands that change a state step by step."""

from __future__ import annotations

from random import Random

from talaria.finetune.exercises.core import Draft, Goal, Param, Values, negation, number, say, text
from talaria.finetune.exercises.docs import enumeration
from talaria.finetune.exercises.formats import a_text
from talaria.finetune.exercises.streams import ExerciseScene


def _sample(alphabet: str) -> Values:
    return lambda rng: "".join(rng.choices(alphabet, k=rng.randint(2, 11)))


RULES: tuple[tuple[str, str, str], ...] = (
    ("len($s) >= N", "has at least N characters", "5 8"),
    ("len($s) <= N", "has at most N characters", "7 10"),
    ("any($c.isdigit() for $c in $s)", "contains a digit", ""),
    ("any($c.isupper() for $c in $s)", "contains an upper-case letter", ""),
    ("any($c.islower() for $c in $s)", "contains a lower-case letter", ""),
    ('" " not in $s', "contains no blank", ""),
    ("not $s[:1].isdigit()", "does not start with a digit", ""),
    ("$s[:1].isalpha()", "starts with a letter", ""),
    ("$s[-1:].isalnum()", "ends with a letter or a digit", ""),
    ('any($c in "!?-_." for $c in $s)', 'contains at least one of the characters "!?-_."', ""),
    ("sum($c.isdigit() for $c in $s) >= N", "contains at least N digits", "2 3"),
    ("sum($c.isdigit() for $c in $s) <= N", "contains at most N digits", "2 3"),
    ("len(set($s)) >= N", "has at least N different characters", "4 6"),
    ("all($x != $y for $x, $y in zip($s, $s[1:]))", "never has the same character twice in a row", ""),
    ('$s.count("-") == 1', "contains exactly one hyphen", ""),
    ('$s.count("_") <= 1', "contains at most one underscore", ""),
    ('not $s.endswith("-")', "does not end with a hyphen", ""),
    ("len($s) % 2 == 0", "has an even number of characters", ""),
    ("$s != $s[::-1]", "does not read the same backwards", ""),
    ("not $s.isdigit()", "does not consist of digits only", ""),
    ("$s.lower() != $s", "is not all lower case", ""),
    ('sum($c in "aeiouAEIOU" for $c in $s) >= N', "contains at least N vowels", "2 3"),
)
LOOPS = {
    "any($c.isdigit() for $c in $s)": (
        "$flag = False",
        "if $c.isdigit():\n    $flag = True",
        "if not $flag:\n    return False",
    ),
}


def validators(rng: Random) -> Draft:
    """A text obeys several rules; or which of them it breaks."""
    scene = ExerciseScene(rng)
    s = a_text(
        scene,
        _sample("abcxeoABE01239 -_!."),
        "the text to check",
        (
            "password",
            "name",
            "code",
            "token",
            "text",
            "s",
            "key",
            "username",
            "value",
            "label",
            "identifier",
        ),
    )
    count = rng.randint(2, 4)
    chosen = []
    for code, said, span in rng.sample(RULES, count):
        n = ""
        if span:
            low, high = map(int, span.split())
            n = str(rng.randint(low, high))
        chosen.append((code.replace("N", n).replace("$s", s), said.replace("N", n)))
    codes = [code for code, _ in chosen]
    told = [said for _, said in chosen]
    measure = rng.choice(("all", "all", "all", "score", "broken", "raise"))
    notes: tuple[str, ...] = ()
    names: tuple[str, ...]
    raises = None
    if measure == "all":
        listed = rng.random() < 0.35
        if listed:
            goal = Goal("whether", f"{s} {{meets|fulfils}} all {{these rules|of these conditions}}")
            notes = (enumeration([f"it {t}" for t in told]).capitalize() + ".",)
        else:
            goal = Goal("whether", f"{s} {enumeration(told)}")
        early = "\n".join(f"if {negation(code)}:\n    return False" for code in codes)
        bodies = [
            f"return {' and '.join(codes)}",
            f"{early}\nreturn True",
            "$parts = [\n    " + ",\n    ".join(codes) + ",\n]\nreturn all($parts)",
        ]
        returns, names = (
            "bool",
            (
                "is_valid",
                "is_acceptable",
                "check",
                "validate",
                "is_ok",
                "passes",
                "is_allowed",
                "is_strong",
            ),
        )
    elif measure == "score":
        goal = Goal(
            "do",
            f"{{Count|Return}} how many of {{these|the following}} conditions {s} {{meets|fulfils}}",
        )
        notes = (enumeration([f"it {t}" for t in told]).capitalize() + ".",)
        steps = "\n".join(f"if {code}:\n    $score += 1" for code in codes)
        bodies = [
            f"$score = 0\n{steps}\nreturn $score",
            f"return sum([{', '.join(codes)}])",
            "$parts = [\n    " + ",\n    ".join(codes) + ",\n]\nreturn $parts.count(True)",
        ]
        returns, names = "int", ("score", "strength", "count_rules", "quality", "points")
    elif measure == "broken":
        labels = [f"rule {n}" for n in range(1, count + 1)] if rng.random() < 0.4 else [_label(t) for t in told]
        goal = Goal(
            "get",
            f"a list with a name for each rule that {s} breaks, in {{this|the given}} order",
            ("Return", "Build", "Get"),
        )
        notes = (
            "; ".join(f'"{label}": it {t}' for label, t in zip(labels, told, strict=True)) + ".",
            say(rng, "{The list is empty if all rules are kept|No broken rule, no entry}."),
        )
        steps = "\n".join(f'if {negation(code)}:\n    $out.append("{label}")' for code, label in zip(codes, labels, strict=True))
        table = (
            "$table = {\n"
            + "".join(f'    "{label}": {code},\n' for code, label in zip(codes, labels, strict=True))
            + "}\nreturn [$name for $name, $flag in $table.items() if not $flag]"
        )
        bodies = [f"$out = []\n{steps}\nreturn $out", table]
        returns, names = (
            "list[str]",
            ("broken_rules", "problems", "find_problems", "violations", "errors_in"),
        )
        if len(set(labels)) < count:
            return validators(rng)
    else:
        goal = Goal(
            "do",
            f"{{Check {s} and return it in lower case if it|Return {s} in lower case if it}} {enumeration(told)}",
        )
        error = rng.choice(("invalid", "not valid", "bad value", "not allowed"))
        raises = ("ValueError", f"if {s} does not meet all of this")
        notes = ("{Raise a ValueError otherwise|Otherwise raise a ValueError}.",)
        early = "\n".join(f'if {negation(code)}:\n    raise ValueError("{error}")' for code in codes)
        joined = " and ".join(codes)
        bodies = [
            f"{early}\nreturn {s}.lower()",
            f'if not ({joined}):\n    raise ValueError("{error}")\nreturn {s}.lower()',
        ]
        returns, names = "str", ("checked", "normalize", "require_valid", "validated", "clean")
    rng.shuffle(bodies)
    return Draft(
        "validators",
        names,
        scene.finish(),
        returns,
        Goal(goal.kind, say(rng, goal.text), goal.verbs),
        bodies[0],
        tuple(say(rng, n) for n in notes),
        bodies[1],
        pools={"c": ("c", "char", "ch"), "parts": ("checks", "rules", "conditions"), "table": ("checks", "rules", "results"), "flag": ("ok", "kept", "fine")},
        raises=raises,
        gives="the text in lower case" if raises else "the number of conditions met" if measure == "score" else "",
    )


def _label(told: str) -> str:
    words = [
        w
        for w in told.replace('"!?-_."', "").split()
        if w
        not in (
            "a",
            "an",
            "the",
            "at",
            "it",
            "with",
            "of",
            "or",
            "in",
            "has",
            "contains",
            "does",
            "is",
            "not",
            "no",
            "never",
            "characters",
        )
    ]
    return " ".join(words[:2]) or told.split()[-1]


COMMANDS: tuple[tuple[str, str, str], ...] = (
    ("$x += K", "adds K", "1 5"),
    ("$x -= K", "subtracts K", "1 5"),
    ("$x *= 2", "doubles the value", ""),
    ("$x //= 2", "halves the value, rounding down", ""),
    ("$x = -$x", "reverses the sign", ""),
    ("$x = 0", "sets the value to 0", ""),
    ("$x = max($x, 0)", "replaces a negative value by 0", ""),
    ("$x *= $x", "squares the value", ""),
    ("$x %= K", "replaces the value by its remainder when divided by K", "3 9"),
    ("$x = abs($x)", "drops the sign", ""),
)


def number_machine(rng: Random) -> Draft:
    """A string of commands changes a number step by step."""
    scene = ExerciseScene(rng)
    count = rng.randint(2, 4)
    signs = rng.sample(rng.choice(("+-*/!", "udsnr", "IDRSN", "ABCDE", "<>^v=")), count)
    table = []
    for sign, (code, said, span) in zip(signs, rng.sample(COMMANDS[:8] if rng.random() < 0.8 else COMMANDS, count), strict=True):
        k = str(rng.randint(*map(int, span.split()))) if span else ""
        table.append((sign, code.replace("K", k), said.replace("K", k)))
    start = str(rng.choice((0, 0, 1, 10)))
    s = a_text(
        scene,
        text("".join(signs) + ("x" if rng.random() < 0.5 else ""), 0, 7),
        "the commands, one character each",
        ("commands", "program", "ops", "instructions", "steps", "s"),
    )
    if rng.random() < 0.3:
        start = scene.add(
            Param(
                "n",
                ("start", "value", "initial", "x"),
                "int",
                "an integer",
                None,
                "the value at the beginning",
                number(-5, 12),
            )
        )
    wanted = rng.choice(("last", "last", "max", "history"))
    rules = "; ".join(f'"{sign}" {said}' for sign, _, said in table)
    what = {
        "last": "the final value",
        "max": "the largest value on the way, the first one included",
        "history": "the list of values after each command",
    }[wanted]
    goal = Goal(
        "do",
        f"{{Carry out|Execute|Run}} the commands in {s} {{one after the other|from left to right|in order}}, starting with the value {start}, and return {what}",
    )
    notes = [
        rules[0].upper() + rules[1:] + ".",
        "{Other characters are ignored|Any other character does nothing}.",
    ]
    chain = "".join(f'    {"if" if n == 0 else "elif"} $c == "{sign}":\n        {code}\n' for n, (sign, code, _) in enumerate(table))
    match = "    match $c:\n" + "".join(f'        case "{sign}":\n            {code}\n' for sign, code, _ in table)
    if wanted == "last":
        bodies = [
            f"$x = {start}\nfor $c in {s}:\n{chain}return $x",
            f"$x = {start}\nfor $c in {s}:\n{match}return $x",
        ]
    elif wanted == "max":
        bodies = [
            f"$x = $best = {start}\nfor $c in {s}:\n{chain}    $best = max($best, $x)\nreturn $best",
            f"$x = {start}\n$out = [$x]\nfor $c in {s}:\n{chain}    $out.append($x)\nreturn max($out)",
        ]
    else:
        bodies = [
            f"$x = {start}\n$out = []\nfor $c in {s}:\n{chain}    $out.append($x)\nreturn $out",
            f"$x = {start}\n$out = []\nfor $c in {s}:\n{match}    $out.append($x)\nreturn $out",
        ]
        notes[1] = "{Other characters do nothing, but their value is listed, too|Any other character leaves the value as it is}."
    if all(code.split()[1] in ("+=", "-=") for _, code, _ in table):
        moves = "{" + ", ".join(f'"{sign}": {"-" if "-=" in code else ""}{code.split()[-1]}' for sign, code, _ in table) + "}"
        if wanted == "last":
            bodies.append(f"$table = {moves}\nreturn {start} + sum($table.get($c, 0) for $c in {s})")
    returns = "list[int]" if wanted == "history" else "int"
    names = (
        "run",
        "execute",
        "interpret",
        "apply_commands",
        "run_program",
        "evaluate_commands",
        "process_commands",
    )
    pools = {
        "x": ("value", "x", "current", "acc", "register"),
        "c": ("command", "c", "op", "char"),
        "table": ("moves", "changes", "effects"),
    }
    gives = what
    rng.shuffle(bodies)
    return Draft(
        "machines: number",
        names,
        scene.finish(),
        returns,
        Goal(goal.kind, say(rng, goal.text), goal.verbs),
        bodies[0],
        tuple(say(rng, n) for n in notes),
        bodies[1],
        pools=pools,
        gives=gives,
    )


def walks(rng: Random) -> Draft:
    """A string of moves leads through the plane."""
    scene = ExerciseScene(rng)
    signs, words_ = rng.choice(
        (
            ("UDLR", "up, down, left and right"),
            ("NSWE", "north, south, west and east"),
            ("^v<>", "up, down, left and right"),
            ("udlr", "up, down, left and right"),
        )
    )
    s = a_text(
        scene,
        text(signs, 0, 9),
        "the moves, one character each",
        ("moves", "path", "route", "steps", "directions", "s"),
    )
    up, down, left, right = list(signs)
    wanted = rng.choice(("position", "distance", "returns", "visited", "farthest", "crossing"))
    moves = f'$table = {{"{up}": (0, 1), "{down}": (0, -1), "{left}": (-1, 0), "{right}": (1, 0)}}\n'
    core = f"$x = $y = 0\nfor $c in {s}:\n    $a, $b = $table[$c]\n    $x, $y = $x + $a, $y + $b\n"
    chain = f'$x = $y = 0\nfor $c in {s}:\n    if $c == "{up}":\n        $y += 1\n    elif $c == "{down}":\n        $y -= 1\n    elif $c == "{left}":\n        $x -= 1\n    else:\n        $x += 1\n'
    walk = f'A walk starts at (0, 0); the characters "{up}", "{down}", "{left}" and "{right}" of {s} stand for steps {words_}'
    said, bodies, returns, names = {
        "position": (
            "the point (x, y) where it ends",
            [
                f"{moves}{core}return $x, $y",
                f"{chain}return $x, $y",
                f'return {s}.count("{right}") - {s}.count("{left}"), {s}.count("{up}") - {s}.count("{down}")',
            ],
            "tuple[int, int]",
            ("final_position", "end_point", "walk", "where_it_ends"),
        ),
        "distance": (
            "how many steps its end is away from the start at least",
            [f"{moves}{core}return abs($x) + abs($y)", f"{chain}return abs($x) + abs($y)"],
            "int",
            ("distance_from_start", "steps_back", "walk_distance"),
        ),
        "returns": (
            "how often it comes back to the start",
            [
                f"{moves}$count = 0\n{core}    if ($x, $y) == (0, 0):\n        $count += 1\nreturn $count",
                f"$count = 0\n{chain}    $count += $x == 0 and $y == 0\nreturn $count",
            ],
            "int",
            ("count_returns", "times_home", "returns_to_start"),
        ),
        "visited": (
            "how many different points it visits, the start included",
            [
                f"{moves}$seen = {{(0, 0)}}\n{core}    $seen.add(($x, $y))\nreturn len($seen)",
                f"$out = [(0, 0)]\n{chain}    $out.append(($x, $y))\nreturn len(set($out))",
            ],
            "int",
            ("count_visited", "visited_points", "places_seen"),
        ),
        "farthest": (
            "the greatest distance from the start that it reaches, counted in steps",
            [
                f"{moves}$best = 0\n{core}    $best = max($best, abs($x) + abs($y))\nreturn $best",
                f"$best = 0\n{chain}    if abs($x) + abs($y) > $best:\n        $best = abs($x) + abs($y)\nreturn $best",
            ],
            "int",
            ("farthest", "max_distance", "greatest_distance"),
        ),
        "crossing": (
            "whether it visits any point twice",
            [
                f"{moves}$seen = {{(0, 0)}}\n{core}    if ($x, $y) in $seen:\n        return True\n    $seen.add(($x, $y))\nreturn False",
                f"$out = [(0, 0)]\n{chain}    $out.append(($x, $y))\nreturn len(set($out)) < len($out)",
            ],
            "bool",
            ("crosses_itself", "visits_twice", "has_loop"),
        ),
    }[wanted]
    goal = Goal("get", f"{said} for the walk that {s} describes", ("Return", "Find", "Compute"))
    notes = [walk + "."]
    pools = {
        "x": ("x", "col", "px"),
        "y": ("y", "row", "py"),
        "a": ("dx", "step_x", "right"),
        "b": ("dy", "step_y", "up"),
        "c": ("move", "c", "step", "char"),
        "table": ("steps", "moves", "deltas"),
    }
    if any(p.names[0] == "steps" for p in scene.params):
        pools["table"] = ("moves_", "deltas", "offsets")
    gives = said
    rng.shuffle(bodies)
    return Draft(
        "machines: walk",
        names,
        scene.finish(),
        returns,
        Goal(goal.kind, say(rng, goal.text), goal.verbs),
        bodies[0],
        tuple(say(rng, n) for n in notes),
        bodies[1],
        pools=pools,
        gives=gives,
    )


def postfix(rng: Random) -> Draft:
    """Operators follow their operands."""
    scene = ExerciseScene(rng)
    ops = rng.sample(
        (
            ("+", "$a + $b", "their sum"),
            ("-", "$a - $b", "their difference"),
            ("*", "$a * $b", "their product"),
            ("max", "max($a, $b)", "the larger one"),
            ("min", "min($a, $b)", "the smaller one"),
            ("avg", "($a + $b) // 2", "their average, rounded down"),
        ),
        rng.randint(2, 4),
    )

    def draw(rng: Random) -> object:
        out = [str(rng.randint(0, 12))]
        depth = 1
        for _ in range(rng.randint(0, 6)):
            if depth > 1 and rng.random() < 0.55:
                out.append(rng.choice(ops)[0])
                depth -= 1
            else:
                out.append(str(rng.randint(0, 12)))
                depth += 1
        out += [rng.choice(ops)[0] for _ in range(depth - 1)]
        return " ".join(out)

    s = a_text(
        scene,
        draw,
        "the expression, its parts separated by blanks",
        ("expression", "tokens", "program", "rpn", "s"),
    )
    goal = Goal(
        "do",
        f"{{Evaluate|Compute}} {s}, an expression in which operators follow their two operands, and return the result",
    )
    notes = [say(rng, "Parts are separated by blanks: numbers and ") + enumeration([f'"{o}" ({said})' for o, _, said in ops]) + "."]
    chain = "".join(
        f'    {"if" if n == 0 else "elif"} $part == "{o}":\n        $b, $a = $stack.pop(), $stack.pop()\n        $stack.append({code})\n'
        for n, (o, code, _) in enumerate(ops)
    )
    table = "$table = {\n" + "".join(f'    "{o}": lambda $a, $b: {code},\n' for o, code, _ in ops) + "}\n"
    bodies = [
        f"$stack = []\nfor $part in {s}.split():\n{chain}    else:\n        $stack.append(int($part))\nreturn $stack[0]",
        f"{table}$stack = []\nfor $part in {s}.split():\n    if $part in $table:\n        $b = $stack.pop()\n        $a = $stack.pop()\n        $stack.append($table[$part]($a, $b))\n    else:\n        $stack.append(int($part))\nreturn $stack.pop()",
    ]
    returns, names = (
        "int",
        ("evaluate", "eval_postfix", "calculate", "compute_postfix", "run_expression"),
    )
    pools = {
        "part": ("token", "part", "t"),
        "a": ("a", "left", "x"),
        "b": ("b", "right", "y"),
        "table": ("operators", "ops", "functions"),
        "stack": ("stack", "operands", "values"),
    }
    gives = "the value of the expression"
    rng.shuffle(bodies)
    return Draft(
        "machines: postfix",
        names,
        scene.finish(),
        returns,
        Goal(goal.kind, say(rng, goal.text), goal.verbs),
        bodies[0],
        tuple(say(rng, n) for n in notes),
        bodies[1],
        pools=pools,
        gives=gives,
    )


def states(rng: Random) -> Draft:
    """Events change a state by a table of rules."""
    scene = ExerciseScene(rng)
    states = rng.choice(
        (
            ("off", "on", "paused"),
            ("closed", "open", "locked"),
            ("idle", "running", "failed"),
            ("red", "green", "yellow"),
            ("draft", "sent", "paid"),
        )
    )
    events = rng.choice(
        (
            ("start", "stop", "reset"),
            ("push", "pull", "turn"),
            ("next", "back", "lock"),
            ("a", "b", "c"),
        )
    )
    rules = []
    places = [(state, event) for state in states for event in events]
    for state, event in rng.sample(places, rng.randint(3, 5)):
        rules.append((state, event, rng.choice([other for other in states if other != state])))

    def draw_events(rng: Random) -> object:
        return [rng.choice(events) for _ in range(rng.randint(0, 6))]

    s = scene.add(
        Param(
            "s",
            ("events", "actions", "inputs", "signals", "log"),
            "list[str]",
            "a list of events",
            "the list",
            "the events in their order",
            draw_events,
        )
    )
    wanted = rng.choice(("last", "changes", "history"))
    what = {
        "last": "the last state",
        "changes": "how often the state changes",
        "history": "the list of all states, the first one included",
    }[wanted]
    goal = Goal(
        "do",
        f'{{Follow|Process}} the events in {s}, beginning in the state "{states[0]}", and return {what}',
    )
    told = "; ".join(f'in "{a}", "{e}" leads to "{b}"' for a, e, b in rules)
    notes = [
        told[0].upper() + told[1:] + ".",
        "{All other events change nothing|Any other event is ignored}.",
    ]
    table = "$table = {\n" + "".join(f'    ("{a}", "{e}"): "{b}",\n' for a, e, b in rules) + "}\n"
    chain = "".join(f'    {"if" if n == 0 else "elif"} $state == "{a}" and $c == "{e}":\n        $state = "{b}"\n' for n, (a, e, b) in enumerate(rules))
    count = chain.replace('"\n    elif', '"\n        $count += 1\n    elif')[:-1] + "\n        $count += 1\n"
    if wanted == "last":
        bodies = [
            f'{table}$state = "{states[0]}"\nfor $c in {s}:\n    $state = $table.get(($state, $c), $state)\nreturn $state',
            f'$state = "{states[0]}"\nfor $c in {s}:\n{chain}return $state',
        ]
    elif wanted == "changes":
        bodies = [
            f'{table}$state = "{states[0]}"\n$count = 0\nfor $c in {s}:\n    if ($state, $c) in $table:\n        $state = $table[$state, $c]\n        $count += 1\nreturn $count',
            f'$state = "{states[0]}"\n$count = 0\nfor $c in {s}:\n{count}return $count',
        ]
    else:
        bodies = [
            f'{table}$out = ["{states[0]}"]\nfor $c in {s}:\n    $state = $out[-1]\n    $out.append($table.get(($state, $c), $state))\nreturn $out',
            f'$state = "{states[0]}"\n$out = [$state]\nfor $c in {s}:\n{chain}    $out.append($state)\nreturn $out',
        ]
    returns = {"last": "str", "changes": "int", "history": "list[str]"}[wanted]
    names = ("follow", "run_machine", "process_events", "state_after", "replay", "simulate")
    pools = {
        "c": ("event", "e", "action", "signal"),
        "table": ("transitions", "rules", "moves"),
        "state": ("state", "current", "status"),
    }
    gives = what
    rng.shuffle(bodies)
    return Draft(
        "machines: states",
        names,
        scene.finish(),
        returns,
        Goal(goal.kind, say(rng, goal.text), goal.verbs),
        bodies[0],
        tuple(say(rng, n) for n in notes),
        bodies[1],
        pools=pools,
        gives=gives,
    )
