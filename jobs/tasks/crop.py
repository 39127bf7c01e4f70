"""Find the object in every image and write a boxes layer: the work of `fgvc crop`."""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fgvc.detection.detector import find_boxes
from fgvc.detection.layer_quality import box_quality, draw_boxes, draw_crops
from fgvc.detection.sliced import find_boxes_in_slices
from fgvc.runtime.run_folder import RESULT, RunFolder, finish
from fgvc.runtime.tracking import Tracker
from jobs.config import to_dict
from jobs.crop import Config, check
from jobs.detectors import detectors_of, inputs_of
from jobs.experiments.crop_detectors import check_boxes, check_trained, commands_of, train
from jobs.hashes import file_hash
from jobs.inputs import loader_workers, open_job, open_shards
from jobs.tasks.layer_file import publish, refuse_anothers, target_of
from shards.boxes_layer import BoxesLayer, read_layer, write_layer
from shards.files import write_json
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
    if commands:
        check_boxes(config, manifest)
    inputs = {"shards": manifest.fingerprint} | inputs_of(config)
    with open_job("crop", config, inputs, parts=detectors_of(config)) as folder:
        if folder.result is None:
            if config.trained:
                check_trained(config, manifest.fingerprint)
            refuse_anothers(target, config)
            layer = _find(config, manifest, folder, train(config, commands))
            figures = _measure(config, manifest, layer, folder)
            figures |= {"layer": str(target), "detectors": layer.made_by["detectors"]}
            finish(folder, figures, inputs, time.monotonic() - began)
        elif config.evaluate_test and folder.result.get("unmeasured"):  # asked for later: the boxes are there
            layer = read_layer(folder.path / "boxes.jsonl", manifest)
            figures = _measure(config, manifest, layer, folder)
            write_json(folder.path / RESULT, folder.result | figures)
        publish(folder.path / "boxes.jsonl", target)
        return json.loads((folder.path / RESULT).read_text())


def _find(config: Config, manifest: Manifest, folder: RunFolder, weights: list[Path]) -> BoxesLayer:
    """Boxes of every sample by the detector that has not seen it, written into the run folder."""
    parts = _parts(config, manifest)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found: dict[str, Any] = {}
    for number, (indices, file) in enumerate(zip(parts, weights, strict=True)):
        title = f"boxes of fold {number}" if number < len(parts) - 1 else "boxes of all other images"
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
        "job": "crop", "run": config.name, "folds": len(parts) - 1, "min_score": config.min_score,
        "slice": config.slice, "detectors": [file_hash(str(path), "detectors") for path in weights],
    }  # fmt: skip
    return write_layer(folder.path / "boxes.jsonl", manifest, found, made_by)


def _parts(config: Config, manifest: Manifest) -> list[list[int]]:
    """Which images each detector looks at: the folds of train, then all others; of one detector all images.

    `data.limit` holds for every split.
    """
    limit, train_split = config.data.limit, config.data.train_split
    splits = {split: limited(manifest.split(split), limit) for split in sorted(manifest.counts)}
    if config.detector:
        return [sorted(index for indices in splits.values() for index in indices)]
    chosen = set(splits.get(train_split, []))
    folds = replace(config.data, folds=config.folds, limit=0)
    parts = [open_splits(manifest, replace(folds, fold=fold)).held_out for fold in range(config.folds)]
    others = sorted(index for split, indices in splits.items() if split != train_split for index in indices)
    return [*([index for index in part if index in chosen] for part in parts), others]


def _measure(config: Config, manifest: Manifest, layer: BoxesLayer, folder: RunFolder) -> dict[str, Any]:
    """How good the boxes of every split are, logged too, with a picture; of the test split only if asked to."""
    figures: dict[str, dict[str, Any]] = {}
    unmeasured = "" if config.evaluate_test else config.data.test_split
    for split in sorted(manifest.counts):
        indices = [i for i in manifest.split(split) if manifest.entries.key(i) in layer.boxes]
        if indices:
            out_of_fold = split == config.data.train_split and not config.detector
            quality = box_quality(manifest, indices, layer, against_truth=split != unmeasured)
            figures[split] = {"out_of_fold": out_of_fold} | quality
    pictures = {name: folder.path / f"{name}.png" for name in ("boxes", "crops")}
    shown = [split for split in figures if split != unmeasured]
    draw_boxes(pictures["boxes"], manifest, layer, shown)
    draw_crops(pictures["crops"], manifest, layer, shown)
    tracker = Tracker(config.track, folder.path, "crop", config.name, to_dict(config))
    try:
        tracker.pictures(0, {name: file for name, file in pictures.items() if file.is_file()})
        tracker.summary({f"{split}/{key}": value for split, row in figures.items() for key, value in row.items()})
    finally:
        tracker.close()
    return {"boxes": figures, "unmeasured": unmeasured if unmeasured in figures else ""}
