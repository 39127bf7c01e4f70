"""fgvc crop: find the object in every image of a set of shards, and write a boxes layer to crop by.

    fgvc crop configs/crop/cub200.yaml                               train the detectors, find every object, measure
    fgvc crop configs/crop/cub200.yaml --on CLUSTER                  the same as a Slurm job
    fgvc crop configs/crop/field_guide.yaml --on debug               20 steps a detector, 64 images
    fgvc crop CONFIG set.train.epochs=4 folds=5 name=longer          `set` goes to every detector run
    fgvc crop CONFIG slice=512 name=sliced                           small objects in large images, through SAHI
    fgvc crop CONFIG detectors='[f0.safetensors, f1.safetensors, f2.safetensors, all.safetensors]'
    fgvc classify CONFIG data.crop=square data.boxes=FILE            then: classify what was found

Training images get out-of-fold boxes: each fold's from a detector trained on the other folds, so that training crops
are as good and as bad as test crops. All other images get theirs from a detector trained on the whole training split.
Each detector is a `fgvc detect` run of its own in <runs_dir>/crop/<name>/detect/: what is done is skipped, so the same
command goes on after a kill. The run folder <runs_dir>/crop/<name>/ holds boxes.jsonl (the layer; a copy lies beside
the shards), result.json (how good the boxes are on training and on test images) and boxes.png.
"""

import json
import os
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Gt, Lt

from fgvc.runtime.config import TrackConfig
from shards.errors import UserError
from shards.options import option
from shards.paths import expand
from shards.reading.config import DataConfig, Score

if TYPE_CHECKING:
    from fgvc.runtime.run_folder import RunFolder
    from jobs.experiments.sequence import Command
    from shards.boxes_layer import BoxesLayer
    from shards.manifest import Manifest

DEBUG = ["data.workers=0", "data.limit=64", "folds=2", "set.train.max_steps=20", "track.wandb=disabled"]


@dataclass
class Config:
    """Everything a boxes layer depends on."""

    name: str = option("", "the run's folder name (empty: the config file's)", affects_result=False)
    runs_dir: str = option("runs", "folder of all runs", affects_result=False)
    seed: int = option(0, "of the detectors")
    detect: str = option("", "config of fgvc detect, a YAML file, for the detectors", affects_result=False)
    set: dict = option({}, "settings of every detector run, such as {train.epochs: 8}", affects_result=False)
    folds: Annotated[int, Ge(2)] = option(3, "training images are split into so many folds, a detector for each")
    detectors: list[str] = option(
        [],
        "instead of training: weights of a detector a fold, in order, and of one for all other images",
        False,
    )
    min_score: Score = option(0.05, "keep boxes from this score on")
    slice: Annotated[int, Ge(0)] = option(
        0, "for small objects in large images: look in slices of so many pixels and at the whole (0: only at the whole)"
    )
    slice_overlap: Annotated[float, Ge(0), Lt(1)] = option(0.2, "share of a slice that the next one repeats")
    layer: str = option("", "file to write (empty: boxes-<name>.jsonl beside the shards)", affects_result=False)
    processes: Annotated[int, Gt(0)] = option(1, "ranks of every detector run", affects_result=False)
    data: DataConfig = field(default_factory=DataConfig)
    track: TrackConfig = field(default_factory=TrackConfig)


def run(config: Config) -> dict[str, Any]:
    """Train what is missing, find boxes, write the layer; returns what result.json holds.

    Raises UserError for a user's mistake, Interrupted after a signal.
    """
    from fgvc.runtime.run_folder import finish, open_run
    from jobs.config import hashed, to_dict
    from jobs.tasks.data import open_shards

    began = time.monotonic()
    _check(config)
    manifest = open_shards(config.data)
    target = _target(config, manifest)
    commands = commands_of(config)
    inputs = {"shards": manifest.fingerprint} | _detectors_identity(config, commands)
    identity = hashed(config) | {f"inputs.{key}": value for key, value in inputs.items()}
    with open_run(config.runs_dir, "crop", config.name, to_dict(config), identity) as folder:
        if folder.result is None:
            _refuse_anothers(target, config)
            layer = _find(config, manifest, folder, _train(config, commands))
            figures = _measure(config, manifest, layer, folder)
            finish(folder, figures | {"layer": str(target)}, inputs, time.monotonic() - began)
        _publish(folder.path / "boxes.jsonl", target)
        return json.loads((folder.path / "result.json").read_text())


def _check(config: Config) -> None:
    if bool(config.detect) == bool(config.detectors):
        raise UserError("give either detect=CONFIG, to train the detectors, or detectors=[FILE, ...], trained ones")
    if config.detectors and len(config.detectors) != config.folds + 1:
        raise UserError(
            f"detectors: {len(config.detectors)} files for folds={config.folds}; it takes {config.folds + 1}: one a "
            "fold in order, and one that was trained on all of train"
        )
    if config.data.folds:
        raise UserError("data.folds: the folds of fgvc crop are set by folds=")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(
            "fgvc crop is one process: on a cluster ask for one GPU, here give detectors ranks: processes=N"
        )
    if config.processes > 1 and "RANK" in os.environ:
        raise UserError(f"processes={config.processes}: not in a cluster job, where a detector has the job's one GPU")


def commands_of(config: Config) -> list["Command"]:
    """The detector runs, one for every fold and one on all of train; none when trained detectors are given."""
    from jobs import detect
    from jobs.config import flatten, load
    from jobs.experiments.sequence import Command

    if config.detectors:
        return []
    home = Path(config.runs_dir) / "crop" / config.name
    shared = {
        f"data.{key}": getattr(config.data, key)
        for key in ("shards", "source", "root", "build", "train_split", "test_split", "limit", "cache", "workers")
    } | {f"track.{key}": getattr(config.track, key) for key in ("wandb", "project", "group")}
    settings = flatten(config.set, detect.Config)
    commands = []
    for fold in range(config.folds + 1):
        name, folds = (f"fold{fold}", config.folds) if fold < config.folds else ("all", 0)
        own = shared | {
            "name": name, "runs_dir": str(home), "seed": config.seed, "evaluate_test": False, "data.folds": folds,
            "data.fold": fold if folds else 0,
        }  # fmt: skip
        for key in settings.keys() & own.keys():
            raise UserError(f"set: '{key}' is set by fgvc crop; data.*, seed, folds and track.* are its own settings")
        # JSON is YAML too; text stays as it is because a word like model.weights=none needs no quotes.
        words = [f"{k}={v if isinstance(v, str) else json.dumps(v)}" for k, v in (settings | own).items()]
        load(detect.Config, config.detect, words)  # a mistake shows now and not hours later
        ranks = ["--processes", str(config.processes)] if config.processes > 1 else []
        command = ("detect", config.detect, *words, *ranks)
        commands.append(Command(name, command, home / "detect" / name, home / "logs" / f"{name}.log"))
    return commands


def _detectors_identity(config: Config, commands: list["Command"]) -> dict[str, str]:
    """What the detectors are: a hash of each file that was given, or of the settings they are trained with."""
    from jobs import detect
    from jobs.config import config_hash, load
    from jobs.tasks.data import file_hash

    if config.detectors:
        return {f"detectors.{i}": file_hash(path, "detectors") for i, path in enumerate(config.detectors)}
    loaded = load(detect.Config, config.detect, [word for word in commands[-1].words[2:] if "=" in word])
    return {"detect": config_hash(loaded), "detect.weights": file_hash(loaded.model.weights, "model.weights")}


def _train(config: Config, commands: list["Command"]) -> list[Path]:
    """The weights of the detectors: a fold each, then the one for all other images."""
    from fgvc.runtime.run_folder import RunFolder
    from jobs.experiments.sequence import run_all

    if config.detectors:
        return [expand(path, "detectors") for path in config.detectors]
    failed = run_all(commands, f"crop {config.name}")
    if failed:
        name, reason = next(iter(failed.items()))
        raise UserError(f"detector {name}: {reason}; its log: {commands[0].log.parent / name}.log")
    return [RunFolder(command.folder, None).weights for command in commands]


def _find(config: Config, manifest: "Manifest", folder: "RunFolder", weights: list[Path]) -> "BoxesLayer":
    """Boxes of every sample by the detector that has not seen it, written into the run folder."""
    import torch

    from fgvc.detection.detector import find_boxes
    from fgvc.detection.sliced import find_boxes_in_slices
    from jobs.tasks.data import file_hash, loader_workers
    from shards.boxes_layer import write_layer
    from shards.reading.splits import limited, open_splits

    train = set(manifest.split(config.data.train_split))
    parts = [
        open_splits(manifest, replace(config.data, folds=config.folds, fold=fold)).held_out
        for fold in range(config.folds)
    ]
    parts.append(limited([i for i in range(len(manifest.entries)) if i not in train], config.data.limit))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found: dict[str, Any] = {}
    for number, (members, file) in enumerate(zip(parts, weights, strict=True)):
        title = f"boxes of fold {number}" if number < config.folds else "boxes of all other images"
        if members and config.slice:
            found |= find_boxes_in_slices(
                file, manifest, members, device=device, side=config.slice, overlap=config.slice_overlap,
                score=config.min_score, cache=config.data.cache, title=title,
            )  # fmt: skip
        elif members:
            found |= find_boxes(
                file, manifest, members, device=device, data=config.data, score=config.min_score,
                workers=loader_workers(config.data), title=title,
            )  # fmt: skip
    made_by = {
        "job": "crop", "run": config.name, "folds": config.folds, "min_score": config.min_score, "slice": config.slice,
        "detectors": [file_hash(str(path), "detectors") for path in weights],
    }  # fmt: skip
    return write_layer(folder.path / "boxes.jsonl", manifest, found, made_by)


def _measure(config: Config, manifest: "Manifest", layer: "BoxesLayer", folder: "RunFolder") -> dict[str, Any]:
    """How good the boxes of every split are, told to the tracker too, with a picture."""
    from fgvc.detection.layer_quality import box_quality, draw_boxes
    from fgvc.runtime.tracking import Tracker
    from jobs.config import to_dict

    figures: dict[str, dict[str, Any]] = {}
    for split in sorted(manifest.counts):
        members = [i for i in manifest.split(split) if manifest.entries[i].key in layer.boxes]
        if members:
            out_of_fold = split == config.data.train_split
            figures[split] = {"out_of_fold": out_of_fold} | box_quality(manifest, members, layer)
    picture = folder.path / "boxes.png"
    draw_boxes(picture, manifest, layer, list(figures))
    tracker = Tracker(config.track, folder.path, "crop", config.name, to_dict(config))
    try:
        tracker.pictures(0, {"boxes": picture})
        tracker.summary({f"{split}/{key}": value for split, one in figures.items() for key, value in one.items()})
    finally:
        tracker.close()
    return {"boxes": figures}


def _target(config: Config, manifest: "Manifest") -> Path:
    return expand(config.layer, "layer") if config.layer else manifest.folder / f"boxes-{config.name}.jsonl"


def _refuse_anothers(target: Path, config: Config) -> None:
    """Raise UserError before hours of work when the file to write is another run's, or cannot be written."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{target}: cannot be written ({error.strerror}); set layer= to another file") from None
    if not os.access(target.parent, os.W_OK):
        raise UserError(f"{target}: cannot be written (permission denied); set layer= to another file")
    if not target.is_file():
        return
    with target.open() as stream:
        line = stream.readline()
    try:
        owner = json.loads(line)["made_by"].get("run")
    except (ValueError, KeyError, AttributeError):
        owner = None
    if owner != config.name:
        whose = f"the boxes of run '{owner}'" if owner else "something else"
        raise UserError(f"{target}: holds {whose}; set layer= to another file")


def _publish(layer: Path, target: Path) -> None:
    """Copy the layer to where it is read from, unless the same bytes are there."""
    from shards.files import write_bytes

    data = layer.read_bytes()
    if not target.is_file() or target.read_bytes() != data:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(target, data)
        except OSError as error:
            raise UserError(f"{target}: cannot be written ({error.strerror}); the layer is {layer}") from None


def report(result: dict[str, Any], folder: Path) -> str:
    """The lines a run ends with."""
    lines = [
        f"{split}{' (out of fold)' if one['out_of_fold'] else ''}: top box right (IoU >= 0.5) on {one['right']:.2%} of "
        f"{one['with_truth']} images with true boxes, mean IoU {one['mean_iou']:.3f}; nothing found on "
        f"{one['without_box']} of {one['images']}"
        for split, one in result["boxes"].items()
    ]
    return "\n".join([*lines, f"{result['seconds']:.0f} s; data.boxes={result['layer']}; look at {folder}: boxes.png"])
