"""Comparing runs: figures per row over seeds and folds, paired intervals over images, and the table."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from fgvc.runtime.run_folder import RESULT
from fgvc.study.headline import PerImage, read_headline
from fgvc.study.statistics import Interval, holm, interval_over_images, interval_over_seeds
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

    value: the headline figure; low, high: its bootstrap interval over images, and over seeds where two or more measured
    all of them. difference (low, high): against the first row, paired over the same. p: of no difference; p_holm: the
    same corrected for the number of rows. std: over seeds of the value pooled over folds, for at least two seeds with
    all their runs.
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
    p: float | None = None
    p_holm: float | None = None
    gflops: float | None = None  # of a forward pass of one image, in 10^9 operations
    columns: dict[str, float] = field(default_factory=dict)  # more figures, fractions of 1, of jobs that have some


def read_run(folder: Path, seed: int, fold: int) -> Measured | None:
    """What a run left in its folder, or None if it is not done. Raises UserError for unreadable files."""
    if not (folder / RESULT).is_file():
        return None
    result = json.loads((folder / RESULT).read_text())
    found = {split: read_headline(folder, split) for split in ("val", "test") if split in result}
    metrics = folder / "metrics.jsonl"
    lines = metrics.read_text().splitlines() if metrics.is_file() else []
    rates = [
        row["images_per_second"] for row in map(json.loads, lines) if "images_per_second" in row
    ]  # a probe has none
    # An older version's result.json times only the last start of a run; its steps are all in metrics.jsonl.
    batch = yaml.safe_load((folder / "config.yaml").read_text()).get("train", {}).get("batch", 0)
    steps_seconds = sum(batch / rate for rate in rates)
    return Measured(
        seed, fold, result, found, statistics.median(rates) if rates else None,
        max(result["seconds"], steps_seconds),
    )  # fmt: skip


def figures(rows: Mapping[str, Sequence[Measured]], split: str, seeds: int, folds: int) -> list[RowFigures]:
    """The table's rows, in order; the first is what the others are compared with.

    rows: label -> finished runs. split: val or test, what is measured. seeds, folds: how many were asked for.
    Raises UserError when two rows were measured on different images, or shards.
    """
    first = next(iter(rows.values()))
    # Images are paired by their places in the shards: of others, the same places are other images.
    if len({run.result.get("inputs", {}).get("shards") for runs in rows.values() for run in runs}) > 1:
        raise UserError(
            "rows were measured on shards that were made again in between; delete the folders of the runs on the "
            "former ones, and start the same command again"
        )
    found = [
        _row(label, runs, None if position == 0 else first, split, seeds, folds)
        for position, (label, runs) in enumerate(rows.items())
    ]
    tested = [row for row in found if row.p is not None]
    corrected = dict(zip((row.label for row in tested), holm([row.p or 0.0 for row in tested]), strict=True))
    return [replace(row, p_holm=corrected.get(row.label)) for row in found]


def pooled(runs: Sequence[Measured], split: str) -> PerImage:
    """Every image that was measured, with the mean of its figure over these runs."""
    entries = np.concatenate([run.per_image[split][0] for run in runs])
    values = np.concatenate([run.per_image[split][1] for run in runs]).astype(float)
    unique, place = np.unique(entries, return_inverse=True)
    return unique, np.bincount(place, weights=values) / np.bincount(place)


def paired_difference(ours: Sequence[Measured], theirs: Sequence[Measured], split: str) -> Interval | None:
    """The difference over the images of the seeds and folds that both sides finished; None without any."""
    both = {(run.seed, run.fold) for run in ours} & {(run.seed, run.fold) for run in theirs}
    if not both:
        return None
    ours, theirs = ([run for run in side if (run.seed, run.fold) in both] for side in (ours, theirs))
    (entries, values), (their_entries, their_values) = (pooled(side, split) for side in (ours, theirs))
    if not np.array_equal(entries, their_entries):
        raise UserError("rows were measured on different images; compare configs that read the same shards")
    matrices = [_of_seeds(side, split, len(entries)) for side in (ours, theirs)]
    if matrices[0] is not None and matrices[1] is not None:
        return interval_over_seeds(matrices[0] - matrices[1])
    return interval_over_images(values - their_values)


def _of_seeds(runs: Sequence[Measured], split: str, images: int) -> np.ndarray | None:
    """(seeds, images) figures, a row a seed; None for one seed, or where a seed did not measure every image."""
    of_seed = _by_seed(runs)
    if len(of_seed) < 2:
        return None
    found = [pooled(group, split)[1] for group in of_seed.values()]
    return np.stack(found) if all(len(values) == images for values in found) else None


def _by_seed(runs: Sequence[Measured]) -> dict[int, list[Measured]]:
    of_seed: dict[int, list[Measured]] = {}
    for run in sorted(runs, key=lambda run: (run.seed, run.fold)):
        of_seed.setdefault(run.seed, []).append(run)
    return of_seed


def cells_of(rows: Sequence[RowFigures], title: str) -> list[list[str]]:
    """The table's cells as text, the header first. title: of the headline figure, in percent."""
    header = [
        "row", f"{title} %", "std over seeds", "difference [95 %]", "parameters", "train img/s", "eval img/s", "time",
    ]  # fmt: skip
    corrected = sum(row.p_holm is not None for row in rows) > 1
    touched = any(row.test_runs for row in rows)
    unfinished = any(row.runs < row.planned for row in rows)
    header[5:5] = ["GFLOPs"] * _has_flops(rows)
    header[4:4] = ["p (Holm)"] * corrected
    header += [f"test {title} %"] * touched + ["runs"] * unfinished
    flops = _has_flops(rows)
    names = list(dict.fromkeys(name for row in rows for name in row.columns))
    header[2:2] = [f"{name} %" for name in names]
    return [
        header, *([*_cells(row, corrected, flops, names), *_more_cells(row, touched, unfinished)] for row in rows)
    ]  # fmt: skip


def table(rows: Sequence[RowFigures], title: str) -> str:
    """The rows as aligned Markdown, which reads well in a terminal too. title: of the headline figure, in percent."""
    cells = cells_of(rows, title)
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) if i == 0 else cell.rjust(width)
                          for i, (cell, width) in enumerate(zip(line, widths, strict=True))) + " |"
        for line in cells
    ]  # fmt: skip
    rule = "|" + "|".join("-" * (width + 1) + ("-" if i == 0 else ":") for i, width in enumerate(widths)) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def as_record(row: RowFigures, key: str) -> dict[str, Any]:
    """A row as result.json holds it. key: the headline figure's name there."""
    names, record = {"value": key, "test_value": f"test_{key}"}, asdict(row)
    if not row.columns:
        del record["columns"]
    return {names.get(name, name): value for name, value in record.items()}


def _row(
    label: str, runs: Sequence[Measured], first: Sequence[Measured] | None, split: str, seeds: int, folds: int
) -> RowFigures:
    planned = seeds * max(folds, 1)
    if not runs:
        return RowFigures(
            label, 0, planned, 0, None, None, None, [], None, None, None, None, None, None, None, 0
        )  # fmt: skip
    entries, values = pooled(runs, split)
    matrix = _of_seeds(runs, split, len(entries))
    value, low, high, _ = interval_over_images(values) if matrix is None else interval_over_seeds(matrix)
    difference = paired_difference(runs, first, split) if first is not None else None
    # Folds differ in difficulty: a seed that lacks a fold says nothing about the spread between seeds.
    whole = [group for group in _by_seed(runs).values() if len(group) == max(folds, 1)]
    per_seed = [float(pooled(group, split)[1].mean()) for group in whole]
    tested = [run for run in runs if "test" in run.per_image]
    return RowFigures(
        label=label, runs=len(runs), planned=planned, images=len(entries), value=value, low=low, high=high,
        per_seed=per_seed, std=statistics.stdev(per_seed) if len(per_seed) > 1 else None,
        difference=difference[:3] if difference else None, p=difference.p if difference else None,
        parameters=runs[0].result["parameters"], gflops=runs[0].result.get("gflops"),
        images_per_second=_median([run.images_per_second for run in runs]),
        evaluation_images_per_second=_median([run.result.get("evaluation_images_per_second") for run in runs]),
        seconds=_median([run.seconds for run in runs]),
        test_value=float(pooled(tested, "test")[1].mean()) if tested else None, test_runs=len(tested),
    )  # fmt: skip


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _has_flops(rows: Sequence[RowFigures]) -> bool:
    return any(row.gflops is not None for row in rows)


def _cells(row: RowFigures, corrected: bool, flops: bool, columns: Sequence[str]) -> list[str]:
    difference = "-"
    if row.difference is not None:
        difference = "{:+.2f} [{:+.2f}, {:+.2f}]".format(*(100 * value for value in row.difference))
    return [
        row.label,
        _shown(row.value, "{:.2f}", 100),
        *(_shown(row.columns.get(name), "{:.2f}", 100) for name in columns),
        _shown(row.std, "{:.2f}", 100),
        difference,
        *[_p_text(row.p_holm)] * corrected,
        _shown(row.parameters, "{:.2f} M", 1e-6),
        *[_shown(row.gflops, "{:.2f}")] * flops,
        _shown(row.images_per_second, "{:.1f}"),
        _shown(row.evaluation_images_per_second, "{:.1f}"),
        _duration(row.seconds),
    ]


def _more_cells(row: RowFigures, touched: bool, unfinished: bool) -> list[str]:
    return [_shown(row.test_value, "{:.2f}", 100)] * touched + [f"{row.runs} of {row.planned}"] * unfinished


def _shown(value: float | None, form: str, scale: float = 1.0) -> str:
    return "-" if value is None else form.format(value * scale)


def _p_text(p: float | None) -> str:
    return "-" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d} min" if minutes else f"{seconds:.1f} s"
