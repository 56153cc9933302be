"""Small formats: texts are parsed, checked by rules, or read as commands that change a state."""

from __future__ import annotations

from random import Random

from talaria.finetune.exercises.core import (
    Draft,
    Goal,
    Param,
    Values,
    negation,
    say,
)
from talaria.finetune.exercises.docs import enumeration
from talaria.finetune.exercises.streams import TEXT_NAMES, ExerciseScene

SEPARATORS = (
    (";", "semicolons"),
    (",", "commas"),
    ("&", "ampersands"),
    ("|", "vertical bars"),
    ("/", "slashes"),
    (" ", "blanks"),
)
LINKS = (("=", "an equals sign"), (":", "a colon"), ("->", '"->"'), ("~", "a tilde"))


def a_text(
    scene: ExerciseScene,
    values: Values,
    about: str,
    names: tuple[str, ...] = TEXT_NAMES,
    a: str = "a string",
) -> str:
    """Add a parameter that is a string and return its slot."""
    return scene.add(Param("s", names, "str", a, scene.rng.choice(("the string", "the text")), about, values))


def pairs_text(rng: Random) -> Draft:
    """Pairs of keys and values written with separators become a dictionary, or the other way round."""
    scene = ExerciseScene(rng)
    sep, seps = rng.choice(SEPARATORS)
    link, link_said = rng.choice(LINKS)
    numbers = rng.random() < 0.5
    strip = sep != " " and rng.random() < 0.35
    lenient = rng.random() < 0.5
    repeat = rng.choice(("last", "last", "first", "list", "sum" if numbers else "join"))
    keep_case = rng.random() < 0.75

    def draw(rng: Random) -> object:
        parts = []
        for _ in range(rng.randint(0, 4)):
            key = rng.choice(("a", "b", "age", "X", "Id", "size", "a"))
            blank = " " if strip and rng.random() < 0.5 else ""
            value = str(rng.randint(0, 40)) if numbers else rng.choice(("red", "on", "x1", "Oslo", "no", ""))
            parts.append(f"{blank}{key}{blank}{link}{blank}{value}" if not lenient or rng.random() < 0.8 else "junk")
        return sep.join(parts)

    s = a_text(scene, draw, f"pairs like key{link}value, separated by {seps}")
    trim = ".strip()" if strip else ""
    key = f"$key{trim}{'' if keep_case else '.lower()'}"
    raw = f"$value{trim}"
    value = f"int({raw})" if numbers else raw
    type_ = "int" if numbers else "str"
    store = {
        "last": f"$out[{key}] = {value}",
        "first": f"$out.setdefault({key}, {value})",
        "list": f"$out.setdefault({key}, []).append({value})",
        "sum": f"$out[{key}] = $out.get({key}, 0) + {value}" if key == "$key" else f"$key = {key}\n$out[$key] = $out.get($key, 0) + {value}",
        "join": f'$key = {key}\n$out[$key] = $out.get($key, "") + {value}',
    }[repeat]
    split = f'{s}.split("{sep}")' if sep != " " else f"{s}.split()"
    two = store.removeprefix("$key = $key\n").split("\n")
    indent2 = "\n".join("        " + line for line in two)
    indent1 = "\n".join("    " + line for line in two)
    if lenient:
        bodies = [
            f'$out = {{}}\nfor $part in {split}:\n    $key, $mark, $value = $part.partition("{link}")\n    if $mark:\n{indent2}\nreturn $out',
            f'$out = {{}}\nfor $part in {split}:\n    if "{link}" not in $part:\n        continue\n    $key, $value = $part.split("{link}", 1)\n{indent1}\nreturn $out',
        ]
        rule = f"{{Parts without {link_said} are ignored|Skip parts in which {link_said} is missing|Ignore parts that have no {link!r}}}.".replace("'", '"')
    else:
        empty = f"if not {s}:\n    return {{}}\n" if sep != " " else ""
        bodies = [
            f'{empty}$out = {{}}\nfor $part in {split}:\n    $key, $value = $part.split("{link}", 1)\n{indent1}\nreturn $out',
            f'{empty}$out = {{}}\nfor $part in {split}:\n    $key, _, $value = $part.partition("{link}")\n{indent1}\nreturn $out',
        ]
        rule = "{An empty string gives an empty dictionary|The result is empty for an empty string}."
    notes = [rule]
    notes.append(
        {
            "last": "{If a key occurs more than once, the last value counts|Later values replace earlier ones}.",
            "first": "{If a key occurs more than once, the first value counts|The first value of a repeated key is kept}.",
            "list": "{Each key gets the list of all its values|The values are lists, as a key may occur more than once}.",
            "sum": "{Values of a repeated key are added up|If a key occurs more than once, its values are added}.",
            "join": "Values of a repeated key are joined.",
        }[repeat]
    )
    if numbers:
        notes.append("{The values are integers|Values become integers}.")
    if strip:
        notes.append("{Blanks around keys and values are dropped|Remove blanks around keys and values}.")
    if not keep_case:
        notes.append("Keys are put in lower case.")
    goal = Goal(
        "do",
        f"{{Parse|Read}} {s}, which holds pairs like key{link}value separated by {seps}, and return {{them as a dictionary|a dictionary}}",
    )
    result = f"dict[str, {f'list[{type_}]' if repeat == 'list' else type_}]"
    rng.shuffle(bodies)
    return Draft(
        "key-value texts",
        ("parse_pairs", "parse_options", "parse_settings", "to_dict", "read_pairs", "parse_params", "parse", "text_to_dict", "read_config", "decode_pairs"),
        scene.finish(),
        result,
        Goal("do", say(rng, goal.text)),
        bodies[0],
        tuple(say(rng, note) for note in notes),
        bodies[1],
        pools={
            "part": ("part", "pair", "item", "field_", "chunk"),
            "mark": ("sep", "mark", "found", "link"),
            "key": ("key", "name", "k"),
            "value": ("value", "v", "val"),
        },
        gives="the pairs as a dictionary",
    )


UNITS = (
    ("durations", (("h", 3600), ("m", 60), ("s", 1)), "seconds", "duration"),
    ("durations", (("d", 1440), ("h", 60), ("m", 1)), "minutes", "duration"),
    ("weights", (("t", 1000000), ("kg", 1000), ("g", 1)), "grams", "weight"),
    ("lengths", (("km", 1000000), ("m", 1000), ("mm", 1)), "millimetres", "length"),
    ("sizes", (("G", 1000000), ("M", 1000), ("k", 1)), "kilobytes", "size"),
    ("durations", (("w", 168), ("d", 24), ("h", 1)), "hours", "duration"),
    ("old lengths", (("yd", 36), ("ft", 12), ("in", 1)), "inches", "length"),
    ("amounts", (("gr", 144), ("dz", 12), ("p", 1)), "pieces", "amount"),
)


def units(rng: Random) -> Draft:
    """Amounts with units are read into one number or written from it."""
    scene = ExerciseScene(rng)
    _, table, base, noun = rng.choice(UNITS)
    chosen = list(table) if rng.random() < 0.7 else list(table[1:]) if rng.random() < 0.5 else list(table[:2])
    chosen = [(u, f) for u, f in chosen]
    scale = chosen[-1][1]
    if scale != 1:
        chosen = list(table)
    example = "".join(f"{2 * n + 1}{u}" for n, (u, _) in enumerate(chosen))
    listing = enumeration([f'"{u}" for {f}' if f != 1 else f'"{u}" for 1' for u, f in chosen])
    if rng.random() < 0.5:

        def draw(rng: Random) -> object:
            return "".join(f"{rng.randint(0, 40)}{u}" for u, _ in chosen if rng.random() < 0.65)

        s = a_text(scene, draw, f'a {noun} like "{example}"', (noun, "text", "s", "value", "spec"))
        mapping = "{" + ", ".join(f'"{u}": {f}' for u, f in chosen) + "}"
        goal = Goal(
            "do",
            f'{{Convert|Parse}} a {noun} like "{example}" {{in|given as}} {s} {{and return the number of|to}} {base}'.replace(
                " given as", ", given as"
            ).replace("{in|, given as}", "in"),
        )
        goal = Goal(
            "do",
            rng.choice(
                (
                    f'Parse a {noun} like "{example}", given as {s}, and return the number of {base}',
                    f'Convert {s}, a {noun} like "{example}", to a number of {base} and return it',
                )
            ),
        )
        notes = (
            f"The units are {listing} {base}.",
            say(
                rng,
                "{Any part may be missing|Parts may be missing}; {an empty string gives 0|the result is 0 for an empty string}.",
            ),
        )
        longest = all(len(u) == 1 for u, _ in chosen)
        names_ = "|".join(sorted((u for u, _ in chosen), key=len, reverse=True))
        bodies = [
            f'$table = {mapping}\nreturn sum(int($n) * $table[$mark] for $n, $mark in $re.findall(r"(\\d+)({names_})", {s}))',
            f'$table = {mapping}\n$total = 0\nfor $n, $mark in $re.findall(r"(\\d+)([a-zA-Z]+)", {s}):\n    $total += int($n) * $table[$mark]\nreturn $total',
        ]
        loop = f"$total = 0\n$n = 0\nfor $c in {s}:\n    if $c.isdigit():\n        $n = $n * 10 + int($c)\n"
        if longest:
            ladder = (
                loop
                + "".join(f'    elif $c == "{u}":\n        $total += $n{f" * {f}" if f != 1 else ""}\n        $n = 0\n' for u, f in chosen)
                + "return $total"
            )
            bodies.append(ladder)
            bodies.append(f"$table = {mapping}\n{loop}    else:\n        $total += $n * $table[$c]\n        $n = 0\nreturn $total")
        names = (f"parse_{noun}", f"{noun}_to_{base}", f"read_{noun}", f"to_{base}")
        returns = "int"
        rng.shuffle(bodies)
        return Draft(
            "units",
            names,
            scene.finish(),
            returns,
            goal,
            bodies[0],
            notes,
            bodies[1],
            pools={
                "table": ("units", "factors", "sizes", "table"),
                "n": ("number", "n", "amount", "count"),
                "mark": ("unit", "u", "suffix"),
            },
            gives=f"the number of {base}",
        )
    n = scene.add(
        Param(
            "n",
            (base, "n", "amount", "total", "value"),
            "int",
            f"a number of {base}",
            None,
            f"a non-negative number of {base}",
            lambda r: r.randint(0, r.choice([2 * f for _, f in chosen]) + 20),
        )
    )
    zero = rng.random() < 0.5
    sep = rng.choice((" ", "", " ", ", "))
    shown = sep.join(f"{2 * i + 1}{u}" for i, (u, _) in enumerate(chosen))
    goal = Goal(
        "do",
        rng.choice(
            (
                f'Write {n} {base} as a {noun} like "{shown}"',
                f'Format {n} {base} as text like "{shown}"',
                f'Return {n}, a number of {base}, as a string like "{shown}"',
            )
        ),
    )
    last = chosen[-1][0]
    notes = (
        f"The units are {listing} {base}.",
        f'Parts that are 0 are left out; 0 gives "0{last}".' if zero else "All parts are written, also those that are 0.",
    )
    test = "    if $value:\n        " if zero else "    "
    rows = "[" + ", ".join(f'("{u}", {f})' for u, f in chosen) + "]"
    end = f'return "{sep}".join($out)' + (f' or "0{last}"' if zero else "")
    bodies = [f'$out = []\n$rest = {n}\nfor $mark, $x in {rows}:\n    $value, $rest = divmod($rest, $x)\n{test}$out.append(f"{{$value}}{{$mark}}")\n{end}']
    spelled = f"$out = []\n$rest = {n}\n"
    for u, f in chosen:
        spelled += f"$value, $rest = divmod($rest, {f})\n" if f != 1 else "$value = $rest\n"
        spelled += f'if $value:\n    $out.append(f"{{$value}}{u}")\n' if zero else f'$out.append(f"{{$value}}{u}")\n'
    bodies.append(spelled + end)
    rng.shuffle(bodies)
    return Draft(
        "units",
        (f"format_{noun}", f"{base}_to_text", f"show_{noun}", f"{noun}_text"),
        scene.finish(),
        "str",
        goal,
        bodies[0],
        notes,
        bodies[1],
        pools={"mark": ("unit", "name", "suffix"), "x": ("size", "factor", "unit_size"), "value": ("count", "amount", "value", "n")},
        gives="the text",
    )


BRACKETS = (
    ("(", ")", "round brackets"),
    ("[", "]", "square brackets"),
    ("{", "}", "curly brackets"),
    ("<", ">", "angle brackets"),
)


def brackets(rng: Random) -> Draft:
    """Brackets in a text are balanced, counted, measured or cut out."""
    scene = ExerciseScene(rng)
    names: tuple[str, ...]
    chosen = rng.sample(BRACKETS, rng.choice((1, 1, 2, 3)))
    opens, closes = "".join(b[0] for b in chosen), "".join(b[1] for b in chosen)
    letters = "ab" if rng.random() < 0.6 else ""

    def draw(rng: Random) -> object:
        out, stack = "", ""
        for _ in range(rng.randint(0, 9)):
            if rng.random() < 0.45:
                i = rng.randrange(len(opens))
                out, stack = out + opens[i], stack + closes[i]
            elif stack and rng.random() < 0.85:
                out, stack = out + stack[-1], stack[:-1]
            elif letters:
                out += rng.choice(letters)
        out += stack[::-1]
        if broken and rng.random() < 0.5:
            out = out.replace(rng.choice(opens + closes), "", 1) if rng.random() < 0.5 else out + rng.choice(closes + opens)
        return out

    measure = rng.choice(
        (
            "balanced",
            "balanced",
            "depth",
            "groups",
            "first_bad",
            "inside",
            "missing",
            "strip",
            "pairs",
        )
    )
    broken = measure in ("balanced", "first_bad", "missing")
    said = enumeration([b[2] for b in chosen])
    others = "{All other|Other} characters {are ignored|do not matter}." if letters else ""
    s = a_text(scene, draw, f"a string with {said}" if letters else f"a string of {said}")
    o, c = (f'"{opens}"', f'"{closes}"')
    mapping = "{" + ", ".join(f'"{b[1]}": "{b[0]}"' for b in chosen) + "}"
    one = len(chosen) == 1
    notes = [others] if others else []
    is_open = f"$c == {o}" if one else f"$c in {o}"
    is_close = f"$c == {c}" if one else f"$c in {c}"
    if measure == "balanced":
        goal = Goal(
            "whether",
            f"the {said} in {s} are balanced, that is, each one that opens is closed {'later' if one else 'by one of the same kind in the right order'}, and none is closed that was not opened",
        )
        stack = f"$table = {mapping}\n$stack = []\nfor $c in {s}:\n    if {is_open}:\n        $stack.append($c)\n    elif $c in $table:\n        if not $stack or $stack.pop() != $table[$c]:\n            return False\nreturn not $stack"
        bodies = [
            stack,
            f"$stack = []\nfor $c in {s}:\n    if {is_open}:\n        $stack.append($c)\n    elif {is_close}:\n        if not $stack or {o}.index($stack.pop()) != {c}.index($c):\n            return False\nreturn len($stack) == 0",
        ]
        if one:
            bodies = [
                f"$depth = 0\nfor $c in {s}:\n    if {is_open}:\n        $depth += 1\n    elif {is_close}:\n        $depth -= 1\n        if $depth < 0:\n            return False\nreturn $depth == 0",
                stack,
            ]
        if not letters:
            pairs = " or ".join(f'"{b[0]}{b[1]}" in $text' for b in chosen)
            chain = "".join(f'.replace("{b[0]}{b[1]}", "")' for b in chosen)
            bodies.append(f"$text = {s}\nwhile {pairs}:\n    $text = $text{chain}\nreturn not $text")
        returns, names = (
            "bool",
            ("is_balanced", "balanced", "brackets_match", "check_brackets", "is_well_formed"),
        )
    elif measure == "depth":
        goal = Goal("get", f"the {{greatest|maximum}} depth to which the {said} in {s} are nested")
        notes += [
            "{The brackets are balanced|You may assume that they are balanced}.",
            "{Without brackets the depth is 0|The depth is 0 if there are none}.",
        ]
        bodies = [
            f"$depth = $best = 0\nfor $c in {s}:\n    if {is_open}:\n        $depth += 1\n        $best = max($best, $depth)\n    elif {is_close}:\n        $depth -= 1\nreturn $best",
            f"$stack = []\n$best = 0\nfor $c in {s}:\n    if {is_open}:\n        $stack.append($c)\n        if len($stack) > $best:\n            $best = len($stack)\n    elif {is_close}:\n        $stack.pop()\nreturn $best",
        ]
        returns, names = "int", ("max_depth", "nesting_depth", "deepest", "bracket_depth")
    elif measure == "groups":
        goal = Goal(
            "get",
            f"{{a list of |}}the outermost groups of {said} in {s}, each with its brackets".replace("of a list", "list"),
            ("Return", "List", "Find"),
        )
        notes += ["{The brackets are balanced|You may assume that they are balanced}."]
        bodies = [
            f"$out = []\n$depth = 0\nfor $i, $c in enumerate({s}):\n    if {is_open}:\n        if $depth == 0:\n            $left = $i\n        $depth += 1\n    elif {is_close}:\n        $depth -= 1\n        if $depth == 0:\n            $out.append({s}[$left : $i + 1])\nreturn $out",
            f'$out = []\n$current = ""\n$depth = 0\nfor $c in {s}:\n    if {is_open}:\n        $depth += 1\n    if $depth > 0:\n        $current += $c\n    if {is_close}:\n        $depth -= 1\n        if $depth == 0:\n            $out.append($current)\n            $current = ""\nreturn $out',
        ]
        returns, names = (
            "list[str]",
            ("outer_groups", "split_groups", "top_level_groups", "find_groups"),
        )
    elif measure == "first_bad":
        goal = Goal(
            "get",
            f"the index of the first closing bracket in {s} (among {said}) that closes nothing{'' if one else ' or a bracket of another kind'}, or -1 if there is none",
        )
        bodies = [
            f"$table = {mapping}\n$stack = []\nfor $i, $c in enumerate({s}):\n    if {is_open}:\n        $stack.append($c)\n    elif $c in $table and (not $stack or $stack.pop() != $table[$c]):\n        return $i\nreturn -1",
            f"$stack = []\nfor $i in range(len({s})):\n    $c = {s}[$i]\n    if {is_open}:\n        $stack.append({c}[{o}.index($c)])\n    elif {is_close}:\n        if not $stack or $stack.pop() != $c:\n            return $i\nreturn -1",
        ]
        returns, names = "int", ("first_error", "find_mismatch", "first_unmatched", "error_index")
    elif measure == "missing":
        if not one:
            return brackets(rng)
        goal = Goal(
            "get",
            f"how many {said} must be added to {s} at least so that they are balanced",
            ("Return", "Compute", "Find"),
        )
        bodies = [
            f"$depth = $count = 0\nfor $c in {s}:\n    if {is_open}:\n        $depth += 1\n    elif {is_close}:\n        if $depth:\n            $depth -= 1\n        else:\n            $count += 1\nreturn $count + $depth",
            f"$stack = []\nfor $c in {s}:\n    if {is_close} and $stack and $stack[-1] == {o}:\n        $stack.pop()\n    elif {is_open} or {is_close}:\n        $stack.append($c)\nreturn len($stack)",
        ]
        returns, names = (
            "int",
            ("missing_brackets", "brackets_to_add", "count_missing", "repairs_needed"),
        )
    elif measure == "inside":
        letters = "abc"
        others, notes = "", []
        goal = Goal(
            "get",
            f"the characters of {s} that stand inside at least one pair of {said}, without the brackets themselves",
            ("Return", "Extract", "Get"),
        )
        notes = ["The brackets are balanced."]
        bodies = [
            f'$out = []\n$depth = 0\nfor $c in {s}:\n    if {is_open}:\n        $depth += 1\n    elif {is_close}:\n        $depth -= 1\n    elif $depth > 0:\n        $out.append($c)\nreturn "".join($out)',
            f'$text = ""\n$stack = []\nfor $c in {s}:\n    if {is_open}:\n        $stack.append($c)\n    elif {is_close}:\n        $stack.pop()\n    elif $stack:\n        $text += $c\nreturn $text',
        ]
        returns, names = "str", ("inside_brackets", "text_inside", "bracketed_text", "inner_text")
    elif measure == "strip":
        letters = "abc"
        goal = Goal(
            "get",
            f"{s} without everything that stands in {said}, the brackets included",
            ("Return", "Get"),
        )
        notes = ["The brackets are balanced."]
        bodies = [
            f'$out = []\n$depth = 0\nfor $c in {s}:\n    if {is_open}:\n        $depth += 1\n    elif {is_close}:\n        $depth -= 1\n    elif $depth == 0:\n        $out.append($c)\nreturn "".join($out)',
            f'$text = ""\n$stack = []\nfor $c in {s}:\n    if {is_open}:\n        $stack.append($c)\n    elif {is_close}:\n        $stack.pop()\n    elif not $stack:\n        $text += $c\nreturn $text',
        ]
        returns, names = (
            "str",
            ("remove_bracketed", "drop_bracketed", "strip_brackets", "text_outside"),
        )
    else:
        goal = Goal(
            "get",
            f"a list of the positions (open, close) of all matching {said} in {s}, sorted by the position of the opening one",
            ("Return", "Find", "List"),
        )
        notes += ["The brackets are balanced."]
        bodies = [
            f"$stack = []\n$out = []\nfor $i, $c in enumerate({s}):\n    if {is_open}:\n        $stack.append($i)\n    elif {is_close}:\n        $out.append(($stack.pop(), $i))\nreturn sorted($out)",
            f"$out = []\nfor $i, $c in enumerate({s}):\n    if {negation(is_open)}:\n        continue\n    $depth = 0\n    for $j in range($i, len({s})):\n        if {s}[$j] in {o}:\n            $depth += 1\n        elif {s}[$j] in {c}:\n            $depth -= 1\n        if $depth == 0:\n            $out.append(($i, $j))\n            break\nreturn $out",
        ]
        returns, names = (
            "list[tuple[int, int]]",
            ("bracket_pairs", "match_brackets", "pair_positions", "find_pairs"),
        )
    rng.shuffle(bodies)
    return Draft(
        "brackets",
        names,
        scene.finish(),
        returns,
        Goal(goal.kind, say(rng, goal.text), goal.verbs),
        bodies[0],
        tuple(say(rng, note) for note in notes if note),
        bodies[1],
        pools={
            "c": ("c", "char", "ch", "bracket"),
            "depth": ("depth", "level", "balance", "open_count"),
            "table": ("pairs", "closing", "opener", "partner"),
            "left": ("start", "begin", "left"),
        },
    )
