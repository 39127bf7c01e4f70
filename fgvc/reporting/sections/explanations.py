"""What classifiers look at: every method's scores, sheets and overlays."""

from collections.abc import Sequence

from fgvc.explanation.config import BASELINES, SHOWN
from fgvc.reporting.blocks import (
    Badge,
    Block,
    Gallery,
    Heading,
    Picture,
    Points,
    Row,
    RunLink,
    Section,
    Table,
    bounds,
    cell,
    table,
)
from fgvc.reporting.numbers import is_number
from fgvc.reporting.runs import Run
from fgvc.reporting.sections.comparisons import verdict_of
from fgvc.reporting.sections.confusions import explained
from fgvc.reporting.sections.shared import MANY, galleries

MEANINGS = {
    "pointing": "share of maps that peak on the object",
    "energy": "share of a map on the object",
    "max_box_acc": "share of boxes cut from the maps with IoU of at least 0.5, at the best threshold",
    "max_box_acc_v2": "the same, the mean over IoU 0.3, 0.5 and 0.7",
    "telling": "share of a map on the part that tells the two species apart",
    "insertion": "probability while the image is uncovered: larger is better",
    "deletion": "probability while the image is removed: smaller is better",
    "road": "the same with what is removed filled in",
    "sanity": "likeness to maps of randomised weights: smaller is better",
    "sanity_floor": "likeness of two images' maps: what sanity would be of a method whose maps are all alike in part",
    "sanity_flat": "share of the maps of randomised weights that are flat, which sanity leaves out",
    "funnybirds": "mean of the three that follow",
    "seconds": "of one map",
}
SHEETS = {
    "classes.png": "Images that are said to be of a class, and what speaks for it",
    "confused.png": "Images of one class that were taken for another",
}
OVERLAYS = 4
LEAD = (
    "A map is worth what its scores say: the baselines random and centre know nothing of the classifier, and a method "
    "should beat both."
)


def section(runs: Sequence[Run]) -> Section:
    """Runs of explain."""
    chosen = [run for run in runs if run.job == "explain"]
    made = Section("explanations", "Explanations", (LEAD,), runs=chosen)
    for run in chosen:
        if len(chosen) > 1:
            made.blocks.append(Heading(run.name, run))
        made.blocks += [block for split in run.within("methods") for block in _of_split(run, split)]
        made.blocks += [*galleries([run], SHEETS, wide=True), *_overlays(run)]
    return made


def _of_split(run: Run, split: str) -> list[Block]:
    made: list[Block] = [_scores(run, split)]
    if notes := [(str(note),) for note in run.rows(split, "notes")]:
        made.append(Points(notes))
    if run.table(split, "differences"):
        made.append(_differences(run, split))
    if run.table(split, "excess_by_class"):
        made.append(_by_class(run, split))
    return made


def _scores(run: Run, split: str) -> Table:
    methods, best, rows = run.table(split, "methods"), run.table(split, "best"), []
    shown = [score for score in SHOWN if any(is_number(run.get(split, "methods", name, score)) for name in methods)]
    for name in methods:
        cells = [cell(name, *((" ", Badge("baseline")) if name in BASELINES else ()))]
        for score in shown:
            value = run.number("decimal", split, "methods", name, score)
            around = bounds(run, "decimal", split, "methods", name, f"{score}_interval") if value else ()
            mark = (" ", Badge("best", "good")) if best.get(score) == name else ()
            cells.append(cell(value, *around, *mark))
        rows.append(Row(cells))
    headings: list[str | tuple[str, str]] = ["method"]
    headings += [(score.replace("_", " "), MEANINGS.get(score, "")) for score in shown]
    note = (
        "Brackets: 95 % intervals over images. Slow methods, insertion, deletion, ROAD and sanity are measured on "
        "fewer images than the rest."
    )
    caption = f"{run.name}: methods on {run.get(split, 'images')} images, {split}"
    return table(caption, headings, rows, [run], (note,))


def _differences(run: Run, split: str) -> Table:
    rows = []
    for name in run.table(split, "differences"):
        at = (split, "differences", name)
        low, high = (run.number("decimal", *at, "interval", bound) for bound in (0, 1))
        word = verdict_of(low.value, high.value) if low and high else None
        mean, images = run.number("decimal", *at, "mean"), run.number("count", *at, "images")
        rows.append(Row((cell(name), cell(mean, *bounds(run, "decimal", *at, "interval")), cell(word), cell(images))))
    headings = ("score: one - other", "difference", "verdict", "images")
    return table(f"{run.name}: methods compared image by image", headings, rows, [run])


def _by_class(run: Run, split: str) -> Table:
    rows = [
        Row((cell(name), cell(run.number("percent", split, "excess_by_class", name))), (name,))
        for name in run.table(split, "excess_by_class")
    ]
    meaning = "less the boxes' share of the image; far below the others: a class that is told by something else"
    headings = ("predicted class", ("map on the object", meaning))
    caption = f"{run.name}: share of the maps on the object above chance, by class"
    return table(caption, headings, rows, [run], folded=len(rows) > MANY)


def _overlays(run: Run) -> list[Gallery]:
    named, overlays = explained(run), []
    for file in run.pictures("overlays/*.png")[:OVERLAYS]:
        about = named.get(file.stem, {})
        label, predicted = (str(about.get(key) or "?") for key in ("label", "predicted"))
        said = f"{label}, said to be {predicted}"
        alt, caption = f"An image of {said}, under every method's map", (said, " ", RunLink(run.key))
        overlays.append(Picture(file, alt, caption, (label, predicted), 1300))
    return [Gallery(overlays, "One image by every method", wide=True)] if overlays else []
