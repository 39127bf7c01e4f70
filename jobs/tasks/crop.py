"""Find the object in every image and write a boxes layer: the work of `fgvc crop`."""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fgvc.detection.detector import find_boxes
from fgvc.detection.layer_quality import box_quality, draw_boxes
from fgvc.detection.sliced import find_boxes_in_slices
from fgvc.runtime.run_folder import RunFolder, finish
from fgvc.runtime.tracking import Tracker
from jobs.config import to_dict
from jobs.crop import Config, check
from jobs.experiments.crop_detectors import commands_of, identity_of, train
from jobs.inputs import file_hash, loader_workers, open_job, open_shards
from jobs.tasks.layer_file import publish, refuse_anothers, target_of
from shards.boxes_layer import BoxesLayer, write_layer
from shards.manifest import Manifest
from shards.reading.splits import limited, open_splits


def run(config: Config) -> dict[str, Any]:
    """Train what is missing, find boxes, write the layer; returns what result.json holds.

    Raises UserError for a user's mistake, Interrupted after a signal.
    """
    began = time.monotonic()
    check(config)
    manifest = open_shards(config.data)
    target = target_of(config, manifest)
    commands = commands_of(config)
    inputs = {"shards": manifest.fingerprint} | identity_of(config, commands)
    with open_job("crop", config, inputs) as folder:
        if folder.result is None:
            refuse_anothers(target, config)
            layer = _find(config, manifest, folder, train(config, commands))
            figures = _measure(config, manifest, layer, folder)
            finish(folder, figures | {"layer": str(target)}, inputs, time.monotonic() - began)
        publish(folder.path / "boxes.jsonl", target)
        return json.loads((folder.path / "result.json").read_text())


def _find(config: Config, manifest: Manifest, folder: RunFolder, weights: list[Path]) -> BoxesLayer:
    """Boxes of every sample by the detector that has not seen it, written into the run folder."""
    train = set(manifest.split(config.data.train_split))
    parts = [
        open_splits(manifest, replace(config.data, folds=config.folds, fold=fold)).held_out
        for fold in range(config.folds)
    ]
    parts.append(limited([i for i in range(len(manifest.entries)) if i not in train], config.data.limit))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found: dict[str, Any] = {}
    for number, (indices, file) in enumerate(zip(parts, weights, strict=True)):
        title = f"boxes of fold {number}" if number < config.folds else "boxes of all other images"
        if indices and config.slice:
            found |= find_boxes_in_slices(
                file, manifest, indices, device=device, side=config.slice, overlap=config.slice_overlap,
                score=config.min_score, cache=config.data.cache, title=title,
            )  # fmt: skip
        elif indices:
            found |= find_boxes(
                file, manifest, indices, device=device, data=config.data, score=config.min_score,
                workers=loader_workers(config.data), title=title,
            )  # fmt: skip
    made_by = {
        "job": "crop", "run": config.name, "folds": config.folds, "min_score": config.min_score, "slice": config.slice,
        "detectors": [file_hash(str(path), "detectors") for path in weights],
    }  # fmt: skip
    return write_layer(folder.path / "boxes.jsonl", manifest, found, made_by)


def _measure(config: Config, manifest: Manifest, layer: BoxesLayer, folder: RunFolder) -> dict[str, Any]:
    """How good the boxes of every split are, logged too, with a picture."""
    figures: dict[str, dict[str, Any]] = {}
    for split in sorted(manifest.counts):
        indices = [i for i in manifest.split(split) if manifest.entries[i].key in layer.boxes]
        if indices:
            out_of_fold = split == config.data.train_split
            figures[split] = {"out_of_fold": out_of_fold} | box_quality(manifest, indices, layer)
    picture = folder.path / "boxes.png"
    draw_boxes(picture, manifest, layer, list(figures))
    tracker = Tracker(config.track, folder.path, "crop", config.name, to_dict(config))
    try:
        tracker.pictures(0, {"boxes": picture})
        tracker.summary({f"{split}/{key}": value for split, one in figures.items() for key, value in one.items()})
    finally:
        tracker.close()
    return {"boxes": figures}
