"""What a comparison consists of: rows from comparison files or a job's configs, and the list of runs they need."""

import json
import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

from annotated_types import Ge, Gt

from jobs.config import flatten, from_dict, load, load_job, measures, nearest, read_yaml, to_dict, trains, walk
from jobs.debug import debug_settings
from jobs.detectors import refuse_other_settings
from jobs.experiments.sequence import Command
from jobs.registry import JOBS, command_module
from jobs.stale import refuse_other_shards
from shards.errors import UserError
from shards.options import option

OWN = (
    "name",
    "runs_dir",
    "seed",
    "evaluate_test",
    "split",
    "data.folds",
    "data.fold",
)  # of a run, set by the comparison
SAME = (
    "data.shards",
    "data.train_split",
    "data.test_split",
    "data.limit",
    "images",
)  # or the rows see different images


@dataclass
class Row:
    """One row of the table: a config and what is changed in it."""

    config: str = option("", "config of the job, a YAML file")
    label: str = option("", "the row's name (empty: the config file's)")
    set: dict = option({}, "settings of this row, such as {optim.lr: 0.1}")


@dataclass
class Config:
    """A comparison. The first row is what the others are compared with."""

    name: str = option("", "the folder's name (empty: the comparison file's, or the labels')")
    runs_dir: str = option("runs", "folder of all runs")
    job: str = option("classify", "what every row runs: a job that trains, or attack: one weights file a row")
    seed: int = option(0, "the first seed")
    seeds: Annotated[int, Gt(0)] = option(1, "how many seeds from there on, the same for every row")
    folds: Annotated[int, Ge(0)] = option(5, "stratified folds of train (0: none; then evaluate_test=true is needed)")
    use_folds: Annotated[int, Ge(0)] = option(0, "measure on the first so many of them (0: on all)")
    evaluate_test: bool = option(False, "let every run measure the test split too; the table will say so")
    set: dict = option({}, "settings of every run; a row's own win")
    rows: list = field(default_factory=list, metadata={"help": "list of {config, label, set}; config is needed"})


OF_COMPARISON = frozenset(setting.name for setting in fields(Config)) - {"rows", "set"}


@dataclass(frozen=True)
class Run:
    """One (row, seed, fold) and the command that makes it."""

    label: str
    seed: int
    fold: int
    command: Command


def read(words: list[str], debug: bool = False) -> Config:
    """One comparison from the command line's files and key=value words, every row holding all its settings.

    Raises UserError for unknown keys, missing files, labels used twice, and mixtures of both kinds of file.
    """
    overrides = [word for word in words if "=" in word]
    files = [word for word in words if "=" not in word]
    if not files:
        raise UserError("which configs? fgvc compare A.yaml B.yaml, or fgvc compare configs/compare/NAME.yaml")
    values = {file: read_yaml(Path(file)) for file in files}
    comparisons = [file for file, value in values.items() if "rows" in value]
    if comparisons and len(values) > 1:
        raise UserError(f"{comparisons[0]}: a comparison file (it has rows) stands alone, without other configs")
    own = [word for word in overrides if word.partition("=")[0] in OF_COMPARISON]
    config = load(Config, comparisons[0] if comparisons else None, own)
    module = _module(config.job)
    every_run = _words_of_runs([word for word in overrides if word not in own], module.Config)
    given = config.rows if comparisons else [{"config": file} for file in files]
    where = comparisons[0] if comparisons else "command line"
    rows = [_row(values, f"{where}: rows[{i}]", module.Config) for i, values in enumerate(given)]
    if not rows:
        raise UserError(f"{where}: rows is empty; a row needs at least 'config: FILE'")
    for row in rows:
        row.set = flatten(config.set, module.Config) | flatten(row.set, module.Config)
        forced = debug_settings(module, Path(row.config), row.set | every_run) if debug else {}
        row.set |= forced | every_run
    _check_labels(rows)
    config.rows, config.set = rows, {}
    name = Path(comparisons[0]).stem if comparisons else "-vs-".join(_slug(row.label) for row in rows)
    config.name = config.name or (name[:100] + ("-debug" if debug else ""))
    return config


def list_runs(config: Config) -> list[Run]:
    """Every (row, seed, fold) in the order to run them: all rows of a seed and fold first, so that what is there when
    a comparison stops half-way can be compared."""
    folder = Path(config.runs_dir) / "compare" / config.name
    return [
        _planned(config, row, seed, fold, folder)
        for seed in range(config.seed, config.seed + config.seeds)
        for fold in range(fold_count(config))
        for row in config.rows
    ]


def check(config: Config, runs: list[Run]) -> None:
    """Raise UserError now for what would fail, or make rows incomparable, hours later."""
    if not config.name or "/" in config.name or config.name.startswith("."):
        raise UserError(f"name='{config.name}': a comparison's name is one folder name; set name=...")
    if config.use_folds > config.folds or config.folds == 1:
        raise UserError(f"folds={config.folds} use_folds={config.use_folds}: at least 2 folds, and no more used")
    if not config.folds and not config.evaluate_test:
        raise UserError("folds=0 leaves only the test split to measure; set evaluate_test=true if that is meant")
    if fold_count(config) > 1 and not trains(_module(config.job).Config):
        raise UserError(
            f"job={config.job}: a weights file has one fold that it has not seen; set folds=5 use_folds=1 for files "
            "trained with data.folds=5 data.fold=0, or folds=0 evaluate_test=true for the test split"
        )
    if config.seeds > 1 and not trains(_module(config.job).Config):
        raise UserError(
            f"seeds={config.seeds}: job={config.job} trains nothing: a seed only draws other images; leave it"
        )
    first: dict[str, Any] = {}
    known: dict[Path, str] = {}
    same = _module(config.job).HEADLINE.same
    for planned in runs:
        loaded = load_job(config.job, planned.command.words[1], list(planned.command.words[2:]))
        refuse_other_settings(planned.command.folder, loaded)
        refuse_other_shards(planned.command.folder, loaded, known)
        flat = flatten(to_dict(loaded), type(loaded))
        first = first or flat
        for key in [*SAME, *(key for key in flat if key in same or key.partition(".")[0] + "." in same)]:
            if flat.get(key) != first.get(key):
                raise UserError(
                    f"row '{planned.label}': {key}={flat[key]!r}, but {first[key]!r} in the first row; "
                    f"rows are compared on the same images{'' if key in SAME else ', measured in the same way'}"
                )


def fold_count(config: Config) -> int:
    """How many folds every row is measured on; 1 when it trains on all of train."""
    return (config.use_folds or config.folds) if config.folds else 1


def _planned(config: Config, row: Row, seed: int, fold: int, folder: Path) -> Run:
    name = f"{_slug(row.label)}-s{seed}" + (f"-f{fold}" if config.folds else "")
    if trains(_module(config.job).Config):
        measured: dict[str, Any] = {"evaluate_test": config.evaluate_test}
    else:
        measured = {"split": "held_out" if config.folds else "test"}
    settings = row.set | {
        "name": name, "runs_dir": str(folder), "seed": seed, **measured, "data.folds": config.folds, "data.fold": fold,
    }  # fmt: skip
    # JSON is YAML too; text stays as it is because a word like model.weights=none needs no quotes.
    words = [f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in settings.items()]
    command = Command(
        name, (config.job, row.config, *words), folder / config.job / name, folder / "logs" / f"{name}.log"
    )
    return Run(row.label, seed, fold, command)


def _row(values: Any, where: str, kind: type) -> Row:
    if not isinstance(values, dict):
        raise UserError(f"{where}: a row is {{config: FILE, label: ..., set: {{key: value}}}}, this is {values!r}")
    row = from_dict(Row, values, where)
    if not row.config:
        raise UserError(f"{where}: config is not set; give a config of the job, such as configs/classify/NAME.yaml")
    row.label = row.label or Path(row.config).stem
    for key in flatten(row.set, kind):
        if key in OWN:
            raise UserError(f"{where}: '{key}' is set by the comparison, the same for every row; use seeds=, folds=")
    return row


def _check_labels(rows: list[Row]) -> None:
    seen: dict[str, str] = {}
    for row in rows:
        slug = _slug(row.label)
        if slug in seen:
            raise UserError(f"label '{row.label}': two rows would share the name '{slug}'; give each its own label")
        seen[slug] = row.label


def _module(job: str) -> ModuleType:
    """The command of a job whose runs can be compared. Raises UserError for others."""
    able = [name for name in JOBS if trains(kind := command_module(name).Config) or measures(kind)]
    if job not in able:
        raise UserError(f"job={job}: cannot be compared{nearest(job, able)}; there are {', '.join(able)}")
    if not command_module(job).HEADLINE.per_image:
        raise UserError(
            f"job={job}: cannot be compared: intervals pair images, and its figure is of a set of images as a whole; "
            "start its runs one by one, with several seeds, or take fgvc sweep"
        )
    return command_module(job)


def _words_of_runs(words: list[str], kind: type) -> dict[str, str]:
    """key -> text of what goes to every run."""
    known = [*OF_COMPARISON, *(key for key, _ in walk(kind))]
    runs = {}
    for word in words:
        key, _, text = word.partition("=")
        if key in OWN:
            raise UserError(f"'{word}': set by the comparison, the same for every row; use folds= and use_folds=")
        if key not in known and not key.startswith(("data.build.", "model.kwargs.")):
            raise UserError(f"'{word}': unknown key '{key}'{nearest(key, known)}")
        runs[key] = text
    return runs


def _slug(label: str) -> str:
    """A label as part of a folder name."""
    return re.sub(r"[^A-Za-z0-9._+]+", "_", label).strip("_.") or "row"
