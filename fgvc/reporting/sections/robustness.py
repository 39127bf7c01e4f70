"""The robustness card: accuracy against epsilon, whether the attacks can be believed, which species becomes which."""

from collections.abc import Sequence

from fgvc.reporting.blocks import (
    Badge,
    Block,
    Chart,
    Charts,
    Heading,
    Line,
    Row,
    Section,
    Table,
    Text,
    bounds,
    cell,
    line,
    table,
)
from fgvc.reporting.charts import Series, line_chart
from fgvc.reporting.numbers import is_number
from fgvc.reporting.runs import Run
from fgvc.reporting.sections.shared import MANY, galleries

PICTURES = {
    "flip_matrix.png": "Which species becomes which, and at what epsilon",
    "perturbed_images.png": "Images as they are, perturbed, and the difference",
}
MOST = 200  # pairs of species in the table
LEAD = (
    "Robust: classified rightly as it is, and under everything that was run on the image at this epsilon, checks "
    "and the targeted attack included; an image that any of it misleads counts as lost."
)


def section(runs: Sequence[Run]) -> Section:
    """Runs of attack."""
    chosen = [run for run in runs if run.job == "attack"]
    made = Section("robustness", "Robustness", (LEAD,), runs=chosen)
    for run in chosen:
        if len(chosen) > 1:
            made.blocks.append(Heading(run.name, run))
        for split in run.splits("robust"):
            made.blocks += _card(run, split)
        made.blocks += galleries([run], PICTURES)
    return made


def _card(run: Run, split: str) -> list[Block]:
    made: list[Block] = [*_headline(run, split), *_curve(run, split), _attacks(run, split)]
    parts = ("checks", _checks), ("flips", _flips), ("per_class", _by_class), ("corruptions", _corruptions)
    return [*made, *(make(run, split) for key, make in parts if run.get(split, key))]


def _headline(run: Run, split: str) -> list[Text]:
    said = line(
        run.number("percent", split, "robust"), *bounds(run, "bare_percent", split, "robust_interval"),
        f" robust against {run.get(split, 'norm')} {run.get(split, 'epsilon_shown')}, ",
        run.number("percent", split, "clean"), *bounds(run, "bare_percent", split, "clean_interval"), " clean, on ",
        run.number("count", split, "count"),
        f" images, under {', '.join(map(str, run.rows(split, 'robust_under')))}. Intervals: 95 %, Wilson.",
    )  # fmt: skip
    checks = run.table(split, "checks")
    red = [name.replace("_", " ") for name in checks if run.get(split, "checks", name, "passed") is False]
    if red:
        warning = f"Not to be believed: accuracy under PGD and FGSM. Red checks: {', '.join(red)}."
        return [Text(said), Text((warning,), "warning")]
    return [Text(said), *([Text(("No check of the attacks is red.",))] if checks else [])]


def _curve(run: Run, split: str) -> list[Charts]:
    linf, clean = run.get(split, "norm") == "linf", run.get(split, "clean")
    lines, said = [], []
    for colour, name in enumerate(run.table(split, "attacks")):
        rows = [row for row in run.table(split, "attacks", name).values() if isinstance(row, dict)]
        known: list[tuple[float, float]] = [
            ((255 if linf else 1) * row["epsilon"], row["accuracy"])
            for row in rows
            if is_number(row.get("epsilon")) and is_number(row.get("accuracy"))
        ]
        known += [(0.0, clean)] if is_number(clean) else []
        if known:
            x, y = zip(*sorted(known), strict=True)
            lines.append(Series(name, x, y, colour, dots=True))
            said.append(f"{name} " + ", ".join(f"{high:.1%} at {at:.3g}" for at, high in zip(x, y, strict=True)))
    if not lines:
        return []
    axis = "epsilon, in 255ths" if linf else "epsilon, L2"
    drawing = line_chart(lines, axis, "accuracy", share=True, size=(5.4, 2.9))
    alt = f"Accuracy against epsilon: {'; '.join(said)}"
    return [Charts([Chart(drawing, alt, (f"{run.name}: accuracy against {axis}",))])]


def _attacks(run: Run, split: str) -> Table:
    sizes: dict[str, float] = {}
    for name in run.table(split, "attacks"):
        for shown in run.table(split, "attacks", name):
            sizes[shown] = run.get(split, "attacks", name, shown, "epsilon") or 0.0
    order = sorted(sizes, key=lambda shown: sizes[shown])

    def share(*at: str) -> Line:
        return line(run.number("percent", *at, "accuracy"), *bounds(run, "bare_percent", *at, "interval"))

    rows = [
        Row((cell(name), *(cell(*share(split, "attacks", name, size)) for size in order)))
        for name in run.table(split, "attacks")
    ]
    note: Line = ()
    for part in run.table(split, "autoattack_broke"):
        broke = run.number("count", split, "autoattack_broke", part)
        note = line(*note, ", " if note else "AutoAttack's parts, each on what was left: ", f"{part} broke ", broke)
    return table(f"{run.name}: accuracy by attack and epsilon", ("attack", *order), rows, [run], note)


def _checks(run: Run, split: str) -> Table:
    rows = []
    for name in run.table(split, "checks"):
        found, meaning, passed = (run.get(split, "checks", name, key) for key in ("found", "meaning", "passed"))
        badge = Badge("not made") if passed is None else Badge("green", "good") if passed else Badge("red", "bad")
        rows.append(Row((cell(name.replace("_", " ")), cell(badge), cell(str(found)), cell(str(meaning)))))
    caption = f"{run.name}: can the attacks be believed?"
    return table(caption, ("check", "result", "found", "what it means"), rows, [run])


def _flips(run: Run, split: str) -> Table:
    rows, form = [], "of_255" if run.get(split, "norm") == "linf" else "decimal"
    for place, pair in enumerate(run.rows(split, "flips")[:MOST]):
        if isinstance(pair, dict):
            names, at = (str(pair.get("from")), str(pair.get("to"))), (split, "flips", place)
            numbers = run.number("count", *at, "count"), run.number(form, *at, "median_epsilon")
            rows.append(Row((cell(names[0]), cell(names[1]), *map(cell, numbers)), names))
    headings = ("is", "becomes", "images", ("smallest epsilon", "median of the least perturbations that PGD found"))
    caption = f"{run.name}: species that PGD turns into one another"
    return table(caption, headings, rows, [run], folded=len(rows) > MANY)


def _by_class(run: Run, split: str) -> Table:
    attacks = [str(name) for name in run.rows(split, "robust_under")]
    shares, rows = ("clean", "robust", *attacks), []
    for name in run.table(split, "per_class"):
        at = (split, "per_class", name)
        figures = [run.number("count", *at, "count"), *(run.number("percent", *at, key) for key in shares)]
        rows.append(Row((cell(name), *map(cell, figures)), (name,)))
    caption = f"{run.name}: accuracy under attack by class"
    return table(caption, ("class", "images", *shares), rows, [run], folded=len(rows) > MANY)


def _corruptions(run: Run, split: str) -> Table:
    rows = [
        Row((cell(name), *(cell(run.number("percent", split, "corruptions", name, at)) for at in range(5))))
        for name in run.table(split, "corruptions")
        if name != "mean"
    ]
    mean = run.number("percent", split, "corruptions", "mean")
    note = line("Mean over all: ", mean, ". No attacker here.") if mean else ()
    return table(f"{run.name}: common corruptions, by strength", ("corruption", *"12345"), rows, [run], note)
