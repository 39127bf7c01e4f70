"""What a pipeline consists of: stages from a file, each one command, and which of them waits for which."""

import re
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Gt

from fgvc.runtime.run_folder import RESULT
from jobs.config import as_words, flatten, from_dict, load, load_command, load_job, locate, nearest, read_yaml, walk
from jobs.detect import Config as DetectConfig
from jobs.experiments.crop_detectors import check_alike
from jobs.experiments.pipeline_places import named, paths, resolved
from jobs.experiments.sequence import Command
from jobs.registry import JOBS, command_module
from jobs.shards import build_settings
from shards.errors import UserError
from shards.options import option
from shards.paths import MANIFEST, expand, is_remote
from slurm.profile import KEYS

REPORT = "report.html"
SHARDS = "shards"  # the stage that every pipeline with a raw data set begins with
ALONE = ("crop", "ensemble", "report")  # jobs of one process
OWN = ("name", "runs_dir", "track.group")  # of a run, set by the pipeline
SLUG = re.compile(r"[a-z][a-z0-9_]*")


@dataclass
class Stage:
    """One step: a job's run."""

    job: str = option(
        "", "which job: classify, detect, crop, gan, synthesize, evaluate, ensemble, explain, attack, report"
    )
    config: str = option("", "config of the job, a YAML file")
    set: dict = option({}, "its settings; ${STAGE} is the run folder of another stage, which then comes first")
    after: list[str] = option([], "stages that come first, besides those that its settings name")
    minutes: Annotated[float, Ge(0)] = option(0.0, "how long it takes, for --dry-run; the file says on what")
    resources: dict = option({}, "settings of a cluster's profile for this stage, such as {gpus_per_node: 4}")


@dataclass
class Config:
    """A pipeline: stages in the order in which they run on one machine."""

    name: str = option("", "the folder's name (empty: the file's)")
    runs_dir: str = option("runs", "folder of all runs")
    processes: Annotated[int, Gt(0)] = option(1, "ranks of every stage that can use several, on this machine")
    at_once: Annotated[int, Gt(0)] = option(
        1, "stages that run side by side on this machine, each on its share of the cores and GPUs"
    )
    data: dict = option({}, "data.* settings of every stage: shards, and source, root, build to make them")
    set: dict = option({}, "settings of every stage that has them, such as {track.wandb: offline}")
    stages: dict = field(default_factory=dict, metadata={"help": "name -> {job, config, set, after, ...}"})


@dataclass(frozen=True)
class Planned:
    """A stage, the command that runs it here, and the stages that have to be done before.

    words: of the command, without what is said of this machine. reads: files and shards of other stages that its
    settings name.
    """

    name: str
    stage: Stage
    command: Command
    after: tuple[str, ...]
    words: tuple[str, ...]
    reads: tuple[Path, ...] = ()

    @property
    def job(self) -> str:
        return self.stage.job


def read(words: list[str]) -> Config:
    """A pipeline from its file and key=value words; STAGE.key=value is a setting of that stage, STAGE.minutes too.

    Raises UserError for unknown keys and a missing file.
    """
    files = [word for word in words if "=" not in word]
    if len(files) != 1:
        raise UserError("which pipeline? fgvc pipeline configs/pipeline/NAME.yaml; fgvc configs pipeline lists them")
    path = locate(Path(files[0]), "pipeline")
    stages = read_yaml(path).get("stages", {})
    names = list(stages) if isinstance(stages, dict) else []
    own = {setting.name for setting in fields(Config)} - {"stages"}
    settings, of_stages = [], []
    for word in words:
        head, _, rest = word.partition("=")[0].partition(".")
        if head in own and "=" in word:
            settings.append(word)
        elif head in names and rest:
            of_stages.append(word)
        elif "=" in word:
            raise UserError(
                f"'{word}': unknown key '{head}'{nearest(head, [*names, *own])}; stages: {', '.join(names)}"
            )
    config = load(Config, path, settings)
    config.name = config.name or path.stem
    for word in of_stages:
        key, _, text = word.partition("=")
        name, _, setting = key.partition(".")
        _override(config.stages[name], setting, text, word)
    return config


def _override(stage: Any, setting: str, text: str, word: str) -> None:
    if not isinstance(stage, dict):
        raise UserError(f"'{word}': this stage is not a mapping in the file")
    if setting in ("config", "minutes"):
        stage[setting] = text
    elif stage.get("job") in JOBS:
        kind = command_module(stage["job"]).Config
        values: Any = load(kind, None, [f"{setting}={text}"])  # raises for an unknown key and a value of another type
        for part in setting.split("."):
            values = values[part] if isinstance(values, dict) else getattr(values, part)
        if is_dataclass(values):
            raise UserError(f"'{word}': '{setting}' is a group of settings; set one of them, {setting}.NAME=VALUE")
        stage["set"] = flatten(stage.get("set", {}), kind) | {setting: values}
    else:
        stage["set"] = stage.get("set", {}) | {setting: text}


def plan(config: Config) -> list[Planned]:
    """Every stage with its command, parents first; all settings checked.

    Raises UserError naming the stage for what its job would refuse before reading anything.
    """
    if not config.stages:
        raise UserError(f"pipeline {config.name}: stages is empty; see configs/pipeline/demo.yaml")
    if "/" in config.name or config.name.startswith("."):
        raise UserError(f"name={config.name}: a pipeline's name is one folder name; set name=...")
    home = home_of(config)
    stages = {name: _stage(name, values) for name, values in config.stages.items()}
    planned = [_shards(config, home)] if config.data.get("source") else []
    folders = {SHARDS: str(expand(str(config.data["shards"]), "data.shards"))} if planned else {}
    folders |= {name: str(_folder(config, name, stage)) for name, stage in stages.items()}
    for name, stage in stages.items():
        before = [one.name for one in planned]
        needs = [other for value in stage.set.values() for other in named(value, folders)] + stage.after
        if stage.job == "report":
            needs = before
        elif SHARDS in before:
            needs.insert(0, SHARDS)
        after = tuple(dict.fromkeys(other for other in needs if other != name))
        if late := [other for other in after if other not in before]:
            raise UserError(f"stage {name}: '{late[0]}' {'comes later' if late[0] in folders else 'is no stage'}")
        folder = Path(folders[name])
        try:
            words = _words(config, name, stage, folders, planned)
        except UserError as error:
            raise UserError(f"stage {name}: {error}") from None
        mark = REPORT if stage.job == "report" else RESULT
        ranks = ("--processes", str(config.processes)) if config.processes > 1 and stage.job not in ALONE else ()
        command = Command(name, (*words, *ranks), folder, home / "logs" / f"{name}.log", mark)
        reads = tuple(path for value in stage.set.values() for path in paths(value, folders, folder))
        planned.append(Planned(name, stage, command, after, words, reads))
    return planned


def home_of(config: Config) -> Path:
    """The pipeline's folder, which holds its stages' runs."""
    return Path(config.runs_dir) / "pipeline" / config.name


def _folder(config: Config, name: str, stage: Stage) -> Path:
    """A stage's run folder; its report stands beside other reports, named after the pipeline."""
    if stage.job == "report":
        return Path(config.runs_dir) / "report" / (config.name if name == "report" else f"{config.name}-{name}")
    return home_of(config) / stage.job / name


def _stage(name: str, values: Any) -> Stage:
    if not SLUG.fullmatch(str(name)) or name == SHARDS:
        raise UserError(f"stages: '{name}': a name is small letters, digits and _, and not '{SHARDS}'")
    if not isinstance(values, dict):
        raise UserError(f"stage {name}: a stage is {{job: ..., config: FILE, set: {{key: value}}}}, this is {values!r}")
    stage = from_dict(Stage, values, f"stage {name}")
    if stage.job not in JOBS and stage.job != "report":
        raise UserError(f"stage {name}: job={stage.job}: no such job{nearest(stage.job, [*JOBS, 'report'])}")
    for key in stage.resources:
        if key.partition(".")[0] not in KEYS:
            raise UserError(f"stage {name}: resources: unknown key '{key}'{nearest(key, sorted(KEYS))}")
    return stage


def _shards(config: Config, home: Path) -> Planned:
    """The build that all other stages read from."""
    data = config.data
    for key in ("shards", "root"):
        if not data.get(key) and not (key == "root" and data["source"] == "field_guide"):
            raise UserError(f"pipeline {config.name}: data.{key} is not set; a stage cannot build its shards")
    build = data.get("build", {})
    if not isinstance(build, dict):
        raise UserError(f"pipeline {config.name}: data.build={build!r}: settings of the build, such as {{shrink: 512}}")
    if is_remote(data["shards"]):
        raise UserError(
            f"pipeline {config.name}: data.shards is an address, where nothing is built; leave out data.source"
        )
    out, root = expand(data["shards"], "data.shards"), str(data.get("root", "-"))
    build_settings(str(data["source"]), build)
    more = [f"track.{key}={value}" for key, value in _tracked(config).items()]
    words = ("shards", "build", str(data["source"]), str(expand(root, "data.root")) if root != "-" else root, str(out),
             *as_words(build), *more)  # fmt: skip
    mark = str((out / MANIFEST).absolute())  # scripts and records of a job lie in the pipeline's folder
    command = Command(SHARDS, words, home / SHARDS, home / "logs" / f"{SHARDS}.log", mark)
    return Planned(SHARDS, Stage(job=SHARDS), command, (), words)


def _tracked(config: Config) -> dict[str, str]:
    """Where a build logs: into the pipeline's group, beside its other stages."""
    every = flatten(config.set, command_module("classify").Config)
    given = {key.removeprefix("track."): str(value) for key, value in every.items() if key.startswith("track.")}
    return (
        {"wandb": "auto", "project": "fgvc"} | given | {"group": config.name, "folder": str(home_of(config) / SHARDS)}
    )


def _words(config: Config, name: str, stage: Stage, folders: dict[str, str], planned: list[Planned]) -> tuple[str, ...]:
    """`fgvc` what, for a stage; checked as far as its job checks before it reads anything."""
    home = home_of(config)
    if fixed := [key for key in stage.set if key in OWN]:
        raise UserError(f"'{fixed[0]}' is set by the pipeline")
    if stage.job == "report":
        made = [one.command.folder for one in planned if one.job not in (SHARDS, "report")]
        folder = Path(folders[name])
        own = {"runs_dir": config.runs_dir, "name": folder.name, "title": config.name} | stage.set
        return ("report", *map(str, made), *as_words(own))
    kind = command_module(stage.job).Config
    known = {key for key, _ in walk(kind)}
    own = {key: resolved(value, folders) for key, value in flatten(stage.set, kind).items()}
    if fixed := [key for key in own if key in OWN]:
        raise UserError(f"'{fixed[0]}' is set by the pipeline")
    # Shards are built by then, or there already: `data.source=` leaves out the stage that builds them.
    data = {f"data.{key}": value for key, value in config.data.items() if key not in ("source", "root", "build")}
    shared = data | flatten(config.set, kind)
    if unknown := [key for key in shared if key not in known and not _anywhere(key)]:
        raise UserError(f"unknown key '{unknown[0]}'{nearest(unknown[0], sorted(known))}")
    every = {key: value for key, value in shared.items() if key in known}
    if "track.group" in known:
        every["track.group"] = config.name
    if stage.job == "crop" and config.processes > 1:
        every["processes"] = config.processes
    if stage.job == "crop":  # what is for every stage is for its detectors too
        detect = {key for key, _ in walk(DetectConfig) if "." in key} - known
        for_all = {key: value for key, value in shared.items() if key in detect}
        own |= {"set": for_all | flatten(own.get("set", {}), DetectConfig)} if for_all else {}
    words = as_words(every | own | {"name": name, "runs_dir": str(home)})
    loaded = load_job(stage.job, stage.config or None, words)
    if stage.job == "crop" and loaded.trained:
        for one in planned:
            if one.job == "detect" and Path(loaded.trained) == one.command.folder:
                check_alike(loaded, config_of(one))
    return (stage.job, *([stage.config] if stage.config else []), *words)


def config_of(one: Planned) -> Any:
    """The config of a stage's job."""
    return load_command(one.words) if one.stage.config else load_job(one.job, None, list(one.words[1:]))


def _anywhere(key: str) -> bool:
    """Whether some job has this setting: those that have not pass over it."""
    return any(key in {name for name, _ in walk(command_module(job).Config)} for job in JOBS)
