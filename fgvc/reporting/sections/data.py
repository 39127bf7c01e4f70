"""The images that the runs were trained and measured on, as the runs' folders name them."""

from collections.abc import Sequence

from fgvc.reporting.blocks import Code, Row, RunLink, Section, cell, present, table
from fgvc.reporting.numbers import Number
from fgvc.reporting.runs import Run


def section(runs: Sequence[Run]) -> Section:
    """A table with a row for all runs of the same shards."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        shards = run.get("inputs", "shards")
        for fingerprint in shards if isinstance(shards, list) else [shards]:
            if isinstance(fingerprint, str):
                groups.setdefault(fingerprint, []).append(run)
    made = Section("data", "Data", runs=runs)
    if groups:
        headings = (
            "shards", "source", "classes", "training images", "held out", "test images",
            ("fingerprint", "of all checksums: the same fingerprint, the same images"), "runs",
        )  # fmt: skip
        rows = [_row(shards, group) for shards, group in groups.items()]
        note = "Counts are those of the run that used most of a split."
        made.blocks.append(table("Shards that the runs read", headings, rows, list(runs), (note,)))
    return made


def _row(shards: str, group: list[Run]) -> Row:
    first = next((run for run in group if run.data), group[0])
    links = [part for run in group for part in (RunLink(run.key), ", ")][:-1]
    classes = max(len(classes_of(run)) for run in group)
    folder = "/".join(str(first.data.get("shards") or "?").rstrip("/").split("/")[-2:])
    return Row((
        cell(Code(folder)), cell(str(first.data.get("source") or "built beforehand")),
        cell(str(classes) if classes else None), cell(_most(group, "train_count")), cell(_most(group, "val", "count")),
        cell(_most(group, "test", "count")), cell(Code(shards[:12])), cell(*links),
    ))  # fmt: skip


def _most(group: list[Run], *path: str) -> Number | None:
    numbers: list[Number] = present(run.number("count", *path) for run in group)
    return max(numbers, key=lambda number: number.value, default=None)


def classes_of(run: Run) -> list[str]:
    """The classes that a run has figures of."""
    found: dict[str, None] = {}
    for split in run.result:
        found |= dict.fromkeys(run.table(split, "per_class"))
        found |= dict.fromkeys(run.table(split, "excess_by_class"))
    return list(found)
