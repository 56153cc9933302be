"""Two functions of which the second uses the first: on rows, on words, as a key or a condition."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from talaria.finetune.exercises.core import Draft, Goal, Look, Param, rows_of, say
from talaria.finetune.exercises.pipelines import every, pipeline
from talaria.finetune.exercises.scans import runs
from talaria.finetune.exercises.trial import RejectedError, render

ATTEMPTS = 30


def callers(rng: Random) -> Draft:
    """A function of a list or a string, and another that applies it to several."""
    for _ in range(ATTEMPTS):
        inner = rng.choice((pipeline, pipeline, every, runs))(rng)
        kind = inner.params[0].type
        if len(inner.params) == 1 and kind in ("list[int]", "str") and inner.returns in ("int", "bool", "list[int]", "str") and not inner.raises:
            break
    else:
        raise RejectedError("no function to call")
    look = Look.draw(rng)
    first = render(replace(inner, look=look), rng)
    f = first.defines[0]
    lists = kind == "list[int]"
    names = ("rows", "lists", "groups", "matrix", "table", "series") if lists else ("lines", "texts", "strings", "sentences", "messages", "titles")
    one, many = ("list", "lists") if lists else ("string", "strings")
    draw = rows_of(inner.params[0].values, 0, 4)
    xs = Param("xss", names, f"list[{kind}]", f"a list of {'lists of integers' if lists else 'strings'}", "the list", f"the {many} to look at", draw)
    s = "$xss"
    notes: tuple[str, ...] = ()
    names_: tuple[str, ...]
    returns = inner.returns
    if returns == "bool":
        form = rng.choice(("filter", "count", "all", "any", "first", "split"))
    elif returns == "int":
        form = rng.choice(("map", "best", "sort", "sum", "pairs", "dict", "above"))
    else:
        form = rng.choice(("map", "pairs", "unique", "join"))
    call = f"{f}($x)"
    said = f"`{f}`"
    if form == "filter":
        goal = Goal("get", f"the {many} in {s} for which {said} is {{true|True}}", ("Return", "List", "Select"))
        bodies = [
            f"return [$x for $x in {s} if {call}]",
            f"$out = []\nfor $x in {s}:\n    if {call}:\n        $out.append($x)\nreturn $out",
            f"return list(filter({f}, {s}))",
        ]
        result, names_ = f"list[{kind}]", (f"select_{many}", f"filter_{many}", "keep_good", f"{many}_that_pass")
    elif form == "count":
        goal = Goal("do", f"Count the {many} in {s} for which {said} is {{true|True}}")
        bodies = [
            f"return sum(1 for $x in {s} if {call})",
            f"$count = 0\nfor $x in {s}:\n    if {call}:\n        $count += 1\nreturn $count",
            f"return sum(map({f}, {s}))",
        ]
        result, names_ = "int", (f"count_{many}", "count_good", "how_many_pass")
    elif form in ("all", "any"):
        goal = Goal("whether", f"{said} is {{true|True}} for {'all' if form == 'all' else 'any of the'} {many} in {s}")
        good, bad = ("True", "False") if form == "all" else ("False", "True")
        test = f"not {call}" if form == "all" else call
        bodies = [
            f"return {form}({call} for $x in {s})",
            f"for $x in {s}:\n    if {test}:\n        return {bad}\nreturn {good}",
            f"return {form}(map({f}, {s}))",
        ]
        result, names_ = "bool", (f"{form}_{many}", f"{form}_good", f"check_{many}")
    elif form == "first":
        goal = Goal("get", f"the first of the {many} in {s} for which {said} is {{true|True}}")
        notes = (say(rng, "{Return None if there is none|If there is none, return None}."),)
        bodies = [f"return next(($x for $x in {s} if {call}), None)", f"for $x in {s}:\n    if {call}:\n        return $x\nreturn None"]
        result, names_ = f"{kind} | None", (f"first_{one}", "first_good", f"find_{one}")
    elif form == "split":
        goal = Goal("get", f"a tuple of two lists: the {many} in {s} for which {said} is true, and the others")
        bodies = [
            f"$kept = [$x for $x in {s} if {call}]\n$rest = [$x for $x in {s} if not {call}]\nreturn $kept, $rest",
            f"$kept, $rest = [], []\nfor $x in {s}:\n    ($kept if {call} else $rest).append($x)\nreturn $kept, $rest",
        ]
        result, names_ = f"tuple[list[{kind}], list[{kind}]]", (f"split_{many}", "partition", f"separate_{many}")
    elif form == "map":
        goal = Goal("do", f"{{Apply {said} to each {one} in {s} and return the results as a list|Return a list of what {said} gives for each {one} in {s}}}")
        bodies = [f"return [{call} for $x in {s}]", f"$out = []\nfor $x in {s}:\n    $out.append({call})\nreturn $out", f"return list(map({f}, {s}))"]
        result, names_ = f"list[{returns}]", (f"{f}_each", f"{f}_all", "apply_to_all", f"for_each_{one}")
    elif form == "best":
        up = rng.random() < 0.5
        name, sign, word = ("max", ">", "largest") if up else ("min", "<", "smallest")
        goal = Goal("get", f"the {one} in {s} for which {said} is {word}")
        notes = (say(rng, "{The first one wins a tie|In case of a tie, take the first}. {Return None if there are none|If the list is empty, return None}."),)
        bodies = [
            f"return {name}({s}, key={f}, default=None)",
            f"$best = None\nfor $x in {s}:\n    if $best is None or {call} {sign} {f}($best):\n        $best = $x\nreturn $best",
        ]
        result, names_ = f"{kind} | None", (f"best_{one}", f"{one}_with_{name}", f"{word}_{one}", f"{name}_by_{f}")
    elif form == "sort":
        down = rng.random() < 0.4
        flag = ", reverse=True" if down else ""
        goal = Goal("get", f"the {many} in {s} {{sorted|ordered}} by {said}, in {'descending' if down else 'ascending'} order", ("Return", "Give"))
        notes = (rng.choice(("Ties keep their order.", "Equal ones keep their order.")),)
        bodies = [f"return sorted({s}, key={f}{flag})", f"$out = list({s})\n$out.sort(key={f}{flag})\nreturn $out"]
        result, names_ = f"list[{kind}]", (f"sort_{many}", f"sort_by_{f}", f"ordered_{many}")
    elif form == "sum":
        goal = Goal("get", f"the sum of what {said} gives for the {many} in {s}")
        bodies = [f"return sum({call} for $x in {s})", f"$total = 0\nfor $x in {s}:\n    $total += {call}\nreturn $total", f"return sum(map({f}, {s}))"]
        result, names_ = "int", (f"total_{f}", "grand_total", f"sum_over_{many}")
    elif form == "above":
        goal = Goal("get", f"the indices of the {many} in {s} for which {said} is greater than the average of all of them", ("Return", "List"))
        notes = ("An empty list gives an empty list.",)
        bodies = [
            f"$mapped = [{call} for $x in {s}]\nreturn [$i for $i, $y in enumerate($mapped) if $y * len($mapped) > sum($mapped)]",
            f"if not {s}:\n    return []\n$limit = sum({call} for $x in {s}) / len({s})\nreturn [$i for $i, $x in enumerate({s}) if {call} > $limit]",
        ]
        result, names_ = "list[int]", ("above_average", f"{many}_above_average", "outstanding")
    elif form == "dict":
        goal = Goal("get", f"a dictionary that maps each result of {said} to the list of {many} in {s} that give it", ("Return", "Build", "Make"))
        bodies = [
            f"$groups = $defaultdict(list)\nfor $x in {s}:\n    $groups[{call}].append($x)\nreturn dict($groups)",
            f"$groups:: dict[int, list[{kind}]] = {{}}\nfor $x in {s}:\n    $groups.setdefault({call}, []).append($x)\nreturn $groups",
        ]
        result, names_ = f"dict[int, list[{kind}]]", (f"group_by_{f}", f"group_{many}", f"{many}_by_result")
    elif form == "unique":
        goal = Goal("get", f"the {many} in {s} without those for which {said} gives the same as for an earlier one", ("Return", "Give"))
        bodies = [
            f"$out = []\n$seen = []\nfor $x in {s}:\n    $value = {call}\n    if $value not in $seen:\n        $seen.append($value)\n        $out.append($x)\nreturn $out",
            f"$seen = [{call} for $x in {s}]\nreturn [$x for $i, $x in enumerate({s}) if $seen[$i] not in $seen[:$i]]",
        ]
        result, names_ = f"list[{kind}]", (f"unique_{many}", "without_alike", f"distinct_{many}")
    elif form == "join":
        if returns == "str":
            goal = Goal("do", f"Apply {said} to each {one} in {s} and return the results joined by blanks")
            bodies = [f'return " ".join({call} for $x in {s})', f'$out = []\nfor $x in {s}:\n    $out.append({call})\nreturn " ".join($out)']
            result, names_ = "str", ("join_all", f"join_{many}")
        else:
            goal = Goal("do", f"Apply {said} to each {one} in {s} and return all results in one flat list")
            bodies = [
                f"return [$y for $x in {s} for $y in {call}]",
                f"$out = []\nfor $x in {s}:\n    $out.extend({call})\nreturn $out",
                f"return list($chain.from_iterable(map({f}, {s})))",
            ]
            result, names_ = "list[int]", ("collect_all", f"flat_{f}", "all_results")
    else:
        goal = Goal("get", f"a list of pairs of each {one} in {s} and what {said} gives for it", ("Return", "Build", "Make"))
        bodies = [
            f"return [($x, {call}) for $x in {s}]",
            f"$out = []\nfor $x in {s}:\n    $out.append(($x, {call}))\nreturn $out",
            f"return list(zip({s}, map({f}, {s})))",
        ]
        result, names_ = f"list[tuple[{kind}, {returns}]]", (f"with_{f}", "with_results", f"pair_{many}")
    rng.shuffle(bodies)
    return Draft(
        "callers",
        names_,
        (xs,),
        result,
        Goal(goal.kind, say(rng, goal.text), goal.verbs),
        bodies[0],
        notes,
        bodies[1],
        pools={"x": ("row", "values", "part", "xs") if lists else ("line", "text", "s", "item"), "y": ("value", "y", "v")},
        above=first.text,
        imports=first.imports,
        look=look,
    )
