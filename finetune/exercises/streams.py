"""The vocabulary of pipelines: where elements come from, which are taken, what becomes of them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from talaria.finetune.exercises.core import (
    Param,
    Values,
    ints,
    number,
    one_of,
    rows_of,
    say,
    sentence,
    words,
)


class ExerciseScene:
    """A draft in the making: its random choices and the parameters collected so far."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.params: list[Param] = []
        self.pools: dict[str, tuple[str, ...]] = {}

    def add(self, param: Param) -> str:
        """Add a parameter and return its slot."""
        self.params.append(param)
        return f"${param.role}"

    def amount(self, low: int, high: int, about: str = "the limit", share: float = 0.5) -> str:
        """A number: written out, or a parameter in that share of the cases."""
        taken = {param.role for param in self.params}
        free = [role for role in ("limit_", "limit2_") if role not in taken]
        if self.rng.random() >= share or not free:
            return str(self.rng.randint(low, high))
        names = {
            "the limit": "limit threshold bound k n cutoff",
            "the divisor": "k n divisor d factor",
            "the length": "n k length size",
            "the number to add": "k n offset delta shift amount",
            "the factor": "factor k n multiplier scale",
            "the digit": "digit d k",
        }.get(about, "k n amount")
        return self.add(Param(free[0], tuple(names.split()), "int", "an integer", None, about, number(low, high)))

    def finish(self) -> tuple[Param, ...]:
        """The parameters; a number at the end has a default now and then."""
        last = self.params[-1] if self.params else None
        if last and last.role in ("limit_", "limit2_") and self.rng.random() < 0.15:
            self.params[-1] = replace(last, default=str(last.values(self.rng)))
        return tuple(self.params)

    def letter(self, share: float = 0.4) -> tuple[str, str]:
        """A letter: its code and how prose names it; a parameter in that share of the cases."""
        if self.rng.random() >= share or any(p.role == "letter_" for p in self.params):
            found = self.rng.choice("aeiorstnl")
            return f'"{found}"', f'"{found}"'
        names = ("letter", "char", "c", "target", "ch", "symbol")
        values = one_of(*"aeiorstnl")
        slot = self.add(Param("letter_", names, "str", "a letter", None, "the letter to look for", values))
        return slot, slot


@dataclass(frozen=True)
class ElementSource:
    """Elements to go through. `where` follows their noun ("in $xs"); `var` are loop variables."""

    type: str
    code: str
    one: str
    many: str
    where: str
    var: tuple[str, ...]
    tag: str
    listed: bool = False


@dataclass(frozen=True)
class ElementTest:
    """A condition on `$x`. `verb` says it of many ("are even"); `adjective` stands before them."""

    code: str
    verb: str
    tag: str
    adjective: str | None = None
    opposite: str | None = None


@dataclass(frozen=True)
class Change:
    """What is made of `$x`: code, prose with `@` for the elements, and a noun for the results."""

    code: str
    phrase: str
    each: str
    type: str
    tag: str


INT_THEMES = (
    ("numbers", "number number n num x", "number", -10, 30),
    ("nums", "num n x", "number", -10, 30),
    ("values", "value v x", "value", -10, 30),
    ("integers", "integer number n i", "integer", -20, 40),
    ("xs", "x", "number", -9, 20),
    ("arr", "x num value", "number", -9, 20),
    ("lst", "x item n", "number", -9, 20),
    ("data", "value x d", "value", -9, 30),
    ("items", "item x", "integer", -9, 30),
    ("elements", "element e x", "element", -9, 30),
    ("scores", "score s", "score", 0, 100),
    ("ages", "age a", "age", 1, 90),
    ("prices", "price p", "price", 1, 60),
    ("temperatures", "temperature t temp", "temperature", -15, 35),
    ("lengths", "length n", "length", 1, 30),
    ("weights", "weight w", "weight", 1, 40),
    ("heights", "height h", "height", 1, 40),
    ("amounts", "amount a", "amount", -20, 50),
    ("readings", "reading r", "reading", -10, 40),
    ("points", "point p", "point value", 0, 30),
    ("grades", "grade g", "grade", 1, 100),
    ("distances", "distance d", "distance", 0, 50),
    ("costs", "cost c", "cost", 1, 60),
    ("marks", "mark m", "mark", 0, 20),
    ("samples", "sample s", "sample", -9, 30),
    ("quantities", "quantity q", "quantity", 0, 20),
)
STR_THEMES = (
    ("words", "word w", "word"),
    ("strings", "string s text", "string"),
    ("names", "name n", "name"),
    ("texts", "text t", "text"),
    ("tokens", "token t", "token"),
    ("labels", "label name", "label"),
    ("items", "item s", "string"),
    ("keys", "key k", "key"),
    ("tags", "tag t", "tag"),
    ("strs", "s", "string"),
    ("titles", "title t", "title"),
    ("entries", "entry e", "entry"),
    ("terms", "term t", "term"),
)
TEXT_NAMES = ("text", "s", "string", "sentence", "phrase", "message", "line", "content", "txt")
LETTERS = "aabbcdeeiorstnlAEBRT"


def plural(noun: str) -> str:
    """The plural of a noun."""
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + ("es" if noun.endswith(("s", "x", "ch", "sh")) else "s")


def int_list(scene: ExerciseScene, role: str = "xs", least: int = 0, most: int = 7) -> ElementSource:
    """A parameter that is a list of integers, under one of many names."""
    name, var, noun, low, high = scene.rng.choice(INT_THEMES)
    many = plural(noun)
    kind = many if many in ("numbers", "integers") else f"{{integers|{many}}}"
    if noun not in ("number", "integer", "value", "element"):
        kind = f"{{{many}|integers|integer {many}}}"
    about = say(scene.rng, f"{{the {many}|a list of integers|the {many} to look at}}")
    kind = say(scene.rng, kind)
    slot = scene.add(
        Param(
            role,
            (name,),
            "list[int]",
            f"a list of {kind}",
            "the list",
            about,
            ints(low, high, least, most),
        )
    )
    where = say(scene.rng, f"{{in|in|of}} {slot}") if noun == "element" else f"in {slot}"
    return ElementSource("int", slot, noun, many, where, tuple(var.split()), "", True)


def str_list(scene: ExerciseScene, role: str = "xs") -> ElementSource:
    """A parameter that is a list of strings, under one of many names."""
    name, var, noun = scene.rng.choice(STR_THEMES)
    many = plural(noun)
    kind = say(scene.rng, f"{{strings|{many}}}")
    about = say(scene.rng, f"{{the {many}|a list of strings|the {many} to look at}}")
    slot = scene.add(Param(role, (name,), "list[str]", f"a list of {kind}", "the list", about, words()))
    return ElementSource("str", slot, noun, many, f"in {slot}", tuple(var.split()), "", True)


def words_of(scene: ExerciseScene) -> ElementSource:
    """The words of a string between blanks."""
    slot = _text(scene, sentence())
    where = scene.rng.choice((f"in {slot}", f"of {slot}", f"in {slot}"))
    return ElementSource("str", f"{slot}.split()", "word", "words", where, ("word", "w"), "words")


def characters(scene: ExerciseScene) -> ElementSource:
    """The characters of a string."""
    slot = _text(scene, sentence(1, 3))
    where = scene.rng.choice((f"in {slot}", f"of {slot}"))
    var = ("char", "c", "ch", "character")
    return ElementSource("char", slot, "character", "characters", where, var, "", True)


def _text(scene: ExerciseScene, values: Values) -> str:
    return scene.add(
        Param(
            "s",
            TEXT_NAMES,
            "str",
            say(scene.rng, "{a string|a string|a text}"),
            "the string",
            say(scene.rng, "the {text|string} to {look at|go through|process|read}"),
            values,
        )
    )


def up_to(scene: ExerciseScene) -> ElementSource:
    """The integers from 1, 0 or another parameter to a limit."""
    names = ("n", "limit", "n", "upper", "stop")
    n = Param("n", names, "int", "an integer", None, "the upper limit", number(0, 30))
    form = scene.rng.random()
    if form < 0.4:
        slot = scene.add(n)
        where = f"{{from 1 to {slot}|from 1 to {slot} inclusive|between 1 and {slot} inclusive}}"
        code = f"range(1, {slot} + 1)"
    elif form < 0.65:
        slot = scene.add(n)
        where = f"{{from 0 up to but not including {slot}|from 0 to {slot} - 1}}"
        code = f"range({slot})"
    else:
        start = Param("a", ("start", "a", "low", "first", "begin"), "int", "an integer", None, "the first number", number(-5, 8))
        last = Param("b", ("stop", "b", "high", "last", "end"), "int", "an integer", None, "the last number, included", number(5, 30))
        low, high = scene.add(start), scene.add(last)
        where = f"{{from {low} to {high} inclusive|between {low} and {high}, both included}}"
        code = f"range({low}, {high} + 1)"
    noun = scene.rng.choice(("integer", "number", "integer"))
    where = say(scene.rng, where)
    return ElementSource("int", code, noun, noun + "s", where, ("i", "n_", "x", "number", "value"), "")


def digits_of(scene: ExerciseScene) -> ElementSource:
    """The decimal digits of a non-negative integer."""
    slot = scene.add(
        Param(
            "n",
            ("n", "number", "num", "value", "x"),
            "int",
            "a non-negative integer",
            "the number",
            "a non-negative integer",
            lambda rng: rng.randint(0, rng.choice((9, 99, 9999, 999999))),
        )
    )
    where = scene.rng.choice((f"of {slot}", f"in {slot}", f"of {slot}"))
    code = scene.rng.choice((f"map(int, str({slot}))", f"[int(c) for c in str({slot})]"))
    return ElementSource("int", code, "digit", "digits", where, ("digit", "d"), "digits")


def divisors_of(scene: ExerciseScene) -> ElementSource:
    """The divisors of a positive integer."""
    slot = scene.add(
        Param(
            "n",
            ("n", "number", "num", "value"),
            "int",
            "a positive integer",
            "the number",
            "a positive integer",
            number(1, 60),
        )
    )
    code = f"[d for d in range(1, {slot} + 1) if {slot} % d == 0]"
    return ElementSource("int", code, "divisor", "divisors", f"of {slot}", ("divisor", "x"), "divisors")


def values_of(scene: ExerciseScene) -> ElementSource:
    """The values of a dictionary from strings to integers."""
    name, var, noun = scene.rng.choice(
        (
            ("stock", "quantity amount", "quantity"),
            ("scores", "score points", "score"),
            ("prices", "price cost", "price"),
            ("counts", "count n", "count"),
            ("ages", "age years", "age"),
            ("mapping", "value v", "value"),
            ("d", "value v", "value"),
        )
    )

    def draw(rng: Random) -> object:
        keys = [w for w in words(0, 4)(rng) if w]  # type: ignore[attr-defined]
        return {key: rng.randint(-5, 40) for key in keys}

    param = Param(
        "d",
        (name,),
        "dict[str, int]",
        "a dictionary from strings to integers",
        "the dictionary",
        f"a dictionary with integer {plural('value')}",
        draw,
    )
    slot = scene.add(param)
    many = plural(noun)
    return ElementSource("int", f"{slot}.values()", noun, many, f"in {slot}", tuple(var.split()), "")


def keys_of(scene: ExerciseScene) -> ElementSource:
    """The keys of a dictionary from strings to integers."""
    source = values_of(scene)
    slot = source.code.removesuffix(".values()")
    return ElementSource("str", slot, "key", "keys", f"of {slot}", ("key", "name", "k_"), "keys")


def flattened(scene: ExerciseScene) -> ElementSource:
    """All numbers of a list of lists."""
    names = ("matrix", "rows", "grid", "lists", "table", "nested")
    slot = scene.add(
        Param(
            "xss",
            names,
            "list[list[int]]",
            "a list of lists of integers",
            scene.rng.choice(("the lists", "the nested list")),
            "the lists of integers",
            rows_of(ints(-9, 20, 0, 4)),
        )
    )
    where = say(scene.rng, f"in {{all|any of the}} {{rows|inner lists|lists}} of {slot}")
    code = f"[v for row in {slot} for v in row]"
    return ElementSource("int", code, "number", "numbers", where, ("x", "number", "value"), "")


SOURCES: dict[Callable[[ExerciseScene], ElementSource], float] = {
    int_list: 34,
    str_list: 20,
    words_of: 12,
    characters: 13,
    up_to: 8,
    digits_of: 5,
    divisors_of: 3,
    values_of: 5,
    keys_of: 2,
    flattened: 4,
}


def int_test(scene: ExerciseScene, small: bool = False) -> ElementTest:
    """A condition on an integer, perhaps with a parameter; small numbers suit digits."""
    top = 6 if small else 15
    rng = scene.rng
    kinds = 22 if not small else 12
    which = rng.randrange(kinds)
    if which < 2:
        return ElementTest("$x % 2 == 0", "are even", "even", "even", "$x % 2 != 0")
    if which < 4:
        return ElementTest("$x % 2 == 1", "are odd", "odd", "odd", "$x % 2 == 0")
    if which < 6:
        n = scene.amount(0 if small else 2, top)
        say_it = say(rng, f"are {{greater|larger}} than {n}")
        return ElementTest(f"$x > {n}", say_it, "large", None, f"$x <= {n}")
    if which == 6:
        n = scene.amount(1, top)
        say_it = say(rng, f"are {{less|smaller}} than {n}")
        return ElementTest(f"$x < {n}", say_it, "small", None, f"$x >= {n}")
    if which == 7:
        n = scene.amount(1, top)
        say_it = say(rng, f"are {{at least {n}|{n} or more|not less than {n}}}")
        return ElementTest(f"$x >= {n}", say_it, "large", None, f"$x < {n}")
    if which == 8:
        n = scene.amount(2, top)
        say_it = say(rng, f"are {{at most {n}|not greater than {n}|{n} or less}}")
        return ElementTest(f"$x <= {n}", say_it, "small", None, f"$x > {n}")
    if which == 9:
        n = scene.amount(2, 4 if small else 7, "the divisor")
        say_it = say(rng, f"are {{divisible by|multiples of}} {n}")
        return ElementTest(f"$x % {n} == 0", say_it, "multiples", None, f"$x % {n} != 0")
    if which == 10:
        n = scene.amount(2, 4 if small else 7, "the divisor")
        say_it = say(rng, f"are {{not divisible by|not multiples of}} {n}")
        return ElementTest(f"$x % {n} != 0", say_it, "indivisible", None, f"$x % {n} == 0")
    if which == 11:
        n = scene.amount(0, 6)
        return ElementTest(f"$x != {n}", f"are not equal to {n}", "other", None, f"$x == {n}")
    if which in (12, 13):
        return ElementTest("$x > 0", "are positive", "positive", "positive", "$x <= 0")
    if which in (14, 15):
        return ElementTest("$x < 0", "are negative", "negative", "negative", "$x >= 0")
    if which == 16:
        low = rng.randint(0, 6)
        high = low + rng.randint(3, 14)
        say_it = say(rng, f"{{lie|are}} between {low} and {high}{{ inclusive|, both included}}")
        return ElementTest(f"{low} <= $x <= {high}", say_it, "in_range", None)
    if which == 17:
        digit = rng.randint(0, 9)
        say_it = say(rng, f"{{end in|end with}} the digit {digit}")
        return ElementTest(f"abs($x) % 10 == {digit}", say_it, f"ending_in_{digit}")
    if which == 18:
        say_it = say(rng, "have {exactly two|two} digits")
        return ElementTest("10 <= abs($x) <= 99", say_it, "two_digit", "two-digit")
    if which == 19:
        digit = rng.randint(1, 9)
        return ElementTest(f'"{digit}" in str($x)', f"contain the digit {digit}", f"with_{digit}")
    if which == 20:
        divisor = rng.randint(3, 6)
        left = rng.randint(1, divisor - 1)
        say_it = f"leave a remainder of {left} when divided by {divisor}"
        return ElementTest(f"$x % {divisor} == {left}", say_it, "matching")
    n = scene.amount(4, 15)
    say_it = say(rng, f"have an absolute value {{greater than|above}} {n}")
    return ElementTest(f"abs($x) > {n}", say_it, "big", None, f"abs($x) <= {n}")


def str_test(scene: ExerciseScene) -> ElementTest:
    """A condition on a string, perhaps with a parameter."""
    rng = scene.rng
    which = rng.randrange(19)
    if which < 3:
        n = scene.amount(2, 5, "the length")
        say_it = say(rng, f"{{have more than {n} characters|are longer than {n} characters}}")
        return ElementTest(f"len($x) > {n}", say_it, "long", None, f"len($x) <= {n}")
    if which < 5:
        n = scene.amount(3, 6, "the length")
        say_it = say(rng, f"{{have fewer than {n} characters|are shorter than {n} characters}}")
        return ElementTest(f"len($x) < {n}", say_it, "short", None, f"len($x) >= {n}")
    if which == 5:
        n = scene.amount(3, 5, "the length")
        say_it = say(rng, f"{{have exactly {n} characters|have a length of {n}}}")
        return ElementTest(f"len($x) == {n}", say_it, "of_length", None, f"len($x) != {n}")
    if which == 6:
        odd = rng.randint(0, 1)
        name = "an odd" if odd else "an even"
        return ElementTest(
            f"len($x) % 2 == {odd}",
            f"have {name} {{length|number of characters}}".replace("{length|number of characters}", rng.choice(("length", "number of characters"))),
            "odd_length" if odd else "even_length",
        )
    if which in (7, 8):
        code, said = scene.letter()
        verb = rng.choice(("start with", "begin with"))
        opposite = f"not $x.startswith({code})"
        return ElementTest(f"$x.startswith({code})", f"{verb} {said}", "starting", None, opposite)
    if which == 9:
        code, said = scene.letter()
        opposite = f"not $x.endswith({code})"
        return ElementTest(f"$x.endswith({code})", f"end with {said}", "ending", None, opposite)
    if which in (10, 11):
        code, said = scene.letter()
        verb = rng.choice(("contain", "contain", "include"))
        return ElementTest(f"{code} in $x", f"{verb} {said}", "containing", None, f"{code} not in $x")
    if which == 12:
        code, said = scene.letter()
        say_it = say(rng, f"{{do not contain|do not include}} {said}")
        return ElementTest(f"{code} not in $x", say_it, "without", None, f"{code} in $x")
    if which == 13:
        say_it = say(rng, "read the same {backwards|forwards and backwards|in both directions}")
        return ElementTest("$x == $x[::-1]", say_it, "palindromic", None, "$x != $x[::-1]")
    if which == 14:
        verb = "are written in capital letters"
        return ElementTest("$x.isupper()", verb, "uppercase", "upper-case", "not $x.isupper()")
    if which == 15:
        say_it = "start with a capital letter"
        return ElementTest("$x[:1].isupper()", say_it, "capitalized", "capitalised")
    if which == 16:
        say_it = say(rng, "{start|begin} with a {vowel|vowel (a, e, i, o or u, in either case)}")
        return ElementTest('$x[:1].lower() in set("aeiou")', say_it, "vowel")
    if which == 17:
        times = rng.randint(2, 3)
        code, said = scene.letter(0.25)
        say_it = f"contain {said} at least {'twice' if times == 2 else 'three times'}"
        return ElementTest(f"$x.count({code}) >= {times}", say_it, "repeated")
    say_it = "have no repeated characters"
    return ElementTest("len(set($x)) == len($x)", say_it, "distinct_letter", None)


CHAR_TESTS = (
    ElementTest("$x.isdigit()", "are digits", "digits", None, "not $x.isdigit()"),
    ElementTest("$x.isalpha()", "are letters", "letters", None, "not $x.isalpha()"),
    ElementTest("$x.isupper()", "are upper-case letters", "uppercase", "upper-case", "not $x.isupper()"),
    ElementTest("$x.islower()", "are lower-case letters", "lowercase", "lower-case", "not $x.islower()"),
    ElementTest('$x in "aeiou"', "are lower-case vowels", "vowels", None, '$x not in "aeiou"'),
    ElementTest('$x.lower() in "aeiou"', "are vowels, in either case", "vowels"),
    ElementTest('$x in "aeiouAEIOU"', "are vowels, in either case", "vowels", None),
    ElementTest("not $x.isspace()", "are not blanks", "visible", None, "$x.isspace()"),
    ElementTest("$x.isspace()", "are white space", "spaces", None, "not $x.isspace()"),
    ElementTest("not $x.isalnum()", "are neither letters nor digits", "special", None, "$x.isalnum()"),
    ElementTest("$x.isalnum()", "are letters or digits", "alphanumeric", "alphanumeric"),
    ElementTest('$x.isalpha() and $x.lower() not in "aeiou"', "are consonants", "consonants"),
    ElementTest('"a" <= $x.lower() <= "m"', "are letters from the first half of the alphabet", "early"),
    ElementTest('"n" <= $x.lower() <= "z"', "are letters from the second half of the alphabet", "late"),
)


def char_test(scene: ExerciseScene) -> ElementTest:
    """A condition on a character, perhaps with a parameter."""
    rng = scene.rng
    if rng.random() < 0.75:
        return rng.choice(CHAR_TESTS)
    which = rng.random()
    if which < 0.4:
        code, said = scene.letter(0.6)
        return ElementTest(f"$x != {code}", f"are not {said}", "other", None, f"$x == {code}")
    if which < 0.7:
        code, said = scene.letter(0.6)
        verb = f"come after {said} in the alphabet" if code[0] == '"' else f"are greater than {said}"
        return ElementTest(f"$x > {code}", verb, "later", None, f"$x <= {code}")
    alphabet = "".join(sorted(rng.sample("abcdeiorstnl", rng.randint(3, 5))))
    said = ", ".join(alphabet[:-1]) + " or " + alphabet[-1]
    code = f'"{alphabet}"'
    return ElementTest(f"$x in {code}", f"are one of {said}", "chosen", None, f"$x not in {code}")


def test_for(scene: ExerciseScene, source: ElementSource) -> ElementTest:
    """A condition that suits the elements of a source."""
    if source.type == "int":
        return int_test(scene, source.many in ("digits", "divisors"))
    return char_test(scene) if source.type == "char" else str_test(scene)


def _change(code: str, phrase: str, type_: str, tag: str) -> Change:
    """`phrase` says it in the plural with `@`; the singular is made from it after a bar."""
    many, _, each = phrase.partition("|")
    return Change(code, many, each, type_, tag)


DIGIT_SUM = "sum(int(d) for d in str(abs($x)))"


def int_change(scene: ExerciseScene) -> Change:
    """Something to be made of an integer."""
    rng = scene.rng
    which = rng.randrange(17)
    if which < 2:
        return _change("$x * $x", "the squares of @|the square of @", "int", "squares")
    if which == 2:
        return _change("$x**2", "the squares of @|the square of @", "int", "squares")
    if which == 3:
        return _change("$x**3", "the cubes of @|the cube of @", "int", "cubes")
    if which == 4:
        said = "the absolute values of @|the absolute value of @"
        return _change("abs($x)", said, "int", "absolute")
    if which == 5:
        return _change(DIGIT_SUM, "the digit sums of @|the sum of the digits of @", "int", "digit_sums")
    if which in (6, 7):
        n = scene.amount(2, 9, "the factor")
        said = f"@, each multiplied by {n}|@ multiplied by {n}"
        if n == "2" and rng.random() < 0.6:
            said = "the doubles of @|the double of @"
        return _change(f"$x * {n}", said, "int", "scaled")
    if which in (8, 9):
        n = scene.amount(1, 9, "the number to add")
        return _change(f"$x + {n}", f"@, each increased by {n}|@ increased by {n}", "int", "shifted")
    if which == 10:
        n = scene.amount(1, 9, "the number to add")
        return _change(f"$x - {n}", f"@, each reduced by {n}|@ reduced by {n}", "int", "reduced")
    if which == 11:
        n = scene.amount(2, 9, "the divisor")
        said = f"the remainders of @ divided by {n}|the remainder of @ divided by {n}"
        return _change(f"$x % {n}", said, "int", "remainders")
    if which == 12:
        n = scene.amount(2, 5, "the divisor")
        said = f"@, each divided by {n} and rounded down|@ divided by {n} and rounded down"
        return _change(f"$x // {n}", said, "int", "quotients")
    if which == 13:
        return _change("-$x", "@, each with the sign reversed|@ with the sign reversed", "int", "negated")
    if which == 14:
        return _change("str($x)", "@, each turned into a string|@ as a string", "str", "strings")
    if which == 15:
        n = scene.amount(2, 12, "the limit")
        said = f"@, each capped at {n}|@ capped at {n}"
        return _change(f"min($x, {n})", said, "int", "capped")
    a, b = rng.randint(2, 5), rng.randint(1, 9)
    said = f"@, each multiplied by {a} and then increased by {b}"
    return _change(f"{a} * $x + {b}", said + f"|{a} times @ plus {b}", "int", "transformed")


def str_change(scene: ExerciseScene) -> Change:
    """Something to be made of a string."""
    rng = scene.rng
    which = rng.randrange(16)
    if which < 3:
        return _change("len($x)", "the lengths of @|the length of @", "int", "lengths")
    if which < 5:
        word = rng.choice(("upper case", "capital letters"))
        return _change("$x.upper()", f"@, each in {word}|@ in {word}", "str", "upper")
    if which == 5:
        return _change("$x.lower()", "@, each in lower case|@ in lower case", "str", "lower")
    if which == 6:
        said = "@, each written backwards|@ written backwards"
        return _change("$x[::-1]", said, "str", "reversed")
    if which == 7:
        said = "with the first letter capitalised and the rest in lower case"
        return _change("$x.capitalize()", f"@, each {said}|@ {said}", "str", "capitalized")
    if which == 8:
        said = "the first characters of @|the first character of @"
        return _change("$x[:1]", said, "str", "initials")
    if which == 9:
        return _change("$x[-1:]", "the last characters of @|the last character of @", "str", "last")
    if which == 10:
        n = scene.amount(2, 4, "the length")
        said = f"@, each cut to at most {n} characters|@ cut to at most {n} characters"
        return _change(f"$x[:{n}]", said, "str", "prefixes")
    if which == 11:
        code, said = scene.letter()
        phrase = f"the numbers of times that {said} occurs in @|the number of times that {said} occurs in @"
        return _change(f"$x.count({code})", phrase, "int", "counts")
    if which == 12:
        sign = rng.choice(("!", "?", ".", "-", "*"))
        said = f'@, each followed by "{sign}"|@ followed by "{sign}"'
        return _change(f'$x + "{sign}"', said, "str", "marked")
    if which == 13:
        said = "the numbers of different characters in @|the number of different characters in @"
        return _change("len(set($x))", said, "int", "distinct_letters")
    if which == 14:
        code, said = scene.letter()
        phrase = f"@, each without any {said}|@ without any {said}"
        return _change(f'$x.replace({code}, "")', phrase, "str", "cleaned")
    code = 'sum($c in "aeiou" for $c in $x)'
    said = "the numbers of lower-case vowels in @|the number of lower-case vowels in @"
    return _change(code, said, "int", "vowel_counts")


def char_change(scene: ExerciseScene) -> Change:
    """Something to be made of a character."""
    which = scene.rng.randrange(5)
    if which == 0:
        return _change("$x.upper()", "@, each in upper case|@ in upper case", "str", "upper")
    if which == 1:
        return _change("$x.lower()", "@, each in lower case|@ in lower case", "str", "lower")
    if which == 2:
        return _change("ord($x)", "the code points of @|the code point of @", "int", "codes")
    if which == 3:
        return _change("$x * 2", "@, each written twice|@ written twice", "str", "doubled")
    return _change("$x.swapcase()", "@, each with the case swapped|@ with the case swapped", "str", "swapped")


def change_for(scene: ExerciseScene, source: ElementSource) -> Change:
    """Something to be made of the elements of a source."""
    if source.type == "int":
        return int_change(scene)
    return char_change(scene) if source.type == "char" else str_change(scene)


NOUNS = re.compile(r"^are (not |neither )?((?:[\w-]+ )?)(multiples|digits|letters|vowels|consonants)\b")


def singular(verb: str) -> str:
    """A plural verb phrase of one element: "are even" becomes "is even"."""
    noun = NOUNS.match(verb)
    if noun and not (noun[1] or "").startswith("neither"):
        words = f"{noun[2]}{noun[3][:-1]}"
        article = "an" if words[0] in "aeiou" else "a"
        rest = re.sub(r"or digits", "or a digit", verb[noun.end() :])
        return f"is {noun[1] or ''}{article} {words}{rest}"
    first, _, rest = verb.partition(" ")
    rest = rest.replace("neither letters nor digits", "neither a letter nor a digit")
    rest = rest.replace("not blanks", "not a blank")
    irregular = {"are": "is", "have": "has", "do": "does", "lie": "lies"}
    return f"{irregular.get(first, first + 's')} {rest}"
