"""Classifiers side by side: figures, training curves, accuracy by class."""

from collections.abc import Sequence

from fgvc.reporting.blocks import Badge, Line, Row, RunLink, Section, Table, cell, interval, table
from fgvc.reporting.numbers import is_number
from fgvc.reporting.origin import of_origin
from fgvc.reporting.runs import Run
from fgvc.reporting.sections.comparisons import verdict_of
from fgvc.reporting.sections.shared import MANY, courses, doubts, share_interval

PANELS = (
    ("loss", (("loss", "training", False), ("val_nll", "held out", True)), False),
    (
        "top-1",
        (("top1", "training", False), ("val_top1", "held out", True), ("val_robust", "held out, attacked", True)),
        True,
    ),
    ("learning rate", (("lr", "learning rate", False),), False),
)
FIGURES = (  # key, form, heading
    ("top5", "percent", "top-5"),
    ("class_mean", "percent", ("class mean", "mean of the classes' accuracies")),
    ("nll", "decimal", ("NLL", "negative log-likelihood, nats")),
    ("ece", "decimal", ("ECE", "calibration error of the probabilities as they are")),
    ("ece_calibrated", "decimal", ("ECE calibrated", "after dividing the logits by the temperature")),
)


def section(runs: Sequence[Run]) -> Section:
    """Runs of classify, evaluate and ensemble."""
    chosen = [run for run in runs if run.job in ("classify", "evaluate", "ensemble")]
    measured = [run for run in chosen if run.splits("top1")]
    made = Section("classifier", "Classifier", runs=chosen)
    if measured:
        made.blocks.append(_summary(measured))
    made.blocks += [_members(run) for run in measured if run.rows("members")]
    made.blocks += courses([run for run in chosen if run.curves.columns], PANELS)
    if measured and (per_class := _per_class(measured)):
        made.blocks.append(per_class)
    return made


def _summary(runs: Sequence[Run]) -> Table:
    rows = []
    for run in runs:
        for split in run.splits("top1"):
            top1, images = run.number("percent", split, "top1"), run.number("count", split, "count")
            marks: Line = (" ", Badge("origin's recipe")) if of_origin(run, runs) else ()
            marks = (*marks, *doubts(run))
            rows.append(Row((
                cell(RunLink(run.key), *marks), cell(split), cell(images), cell(top1, *share_interval(top1, images)),
                *(cell(run.number(form, split, key)) for key, form, _ in FIGURES),
                cell(run.number("percent", split, "without_listed", "top1")),
                cell(run.number("millions", "parameters")), cell(run.number("distance", "gflops")),
            )))  # fmt: skip
    listed = ("without listed", "top-1 without the images that exclude= lists")
    headings = ("run", "split", "images", "top-1", *(name for _, _, name in FIGURES), listed, "parameters", "GFLOPs")
    return table("Accuracy and calibration", headings, rows, runs, ("Brackets: 95 % intervals over images.",))


def _members(run: Run) -> Table:
    """An ensemble against each of its members."""
    rows = []
    for place in range(len(run.rows("members"))):
        at = ("members", place)
        low, high = run.get(*at, "low"), run.get(*at, "high")
        known = is_number(low) and is_number(high)
        around = interval(run.number("points", *at, "low"), run.number("points", *at, "high"))
        rows.append(Row((
            cell(str(run.get(*at, "run"))), cell(run.number("percent", *at, "top1")),
            cell(run.number("points", *at, "difference"), *around), cell(verdict_of(low, high) if known else None),
            cell(run.number("decimal", *at, "p_holm")),
        )))  # fmt: skip
    headings = ("member", "top-1", "ensemble over it, points", "verdict", "p")
    note = "Pairs of answers to the same images; p is corrected for the number of members (Holm). One run a member."
    return table(f"{run.name}: the mean of {len(rows)} classifiers' probabilities", headings, rows, [run], (note,))


def _per_class(runs: Sequence[Run]) -> Table | None:
    """A row a class, a column a run and split."""
    measured = [(run, split) for run in runs for split in run.splits("top1")]
    classes = sorted({name for run, split in measured for name in run.table(split, "per_class")})
    if not classes:
        return None
    titles = [f"{run.key if len(runs) > 1 else 'top-1'}, {split}" for run, split in measured]
    rows = [
        Row((cell(name), *(cell(run.number("percent", split, "per_class", name)) for run, split in measured)), (name,))
        for name in classes
    ]
    return table("Accuracy by class", ("class", *titles), rows, runs, folded=len(rows) > MANY)
