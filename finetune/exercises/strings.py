"""Strings taken apart and put together: words, characters, ciphers and run-length encodings."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from talaria.finetune.exercises.core import Draft, Goal, Param, Values, number, one_of, say, sentence, text
from talaria.finetune.exercises.streams import CHAR_TESTS, LETTERS, TEXT_NAMES, ExerciseScene, singular, str_test

WORD_CHANGES = (
    ("$w[::-1]", "reversed", "reverse", "reversed"),
    ("$w.upper()", "in upper case", "put in upper case", "uppercase"),
    ("$w.lower()", "in lower case", "put in lower case", "lowercase"),
    ("$w.capitalize()", "with a capital first letter and the rest in lower case", "capitalise", "capitalize"),
    ("$w.swapcase()", "with upper and lower case swapped", "swap the case of", "swapcase"),
    (
        "$w[0] + str(len($w) - 2) + $w[-1] if len($w) > 2 else $w",
        "shortened to its first letter, the number of letters between and its last letter (if it has more than two letters)",
        "abbreviate",
        "abbreviate",
    ),
    ("$w[1:] + $w[:1]", "with the first letter moved to the end", "move the first letter to the end of", "rotate"),
    ("$w[-1:] + $w[:-1]", "with the last letter moved to the front", "move the last letter to the front of", "rotate"),
    ('$w[1:] + $w[:1] + "ay"', 'with the first letter moved to the end and "ay" added', "disguise", "disguise"),
    ("$w * 2", "written twice in a row", "double", "double"),
    ("$w[:1]", "cut down to its first letter", "cut down", "shorten"),
    ('"".join(sorted($w))', "with its letters sorted", "sort the letters of", "sort_letters"),
    ("$w[:K]", "cut to its first K letters", "cut", "truncate"),
    ('"*" * len($w)', "replaced by as many asterisks as it has letters", "mask", "mask"),
    ('$w[:1] + "*" * (len($w) - 1)', "with every letter but the first replaced by an asterisk", "censor", "censor"),
    ("str(len($w))", "replaced by its length", "replace by its length", "lengths"),
    ("$w[:-1]", "without its last letter", "shorten", "shorten"),
    ('f"<{$w}>"', "between angle brackets", "wrap", "wrap"),
    ('f"{$w}!"', "followed by an exclamation mark", "shout", "shout"),
    ('f"{len($w)}{$w}"', "with its length in front", "number", "prefix_length"),
    ("$w[0].lower() + $w[1:].upper()", "with its first letter in lower case and the others in upper case", "invert", "invert_case"),
    ('$w.replace("a", "4").replace("e", "3").replace("o", "0")', 'with "a", "e" and "o" replaced by 4, 3 and 0', "encode", "leet"),
    ('"".join($c for $c in $w if $c.lower() not in "aeiou")', "without its vowels", "strip", "drop_vowels"),
    ("$w[len($w) // 2 :] + $w[: len($w) // 2]", "with its halves swapped (the first one is the shorter if the length is odd)", "swap", "swap_halves"),
)

POSITIONS = (
    ("$i % 2 == 0", "every second word, beginning with the first,", "every_second"),
    ("$i % 2 == 1", "every second word, beginning with the second,", "every_second"),
    ("$i % 3 == 2", "every third word", "every_third"),
    ("$i == 0", "the first word", "first"),
    ("$i > 0", "every word but the first", "later"),
    ("$i == len($words) - 1", "the last word", "last"),
    ("$i < len($words) - 1", "every word but the last", "earlier"),
)


def _string(scene: ExerciseScene, values: Values, about: str, a: str = "a string") -> str:
    return scene.add(Param("s", TEXT_NAMES, "str", a, scene.rng.choice(("the string", "the text")), about, values))


def words_changed(rng: Random) -> Draft:
    """Some words of a sentence are changed, the others stay."""
    scene = ExerciseScene(rng)
    s = _string(
        scene,
        sentence(1, 5),
        "the words, separated by blanks",
        rng.choice(("a sentence", "a string of words", "a string")),
    )
    code, said, _, tag = rng.choice(WORD_CHANGES)
    if "K" in code:
        n = scene.amount(1, 3, "the length", 0.3)
        code, said = code.replace("K", n), said.replace("K", n)
    roll = rng.random()
    w = code
    if roll < 0.35:
        test, which, name = rng.choice(POSITIONS)
        head = (
            f"for $i, $w in enumerate($words):\n    $out.append({w} if {test} else $w)"
            if " if " not in w
            else f"for $i, $w in enumerate($words):\n    if {test}:\n        $w = {w}\n    $out.append($w)"
        )
        tight = f"({w})" if " if " in w else w
        bodies = [
            f"$words = {s}.split()\n$out = []\n{head}\nreturn SEP.join($out)",
            f"$words = {s}.split()\nreturn SEP.join({tight} if {test} else $w for $i, $w in enumerate($words))",
        ]
        subject = which
    elif roll < 0.75:
        found = str_test(scene)
        test = found.code.replace("$x", "$w")
        verb = singular(found.verb)
        subject = f"every word that {verb}" if rng.random() < 0.7 else f"each word that {verb}"
        subject += ","
        name = found.tag
        tight = f"({w})" if " if " in w else w
        bodies = [
            f"return SEP.join({tight} if {test} else $w for $w in {s}.split())",
            f"$out = []\nfor $w in {s}.split():\n    if {test}:\n        $w = {w}\n    $out.append($w)\nreturn SEP.join($out)",
            f"$out = []\nfor $w in {s}.split():\n    if {test}:\n        $out.append({w})\n    else:\n        $out.append($w)\nreturn SEP.join($out)",
        ]
    else:
        subject, name = rng.choice(("every word", "each word")), ""
        bodies = [
            f"return SEP.join({w} for $w in {s}.split())",
            f"$out = []\nfor $w in {s}.split():\n    $out.append({w})\nreturn SEP.join($out)",
            f"return SEP.join([{w} for $w in {s}.split()])",
        ]
        if "$c" not in w and rng.random() < 0.3:
            bodies.append(f"$words = {s}.split()\nfor $i, $w in enumerate($words):\n    $words[$i] = {w}\nreturn SEP.join($words)")
    sep, between = rng.choice(
        (
            ('" "', "blanks"),
            ('" "', "blanks"),
            ('" "', "single blanks"),
            ('"-"', "hyphens"),
            ('"_"', "underscores"),
            ('", "', "commas and blanks"),
        )
    )
    back = roll >= 0.35 and rng.random() < 0.12
    if back:
        bodies = [b.replace(f"{s}.split()", f"{s}.split()[::-1]") for b in bodies]
    bodies = [b.replace("SEP", sep) for b in bodies]
    goal = Goal(
        "get",
        f"{{the words|all words}} of {s}{' in reverse order' if back else ''}, {subject} {said}, {{joined|separated}} by {between}",
    )
    if rng.random() < 0.5 and not back:
        goal = Goal(
            "get",
            f"{s} with {subject} {said}{{; the words are joined by {between}|, the words being joined by {between}}}",
        )
    rng.shuffle(bodies)
    names = (f"{tag}_words", f"{tag}_{name}_words", f"{tag}_{name}", f"{tag}_in_text")
    return Draft(
        "words",
        tuple(n.replace("__", "_").strip("_") for n in names),
        scene.finish(),
        "str",
        Goal("get", say(rng, goal.text)),
        bodies[0],
        (),
        bodies[1],
        pools={"w": ("word", "w", "part", "token"), "out": ("out", "result", "words_out", "parts", "changed")},
    )


@dataclass(frozen=True)
class CharRule:
    """What becomes of the characters that meet a condition."""

    code: str
    said: str


CHAR_RULES = (
    CharRule("$c.upper()", "put in upper case"),
    CharRule("$c.lower()", "put in lower case"),
    CharRule("$c.swapcase()", "put in the other case"),
    CharRule("$c * 2", "doubled"),
    CharRule("$c * 3", "written three times"),
    CharRule('"*"', "replaced by asterisks"),
    CharRule('"-"', "replaced by hyphens"),
    CharRule('"#"', 'replaced by "#"'),
    CharRule('""', "left out"),
    CharRule('"_"', "replaced by underscores"),
    CharRule('f"[{$c}]"', "each put between square brackets"),
    CharRule('f"{$c}."', "each followed by a full stop"),
    CharRule("chr(ord($c) + 1)", "replaced by the characters with the next code points"),
    CharRule('"?"', "replaced by question marks"),
    CharRule('$c + "-"', "each followed by a hyphen"),
    CharRule("str(ord($c) % 10)", "replaced by the last digits of their code points"),
)


def chars_changed(rng: Random) -> Draft:
    """Characters are changed by one or two rules."""
    scene = ExerciseScene(rng)
    s = _string(scene, mixed_text, say(rng, "the {text|string} to {change|rewrite|convert}"))
    count = rng.choice((1, 1, 2))
    tests = rng.sample(CHAR_TESTS, count)
    rules = rng.sample(CHAR_RULES, count + 1)
    codes = [t.code.replace("$x", "$c") for t in tests]
    last = rules[-1].code if rng.random() < 0.3 else "$c"
    said = []
    for test, rule in zip(tests, rules, strict=False):
        which = test.verb.removeprefix("are ")
        plain = {
            "not blanks": "characters that are not blanks",
            "vowels, in either case": "vowels (in either case)",
            "neither letters nor digits": "characters that are neither letters nor digits",
        }.get(which, which)
        said.append(f"all {plain} {rule.said}")
    notes: tuple[str, ...] = ()
    if last != "$c":
        said.append(f"{'everything else' if rng.random() < 0.5 else 'all other characters'} {rules[-1].said}")
    elif rng.random() < 0.4:
        notes = (
            say(
                rng,
                "{All other characters stay as they are|Everything else stays the same|Other characters are kept}.",
            ),
        )
    if count == 2:
        notes = ("If a character falls under both rules, the first one counts.", *notes)
    goal = Goal("get", f"{s} with {', '.join(said[:-1])}{' and ' if len(said) > 1 else ''}{said[-1]}")
    chain = "\n".join(
        f"    {'if' if n == 0 else 'elif'} {code}:\n        $out.append({rule.code})" for n, (code, rule) in enumerate(zip(codes, rules, strict=False))
    )
    ends = f"    else:\n        $out.append({last})"
    bodies = [f'$out = []\nfor $c in {s}:\n{chain}\n{ends}\nreturn "".join($out)']
    bodies.append(bodies[0].replace("$out = []", '$text = ""').replace("$out.append(", "$text += (").replace('"".join($out)', "$text"))
    bodies[1] = "\n".join(line.replace("$text += (", "$text += ")[:-1] if "$text += (" in line else line for line in bodies[1].split("\n"))
    if count == 1:
        bodies.append(f'return "".join({rules[0].code} if {codes[0]} else {last} for $c in {s})')
        if rules[0].code == '""' and last == "$c":
            bodies.append(f'return "".join($c for $c in {s} if not ({codes[0]}))')
    else:
        inner = "\n".join(f"    if {code}:\n        return {rule.code}" for code, rule in zip(codes, rules, strict=False))
        bodies.append(f'def $convert($c):\n{inner}\n    return {last}\n\nreturn "".join($convert($c) for $c in {s})')
        bodies.append(f'def $convert($c):\n{inner}\n    return {last}\n\nreturn "".join(map($convert, {s}))')
    rng.shuffle(bodies)
    base = tests[0].tag
    return Draft(
        "characters",
        (f"change_{base}", f"replace_{base}", f"convert_{base}", f"mark_{base}", "rewrite", "transform_text", f"treat_{base}"),
        scene.finish(),
        "str",
        goal,
        bodies[0],
        notes,
        bodies[1],
        pools={"c": ("char", "c", "ch", "character", "letter"), "text": ("result", "out", "changed", "rewritten")},
    )


def mixed_text(rng: Random) -> object:
    """Draws text with letters of both cases, digits, blanks and signs."""
    if rng.random() < 0.05:
        return ""
    return "".join(rng.choices("aabcdeeimnorstuxyzABEKRTZ0123579  .,!-", k=rng.randint(2, 12)))


def shifts(rng: Random) -> Draft:
    """Ciphers that move letters along an alphabet, with their variants."""
    scene = ExerciseScene(rng)
    s = _string(scene, mixed_text, say(rng, "the {text|string|message} to {encode|encrypt|shift}"))
    back = rng.random() < 0.4
    digits = rng.random() < 0.35
    which = rng.choice(("both", "lower", "upper", "both"))
    by_place = rng.random() < 0.25
    n = scene.amount(1, 9, "the number to add", 0.6)
    sign = "-" if back else "+"
    move = "$i" if by_place else n
    cases = {"both": ("a", "A"), "lower": ("a",), "upper": ("A",)}[which]
    conditions = {"a": '"a" <= $c <= "z"', "A": '"A" <= $c <= "Z"'}
    lines = []
    for first in cases:
        lines.append(
            (
                conditions[first],
                f'chr((ord($c) - ord("{first}") {sign} {move}) % 26 + ord("{first}"))',
            )
        )
    if digits:
        lines.append(('"0" <= $c <= "9"', f"str((int($c) {sign} {move}) % 10)"))
    loop = f"for $i, $c in enumerate({s}):" if by_place else f"for $c in {s}:"
    chain = "\n".join(f"    {'if' if i == 0 else 'elif'} {test}:\n        $out.append({code})" for i, (test, code) in enumerate(lines))
    body = f'$out = []\n{loop}\n{chain}\n    else:\n        $out.append($c)\nreturn "".join($out)'
    inner = "\n".join(f"    if {test}:\n        return {code}" for test, code in lines)
    if by_place:
        helper = f'def $convert($i, $c):\n{inner}\n    return $c\n\nreturn "".join($convert($i, $c) for $i, $c in enumerate({s}))'
    else:
        helper = f'def $convert($c):\n{inner}\n    return $c\n\nreturn "".join(map($convert, {s}))'
    kind = {
        "both": "every letter",
        "lower": "every lower-case letter",
        "upper": "every upper-case letter",
    }[which]
    amount = "as many places as its index in the string says" if by_place else f"{n} {'place' if n == '1' else 'places'}"
    goal = Goal(
        "do",
        f"{{Shift|Move}} {kind} of {s} by {amount} {'back' if back else 'forward'} in the alphabet and return the result",
    )
    notes = [
        say(
            rng,
            f"{{After {'a comes z' if back else 'z comes a'}|The alphabet wraps around}}{{| at its {'beginning' if back else 'end'}}}.",
        )
    ]
    notes[0] = notes[0].replace("comes z at its beginning", "comes z again").replace("comes a at its end", "comes a again")
    if digits:
        notes.append(f"Digits are {{shifted|moved}} {'back' if back else 'forward'} likewise among the ten digits.")
    notes.append("{All other|Other} characters {stay the same|are left as they are|are kept}.")
    bodies = [body, helper]
    if not by_place and not digits and which == "lower":
        moved = f"$left[-{n} % 26 :] + $left[: -{n} % 26]" if back else f"$left[{n} % 26 :] + $left[: {n} % 26]"
        bodies.append(f'$left = "abcdefghijklmnopqrstuvwxyz"\nreturn {s}.translate(str.maketrans($left, {moved}))')
    rng.shuffle(bodies)
    return Draft(
        "ciphers",
        ("encode", "shift_letters", "caesar", "encrypt", "rotate_letters", "cipher", "decode", "shift_text", "decrypt", "scramble"),
        scene.finish(),
        "str",
        Goal("do", say(rng, goal.text)),
        bodies[0],
        tuple(say(rng, note) for note in notes),
        bodies[1],
        pools={"c": ("char", "c", "ch", "letter"), "left": ("alphabet", "letters", "abc"), "convert": ("shift", "move", "shifted", "convert", "rotate")},
        gives="the changed string",
    )


def run_lengths(rng: Random) -> Draft:
    """Run-length encodings in several formats, and back."""
    scene = ExerciseScene(rng)
    names: tuple[str, ...]
    alphabet = rng.choice(("aab", "aabbc", "xy", "01", "abcA", "..#"))
    if rng.random() < 0.6:
        s = _string(scene, text(alphabet, 0, 12), say(rng, "the string to {encode|compress}"))
        form = rng.choice(
            (
                ('f"{$n}{$c}"', 'its length followed by the character ("3a")', True),
                ('f"{$c}{$n}"', 'the character followed by its length ("a3")', True),
                ('$c if $n == 1 else f"{$n}{$c}"', 'its length followed by the character ("3a"), or the character alone if it stands once', True),
                ('$c if $n == 1 else f"{$c}{$n}"', 'the character followed by its length ("a3"), or the character alone if it stands once', True),
                ('f"{$c}*{$n}"', 'the character, an asterisk and its length ("a*3")', True),
                ("($c, $n)", "a tuple of the character and its length", False),
                ("($n, $c)", "a tuple of its length and the character", False),
                ("[$c, $n]", "a list of the character and its length", False),
                ("$c", "a single character", True),
                ("$c * min($n, K)", "at most K of its characters", True),
                ("$c.upper() if $n > 1 else $c", "the character once, in upper case if it stood more than once", True),
                ('f"({$c}x{$n})"', 'the character and its length in the form "(ax3)"', True),
            )
        )
        item, said, joined = form
        if "K" in item:
            k = scene.amount(1, 3, "the limit", 0.5)
            item, said = item.replace("K", k), said.replace("K", k)
        sep = rng.choice(('""', '""', '","', '" "')) if joined and "for" not in item else '""'
        if "min" in item or item == "$c" or "upper" in item:
            sep = '""'
        between = {'""': "", '","': ", separated by commas", '" "': ", separated by blanks"}[sep]
        nothing = '""' if joined else "[]"
        end = f"return {sep}.join($out)" if joined else "return $out"
        small = item.replace("$n", "len(list($run))") if item.count("$n") == 1 else ""
        bodies = [
            f"$out = []\n$i = 0\nwhile $i < len({s}):\n    $c = {s}[$i]\n    $j = $i\n    while $j < len({s}) and {s}[$j] == $c:\n        $j += 1\n"
            f"    $n = $j - $i\n    $out.append({item})\n    $i = $j\n{end}",
            f"$out = []\nfor $c, $run in $groupby({s}):\n    $n = len(list($run))\n    $out.append({item})\n{end}",
            f"if not {s}:\n    return {nothing}\n$out = []\n$c, $n = {s}[0], 1\nfor $x in {s}[1:]:\n    if $x == $c:\n        $n += 1\n    else:\n"
            f"        $out.append({item})\n        $c, $n = $x, 1\n$out.append({item})\n{end}",
        ]
        if small and joined and "if" not in small:
            bodies.append(f"return {sep}.join({small} for $c, $run in $groupby({s}))")
        elif not joined and "len" in small:
            bodies.append(f"return [{small} for $c, $run in $groupby({s})]")
        goal = Goal(
            "do",
            f"{{Replace each run of equal characters in {s} by {said}{between}, and return the result|Encode {s}: each run of equal characters becomes {said}{between}}}",
        )
        if not joined:
            goal = Goal(
                "get",
                f"a list with {said} for each run of equal characters in {s}",
                ("Return", "Build", "Make"),
            )
        returns = "str" if joined else ("list[list[Any]]" if item[0] == "[" else "list[tuple[str, int]]" if item == "($c, $n)" else "list[tuple[int, str]]")
        notes: tuple[str, ...] = (
            say(
                rng,
                f"{{An empty string gives {'an empty string' if joined else 'an empty list'}|The result is empty if the string is}}.",
            ),
        )
        names = (
            "encode",
            "run_length_encode",
            "compress",
            "encode_runs",
            "rle",
            "squeeze",
            "shorten_runs",
            "collapse",
        )
    else:
        order = rng.random() < 0.5
        count_first = order

        def encoded(rng: Random) -> object:
            parts = []
            for _ in range(rng.randint(0, 4)):
                c, n = rng.choice("abcxyz"), rng.choice((1, 2, 3, 4, 12))
                parts.append(f"{n}{c}" if count_first else f"{c}{n}")
            return "".join(parts)

        s = _string(scene, encoded, "the encoded string")
        if order:
            goal = Goal(
                "do",
                f"{{Decode|Expand}} {s}, in which each character is preceded by the number of times it occurs, and return the result",
            )
            bodies = [
                f'$out = ""\n$n = 0\nfor $c in {s}:\n    if $c.isdigit():\n        $n = 10 * $n + int($c)\n    else:\n        $out += $c * $n\n        $n = 0\nreturn $out',
                f'return "".join($c * int($n) for $n, $c in $re.findall(r"(\\d+)(\\D)", {s}))',
                f'$out = []\n$digits = ""\nfor $c in {s}:\n    if $c.isdigit():\n        $digits += $c\n    else:\n        $out.append(int($digits) * $c)\n        $digits = ""\nreturn "".join($out)',
            ]
            notes = (
                say(
                    rng,
                    "{Numbers may have|A number may have} several digits{|, and every character has one}.",
                ),
                'For instance "2a1b" stands for "aab".',
            )
        else:
            goal = Goal(
                "do",
                f"{{Decode|Expand}} {s}, in which each character is followed by the number of times it occurs, and return the result",
            )
            bodies = [
                f'return "".join($c * int($n) for $c, $n in $re.findall(r"(\\D)(\\d+)", {s}))',
                f"$out = []\n$i = 0\nwhile $i < len({s}):\n    $c = {s}[$i]\n    $j = $i + 1\n    while $j < len({s}) and {s}[$j].isdigit():\n        $j += 1\n"
                f'    $out.append($c * int({s}[$i + 1 : $j]))\n    $i = $j\nreturn "".join($out)',
            ]
            notes = (
                say(rng, "{Numbers may have|A number may have} several digits."),
                'For instance "a2b1" stands for "aab".',
            )
        returns, names = (
            "str",
            ("decode", "run_length_decode", "decompress", "expand", "decode_runs", "unpack_runs"),
        )
    rng.shuffle(bodies)
    return Draft(
        "run-length",
        names,
        scene.finish(),
        returns,
        Goal(goal.kind, say(rng, goal.text), goal.verbs),
        bodies[0],
        notes,
        bodies[1],
        pools={
            "c": ("char", "c", "ch", "symbol"),
            "n": ("count", "n", "length", "times"),
            "run": ("run", "group", "same"),
            "x": ("following", "nxt", "other", "ch2"),
            "digits": ("digits_", "number", "digit_text"),
        },
        gives="the decoded string" if "ecode" in goal.text or "xpand" in goal.text else "the encoded string",
    )


def two_strings(rng: Random) -> Draft:
    """Two strings are compared or woven together."""
    scene = ExerciseScene(rng)
    pair = rng.choice(
        (
            ("a", "b"),
            ("first", "second"),
            ("s", "t"),
            ("left", "right"),
            ("word1", "word2"),
            ("text1", "text2"),
            ("one", "other"),
            ("s1", "s2"),
        )
    )

    def both(rng: Random) -> tuple[object, ...]:
        a = "".join(rng.choices(LETTERS, k=rng.randint(0, 7)))
        b = a[rng.randint(0, 2) :] + "".join(rng.choices(LETTERS, k=rng.randint(0, 3))) if rng.random() < 0.6 else text(LETTERS, 0, 7)(rng)
        if rng.random() < 0.15:
            b = "".join(rng.sample(a, len(a)))
        rest: list[object] = [p.values(rng) for p in scene.params[2:]]
        return (a, b, *rest)

    a = scene.add(Param("a_", (pair[0],), "str", "a string", None, "the first string", number(0, 1)))
    b = scene.add(Param("b_", (pair[1],), "str", "a string", None, "the second string", number(0, 1)))
    fold = rng.random() < 0.2
    pre = f"{a}, {b} = {a}.lower(), {b}.lower()\n" if fold else ""
    ignoring = ", ignoring case" if fold else ""
    same = f"$x == $y for $x, $y in zip({a}, {b})"
    options: list[tuple[Goal, str, tuple[str, ...], list[str]]] = [
        (
            Goal("get", f"the number of positions at which {a} and {b} have the same character{ignoring}"),
            "int",
            ("count_matches", "same_positions", "agreement"),
            [
                f"return sum({same})",
                f"$count = 0\nfor $x, $y in zip({a}, {b}):\n    if $x == $y:\n        $count += 1\nreturn $count",
                f"$count = 0\nfor $i in range(min(len({a}), len({b}))):\n    if {a}[$i] == {b}[$i]:\n        $count += 1\nreturn $count",
            ],
        ),
        (
            Goal("get", f"the number of positions at which {a} and {b} differ{ignoring}; positions that only the longer one has count as different"),
            "int",
            ("difference", "count_differences", "distance"),
            [
                f"$n = sum($x != $y for $x, $y in zip({a}, {b}))\nreturn $n + abs(len({a}) - len({b}))",
                f"return sum($x != $y for $x, $y in $zip_longest({a}, {b}))",
            ],
        ),
        (
            Goal("get", f"the longest common {{beginning|prefix}} of {a} and {b}{ignoring}"),
            "str",
            ("common_prefix", "shared_prefix", "common_start"),
            [
                f"$i = 0\nwhile $i < len({a}) and $i < len({b}) and {a}[$i] == {b}[$i]:\n    $i += 1\nreturn {a}[:$i]",
                f'$out = ""\nfor $x, $y in zip({a}, {b}):\n    if $x != $y:\n        break\n    $out += $x\nreturn $out',
            ],
        ),
        (
            Goal("get", f"the longest common {{ending|suffix}} of {a} and {b}{ignoring}"),
            "str",
            ("common_suffix", "shared_suffix", "common_end"),
            [
                f"$n = 0\nwhile $n < min(len({a}), len({b})) and {a}[-1 - $n] == {b}[-1 - $n]:\n    $n += 1\nreturn {a}[len({a}) - $n :]",
                f'$out = ""\nfor $x, $y in zip(reversed({a}), reversed({b})):\n    if $x != $y:\n        break\n    $out = $x + $out\nreturn $out',
            ],
        ),
        (
            Goal("whether", f"{a} and {b} consist of the same characters{ignoring}, each occurring equally often"),
            "bool",
            ("are_anagrams", "same_letters", "is_rearrangement"),
            [
                f"return sorted({a}) == sorted({b})",
                f"return $Counter({a}) == $Counter({b})",
                f"if len({a}) != len({b}):\n    return False\nfor $x in set({a}):\n    if {a}.count($x) != {b}.count($x):\n        return False\nreturn True",
            ],
        ),
        (
            Goal("whether", f"{a} can be made from the characters of {b}{ignoring}, each used at most once"),
            "bool",
            ("can_build", "can_spell", "is_contained"),
            [
                f"return not $Counter({a}) - $Counter({b})",
                f"$rest = list({b})\nfor $x in {a}:\n    if $x not in $rest:\n        return False\n    $rest.remove($x)\nreturn True",
                f"return all({a}.count($x) <= {b}.count($x) for $x in set({a}))",
            ],
        ),
        (
            Goal(
                "get",
                f"the characters of {a} and {b} in turn, beginning with {a}{ignoring.replace('ignoring case', 'in lower case')}; what is left of the longer one stands at the end",
            ),
            "str",
            ("interleave", "weave", "merge_alternately"),
            [
                f'$out = []\nfor $i in range(max(len({a}), len({b}))):\n    if $i < len({a}):\n        $out.append({a}[$i])\n    if $i < len({b}):\n        $out.append({b}[$i])\nreturn "".join($out)',
                f'$out = "".join($x + $y for $x, $y in zip({a}, {b}))\n$n = min(len({a}), len({b}))\nreturn $out + {a}[$n:] + {b}[$n:]',
                f'return "".join($x + $y for $x, $y in $zip_longest({a}, {b}, fillvalue=""))',
            ],
        ),
        (
            Goal("get", f"the characters of {a} that also occur in {b}{ignoring}, in the order of {a}"),
            "str",
            ("common_characters", "shared_characters", "keep_common"),
            [f'return "".join($x for $x in {a} if $x in {b})', f'$out = ""\nfor $x in {a}:\n    if $x in {b}:\n        $out += $x\nreturn $out'],
        ),
        (
            Goal("get", f"{a} without the characters that occur in {b}{ignoring}"),
            "str",
            ("remove_characters", "strip_characters", "subtract"),
            [
                f'return "".join($x for $x in {a} if $x not in {b})',
                f'$out = []\nfor $x in {a}:\n    if $x not in {b}:\n        $out.append($x)\nreturn "".join($out)',
                f'for $x in {b}:\n    {a} = {a}.replace($x, "")\nreturn {a}',
            ],
        ),
        (
            Goal("whether", f"{a} is a subsequence of {b}{ignoring}, that is, its characters occur in {b} in the same order"),
            "bool",
            ("is_subsequence", "occurs_in_order", "is_hidden_in"),
            [
                f"$i = 0\nfor $x in {b}:\n    if $i < len({a}) and $x == {a}[$i]:\n        $i += 1\nreturn $i == len({a})",
                f"$rest = iter({b})\nreturn all($x in $rest for $x in {a})",
                f"$i = 0\nfor $x in {a}:\n    $i = {b}.find($x, $i) + 1\n    if $i == 0:\n        return False\nreturn True",
            ],
        ),
        (
            Goal("whether", f"{b} is a rotation of {a}{ignoring}, that is, {a} with some characters moved from the front to the end"),
            "bool",
            ("is_rotation", "is_rotated", "rotates_into"),
            [
                f"return len({a}) == len({b}) and {b} in {a} + {a}",
                f"if len({a}) != len({b}):\n    return False\nreturn {a} == {b} or any({a}[$i:] + {a}[:$i] == {b} for $i in range(len({a})))",
            ],
        ),
        (
            Goal("get", f"the number of {{times|places}} that {b} {{occurs in|begins in}} {a}{ignoring}, counting overlapping ones"),
            "int",
            ("count_overlapping", "count_occurrences", "occurrences"),
            [
                f"if not {b}:\n    return 0\nreturn sum({a}[$i : $i + len({b})] == {b} for $i in range(len({a})))",
                f"if not {b}:\n    return 0\n$count = 0\nfor $i in range(len({a})):\n    if {a}.startswith({b}, $i):\n        $count += 1\nreturn $count",
            ],
        ),
        (
            Goal("get", f"the first index at which {a} and {b} differ{ignoring}, or -1 if they are equal"),
            "int",
            ("first_difference", "where_they_differ", "first_mismatch"),
            [
                f"for $i, ($x, $y) in enumerate(zip({a}, {b})):\n    if $x != $y:\n        return $i\nreturn -1 if len({a}) == len({b}) else min(len({a}), len({b}))",
                f"if {a} == {b}:\n    return -1\n$i = 0\nwhile $i < min(len({a}), len({b})) and {a}[$i] == {b}[$i]:\n    $i += 1\nreturn $i",
            ],
        ),
        (
            Goal("get", f"the set of characters that occur in exactly one of {a} and {b}{ignoring}"),
            "set[str]",
            ("exclusive_characters", "unshared_letters", "symmetric_letters"),
            [f"return set({a}) ^ set({b})", f"return {{$x for $x in {a} + {b} if ($x in {a}) != ($x in {b})}}"],
        ),
        (
            Goal("get", f"the longest string that both {a} and {b} contain{ignoring}; the one that comes first in {a} wins a tie"),
            "str",
            ("longest_common_substring", "longest_shared_part", "common_part"),
            [
                f'$best = ""\nfor $i in range(len({a})):\n    for $j in range($i + 1, len({a}) + 1):\n        if $j - $i > len($best) and {a}[$i:$j] in {b}:\n            $best = {a}[$i:$j]\nreturn $best',
                f'for $n in range(min(len({a}), len({b})), 0, -1):\n    for $i in range(len({a}) - $n + 1):\n        if {a}[$i : $i + $n] in {b}:\n            return {a}[$i : $i + $n]\nreturn ""',
            ],
        ),
    ]
    goal, returns, names, bodies = rng.choice(options)
    bodies = [pre + body for body in bodies]
    rng.shuffle(bodies)
    return Draft(
        "two strings",
        names,
        scene.finish(),
        returns,
        Goal(goal.kind, say(rng, goal.text)),
        bodies[0],
        (),
        bodies[1],
        pools={"x": ("x", "c", "p", "char_a", "char"), "y": ("y", "d", "q", "char_b", "other"), "n": ("n", "length", "count", "size")},
        arguments=both,
    )


def chunks(rng: Random) -> Draft:
    """A string is cut into pieces which are changed and joined again."""
    scene = ExerciseScene(rng)
    s = _string(scene, text("abcdefgXYZ", 0, 12), say(rng, "the string to {cut|split}"))
    n = scene.amount(2, 4, "the length", 0.6)
    code, said, tag = rng.choice(
        (
            ("$part[::-1]", "reversed", "reverse"),
            ("$part.upper()", "in upper case", "uppercase"),
            ("$part.capitalize()", "with a capital first letter and the rest in lower case", "capitalize"),
            ("$part", "", "split"),
            ("$part[1:] + $part[:1]", "with its first character moved to its end", "rotate"),
            ("$part[:1]", "cut down to its first character", "first_of"),
            ("$part[-1]", "cut down to its last character", "last_of"),
            ('"".join(sorted($part))', "with its characters sorted", "sort"),
            ('f"({$part})"', "in parentheses", "wrap"),
            ("$part * 2", "written twice", "double"),
        )
    )
    sep, between = rng.choice((("-", "hyphens"), ("", ""), (" ", "blanks"), (",", "commas"), ("", "")))
    as_list = rng.random() < 0.3 or (not said and not sep)
    order = rng.random() < 0.2
    over = f"range(0, len({s}), {n})"
    piece = f"{s}[$i : $i + {n}]"
    direct = code.replace("$part", piece) if code.count("$part") == 1 else ""
    gathered = "$out[::-1]" if order else "$out"
    end = f"return {gathered}" if as_list else f'return "{sep}".join({gathered})'
    bodies = [
        f"$out = []\nfor $i in {over}:\n    $part = {piece}\n    $out.append({code})\n{end}",
        f"$out = []\n$rest = {s}\nwhile $rest:\n    $part, $rest = $rest[:{n}], $rest[{n}:]\n    $out.append({code})\n{end}",
    ]
    if direct and not order:
        bodies.append(f"return [{direct} for $i in {over}]" if as_list else f'return "{sep}".join({direct} for $i in {over})')
    if direct:
        bodies.append(f"$out = [{direct} for $i in {over}]\n{end}")
    result = "as a list" if as_list else ("joined again" if not sep else f"joined by {between}")
    goal = Goal(
        "do",
        f"{{Cut|Split}} {s} into pieces of {n} characters and return them{', each ' + said if said else ''}, {'in reverse order, ' if order else ''}{result}",
    )
    notes = (say(rng, "{The last piece may be shorter|The last one may have fewer characters}."),)
    rng.shuffle(bodies)
    return Draft(
        "chunks",
        (f"{tag}_chunks", f"{tag}_pieces", f"{tag}_blocks", f"{tag}_parts"),
        scene.finish(),
        "list[str]" if as_list else "str",
        Goal("do", say(rng, goal.text)),
        bodies[0],
        notes,
        bodies[1],
        pools={"part": ("part", "piece", "chunk", "block")},
        gives="the pieces" if as_list else "the joined pieces",
    )


__all__ = [
    "chars_changed",
    "chunks",
    "one_of",
    "run_lengths",
    "shifts",
    "two_strings",
    "words_changed",
]
