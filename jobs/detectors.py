"""The detectors that `fgvc crop` trains: their words, and what its run depends on by them. Imports nothing heavy."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fgvc.runtime.run_folder import refuse_another_config
from jobs.config import as_words, flatten, identity, load_job
from jobs.crop import Config
from jobs.detect import Config as DetectConfig
from jobs.hashes import detector_inputs, file_hash
from shards.errors import UserError


def detector_words(config: Config) -> dict[str, tuple[str, ...]]:
    """The words of every detector run by its name, one for every fold and one on all of train, the last; none when
    trained detectors are given. Raises UserError for a mistake in their settings."""
    if not config.detect:
        return {}
    home = Path(config.runs_dir) / "crop" / config.name
    shared = {
        f"data.{key}": getattr(config.data, key)
        for key in ("shards", "source", "root", "build", "train_split", "test_split", "limit", "cache", "workers")
    } | {f"track.{key}": getattr(config.track, key) for key in ("wandb", "project", "group")}
    settings = flatten(config.set, DetectConfig)
    found = {}
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
        found[name] = ("detect", config.detect, *words, *ranks)
    return found


def detect_config(words: Sequence[str]) -> DetectConfig:
    """The config of a detector run."""
    return load_job("detect", words[1], [word for word in words[2:] if "=" in word])


def all_of_train(config: Config) -> DetectConfig:
    """The config of the detector on all of train."""
    return detect_config(list(detector_words(config).values())[-1])


def detectors_of(config: Any) -> dict[str, DetectConfig]:
    """The configs of other runs that a job's run is made of, as `jobs.config.identity` takes them: those of fgvc crop's
    detectors."""
    if not isinstance(config, Config) or not config.detect:
        return {}
    return {"detect": all_of_train(config)}


def refuse_other_settings(folder: Path, config: Any) -> None:
    """Raise UserError naming the keys where a folder holds a run of other settings; what the run reads is not asked."""
    settings, defaults = identity(config, detectors_of(config))
    refuse_another_config(folder, settings, defaults, partial=True)


def inputs_of(config: Config) -> dict[str, str]:
    """Hashes of the detectors' files, or of the weights that their training begins with."""
    if config.detector:
        return {"detector": file_hash(config.detector, "detector")}
    if config.detectors:
        return {f"detectors.{i}": file_hash(path, "detectors") for i, path in enumerate(config.detectors)}
    return {f"detect.{key}": one for key, one in detector_inputs(all_of_train(config).model).items()}
