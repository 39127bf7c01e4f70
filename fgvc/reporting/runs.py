"""What run folders hold, read so that a damaged or unfinished one costs its own figures and no other's."""

import json
import shlex
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import yaml

from fgvc.reporting.numbers import Number, is_number, value_at
from fgvc.runtime.run_folder import IDENTITY, METRICS, RESULT, STARTS

MARKS = (IDENTITY, RESULT, "config.yaml", "slurm.json", "table.md")  # any of these: a run's folder
SPLITS = ("test", "val", "held_out")  # in the order in which they are shown
ORDER = ("classify", "evaluate", "ensemble", "crop", "detect", "gan", "synthesize", "explain", "attack", "compare")
LARGEST = 64 << 20  # bytes of a JSON file that is read


@dataclass
class Curves:
    """metrics.jsonl as columns: name -> (epochs, values)."""

    columns: dict[str, tuple[array, array]] = field(default_factory=dict)
    broken: int = 0  # lines that are not JSON

    def add(self, row: dict[str, Any]) -> None:
        epoch = row.get("epoch", row.get("step"))
        if is_number(epoch):
            for key, value in row.items():
                if is_number(value) and key not in ("epoch", "step"):
                    epochs, values = self.columns.setdefault(key, (array("d"), array("d")))
                    epochs.append(epoch)
                    values.append(value)

    def median(self, key: str) -> float | None:
        """The middle value of a column."""
        values = sorted(self.columns[key][1]) if key in self.columns else []
        return values[len(values) // 2] if values else None


@dataclass
class Run:
    """A run folder. key: job/name, unique on a page. problems: what could not be read, in words. omitted: what the page
    has no room for."""

    folder: Path
    key: str = ""
    result: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    starts: list[Any] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    omitted: list[str] = field(default_factory=list)

    @property
    def job(self) -> str:
        return self.folder.parent.name

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def state(self) -> Literal["done", "unfinished", "damaged"]:
        if self.problems:
            return "damaged"
        return "done" if self.result else "unfinished"

    @property
    def command(self) -> str:
        """What makes this run again, or prints its result where it is done."""
        config = self.folder / "config.yaml"
        return shlex.join(["fgvc", self.job, str(config)]) if config.is_file() else ""

    @property
    def data(self) -> dict[str, Any]:
        """Settings of the data; empty where there are none."""
        found = self.config.get("data")
        return found if isinstance(found, dict) else {}

    @cached_property
    def curves(self) -> Curves:
        """Every step's figures; read when they are first asked for."""
        found = Curves()
        try:
            with (self.folder / METRICS).open("rb") as lines:
                for line in lines:
                    try:
                        row = json.loads(line)
                    except (ValueError, RecursionError):
                        found.broken += 1
                        continue
                    if isinstance(row, dict):
                        found.add(row)
        except OSError:
            pass
        return found

    def get(self, *path: str | int) -> Any:
        """What stands in result.json; None where nothing does."""
        return value_at(self.result, path)

    def table(self, *path: str | int) -> dict[str, Any]:
        """A mapping in result.json; empty where there is none."""
        found = self.get(*path)
        return found if isinstance(found, dict) else {}

    def rows(self, *path: str | int) -> list[Any]:
        """A list in result.json; empty where there is none."""
        found = self.get(*path)
        return found if isinstance(found, list) else []

    def number(self, form: str, *path: str | int) -> Number | None:
        """A figure of result.json as the page shows it; None where there is none."""
        value = self.get(*path)
        return Number(self.key, path, value, form) if is_number(value) else None

    def splits(self, key: str) -> list[str]:
        """The measured splits that have this figure, test first."""
        named = [*SPLITS, *(name for name in self.result if name not in SPLITS)]
        return [split for split in named if is_number(self.get(split, key))]

    def within(self, key: str) -> list[str]:
        """The splits that hold a mapping under this key."""
        return [split for split in self.result if isinstance(self.get(split, key), dict)]

    def pictures(self, pattern: str) -> list[Path]:
        """Files in the folder by a pattern, in order."""
        return sorted(self.folder.glob(pattern))


def is_run(folder: Path) -> bool:
    """Whether a folder is a run's, whatever is left of it."""
    return folder.is_dir() and any((folder / mark).is_file() for mark in MARKS)


def runs_of(place: Path) -> list[Path]:
    """The run that a folder is, or those in a folder of runs; of a pipeline those of its steps."""
    alone = is_run(place) and place.resolve().parent.name != "pipeline"
    return [place] if alone else list(runs_in(place))


def runs_in(folder: Path) -> Iterator[Path]:
    """The run folders JOB/NAME in a folder of runs, those of its pipelines too, or NAME in a job's folder; those inside
    a run are its own."""
    if folder.resolve().name == "pipeline":  # each NAME in it is a folder of runs
        for pipeline in sorted(path for path in folder.iterdir() if path.is_dir()):
            yield from runs_in(pipeline)
        return
    for child in sorted(path for path in folder.iterdir() if path.is_dir()):
        if is_run(child):
            yield child
        elif child.name == "pipeline":
            yield from runs_in(child)
        else:
            yield from (grandchild for grandchild in sorted(child.iterdir()) if is_run(grandchild))


def read_runs(folders: list[Path]) -> list[Run]:
    """Every run, once, by the order of the steps. Two of the same job and name are told apart by their folders."""
    unique = {folder.resolve(): folder for folder in folders}
    runs = [read_run(folder) for folder in unique.values()]
    runs.sort(key=lambda run: ORDER.index(run.job) if run.job in ORDER else len(ORDER))
    short = [f"{run.job}/{run.name}" for run in runs]
    for run, key in zip(runs, short, strict=True):
        run.key = key if short.count(key) == 1 else str(run.folder)
    return runs


def read_run(folder: Path) -> Run:
    """One run. What is missing makes it unfinished, what cannot be read damaged."""
    folder = folder if folder.parent.name else folder.resolve()
    run = Run(folder)
    run.result = _read(run, RESULT, json.loads, dict)
    run.config = _read(run, "config.yaml", yaml.safe_load, dict)
    run.starts = _read(run, STARTS, json.loads, list)
    if run.curves.broken > (0 if run.result else 1):  # a run that was killed may have been writing its last line
        many = run.curves.broken > 1
        run.problems.append(f"{METRICS}: {run.curves.broken} line{'s are' if many else ' is'} not JSON")
    return run


def _read(run: Run, name: str, parse: Any, kind: type) -> Any:
    file = run.folder / name
    if not file.is_file():
        return kind()
    try:
        if file.stat().st_size > LARGEST:
            raise ValueError(f"{file.stat().st_size >> 20} MB are too many")
        found = parse(file.read_text(encoding="utf-8"))
        if not isinstance(found, kind):
            raise ValueError("not what a run writes there")
        return found
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        run.problems.append(f"{name}: {reason}")
        return kind()
