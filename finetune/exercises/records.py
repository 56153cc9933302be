"""Lists of records: dictionaries, tuples or small classes are filtered, sorted, summed and grouped."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from talaria.finetune.exercises.core import Draft, Goal, Made, Param, Values, rows_of, say
from talaria.finetune.exercises.streams import ExerciseScene, plural


@dataclass(frozen=True)
class Field:
    """A field: its name, what prose calls it, and its values: a range of integers or some strings."""

    name: str
    said: str
    values: tuple[int, int] | tuple[str, ...]

    @property
    def is_number(self) -> bool:
        """Whether it holds integers."""
        return isinstance(self.values[0], int)


PEOPLE = ("Ann", "Bob", "Cleo", "Dan", "Eve", "Finn", "Gus", "Ida", "Lee", "Mia", "Ola", "Tom")
CITIES = ("Oslo", "Lima", "Rome", "Cairo", "Quito", "Delhi", "Paris", "Turin")
PLACES = ("Peru", "Italy", "India", "Egypt", "Chad", "Cuba")


def _schema(noun: str, *fields: tuple[str, str, object]) -> tuple[str, tuple[Field, ...]]:
    return noun, tuple(Field(n, said, values) for n, said, values in fields)  # type: ignore[arg-type]


SCHEMAS = (
    _schema(
        "employee", ("name", "name", PEOPLE), ("age", "age", (20, 65)), ("salary", "salary", (20, 90)), ("department", "department", ("sales", "it", "legal"))
    ),
    _schema(
        "product",
        ("name", "name", ("pen", "lamp", "cup", "desk", "bag", "book", "phone")),
        ("price", "price", (1, 99)),
        ("stock", "number in stock", (0, 30)),
        ("category", "category", ("home", "office", "toys")),
    ),
    _schema(
        "book",
        ("title", "title", ("Dune", "Emma", "Ulysses", "Walden", "Ivanhoe")),
        ("year", "year of publication", (1900, 2020)),
        ("pages", "number of pages", (90, 700)),
        ("author", "author", ("Lem", "Mann", "Woolf")),
    ),
    _schema("student", ("name", "name", PEOPLE), ("grade", "grade", (1, 100)), ("age", "age", (14, 25)), ("subject", "subject", ("math", "art", "music"))),
    _schema(
        "order",
        ("customer", "customer", PEOPLE),
        ("total", "total", (5, 300)),
        ("quantity", "quantity", (1, 20)),
        ("status", "status", ("open", "paid", "sent")),
    ),
    _schema("city", ("name", "name", CITIES), ("population", "population", (1, 900)), ("area", "area", (5, 500)), ("country", "country", PLACES)),
    _schema(
        "film",
        ("title", "title", ("Alien", "Rio", "Heat", "Up", "Solaris")),
        ("year", "year", (1950, 2024)),
        ("rating", "rating", (1, 10)),
        ("genre", "genre", ("drama", "comedy", "horror")),
    ),
    _schema(
        "player",
        ("name", "name", PEOPLE),
        ("goals", "number of goals", (0, 30)),
        ("games", "number of games", (1, 40)),
        ("team", "team", ("reds", "blues", "greens")),
    ),
    _schema(
        "task",
        ("title", "title", ("test", "deploy", "write", "fix", "plan")),
        ("priority", "priority", (1, 5)),
        ("hours", "number of hours", (1, 40)),
        ("owner", "owner", PEOPLE[:4]),
    ),
    _schema(
        "car",
        ("model", "model", ("Uno", "Polo", "Clio", "Ibiza", "Yaris")),
        ("price", "price", (5, 90)),
        ("mileage", "mileage", (0, 200)),
        ("color", "colour", ("red", "blue", "white")),
    ),
    _schema(
        "animal",
        ("name", "name", ("Rex", "Tom", "Kira", "Momo", "Bibi")),
        ("weight", "weight", (1, 90)),
        ("age", "age", (1, 20)),
        ("species", "species", ("cat", "dog", "horse")),
    ),
    _schema(
        "flight",
        ("number", "number", ("LX1", "BA7", "AF3", "SK9", "TP4")),
        ("price", "price", (40, 900)),
        ("minutes", "duration in minutes", (40, 700)),
        ("destination", "destination", CITIES),
    ),
    _schema(
        "song",
        ("title", "title", ("Hello", "Alone", "Rain", "Blue", "Home")),
        ("seconds", "length in seconds", (90, 400)),
        ("plays", "number of plays", (0, 900)),
        ("artist", "artist", ("Abba", "Cher", "Muse")),
    ),
    _schema(
        "transaction",
        ("account", "account", ("A1", "B2", "C3", "D4")),
        ("amount", "amount", (-90, 200)),
        ("fee", "fee", (0, 9)),
        ("kind", "kind", ("card", "cash", "wire")),
    ),
    _schema(
        "message", ("sender", "sender", PEOPLE[:6]), ("size", "size", (1, 90)), ("age", "age in days", (0, 30)), ("folder", "folder", ("inbox", "spam", "work"))
    ),
    _schema(
        "server",
        ("host", "host name", ("web1", "web2", "db1", "mail", "cache")),
        ("load", "load", (0, 100)),
        ("uptime", "uptime in days", (0, 400)),
        ("region", "region", ("eu", "us", "asia")),
    ),
    _schema(
        "house",
        ("street", "street", ("Elm St", "Oak St", "High St", "Park Rd")),
        ("rent", "rent", (300, 2500)),
        ("rooms", "number of rooms", (1, 8)),
        ("city", "city", CITIES),
    ),
    _schema(
        "recipe",
        ("name", "name", ("soup", "pie", "stew", "salad", "bread")),
        ("minutes", "preparation time in minutes", (5, 120)),
        ("servings", "number of servings", (1, 8)),
        ("cuisine", "cuisine", ("thai", "greek", "indian")),
    ),
    _schema(
        "event",
        ("name", "name", ("race", "fair", "talk", "gala", "match")),
        ("day", "day of the month", (1, 28)),
        ("visitors", "number of visitors", (10, 900)),
        ("place", "place", CITIES),
    ),
)


def _draw(fields: tuple[Field, ...], form: str, cls: str) -> Values:
    def draw(rng: Random) -> object:
        values = [rng.randint(*f.values) if f.is_number else rng.choice(f.values) for f in fields]
        if form == "dict":
            return {f.name: value for f, value in zip(fields, values, strict=True)}
        return tuple(values) if form == "tuple" else Made(cls, tuple(values))

    return draw


def _class(rng: Random, form: str, cls: str, noun: str, fields: tuple[Field, ...]) -> str:
    rows = "\n".join(f"    {f.name}: {'int' if f.is_number else 'str'}" for f in fields)
    doc = rng.choice((f'    """{"An" if noun[0] in "aeiou" else "A"} {noun}."""\n\n', "", ""))
    if form == "named":
        return f"class {cls}($NamedTuple):\n{doc}{rows}"
    return f"{rng.choice(('@$dataclass', '@$dataclass(frozen=True)', '@$dataclass'))}\nclass {cls}:\n{doc}{rows}"


def records(rng: Random) -> Draft:
    """Something is asked of a list of records."""
    scene = ExerciseScene(rng)
    noun, every = rng.choice(SCHEMAS)
    fields = [every[0], *rng.sample(every[1:], rng.randint(1, 3))]
    if not any(f.is_number for f in fields):
        fields.append(next(f for f in every if f.is_number))
    fields.sort(key=every.index)
    chosen = tuple(fields)
    form = rng.choices(("dict", "tuple", "data", "named"), (40, 25, 25, 10))[0]
    many = plural(noun)
    cls = noun.capitalize()
    type_ = {
        "dict": "dict[str, Any]",
        "tuple": f"tuple[{', '.join('int' if f.is_number else 'str' for f in chosen)}]",
    }.get(form, cls)
    if form == "dict" and len({f.is_number for f in chosen}) == 1:
        type_ = f"dict[str, {'int' if chosen[0].is_number else 'str'}]"
    keys = ", ".join(f'"{f.name}"' for f in chosen)
    listed = ", ".join(f.name for f in chosen)
    shape = {
        "dict": f"dictionaries with the keys {keys}",
        "tuple": f"tuples ({listed})",
    }.get(form, f"{cls} objects")
    slot = scene.add(
        Param(
            "xs",
            (many, many, "records", "rows", "items", "entries"),
            f"list[{type_}]",
            f"a list of {many}",
            None,
            f"the {many}, {shape}",
            rows_of(_draw(chosen, form, cls), 0, 3),
        )
    )
    var = (noun, noun[0], "record", "row", "x", "entry", "item")

    def of(field: Field, name: str = "$x") -> str:
        if form == "dict":
            return f'{name}["{field.name}"]'
        return f"{name}[{chosen.index(field)}]" if form == "tuple" else f"{name}.{field.name}"

    numbers = [f for f in chosen if f.is_number]
    texts = [f for f in chosen[1:] if not f.is_number]
    first = chosen[0]
    test, that, tag = "", "", ""
    if rng.random() < 0.62:
        test, that, tag = _test(scene, numbers, texts, of)
        if rng.random() < 0.2:
            rest = [f for f in numbers if of(f) not in test]
            more, whose, _ = _test(scene, rest, texts, of) if rest else (test, "", "")
            if more.split()[0] != test.split()[0]:
                test, that = f"{test} and {more}", f"{that} and {whose}"
    if number_tag(tag, numbers):
        tag = ""
    group = f"the {many} in {slot}{' ' + that if that else ''}"
    keep = f" if {test}" if test else ""
    loop = f"for $x in {slot}:\n"
    margin = "    "
    if test:
        loop += f"    if {test}:\n"
        margin = "        "
    number = rng.choice(numbers)
    measure = rng.choice(
        (
            "field",
            "field",
            "sum",
            "mean",
            "best",
            "best",
            "sorted",
            "sorted",
            "count",
            "group",
            "group",
            "index",
            "any",
            "top",
            "total2",
            "field2",
        )
    )
    notes: tuple[str, ...] = ()
    names: tuple[str, ...]
    helpers = _class(rng, form, cls, noun, chosen) if form in ("data", "named") else ""
    source = f"{slot}"
    if measure == "field":
        field = rng.choice(chosen)
        kind = "int" if field.is_number else "str"
        goal = Goal(
            "get",
            f"the {plural(field.said) if ' ' not in field.said else field.said.replace('number', 'numbers').replace('year', 'years').replace('length', 'lengths').replace('duration', 'durations').replace('age', 'ages').replace('host name', 'host names')} of {group}",
            ("Return", "List", "Collect", "Get"),
        )
        bodies = [
            f"return [{of(field)} for $x in {source}{keep}]",
            f"$out = []\n{loop}{margin}$out.append({of(field)})\nreturn $out",
        ]
        if test:
            bodies.append(f"$kept = [$x for $x in {source}{keep}]\nreturn [{of(field)} for $x in $kept]")
        returns, names = (
            f"list[{kind}]",
            (
                f"{field.name}_of_{tag}{many}",
                f"get_{tag}{field.name}s",
                f"{tag}{many}_{field.name}s",
                f"list_{field.name}s",
            ),
        )
    elif measure == "field2":
        goal = Goal(
            "get",
            f"a list of tuples ({first.name}, {number.name}) for {group}, ordered by {number.said}",
            ("Return", "Build", "Get", "Make"),
        )
        notes = (
            say(
                rng,
                f"{{The lowest {number.said} comes first|Start with the lowest {number.said}}}; {{ties keep their order|equal ones stay in their order}}.",
            ),
        )
        bodies = [
            f"$kept = [({of(first)}, {of(number)}) for $x in {source}{keep}]\nreturn sorted($kept, key=lambda $pair: $pair[1])",
            f"$out = []\n{loop}{margin}$out.append(({of(first)}, {of(number)}))\n$out.sort(key=lambda $pair: $pair[1])\nreturn $out",
            "$out = [($x2, $y) for $x2, $y in PAIRS]\n$out.sort(key=$itemgetter(1))\nreturn $out".replace(
                "[($x2, $y) for $x2, $y in PAIRS]",
                f"[({of(first)}, {of(number)}) for $x in {source}{keep}]",
            ),
        ]
        returns, names = (
            "list[tuple[str, int]]",
            (
                f"{tag}{many}_with_{number.name}",
                f"{first.name}s_with_{number.name}",
                f"rank_by_{number.name}",
            ),
        )
    elif measure in ("sum", "total2"):
        value, said = of(number), f"the total {number.said}"
        if measure == "total2" and len(numbers) > 1:
            other = next(f for f in numbers if f is not number)
            value = f"{of(number)} * {of(other)}"
            said = f"the sum of {number.said} times {other.said}"
        goal = Goal("get", f"{said} of {group}" if "times" not in said else f"{said} over {group}")
        bodies = [
            f"return sum({value} for $x in {source}{keep})",
            f"$total = 0\n{loop}{margin}$total += {value}\nreturn $total",
        ]
        returns, names = (
            "int",
            (
                f"total_{number.name}",
                f"sum_{tag}{number.name}",
                f"{tag}{many}_{number.name}_total",
                f"{number.name}_sum",
            ),
        )
        notes = (say(rng, "{It is 0 if there are none|Return 0 if there are none}."),) if rng.random() < 0.5 else ()
    elif measure == "mean":
        value, said = ("0.0", "0.0") if rng.random() < 0.6 else ("None", "None")
        goal = Goal("get", f"the {{average|mean}} {number.said} of {group}")
        notes = (say(rng, f"{{Return {said} if there are none|If there are none, the result is {said}}}."),)
        bodies = [
            f"$kept = [{of(number)} for $x in {source}{keep}]\nif not $kept:\n    return {value}\nreturn sum($kept) / len($kept)",
            f"$total = 0\n$count = 0\n{loop}{margin}$total += {of(number)}\n{margin}$count += 1\nreturn $total / $count if $count else {value}",
            f"$kept = [{of(number)} for $x in {source}{keep}]\nreturn sum($kept) / len($kept) if $kept else {value}",
        ]
        returns = "float" if value == "0.0" else "float | None"
        names = (
            f"average_{number.name}",
            f"mean_{tag}{number.name}",
            f"average_{tag}{number.name}",
        )
    elif measure == "best":
        up = rng.random() < 0.6
        name, sign, word = ("max", ">", "highest") if up else ("min", "<", "lowest")
        whole = rng.random() < 0.4
        what = f"the {noun}" if whole else f"the {first.said} of the {noun}"
        goal = Goal("get", f"{what} with the {word} {number.said} {{among|of}} {group}")
        notes = (
            say(
                rng,
                "{The first one wins a tie|If there is a tie, take the first}. {Return None if there are none|If there are none, return None}.",
            ),
        )
        give = "$best" if whole else of(first, "$best")
        key = f"lambda $x: {of(number)}"
        if form in ("data", "named") and rng.random() < 0.3:
            key = f'$attrgetter("{number.name}")'
        elif form in ("dict", "tuple") and rng.random() < 0.25:
            key = f'$itemgetter("{number.name}")' if form == "dict" else f"$itemgetter({chosen.index(number)})"
        candidates = f"[$x for $x in {source}{keep}]" if test else source
        bodies = [
            f"$kept = {candidates}\nif not $kept:\n    return None\n$best = {name}($kept, key={key})\nreturn {give}"
            if test
            else f"if not {source}:\n    return None\n$best = {name}({source}, key={key})\nreturn {give}",
            f"$best = None\n{loop}{margin}if $best is None or {of(number)} {sign} {of(number, '$best')}:\n{margin}    $best = $x\n"
            + ("return $best" if whole else f"return None if $best is None else {give}"),
        ]
        if whole:
            bodies.append(
                f"return {name}(({candidates[1:-1]}) , key={key}, default=None)".replace(") ,", "),")
                if test
                else f"return {name}({source}, key={key}, default=None)"
            )
        returns = f"{type_} | None" if whole else "str | None"
        names = (
            f"{word}_{number.name}",
            f"{noun}_with_{word}_{number.name}",
            f"{name}_{number.name}_{noun}",
            f"find_{word}_{number.name}",
        )
    elif measure in ("sorted", "top"):
        down = rng.random() < 0.5
        whole = rng.random() < 0.3
        what = f"{group}" if whole else f"the {first.said}s of {group}"
        limit = ""
        if measure == "top":
            n = scene.amount(1, 3, "how many to return")
            limit = f"[:{n}]"
            goal = Goal(
                "get",
                f"{what.replace('the', f'the {n}', 1) if whole else f'the {first.said}s of the {n} {group[4:]}'} with the {'highest' if down else 'lowest'} {number.said}",
                ("Return", "Find", "List", "Get"),
            )
            goal = Goal("get", goal.text, goal.verbs)
            extra = say(
                rng,
                f"{{{'Highest' if down else 'Lowest'} first|They are ordered, {'highest' if down else 'lowest'} first}}; {{ties keep their order|equal ones keep their order}}. {{Return all|Give all of them}} if there are fewer.",
            )
        else:
            goal = Goal(
                "get",
                f"{what}, {{sorted|ordered}} by {number.said} in {'descending' if down else 'ascending'} order",
                ("Return", "List", "Get"),
            )
            extra = rng.choice(("Ties keep their order.", "Equal ones keep their order.", "The sort is stable."))
        notes = (extra,)
        flag = ", reverse=True" if down else ""
        key = f"lambda $x: {of(number)}"
        negative = f"lambda $x: -{of(number)}"
        kept = f"[$x for $x in {source}{keep}]" if test else source
        inner = f"($x for $x in {source}{keep})" if test else source
        put = "$x" if whole else of(first)
        tail = f"return $out{limit}" if whole else f"return [{of(first)} for $x in $out{limit}]"
        bodies = [
            f"$out = sorted({inner}, key={key}{flag})\n{tail}",
            f"$out = sorted({inner}, key={negative if down else key})\n{tail}",
            f"$out = {kept if test else f'list({source})'}\n$out.sort(key={key}{flag})\n{tail}",
        ]
        if not test and not whole:
            bodies.append(f"return [{put} for $x in sorted({source}, key={key}{flag}){limit}]")
        if len(numbers) > 1 and measure == "sorted" and rng.random() < 0.5:
            other = next(f for f in numbers if f is not number)
            notes = (
                say(
                    rng,
                    f"{{In case of a tie the lower {other.said} comes first|Ties are broken by {other.said}, lowest first}}.",
                ),
            )
            pair = f"lambda $x: ({'-' if down else ''}{of(number)}, {of(other)})"
            bodies = [f"$out = sorted({inner}, key={pair})\n{tail}", f"$out = sorted({inner}, key=lambda $x: {of(other)})\n$out.sort(key={key}{flag})\n{tail}"]
        returns = f"list[{type_}]" if whole else "list[str]"
        names = (
            f"{'top_' if limit else 'sort_'}{many}_by_{number.name}",
            f"{many}_by_{number.name}",
            f"{'best' if limit else 'ordered'}_{many}",
        )
    elif measure == "count":
        if not test:
            test, that, tag = _test(scene, numbers, texts, of)
        goal = Goal(
            "do",
            rng.choice(
                (
                    f"Count the {many} in {slot} {that}",
                    f"Return the number of {many} in {slot} {that}",
                    f"Return how many of the {many} in {slot} there are {that}".replace("there are ", ""),
                )
            ),
        )
        if "how many of" in goal.text:
            goal = Goal("do", f"Count the {many} in {slot} {that}")
        bodies = [
            f"return sum(1 for $x in {source} if {test})",
            f"$count = 0\nfor $x in {source}:\n    if {test}:\n        $count += 1\nreturn $count",
            f"return len([$x for $x in {source} if {test}])",
        ]
        returns, names = "int", (f"count_{tag}{many}", f"number_of_{tag}{many}", f"count_{many}")
    elif measure == "any":
        if not test:
            test, that, tag = _test(scene, numbers, texts, of)
        all_ = rng.random() < 0.4
        if all_:
            goal = Goal("whether", f"{slot} {{holds|contains}} no {noun} {that}")
            bodies = [
                f"return not any({test} for $x in {source})",
                f"for $x in {source}:\n    if {test}:\n        return False\nreturn True",
            ]
        else:
            goal = Goal(
                "whether",
                f"{slot} {{holds|contains}} {{a|at least one}} {noun} {that}".replace("{a|", "{" + ("an|" if noun[0] in "aeiou" else "a|")),
            )
            bodies = [
                f"return any({test} for $x in {source})",
                f"for $x in {source}:\n    if {test}:\n        return True\nreturn False",
            ]
        returns, names = (
            "bool",
            (f"{'no' if all_ else 'has'}_{tag}{noun}", f"{'lacks' if all_ else 'any'}_{tag}{noun}"),
        )
    elif measure == "index":
        goal = Goal(
            "get",
            f"a dictionary from the {first.said} to the {number.said} of {group}",
            ("Return", "Build", "Make"),
        )
        notes = (
            say(
                rng,
                "{If a key occurs more than once, the last one counts|Later ones replace earlier ones of the same key}.",
            ),
        )
        bodies = [
            f"return {{{of(first)}: {of(number)} for $x in {source}{keep}}}",
            f"$out = {{}}\n{loop}{margin}$out[{of(first)}] = {of(number)}\nreturn $out",
        ]
        returns, names = (
            "dict[str, int]",
            (f"{number.name}_by_{first.name}", f"{first.name}_to_{number.name}", f"{number.name}s"),
        )
    else:
        by = rng.choice(texts) if texts else first
        inner = rng.choice(("names", "sum", "count", "max", "best"))
        k = of(by)
        if inner == "names" and by is first:
            inner = "sum"
        if inner == "names":
            goal = Goal(
                "get",
                f"a dictionary that maps each {by.said} to the list of {first.said}s of {group} that have it".replace(
                    f"of {group} that have it",
                    f"of the {many} in {slot} with it" + (f"; only {many} {that} count" if that else ""),
                ),
                ("Return", "Build", "Make"),
            )
            bodies = [
                f"$groups = $defaultdict(list)\n{loop}{margin}$groups[{k}].append({of(first)})\nreturn dict($groups)",
                f"$groups:: dict[str, list[str]] = {{}}\n{loop}{margin}$groups.setdefault({k}, []).append({of(first)})\nreturn $groups",
            ]
            returns, names = (
                "dict[str, list[str]]",
                (f"{first.name}s_by_{by.name}", f"group_by_{by.name}", f"{many}_by_{by.name}"),
            )
        elif inner == "best":
            goal = Goal(
                "get",
                f"a dictionary that maps each {by.said} to the highest {number.said} of the {many} in {slot} with it"
                + (f"; only {many} {that} count" if that else ""),
                ("Return", "Build", "Compute"),
            )
            bodies = [
                f"$out:: dict[str, int] = {{}}\n{loop}{margin}$key = {k}\n{margin}if $key not in $out or {of(number)} > $out[$key]:\n{margin}    $out[$key] = {of(number)}\nreturn $out",
                f"$groups = $defaultdict(list)\n{loop}{margin}$groups[{k}].append({of(number)})\nreturn {{$key: max($kept) for $key, $kept in $groups.items()}}",
            ]
            returns, names = (
                "dict[str, int]",
                (f"max_{number.name}_by_{by.name}", f"highest_{number.name}_per_{by.name}"),
            )
        elif inner == "max":
            goal = Goal(
                "get",
                f"the {by.said} whose {many} in {slot} have the {{highest|largest}} total {number.said}" + (f"; only {many} {that} count" if that else ""),
            )
            notes = (
                say(
                    rng,
                    "{The first one wins a tie|In case of a tie take the one that appears first}. Return None if there is none.",
                ),
            )
            make = f"$counts:: dict[str, int] = {{}}\n{loop}{margin}$key = {k}\n{margin}$counts[$key] = $counts.get($key, 0) + {of(number)}\n"
            bodies = [
                f"{make}return max($counts, key=$counts.get, default=None)",
                f"$counts = $defaultdict(int)\n{loop}{margin}$counts[{k}] += {of(number)}\nif not $counts:\n    return None\nreturn max($counts, key=lambda $key: $counts[$key])",
            ]
            returns, names = (
                "str | None",
                (
                    f"top_{by.name}_by_{number.name}",
                    f"{by.name}_with_most_{number.name}",
                    f"best_{by.name}",
                ),
            )
        else:
            value = of(number) if inner == "sum" else "1"
            said = f"the total {number.said} of the {many}" if inner == "sum" else f"the number of {many}"
            goal = Goal(
                "get",
                f"a dictionary that maps each {by.said} to {said} in {slot} with it" + (f"; only {many} {that} count" if that else ""),
                ("Return", "Build", "Compute"),
            )
            bodies = [
                f"$counts:: dict[str, int] = {{}}\n{loop}{margin}$key = {k}\n{margin}$counts[$key] = $counts.get($key, 0) + {value}\nreturn $counts",
                f"$counts = $defaultdict(int)\n{loop}{margin}$counts[{k}] += {value}\nreturn dict($counts)",
                f"$counts = $Counter()\n{loop}{margin}$counts[{k}] += {value}\nreturn dict($counts)",
            ]
            returns, names = (
                "dict[str, int]",
                (
                    f"{number.name}_by_{by.name}" if inner == "sum" else f"{many}_per_{by.name}",
                    f"{'total' if inner == 'sum' else 'count'}_by_{by.name}",
                ),
            )
    rng.shuffle(bodies)
    one = f"{'An' if noun[0] in 'aeiou' else 'A'} {noun}"
    layout = {
        "dict": f"{{{one} is|Each {noun} is}} a dictionary with the keys {keys}.",
        "tuple": f"{{{one} is|Each {noun} is}} a tuple ({listed}).",
    }.get(form)
    if layout:
        notes = (say(rng, layout), *notes)
    return Draft(
        "records",
        names,
        scene.finish(),
        returns,
        Goal(goal.kind, say(rng, goal.text), goal.verbs),
        bodies[0],
        notes,
        bodies[1],
        helpers,
        pools={"x": var},
    )


def number_tag(tag: str, numbers: list[Field]) -> bool:
    """Whether a part of a name would repeat the only field that can follow it."""
    return len(numbers) == 1 and numbers[0].name in tag


def _test(scene: ExerciseScene, numbers: list[Field], texts: list[Field], of: object) -> tuple[str, str, str]:
    """Code of a condition on a record, its prose and a part of a name."""
    rng = scene.rng
    assert callable(of)
    if texts and rng.random() < 0.4:
        field = rng.choice(texts)
        taken = {param.role for param in scene.params}
        value = rng.choice(field.values)
        if "letter_" not in taken and rng.random() < 0.5:
            names = (field.name, f"wanted_{field.name}", "wanted", field.name[:1])
            slot = scene.add(Param("letter_", names, "str", f"a {field.said}", None, f"the {field.said} to look for", lambda r: r.choice(field.values)))
            return f"{of(field)} == {slot}", f"whose {field.said} is {slot}", ""
        if rng.random() < 0.2:
            return (
                f'{of(field)} != "{value}"',
                f'whose {field.said} is not "{value}"',
                f"non_{value}_",
            )
        return f'{of(field)} == "{value}"', f'whose {field.said} is "{value}"', f"{value}_"
    field = rng.choice(numbers)
    low, high = field.values
    assert isinstance(low, int)
    assert isinstance(high, int)
    width = high - low
    n = scene.amount(
        low + width // 4,
        high - width // 4,
        rng.choice(("the limit", f"the limit of the {field.said}")),
    )
    sign, said, tag = rng.choice(
        ((">", "{greater than|above|more than}", "high"), (">=", "at least", "high"), ("<", "{less than|below}", "low"), ("<=", "at most", "low"))
    )
    return (
        f"{of(field)} {sign} {n}",
        say(rng, f"whose {field.said} is {said} {n}"),
        f"{tag}_{field.name}_",
    )
