"""A sweep file in W&B's own format: what it searches, by which command, and every mistake in it named in one line."""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from fgvc.study.search import Method, Parameter
from jobs.config import flatten, load, measures, nearest, read_yaml, to_dict, trains, walk
from jobs.experiments.sweep_space import is_number, read_parameters
from jobs.registry import JOBS, command_module
from shards.errors import UserError

KEYS = (
    "program", "command", "method", "metric", "parameters", "run_cap", "name", "project", "entity", "description",
    "early_terminate",
)  # fmt: skip
OWN = ("name", "runs_dir", "evaluate_test", "split", "track.group")  # settings of a trial that the sweep sets
FIXED = ("data.folds", "data.fold", "data.train_split", "data.test_split", "images")  # what every trial is measured on
GUARD = "train.guard"
ARGUMENTS = "${args_no_hyphens}"  # key=value, one word each


@dataclass(frozen=True)
class Metric:
    """What is optimised: `split` and `key` in result.json; `target`: no new trials once a trial has reached it."""

    name: str
    goal: Literal["maximize", "minimize"]
    key: str
    target: float | None = None

    @property
    def sign(self) -> float:
        """Times this, larger is better."""
        return 1.0 if self.goal == "maximize" else -1.0


@dataclass(frozen=True)
class Sweep:
    """A sweep file, checked. A trial is `fgvc <job> <config> <words> key=value...`."""

    file: Path
    job: str
    config: Path
    words: tuple[str, ...]
    options: tuple[str, ...]  # --processes 4
    method: Method
    metric: Metric
    parameters: tuple[Parameter, ...]
    run_cap: int  # 0: not given


def read_sweep(file: Path, more: list[str]) -> Sweep:
    """Read and check a sweep file; `more` are key=value words for every trial, over those of its command.

    Raises UserError in one line for: unknown or missing keys, a parameter that is no setting of the job, values that
    the job refuses, distributions that contradict themselves, a grid over a continuous range, a metric of the test
    split or one without a held-out fold.
    """
    values = read_yaml(file)
    for key in values:
        if key not in KEYS:
            raise UserError(f"{file}: unknown key '{key}'{nearest(key, list(KEYS))}")
    if "early_terminate" in values:
        raise UserError(
            f"{file}: early_terminate is not supported by fgvc sweep: every trial runs to its end; remove it"
        )
    method = values.get("method")
    if method not in ("grid", "random", "bayes"):
        said = (
            "is missing"
            if method is None
            else f"'{method}' is unknown{nearest(str(method), ['grid', 'random', 'bayes'])}"
        )
        raise UserError(f"{file}: method {said}; it is grid, random or bayes")
    job, config, words, options = _command(file, values)
    run_cap = values.get("run_cap", 0)
    if not isinstance(run_cap, int) or isinstance(run_cap, bool) or run_cap < 0:
        raise UserError(f"{file}: run_cap={run_cap!r}: expected the number of trials")
    project = (f"track.project={values['project']}",) if values.get("project") else ()
    metric = _metric(file, values.get("metric", _headline(job)))
    sweep = Sweep(
        file, job, config, (*project, *words, *more), options, method, metric,
        tuple(read_parameters(file, values.get("parameters"), method)), run_cap,
    )  # fmt: skip
    _check_trials(sweep)
    return sweep


def trial_words(sweep: Sweep, values: dict[str, Any], own: dict[str, str]) -> list[str]:
    """The key=value words of one trial: the command's, the searched values, what the sweep itself sets."""
    return trial_words_of(list(sweep.words), values, own)


def trial_words_of(words: list[str], values: dict[str, Any], own: dict[str, str]) -> list[str]:
    """The same, from the words of any sweep's command."""
    searched = {key: text_of(value) for key, value in values.items()} | own
    kept = [word for word in words if word.partition("=")[0] not in searched]  # each setting once
    return [*kept, *(f"{key}={value}" for key, value in searched.items())]


def unguarded(kind: type, words: Sequence[str]) -> dict[str, str]:
    """The setting that lets a trial run to its end, unless the command's words decide about it: a rate that ruins a
    network is an answer, where the guard would make a failed trial of it, without a score and tried again for ever."""
    given = {word.partition("=")[0] for word in words}
    return {key: "false" for key, _ in walk(kind) if key == GUARD and key not in given}


def agent_words(kind: type, words: list[str]) -> list[str]:
    """The words that `wandb agent` puts for `${args_no_hyphens}` as a job of config `kind` takes them.

    A nested parameter comes as optim={'lr': 0.1}; a run that is resumed gets a hidden `_wandb=...`, which is left out.
    """
    groups = {field.name for field in fields(kind) if is_dataclass(field.default_factory)}
    out: list[str] = []
    for word in words:
        key, _, text = word.partition("=")
        if key in groups and text.startswith("{"):
            out += trial_words_of([], flat(yaml.safe_load(text), f"{key}."), {})
        elif not key.startswith("_wandb"):
            out.append(word)
    return out


def job_config(job: str) -> Any:
    """The Config class of a job."""
    return command_module(job).Config


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values as dotted keys."""
    out: dict[str, Any] = {}
    for key, value in values.items():
        out |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return out


def split_command(words: list[Any], program: str, where: str) -> tuple[str, list[str]]:
    """(job, words after it) of a W&B command, without its macros. Raises UserError unless it runs `fgvc JOB`."""
    plain = [str(word) for word in words]
    for index, word in enumerate(plain):
        variable = re.fullmatch(r"\$\{envvar:(\w+)\}", word)
        if variable is not None:
            if variable[1] not in os.environ:
                raise UserError(f"{where}: command uses {word}, but {variable[1]} is not set")
            plain[index] = os.environ[variable[1]]
    plain = [program if word == "${program}" else word for word in plain if word not in ("${env}", "${interpreter}")]
    for word in plain:
        if word.startswith("${") and word != ARGUMENTS:
            raise UserError(f"{where}: command uses {word}; fgvc takes settings as key=value: {ARGUMENTS}")
    start = next((i for i, word in enumerate(plain) if Path(word).name == "fgvc"), None)
    if start is None or ARGUMENTS not in plain:
        raise UserError(
            f"{where}: command has to run fgvc: [fgvc, classify, configs/classify/NAME.yaml, data.folds=5, "
            f"evaluate_test=false, '{ARGUMENTS}']"
        )
    rest = [word for word in plain[start + 1 :] if word != ARGUMENTS]
    if not rest or rest[0] not in JOBS:
        raise UserError(
            f"{where}: command: fgvc {rest[0] if rest else ''} is no job{nearest(rest[0] if rest else '', list(JOBS))}"
        )
    return rest[0], rest[1:]


def _command(file: Path, values: dict[str, Any]) -> tuple[str, Path, tuple[str, ...], tuple[str, ...]]:
    """(job, config file, its key=value words, its options) of the command."""
    command = values.get("command")
    if not isinstance(command, list):
        raise UserError(
            f"{file}: command is missing, a list of words: [fgvc, classify, configs/classify/NAME.yaml, data.folds=5, "
            f"evaluate_test=false, '{ARGUMENTS}']"
        )
    job, rest = split_command(command, str(values.get("program", "")), str(file))
    settings = tuple(word for word in rest if "=" in word and not word.startswith("-"))
    other = [word for word in rest if word not in settings]
    options: tuple[str, ...] = ()
    if "--processes" in other:
        at = other.index("--processes")
        options = tuple(other[at : at + 2])
        del other[at : at + 2]
    if len(other) != 1 or other[0].startswith("-"):
        raise UserError(f"{file}: command: expected one config file and key=value words after {job}, found {other}")
    return job, Path(other[0]), settings, options


def _headline(job: str) -> dict[str, str]:
    """What a sweep optimises by default: the job's headline on the held-out fold."""
    headline = command_module(job).HEADLINE
    return {"name": f"val_{headline.key}", "goal": headline.goal}


def _metric(file: Path, values: Any) -> Metric:
    """The metric; only of the held-out fold."""
    if not isinstance(values, dict) or "name" not in values:
        raise UserError(f"{file}: metric: {{name: val_top1, goal: maximize}} is expected, found {values!r}")
    for key in values:
        if key not in ("name", "goal", "target"):
            raise UserError(f"{file}: metric: unknown key '{key}'{nearest(key, ['name', 'goal', 'target'])}")
    name, goal = str(values["name"]), values.get("goal")
    split, _, key = re.sub(r"[./]", "_", name).partition("_")
    if split == "test":
        raise UserError(
            f"{file}: metric '{name}' is of the test split, which must not choose anything; use val_{key or 'top1'}, "
            "of a held-out fold of train"
        )
    if split != "val" or not key:
        raise UserError(f"{file}: metric '{name}' is not of the held-out fold; use val_top1, or another val_...")
    if goal not in ("maximize", "minimize"):
        said = "is missing (W&B would minimize)" if goal is None else f"is {goal!r}"
        raise UserError(f"{file}: metric.goal {said}; write maximize or minimize")
    target = values.get("target")
    if target is not None and not is_number(target):
        raise UserError(f"{file}: metric.target={target!r}: expected a number")
    return Metric(name, goal, key, target)


def _check_trials(sweep: Sweep) -> None:
    """Load the config of trials at the corners of the space: every value a trial can get has to be one it takes."""
    kind, where = job_config(sweep.job), str(sweep.file)
    known = [key for key, _ in walk(kind)]
    fixed = {word.partition("=")[0]: word.partition("=")[2] for word in sweep.words}
    if not trains(kind) and not measures(kind):
        raise UserError(f"{where}: command: fgvc {sweep.job} trains nothing; a sweep searches the settings of training")
    for parameter in sweep.parameters:
        if parameter.key in OWN:
            raise UserError(f"{where}: '{parameter.key}' is set by the sweep, for every trial its own")
        if parameter.key in FIXED:
            raise UserError(
                f"{where}: '{parameter.key}' decides which images a trial is measured on: the easiest would win; "
                "for several folds use fgvc compare"
            )
        if parameter.key in fixed:
            raise UserError(
                f"{where}: '{parameter.key}' is searched, and also set to {fixed[parameter.key]}; remove one"
            )
        if parameter.key not in known and not any(parameter.key.startswith(f"{key}.") for key in known):
            raise UserError(
                f"{where}: parameter '{parameter.key}' is no setting of {sweep.job}{nearest(parameter.key, known)}"
            )
    for word in sweep.words:
        key, _, value = word.partition("=")
        test = (key == "evaluate_test" and value.lower() != "false") or (key == "split" and value != "held_out")
        if key in ("name", "runs_dir", "track.group") or test:
            own = "a sweep never measures the test split" if test else "the sweep sets it itself"
            raise UserError(f"{where}: '{word}': {own}; remove it")
    keys = [parameter.key for parameter in sweep.parameters]
    if twice := [key for key in keys if keys.count(key) > 1]:
        raise UserError(f"{where}: '{twice[0]}' appears twice, nested and with dots; remove one")
    middle = {parameter.key: parameter.value(0.5) for parameter in sweep.parameters}
    for parameter in sweep.parameters:
        outer = parameter.choices if parameter.distribution in ("constant", "categorical") else None
        for value in outer if outer is not None else [parameter.value(u) for u in (0.001, 0.25, 0.999)]:
            words = trial_words(sweep, middle | {parameter.key: value}, {})
            config = load(kind, sweep.config, words)
    values = flatten(to_dict(config), kind)
    if not values.get("data.folds", 1):
        raise UserError(f"{where}: metric {sweep.metric.name} needs a held-out fold: add data.folds=5 to command")


def text_of(value: Any) -> str:
    """A value as it stands after `key=`. JSON is YAML too."""
    return value if isinstance(value, str) else json.dumps(value)


def searched(sweep: Sweep) -> dict[str, dict[str, Any]]:
    """What is searched: key -> distribution and its options."""
    return {
        parameter.key: {"distribution": parameter.distribution, **parameter.options} for parameter in sweep.parameters
    }


def plain(sweep: Sweep) -> dict[str, Any]:
    """The sweep as plain values, for config.yaml."""
    return {
        "file": str(sweep.file), "command": ["fgvc", sweep.job, str(sweep.config), *sweep.words, *sweep.options],
        "method": sweep.method, "metric": vars(sweep.metric), "run_cap": sweep.run_cap,
        "parameters": searched(sweep),
    }  # fmt: skip
