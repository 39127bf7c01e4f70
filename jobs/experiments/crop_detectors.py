"""The detectors of `fgvc crop`: one for every fold of train and one for all other images, each a `fgvc detect` run."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from fgvc.runtime.run_folder import IDENTITY, RESULT, RunFolder, refuse_another_config
from jobs.config import hashed
from jobs.crop import Config
from jobs.detect import Config as DetectConfig
from jobs.detectors import all_of_train, detector_words
from jobs.experiments.sequence import Command, run_all
from jobs.hashes import detector_inputs
from shards.errors import TransientError, UserError
from shards.manifest import Manifest
from shards.paths import expand
from shards.reading.splits import open_splits


def commands_of(config: Config) -> list[Command]:
    """The detector runs, one for every fold and one on all of train; none when trained detectors are given."""
    home = Path(config.runs_dir) / "crop" / config.name
    return [
        Command(name, words, home / "detect" / name, home / "logs" / f"{name}.log")
        for name, words in detector_words(config).items()
    ]


def check_trained(config: Config, shards: str) -> None:
    """Raise UserError unless `trained` is a finished run of what the detector on all of train would be.

    shards: their fingerprint.
    """
    folder = expand(config.trained, "trained")
    missing = [name for name in (RESULT, IDENTITY, "model.safetensors") if not (folder / name).is_file()]
    if missing:
        raise UserError(
            f"trained={folder}: holds no {missing[0]}; name the folder of a finished fgvc detect run, or leave it out"
        )
    loaded = all_of_train(config)
    inputs = {f"inputs.{key}": one for key, one in detector_inputs(loaded.model).items()} | {"inputs.shards": shards}
    advice = "leave trained= out, and the detector is trained here"
    refuse_another_config(folder, _trains(loaded) | inputs, hashed(DetectConfig()), partial=True, advice=advice)


def check_alike(config: Config, trained: DetectConfig) -> None:
    """Raise UserError where a run of these settings could not be `trained`: before it is trained."""
    ours, theirs = _trains(all_of_train(config)), _trains(trained)
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
