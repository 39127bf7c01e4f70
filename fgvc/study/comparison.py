"""Comparing runs: figures per row over seeds and folds, paired intervals over images, and the table."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from fgvc.runtime.run_folder import RESULT
from fgvc.study.headline import PerImage, read_headline
from fgvc.study.statistics import paired_interval
from shards.errors import UserError


@dataclass(frozen=True)
class Measured:
    """A finished run: where it stands in the comparison, and what its folder holds."""

    seed: int
    fold: int
    result: dict[str, Any]
    per_image: dict[str, PerImage]  # split -> the headline figure of every image
    images_per_second: float | None
    seconds: float


@dataclass(frozen=True)
class RowFigures:
    """A row of the table. Figures are fractions of 1, times in seconds; None where there is nothing to report.

    value: the headline figure; low, high: its bootstrap interval over images. difference (low, high): against the first
    row, paired over images. std: over seeds of the value pooled over folds, for at least two seeds with all their runs.
    """

    label: str
    runs: int
    planned: int
    images: int
    value: float | None
    low: float | None
    high: float | None
    per_seed: list[float]
    std: float | None
    difference: tuple[float, float, float] | None
    parameters: int | None
    images_per_second: float | None
    evaluation_images_per_second: float | None
    seconds: float | None
    test_value: float | None
    test_runs: int


def read_run(folder: Path, seed: int, fold: int) -> Measured | None:
    """What a run left in its folder, or None if it is not done. Raises UserError for unreadable files."""
    if not (folder / RESULT).is_file():
        return None
    result = json.loads((folder / RESULT).read_text())
    found = {split: read_headline(folder, split) for split in ("val", "test") if split in result}
    metrics = folder / "metrics.jsonl"
    lines = metrics.read_text().splitlines() if metrics.is_file() else []
    rates = [json.loads(line)["images_per_second"] for line in lines]
    # result.json times only the last start of a run that was interrupted; its steps are all in metrics.jsonl.
    batch = yaml.safe_load((folder / "config.yaml").read_text())["train"]["batch"]
    steps_seconds = sum(batch / rate for rate in rates)
    return Measured(
        seed, fold, result, found, statistics.median(rates) if rates else None,
        max(result["seconds"], steps_seconds),
    )  # fmt: skip


def figures(rows: Mapping[str, Sequence[Measured]], split: str, seeds: int, folds: int) -> list[RowFigures]:
    """The table's rows, in order; the first is what the others are compared with.

    rows: label -> finished runs. split: val or test, what is measured. seeds, folds: how many were asked for.
    Raises UserError when two rows were measured on different images.
    """
    first = next(iter(rows.values()))
    return [
        _row(label, runs, None if position == 0 else first, split, seeds, folds)
        for position, (label, runs) in enumerate(rows.items())
    ]


def pooled(runs: Sequence[Measured], split: str) -> PerImage:
    """Every image that was measured, with the mean of its figure over these runs."""
    entries = np.concatenate([run.per_image[split][0] for run in runs])
    values = np.concatenate([run.per_image[split][1] for run in runs]).astype(float)
    unique, place = np.unique(entries, return_inverse=True)
    return unique, np.bincount(place, weights=values) / np.bincount(place)


def paired_difference(
    ours: Sequence[Measured], theirs: Sequence[Measured], split: str
) -> tuple[float, float, float] | None:
    """(difference, low, high) over the images of the seeds and folds that both sides finished; None without any."""
    both = {(run.seed, run.fold) for run in ours} & {(run.seed, run.fold) for run in theirs}
    if not both:
        return None
    sides = [pooled([run for run in side if (run.seed, run.fold) in both], split) for side in (ours, theirs)]
    if not np.array_equal(sides[0][0], sides[1][0]):
        raise UserError("rows were measured on different images; compare configs that read the same shards")
    return paired_interval(sides[0][1], sides[1][1])


def table(rows: Sequence[RowFigures], title: str) -> str:
    """The rows as aligned Markdown, which reads well in a terminal too. title: of the headline figure, in percent."""
    header = [
        "row",
        f"{title} %",
        "std over seeds",
        "difference [95 %]",
        "parameters",
        "train img/s",
        "eval img/s",
        "time",
    ]
    touched = any(row.test_runs for row in rows)
    unfinished = any(row.runs < row.planned for row in rows)
    header += [f"test {title} %"] * touched + ["runs"] * unfinished
    cells = [header, *([*_cells(row), *_more_cells(row, touched, unfinished)] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(header))]
    lines = [
        "| " + " | ".join(cell.ljust(width) if i == 0 else cell.rjust(width)
                          for i, (cell, width) in enumerate(zip(line, widths, strict=True))) + " |"
        for line in cells
    ]  # fmt: skip
    rule = "|" + "|".join("-" * (width + 1) + ("-" if i == 0 else ":") for i, width in enumerate(widths)) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def as_record(row: RowFigures, key: str) -> dict[str, Any]:
    """A row as result.json holds it. key: the headline figure's name there."""
    names = {"value": key, "test_value": f"test_{key}"}
    return {names.get(name, name): value for name, value in asdict(row).items()}


def _row(
    label: str, runs: Sequence[Measured], first: Sequence[Measured] | None, split: str, seeds: int, folds: int
) -> RowFigures:
    planned = seeds * max(folds, 1)
    if not runs:
        return RowFigures(
            label, 0, planned, 0, None, None, None, [], None, None, None, None, None, None, None, 0
        )  # fmt: skip
    entries, values = pooled(runs, split)
    value, low, high = paired_interval(values, np.zeros_like(values))
    of_seed: dict[int, list[Measured]] = {}
    for run in runs:
        of_seed.setdefault(run.seed, []).append(run)
    # Folds differ in difficulty: a seed that lacks a fold says nothing about the spread between seeds.
    whole = [group for _, group in sorted(of_seed.items()) if len(group) == max(folds, 1)]
    per_seed = [float(pooled(group, split)[1].mean()) for group in whole]
    tested = [run for run in runs if "test" in run.per_image]
    return RowFigures(
        label=label, runs=len(runs), planned=planned, images=len(entries), value=value, low=low, high=high,
        per_seed=per_seed, std=statistics.stdev(per_seed) if len(per_seed) > 1 else None,
        difference=paired_difference(runs, first, split) if first is not None else None,
        parameters=runs[0].result["parameters"],
        images_per_second=_median([run.images_per_second for run in runs]),
        evaluation_images_per_second=_median([run.result.get("evaluation_images_per_second") for run in runs]),
        seconds=_median([run.seconds for run in runs]),
        test_value=float(pooled(tested, "test")[1].mean()) if tested else None, test_runs=len(tested),
    )  # fmt: skip


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _cells(row: RowFigures) -> list[str]:
    difference = "-"
    if row.difference is not None:
        difference = "{:+.2f} [{:+.2f}, {:+.2f}]".format(*(100 * value for value in row.difference))
    return [
        row.label,
        _shown(row.value, "{:.2f}", 100),
        _shown(row.std, "{:.2f}", 100),
        difference,
        _shown(row.parameters, "{:.2f} M", 1e-6),
        _shown(row.images_per_second, "{:.1f}"),
        _shown(row.evaluation_images_per_second, "{:.1f}"),
        _duration(row.seconds),
    ]


def _more_cells(row: RowFigures, touched: bool, unfinished: bool) -> list[str]:
    return [_shown(row.test_value, "{:.2f}", 100)] * touched + [f"{row.runs} of {row.planned}"] * unfinished


def _shown(value: float | None, form: str, scale: float = 1.0) -> str:
    return "-" if value is None else form.format(value * scale)


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d} min" if minutes else f"{seconds:.1f} s"
