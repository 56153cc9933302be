"""The page of a training run, drawn while it goes; of several runs, their curves together.

`python -m finetune.run_page FOLDER...` draws it again, or compares runs.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from coder.page import INK, Section, new_figure, write_page

POINTS = 400  # of a curve; more are averaged
REFRESH = 30  # seconds
COURSES = {
    "rate": "learning rate, share of its peak",
    "canvas_length": "canvas length, tokens",
    "tokens_per_s": "tokens per second",
    "peak_share": "share of the device's matrix speed",
}
Entries = list[dict[str, Any]]


def read_metrics(folder: Path) -> Entries:
    """The whole lines of a run's metrics; none if it has not begun."""
    path = folder / "metrics.jsonl"
    entries = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            entry = json.loads(line)
        except ValueError:  # torn by a kill
            continue
        if isinstance(entry, dict):
            entries.append(entry)
    return entries


def curve(entries: Entries, key: str, over: str = "step") -> tuple[list[float], list[float]]:
    """The values of a key and where they stand, averaged to at most POINTS points."""
    found = [(entry[over], entry[key]) for entry in entries if key in entry and over in entry]
    size = -(-len(found) // POINTS) or 1
    groups = [found[i : i + size] for i in range(0, len(found), size)]
    return (
        [sum(x for x, _ in group) / len(group) for group in groups],
        [sum(y for _, y in group) / len(group) for group in groups],
    )


def write_run_page(folder: Path, finished: bool = False) -> None:
    """Write `run.html` into the run's folder, from its metrics."""
    entries = read_metrics(folder)
    steps = [entry for entry in entries if "rate" in entry]
    if not steps:
        return
    last = steps[-1]
    head = (
        f"Step {last['step']:,}, {last['elapsed'] / 60:.1f} minutes, {last['tokens']:,} tokens; "
        f"{'finished' if finished else 'running: this page renews itself'}."
    )
    sections = [Section("Losses", head, [losses({folder.name: entries})])]
    courses = [(key, label) for key, label in COURSES.items() if any(key in e for e in steps)]
    figure, axes = new_figure(len(courses), 1.5)
    for axis, (key, label) in zip(axes, courses, strict=True):
        axis.plot(*curve(steps, key))
        axis.set_title(label, loc="left", fontsize=9)
        axis.set_ylim(bottom=0)
    axes[-1].set_xlabel("step")
    sections.append(
        Section("Course", "", [(figure, "Learning rate, canvas length, speed over steps")])
    )
    names = sorted({key for e in entries for key in e if key.startswith("validation_exact")})
    if names:
        figure, axes = new_figure(2, 2.4)
        for mode, axis in zip(("diffuse", "ar"), axes, strict=True):
            prefix = f"validation_exact_{mode}_"
            for name in (name for name in names if name.startswith(prefix)):
                xs, ys = curve(entries, name)
                heavy = name.endswith("_all")
                label = name.removeprefix(prefix)
                axis.plot(xs, ys, "o-", label=label, linewidth=2 if heavy else 0.8, markersize=3)
            axis.set_title(f"exact matches, {mode}", loc="left", fontsize=9)
            axis.set_ylim(bottom=0)
            axis.legend(
                loc="upper left", bbox_to_anchor=(1, 1), fontsize=8, frameon=False, labelcolor=INK
            )
        table: list[tuple[str, ...]] = [("held out", "diffuse", "ar")]
        newest = [e for e in entries if names[0] in e][-1]
        for name in names:
            if name.startswith("validation_exact_diffuse_"):
                kind = name.removeprefix("validation_exact_diffuse_")
                pair = (newest.get(f"validation_exact_{mode}_{kind}") for mode in ("diffuse", "ar"))
                table.append((kind, *(f"{v:.0%}" if v is not None else "" for v in pair)))
        text = "Share of holes in held-out packages that the decoder filled exactly."
        alt = "Exact matches by kind and length of the middle over steps"
        sections.append(Section("Infilling", text, [(figure, alt)], table))
    events = [entry for entry in entries if "event" in entry]
    if events:
        rows = [(e["event"], f"{e['step']:,}", e.get("why", "")) for e in events[-50:]]
        sections.append(Section("Events", "", table=[("what", "step", "why"), *rows]))
    write_page(folder / "run.html", f"Run {folder.name}", sections, None if finished else REFRESH)


def losses(runs: dict[str, Entries]) -> tuple[Any, str]:
    """Both losses of runs over tokens: thin lines in training, dots on held-out packages."""
    figure, axes = new_figure(2, 2.8)
    for number, (name, entries) in enumerate(runs.items()):
        placed, tokens = [], 0
        for entry in entries:  # a validation stands where the step before it does
            tokens = entry.get("tokens", tokens)
            placed.append({**entry, "tokens": tokens})
        for axis, key in zip(axes, ("next_token_loss", "bound"), strict=True):
            trained = [entry for entry in placed if entry.get(key)]
            xs, ys = curve(trained, key, "tokens")
            axis.plot([x / 1e6 for x in xs], ys, color=f"C{number}", alpha=0.5, linewidth=0.8)
            xs, ys = curve(placed, f"validation_{key}", "tokens")
            axis.plot([x / 1e6 for x in xs], ys, "o", color=f"C{number}", label=name, markersize=4)
    for axis, label in zip(axes, ("next token", "diffusion bound"), strict=True):
        axis.set_title(f"{label}, nats per token (dots: held out)", loc="left", fontsize=9)
    axes[-1].set_xlabel("million tokens")
    if len(runs) > 1:
        axes[0].legend(fontsize=8, frameon=False, labelcolor=INK)
    return figure, "Next-token loss and diffusion bound over tokens"


def main(argv: list[str]) -> int:
    """Draw the page of one run, or `runs.html` in the present folder for several."""
    folders = [Path(name) for name in argv]
    missing = [str(folder) for folder in folders if not read_metrics(folder)]
    if missing or not folders:
        print(f"no metrics in {', '.join(missing) or 'no folder'}", file=sys.stderr)
        return 1
    if len(folders) == 1:
        write_run_page(folders[0], finished=True)
        print(folders[0] / "run.html")
        return 0
    runs = {folder.name: read_metrics(folder) for folder in folders}
    table: list[tuple[str, ...]] = [("run", "steps", "minutes", "tokens", "next token", "bound")]
    for name, entries in runs.items():
        step = [e for e in entries if "rate" in e][-1]
        held = ([e for e in entries if "validation_bound" in e] or [{}])[-1]
        table.append(
            (
                name,
                f"{step['step']:,}",
                f"{step['elapsed'] / 60:.1f}",
                f"{step['tokens']:,}",
                *(
                    f"{held[key]:.3f}" if key in held else "not yet"
                    for key in ("validation_next_token_loss", "validation_bound")
                ),
            )
        )
    page = Path("runs.html")
    write_page(page, "Runs", [Section("Losses", "", [losses(runs)], table)])
    print(page)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
