"""Matrices and grids: rows, columns, diagonals, neighbours; and lists nested to any depth."""

from __future__ import annotations

from random import Random

from talaria.finetune.exercises.core import Draft, Goal, Param, negation, number, one_of, say, word
from talaria.finetune.exercises.streams import ExerciseScene, int_change, int_test, singular, str_test

GRID_NAMES = ("matrix", "grid", "rows", "table", "m", "board", "mat", "data")


def _grid(scene: ExerciseScene, square: bool = False, least: int = 1) -> str:
    def draw(rng: Random) -> object:
        height = rng.randint(least, 4)
        width = height if square else rng.randint(1, 4)
        return [[rng.randint(-5, 15) for _ in range(width)] for _ in range(height)]

    a = (
        "a square matrix"
        if square
        else scene.rng.choice(
            (
                "a matrix",
                "a list of rows of equal length",
                "a list of equally long lists of integers",
            )
        )
    )
    return scene.add(
        Param(
            "g",
            GRID_NAMES,
            "list[list[int]]",
            a,
            scene.rng.choice(("the matrix", "the grid")),
            a + (" as a list of rows" if square else " of integers" if "matrix" in a else ""),
            draw,
        )
    )


LINES = (
    ("sum", "sum($row)", "sum"),
    ("max", "max($row)", "largest number"),
    ("min", "min($row)", "smallest number"),
    ("spread", "max($row) - min($row)", "difference between the largest and the smallest number"),
    ("distinct", "len(set($row))", "number of different values"),
    ("evens", "sum(1 for $x in $row if $x % 2 == 0)", "number of even numbers"),
    ("positives", "sum($x > 0 for $x in $row)", "number of positive numbers"),
    ("above", "sum(1 for $x in $row if $x > K)", "number of values greater than K"),
    ("first_last", "$row[0] + $row[-1]", "sum of the first and last number"),
    ("absolute", "sum(abs($x) for $x in $row)", "sum of the absolute values"),
    ("product", "$math.prod($row)", "product"),
    ("mean", "sum($row) / len($row)", "average"),
    ("odd_sum", "sum($x for $x in $row if $x % 2 == 1)", "sum of the odd numbers"),
)


def lines(rng: Random) -> Draft:
    """Rows or columns of a matrix are measured, and the measures gathered."""
    scene = ExerciseScene(rng)
    g = _grid(scene, False, 1)
    tag, code, said = rng.choice(LINES)
    if "K" in code:
        n = scene.amount(0, 8, "the limit", 0.5)
        code, said = code.replace("K", n), said.replace("K", n)
    columns = rng.random() < 0.45
    line = "column" if columns else "row"
    over = f"zip(*{g})" if columns else g
    measure = rng.choice(("list", "list", "best", "where", "count", "sorted", "sum", "all_same", "sort"))
    notes: tuple[str, ...] = ()
    names: tuple[str, ...]
    index = f"for $j in range(len({g}[0])):\n    $row = [$r[$j] for $r in {g}]\n" if columns else f"for $i in range(len({g})):\n    $row = {g}[$i]\n"
    loop = f"for $row in {over}:\n"
    returns = "list[int]"
    if measure == "list":
        goal = Goal(
            "get",
            f"the {said} of each {line} of {g}, as a list",
            ("Return", "Compute", "Calculate"),
        )
        bodies = [
            f"return [{code} for $row in {over}]",
            f"$out = []\n{loop}    $out.append({code})\nreturn $out",
            f"$out = []\n{index}    $out.append({code})\nreturn $out",
        ]
        returns = "list[float]" if tag == "mean" else "list[int]"
        names = (f"{line}_{tag}s", f"{tag}_of_{line}s", f"{line}_{tag}_list", f"{tag}_per_{line}")
    elif measure in ("best", "where"):
        up = rng.random() < 0.6
        word_, sign = ("largest", ">") if up else ("smallest", "<")
        name = "max" if up else "min"
        if measure == "best":
            goal = Goal("get", f"the {word_} value that the {said} of a {line} of {g} has")
            bodies = [
                f"return {name}({code} for $row in {over})",
                f"$best = None\n{loop}    $value = {code}\n    if $best is None or $value {sign} $best:\n        $best = $value\nreturn $best",
            ]
            returns = "float" if tag == "mean" else "int"
            names = (f"{name}_{line}_{tag}", f"{word_}_{line}_{tag}")
        else:
            goal = Goal("get", f"the index of the {line} of {g} with the {word_} {said}")
            notes = (say(rng, "{The first one wins a tie|In case of a tie, take the first}."),)
            bodies = [
                f"$out = [{code} for $row in {over}]\nreturn $out.index({name}($out))",
                f"$best = 0\n$best_key = None\nfor $i, $row in enumerate({over}):\n    $value = {code}\n    if $best_key is None or $value {sign} $best_key:\n        $best, $best_key = $i, $value\nreturn $best",
            ]
            returns, names = (
                "int",
                (
                    f"{line}_with_{name}_{tag}",
                    f"arg{name}_{line}_{tag}",
                    f"index_of_{word_}_{line}",
                ),
            )
    elif measure == "count":
        least = scene.amount(0, 20)
        goal = Goal(
            "get",
            f"the number of {line}s of {g} whose {said} is {{at least|not less than}} {least}",
        )
        bodies = [
            f"return sum(1 for $row in {over} if {code} >= {least})",
            f"$count = 0\n{loop}    if {code} >= {least}:\n        $count += 1\nreturn $count",
        ]
        returns, names = "int", (f"count_{line}s_by_{tag}", f"{line}s_with_{tag}", f"count_{line}s")
    elif measure == "sum":
        goal = Goal(
            "get",
            f"the sum, over all {line}s of {g}, of the {said}".replace("of the sum", "of their sum")
            if tag != "sum"
            else f"the product of the sums of all {line}s of {g}",
        )
        if tag == "sum":
            bodies = [
                f"return $math.prod(sum($row) for $row in {over})",
                f"$out = 1\n{loop}    $out *= sum($row)\nreturn $out",
            ]
        else:
            bodies = [
                f"return sum({code} for $row in {over})",
                f"$total = 0\n{loop}    $total += {code}\nreturn $total",
            ]
        returns = "float" if tag == "mean" else "int"
        names = (f"total_{line}_{tag}", f"sum_of_{line}_{tag}s")
    elif measure == "all_same":
        goal = Goal("whether", f"all {line}s of {g} have the same {said}")
        bodies = [
            f"return len({{{code} for $row in {over}}}) == 1",
            f"$seen = set()\n{loop}    $seen.add({code})\nreturn len($seen) == 1",
            f"$out = [{code} for $row in {over}]\nreturn all($value == $out[0] for $value in $out)",
        ]
        returns, names = "bool", (f"same_{line}_{tag}", f"equal_{line}_{tag}s", f"{line}s_agree")
    else:
        if columns:
            return lines(rng)
        down = rng.random() < 0.4
        goal = Goal(
            "get",
            f"the rows of {g} sorted by their {said}, in {'descending' if down else 'ascending'} order",
            ("Return", "Get", "Give"),
        )
        notes = (say(rng, "{Ties keep their order|Rows with the same value keep their order}."),)
        flag = ", reverse=True" if down else ""
        bodies = [
            f"return sorted({g}, key=lambda $row: {code}{flag})",
            f"def $convert($row):\n    return {code}\n\nreturn sorted({g}, key=$convert{flag})",
            f"$out = list({g})\n$out.sort(key=lambda $row: {code}{flag})\nreturn $out",
        ]
        returns, names = (
            "list[list[int]]",
            (f"sort_rows_by_{tag}", f"rows_by_{tag}", f"order_rows_by_{tag}"),
        )
    rng.shuffle(bodies)
    return Draft(
        "matrix lines",
        names,
        scene.finish(),
        returns,
        Goal(goal.kind, say(rng, goal.text), goal.verbs),
        bodies[0],
        notes,
        bodies[1],
        pools={
            "row": ("column", "col", "values") if columns else ("row", "r", "line", "values"),
            "r": ("r", "row", "line"),
            "convert": ("weight", "key", "measure"),
        },
    )


PLACES = (
    ("$i == $j", "on the main diagonal", "diagonal", True),
    (
        "$i + $j == len(G) - 1",
        "on the diagonal from the upper right to the lower left",
        "antidiagonal",
        True,
    ),
    ("$i < $j", "above the main diagonal", "upper", True),
    ("$i > $j", "below the main diagonal", "lower", True),
    ("$i == $j or $i + $j == len(G) - 1", "on either diagonal", "diagonals", True),
    ("$i in (0, len(G) - 1) or $j in (0, len(G[0]) - 1)", "on the border", "border", False),
    (
        "0 < $i < len(G) - 1 and 0 < $j < len(G[0]) - 1",
        "that are not on the border",
        "inner",
        False,
    ),
    ("($i + $j) % 2 == 0", "whose row and column index have an even sum", "even_cells", False),
    ("($i + $j) % 2 == 1", "whose row and column index have an odd sum", "odd_cells", False),
    ("$i == 0 or $j == 0", "in the first row or the first column", "first_lines", False),
    (
        "$i % 2 == 0 and $j % 2 == 0",
        "whose row and column index are both even",
        "even_places",
        False,
    ),
)
NEAR = (
    ("all(G[$i][$j] > $y for $y in $near)", "greater than all their neighbours", "peaks"),
    ("all(G[$i][$j] < $y for $y in $near)", "smaller than all their neighbours", "pits"),
    (
        "any(G[$i][$j] == $y for $y in $near)",
        "equal to at least one of their neighbours",
        "repeats",
    ),
    ("G[$i][$j] > sum($near)", "greater than the sum of their neighbours", "dominant"),
    (
        "sum($y % 2 for $y in $near) % 2 == 1",
        "with an odd number of odd neighbours",
        "odd_surrounded",
    ),
    ("all($y > 0 for $y in $near)", "with positive neighbours only", "sunny"),
)


def cells(rng: Random) -> Draft:
    """Cells at certain places of a matrix, with certain values or neighbours."""
    scene = ExerciseScene(rng)
    near = rng.random() < 0.25
    place, where, tag, square = rng.choice(PLACES)
    g = _grid(scene, square and not near)
    test = None if near or rng.random() < 0.45 else int_test(scene)
    if near:
        code, said, tag = rng.choice(NEAR)
        eight = rng.random() < 0.4
        kind = "all eight directions" if eight else "left, right, above and below"
        notes: tuple[str, ...] = (f"Neighbours are the cells {'in ' if eight else ''}{kind}, as far as they exist.",)
        code = code.replace("G", g)
        steps = "[(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)]" if eight else "[(-1, 0), (1, 0), (0, -1), (0, 1)]"
        inner = (
            f"$near = []\nfor $a, $b in {steps}:\n    if 0 <= $i + $a < len({g}) and 0 <= $j + $b < len({g}[0]):\n        $near.append({g}[$i + $a][$j + $b])\n"
        )
        text = f"{{numbers|cells}} of {g} {said}" if said.startswith("with") else f"{{numbers|cells}} of {g} that are {said}"
        cond, value = code, f"{g}[$i][$j]"
    else:
        code = place.replace("G", g)
        inner = ""
        text = f"{{numbers|values}} of {g} {where}"
        cond, value = code, "$x"
        if test:
            text += f" that {test.verb}" if not where.startswith(("that", "whose")) else f" and that {test.verb}"
            cond = f"{f'({code})' if ' or ' in code else code} and {test.code}"
            if " or " in test.code:
                cond = f"({code}) and ({test.code})"
        notes = ()
    text = say(rng, text)
    measure = rng.choice(("sum", "count", "list", "max") if not near else ("count", "places", "sum"))
    head = f"for $i in range(len({g})):\n    for $j in range(len({g}[0])):\n"
    pairs = f"for $i, $row in enumerate({g}):\n    for $j, $x in enumerate($row):\n"
    init, step, final = {
        "sum": ("$total = 0", "$total += V", "return $total"),
        "count": ("$count = 0", "$count += 1", "return $count"),
        "list": ("$out = []", "$out.append(V)", "return $out"),
        "max": ("$out = []", "$out.append(V)", "return max($out) if $out else None"),
        "places": ("$out = []", "$out.append(($i, $j))", "return $out"),
    }[measure]

    def spell(start: str, element: str) -> str:
        block = inner + f"if {cond.replace('$x', element)}:\n    {step.replace('V', element)}"
        return f"{init}\n{start}" + "\n".join("        " + line for line in block.split("\n")) + f"\n{final}"

    bodies = [spell(head, f"{g}[$i][$j]"), spell(pairs, "$x" if not near else value)]
    if not near:
        generator = f"$x for $i, $row in enumerate({g}) for $j, $x in enumerate($row) if {cond}"
        short = {
            "sum": f"return sum({generator})",
            "count": f"return sum(1 for {generator[7:]})".replace("1 for ", "1 for "),
            "list": f"return [{generator}]",
            "max": f"return max(({generator}), default=None)",
        }[measure]
        bodies.append(short)
        if tag in ("diagonal", "antidiagonal") and not test and measure in ("sum", "list"):
            at = "$i" if tag == "diagonal" else "-1 - $i"
            bodies.append(f"return {'sum(' if measure == 'sum' else '['}{g}[$i][{at}] for $i in range(len({g})){')' if measure == 'sum' else ']'}")
    else:
        bodies[1] = bodies[1].replace("for $j, $x in enumerate($row)", "for $j in range(len($row))")
        bodies.append(bodies[0])
    goal = {
        "sum": Goal("get", f"the sum of the {text}"),
        "count": Goal("do", rng.choice((f"Count the {text}", f"Return the number of {text}"))),
        "list": Goal("get", f"the {text}, row by row, as a list", ("Return", "List", "Collect")),
        "max": Goal("get", f"the largest of the {text}"),
        "places": Goal("get", f"the positions (row, column) of all {text}, row by row", ("Return", "List", "Find")),
    }[measure]
    if measure == "max":
        notes = (
            *notes,
            say(rng, "{Return None if there are none|If there are none, return None}."),
        )
    returns = {
        "sum": "int",
        "count": "int",
        "list": "list[int]",
        "max": "int | None",
        "places": "list[tuple[int, int]]",
    }[measure]
    verb = {"sum": "sum", "count": "count", "list": "get", "max": "max", "places": "find"}[measure]
    rng.shuffle(bodies)
    if bodies[0] == bodies[1]:
        bodies[1] = bodies[2]
    return Draft(
        "matrix cells",
        (f"{verb}_{tag}", f"{tag}_{verb}", f"{verb}_on_{tag}" if not near else f"{verb}_of_{tag}", f"{verb}_{tag}_cells"),
        scene.finish(),
        returns,
        goal,
        bodies[0],
        notes,
        bodies[1],
        pools={
            "near": ("near", "neighbours", "around", "adjacent"),
            "a": ("di", "dy", "dr"),
            "b": ("dj", "dx", "dc"),
            "i": ("i", "r", "y", "row_index"),
            "j": ("j", "c", "x", "column"),
            "x": ("value", "cell", "x", "v"),
            "y": ("value", "v", "other"),
        },
    )


REBUILDS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (
        "transpose",
        "{G with rows and columns swapped|the transpose of G}",
        (
            "return [list($row) for $row in zip(*G)]",
            "$out = []\nfor $j in range(len(G[0])):\n    $out.append([$row[$j] for $row in G])\nreturn $out",
            "return [[G[$i][$j] for $i in range(len(G))] for $j in range(len(G[0]))]",
        ),
    ),
    (
        "rotate_right",
        "G turned by 90 degrees to the right",
        (
            "return [list($row) for $row in zip(*G[::-1])]",
            "return [[$row[$j] for $row in reversed(G)] for $j in range(len(G[0]))]",
            "$out = []\nfor $j in range(len(G[0])):\n    $part = []\n    for $i in range(len(G) - 1, -1, -1):\n        $part.append(G[$i][$j])\n    $out.append($part)\nreturn $out",
        ),
    ),
    (
        "rotate_left",
        "G turned by 90 degrees to the left",
        ("return [list($row) for $row in zip(*G)][::-1]", "return [[$row[$j] for $row in G] for $j in range(len(G[0]) - 1, -1, -1)]"),
    ),
    (
        "flip_horizontally",
        "G with each row reversed",
        ("return [$row[::-1] for $row in G]", "$out = []\nfor $row in G:\n    $out.append(list(reversed($row)))\nreturn $out"),
    ),
    (
        "flip_vertically",
        "G with its rows in reverse order",
        ("return G[::-1]", "$out = []\nfor $row in G:\n    $out.insert(0, $row)\nreturn $out", "return list(reversed(G))"),
    ),
    (
        "turn_around",
        "G turned by 180 degrees",
        ("return [$row[::-1] for $row in G[::-1]]", "$out = []\nfor $row in reversed(G):\n    $out.append($row[::-1])\nreturn $out"),
    ),
    (
        "shift_rows",
        "G with each row moved by one place to the right, the last number coming first,",
        ("return [$row[-1:] + $row[:-1] for $row in G]", "$out = []\nfor $row in G:\n    $out.append([$row[-1], *$row[:-1]])\nreturn $out"),
    ),
    (
        "double_columns",
        "G with every column written twice",
        (
            "return [[$x for $x in $row for _ in range(2)] for $row in G]",
            "$out = []\nfor $row in G:\n    $part = []\n    for $x in $row:\n        $part.extend([$x, $x])\n    $out.append($part)\nreturn $out",
        ),
    ),
    (
        "running_rows",
        "G with each row replaced by its running totals",
        (
            "return [list($accumulate($row)) for $row in G]",
            "$out = []\nfor $row in G:\n    $part = []\n    $total = 0\n    for $x in $row:\n        $total += $x\n        $part.append($total)\n    $out.append($part)\nreturn $out",
        ),
    ),
    (
        "sort_rows",
        "G with each row sorted",
        ("return [sorted($row) for $row in G]", "$out = []\nfor $row in G:\n    $part = list($row)\n    $part.sort()\n    $out.append($part)\nreturn $out"),
    ),
    (
        "add_border",
        "G with a border of zeros around it",
        (
            "$n = len(G[0]) + 2\nreturn [[0] * $n, *([0, *$row, 0] for $row in G), [0] * $n]",
            "$n = len(G[0]) + 2\n$out = [[0] * $n]\nfor $row in G:\n    $out.append([0] + $row + [0])\n$out.append([0] * $n)\nreturn $out",
        ),
    ),
    (
        "subtract_minimum",
        "G with the smallest number of each row subtracted from that row",
        (
            "return [[$x - min($row) for $x in $row] for $row in G]",
            "$out = []\nfor $row in G:\n    $value = min($row)\n    $out.append([$x - $value for $x in $row])\nreturn $out",
        ),
    ),
    (
        "append_sums",
        "G with the sum of each row added at its end",
        (
            "return [[*$row, sum($row)] for $row in G]",
            "$out = []\nfor $row in G:\n    $out.append($row + [sum($row)])\nreturn $out",
            "return [$row + [sum($row)] for $row in G]",
        ),
    ),
    (
        "drop_first_line",
        "G without its first row and its first column",
        ("return [$row[1:] for $row in G[1:]]", "$out = []\nfor $row in G[1:]:\n    $out.append($row[1:])\nreturn $out"),
    ),
    (
        "snake",
        "the numbers of G row by row as one list, every second row being read from right to left",
        (
            "$out = []\nfor $i, $row in enumerate(G):\n    $out.extend($row if $i % 2 == 0 else $row[::-1])\nreturn $out",
            "$out = []\nfor $i in range(len(G)):\n    if $i % 2 == 0:\n        $out += G[$i]\n    else:\n        $out += reversed(G[$i])\nreturn $out",
        ),
    ),
    (
        "spiral",
        "the numbers of G as one list in a spiral from the upper left corner, clockwise and inwards",
        (
            "$out = []\n$rest = [list($row) for $row in G]\nwhile $rest:\n    $out += $rest.pop(0)\n    $rest = [list($row) for $row in zip(*$rest)][::-1]\nreturn $out",
            "$out = []\n$left, $right, $i, $j = 0, len(G[0]) - 1, 0, len(G) - 1\nwhile $left <= $right and $i <= $j:\n    $out += G[$i][$left : $right + 1]\n    for $k in range($i + 1, $j + 1):\n        $out.append(G[$k][$right])\n    if $i < $j and $left < $right:\n        $out += G[$j][$left:$right][::-1]\n    elif $i < $j:\n        pass\n    if $left < $right:\n        for $k in range($j - 1, $i, -1):\n            $out.append(G[$k][$left])\n    $left, $right, $i, $j = $left + 1, $right - 1, $i + 1, $j - 1\nreturn $out".replace(
                "    elif $i < $j:\n        pass\n", ""
            ),
        ),
    ),
    (
        "by_columns",
        "the numbers of G column by column as one list",
        (
            "return [$x for $row in zip(*G) for $x in $row]",
            "$out = []\nfor $j in range(len(G[0])):\n    for $row in G:\n        $out.append($row[$j])\nreturn $out",
        ),
    ),
    (
        "sort_columns",
        "G with the numbers of each column sorted from top to bottom",
        (
            "$out = [sorted($row) for $row in zip(*G)]\nreturn [list($row) for $row in zip(*$out)]",
            "$out = [list($row) for $row in G]\nfor $j in range(len(G[0])):\n    for $i, $x in enumerate(sorted($row[$j] for $row in G)):\n        $out[$i][$j] = $x\nreturn $out",
        ),
    ),
)


def rebuilt(rng: Random) -> Draft:
    """A matrix is turned, mirrored, read in another order, or changed cell by cell, perhaps in two steps."""
    scene = ExerciseScene(rng)
    if rng.random() < 0.55:
        g = _grid(scene)
        tag, said, bodies_ = rng.choice(REBUILDS)
        bodies = [body.replace("G", g) for body in bodies_]
        rng.shuffle(bodies)
        text = say(rng, said).replace("G", g)
        flat = tag in ("snake", "spiral", "by_columns")
        if not flat and rng.random() < 0.5:
            change = int_change(scene)
            if change.type == "int" and "sum(" not in change.code:
                phrase = (change.each or change.phrase).replace("@", "x")
                text = f"{text.rstrip(',')}, after every number x was replaced by {phrase}"
                fresh = f"$fresh = [[{change.code.replace('$x', '$value')} for $value in $line] for $line in {g}]\n"
                bodies = [fresh + body.replace(g, "$fresh") for body in bodies]
        return Draft(
            "matrix rebuilt",
            (tag, f"{tag}_matrix", f"{tag}_grid", f"matrix_{tag}"),
            scene.finish(),
            "list[int]" if flat else "list[list[int]]",
            Goal("get", text, ("Return", "Return", "Get", "Give")),
            bodies[0],
            (),
            bodies[1],
            pools={"x": ("x", "value", "cell", "v"), "k": ("k", "y", "row_index"), "fresh": ("fresh", "changed", "prepared", "new_rows")},
        )
    g = _grid(scene, True)
    place, where, tag, _ = rng.choice(PLACES)
    place = place.replace("G", g)
    change = int_change(scene)
    if change.type != "int":
        return rebuilt(rng)
    phrase = (change.each or change.phrase).replace("@", "the number itself")
    text = f"{{a copy of|a matrix like}} {g} in which each number {where.replace('their', 'its').replace('that are', 'that is').replace('index have', 'index have')} is replaced by {phrase}"
    code = change.code
    bodies = [
        f"return [\n    [{code} if {place} else $x for $j, $x in enumerate($row)]\n    for $i, $row in enumerate({g})\n]",
        f"$out = [list($row) for $row in {g}]\nfor $i in range(len({g})):\n    for $j in range(len({g}[0])):\n        if {place}:\n            $x = $out[$i][$j]\n            $out[$i][$j] = {code}\nreturn $out",
        f"$out = []\nfor $i, $row in enumerate({g}):\n    $part = []\n    for $j, $x in enumerate($row):\n        $part.append({code} if {place} else $x)\n    $out.append($part)\nreturn $out",
    ]
    if len(bodies[0].split("\n")[1]) < 60:
        bodies[0] = f"return [[{code} if {place} else $x for $j, $x in enumerate($row)] for $i, $row in enumerate({g})]"
    rng.shuffle(bodies)
    return Draft(
        "matrix rebuilt",
        (f"change_{tag}", f"{change.tag}_on_{tag}", f"replace_{tag}", f"update_{tag}"),
        scene.finish(),
        "list[list[int]]",
        Goal("get", say(rng, text), ("Return", "Build", "Make")),
        bodies[0],
        (),
        bodies[1],
        pools={"x": ("value", "cell", "v"), "i": ("i", "r", "y"), "j": ("j", "c", "col")},
    )


def _nest(rng: Random, leaf: object, depth: int) -> object:
    assert callable(leaf)
    return [leaf(rng) if depth == 0 or rng.random() < 0.55 else _nest(rng, leaf, depth - 1) for _ in range(rng.randint(0, 3))]


def nested(rng: Random) -> Draft:
    """Lists nested to any depth are searched, measured or rebuilt by recursion or with a stack."""
    scene = ExerciseScene(rng)
    strings = rng.random() < 0.3
    leaf = (lambda r: word(r)) if strings else number(-6, 20)
    noun, type_ = ("string", "str") if strings else ("number", "int")
    nouns = noun + "s"
    xs = scene.add(
        Param(
            "xs",
            ("nested", "data", "items", "tree", "values", "lst", "node", "structure"),
            "list[Any]",
            f"a list of {nouns} and further such lists",
            scene.rng.choice(("the list", "the nested list")),
            f"a list of {nouns} and further such lists, nested to any depth",
            lambda r: _nest(r, leaf, 3),
        )
    )
    test = None if rng.random() < 0.3 else (str_test(scene) if strings else int_test(scene))
    that = f" that {test.verb}" if test else ""
    one = f" that {singular(test.verb)}" if test else ""
    extra = "".join(f", ${p.role}" for p in scene.params[1:])
    kind = f"isinstance($x, {rng.choice(('list', 'list', type_))})"
    is_list = kind if "list" in kind else f"not {kind}"
    measure = rng.choice(
        ("sum", "count", "flat", "flat", "depth", "best", "map", "any", "at_depth", "prune")
        if not strings
        else ("count", "flat", "flat", "depth", "best", "any", "join", "at_depth", "prune")
    )
    deep = rng.choice(
        (
            f"{{anywhere in|at any depth of}} {xs}",
            f"in {xs}, at any depth",
            f"in {xs} and the lists within it",
        )
    )
    call = f"$self_($x{extra})"
    tested = test.code if test else ""
    if measure == "sum" and strings:
        measure = "count"
    notes: tuple[str, ...] = ()
    names: tuple[str, ...]
    flatten = f"$stack = [{xs}]\n$out = []\nwhile $stack:\n    $x = $stack.pop()\n    if {is_list}:\n        $stack.extend(reversed($x))\n"
    gather = flatten + (f"    elif {tested}:\n        $out.append($x)\n" if test else "    else:\n        $out.append($x)\n")
    recursive_if = f"    if {is_list}:\n        "
    other = f"    elif {tested}:\n        " if test else "    else:\n        "
    if measure == "sum":
        goal = Goal("get", f"the sum of all numbers{that} {deep}")
        bodies = [
            f"$total = 0\nfor $x in {xs}:\n{recursive_if}$total += {call}\n{other}$total += $x\nreturn $total",
            f"{gather}return sum($out)",
        ]
        returns, names = "int", ("deep_sum", "nested_sum", "sum_all", "sum_nested", "total")
    elif measure == "count":
        goal = Goal("do", f"Count the {nouns}{that} {deep}")
        bodies = [
            f"$count = 0\nfor $x in {xs}:\n{recursive_if}$count += {call}\n{other}$count += 1\nreturn $count",
            f"{gather}return len($out)",
        ]
        if not test:
            bodies.append(f"return sum({call} if {is_list} else 1 for $x in {xs})")
        returns, names = "int", ("count_leaves", "deep_count", "count_nested", f"count_{nouns}")
    elif measure in ("flat", "join"):
        goal = Goal(
            "get",
            f"a flat list of all {nouns}{that} {deep}, from left to right",
            ("Return", "Build", "Make", "Collect into"),
        )
        if measure == "join":
            goal = Goal("get", f"all strings{that} {deep}, joined by blanks from left to right", ("Return",))
        end = 'return " ".join($out)' if measure == "join" else "return $out"
        bodies = [
            f"$out = []\nfor $x in {xs}:\n{recursive_if}$out.extend({call})\n{other}$out.append($x)\nreturn $out",
            f"{gather}{end}",
            f"$out = []\n\ndef $step($part):\n    for $x in $part:\n        if {is_list}:\n            $step($x)\n"
            + (f"        elif {tested}:\n" if test else "        else:\n")
            + f"            $out.append($x)\n\n$step({xs})\n{end}",
        ]
        if measure == "join":
            bodies = bodies[1:]
        returns = "str" if measure == "join" else f"list[{type_}]"
        names = ("flatten", "flatten_deep", "leaves", f"all_{nouns}", "collect_leaves") if measure == "flat" else ("join_nested", "deep_join", "join_all")
        goal = Goal(
            "get",
            goal.text,
            ("Return", "Build", "Make") if measure == "flat" else ("Return", "Build"),
        )
    elif measure == "depth":
        goal = Goal(
            "get",
            f"how deeply {xs} is nested: 1 for a list without lists in it, one more for each further level",
        )
        scene.params = scene.params[:1]
        bodies = [
            f"$best = 0\nfor $x in {xs}:\n    if {is_list}:\n        $best = max($best, $self_($x))\nreturn $best + 1",
            f"return 1 + max(($self_($x) for $x in {xs} if {is_list}), default=0)",
        ]
        goal = Goal(
            "do",
            f"{{Return|Compute}} the depth of {xs}: 1 for a list without lists in it, and one more for each further level",
        )
        returns, names = "int", ("depth", "nesting_depth", "max_depth", "levels")
    elif measure == "best":
        if strings:
            goal = Goal("get", f"the longest string{one} {deep}")
            notes = (
                say(
                    rng,
                    "{The first one wins a tie|If several are equally long, take the first}. {Return None if there is none|If there is none, return None}.",
                ),
            )
            bodies = [
                f"{gather}return max($out, key=len, default=None)",
                f"$best = None\nfor $x in {xs}:\n    if {is_list}:\n        $x = {call}\n        if $x is None:\n            continue\n"
                + (f"    elif {negation(tested)}:\n        continue\n" if test else "")
                + "    if $best is None or len($x) > len($best):\n        $best = $x\nreturn $best",
            ]
            returns, names = (
                "str | None",
                ("longest_leaf", "deep_longest", "longest_string", "find_longest"),
            )
        else:
            up = rng.random() < 0.5
            name, sign, word_ = ("max", ">", "largest") if up else ("min", "<", "smallest")
            goal = Goal("get", f"the {word_} number{one} {deep}")
            notes = (say(rng, "{Return None if there is none|If there is none, return None}."),)
            bodies = [
                f"{gather}return {name}($out, default=None)",
                f"$best = None\nfor $x in {xs}:\n    if {is_list}:\n        $x = {call}\n        if $x is None:\n            continue\n"
                + (f"    elif {negation(tested)}:\n        continue\n" if test else "")
                + f"    if $best is None or $x {sign} $best:\n        $best = $x\nreturn $best",
            ]
            returns, names = "int | None", (f"deep_{name}", f"{word_}_leaf", f"nested_{name}")
    elif measure == "map":
        change = int_change(scene)
        extra = "".join(f", ${p.role}" for p in scene.params[1:])
        call = f"$self_($x{extra})"
        phrase = (change.each or change.phrase).replace("@", "the number itself")
        goal = Goal(
            "get",
            f"a copy of {xs} with the same nesting in which every number{that.replace(' that ', ' that ') if not test else ' that ' + singular(test.verb)} is replaced by {phrase}",
            ("Return", "Build", "Make"),
        )
        put = f"{change.code} if {tested} else $x" if test else change.code
        bodies = [
            f"$out = []\nfor $x in {xs}:\n{recursive_if}$out.append({call})\n    else:\n        $out.append({put})\nreturn $out",
            f"return [{call} if {is_list} else {f'({put})' if test else put} for $x in {xs}]",
        ]
        returns, names = (
            "list[Any]",
            ("deep_map", "map_nested", f"{change.tag}_nested", "change_leaves"),
        )
    elif measure == "prune":
        if not test:
            return nested(rng)
        goal = Goal(
            "get",
            f"a copy of {xs} with the same nesting, but without the {nouns} {that[1:]}",
            ("Return", "Build", "Make"),
        )
        bodies = [
            f"$out = []\nfor $x in {xs}:\n{recursive_if}$out.append({call})\n    elif {negation(tested)}:\n        $out.append($x)\nreturn $out",
            f"return [{call} if {is_list} else $x for $x in {xs} if {is_list} or {f'({negation(tested)})' if ' and ' in tested or ' or ' in tested else negation(tested)}]",
        ]
        returns, names = (
            "list[Any]",
            ("prune", "deep_filter", "remove_nested", f"without_{test.tag}"),
        )
    elif measure == "any":
        if not test:
            return nested(rng)
        goal = Goal("whether", f"some {noun} {deep} {singular(test.verb)}")
        bodies = [
            f"for $x in {xs}:\n    if {is_list}:\n        if {call}:\n            return True\n    elif {tested}:\n        return True\nreturn False",
            f"return any({call} if {is_list} else {tested} for $x in {xs})" if " if " not in tested else f"{gather}return bool($out)",
            f"{gather}return len($out) > 0",
        ]
        returns, names = "bool", ("deep_any", "contains_deep", f"has_{test.tag}", "any_nested")
    else:
        n = scene.add(
            Param(
                "m",
                ("depth", "level", "d"),
                "int",
                "a depth",
                None,
                "the depth, 1 for the list itself",
                number(1, 3),
            )
        )
        scene.params = [p for p in scene.params if p.role in ("xs", "m")]
        goal = Goal(
            "get",
            f"all {nouns} at depth {n} of {xs}, from left to right; those that stand in {xs} itself have depth 1",
            ("Return", "List", "Collect"),
        )
        bodies = [
            f"$out = []\nfor $x in {xs}:\n    if {is_list}:\n        if {n} > 1:\n            $out += $self_($x, {n} - 1)\n    elif {n} == 1:\n        $out.append($x)\nreturn $out",
            f"$current = {xs}\nfor _ in range({n} - 1):\n    $current = [$y for $x in $current if {is_list} for $y in $x]\nreturn [$x for $x in $current if {negation(is_list)}]",
        ]
        returns, names = f"list[{type_}]", ("leaves_at_depth", "at_depth", "values_at_level")
    if "$self_" in bodies[-1] and rng.random() < 0.5:
        bodies.reverse()
    else:
        rng.shuffle(bodies)
    return Draft(
        "nested lists",
        names,
        scene.finish(),
        returns,
        Goal(goal.kind, say(rng, goal.text), goal.verbs),
        bodies[0],
        notes,
        bodies[1],
        pools={
            "x": ("item", "x", "element", "entry", "child"),
            "y": ("inner", "y", "sub"),
            "part": ("part", "items_", "level", "branch"),
            "stack": ("stack", "todo", "pending"),
        },
    )


__all__ = ["cells", "lines", "nested", "one_of", "rebuilt"]
