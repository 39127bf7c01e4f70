"""Several classifiers as one: the work of `fgvc ensemble`."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fgvc.classification.averaged import mean_probabilities
from fgvc.classification.metrics import Predictions, summary
from fgvc.classification.results import save_results
from fgvc.runtime.run_folder import RESULT, finish
from fgvc.study.statistics import holm, interval_over_images
from jobs.ensemble import Config, check
from jobs.hashes import file_hash
from jobs.inputs import open_job, open_shards
from jobs.states import read_object
from shards.errors import UserError
from shards.paths import expand


@dataclass(frozen=True)
class _Member:
    """A run, the file of its predictions, and what its result.json says. temperature: None where it has none."""

    folder: Path
    file: Path
    result: dict[str, Any]
    predictions: Predictions
    temperature: float | None

    @property
    def name(self) -> str:
        return f"{self.folder.parent.name}/{self.folder.name}"


def run(config: Config) -> dict[str, Any]:
    """Average, measure, write the run folder; returns what result.json holds.

    Raises UserError for runs that are not there, not finished, or did not measure the same images of the same shards.
    """
    began = time.monotonic()
    check(config)
    members = [_member(run, config) for run in config.members]
    config.data.shards = config.data.shards or _shards_of(members[0])
    manifest = open_shards(config.data)
    for one in members:
        if one.result["inputs"].get("shards") != manifest.fingerprint:
            raise UserError(
                f"{one.folder}: measured on another version of {manifest.folder}; data.shards= names others"
            )
    inputs = {"shards": manifest.fingerprint}
    for number, one in enumerate(members):
        inputs |= {f"members.{number}": file_hash(str(one.file), "members")}
        inputs |= {f"members.{number}.temperature": f"{one.temperature:.6g}"} if one.temperature else {}
    hashes = [inputs[f"members.{number}"] for number in range(len(members))]
    if twice := [one for number, one in enumerate(members) if hashes[number] in hashes[:number]]:
        raise UserError(
            f"members: {twice[0].folder} made the same predictions as one before it; all members count alike"
        )
    with open_job("ensemble", config, inputs) as folder:
        if folder.result is not None:
            return folder.result
        calibrated = all(one.temperature for one in members)  # of raw and calibrated ones, the raw would count for less
        answers = [
            one.predictions.divided(one.temperature or 1.0) if calibrated else one.predictions for one in members
        ]
        together = mean_probabilities(answers, [str(one.folder) for one in members])
        save_results(folder.path, f"_{config.split}", manifest, together, None)
        figures = {
            config.split: summary(together, manifest.classes), "calibrated": calibrated,
            "members": _against(together, members),
        }  # fmt: skip
        return finish(folder, figures, inputs, time.monotonic() - began)


def _member(run: str, config: Config) -> _Member:
    folder = _folder(run, Path(config.runs_dir))
    result = read_object(folder / RESULT)
    if not result:
        raise UserError(f"{folder}: holds no {RESULT}; is the run finished? fgvc status shows it")
    if config.split not in result:
        measured = ", ".join(key for key, value in result.items() if isinstance(value, dict) and "top1" in value)
        raise UserError(f"{folder}: did not measure split={config.split}; it measured {measured or 'no classifier'}")
    if result.get("seen"):  # null: not recorded
        raise UserError(f"{folder}: measured on images it was trained on; an ensemble of such figures says nothing")
    file = next((folder / name for name in (f"predictions_{config.split}.npz", "predictions.npz")
                 if (folder / name).is_file()), None)  # fmt: skip
    if file is None:
        raise UserError(
            f"{folder}: holds no predictions_{config.split}.npz; members are runs of fgvc classify or evaluate"
        )
    return _Member(folder, file, result, Predictions.load(file), result[config.split].get("temperature"))


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
        raise UserError(
            f"{member.folder}: its config does not say which shards it read; give data.shards=FOLDER"
        ) from None


def _against(together: Predictions, members: list[_Member]) -> list[dict[str, Any]]:
    """The paired difference in top-1 to every member, with its 95 % interval over images, and p corrected for all."""
    right = together.correct.astype(float)
    gains = [interval_over_images(right - one.predictions.correct.astype(float)) for one in members]
    corrected = holm([gain.p for gain in gains])
    return [
        {"run": one.name, "top1": float(one.predictions.correct.mean()), "difference": gain.middle, "low": gain.low,
         "high": gain.high, "p_holm": p, "temperature": one.temperature, "seen": one.result.get("seen", False)}
        for one, gain, p in zip(members, gains, corrected, strict=True)
    ]  # fmt: skip
