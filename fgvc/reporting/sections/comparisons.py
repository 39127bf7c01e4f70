"""Comparisons of configs: every row's figure and its paired difference to the first row."""

from collections.abc import Sequence

from fgvc.reporting.blocks import Badge, Heading, Row, Section, Table, Text, cell, interval, table
from fgvc.reporting.numbers import is_number
from fgvc.reporting.origin import origin_row
from fgvc.reporting.runs import Run
from fgvc.reporting.sections.shared import galleries, images_of

LEVEL = 0.05
PICTURE = {"comparison.png": "Every row's figure against its cost"}
COLUMNS = (  # key, form, heading
    ("p_holm", "decimal", ("p", "of no difference to the first row; two-sided, corrected for the rows (Holm)")),
    ("std", "bare_percent", ("std over seeds", "points")),
    ("images", "count", "images"),
    ("runs", "count", "runs"),
    ("parameters", "millions", "parameters"),
    ("images_per_second", "distance", ("train img/s", "median of the runs")),
    ("seconds", "duration", ("time", "of a run, median")),
)


def rows_of(run: Run) -> list[int]:
    """Places of the rows that were measured."""
    key = str(run.get("headline"))
    return [place for place in range(len(run.rows("rows"))) if is_number(run.get("rows", place, key))]


def best_row(run: Run) -> int | None:
    """The row with the highest figure but the first, which the others are compared with, and the origin's, if there is
    another."""
    key, others = str(run.get("headline")), [place for place in rows_of(run) if place]
    others = [place for place in others if place != origin_row(run)] or others
    return max(others, key=lambda place: run.get("rows", place, key), default=None)


def verdict(run: Run, place: int) -> Badge | None:
    """What the interval of a row's difference allows to say, and of several rows the p-value that counts them: of
    twenty rows that differ from the first by nothing, one's interval leaves 0 out. None for the first row."""
    low, high = (run.get("rows", place, "difference", bound) for bound in (1, 2))
    if not (is_number(low) and is_number(high)):
        return None
    corrected = run.get("rows", place, "p_holm")
    several = len(rows_of(run)) > 2
    chance = several and is_number(corrected) and corrected > LEVEL
    return Badge("no difference shown") if chance else verdict_of(low, high)


def verdict_of(low: float, high: float) -> Badge:
    """A difference is a gain or a loss where its whole interval is."""
    if low > 0:
        return Badge("gain", "good")
    return Badge("loss", "bad") if high < 0 else Badge("no difference shown")


def section(runs: Sequence[Run]) -> Section:
    """A table a comparison."""
    compared = [run for run in runs if run.job == "compare" and run.rows("rows")]
    lead = (
        "Differences are to the first row, image by image on the same images. A gain is called one only where the "
        "whole 95 % interval is above 0 and, of several rows, p (Holm) is at most 0.05."
    )
    made = Section("comparisons", "Comparisons", (lead,), runs=compared)
    for run in compared:
        made.blocks += [*([Heading(run.name, run)] if len(compared) > 1 else []), _table(run)]
        place, count = best_row(run), len(rows_of(run))
        if count > 2 and place is not None:
            label = run.get("rows", place, "label")
            made.blocks.append(Text((f"{label} is the best of {count} rows: its figure is partly luck.",)))
        made.blocks += galleries([run], PICTURE)
    return made


def _table(run: Run) -> Table:
    key, rows = str(run.get("headline")), []
    for place in range(len(run.rows("rows"))):
        at = ("rows", place)
        origin = (" ", Badge("origin's recipe")) if place == origin_row(run) else ()
        value, difference = run.number("percent", *at, key), run.number("points", *at, "difference", 0)
        of_value = interval(run.number("bare_percent", *at, "low"), run.number("bare_percent", *at, "high"))
        of_difference = interval(*(run.number("points", *at, "difference", bound) for bound in (1, 2)))
        rows.append(Row((
            cell(str(run.get(*at, "label")), *origin), cell(value, *(of_value if value else ())),
            cell(difference, *(of_difference if difference else ())), cell(verdict(run, place)),
            *(cell(run.number(form, *at, name)) for name, form, _ in COLUMNS),
        )))  # fmt: skip
    touched = run.table("touched_test")
    note = f"{len(touched)} rows measured the test split." if touched else "No row touched the test split."
    headings = ("row", key, "difference, points", "verdict", *(heading for _, _, heading in COLUMNS))
    return table(f"{run.name}: {key} on {images_of(str(run.get('split')))}", headings, rows, [run], (note,))
