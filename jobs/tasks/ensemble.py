"""Several classifiers as one: the work of `fgvc ensemble`."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fgvc.classification.averaged import mean_probabilities
from fgvc.classification.metrics import Predictions, summary
from fgvc.classification.results import save_results
from fgvc.runtime.distributed import world_size
from fgvc.runtime.run_folder import RESULT, finish
from fgvc.study.statistics import interval_over_images
from jobs.ensemble import Config, check
from jobs.hashes import file_hash
from jobs.inputs import open_job, open_shards
from jobs.states import read_json
from shards.errors import UserError
from shards.paths import expand
from shards.reading.config import DataConfig


@dataclass(frozen=True)
class _Member:
    """A run, the file of its predictions, and what its result.json says; predictions: calibrated."""

    folder: Path
    file: Path
    result: dict[str, Any]
    predictions: Predictions


def run(config: Config) -> dict[str, Any]:
    """Average, measure, write the run folder; returns what result.json holds.

    Raises UserError for runs that are not there, not finished, or did not measure the same images of the same shards.
    """
    began = time.monotonic()
    check(config)
    if world_size() > 1:
        raise UserError("fgvc ensemble is one process; leave out --processes")
    members = [_member(run, config) for run in config.members]
    manifest = open_shards(DataConfig(shards=config.shards or _shards_of(members[0])))
    for one in members:
        if one.result["inputs"].get("shards") != manifest.fingerprint:
            raise UserError(f"{one.folder}: measured on another version of {manifest.folder}; shards= names others")
    inputs = {"shards": manifest.fingerprint}
    inputs |= {f"members.{i}": file_hash(str(one.file), "members") for i, one in enumerate(members)}
    with open_job("ensemble", config, inputs) as folder:
        if folder.result is not None:
            return folder.result
        together = mean_probabilities([one.predictions for one in members], [str(one.folder) for one in members])
        save_results(folder.path, f"_{config.split}", manifest, together, None)
        calibrated = all(one.result[config.split].get("temperature") for one in members)
        figures = {config.split: summary(together, manifest.classes, 1.0 if calibrated else None)}
        return finish(folder, figures | {"members": _against(together, members)}, inputs, time.monotonic() - began)


def _member(run: str, config: Config) -> _Member:
    folder = _folder(run, Path(config.runs_dir))
    result = read_json(folder / RESULT)
    if not isinstance(result, dict):
        raise UserError(f"{folder}: holds no {RESULT}; is the run finished? fgvc status shows it")
    if config.split not in result:
        measured = ", ".join(key for key, value in result.items() if isinstance(value, dict) and "top1" in value)
        raise UserError(f"{folder}: did not measure split={config.split}; it measured {measured or 'no classifier'}")
    if result.get("seen"):
        raise UserError(f"{folder}: measured on images it was trained on; an ensemble of such figures says nothing")
    file = next((folder / name for name in (f"predictions_{config.split}.npz", "predictions.npz")
                 if (folder / name).is_file()), None)  # fmt: skip
    if file is None:
        raise UserError(
            f"{folder}: holds no predictions_{config.split}.npz; members are runs of fgvc classify or evaluate"
        )
    predictions, temperature = Predictions.load(file), result[config.split].get("temperature")
    return _Member(folder, file, result, predictions.divided(temperature) if temperature else predictions)


def _folder(run: str, runs: Path) -> Path:
    """The folder that people mean: itself, or a run's name."""
    places = (expand(run, "members"), runs / "classify" / run, runs / "evaluate" / run, runs / run)
    for place in places:
        if place.is_dir():
            return place
    raise UserError(f"members: {run}: no such run or folder; fgvc status lists runs")


def _shards_of(member: _Member) -> str:
    try:
        return str(yaml.safe_load((member.folder / "config.yaml").read_text())["data"]["shards"])
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        raise UserError(f"{member.folder}: its config does not say which shards it read; give shards=FOLDER") from None


def _against(together: Predictions, members: list[_Member]) -> list[dict[str, Any]]:
    """The paired difference in top-1 to every member, with its 95 % interval over images."""
    rows = []
    for one in members:
        theirs = one.predictions.correct
        gain = interval_over_images(together.correct.astype(float) - theirs.astype(float))
        rows.append({
            "run": f"{one.folder.parent.name}/{one.folder.name}", "top1": float(theirs.mean()),
            "difference": gain.middle, "low": gain.low, "high": gain.high, "p": gain.p,
        })  # fmt: skip
    return rows
