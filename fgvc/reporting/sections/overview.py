"""The first screen: the few figures that matter, and the table of ours, the origin's recipe, the origin's figures."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fgvc.reporting.blocks import Card, Line, Row, RunLink, Section, bounds, cell, interval, line, table
from fgvc.reporting.origin import of_origin, origin_row, published
from fgvc.reporting.runs import Run
from fgvc.reporting.sections.comparisons import best_row, verdict
from fgvc.reporting.sections.shared import doubts, images_of, share_interval
from shards.reading.config import DataConfig

HEADLINES = {  # job -> key of its figure in a split, and what that is
    "classify": ("top1", "classifier, top-1"),
    "evaluate": ("top1", "classifier measured again, top-1"),
    "ensemble": ("top1", "ensemble of classifiers, top-1"),
    "detect": ("top_right", "detector, top box right"),
    "gan": ("frechet", "generator, Fréchet distance"),
}
# settings of data that choose images
SAME = ("train_split", "test_split", "folds", "fold", "holdout", "limit", "per_class", "imbalance")


def cards(runs: Sequence[Run]) -> list[Card]:
    """The figures of the first screen: one of every kind of run, the first that has it; one that says nothing of new
    images only where there is no other."""
    found: dict[str, Card] = {}
    for job, make in CARDS:
        for run in sorted(runs, key=lambda run: bool(doubts(run))):
            if run.job == job and not of_origin(run, runs) and (card := make(run)) is not None:
                found.setdefault(card.label, replace(card, below=(*card.below, *doubts(run))))
    return list(found.values())


def _classify(run: Run, label: str = "Classifier") -> Card | None:
    for split in run.splits("top1"):
        top1, images = run.number("percent", split, "top1"), run.number("count", split, "count")
        if top1 is not None:
            below = line("of ", images, f" {images_of(split)} named rightly", *share_interval(top1, images))
            return Card(label, top1, below, "classifier")
    return None


def _ensemble(run: Run) -> Card | None:
    return _classify(run, "Ensemble")


def _detect(run: Run) -> Card | None:
    for split in run.splits("top_right"):
        right = run.number("percent", split, "top_right")
        if right is not None:
            return Card("Detector", right, (f"of {images_of(split)}: the top box is right",), "detectors")
    return None


def _gan(run: Run) -> Card | None:
    for split in run.splits("frechet"):
        found, floor = run.number("distance", split, "frechet"), run.number("distance", split, "floor")
        if found is not None:
            half = run.number("distance", split, "frechet_half")
            beside: Line = (
                ("; of half as many: ", half, ", between two halves of these: ", floor) if half and floor else ()
            )
            return Card("Generator", found, (f"Fréchet distance to {images_of(split)}", *beside), "gan")
    return None


def _explain(run: Run) -> Card | None:
    for split in run.within("methods"):
        best = str(run.get(split, "best", "pointing"))
        score = run.number("percent", split, "methods", best, "pointing")
        middle = run.number("percent", split, "methods", "centre", "pointing")
        if score is not None:
            beside: Line = ("; the middle of the image: ", middle) if middle else ()
            return Card("Explanation", score, (f"of {best}'s maps peak on the object", *beside), "explanations")
    return None


def _attack(run: Run) -> Card | None:
    for split in run.splits("robust"):
        robust, clean = run.number("percent", split, "robust"), run.number("percent", split, "clean")
        if robust is not None:
            size = f"{run.get(split, 'norm')} {run.get(split, 'epsilon_shown')}"
            beside: Line = (", of ", clean, " clean") if clean else ()
            return Card("Under attack", robust, (f"still right at {size}", *beside), "robustness")
    return None


def _compare(run: Run) -> Card | None:
    place = best_row(run)
    gain = run.number("points", "rows", place, "difference", 0) if place is not None else None
    if place is None or gain is None:
        return None
    label, first = run.get("rows", place, "label"), run.get("rows", 0, "label")
    word = verdict(run, place)
    below = (f"points: {label} over {first}", *_difference(run, place))
    return Card("Comparison", gain, below, "comparisons", word.tone if word else "plain")


def _difference(run: Run, place: int) -> Line:
    return interval(*(run.number("points", "rows", place, "difference", bound) for bound in (1, 2)))


CARDS = (
    ("classify", _classify), ("evaluate", _classify), ("ensemble", _ensemble), ("compare", _compare),
    ("detect", _detect), ("gan", _gan),
    ("explain", _explain), ("attack", _attack),
)  # fmt: skip


def section(runs: Sequence[Run]) -> Section:
    """The headline table."""
    rows = [row for run in runs if not of_origin(run, runs) for row in _rows(run, runs)]
    origins = [run for run in runs if of_origin(run, runs) and not _stands_beside(run, runs)]
    rows += [row for run in origins for row in _origins_own(run, runs)]
    made = Section("headline", "Headline", runs=runs)
    if rows:
        headings = ("what", "ours", "origin's recipe, same data", "origin's published figures (other data)")
        note = (
            "Brackets: 95 % intervals. Origin: the project whose recipes configs/origin keeps. Its recipe is run on "
            "the same images as ours where such a run is on this page. Its published figures are of all of "
            "CUB-200-2011 and Stanford Dogs, by other measures: they say where the project started, not what was "
            "beaten."
        )
        made.blocks.append(table("Ours, and where it started", headings, rows, runs, (note,)))
    return made


def _rows(run: Run, runs: Sequence[Run]) -> list[Row]:
    makers = {"compare": _comparison_rows, "explain": _explain_rows, "attack": _attack_rows, "crop": _crop_rows}
    if run.job in makers:
        return makers[run.job](run)
    if run.job not in HEADLINES:
        return []
    key, title = HEADLINES[run.job]
    rows = []
    for split in run.splits(key)[:1]:
        beside = [_figure(other, split) for other in runs if of_origin(other, runs) and _same_data(run, other)]
        recipe = next((found for found in beside if found), ())
        rows.append(_row(run, f"{title}, {images_of(split)}", _figure(run, split), recipe))
    return rows


def _figure(run: Run, split: str) -> Line:
    """A run's headline figure of a split with its interval."""
    key, _ = HEADLINES[run.job]
    if run.job == "gan":
        return line(run.number("distance", split, key))
    share = run.number("percent", split, key)
    return line(share, *share_interval(share, run.number("count", split, "count")))


def _row(run: Run, what: str, ours: Line, recipe: Line = ()) -> Row:
    return Row(
        (cell(f"{what} ", RunLink(run.key), *doubts(run)), cell(*ours), cell(*recipe), cell(published(run) or None))
    )


def _comparison_rows(run: Run) -> list[Row]:
    key, place = str(run.get("headline")), best_row(run)
    if place is None:
        return []
    difference = run.number("points", "rows", place, "difference", 0)
    ours = line(
        run.number("percent", "rows", place, key), f" {run.get('rows', place, 'label')}; ", difference,
        *_difference(run, place), " ", verdict(run, place),
    )  # fmt: skip
    origin = origin_row(run)
    theirs = run.number("percent", "rows", origin, key) if origin is not None else None
    images = run.number("count", "rows", place, "images")
    what = line("comparison, best row over the first, ", images, f" {images_of(str(run.get('split')))} ")
    return [Row((cell(*what, RunLink(run.key), *doubts(run)), cell(*ours), cell(theirs), cell(None)))]


def _explain_rows(run: Run) -> list[Row]:
    rows = []
    for split in run.within("methods"):
        best = str(run.get(split, "best", "pointing"))
        score = run.number("percent", split, "methods", best, "pointing")
        if score is not None:
            around = bounds(run, "bare_percent", split, "methods", best, "pointing_interval")
            rows.append(_row(run, f"explanation, maps that peak on the object, {best}", (score, *around)))
    return rows


def _attack_rows(run: Run) -> list[Row]:
    rows = []
    for split in run.splits("robust"):
        around = bounds(run, "bare_percent", split, "robust_interval")
        what = f"robust accuracy, {run.get(split, 'norm')} {run.get(split, 'epsilon_shown')}, {images_of(split)}"
        rows.append(_row(run, what, line(run.number("percent", split, "robust"), *around)))
    return rows


def _crop_rows(run: Run) -> list[Row]:
    for split in run.table("boxes"):
        right = run.number("percent", "boxes", split, "right")
        if right is not None:
            around = share_interval(right, run.number("count", "boxes", split, "with_truth"))
            return [_row(run, f"boxes layer, top box right, {images_of(split)}", (right, *around))]
    return []


def _same_data(run: Run, other: Run) -> bool:
    """Whether both were trained and measured on the same images."""
    shards = run.get("inputs", "shards")
    same = all(_setting(run, part) == _setting(other, part) for part in SAME)
    return run.job == other.job and same and shards is not None and shards == other.get("inputs", "shards")


def _setting(run: Run, part: str) -> Any:
    """A setting of the data; at its default in runs that were made before it came."""
    return run.data.get(part, getattr(DataConfig(), part))


def _stands_beside(origin: Run, runs: Sequence[Run]) -> bool:
    """Whether its figure is in the row of one of ours."""
    return origin.job in HEADLINES and any(not of_origin(run, runs) and _same_data(run, origin) for run in runs)


def _origins_own(run: Run, runs: Sequence[Run]) -> list[Row]:
    """Rows of a run of the origin's recipe, or of its weights, that has none of ours beside it."""
    return [Row((row.cells[0], cell(), row.cells[1], row.cells[3])) for row in _rows(run, runs)]
