"""What a comparison found: tables, comparison.png and result.json from the runs' folders."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import yaml

from fgvc.runtime.run_folder import RunFolder, finish
from fgvc.study.comparison import Measured, RowFigures, as_record, figures, read_run, table
from fgvc.study.comparison_files import as_csv, as_latex
from fgvc.study.comparison_plot import accuracy_and_cost
from jobs.config import to_dict
from jobs.experiments.compare_rows import Config, Run, fold_count
from jobs.headline import Headline
from jobs.registry import command_module
from shards.files import write_bytes

MANY = 12  # rows: from here on the best one is named as the best of many


def write_results(config: Config, runs: list[Run], folder: Path, failed: dict[str, str], seconds: float) -> str:
    """Write the tables (Markdown, CSV, LaTeX) and comparison.png from the runs' folders, and result.json unless runs
    failed; returns the text for the terminal."""
    title: Headline = command_module(config.job).HEADLINE
    measured: dict[str, list[Measured]] = {row.label: [] for row in config.rows}
    for planned in runs:
        found = read_run(planned.command.folder, planned.seed, planned.fold)
        if found is not None:
            measured[planned.label].append(found)
    split = "val" if config.folds else "test"
    rows = figures(measured, split, config.seeds, fold_count(config) if config.folds else 0)
    rows = [replace(row, columns=_columns(title, measured[row.label], split)) for row in rows]
    touched = {row.label: row.test_runs for row in rows if row.test_runs}
    heading = _heading(config, title.title, max(row.images for row in rows))
    done = next((group[0].result[split] for group in measured.values() if group), None)
    if title.conditions is not None and done is not None:
        heading = f"{heading[:-1]}, {title.conditions(done)}."
    lowered = [label for label, group in measured.items() for run in group if run.result.get("rewinds")]
    text = "\n\n".join([heading, table(rows, title.title), notes(touched, failed, rows, lowered)])
    # A comparison file like any other: it makes this comparison again.
    write_bytes(folder / "config.yaml", yaml.safe_dump(to_dict(config), sort_keys=False).encode())
    write_bytes(folder / "table.md", f"# {config.name}\n\n{text}\n".encode())
    write_bytes(folder / "table.csv", as_csv(rows, title.key).encode())
    write_bytes(folder / "table.tex", as_latex(rows, title.title).encode())
    accuracy_and_cost(folder / "comparison.png", rows, title.title, heading)
    look = f"{text}\n\nlook at {folder}: table.md, table.csv, table.tex, comparison.png, result.json, logs/"
    if failed:
        return look.replace("result.json, ", "")
    record = {
        "rows": [as_record(row, title.key) for row in rows], "headline": title.key, "split": split,
        "touched_test": touched, "config": to_dict(config),
        "runs": {planned.command.name: str(planned.command.folder) for planned in runs},
    }  # fmt: skip
    inputs = {run.result["inputs"]["shards"] for group in measured.values() for run in group}
    finish(RunFolder(folder, None), record, {"shards": sorted(inputs)}, seconds)
    return look


def _columns(title: Headline, runs: Sequence[Measured], split: str) -> dict[str, float]:
    """More figures of a row, of jobs that have some; those measure a row once."""
    return title.columns(runs[0].result[split]) if title.columns is not None and runs else {}


def _heading(config: Config, title: str, images: int) -> str:
    seeds = f"{config.seeds} seed{'s' if config.seeds > 1 else ''}"
    if not config.folds:
        return f"{title.capitalize()} on the test split ({images} images), {seeds}."
    used = fold_count(config)
    folds = f"all {used} folds" if used == config.folds else f"{used} of {config.folds} folds"
    return f"{title.capitalize()} on held-out training images ({images}, {folds}), {seeds}."


def notes(
    touched: dict[str, int], failed: dict[str, str], rows: Sequence[RowFigures] = (), lowered: Sequence[str] = ()
) -> str:  # fmt: skip
    """What stands under the table: how to read it, which rows touched the test split, which runs failed. lowered: the
    row of every run that broke and was continued at a lower learning rate than its own."""
    over_seeds = any(row.std is not None for row in rows)
    over = "images and seeds (both drawn with replacement)" if over_seeds else "images"
    lines = [
        f"Differences are to the first row, with a paired bootstrap interval over {over}; time is a run's wall time."
    ]
    if not over_seeds and any(row.runs for row in rows):
        lines.append("Intervals do not hold the spread between seeds; compare with seeds=3 or more to include it.")
    if sum(row.p_holm is not None for row in rows) > 1:
        lines.append("p: two-sided, of no difference to the first row, corrected for the number of rows (Holm).")
    measured = [row for row in rows if row.value is not None]
    if len(measured) >= MANY:
        best = max(measured, key=lambda row: row.value or 0)
        lines.append(
            f"{best.label} is the best of {len(measured)} rows: its figure is partly luck, since the largest of many "
            "is too large on average; measure it again on other images before quoting it."
        )
    if touched:
        count = sum(touched.values())
        lines.append(
            f"**{len(touched)} row{'s' * (len(touched) > 1)} touched the test split, {count} "
            f"measurement{'s' * (count > 1)} in all: {', '.join(touched)}.**"
        )
    else:
        lines.append("No row touched the test split.")
    lines += [
        f"{label}: {lowered.count(label)} of its runs broke and went on at a lower learning rate than optim.lr says."
        for label in dict.fromkeys(lowered)
    ]
    lines += [f"Failed: {name}: {reason}" for name, reason in failed.items()]
    return "\n\n".join(lines)
