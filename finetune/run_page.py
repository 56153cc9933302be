"""The page of a training run, drawn while it goes; of several runs, their curves together.

`python -m talaria.finetune.run_page FOLDER...` draws it again, or compares runs.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

from talaria.coder.cli import guarded
from talaria.coder.page import INK, Section, new_figure, write_page

POINTS = 400  # of a curve; more are averaged
SMOOTH = 60  # of a smoothed one
REFRESH = 30  # seconds
LOSSES = {"next_token_loss": "next token", "bound": "diffusion bound", "chain": "chain"}
COURSES = {
    "rate": "learning rate, share of its peak",
    "canvas_length": "canvas length, tokens",
    "gradient_norm": "norm of the gradient",
    "tokens_per_s": "tokens per second",
    "peak_share": "share of the device's matrix speed",
}
EXACT = "validation_exact_"
LENGTH_CLASS = ("to_", "over_")  # how the exact matches of a class of lengths begin
STEP = {"step", "elapsed", "tokens", "rate"}  # what the line of a step has at least
Entries = list[dict[str, Any]]


def read_metrics(folder: Path) -> Entries:
    """The whole lines of a run's metrics; none if it has not begun."""
    path = folder / "metrics.jsonl"
    if not path.exists():
        return []
    entries = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:  # torn by a kill
            continue
        if isinstance(entry, dict):
            entries.append(entry)
    return entries


def read_settings(folder: Path) -> dict[str, Any]:
    """What the run's checkpoint says it was made with; nothing before there is one."""
    try:
        text = (folder / "model" / "config.json").read_text(encoding="utf-8")
        training = json.loads(text)["training"]
        return {**training["recipe"], "init": (training["init"] or "random")[:12]}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def curve(
    entries: Entries, key: str, over: str = "step", points: int = POINTS
) -> tuple[list[float], list[float]]:
    """The values of a key and where they stand, averaged to at most `points` points.

    Values that are no finite numbers, as of a step that went wrong, are left out.
    """
    found = [
        (entry[over], value)
        for entry in entries
        if isinstance(value := entry.get(key), int | float)
        and math.isfinite(value)
        and over in entry
    ]
    count, size = min(points, len(found)), len(found)
    groups = [found[i * size // count : (i + 1) * size // count] for i in range(count)]
    return (
        [sum(x for x, _ in group) / len(group) for group in groups],
        [sum(y for _, y in group) / len(group) for group in groups],
    )


def write_run_page(folder: Path, progress: float | None = None) -> None:
    """Write `run.html` into the run's folder, from its metrics; nothing before the first step.

    `progress` is the share of the budget that is spent, if the caller knows it.
    Below 1 the page renews itself and says how long the rest will take.
    """
    entries = read_metrics(folder)
    steps = [entry for entry in entries if entry.keys() >= STEP]
    if not steps:
        return
    name = folder.resolve().name
    sections = [
        Section("Losses", position(steps[-1], progress), [losses({name: entries})]),
        Section("Course", "", [courses(steps)]),
    ]
    if any(key.startswith(EXACT) for entry in entries for key in entry):
        sections.append(infilling(entries))
    events = [entry for entry in entries if "event" in entry]
    if events:
        rows = [(e["event"], e.get("step", ""), e.get("why", "")) for e in events[-50:]]
        sections.append(Section("Events", "", table=[("what", "step", "why"), *rows]))
    if settings := read_settings(folder):
        sections.append(Section("Recipe", "", table=[("setting", "value"), *settings.items()]))
    running = progress is not None and progress < 1
    write_page(folder / "run.html", f"Run {name}", sections, REFRESH if running else None)


def position(last: dict[str, Any], progress: float | None) -> str:
    """Where a run stands, as a sentence."""
    text = f"Step {last['step']:,}, {last['elapsed'] / 60:.1f} minutes, {last['tokens']:,} tokens"
    if progress is None:
        return f"{text}."
    if progress >= 1:
        return f"{text}; finished."
    if progress > 0:
        left = last["elapsed"] / 60 * (1 / progress - 1)
        text += f", {progress:.0%} of the budget, about {left:.0f} minutes left"
    return f"{text}; running: this page renews itself."


def losses(runs: dict[str, Entries], over: str = "tokens") -> tuple[Any, str]:
    """The losses of runs over "tokens" or "elapsed": lines in training, dots on held-out packages.

    Bound and chain on held-out packages count from the first canvas trained on; before
    they say nothing. The first steps, which would press all others flat, may leave the picture.
    """
    figure, axes = new_figure(len(LOSSES), 2.4)
    for axis in axes[1:]:
        axis.sharex(axes[0])
    per, unit = (1e6, "million tokens") if over == "tokens" else (60, "minutes of training")
    shown: list[list[float]] = [[] for _ in LOSSES]
    for number, (name, entries) in enumerate(runs.items()):
        style = {"color": f"C{number}", "linestyle": ("-", "--", ":")[number // 10 % 3]}
        tokens, canvases = 0, False
        placed: list[Entries] = [[] for _ in LOSSES]
        for entry in entries:  # a validation stands where the step before it does
            tokens = entry.get("tokens", tokens)
            canvases = canvases or bool(entry.get("canvas_length"))
            placed[0].append({**entry, "tokens": tokens})
            for lines in placed[1:] if canvases else ():
                lines.append(placed[0][-1])
        for axis, key, lines, values in zip(axes, LOSSES, placed, shown, strict=True):
            trained = [entry for entry in lines if entry.get(key)]
            if len(runs) == 1:
                xs, ys = curve(trained, key, over)
                axis.plot([x / per for x in xs], ys, **style, alpha=0.35, linewidth=0.7)
                values += ys[len(ys) // 50 :]
            xs, ys = curve(trained, key, over, SMOOTH)
            axis.plot([x / per for x in xs], ys, **style, linewidth=1.2, label=name)
            values += ys[len(ys) // 20 :]
            xs, ys = curve(lines, f"validation_{key}", over)
            axis.plot([x / per for x in xs], ys, "o", color=style["color"], markersize=4)
            values += ys
    for axis, label, values in zip(axes, LOSSES.values(), shown, strict=True):
        axis.set_title(f"{label}, nats per token (dots: held out)", loc="left", fontsize=9)
        if values:
            room = 0.05 * (max(values) - min(values)) or 1
            axis.set_ylim(min(values) - room, max(values) + room)
    axes[-1].set_xlabel(unit)
    if len(runs) > 1:
        legend(axes[0])
    return figure, f"Next-token loss, diffusion bound and chain's loss over {unit}"


def courses(steps: Entries) -> tuple[Any, str]:
    """What else a run measures of itself, over its steps."""
    measured = [(key, label) for key, label in COURSES.items() if any(key in e for e in steps)]
    figure, axes = new_figure(len(measured), 1.4)
    for axis, (key, label) in zip(axes, measured, strict=True):
        axis.plot(*curve(steps, key))
        axis.set_title(label, loc="left", fontsize=9)
        axis.set_ylim(bottom=0)
        axis.label_outer()
    axes[-1].set_xlabel("step")
    return figure, ", ".join(label for _, label in measured)


def infilling(entries: Entries) -> Section:
    """Exact matches on held-out packages, by mode of decoding and then by kind and by length."""
    lines = [entry for entry in entries if any(key.startswith(EXACT) for key in entry)]
    names = [key.removeprefix(EXACT) for entry in lines for key in entry if key.startswith(EXACT)]
    modes = list(dict.fromkeys(name.partition("_")[0] for name in names))
    classes = sorted({name.partition("_")[2] for name in names}, key=in_order)
    figure, axes = new_figure(2 * len(modes), 1.7)
    for number, axis in enumerate(axes):
        mode, lengths = modes[number // 2], number % 2 == 1
        for name in classes:
            if name == "all" or name.startswith(LENGTH_CLASS) == lengths:
                xs, ys = curve(entries, f"{EXACT}{mode}_{name}")
                style = {"color": INK, "linewidth": 2} if name == "all" else {"linewidth": 1}
                axis.plot(xs, [100 * y for y in ys], "o-", label=spelt(name), markersize=3, **style)
        what = "length in tokens" if lengths else "kind of hole"
        axis.set_title(f"{mode}: exact matches by {what}, %", loc="left", fontsize=9)
        axis.set_ylim(bottom=0)
        axis.label_outer()
        legend(axis)
    axes[-1].set_xlabel("step")
    rows = [
        (spelt(name), *(percent(lines[-1].get(f"{EXACT}{mode}_{name}")) for mode in modes))
        for name in classes
    ]
    text = (
        "Share of holes in held-out packages that the decoder filled exactly; the table: the last."
    )
    alt = "Exact matches by kind and length of the middle over steps"
    return Section("Infilling", text, [(figure, alt)], [("held out", *modes), *rows])


def in_order(name: str) -> tuple[int, int, str]:
    """Sorts the classes of holes: all, the kinds, the lengths from short to long."""
    if name.startswith(LENGTH_CLASS):
        bound = int("".join(filter(str.isdigit, name)) or 0)
        return 2, 2 * bound + name.startswith("over_"), name
    return int(name != "all"), 0, name


def spelt(name: str) -> str:
    """A class of holes as people write it."""
    return f"{'up ' if name.startswith('to_') else ''}{name}".replace("_", " ")


def percent(value: float | None) -> str:
    """A share for a table; nothing if there is none."""
    return "" if value is None else f"{value:.0%}"


def legend(axis: Any) -> None:
    """The names of an axis' curves, on its right, where no curve is."""
    axis.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=8, labelcolor=INK, frameon=False)


def compare(runs: dict[str, Entries], settings: dict[str, dict[str, Any]]) -> list[Section]:
    """Losses of runs over tokens and over time, where each stands, in which settings they differ.

    A run without a checkpoint has no settings yet.
    """
    table: list[tuple[str, ...]] = [("run", "steps", "minutes", "tokens", *LOSSES.values())]
    for name, entries in runs.items():
        step = [entry for entry in entries if entry.keys() >= STEP][-1]
        held = ([e for e in entries if "validation_bound" in e] or [{}])[-1]
        table.append(
            (
                *(name, f"{step['step']:,}", f"{step['elapsed'] / 60:.1f}", f"{step['tokens']:,}"),
                *(
                    f"{held[k]:.3f}" if k in held else ""
                    for k in (f"validation_{k}" for k in LOSSES)
                ),
            )
        )
    keys = dict.fromkeys(key for each in settings.values() for key in each)
    known = [each for each in settings.values() if each]
    differing = [key for key in keys if len({str(each.get(key)) for each in known}) > 1]
    sections = [
        Section("Losses", "Dots and the table: on held-out packages.", [losses(runs)], table),
        Section(
            "Losses over time",
            "On a busy machine the less to be trusted.",
            [losses(runs, "elapsed")],
        ),
    ]
    if differing:
        rows = [
            (name, *(each.get(key, "") for key in differing)) for name, each in settings.items()
        ]
        text = "Only those that are not the same in all runs."
        sections.append(Section("Settings", text, table=[("run", *differing), *rows]))
    return sections


def main(argv: list[str]) -> int:
    """Draw the page of one run, or `runs.html` in the present folder for several."""
    folders = [Path(name) for name in argv]
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        names = argv
    runs = {name: read_metrics(folder) for name, folder in zip(names, folders, strict=True)}
    empty = [name for name, entries in runs.items() if not any(e.keys() >= STEP for e in entries)]
    if empty or not folders:
        print(f"no metrics in {', '.join(empty) or 'no folder'}", file=sys.stderr)
        return 1
    if len(folders) == 1:
        write_run_page(folders[0])
        print(folders[0] / "run.html")
        return 0
    settings = {name: read_settings(folder) for name, folder in zip(names, folders, strict=True)}
    page = Path("runs.html")
    write_page(page, "Runs", compare(runs, settings))
    print(page)
    return 0


if __name__ == "__main__":
    sys.exit(guarded("run_page", lambda: main(sys.argv[1:])))
