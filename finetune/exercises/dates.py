"""Dates: days between them, weekdays, months, and calendars of their own making."""

from __future__ import annotations

from datetime import date, timedelta
from random import Random

from talaria.finetune.exercises.core import Draft, Goal, Param, number, say
from talaria.finetune.exercises.pipelines import compose, gather_for
from talaria.finetune.exercises.streams import Change, ElementSource, ElementTest, ExerciseScene

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December")


def a_date(rng: Random) -> object:
    """Draws a date, now and then the end of a month."""
    day = date(2019, 1, 1) + timedelta(days=rng.randint(0, 2500))
    return day.replace(day=28) + timedelta(days=3) if rng.random() < 0.15 else day


def _test(scene: ExerciseScene) -> ElementTest:
    rng = scene.rng
    which = rng.randrange(10)
    if which == 0:
        return ElementTest("$x.weekday() >= 5", "fall on a weekend", "weekend", None, "$x.weekday() < 5")
    if which == 1:
        return ElementTest(
            "$x.weekday() < 5",
            "fall on a working day (Monday to Friday)",
            "working",
            None,
            "$x.weekday() >= 5",
        )
    if which == 2:
        day = rng.randrange(7)
        return ElementTest(
            f"$x.weekday() == {day}",
            f"fall on a {DAYS[day]}",
            DAYS[day].lower(),
            None,
            f"$x.weekday() != {day}",
        )
    if which == 3:
        month = rng.randint(1, 12)
        return ElementTest(
            f"$x.month == {month}",
            f"lie in {MONTHS[month - 1]}",
            MONTHS[month - 1].lower(),
            None,
            f"$x.month != {month}",
        )
    if which == 4:
        year = scene.amount(2020, 2024, "the year", 0.6)
        return ElementTest(f"$x.year == {year}", f"lie in the year {year}", "in_year", None, f"$x.year != {year}")
    if which == 5:
        year = scene.amount(2020, 2024, "the year", 0.6)
        return ElementTest(f"$x.year > {year}", f"lie after the year {year}", "after", None, f"$x.year <= {year}")
    if which == 6:
        day2 = rng.choice((10, 15, 20))
        return ElementTest(
            f"$x.day <= {day2}",
            f"lie within the first {day2} days of a month",
            "early",
            None,
            f"$x.day > {day2}",
        )
    if which == 7:
        quarter = rng.randint(1, 4)
        return ElementTest(
            f"($x.month - 1) // 3 + 1 == {quarter}",
            f"lie in {('the first', 'the second', 'the third', 'the last')[quarter - 1]} quarter of a year",
            "in_quarter",
        )
    if which == 8:
        return ElementTest(
            "($x + $timedelta(days=1)).month != $x.month",
            "are the last day of their month",
            "month_end",
        )
    return ElementTest("$x.day == 1", "are the first day of a month", "month_start", None, "$x.day != 1")


CHANGES = (
    Change("$x.year", "the years of @", "", "int", "years"),
    Change("$x.month", "the months (1 to 12) of @", "", "int", "months"),
    Change("$x.day", "the days of the month of @", "", "int", "days"),
    Change("$x.isoformat()", "@, each in the form YYYY-MM-DD", "", "str", "texts"),
    Change("$x.weekday()", "the weekday numbers (Monday is 0) of @", "", "int", "weekdays"),
    Change(
        "$x.timetuple().tm_yday",
        "the numbers of the days within the year of @",
        "",
        "int",
        "year_days",
    ),
    Change('$x.strftime("%d.%m.%Y")', "@, each in the form DD.MM.YYYY", "", "str", "texts"),
)


def date_lists(rng: Random) -> Draft:
    """A list of dates, or all days between two dates, is filtered, changed and gathered."""
    scene = ExerciseScene(rng)
    if rng.random() < 0.6:
        names = ("dates", "days", "birthdays", "holidays", "deadlines", "meetings", "visits")
        slot = scene.add(
            Param(
                "xs",
                names,
                "list[date]",
                "a list of dates",
                "the list",
                "the dates",
                lambda r: [a_date(r) for _ in range(r.randint(0, 3))],
            )
        )
        source = ElementSource("date", slot, "date", "dates", f"in {slot}", ("day", "d", "date_", "x"), "dates", True)
    else:
        a = scene.add(Param("a", ("start", "first", "begin"), "date", "a date", None, "the first day", a_date))
        b = scene.add(
            Param(
                "b",
                ("end", "last", "stop"),
                "date",
                "a date",
                None,
                "the last day, included",
                a_date,
            )
        )
        code = f"[{a} + $timedelta(days=i) for i in range(({b} - {a}).days + 1)]"
        source = ElementSource(
            "date",
            code,
            "day",
            "days",
            f"from {a} to {b}, both included,",
            ("day", "d", "x"),
            "days",
        )
    tests = [_test(scene)] if rng.random() < 0.8 else []
    change = rng.choice(CHANGES) if rng.random() < 0.6 else None
    kind = change.type if change else "date"
    for _ in range(30):
        gather = gather_for(scene, "str" if kind == "str" else "int")
        if (
            (gather.tag == "list" and (change or tests))
            or (kind == "int" and gather.tag in ("sum", "max", "min", "frequencies", "sorted", "unique"))
            or (kind == "str" and gather.tag in ("join", "sorted", "unique"))
        ):
            break
        if gather.tag == "count" and tests:
            change = None
            break
        if (
            kind == "date"
            and gather.tag in ("max", "min", "sorted", "first", "last")
            and (tests or "sort" in gather.tag)
            and "None" in gather.returns + gather.code.replace("sorted", "None")
        ):
            break
    else:
        return date_lists(rng)
    if gather.raises or (gather.notes and gather.notes[0].startswith(("Return -1", "Return 0")) and kind == "date"):
        return date_lists(rng)
    draft = compose(scene, source, tests, " and ", change, gather, "dates", "date lists")
    text = draft.goal.text
    returns = draft.returns
    if kind == "date":
        for old, new in (
            ("the largest of", "the latest of"),
            ("the greatest of", "the latest of"),
            ("the maximum of", "the latest of"),
            ("the smallest of", "the earliest of"),
            ("the lowest of", "the earliest of"),
            ("the minimum of", "the earliest of"),
            ("{largest|greatest|maximum}", "latest"),
            ("{smallest|lowest|minimum}", "earliest"),
            ("from largest to smallest", "from the latest to the earliest"),
            ("from smallest to largest", "from the earliest to the latest"),
        ):
            text = text.replace(old, new)
        if gather.tag != "count":
            returns = returns.replace("int", "date")
        if "-1" in draft.body or "default=0" in draft.body or "return 0" in draft.body.replace("return 0 if $best", "return 0"):
            return date_lists(rng)
    pools = dict(draft.pools)

    def some(r: Random) -> tuple[object, ...]:
        if len(draft.params) > 1 and draft.params[1].role == "b":
            first = a_date(r)
            assert isinstance(first, date)
            rest = [p.values(r) for p in draft.params[2:]]
            return (first, first + timedelta(days=r.choice((0, 3, 10, 20))), *rest)
        return tuple(p.values(r) for p in draft.params)

    return Draft(
        "date lists",
        draft.names,
        draft.params,
        returns,
        Goal(draft.goal.kind, text, draft.goal.verbs),
        draft.body,
        draft.notes,
        draft.reference,
        draft.helpers,
        pools,
        arguments=some,
    )


def _add(scene: ExerciseScene, role: str, names: tuple[str, ...], about: str) -> str:
    return scene.add(Param(role, names, "date", "a date", "the date" if names is NAMES else None, about, a_date))


NAMES = ("day", "d", "when", "start", "current_day", "start_date")


def date_steps(rng: Random) -> Draft:
    """A date is moved, placed in its month, or compared with another."""
    scene = ExerciseScene(rng)
    day_number = rng.randrange(7)
    day = DAYS[day_number]
    k = str(rng.randint(2, 12))
    which = rng.randrange(16)
    notes: tuple[str, ...] = ()
    names: tuple[str, ...]
    pools = {
        "day": ("day", "current", "d", "candidate"),
        "first": ("first", "begin", "month_start", "start"),
        "n": ("count", "n", "days", "left"),
        "a": ("a", "earlier", "x"),
        "b": ("b", "later", "y"),
    }
    one = timedelta(days=1)
    del one
    if which == 0:
        d = _add(scene, "d", NAMES, "the day from which to look")
        after = rng.random() < 0.6
        goal = Goal(
            "get",
            f"the {'first' if after else 'last'} {day} {'after' if after else 'before'} {d}",
            ("Return", "Find", "Get"),
        )
        notes = (f"If {d} is a {day}, the one a week {'later' if after else 'earlier'} is meant.",)
        sign, step = ("+", f"({day_number} - {d}.weekday() - 1) % 7 + 1") if after else ("-", f"({d}.weekday() - {day_number} - 1) % 7 + 1")
        bodies = [
            f"return {d} {sign} $timedelta(days={step})",
            f"$day = {d} {sign} $timedelta(days=1)\nwhile $day.weekday() != {day_number}:\n    $day {sign}= $timedelta(days=1)\nreturn $day",
        ]
        returns, names = (
            "date",
            (
                f"{'next' if after else 'previous'}_{day.lower()}",
                f"{day.lower()}_{'after' if after else 'before'}",
                f"find_{day.lower()}",
            ),
        )
    elif which == 1:
        d = _add(scene, "d", NAMES, "the day to start from")
        n = scene.amount(1, 12, "the number of days", 0.7)
        back = rng.random() < 0.3
        sign = "-" if back else "+"
        goal = Goal(
            "get",
            f"the date {n} working days (Monday to Friday) {'before' if back else 'after'} {d}",
            ("Return", "Compute", "Find"),
        )
        notes = ("Saturdays and Sundays are not counted.",)
        bodies = [
            f"$day = {d}\n$n = {n}\nwhile $n > 0:\n    $day {sign}= $timedelta(days=1)\n    if $day.weekday() < 5:\n        $n -= 1\nreturn $day",
            f"$day = {d}\nfor _ in range({n}):\n    $day {sign}= $timedelta(days=1)\n    while $day.weekday() >= 5:\n        $day {sign}= $timedelta(days=1)\nreturn $day",
        ]
        returns, names = (
            "date",
            (
                f"{'subtract' if back else 'add'}_working_days",
                "shift_working_days",
                "working_day_after" if not back else "working_day_before",
                "move_by_working_days",
            ),
        )
    elif which == 2:
        y, m = _year_month(scene)
        goal = Goal("get", f"the number of days in month {m} of the year {y}")
        bodies = [
            f"return $calendar.monthrange({y}, {m})[1]",
            f"$first = $date({y}, {m}, 28) + $timedelta(days=4)\nreturn ($first - $timedelta(days=$first.day)).day",
            f"if {m} == 12:\n    return 31\nreturn ($date({y}, {m} + 1, 1) - $date({y}, {m}, 1)).days",
        ]
        returns, names = "int", ("days_in_month", "month_length", "length_of_month")
    elif which == 3:
        y, m = _year_month(scene)
        nth = rng.randint(1, 4)
        word = ("first", "second", "third", "fourth")[nth - 1]
        goal = Goal("get", f"the date of the {word} {day} of month {m} in the year {y}")
        bodies = [
            f"$first = $date({y}, {m}, 1)\nreturn $first + $timedelta(days=({day_number} - $first.weekday()) % 7{f' + {7 * (nth - 1)}' if nth > 1 else ''})",
            f"$day = $date({y}, {m}, 1)\nwhile $day.weekday() != {day_number}:\n    $day += $timedelta(days=1)\nreturn $day{f' + $timedelta(weeks={nth - 1})' if nth > 1 else ''}",
        ]
        returns, names = (
            "date",
            (
                f"{word}_{day.lower()}",
                f"{word}_{day.lower()}_of_month",
                f"find_{word}_{day.lower()}",
            ),
        )
    elif which == 4:
        y, m = _year_month(scene)
        goal = Goal(
            "do",
            rng.choice(
                (
                    f"Count the {day}s in month {m} of the year {y}",
                    f"Return the number of {day}s in month {m} of the year {y}",
                )
            ),
        )
        bodies = [
            f"$n = 0\n$day = $date({y}, {m}, 1)\nwhile $day.month == {m}:\n    if $day.weekday() == {day_number}:\n        $n += 1\n    $day += $timedelta(days=1)\nreturn $n",
            f"_, $n = $calendar.monthrange({y}, {m})\nreturn sum($date({y}, {m}, $i).weekday() == {day_number} for $i in range(1, $n + 1))",
        ]
        returns, names = (
            "int",
            (f"count_{day.lower()}s", f"{day.lower()}s_in_month", f"number_of_{day.lower()}s"),
        )
    elif which in (5, 6):
        a = _add(scene, "d", ("start", "first", "a", "begin", "check_in"), "a day")
        b = _add(scene, "e", ("end", "second", "b", "until", "check_out"), "another day, not earlier")
        what = rng.choice(("weekends", "working", "same", "whole_weeks", "months", "day"))
        if what == "day":
            goal = Goal(
                "do",
                rng.choice(
                    (
                        f"Count the {day}s from {a} to {b}, both included",
                        f"Return how many {day}s lie between {a} and {b}, both included",
                    )
                ),
            )
            bodies = [
                f"$n = 0\n$day = {a}\nwhile $day <= {b}:\n    $n += $day.weekday() == {day_number}\n    $day += $timedelta(days=1)\nreturn $n",
                f"$first = {a} + $timedelta(days=({day_number} - {a}.weekday()) % 7)\nif $first > {b}:\n    return 0\nreturn ({b} - $first).days // 7 + 1",
            ]
            returns, names = "int", (f"count_{day.lower()}s", f"{day.lower()}s_between")
        elif what == "weekends":
            goal = Goal("do", f"Count the Saturdays and Sundays from {a} to {b}, both included")
            bodies = [
                f"$n = 0\n$day = {a}\nwhile $day <= {b}:\n    if $day.weekday() >= 5:\n        $n += 1\n    $day += $timedelta(days=1)\nreturn $n",
                f"$n = ({b} - {a}).days + 1\nreturn sum(({a} + $timedelta(days=$i)).weekday() >= 5 for $i in range($n))",
            ]
            returns, names = "int", ("weekend_days", "count_weekend_days", "days_off")
        elif what == "working":
            goal = Goal(
                "do",
                f"Count the working days (Monday to Friday) from {a} to {b}; {b} itself is not counted",
            )
            bodies = [
                f"$n = 0\n$day = {a}\nwhile $day < {b}:\n    if $day.weekday() < 5:\n        $n += 1\n    $day += $timedelta(days=1)\nreturn $n",
                f"return sum(({a} + $timedelta(days=$i)).weekday() < 5 for $i in range(({b} - {a}).days))",
            ]
            returns, names = "int", ("working_days", "count_working_days", "business_days")
        elif what == "same":
            goal = Goal("whether", f"{a} and {b} lie in the same week (Monday to Sunday)")
            bodies = [
                f"return {a}.isocalendar()[:2] == {b}.isocalendar()[:2]",
                f"$a = {a} - $timedelta(days={a}.weekday())\n$b = {b} - $timedelta(days={b}.weekday())\nreturn $a == $b",
            ]
            returns, names = "bool", ("same_week", "in_same_week", "share_week")
        elif what == "months":
            goal = Goal("get", f"the number of whole months from {a} to {b}")
            notes = ("A month is complete when the same day of the month is reached again.",)
            bodies = [
                f"$n = ({b}.year - {a}.year) * 12 + {b}.month - {a}.month\nif {b}.day < {a}.day:\n    $n -= 1\nreturn $n",
                f"$n = ({b}.year - {a}.year) * 12 + ({b}.month - {a}.month)\nreturn $n - ({b}.day < {a}.day)",
            ]
            returns, names = "int", ("months_between", "whole_months", "full_months")
        else:
            goal = Goal(
                "get",
                f"a tuple with the number of whole weeks from {a} to {b} and the number of days left over",
                ("Return", "Compute"),
            )
            bodies = [
                f"return divmod(({b} - {a}).days, 7)",
                f"$n = ({b} - {a}).days\nreturn $n // 7, $n % 7",
            ]
            returns, names = "tuple[int, int]", ("weeks_and_days", "split_weeks", "whole_weeks")

        def both(r: Random) -> tuple[object, ...]:
            first = a_date(r)
            assert isinstance(first, date)
            return first, first + timedelta(days=r.choice((0, 1, 5, 13, 40, 200)))

        rng.shuffle(bodies)
        return Draft(
            "dates",
            names,
            scene.finish(),
            returns,
            goal,
            bodies[0],
            notes,
            bodies[1],
            pools=pools,
            arguments=both,
        )
    elif which == 7:
        birth = _add(scene, "d", ("born", "birthday", "birth_date", "date_of_birth"), "the date of birth")
        today = _add(scene, "e", ("today", "on", "day", "when"), "the day for which the age is asked")
        goal = Goal("get", f"the age in whole years, on the day {today}, of somebody born on {birth}")
        bodies = [
            f"$n = {today}.year - {birth}.year\nif ({today}.month, {today}.day) < ({birth}.month, {birth}.day):\n    $n -= 1\nreturn $n",
            f"return {today}.year - {birth}.year - (({today}.month, {today}.day) < ({birth}.month, {birth}.day))",
        ]

        def ages(r: Random) -> tuple[object, ...]:
            return a_date(r), date(2027 + r.randint(0, 30), r.randint(1, 12), r.randint(1, 28))

        rng.shuffle(bodies)
        return Draft(
            "dates",
            ("age", "age_on", "years_old", "age_in_years"),
            scene.finish(),
            "int",
            goal,
            bodies[0],
            notes,
            bodies[1],
            pools=pools,
            arguments=ages,
        )
    elif which == 8:
        d = _add(scene, "d", NAMES, "the date")
        form, said = rng.choice(
            (
                ("{d}.day:02}.{d}.month:02}", "DD.MM"),
                ("{d}.month}/{d}.day}", "M/D"),
                ("{d}.year}-{d}.month:02}", "YYYY-MM"),
            )
        )
        del form
        style = {"DD.MM": "%d.%m", "M/D": None, "YYYY-MM": "%Y-%m"}[said]
        f_string = {
            "DD.MM": f'f"{{{d}.day:02}}.{{{d}.month:02}}"',
            "M/D": f'f"{{{d}.month}}/{{{d}.day}}"',
            "YYYY-MM": f'f"{{{d}.year}}-{{{d}.month:02}}"',
        }[said]
        goal = Goal(
            "get",
            f"{d} {{as text|as a string}} in the form {said}" + (", without leading zeros" if style is None else ""),
            ("Return", "Format", "Return"),
        )
        bodies = [
            f"return {f_string}",
            f'return {d}.strftime("{style}")' if style else f'return str({d}.month) + "/" + str({d}.day)',
        ]
        returns, names = "str", ("format_date", "date_text", "short_date", "show_date")
    elif which == 9:
        s = scene.add(
            Param(
                "s",
                ("text", "value", "s", "date_text"),
                "str",
                "a string",
                None,
                "the date as text",
                lambda r: f"{a_date(r):%d.%m.%Y}",
            )
        )
        sep, order = ".", "DD.MM.YYYY"
        goal = Goal(
            "do",
            f"{{Parse|Read}} the date {s} in the form {order} and return {{it as a date|a date}}",
        )
        bodies = [
            f'$i, $j, $n = map(int, {s}.split("{sep}"))\nreturn $date($n, $j, $i)',
            f'return $datetime.strptime({s}, "%d.%m.%Y").date()',
        ]
        pools = {**pools, "i": ("day", "d"), "j": ("month", "m"), "n": ("year", "y")}
        returns, names = "date", ("parse_date", "read_date", "to_date", "date_from_text")
    elif which == 10:
        y = scene.add(Param("n", ("year", "y"), "int", "a year", None, "the year", number(1890, 2110)))
        form = rng.choice(("leap", "days", "next"))
        if form == "leap":
            goal = Goal(
                "whether",
                f"{y} is a leap year, that is, divisible by 4, but by 100 only if also by 400",
            )
            bodies = [
                f"return {y} % 4 == 0 and ({y} % 100 != 0 or {y} % 400 == 0)",
                f"return $calendar.isleap({y})",
                f"if {y} % 400 == 0:\n    return True\nif {y} % 100 == 0:\n    return False\nreturn {y} % 4 == 0",
            ]
            returns, names = "bool", ("is_leap_year", "is_leap", "leap_year")
        elif form == "days":
            goal = Goal("get", f"the number of days that the year {y} has")
            bodies = [
                f"return ($date({y} + 1, 1, 1) - $date({y}, 1, 1)).days",
                f"return 366 if $calendar.isleap({y}) else 365",
            ]
            returns, names = "int", ("days_in_year", "year_length", "length_of_year")
        else:
            goal = Goal("get", f"the first leap year after {y}")
            bodies = [
                f"$i = {y} + 1\nwhile not $calendar.isleap($i):\n    $i += 1\nreturn $i",
                f"for $i in range({y} + 1, {y} + 9):\n    if $i % 4 == 0 and ($i % 100 != 0 or $i % 400 == 0):\n        return $i",
            ]
            returns, names = "int", ("next_leap_year", "leap_year_after")
            pools = {**pools, "i": ("candidate", "following", "i")}
    elif which == 11:
        d = _add(scene, "d", NAMES, "the date")
        form = rng.choice(("quarter", "end", "begin", "left", "week"))
        if form == "quarter":
            goal, bodies = (
                Goal("get", f"the quarter of the year (1 to 4) in which {d} lies"),
                [f"return ({d}.month - 1) // 3 + 1", f"return -(-{d}.month // 3)"],
            )
            returns, names = "int", ("quarter", "quarter_of", "get_quarter")
        elif form == "end":
            goal, bodies = (
                Goal("get", f"the last day of the month in which {d} lies"),
                [
                    f"$day = {d}.replace(day=28) + $timedelta(days=4)\nreturn $day - $timedelta(days=$day.day)",
                    f"$n = $calendar.monthrange({d}.year, {d}.month)[1]\nreturn {d}.replace(day=$n)",
                ],
            )
            returns, names = "date", ("month_end", "end_of_month", "last_day_of_month")
        elif form == "begin":
            goal, bodies = (
                Goal("get", f"the Monday of the week in which {d} lies"),
                [
                    f"return {d} - $timedelta(days={d}.weekday())",
                    f"$day = {d}\nwhile $day.weekday() > 0:\n    $day -= $timedelta(days=1)\nreturn $day",
                ],
            )
            returns, names = "date", ("week_start", "monday_of", "start_of_week")
        elif form == "left":
            goal, bodies = (
                Goal("get", f"the number of days that are left in the year after {d}"),
                [
                    f"return ($date({d}.year, 12, 31) - {d}).days",
                    f"return ($date({d}.year + 1, 1, 1) - {d}).days - 1",
                ],
            )
            returns, names = "int", ("days_left", "remaining_days", "days_until_new_year")
        else:
            names_ = ", ".join(f'"{name[:3]}"' for name in DAYS)
            goal, bodies = (
                Goal("get", f'the weekday of {d} as three letters ("Mon" to "Sun")'),
                [
                    f"return [{names_}][{d}.weekday()]",
                    f'return "MonTueWedThuFriSatSun"[3 * {d}.weekday() :][:3]',
                ],
            )
            returns, names = "str", ("weekday_name", "short_weekday", "day_name")
    elif which == 12:
        d = _add(scene, "d", NAMES, "the first day")
        n = scene.amount(2, 5, "how many dates to return", 0.6)
        step = rng.choice(("weeks=1", "weeks=2", "days=10", "days=3"))
        said = {
            "weeks=1": "one week",
            "weeks=2": "two weeks",
            "days=10": "ten days",
            "days=3": "three days",
        }[step]
        goal = Goal(
            "get",
            f"a list of {n} dates, the first being {d} and each further one {said} after the one before",
            ("Return", "Build", "Make"),
        )
        bodies = [
            f"return [{d} + $i * $timedelta({step}) for $i in range({n})]",
            f"$out = []\n$day = {d}\nwhile len($out) < {n}:\n    $out.append($day)\n    $day += $timedelta({step})\nreturn $out",
        ]
        returns, names = (
            "list[date]",
            ("schedule", "appointments", "series_of_dates", "dates_every", "plan_dates"),
        )
    elif which == 13:
        d = _add(scene, "d", NAMES, "the date")
        n = scene.amount(1, 20, "the number of months", 0.7)
        goal = Goal("get", f"the date {n} months after {d}", ("Return", "Compute"))
        notes = (
            say(
                rng,
                "{If the month is too short, the result is its last day|Take the last day of the month if it is too short}.",
            ),
        )
        bodies = [
            f"$i, $j = divmod({d}.month - 1 + {n}, 12)\n$i += {d}.year\n$j += 1\n$n = $calendar.monthrange($i, $j)[1]\nreturn $date($i, $j, min({d}.day, $n))",
            f"$i = {d}.year + ({d}.month - 1 + {n}) // 12\n$j = ({d}.month - 1 + {n}) % 12 + 1\n$n = {d}.day\nwhile True:\n    try:\n        return $date($i, $j, $n)\n    except ValueError:\n        $n -= 1",
        ]
        pools = {**pools, "i": ("year", "y"), "j": ("month", "m"), "n": ("day", "last", "d")}
        returns, names = "date", ("add_months", "months_later", "shift_months")
    elif which == 14:
        xs = scene.add(
            Param(
                "xs",
                ("dates", "days", "visits", "logins"),
                "list[date]",
                "a list of dates",
                "the list",
                "the dates",
                lambda r: [date(2024, 3, 1) + timedelta(days=r.randint(0, 6)) for _ in range(r.randint(0, 5))],
            )
        )
        if rng.random() < 0.5:
            goal = Goal("get", f"the length of the longest run of consecutive days in {xs}")
            notes = ("The dates may be in any order and may repeat. Without dates the result is 0.",)
            bodies = [
                f"$seen = set({xs})\n$best = 0\nfor $day in $seen:\n    if $day - $timedelta(days=1) in $seen:\n        continue\n    $n = 1\n    while $day + $timedelta(days=$n) in $seen:\n        $n += 1\n    $best = max($best, $n)\nreturn $best",
                f"$best = $n = 0\n$previous = None\nfor $day in sorted(set({xs})):\n    if $previous is not None and ($day - $previous).days == 1:\n        $n += 1\n    else:\n        $n = 1\n    $best = max($best, $n)\n    $previous = $day\nreturn $best",
            ]
            returns, names = "int", ("longest_streak", "consecutive_days", "best_run")
        else:
            goal = Goal(
                "get",
                f"the largest number of days between two neighbouring dates of {xs} when they are sorted",
            )
            notes = ("With fewer than two dates the result is 0.",)
            bodies = [
                f"$out = sorted({xs})\nreturn max((($b - $a).days for $a, $b in zip($out, $out[1:])), default=0)",
                f"$best = 0\n$out = sorted({xs})\nfor $i in range(1, len($out)):\n    $best = max($best, ($out[$i] - $out[$i - 1]).days)\nreturn $best",
            ]
            returns, names = "int", ("largest_gap", "longest_break", "max_gap")
    else:
        d = _add(scene, "d", NAMES, "the date")
        limit = rng.choice(("03-21", "06-21", "09-23"))
        month, dd = map(int, limit.split("-"))
        early, late = rng.choice((("before", "after"), ("low", "high"), ("first", "second")))
        goal = Goal(
            "do",
            f'Return "{early}" if {d} lies before {MONTHS[month - 1]} {dd} of its year and "{late}" otherwise',
        )
        bodies = [
            f'return "{early}" if ({d}.month, {d}.day) < ({month}, {dd}) else "{late}"',
            f'if {d} < $date({d}.year, {month}, {dd}):\n    return "{early}"\nreturn "{late}"',
        ]
        returns, names = "str", ("part_of_year", "season_half", "half_of_year")
    del k
    rng.shuffle(bodies)
    return Draft(
        "dates",
        names,
        scene.finish(),
        returns,
        Goal(goal.kind, say(rng, goal.text), goal.verbs),
        bodies[0],
        notes,
        bodies[1],
        pools=pools,
        gives="the date" if goal.kind == "do" and returns == "date" else "",
    )


def _year_month(scene: ExerciseScene) -> tuple[str, str]:
    y = scene.add(Param("y", ("year", "y"), "int", "a year", None, "the year", number(2000, 2030)))
    return y, scene.add(Param("mo", ("month", "m"), "int", "a month", None, "the month, 1 to 12", number(1, 12)))
