"""Small classes: each kind has many methods, of which some are drawn, in one of their variants."""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

from talaria.finetune.exercises.core import IMPORTS, POOLS, RESERVED, SLOT, Look, Names, say
from talaria.finetune.exercises.docs import third
from talaria.finetune.exercises.layout import (
    TooLongError,
    annotation,
    fit_all,
    indent,
    literal,
    local_types,
    requote,
    signature,
)
from talaria.finetune.exercises.trial import Exercise, RejectedError, import_lines, keys, limited, load

WORDS = ("apple", "pear", "fig", "tea", "pen", "cup", "map", "key")


@dataclass(frozen=True)
class Method:
    """A method: candidate names, parameters as (role, type), result type, prose and body, and
    arguments for a trial call. `doc` is an imperative sentence without a full stop."""

    names: str
    params: tuple[tuple[str, str], ...]
    returns: str
    doc: str
    body: str
    call: Callable[[Random], tuple[object, ...]] = lambda _: ()
    weight: float = 1.0
    special: str = ""


@dataclass(frozen=True)
class ClassKind:
    """A kind of class: names, what it is, its `__init__`, and methods of which some are drawn.

    `always` of them, the first ones, are always there. A line of `methods` with several
    entries offers variants of one method.
    """

    names: str
    doc: str
    params: tuple[tuple[str, str], ...]
    body: str
    make: Callable[[Random], tuple[object, ...]]
    methods: tuple[tuple[Method, ...], ...]
    always: int = 2
    pools: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def M(*args: Any, **kwargs: Any) -> Method:
    """A method, in short."""
    return Method(*args, **kwargs)


def _n(low: int, high: int) -> Callable[[Random], tuple[object, ...]]:
    return lambda rng: (rng.randint(low, high),)


def _w(rng: Random) -> tuple[object, ...]:
    return (rng.choice(WORDS[:4]),)


def _wn(rng: Random) -> tuple[object, ...]:
    return (rng.choice(WORDS[:4]), rng.randint(1, 9))


LEN = M(
    "__len__",
    (),
    "int",
    "{Return the number of elements|Return how many elements there are}",
    "return len(self.$items)",
)
ITEMS = {
    "items": (
        "items",
        "_items",
        "data",
        "values",
        "_data",
        "elements",
        "entries",
        "_values",
        "content",
    )
}

KINDS: tuple[ClassKind, ...] = (
    ClassKind("Stack Pile ItemStack LastInFirstOut IntStack", "{A stack|A pile}: the element put on it last is taken off first", (), "self.$items:: list[int] = []", lambda rng: (), (
        (M("push add put", (("value", "int"),), "None", "{Put a value on top|Add a value at the top}", "self.$items.append($value)", _n(0, 20)),),
        (M("pop take remove", (), "int", "Take the top value off and return it; raise IndexError if the {stack is empty|there is none}", 'if not self.$items:\n    raise IndexError("empty")\nreturn self.$items.pop()'),
         M("pop take remove", (), "int | None", "Take the top value off and return it, or return None if there is none", "return self.$items.pop() if self.$items else None")),
        (M("peek top look", (), "int | None", "Return the top value without taking it off, or None if there is none", "return self.$items[-1] if self.$items else None"),
         M("peek top look", (), "int | None", "Return the top value without taking it off, or None if there is none", "if self.$items:\n    return self.$items[-1]\nreturn None")),
        (M("is_empty empty", (), "bool", "Return whether {no value is left|there are no values}", "return not self.$items"), M("is_empty empty", (), "bool", "Return whether {no value is left|there are no values}", "return len(self.$items) == 0")),
        (LEN,), (M("size count depth", (), "int", "Return the number of values", "return len(self.$items)"),),
        (M("clear reset", (), "None", "Remove all values", "self.$items.clear()"), M("clear reset", (), "None", "Remove all values", "self.$items = []")),
        (M("largest maximum max_value", (), "int | None", "Return the largest value, or None if there are no values", "return max(self.$items, default=None)"),),
        (M("total sum_of_values", (), "int", "Return the sum of all values", "return sum(self.$items)"),),
        (M("swap exchange", (), "None", "Exchange the two topmost values; do nothing if there are fewer", "if len(self.$items) > 1:\n    self.$items[-1], self.$items[-2] = self.$items[-2], self.$items[-1]"),),
        (M("duplicate dup", (), "None", "Put the top value on top once more; do nothing if there is none", "if self.$items:\n    self.$items.append(self.$items[-1])"),),
        (M("to_list as_list contents", (), "list[int]", "Return all values as a list, the top one {first|at the beginning}", "return self.$items[::-1]"), M("to_list as_list contents", (), "list[int]", "Return all values as a list, the top one last", "return list(self.$items)")),
        (M("push_all extend add_all", (("values", "list[int]"),), "None", "Put all values on top, one after the other", "for $value in $values:\n    self.$items.append($value)", lambda rng: ([rng.randint(0, 9) for _ in range(rng.randint(1, 3))],)), M("push_all extend add_all", (("values", "list[int]"),), "None", "Put all values on top, one after the other", "self.$items.extend($values)", lambda rng: ([rng.randint(0, 9) for _ in range(rng.randint(1, 3))],))),
        (M("drop discard skip", (("n", "int"),), "None", "Take off the $n topmost values, or all if there are fewer", "for _ in range(min($n, len(self.$items))):\n    self.$items.pop()", _n(1, 2)),),
    ), 2, ITEMS),
    ClassKind("Queue WaitingLine Line TaskQueue Fifo", "{A queue|A waiting line}: who comes first is served first", (), "self.$items = $deque()", lambda rng: (), (
        (M("enqueue add join put", (("value", "str"),), "None", "Add {someone|a name} at the end", "self.$items.append($value)", _w),),
        (M("dequeue next_one serve take", (), "str | None", "Remove and return the first one, or return None if nobody waits", "return self.$items.popleft() if self.$items else None"), M("dequeue next_one serve take", (), "str", "Remove and return the first one; raise IndexError if nobody waits", 'if not self.$items:\n    raise IndexError("nobody waits")\nreturn self.$items.popleft()')),
        (M("front first peek", (), "str | None", "Return the first one without removing it, or None if nobody waits", "return self.$items[0] if self.$items else None"),),
        (LEN,), (M("position place_of rank", (("value", "str"),), "int", "Return how many stand before the name, or -1 if it does not wait", "for $i, $x in enumerate(self.$items):\n    if $x == $value:\n        return $i\nreturn -1", _w),),
        (M("is_empty nobody_waits", (), "bool", "Return whether nobody waits", "return not self.$items"),),
        (M("leave give_up remove", (("value", "str"),), "bool", "Remove the name from the line and return True; return False if it does not wait", "if $value not in self.$items:\n    return False\nself.$items.remove($value)\nreturn True", _w),),
        (M("push_in jump cut_in", (("value", "str"),), "None", "Add {someone|a name} at the front", "self.$items.appendleft($value)", _w),),
        (M("waiting names as_list", (), "list[str]", "Return all names as a list, the first one first", "return list(self.$items)"),),
        (M("rotate next_round to_back", (), "None", "Move the first one to the end; do nothing if nobody waits", "if self.$items:\n    self.$items.rotate(-1)"), M("rotate next_round to_back", (), "None", "Move the first one to the end; do nothing if nobody waits", "if self.$items:\n    self.$items.append(self.$items.popleft())")),
        (M("clear close", (), "None", "Send everybody away", "self.$items.clear()"),),
    ), 2, ITEMS),
    ClassKind("Tally WordCounter Counts Votes Frequency Histogram", "{Counts how often words are added|A counter of words}", (), "self.$counts:: dict[str, int] = {}", lambda rng: (), (
        (M("add count record", (("word", "str"),), "None", "Count {a word|the word once}", "self.$counts[$word] = self.$counts.get($word, 0) + 1", _w), M("add count record", (("word", "str"),), "None", "Count {a word|the word once}", "if $word in self.$counts:\n    self.$counts[$word] += 1\nelse:\n    self.$counts[$word] = 1", _w)),
        (M("get times how_often", (("word", "str"),), "int", "Return how often the word was counted", "return self.$counts.get($word, 0)", _w),),
        (M("total sum_of_counts", (), "int", "Return the sum of all counts", "return sum(self.$counts.values())"),),
        (M("most_common top winner", (), "str | None", "Return the word with the highest count, the first one added if there are several, or None if there is none", "return max(self.$counts, key=self.$counts.get, default=None)"), M("most_common top winner", (), "str | None", "Return the word with the highest count, the first one added if there are several, or None if there is none", "$best = None\nfor $word2, $n in self.$counts.items():\n    if $best is None or $n > self.$counts[$best]:\n        $best = $word2\nreturn $best")),
        (M("remove forget delete", (("word", "str"),), "None", "Forget the word and its count; do nothing if it is unknown", "self.$counts.pop($word, None)", _w),),
        (M("words known_words names", (), "list[str]", "Return all counted words in alphabetical order", "return sorted(self.$counts)"),),
        (M("merge add_all include", (("words", "list[str]"),), "None", "Count each of the words", "for $word2 in $words:\n    self.$counts[$word2] = self.$counts.get($word2, 0) + 1", lambda rng: ([rng.choice(WORDS[:4]) for _ in range(rng.randint(1, 3))],)),),
        (M("at_least frequent common", (("n", "int"),), "list[str]", "Return the words that were counted at least $n times, in alphabetical order", "return sorted($word2 for $word2, $count in self.$counts.items() if $count >= $n)", _n(1, 2)),),
        (M("__contains__", (("word", "str"),), "bool", "Return whether the word was counted", "return $word in self.$counts", _w),),
        (M("decrease uncount take_back", (("word", "str"),), "None", "Reduce the count of the word by one; forget it when it reaches 0", "if $word not in self.$counts:\n    return\nself.$counts[$word] -= 1\nif self.$counts[$word] == 0:\n    del self.$counts[$word]", _w),),
        (M("share portion", (("word", "str"),), "float", "Return the share of the word in all counts, 0.0 if there are none", "$total = sum(self.$counts.values())\nif not $total:\n    return 0.0\nreturn self.$counts.get($word, 0) / $total", _w),),
        (M("distinct __len__ variety", (), "int", "Return the number of different words", "return len(self.$counts)"),),
    ), 2, {"counts": ("counts", "_counts", "tally", "_seen", "table"), "word2": ("word_", "known", "entry", "w"), "n": ("n", "times", "minimum")}),
    ClassKind("Account BankAccount Wallet Purse SavingsAccount", "{A bank account|An account} with a balance that is never negative", (("balance", "int"),), "self.$money = $balance", lambda rng: (rng.randint(0, 60),), (
        (M("deposit pay_in put add", (("amount", "int"),), "None", "Add an amount to the balance", "self.$money += $amount", _n(1, 40)), M("deposit pay_in put add", (("amount", "int"),), "None", "Add an amount to the balance; raise ValueError if it is not positive", 'if $amount <= 0:\n    raise ValueError("amount must be positive")\nself.$money += $amount', _n(1, 40))),
        (M("withdraw take pay_out spend", (("amount", "int"),), "bool", "Subtract an amount and return True; return False and change nothing if the balance is too low", "if $amount > self.$money:\n    return False\nself.$money -= $amount\nreturn True", _n(1, 60)), M("withdraw take pay_out spend", (("amount", "int"),), "None", "Subtract an amount; raise ValueError if the balance is too low", 'if $amount > self.$money:\n    raise ValueError("balance too low")\nself.$money -= $amount', _n(1, 40)), M("withdraw take pay_out spend", (("amount", "int"),), "int", "Subtract an amount, or whatever is left if that is less, and return what was paid out", "$paid = min($amount, self.$money)\nself.$money -= $paid\nreturn $paid", _n(1, 60))),
        (M("current get_balance saldo", (), "int", "Return the balance", "return self.$money"),),
        (M("can_afford has_enough covers", (("price", "int"),), "bool", "Return whether the balance covers the price", "return self.$money >= $price", _n(1, 80)),),
        (M("add_interest grow credit_interest", (("percent", "int"),), "int", "Add so many percent to the balance, rounded down, and return the new balance", "self.$money += self.$money * $percent // 100\nreturn self.$money", _n(1, 20)),),
        (M("charge_fee take_fee", (("fee", "int"),), "None", "Subtract a fee, but never go below zero", "self.$money = max(self.$money - $fee, 0)", _n(1, 10)),),
        (M("close empty", (), "int", "Set the balance to zero and return what it was", "$rest, self.$money = self.$money, 0\nreturn $rest"),),
        (M("__repr__", (), "str", "Show the balance", 'return f"CLS({self.$money})"'),),
        (M("missing lacking shortfall", (("price", "int"),), "int", "Return how much is missing to pay the price, 0 if nothing is", "return max($price - self.$money, 0)", _n(10, 90)),),
        (M("split divide", (("n", "int"),), "list[int]", "Return the balance in $n parts that differ by at most 1, the larger ones first", "$part, $rest = divmod(self.$money, $n)\nreturn [$part + 1] * $rest + [$part] * ($n - $rest)", _n(2, 4)),),
    ), 2, {"money": ("balance", "_balance", "money", "_money", "amount_left"), "balance": ("balance", "start", "opening", "money"), "n": ("n", "people", "parts"), "paid": ("paid", "taken", "given")}),
    ClassKind("Inventory Store Warehouse Stock Shelf Pantry", "{An inventory|A store} of named items and how many there are of each", (), "self.$counts:: dict[str, int] = {}", lambda rng: (), (
        (M("add put receive", (("item", "str"), ("n", "int")), "None", "Add so many of an item", "self.$counts[$item] = self.$counts.get($item, 0) + $n", _wn),),
        (M("remove take sell", (("item", "str"), ("n", "int")), "bool", "Take away so many of an item and return True; return False and change nothing if there are fewer", "if self.$counts.get($item, 0) < $n:\n    return False\nself.$counts[$item] -= $n\nreturn True", _wn), M("remove take sell", (("item", "str"), ("n", "int")), "int", "Take away so many of an item, or all if there are fewer, and return how many were taken", "$taken = min($n, self.$counts.get($item, 0))\nif $taken:\n    self.$counts[$item] -= $taken\nreturn $taken", _wn)),
        (M("count amount_of how_many", (("item", "str"),), "int", "Return how many there are of an item", "return self.$counts.get($item, 0)", _w),),
        (M("total total_count size", (), "int", "Return how many things there are in all", "return sum(self.$counts.values())"),),
        (M("missing sold_out empty_items", (), "list[str]", "Return the sorted names of all items of which none is left", "return sorted($name for $name, $k in self.$counts.items() if $k == 0)"),),
        (M("low running_low below", (("limit", "int"),), "list[str]", "Return the sorted names of all items of which there are fewer than the limit", "return sorted($name for $name, $k in self.$counts.items() if $k < $limit)", _n(2, 6)),),
        (M("largest most_of biggest", (), "str | None", "Return the item of which there are most, the one added first in case of a tie, or None if there is none", "if not self.$counts:\n    return None\nreturn max(self.$counts, key=self.$counts.get)"),),
        (M("__contains__", (("item", "str"),), "bool", "Return whether there is at least one of an item", "return self.$counts.get($item, 0) > 0", _w),),
        (M("names items known", (), "list[str]", "Return the names of all items of which there is at least one, sorted", "return sorted($name for $name in self.$counts if self.$counts[$name])"),),
        (M("value worth price_of_all", (("prices", "dict[str, int]"),), "int", "Return what everything costs; items without a price cost nothing", "return sum($k * $prices.get($name, 0) for $name, $k in self.$counts.items())", lambda rng: ({"apple": 3, "tea": 5},)),),
        (M("move_to rename relabel", (("old", "str"), ("new", "str")), "None", "Give all of one item another name; do nothing if it is unknown", "if $old in self.$counts:\n    $k = self.$counts.pop($old)\n    self.$counts[$new] = self.$counts.get($new, 0) + $k", lambda rng: ("apple", rng.choice(("pear", "fruit")))),),
    ), 2, {"counts": ("counts", "_stock", "stock", "_counts", "amounts"), "k": ("count", "left", "number", "quantity"), "n": ("n", "amount", "number", "quantity")}),
    ClassKind("Interval Range Span Segment TimeSlot", "{A closed interval|An interval} of integers, both ends included", (("a", "int"), ("b", "int")), "self.$low = $a\nself.$high = $b", lambda rng: (lambda x: (x, x + rng.randint(1, 9)))(rng.randint(-5, 9)), (
        (M("contains includes covers", (("x", "int"),), "bool", "Return whether a number lies in the interval", "return self.$low <= $x <= self.$high", _n(-5, 15)),),
        (M("length width extent", (), "int", "Return the difference of the two ends", "return self.$high - self.$low"), M("count size number_of_points", (), "int", "Return how many integers lie in the interval", "return self.$high - self.$low + 1")),
        (M("shifted moved", (("n", "int"),), "tuple[int, int]", "Return the two ends moved by $n", "return self.$low + $n, self.$high + $n", _n(1, 5)),),
        (M("clamp nearest limit", (("x", "int"),), "int", "Return the number of the interval that is nearest to $x", "return max(self.$low, min($x, self.$high))", _n(-9, 20)), M("clamp nearest limit", (("x", "int"),), "int", "Return the number of the interval that is nearest to $x", "if $x < self.$low:\n    return self.$low\nif $x > self.$high:\n    return self.$high\nreturn $x", _n(-9, 20))),
        (M("middle centre midpoint", (), "float", "Return the {middle|mean} of the two ends", "return (self.$low + self.$high) / 2"),),
        (M("overlaps meets touches", (("a2", "int"), ("b2", "int")), "bool", "Return whether the interval has a number in common with the one from the first to the second argument", "return self.$low <= $b2 and $a2 <= self.$high", lambda rng: (lambda x: (x, x + 3))(rng.randint(-5, 12))),),
        (M("common intersection shared", (("a2", "int"), ("b2", "int")), "tuple[int, int] | None", "Return the ends of what the interval has in common with the one given by its ends, or None if that is nothing", "$left, $right = max(self.$low, $a2), min(self.$high, $b2)\nreturn ($left, $right) if $left <= $right else None", lambda rng: (lambda x: (x, x + 3))(rng.randint(-5, 12))),),
        (M("values numbers points", (), "list[int]", "Return all integers of the interval", "return list(range(self.$low, self.$high + 1))"),),
        (M("halves split parts", (), "list[tuple[int, int]]", "Return the ends of the two halves, the first one being the larger if they are not equal", "$mid = (self.$low + self.$high) // 2\nreturn [(self.$low, $mid), ($mid + 1, self.$high)]"),),
        (M("widen grow extend", (("n", "int"),), "None", "Move both ends outwards by $n", "self.$low -= $n\nself.$high += $n", _n(1, 4)),),
        (M("distance distance_to gap", (("x", "int"),), "int", "Return how far a number is from the interval, 0 if it lies in it", "return max(self.$low - $x, $x - self.$high, 0)", _n(-9, 20)),),
        (M("__repr__", (), "str", "Show both ends", 'return f"[{self.$low}, {self.$high}]"'),),
        (M("multiples multiples_of", (("n", "int"),), "list[int]", "Return all multiples of $n in the interval", "return [$i for $i in range(self.$low, self.$high + 1) if $i % $n == 0]", _n(2, 4)),),
    ), 2, {"low": ("low", "start", "left", "begin", "_low", "first"), "high": ("high", "end", "right", "stop", "_high", "last"), "a": ("low", "start", "a", "left"), "b": ("high", "end", "b", "right"), "a2": ("other_low", "c", "other_start"), "b2": ("other_high", "d", "other_end"), "n": ("n", "steps", "by", "amount"), "x": ("x", "value", "number")}),
    ClassKind("Point Vector Position Vec2 Location", "{A point|A vector} in the plane", (("x", "int"), ("y", "int")), "self.$px = $x\nself.$py = $y", lambda rng: (rng.randint(-5, 9), rng.randint(-5, 9)), (
        (M("move shift translate", (("a", "int"), ("b", "int")), "None", "Add the arguments to the coordinates", "self.$px += $a\nself.$py += $b", lambda rng: (rng.randint(-3, 3), rng.randint(1, 5))),),
        (M("as_tuple coordinates pair", (), "tuple[int, int]", "Return both coordinates", "return self.$px, self.$py"),),
        (M("manhattan steps_to grid_distance", (("a", "int"), ("b", "int")), "int", "Return how many steps along the axes it takes to the point with the given coordinates", "return abs(self.$px - $a) + abs(self.$py - $b)", lambda rng: (rng.randint(-3, 9), rng.randint(-5, 5))),),
        (M("scaled times multiplied", (("n", "int"),), "tuple[int, int]", "Return the coordinates multiplied by a number", "return self.$px * $n, self.$py * $n", _n(2, 5)),),
        (M("dot scalar_product", (("a", "int"), ("b", "int")), "int", "Return the scalar product with the given vector", "return self.$px * $a + self.$py * $b", lambda rng: (rng.randint(-3, 3), rng.randint(1, 5))),),
        (M("squared_length norm_squared", (), "int", "Return the square of the length", "return self.$px**2 + self.$py**2"),),
        (M("quadrant sector", (), "int", "Return the quadrant (1 to 4, against the clock from the upper right), or 0 on an axis", "if self.$px == 0 or self.$py == 0:\n    return 0\nif self.$py > 0:\n    return 1 if self.$px > 0 else 2\nreturn 3 if self.$px < 0 else 4"),),
        (M("mirror flip reflect", (), "None", "Mirror the point at the vertical axis", "self.$px = -self.$px"),),
        (M("turn rotate turn_left", (), "None", "Turn it by 90 degrees to the left around the origin", "self.$px, self.$py = -self.$py, self.$px"),),
        (M("is_origin at_origin", (), "bool", "Return whether both coordinates are 0", "return self.$px == 0 and self.$py == 0"), M("is_origin at_origin", (), "bool", "Return whether both coordinates are 0", "return not (self.$px or self.$py)")),
        (M("__repr__", (), "str", "Show the coordinates", 'return f"({self.$px}, {self.$py})"'),),
        (M("neighbours next_to", (), "list[tuple[int, int]]", "Return the four points beside it: right, left, above, below", "return [\n    (self.$px + 1, self.$py),\n    (self.$px - 1, self.$py),\n    (self.$px, self.$py + 1),\n    (self.$px, self.$py - 1),\n]"),),
    ), 2, {"px": ("x", "_x"), "py": ("y", "_y"), "x": ("x",), "y": ("y",), "a": ("dx", "a", "other_x"), "b": ("dy", "b", "other_y"), "n": ("factor", "n", "k")}),
    ClassKind("Scoreboard Ranking Leaderboard Scores HighScores", "{The scores of players|A table of players and their points}", (), "self.$counts:: dict[str, int] = {}", lambda rng: (), (
        (M("add_points score award", (("name", "str"), ("points", "int")), "None", "Add points to the score of a player, who starts with 0", "self.$counts[$name] = self.$counts.get($name, 0) + $points", _wn), M("record_score enter submit", (("name", "str"), ("points", "int")), "None", "Remember the points of a player if they are more than those before", "self.$counts[$name] = max($points, self.$counts.get($name, $points))", _wn)),
        (M("ranking ranked standings", (), "list[str]", "Return all players, the best one first, ties in alphabetical order", "return sorted(self.$counts, key=lambda $key: (-self.$counts[$key], $key))"),),
        (M("leader winner best_player", (), "str | None", "Return the player with the most points, the first in the alphabet in case of a tie, or None without players", "if not self.$counts:\n    return None\nreturn min(self.$counts, key=lambda $key: (-self.$counts[$key], $key))"),),
        (M("points_of score_of get", (("name", "str"),), "int", "Return the points of a player, 0 if the player is unknown", "return self.$counts.get($name, 0)", _w),),
        (M("average mean_score", (), "float", "Return the mean of all scores, 0.0 without players", "if not self.$counts:\n    return 0.0\nreturn sum(self.$counts.values()) / len(self.$counts)"),),
        (M("above better_than at_least", (("points", "int"),), "list[str]", "Return the sorted names of all players with more points than given", "return sorted($key for $key, $value in self.$counts.items() if $value > $points)", _n(2, 8)),),
        (M("place rank position", (("name", "str"),), "int | None", "Return the place of a player, 1 plus the number of players with more points, or None if unknown", "if $name not in self.$counts:\n    return None\nreturn 1 + sum($value > self.$counts[$name] for $value in self.$counts.values())", _w),),
        (M("remove disqualify drop", (("name", "str"),), "bool", "Remove a player and return whether the player was known", "return self.$counts.pop($name, None) is not None", _w),),
        (M("reset clear restart", (), "None", "Set the score of every player to 0", "for $key in self.$counts:\n    self.$counts[$key] = 0"),),
        (M("gap lead", (), "int", "Return by how many points the best player leads the second, 0 with fewer than two players", "$values = sorted(self.$counts.values(), reverse=True)\nreturn $values[0] - $values[1] if len($values) > 1 else 0"),),
        (M("rows as_pairs table", (), "list[tuple[str, int]]", "Return pairs of player and points, most points first, ties in alphabetical order", "return sorted(self.$counts.items(), key=lambda $pair: (-$pair[1], $pair[0]))"),),
    ), 2, {"counts": ("scores", "_scores", "points_by_player", "_points", "table"), "name": ("player", "name", "who"), "values": ("values", "scores_", "ordered")}),
    ClassKind("RecentCache Cache LimitedCache LruCache Memory", "A cache that keeps the entries used last and drops the oldest beyond its capacity", (("capacity", "int"),), "self.$limit = $capacity\nself.$items = $OrderedDict()", lambda rng: (rng.randint(1, 3),), (
        (M("put store set", (("key", "str"), ("value", "int")), "None", "Store a value under a key as the one used last; drop the entry that was not used for longest if there are too many", "self.$items[$key] = $value\nself.$items.move_to_end($key)\nif len(self.$items) > self.$limit:\n    self.$items.popitem(last=False)", _wn),),
        (M("get fetch lookup", (("key", "str"),), "int | None", "Return the value under a key, which counts as use, or None if it is not there", "if $key not in self.$items:\n    return None\nself.$items.move_to_end($key)\nreturn self.$items[$key]", _w),),
        (LEN,), (M("__contains__", (("key", "str"),), "bool", "Return whether a key is there; that is no use", "return $key in self.$items", _w),),
        (M("keys order names", (), "list[str]", "Return all keys, the one used last at the end", "return list(self.$items)"),),
        (M("clear forget_all empty", (), "None", "Remove all entries", "self.$items.clear()"),),
        (M("oldest next_to_go", (), "str | None", "Return the key that was not used for longest, or None if there are no entries", "return next(iter(self.$items), None)"),),
        (M("resize set_capacity", (("n", "int"),), "None", "Change the capacity and drop what is too much", "self.$limit = $n\nwhile len(self.$items) > $n:\n    self.$items.popitem(last=False)", _n(1, 3)),),
        (M("is_full full", (), "bool", "Return whether the next new key will push one out", "return len(self.$items) >= self.$limit"),),
        (M("pop remove discard", (("key", "str"),), "int | None", "Remove a key and return its value, or None if it is not there", "return self.$items.pop($key, None)", _w),),
    ), 2, {"items": ("items", "_items", "entries", "_entries", "store", "_data"), "limit": ("capacity", "limit", "_capacity", "size"), "n": ("capacity", "n", "size")}),
    ClassKind("Turnstile Door Machine Switch Gate", "A device that is {switched between states|in one of several states}", (), 'self.$state = "off"\nself.$count = 0', lambda rng: (), (
        (M("toggle press push", (), "str", "Change from off to on or back and return the new state", 'self.$state = "on" if self.$state == "off" else "off"\nself.$count += 1\nreturn self.$state'),),
        (M("turn_on start enable", (), "bool", "Switch it on and return whether it was off before", 'if self.$state == "on":\n    return False\nself.$state = "on"\nself.$count += 1\nreturn True'),),
        (M("turn_off stop disable", (), "bool", "Switch it off and return whether it was on before", '$old, self.$state = self.$state, "off"\nreturn $old == "on"'),),
        (M("is_on active running", (), "bool", "Return whether it is on", 'return self.$state == "on"'),),
        (M("changes uses cycles", (), "int", "Return how often it was switched on or toggled", "return self.$count"),),
        (M("worn_out needs_service", (("limit", "int"),), "bool", "Return whether it was switched on or toggled more often than the limit", "return self.$count > $limit", _n(0, 3)),),
        (M("reset", (), "None", "Switch it off and forget how often it was used", 'self.$state = "off"\nself.$count = 0'),),
        (M("__repr__", (), "str", "Show the state", 'return f"<{self.$state}>"'),),
    ), 2, {"state": ("state", "_state", "mode"), "count": ("count", "_count", "uses_", "n_changes"), "old": ("old", "before", "former")}),
    ClassKind("Matrix Grid Table Board", "{A matrix of integers|A table of integers}, given as a list of rows", (("rows", "list[list[int]]"),), "self.$items = [list($row) for $row in $rows]", lambda rng: (lambda w: ([[rng.randint(0, 9) for _ in range(w)] for _ in range(rng.randint(1, 3))],))(rng.randint(1, 3)), (
        (M("get at cell", (("i", "int"), ("j", "int")), "int | None", "Return the number in row $i and column $j, or None if there is no such place", "if 0 <= $i < len(self.$items) and 0 <= $j < len(self.$items[0]):\n    return self.$items[$i][$j]\nreturn None", lambda rng: (rng.randint(0, 2), rng.randint(0, 1))),),
        (M("shape size dimensions", (), "tuple[int, int]", "Return the numbers of rows and columns", "return len(self.$items), len(self.$items[0])"),),
        (M("row_sums sums_of_rows", (), "list[int]", "Return the sum of each row", "return [sum($row) for $row in self.$items]"),),
        (M("column get_column", (("j", "int"),), "list[int]", "Return the column with index $j", "return [$row[$j] for $row in self.$items]", lambda rng: (0,)),),
        (M("transposed flipped", (), "list[list[int]]", "Return the rows of the transposed matrix", "return [list($row) for $row in zip(*self.$items)]"),),
        (M("scale multiply", (("n", "int"),), "None", "Multiply every number by $n", "for $row in self.$items:\n    for $j2 in range(len($row)):\n        $row[$j2] *= $n", _n(2, 4)), M("scale multiply", (("n", "int"),), "None", "Multiply every number by $n", "self.$items = [[$n * $x for $x in $row] for $row in self.$items]", _n(2, 4))),
        (M("largest maximum", (), "int", "Return the largest number", "return max(max($row) for $row in self.$items)"), M("largest maximum", (), "int", "Return the largest number", "return max($x for $row in self.$items for $x in $row)")),
        (M("total sum_of_all", (), "int", "Return the sum of all numbers", "return sum(map(sum, self.$items))"),),
        (M("swap_rows exchange_rows", (("i", "int"), ("j", "int")), "None", "Exchange the rows with index $i and $j", "self.$items[$i], self.$items[$j] = self.$items[$j], self.$items[$i]", lambda rng: (0, -1)),),
        (M("is_square square", (), "bool", "Return whether there are as many rows as columns", "return len(self.$items) == len(self.$items[0])"),),
        (M("add_row append", (("row", "list[int]"),), "None", "Add a row at the bottom; raise ValueError if its length differs", 'if len($row) != len(self.$items[0]):\n    raise ValueError("wrong length")\nself.$items.append(list($row))'),),
        (M("count occurrences", (("x", "int"),), "int", "Return how often a number occurs", "return sum($row.count($x) for $row in self.$items)", _n(0, 9)),),
    ), 2, {"items": ("rows", "_rows", "cells", "data", "_data"), "rows": ("rows", "values", "numbers"), "i": ("i", "row_index", "r"), "j": ("j", "column_index", "c"), "n": ("n", "factor", "k"), "x": ("x", "value", "number")}),
    ClassKind("History Undo Editor TextBuffer Draft", "A text with changes that can be taken back", (("text", "str"),), "self.$value = $text\nself.$items:: list[str] = []", lambda rng: (rng.choice(("", "ab", "note")),), (
        (M("append write add", (("part", "str"),), "None", "Add something at the end", "self.$items.append(self.$value)\nself.$value += $part", _w),),
        (M("undo back revert", (), "bool", "Take the last change back and return True, or return False if there is none", "if not self.$items:\n    return False\nself.$value = self.$items.pop()\nreturn True"),),
        (M("content get_text current", (), "str", "Return the text", "return self.$value"),),
        (M("erase delete cut", (("n", "int"),), "str", "Remove the last $n characters, or all if there are fewer, and return them", "self.$items.append(self.$value)\n$at = max(len(self.$value) - $n, 0)\n$cut, self.$value = self.$value[$at:], self.$value[:$at]\nreturn $cut", _n(1, 4)),),
        (M("changes steps", (), "int", "Return how many changes can be taken back", "return len(self.$items)"),),
        (M("replace substitute", (("old", "str"), ("new", "str")), "int", "Replace every occurrence of the first string by the second and return how many there were", "$count = self.$value.count($old)\nif $count:\n    self.$items.append(self.$value)\n    self.$value = self.$value.replace($old, $new)\nreturn $count", lambda rng: (rng.choice("aept"), rng.choice("xyz"))),),
        (M("reverse turn_around mirror", (), "None", "Write the text backwards", "self.$items.append(self.$value)\nself.$value = self.$value[::-1]"),),
        (M("words split_words", (), "list[str]", "Return the words of the text", "return self.$value.split()"),),
        (M("undo_all reset", (), "str", "Take all changes back and return the text", "if self.$items:\n    self.$value = self.$items[0]\n    self.$items.clear()\nreturn self.$value"),),
        (M("__len__", (), "int", "Return the number of characters", "return len(self.$value)"),),
        (M("insert put_in", (("i", "int"), ("part", "str")), "None", "Put something in before the character with index $i", "self.$items.append(self.$value)\nself.$value = self.$value[:$i] + $part + self.$value[$i:]", lambda rng: (rng.randint(0, 2), rng.choice("xyz"))),),
    ), 3, {"value": ("text", "_text", "value", "content_"), "items": ("history", "_history", "former", "_undo", "versions"), "text": ("text", "start", "initial"), "at": ("keep", "end", "cut_at"), "cut": ("removed", "cut_off", "erased"), "n": ("n", "count", "number")}),
    ClassKind("Clock Timer Watch DayTime", "A time of day in hours and minutes", (("hours", "int"), ("minutes", "int")), "self.$minutes2 = ($hours * 60 + $minutes) % 1440", lambda rng: (rng.randint(0, 23), rng.randint(0, 59)), (
        (M("advance forward add", (("n", "int"),), "None", "Move the time $n minutes ahead; after midnight it starts anew", "self.$minutes2 = (self.$minutes2 + $n) % 1440", _n(5, 900)),),
        (M("show text display", (), "str", "Return the time in the form HH:MM", 'return f"{self.$minutes2 // 60:02}:{self.$minutes2 % 60:02}"'), M("show text display", (), "str", "Return the time in the form HH:MM", '$hour, $minute = divmod(self.$minutes2, 60)\nreturn f"{$hour:02}:{$minute:02}"')),
        (M("is_morning before_noon", (), "bool", "Return whether it is before noon", "return self.$minutes2 < 720"),),
        (M("minutes_until wait_for", (("hours", "int"), ("minutes", "int")), "int", "Return how many minutes it takes until the given time comes next, 0 if it is now", "return ($hours * 60 + $minutes - self.$minutes2) % 1440", lambda rng: (rng.randint(0, 23), rng.choice((0, 15, 30)))),),
        (M("rewind back subtract", (("n", "int"),), "None", "Move the time $n minutes back", "self.$minutes2 = (self.$minutes2 - $n) % 1440", _n(5, 900)),),
        (M("hour get_hour", (), "int", "Return the hour", "return self.$minutes2 // 60"),),
        (M("since_midnight total_minutes", (), "int", "Return the minutes since midnight", "return self.$minutes2"),),
        (M("twelve_hours am_pm", (), "str", "Return the time with am or pm, such as 3:05 pm; midnight is 12:00 am", '$hour, $minute = divmod(self.$minutes2, 60)\n$half = "am" if $hour < 12 else "pm"\nreturn f"{($hour - 1) % 12 + 1}:{$minute:02} {$half}"'),),
        (M("round_down to_quarter", (), "None", "Go back to the last full quarter of an hour", "self.$minutes2 -= self.$minutes2 % 15"),),
        (M("same_as shows", (("hours", "int"), ("minutes", "int")), "bool", "Return whether it shows the given time", "return divmod(self.$minutes2, 60) == ($hours, $minutes)", lambda rng: (rng.randint(0, 23), 0)),),
    ), 2, {"minutes2": ("minutes", "_minutes", "now", "total"), "hours": ("hours", "hour", "h"), "minutes": ("minutes", "minute", "m"), "hour": ("hour", "h", "hh"), "minute": ("minute", "m", "mm"), "n": ("n", "amount", "delta"), "half": ("half", "suffix", "part")}),
    ClassKind("PriorityList TaskList Agenda ToDo Schedule", "Tasks with a priority, of which the most urgent (smallest number) comes first", (), "self.$items:: list[tuple[int, str]] = []", lambda rng: (), (
        (M("add plan insert", (("task", "str"), ("priority", "int")), "None", "Add a task with its priority", "$heappush(self.$items, ($priority, $task))", _wn), M("add plan insert", (("task", "str"), ("priority", "int")), "None", "Add a task with its priority", "self.$items.append(($priority, $task))\nself.$items.sort()", _wn)),
        (M("next_task pop do_next", (), "str | None", "Remove the most urgent task, the first in the alphabet in case of a tie, and return it, or None if there is none", "if not self.$items:\n    return None\n$best = min(self.$items)\nself.$items.remove($best)\nself.$items.sort()\nreturn $best[1]"),),
        (M("urgent first_tasks", (("limit", "int"),), "list[str]", "Return the tasks with a priority number up to the limit, most urgent first", "return [$task2 for $n, $task2 in sorted(self.$items) if $n <= $limit]", _n(2, 7)),),
        (M("peek upcoming", (), "str | None", "Return the most urgent task without removing it, or None if there is none", "return min(self.$items)[1] if self.$items else None"),),
        (LEN,), (M("all_tasks listing", (), "list[str]", "Return all tasks, most urgent first", "return [$task2 for _, $task2 in sorted(self.$items)]"),),
        (M("priority_of urgency", (("task", "str"),), "int | None", "Return the smallest priority number of a task, or None if it is unknown", "return min(($n for $n, $task2 in self.$items if $task2 == $task), default=None)", _w),),
        (M("postpone delay_all", (("n2", "int"),), "None", "Raise all priority numbers by $n2", "self.$items = [($n + $n2, $task2) for $n, $task2 in self.$items]", _n(1, 3)),),
        (M("cancel drop", (("task", "str"),), "int", "Remove every entry of a task and return how many there were", "$kept = [$pair for $pair in self.$items if $pair[1] != $task]\n$n = len(self.$items) - len($kept)\nself.$items = $kept\nreturn $n", _w),),
    ), 2, {"items": ("tasks", "_tasks", "entries", "_heap", "queue"), "task2": ("name", "entry", "other"), "n": ("priority_", "number", "p", "rank"), "n2": ("n", "amount", "by"), "task": ("task", "title", "what"), "priority": ("priority", "urgency_", "prio")}),
    ClassKind("MovingAverage Statistics Sampler Series Meter", "Numbers that come in one by one, and {their statistics|what is known of them}", (), "self.$items:: list[int] = []", lambda rng: (), (
        (M("add record feed", (("x", "int"),), "None", "{Take a number in|Remember a number}", "self.$items.append($x)", _n(-5, 20)),),
        (M("mean average", (), "float", "Return the mean of all numbers, 0.0 if there are none", "return sum(self.$items) / len(self.$items) if self.$items else 0.0"), M("mean average", (), "float", "Return the mean of all numbers, 0.0 if there are none", "if not self.$items:\n    return 0.0\nreturn sum(self.$items) / len(self.$items)")),
        (M("median middle_value", (), "float | None", "Return the median, the mean of the two middle numbers if their count is even, or None if there are none", "if not self.$items:\n    return None\n$out = sorted(self.$items)\n$n = len($out)\nif $n % 2:\n    return float($out[$n // 2])\nreturn ($out[$n // 2 - 1] + $out[$n // 2]) / 2"),),
        (M("recent last_mean", (("n2", "int"),), "float", "Return the mean of the last $n2 numbers, or of all if there are fewer; 0.0 if there are none", "$part = self.$items[-$n2:]\nreturn sum($part) / len($part) if $part else 0.0", _n(1, 3)),),
        (M("spread extent", (), "int", "Return the difference of the largest and the smallest number, 0 if there are none", "return max(self.$items) - min(self.$items) if self.$items else 0"),),
        (LEN,), (M("record_high is_record", (), "bool", "Return whether the last number is greater than all before it; a first number always is", "if not self.$items:\n    return False\nreturn all($x2 < self.$items[-1] for $x2 in self.$items[:-1])"),),
        (M("above count_above", (("x", "int"),), "int", "Return how many numbers are greater than the given one", "return sum($x2 > $x for $x2 in self.$items)", _n(0, 9)),),
        (M("differences steps", (), "list[int]", "Return the differences between neighbouring numbers, later minus earlier", "return [$b - $a for $a, $b in zip(self.$items, self.$items[1:])]"),),
        (M("trend direction", (), "str", 'Return "up", "down" or "flat" as the last number is greater than, less than or equal to the first one; "flat" if there are none', 'if not self.$items or self.$items[0] == self.$items[-1]:\n    return "flat"\nreturn "up" if self.$items[-1] > self.$items[0] else "down"'),),
        (M("without_extremes trimmed", (), "list[int]", "Return the numbers in ascending order without the smallest and the largest one", "return sorted(self.$items)[1:-1]"),),
        (M("forget trim keep_last", (("n2", "int"),), "None", "Keep the last $n2 numbers only", "self.$items = self.$items[-$n2:]", _n(1, 4)),),
    ), 2, {"items": ("numbers", "_numbers", "values", "samples", "_values", "data"), "x": ("x", "number", "value"), "x2": ("other", "v", "y"), "n2": ("n", "count", "size"), "n": ("n", "length", "size_"), "out": ("ordered", "ranked", "in_order")}),
    ClassKind("Graph Network RoadMap Friends Links", "{An undirected graph|A network of links that go both ways}", (), "self.$table:: dict[str, set[str]] = {}", lambda rng: (), (
        (M("connect link add_edge", (("a", "str"), ("b", "str")), "None", "Link two nodes with each other", "self.$table.setdefault($a, set()).add($b)\nself.$table.setdefault($b, set()).add($a)", lambda rng: tuple(rng.sample("abcde", 2))), M("connect link add_edge", (("a", "str"), ("b", "str")), "None", "Link two nodes with each other", "for $x, $y in (($a, $b), ($b, $a)):\n    if $x not in self.$table:\n        self.$table[$x] = set()\n    self.$table[$x].add($y)", lambda rng: tuple(rng.sample("abcde", 2)))),
        (M("neighbours linked_to friends_of", (("a", "str"),), "list[str]", "Return the sorted nodes that are linked with the given one", "return sorted(self.$table.get($a, ()))", lambda rng: (rng.choice("abcde"),)),),
        (M("are_linked has_edge", (("a", "str"), ("b", "str")), "bool", "Return whether two nodes are linked directly", "return $b in self.$table.get($a, ())", lambda rng: tuple(rng.sample("abcde", 2))),),
        (M("degree count_links", (("a", "str"),), "int", "Return how many links the node has", "return len(self.$table.get($a, ()))", lambda rng: (rng.choice("abcde"),)),),
        (M("reachable component", (("a", "str"),), "list[str]", "Return the sorted nodes that can be reached from the given one over any number of links, itself included", "$seen = {$a}\n$stack = [$a]\nwhile $stack:\n    for $y2 in self.$table.get($stack.pop(), ()):\n        if $y2 not in $seen:\n            $seen.add($y2)\n            $stack.append($y2)\nreturn sorted($seen)", lambda rng: (rng.choice("abcde"),)),),
        (M("distance steps_between", (("a", "str"), ("b", "str")), "int | None", "Return the smallest number of links between two nodes, or None if there is no way", "$known = {$a: 0}\n$queue = $deque([$a])\nwhile $queue:\n    $x2 = $queue.popleft()\n    if $x2 == $b:\n        return $known[$x2]\n    for $y2 in sorted(self.$table.get($x2, ())):\n        if $y2 not in $known:\n            $known[$y2] = $known[$x2] + 1\n            $queue.append($y2)\nreturn None", lambda rng: tuple(rng.sample("abcde", 2))),),
        (M("nodes names", (), "list[str]", "Return all nodes in alphabetical order", "return sorted(self.$table)"),),
        (M("edge_count number_of_links", (), "int", "Return the number of links", "return sum(map(len, self.$table.values())) // 2"),),
        (M("common shared", (("a", "str"), ("b", "str")), "list[str]", "Return the sorted nodes that are linked with both given ones", "return sorted(self.$table.get($a, set()) & self.$table.get($b, set()))", lambda rng: tuple(rng.sample("abcde", 2))),),
        (M("remove cut disconnect", (("a", "str"), ("b", "str")), "None", "Remove the link between two nodes if there is one", "self.$table.get($a, set()).discard($b)\nself.$table.get($b, set()).discard($a)", lambda rng: tuple(rng.sample("abcde", 2))),),
        (M("busiest hub", (), "str | None", "Return the node with the most links, the first in the alphabet in case of a tie, or None if there is none", "return min(self.$table, key=lambda $x2: (-len(self.$table[$x2]), $x2), default=None)"),),
    ), 2, {"table": ("links", "_links", "edges", "_neighbours", "adjacent"), "a": ("a", "node", "start", "one"), "b": ("b", "other", "goal", "two"), "x": ("x", "p", "left"), "y": ("y", "q", "right"), "x2": ("current", "here", "at"), "y2": ("following", "nxt", "near"), "known": ("steps", "known", "distances")}),
    ClassKind("Library Lending Rental Catalogue", "Things that can be lent to people", (("titles", "list[str]"),), "self.$table:: dict[str, str | None] = dict.fromkeys($titles)", lambda rng: (rng.sample(WORDS[:4], rng.randint(2, 3)),), (
        (M("lend lend_to borrow", (("title", "str"), ("person", "str")), "bool", "Lend a thing to a person and return True; return False if it is unknown or away", "if $title not in self.$table or self.$table[$title] is not None:\n    return False\nself.$table[$title] = $person\nreturn True", lambda rng: (rng.choice(WORDS[:4]), rng.choice(("Ann", "Bob")))),),
        (M("give_back take_back bring_back", (("title", "str"),), "bool", "Take a thing back and return whether it was lent", "if self.$table.get($title) is None:\n    return False\nself.$table[$title] = None\nreturn True", _w),),
        (M("available at_home on_shelf", (), "list[str]", "Return the sorted names of what is not lent", "return sorted($key for $key, $value in self.$table.items() if $value is None)"),),
        (M("who_has holder lent_to", (("title", "str"),), "str | None", "Return who has a thing, or None if nobody has it", "return self.$table.get($title)", _w),),
        (M("lent_count number_lent", (), "int", "Return how many things are lent", "return sum($value is not None for $value in self.$table.values())"),),
        (M("things_of borrowed_by", (("person", "str"),), "list[str]", "Return the sorted names of what a person has borrowed", "return sorted($key for $key, $value in self.$table.items() if $value == $person)", lambda rng: (rng.choice(("Ann", "Bob")),)),),
        (M("add acquire", (("title", "str"),), "None", "Add a thing unless it is there already", "self.$table.setdefault($title, None)", _w),),
        (M("borrowers people", (), "list[str]", "Return the sorted names of all who have something, each once", "return sorted({$value for $value in self.$table.values() if $value is not None})"),),
    ), 2, {"table": ("lent", "_lent", "holders", "_holders", "state"), "titles": ("titles", "things", "names"), "title": ("title", "thing", "name"), "person": ("person", "who", "reader"), "key": ("key", "item", "entry"), "value": ("holder", "owner", "by")}),
)  # fmt: skip


def make_class(rng: Random) -> Exercise:
    """A class with some of the methods of its kind, run by a script of calls."""
    kind = rng.choice(KINDS)
    name = rng.choice(kind.names.split())
    chosen = [rng.choice(variants) for variants in kind.methods[: kind.always]]
    more = list(kind.methods[kind.always :])
    picked = sorted(rng.sample(range(len(more)), min(len(more), rng.choice((0, 1, 1, 2, 2, 3, 4)))))
    chosen += [rng.choice(more[i]) for i in picked]
    look = Look.draw(rng)
    flavour, quote = look.types, look.quote
    imports: set[tuple[str, str]] = set()
    attributes = Names(rng, kind.pools, ())
    taken = [rng.choice(method.names.split()) for method in chosen]
    if len(set(taken)) < len(taken):
        raise RejectedError("two methods of one name")
    for role in dict.fromkeys(re.findall(r"self\.\$(\w+)", kind.body)):
        attributes.claim(role, [n for n in kind.pools.get(role, (role,)) if n not in taken] or [f"{role}_"])
    shown = dict(attributes.chosen)
    blocks = []
    prose = [say(rng, kind.doc) + "."]

    def method_text(label: str, params: tuple[tuple[str, str], ...], returns: str, body: str, doc: str | None) -> str:
        spare = {role: (role.rstrip("0123456789"),) for role in SLOT.findall(body) if role.rstrip("0123456789") not in POOLS and role not in IMPORTS}
        local = Names(rng, {**spare, **kind.pools}, ())
        code = re.sub(r"self\.\$(\w+)", lambda m: f"self.{shown[m[1]]}", body)
        written = ["self"]
        for role, type_ in params:
            pool = kind.pools.get(role, (role.rstrip("0123456789"),))
            entry = local.claim(role, [p for p in pool if not p.startswith("_")] or [role])
            if flavour:
                text, needed = annotation(type_, flavour)
                imports.update(needed)
                entry += f": {text}"
            written.append(entry)
        result = None
        if flavour:
            result, needed = annotation(returns, flavour)
            imports.update(needed)
        code = local.fill(code).replace("CLS(", f"{name}(")
        imports.update(local.imports)
        code, needed = local_types(code, flavour)
        imports.update(needed)
        if quote == "'":
            code = requote(code)
        head = signature(label, written, result)
        parts = [head]
        if doc:
            parts.append(indent(_doc(local.fill(doc))))
        parts.append(indent(code))
        return "\n".join(parts)

    documented = rng.random() < 0.85
    person = rng.random() < 0.25
    try:
        if kind.params or kind.body:
            blocks.append(method_text("__init__", kind.params, "None", kind.body, None))
        for method, label in zip(chosen, taken, strict=True):
            sentence = say(rng, method.doc)
            prose.append(sentence)
            if person:
                first, _, rest = sentence.partition(" ")
                rest = re.sub(
                    r"(and|or|;|,) (return|change|raise|drop|do|forget) ",
                    lambda m: f"{m[1]} {third(m[2])} ",
                    rest,
                )
                sentence = f"{third(first)} {rest}"
            doc = sentence + "." if documented else None
            blocks.append(method_text(label, method.params, method.returns, method.body, doc))
        inner = fit_all("\n\n".join(indent(block) for block in blocks))
    except TooLongError:
        raise RejectedError("a line too long") from None
    top = import_lines(imports)
    variable = rng.choice(
        (
            name[0].lower(),
            name.lower(),
            "obj",
            "x",
            name.lower()[:3] if name.lower()[:3].isidentifier() and len(name) > 3 else "obj",
        )
    )
    if variable in RESERVED:
        variable = "obj"
    script = _script(rng, kind, chosen, taken, name, variable, quote, f"{top}\n\n\nclass {name}:\n{inner}\n")
    doctest = rng.random() < 0.6
    head = prose[0]
    style = "doctest" if doctest else "plain"
    text = _doc(head)
    if doctest:
        lines = []
        for line, printed in script:
            lines.append(f">>> {line}")
            if printed is not None:
                lines.append(printed)
        wrapped = textwrap.fill(head, 76)
        text = f'"""{wrapped}\n\n' + "\n".join(lines) + '\n"""'
    block = f"class {name}:\n{indent(text)}\n\n{inner}"
    _prove(f"{top}\n\n\n{block}\n", script)
    if max(map(len, block.split("\n"))) > 100:
        raise RejectedError("a line too long")
    key, code_key = keys(f"class {name}:\n{inner}", " ".join(prose))
    return Exercise(
        f"class: {kind.names.split()[0]}",
        style,
        tuple(sorted(imports)),
        block,
        (name,),
        key,
        code_key,
    )


def _doc(sentence: str) -> str:
    if len(sentence) <= 74:
        return f'"""{sentence}"""' if not sentence.endswith('"') else f'"""{sentence} """'
    return '"""' + textwrap.fill(sentence, 74) + '\n"""'


def _script(
    rng: Random,
    kind: ClassKind,
    chosen: list[Method],
    names: list[str],
    cls: str,
    variable: str,
    quote: str,
    code: str,
) -> list[tuple[str, str | None]]:
    """Calls with what the interpreter prints after each; RejectedError if one fails."""
    space = load(code)
    arguments = ", ".join(literal(a, quote) for a in kind.make(rng))
    lines: list[tuple[str, str | None]] = []

    def run(line: str) -> None:
        tree = ast.parse(line).body[0]
        try:
            if isinstance(tree, ast.Expr):
                value = eval(line, space)
                lines.append((line, None if value is None else repr(value)))
            else:
                exec(line, space)
                lines.append((line, None))
        except RejectedError:
            raise
        except Exception as error:
            if type(error).__name__ not in ("IndexError", "ValueError"):
                raise RejectedError(f"raises {type(error).__name__} (class {cls})") from error

    with limited():
        run(f"{variable} = {cls}({arguments})")
        order = [0] * rng.randint(1, 3) + [rng.randrange(len(chosen)) for _ in range(rng.randint(2, 5))]
        if rng.random() < 0.7:
            order += list(range(1, len(chosen)))
        order = [index for n, index in enumerate(order) if index == 0 or index not in order[max(0, n - 2) : n]]
        for index in order[:8]:
            method, label = chosen[index], names[index]
            given = [literal(a, quote) for a in method.call(rng)]
            if len(given) != len(method.params):
                continue
            if label == "__len__":
                run(f"len({variable})")
            elif label == "__contains__":
                run(f"{given[0]} in {variable}")
            elif label == "__repr__":
                run(variable)
            else:
                run(f"{variable}.{label}({', '.join(given)})")
    if not any(printed for _, printed in lines) or any(len(line) > 84 or (p and len(p) > 78) for line, p in lines):
        raise RejectedError("no example is short and telling")
    return lines


def _prove(code: str, script: list[tuple[str, str | None]]) -> None:
    space = load(code)
    with limited():
        for line, printed in script:
            if " = " in line:
                exec(line, space)
                continue
            value = eval(line, space)
            if (None if value is None else repr(value)) != printed:
                raise RejectedError("an example does not hold")
