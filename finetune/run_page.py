"""The HTML page of a training run, updated while it trains, and a page that compares runs.

`python -m talaria.finetune.run_page FOLDER...` redraws the page of one run or compares several.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

from talaria.coder.cli import guarded
from talaria.coder.page import INK, Section, new_figure, write_page

POINTS = 400  # per curve; more are averaged
SMOOTH = 60  # points per smoothed curve
REFRESH = 30  # seconds between reloads of a running run's page
LOSSES = {
    "next_token_loss": "next token",
    "bound": "diffusion bound",
    "chain": "chain",
    "canvas_loss": "masks of canvases",
}
PROGRESS = {
    "rate": "learning rate, relative to its peak",
    "canvas_length": "canvas length, tokens",
    "gradient_norm": "gradient norm",
    "tokens_per_s": "tokens per second",
    "peak_share": "share of the device's peak matrix speed",
    "validation_tokens_per_pass": "tokens a pass, of held-out text",
}
EXACT = "validation_exact_"
LENGTH_CLASS = ("to_", "over_")  # prefixes of the length classes of exact matches
STEP = {"step", "elapsed", "tokens", "rate"}  # keys that every step's line has
Entries = list[dict[str, Any]]


def read_metrics(folder: Path) -> Entries:
    """Read the complete lines of a run's metrics; empty if there are none yet."""
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
    """Read the recipe from the run's checkpoint; empty before the first one."""
    try:
        text = (folder / "model" / "config.json").read_text(encoding="utf-8")
        config = json.loads(text)
        training = config["training"]
        base = config.get("base", {}).get("name", "random")
        return {**training["recipe"], "init": (training["init"] or base)[:32]}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def curve(
    entries: Entries, key: str, over: str = "step", points: int = POINTS
) -> tuple[list[float], list[float]]:
    """The x and y values of a metric, averaged to at most `points` points.

    Values that are not finite, as in a failed step, are left out.
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
    """Write `run.html` into the run's folder, unless the metrics hold no step yet.

    `progress` is the fraction of the budget spent, if known. Below 1, the page reloads itself
    and estimates the time left.
    """
    entries = read_metrics(folder)
    steps = [entry for entry in entries if entry.keys() >= STEP]
    if not steps:
        return
    name = folder.resolve().name
    sections = [
        Section("Losses", status(steps[-1], progress), [losses({name: entries})]),
        Section("Progress", "", [progress_plots(steps)]),
    ]
    if any(key.startswith(EXACT) for entry in entries for key in entry):
        sections.append(infilling(entries))
    events = [entry for entry in entries if "event" in entry]
    if events:
        rows = [(e["event"], e.get("step", ""), e.get("why", "")) for e in events[-50:]]
        sections.append(Section("Events", "", table=[("event", "step", "reason"), *rows]))
    if settings := read_settings(folder):
        sections.append(Section("Recipe", "", table=[("setting", "value"), *settings.items()]))
    running = progress is not None and progress < 1
    write_page(folder / "run.html", f"Run {name}", sections, REFRESH if running else None)


def status(last: dict[str, Any], progress: float | None) -> str:
    """A sentence on the progress of a run, from its last step."""
    text = f"Step {last['step']:,}, {last['elapsed'] / 60:.1f} minutes, {last['tokens']:,} tokens"
    if progress is None:
        return f"{text}."
    if progress >= 1:
        return f"{text}; finished."
    if progress > 0:
        left = last["elapsed"] / 60 * (1 / progress - 1)
        text += f", {progress:.0%} of the budget, about {left:.0f} minutes left"
    return f"{text}; running: this page reloads itself."


def losses(runs: dict[str, Entries], over: str = "tokens") -> tuple[Any, str]:
    """Plot losses over "tokens" or "elapsed": training as lines, held-out packages as dots.

    Held-out bound and chain losses are shown only once canvases are trained. The axes may cut
    off the first steps, whose high losses would flatten the rest.
    """
    measured = [name for name in LOSSES if any(name in e for each in runs.values() for e in each)]
    figure, axes = new_figure(len(measured), 2.4)
    for axis in axes[1:]:
        axis.sharex(axes[0])
    per, unit = (1e6, "million tokens") if over == "tokens" else (60, "minutes of training")
    shown: list[list[float]] = [[] for _ in measured]
    for number, (name, entries) in enumerate(runs.items()):
        style = {"color": f"C{number}", "linestyle": ("-", "--", ":")[number // 10 % 3]}
        tokens, canvases = 0, False
        placed: list[Entries] = [[] for _ in measured]
        for entry in entries:  # plot a validation at the step before it
            tokens = entry.get("tokens", tokens)
            canvases = canvases or bool(entry.get("canvas_length")) or "canvas_loss" in entry
            placed[0].append({**entry, "tokens": tokens})
            for lines in placed[1:] if canvases else ():
                lines.append(placed[0][-1])
        for axis, key, lines, values in zip(axes, measured, placed, shown, strict=True):
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
    for axis, name, values in zip(axes, measured, shown, strict=True):
        axis.set_title(f"{LOSSES[name]}, nats per token (dots: held-out)", loc="left", fontsize=9)
        if values:
            margin = 0.05 * (max(values) - min(values)) or 1
            axis.set_ylim(min(values) - margin, max(values) + margin)
    axes[-1].set_xlabel(unit)
    if len(runs) > 1:
        legend(axes[0])
    return figure, f"Losses over {unit}: {', '.join(LOSSES[name] for name in measured)}"


def progress_plots(steps: Entries) -> tuple[Any, str]:
    """Plot the other metrics of a run over its steps."""
    measured = [(key, label) for key, label in PROGRESS.items() if any(key in e for e in steps)]
    figure, axes = new_figure(len(measured), 1.4)
    for axis, (key, label) in zip(axes, measured, strict=True):
        axis.plot(*curve(steps, key))
        axis.set_title(label, loc="left", fontsize=9)
        axis.set_ylim(bottom=0)
        axis.label_outer()
    axes[-1].set_xlabel("step")
    return figure, ", ".join(label for _, label in measured)


def infilling(entries: Entries) -> Section:
    """Exact matches on held-out packages, for each decoding mode by kind and by length."""
    lines = [entry for entry in entries if any(key.startswith(EXACT) for key in entry)]
    names = [key.removeprefix(EXACT) for entry in lines for key in entry if key.startswith(EXACT)]
    modes = list(dict.fromkeys(name.partition("_")[0] for name in names))
    classes = sorted({name.partition("_")[2] for name in names}, key=class_order)
    figure, axes = new_figure(2 * len(modes), 1.7)
    for number, axis in enumerate(axes):
        mode, lengths = modes[number // 2], number % 2 == 1
        for name in classes:
            if name == "all" or name.startswith(LENGTH_CLASS) == lengths:
                xs, ys = curve(entries, f"{EXACT}{mode}_{name}")
                style = {"color": INK, "linewidth": 2} if name == "all" else {"linewidth": 1}
                axis.plot(
                    xs, [100 * y for y in ys], "o-", label=class_label(name), markersize=3, **style
                )
        by = "length in tokens" if lengths else "kind of hole"
        axis.set_title(f"{mode}: exact matches by {by}, %", loc="left", fontsize=9)
        axis.set_ylim(bottom=0)
        axis.label_outer()
        legend(axis)
    axes[-1].set_xlabel("step")
    rows = [
        (class_label(name), *(percent(lines[-1].get(f"{EXACT}{mode}_{name}")) for mode in modes))
        for name in classes
    ]
    text = (
        "Share of held-out holes that the decoder filled exactly; the table shows the last "
        "validation."
    )
    alt = "Exact matches by kind and length of the middle over steps"
    return Section("Infilling", text, [(figure, alt)], [("held-out holes", *modes), *rows])


def class_order(name: str) -> tuple[int, int, str]:
    """A sort key for classes of holes: all, then kinds, then lengths in ascending order."""
    if name.startswith(LENGTH_CLASS):
        bound = int("".join(filter(str.isdigit, name)) or 0)
        return 2, 2 * bound + name.startswith("over_"), name
    return int(name != "all"), 0, name


def class_label(name: str) -> str:
    """A readable label for a class of holes."""
    return f"{'up ' if name.startswith('to_') else ''}{name}".replace("_", " ")


def percent(value: float | None) -> str:
    """Format a share for a table; empty if there is none."""
    return "" if value is None else f"{value:.0%}"


def legend(axis: Any) -> None:
    """Put the legend of an axis to its right, clear of the curves."""
    axis.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=8, labelcolor=INK, frameon=False)


def compare(runs: dict[str, Entries], settings: dict[str, dict[str, Any]]) -> list[Section]:
    """Sections that compare runs: losses over tokens and time, progress, and differing settings.

    Runs without a checkpoint have no settings yet.
    """
    table: list[tuple[str, ...]] = [("run", "steps", "minutes", "tokens", *LOSSES.values())]
    for name, entries in runs.items():
        step = [entry for entry in entries if entry.keys() >= STEP][-1]
        held_out = ([e for e in entries if "validation_bound" in e] or [{}])[-1]
        table.append(
            (
                *(name, f"{step['step']:,}", f"{step['elapsed'] / 60:.1f}", f"{step['tokens']:,}"),
                *(
                    f"{held_out[k]:.3f}" if k in held_out else ""
                    for k in (f"validation_{k}" for k in LOSSES)
                ),
            )
        )
    keys = dict.fromkeys(key for each in settings.values() for key in each)
    known = [each for each in settings.values() if each]
    differing = [key for key in keys if len({str(each.get(key)) for each in known}) > 1]
    sections = [
        Section("Losses", "Dots and table: held-out packages.", [losses(runs)], table),
        Section(
            "Losses over time",
            "Less reliable if the machine was busy.",
            [losses(runs, "elapsed")],
        ),
    ]
    if differing:
        rows = [
            (name, *(each.get(key, "") for key in differing)) for name, each in settings.items()
        ]
        text = "Only settings that differ between runs."
        sections.append(Section("Settings", text, table=[("run", *differing), *rows]))
    return sections


def main(argv: list[str]) -> int:
    """Draw the page of one run, or `runs.html` in the current folder for several."""
    folders = [Path(name) for name in argv]
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        names = argv
    runs = {name: read_metrics(folder) for name, folder in zip(names, folders, strict=True)}
    empty = [name for name, entries in runs.items() if not any(e.keys() >= STEP for e in entries)]
    if empty or not folders:
        reason = f"no metrics in {', '.join(empty)}" if empty else "name the folder of a run"
        print(f"run_page: {reason}", file=sys.stderr)
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
