"""What exercises are made of: wording, names, parameters and drafts.

Families write code and prose as templates. `$role` stands for a name: of a
parameter, of a local variable (one of the pool of that role), or of something
imported. In prose, `{one|another}` stands for either wording.
"""

from __future__ import annotations

import builtins
import keyword
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

Values = Callable[[Random], object]
"""Draws one argument."""

SLOT = re.compile(r"\$([A-Za-z_]\w*)")
CHOICE = re.compile(r"\{([^{}]*\|[^{}]*)\}")

POOLS: dict[str, tuple[str, ...]] = {
    role: tuple(names.split())
    for role, names in {
        "out": "result results out output collected answer res found",
        "kept": "kept selected chosen matching filtered wanted relevant candidates",
        "mapped": "mapped converted transformed changed new_values results",
        "total": "total result acc running_total answer sum_so_far amount",
        "product_": "product result acc answer total",
        "count": "count counter total n_found hits matches tally number",
        "best": "best result winner top answer found champion",
        "best_key": "best_key best_score record highest top_score",
        "i": "i idx index pos i",
        "j": "j k second_index pos2 j",
        "item": "item element x value entry elem",
        "x": "x value item v element",
        "y": "y other z second partner",
        "a": "a left first x p",
        "b": "b right second y q",
        "key": "key k name label group",
        "value": "value v val amount item_value",
        "sign": "sign factor direction",
        "n": "n count size length m",
        "c": "c char ch character",
        "char": "char c ch letter symbol character",
        "word": "word w token term part",
        "part": "part piece chunk segment field_text token",
        "line": "line row text_line raw entry",
        "row": "row line r cells current_row",
        "cell": "cell value x entry v",
        "left": "left lo low start i begin",
        "right": "right hi high end j stop",
        "mid": "mid middle m center half",
        "seen": "seen visited known already used encountered",
        "counts": "counts frequencies counter tally freq occurrences histogram",
        "groups": "groups buckets grouped by_key result table collected",
        "current": "current cur running now run this",
        "previous": "previous prev last before earlier",
        "longest": "longest best max_length record result",
        "length": "length size n run_length current_length",
        "stack": "stack pending open_items todo frames",
        "queue": "queue pending waiting todo frontier",
        "digit": "digit d last rest_digit figure",
        "rest": "rest remaining tail left_over remainder others",
        "head": "head first start front",
        "parts": "parts pieces chunks tokens segments fields_",
        "words": "words tokens terms parts pieces",
        "pairs": "pairs couples matches found combos",
        "pair": "pair couple entry p item",
        "is_wanted": "is_wanted matches qualifies accept keep is_relevant wanted selected",
        "convert": "convert transform change compute evaluate measure apply_rule",
        "step": "step go visit walk inner recurse helper",
        "done": "done finished ok valid flag",
        "memo": "memo cache_ known table solved",
        "table": "table dp best_for values ways rows",
        "n_": "n m size length count_left",
        "state": "state mode status phase",
        "fields": "fields columns cells values parts",
        "name": "name key label title",
        "number": "number num value n amount",
        "text": "text content raw cleaned string_value",
        "score": "score rating value points weight_",
        "limit": "limit bound threshold cap maximum",
    }.items()
}

IMPORTS: dict[str, str] = {
    **dict.fromkeys(["Counter", "defaultdict", "deque", "OrderedDict"], "collections"),
    **dict.fromkeys(["date", "datetime", "timedelta"], "datetime"),
    **dict.fromkeys(["reduce", "lru_cache", "cmp_to_key", "total_ordering"], "functools"),
    **dict.fromkeys(["accumulate", "chain", "combinations", "groupby", "islice"], "itertools"),
    **dict.fromkeys(["pairwise", "permutations", "product", "takewhile"], "itertools"),
    **dict.fromkeys(["dropwhile", "zip_longest"], "itertools"),
    **dict.fromkeys(["bisect_left", "bisect_right", "insort"], "bisect"),
    **dict.fromkeys(["heappush", "heappop", "heapify", "nlargest", "nsmallest"], "heapq"),
    **dict.fromkeys(["itemgetter", "attrgetter", "mul", "add"], "operator"),
    **dict.fromkeys(["gcd", "isqrt", "prod", "sqrt", "ceil", "floor", "lcm"], "math"),
    **dict.fromkeys(["mean", "median"], "statistics"),
    **dict.fromkeys(["dataclass", "field"], "dataclasses"),
    **dict.fromkeys(["Iterator", "Iterable", "Callable", "Sequence"], "collections.abc"),
    **dict.fromkeys(["NamedTuple", "List", "Dict", "Tuple", "Set", "Optional", "Union"], "typing"),
    **dict.fromkeys(["math", "re", "itertools", "operator", "calendar", "heapq"], ""),
    "contextlib": "",
}
"""Where a name comes from; empty if it is a module itself."""

COUPLES: tuple[tuple[str, str], ...] = (("a", "b"), ("i", "j"), ("key", "value"), ("left", "right"), ("low", "high"))
COUPLES += (("old", "new"), ("x", "y"), ("px", "py"), ("hour", "minute"))
PARTNERS = dict(COUPLES) | {second: first for first, second in COUPLES}
"""Roles whose names go together: `left` with `right`, `k` with `v`."""

RESERVED = set(keyword.kwlist) | set(keyword.softkwlist) | set(dir(builtins)) | set(IMPORTS)


def say(rng: Random, prose: str) -> str:
    """The prose with one wording chosen at each `{one|another}`, the innermost first."""
    while True:
        chosen = CHOICE.sub(lambda match: rng.choice(match[1].split("|")), prose)
        if chosen == prose:
            return chosen
        prose = chosen


def pick(rng: Random, weighted: Mapping[str, float]) -> str:
    """One of the keys, each as likely as its weight says."""
    return rng.choices(list(weighted), list(weighted.values()))[0]


TEXT = re.compile(r"\"[^\"]*\"")
INNER = re.compile(r"\([^()\[\]{}]*\)|\[[^()\[\]{}]*\]|\{[^()\[\]{}]*\}")
OPERATOR = re.compile(r" (==|!=|<=|>=|<|>|not in|in) ")
OPPOSITE = {"==": "!=", "!=": "==", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}
OPPOSITE |= {"in": "not in", "not in": "in"}


def negation(code: str) -> str:
    """The condition that holds when `code` does not, as plainly as it can be written."""
    bare, before = TEXT.sub(lambda match: "_" * len(match[0]), code), ""
    while bare != before:
        bare, before = INNER.sub(lambda match: "_" * len(match[0]), bare), bare
    joined = re.search(r" (and|or|if|for) |lambda", bare)
    found = list(OPERATOR.finditer(bare))
    if not joined and len(found) == 1 and not bare.startswith("not "):
        start, end = found[0].span()
        return f"{code[:start]} {OPPOSITE[found[0][1]]} {code[end:]}"
    if not joined and bare.startswith("not "):
        return code.removeprefix("not ")
    return f"not ({code})" if joined or found else f"not {code}"


@dataclass(frozen=True)
class Param:
    """A parameter: its slot, candidate names, type, and what prose says of it.

    `a` introduces it ("a list of integers"), `the` may stand for its name ("the list");
    `about` is its line in a table of arguments. `default` is the code of a default value.
    """

    role: str
    names: tuple[str, ...]
    type: str
    a: str
    the: str | None
    about: str
    values: Values
    default: str | None = None


@dataclass(frozen=True)
class Made:
    """An argument that is an object of a class which the exercise itself defines."""

    cls: str
    args: tuple[object, ...]


@dataclass(frozen=True)
class Goal:
    """What a function is for.

    `kind` "get": `text` names the result ("the sum of ..."); "whether": a clause that is
    true or false; "do": an imperative that says it all ("reverse ... and return ...").
    """

    kind: str
    text: str
    verbs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Look:
    """How code is set down: types "modern", "typing" or none, and the quote of strings."""

    types: str | None
    quote: str

    @classmethod
    def draw(cls, rng: Random) -> Look:
        """A look as people use it."""
        types = rng.choices(("modern", "typing", None), (45, 25, 30))[0]
        return cls(types, "'" if rng.random() < 0.15 else '"')


@dataclass(frozen=True)
class Draft:
    """A function before names, annotations and a style of documentation are chosen.

    `body` is run against `reference`, another way to write it, if there is one.
    `pools` are names of local variables that go before those of `POOLS`. `helpers` are
    functions above it; `above` is one that was written before and needs `imports`.
    `gives` is its line in a table of results; `arguments` draws all arguments together,
    if they depend on each other.
    """

    family: str
    names: tuple[str, ...]
    params: tuple[Param, ...]
    returns: str
    goal: Goal
    body: str
    notes: tuple[str, ...] = ()
    reference: str | None = None
    helpers: str = ""
    pools: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    gives: str = ""
    mutates: bool = False
    raises: tuple[str, str] | None = None
    arguments: Callable[[Random], tuple[object, ...]] | None = None
    above: str = ""
    imports: tuple[tuple[str, str], ...] = ()
    look: Look | None = None


class Names:
    """Chooses a name for each role when it is first needed; no name is given twice."""

    def __init__(self, rng: Random, pools: Mapping[str, Sequence[str]], taken: Iterable[str]) -> None:
        self._rng = rng
        self._pools = pools
        self._taken = RESERVED | set(taken)
        self._place: dict[str, int] = {}
        self.chosen: dict[str, str] = {}
        self.imports: set[tuple[str, str]] = set()

    def claim(self, role: str, candidates: Sequence[str]) -> str:
        """Give the role one of these names."""
        free = [name for name in candidates if name not in self._taken]
        partner = self._place.get(PARTNERS.get(role, ""))
        if partner is not None and partner < len(candidates) and candidates[partner] in free:
            name = candidates[partner]
        else:
            name = self._rng.choice(free) if free else self._spare(candidates[0])
        if name in candidates:
            self._place[role] = candidates.index(name)
        self._taken.add(name)
        self.chosen[role] = name
        return name

    def _spare(self, name: str) -> str:
        number = 2
        while f"{name}{number}" in self._taken:
            number += 1
        return f"{name}{number}"

    def __getitem__(self, role: str) -> str:
        """The name of a role; KeyError if it has no pool."""
        if role in self.chosen:
            return self.chosen[role]
        if role in IMPORTS:
            self.imports.add((IMPORTS[role], role))
            return role
        base = role.rstrip("0123456789")
        pool = self._pools.get(role) or self._pools.get(base) or POOLS[base]
        return self.claim(role, pool)

    def fill(self, template: str) -> str:
        """The template with names in its slots."""
        return SLOT.sub(lambda match: self[match[1]], template)


# Arguments


def ints(low: int, high: int, least: int = 0, most: int = 7) -> Values:
    """Draws lists of integers, now and then with repeated ones."""

    def draw(rng: Random) -> object:
        numbers = [rng.randint(low, high) for _ in range(rng.randint(least, most))]
        if numbers and rng.random() < 0.3:
            numbers[rng.randrange(len(numbers))] = rng.choice(numbers)
        return numbers

    return draw


def number(low: int, high: int) -> Values:
    """Draws integers."""
    return lambda rng: rng.randint(low, high)


def one_of(*values: object) -> Values:
    """Draws one of these."""
    return lambda rng: rng.choice(values)


WORDS = [
    "apple",
    "river",
    "stone",
    "cloud",
    "green",
    "table",
    "music",
    "level",
    "garden",
    "winter",
    "paper",
    "silver",
    "moon",
    "orange",
    "bread",
    "noon",
    "tiger",
    "Anna",
    "Bob",
    "kayak",
    "data",
    "code",
    "tree",
    "sky",
    "Echo",
    "window",
    "candle",
    "bridge",
    "forest",
    "ocean",
    "lamp",
    "road",
    "cat",
    "dog",
    "owl",
    "ant",
    "bee",
    "fox",
    "eel",
    "elk",
    "hen",
    "Paris",
    "Rome",
    "Oslo",
    "Cairo",
    "Lima",
    "radar",
    "civic",
    "Eve",
    "Otto",
    "book",
    "door",
    "sun",
    "ice",
    "tea",
    "egg",
    "ivy",
    "oak",
    "arm",
    "ear",
    "eye",
    "up",
    "at",
    "on",
    "banana",
    "pepper",
    "letter",
    "coffee",
    "kettle",
    "mirror",
    "pillow",
    "Zoe",
    "Max",
    "red",
    "blue",
    "pink",
    "note",
    "sand",
    "wave",
    "wind",
    "fire",
    "leaf",
    "seed",
    "root",
    "salt",
    "corn",
    "rice",
    "plum",
    "pear",
    "fig",
]


def word(rng: Random) -> str:
    """Draws a short word, now and then in capitals."""
    drawn = rng.choice(WORDS)
    return drawn.upper() if rng.random() < 0.08 else drawn


def words(least: int = 0, most: int = 5) -> Values:
    """Draws lists of words, now and then with a repeated or an empty one."""

    def draw(rng: Random) -> object:
        drawn = [word(rng) for _ in range(rng.randint(least, most))]
        if len(drawn) > 1 and rng.random() < 0.3:
            drawn[-1] = rng.choice(drawn)
        if drawn and rng.random() < 0.05:
            drawn[rng.randrange(len(drawn))] = ""
        return drawn

    return draw


def sentence(least: int = 1, most: int = 5) -> Values:
    """Draws words with blanks between them; now and then none at all."""

    def draw(rng: Random) -> object:
        if rng.random() < 0.06:
            return ""
        return " ".join(word(rng) for _ in range(rng.randint(least, most)))

    return draw


def text(alphabet: str, least: int = 0, most: int = 10) -> Values:
    """Draws strings over an alphabet."""
    return lambda rng: "".join(rng.choices(alphabet, k=rng.randint(least, most)))


def mixed(*draws: Values) -> Values:
    """Draws by one of these."""
    return lambda rng: rng.choice(draws)(rng)


def pairs_of(key: Values, value: Values, least: int = 0, most: int = 4) -> Values:
    """Draws dictionaries."""
    return lambda rng: {key(rng): value(rng) for _ in range(rng.randint(least, most))}


def rows_of(draw: Values, least: int = 0, most: int = 4) -> Values:
    """Draws lists whose elements are drawn by `draw`."""
    return lambda rng: [draw(rng) for _ in range(rng.randint(least, most))]
