"""The detectors of `fgvc crop`: one for every fold of train and one for all other images, each a `fgvc detect` run."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from fgvc.runtime.run_folder import IDENTITY, RESULT, RunFolder, refuse_another_config
from jobs.config import as_words, flatten, hashed, identity, load_job
from jobs.crop import Config
from jobs.detect import Config as DetectConfig
from jobs.experiments.sequence import Command, run_all
from jobs.hashes import detector_inputs, file_hash
from shards.errors import TransientError, UserError
from shards.manifest import Manifest
from shards.paths import expand
from shards.reading.splits import open_splits


def commands_of(config: Config) -> list[Command]:
    """The detector runs, one for every fold and one on all of train; none when trained detectors are given."""
    if not config.detect:
        return []
    home = Path(config.runs_dir) / "crop" / config.name
    shared = {
        f"data.{key}": getattr(config.data, key)
        for key in ("shards", "source", "root", "build", "train_split", "test_split", "limit", "cache", "workers")
    } | {f"track.{key}": getattr(config.track, key) for key in ("wandb", "project", "group")}
    settings = flatten(config.set, DetectConfig)
    commands = []
    for fold in range(config.folds + 1):
        name, folds = (f"fold{fold}", config.folds) if fold < config.folds else ("all", 0)
        own = shared | {
            "name": name, "runs_dir": str(home), "seed": config.seed, "evaluate_test": False, "data.folds": folds,
            "data.fold": fold if folds else 0,
        }  # fmt: skip
        for key in (key for key in settings if key in own or key.startswith("data.")):
            raise UserError(f"set: '{key}' is set by fgvc crop; data.*, seed, folds and track.* are its own settings")
        words = as_words(settings | own)
        load_job("detect", config.detect, words)  # a mistake shows now and not hours later
        ranks = ["--processes", str(config.processes)] if config.processes > 1 else []
        command = ("detect", config.detect, *words, *ranks)
        commands.append(Command(name, command, home / "detect" / name, home / "logs" / f"{name}.log"))
    return commands


def detect_config(command: Command) -> DetectConfig:
    """The config of a detector run."""
    return load_job("detect", command.words[1], [word for word in command.words[2:] if "=" in word])


def detectors_of(config: Any) -> dict[str, DetectConfig]:
    """The configs of other runs that a job's run is made of, as `jobs.config.identity` takes them: those of fgvc crop's
    detectors."""
    if not isinstance(config, Config) or not config.detect:
        return {}
    return {"detect": detect_config(commands_of(config)[-1])}


def refuse_other_settings(folder: Path, config: Any) -> None:
    """Raise UserError naming the keys where a folder holds a run of other settings; what the run reads is not asked."""
    settings, defaults = identity(config, detectors_of(config))
    refuse_another_config(folder, settings, defaults, partial=True)


def inputs_of(config: Config, commands: list[Command]) -> dict[str, str]:
    """Hashes of the detectors' files, or of the weights that their training begins with."""
    if config.detector:
        return {"detector": file_hash(config.detector, "detector")}
    if config.detectors:
        return {f"detectors.{i}": file_hash(path, "detectors") for i, path in enumerate(config.detectors)}
    return {f"detect.{key}": one for key, one in detector_inputs(detect_config(commands[-1]).model).items()}


def check_trained(config: Config, command: Command, shards: str) -> None:
    """Raise UserError unless `trained` is a finished run of what `command`, the detector on all of train, would run.

    shards: their fingerprint.
    """
    folder = expand(config.trained, "trained")
    missing = [name for name in (RESULT, IDENTITY, "model.safetensors") if not (folder / name).is_file()]
    if missing:
        raise UserError(
            f"trained={folder}: holds no {missing[0]}; name the folder of a finished fgvc detect run, or leave it out"
        )
    loaded = detect_config(command)
    inputs = {f"inputs.{key}": one for key, one in detector_inputs(loaded.model).items()} | {"inputs.shards": shards}
    advice = "leave trained= out, and the detector is trained here"
    refuse_another_config(folder, _trains(loaded) | inputs, hashed(DetectConfig()), partial=True, advice=advice)


def check_alike(config: Config, trained: DetectConfig) -> None:
    """Raise UserError where a run of these settings could not be `trained`: before it is trained."""
    ours, theirs = _trains(detect_config(commands_of(config)[-1])), _trains(trained)
    if changed := [key for key in ours if ours[key] != theirs[key]]:
        shown = ", ".join(f"{key} ({theirs[key]!r} -> {ours[key]!r})" for key in changed[:5])
        raise UserError(f"trained: that run has other settings than the detectors here: {shown}; give both the same")


def _trains(config: DetectConfig) -> dict[str, Any]:
    """What training depends on."""
    return {key: value for key, value in hashed(config).items() if key != "evaluate_test"}


def check_boxes(config: Config, manifest: Manifest) -> None:
    """Raise UserError, before anything is trained, when a detector's part of the training images has no true boxes."""
    for fold in range(config.folds):
        part = open_splits(manifest, replace(config.data, folds=config.folds, fold=fold)).train
        if not manifest.entries.box_counts[part].any():
            raise UserError(
                f"{manifest.folder}: too few true boxes in split '{config.data.train_split}' to train detectors of "
                f"{config.folds} folds; give detector=FILE, a detector trained on other shards (fgvc detect), or build "
                "the shards with boxes"
            )


def train(config: Config, commands: list[Command]) -> list[Path]:
    """The weights of the detectors: a fold each, then the one for all other images; of a single one it alone."""
    if config.detector:
        return [expand(config.detector, "detector")]
    if config.detectors:
        return [expand(path, "detectors") for path in config.detectors]
    ours = commands[:-1] if config.trained else commands
    failed = run_all(ours, f"crop {config.name}")
    if failed:
        name, failure = next(iter(failed.items()))
        kind = UserError if failure.code == UserError.code else TransientError  # a rank that crashed is started again
        raise kind(f"detector {name}: {failure}; its log: {commands[0].log.parent / name}.log")
    folders = [command.folder for command in ours] + ([expand(config.trained, "trained")] if config.trained else [])
    return [RunFolder(folder, None).weights for folder in folders]
