"""Make, choose and pack synthetic images: the work of `fgvc synthesize`."""

import glob
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision.io import decode_jpeg
from torchvision.utils import make_grid, save_image

from fgvc.classification.seen import trained_data
from fgvc.generation.config import GanImageConfig
from fgvc.generation.features import create_features
from fgvc.generation.measure import real_features
from fgvc.generation.record import read_generator
from fgvc.generation.synthesis import Candidates, Chosen, Maker, choose, make_candidates
from fgvc.models.timm import load_classifier
from fgvc.runtime.distributed import barrier, rank
from fgvc.runtime.run_folder import RunFolder, finish
from fgvc.runtime.tracking import Tracker
from fgvc.training.strategies.create import create_accelerator
from jobs.config import to_dict
from jobs.hashes import file_hash
from jobs.inputs import boxes_hashes, loader_workers, open_job, open_shards
from jobs.synthesize import Config, check
from shards.building.build import build
from shards.building.config import BuildOptions
from shards.errors import UserError
from shards.manifest import MANIFEST, Manifest
from shards.paths import expand
from shards.reading.config import DataConfig, ImageConfig
from shards.reading.splits import open_splits
from shards.reading.transforms import eval_transform
from shards.reading.views import open_views, train_policy
from shards.sample import RawDataset, RawSample

SHEET = 64  # images on sheet.png


def run(config: Config) -> dict[str, Any]:
    """Make the shards; what result.json holds. Raises UserError for a user's mistake."""
    began = time.monotonic()
    check(config)
    accelerator = create_accelerator("fp32", deterministic=True)
    manifest, files = open_shards(config.data), _files(config.weights)
    loaded = [read_generator(file) for file in files]
    records = [about for _, _, about in loaded]
    data = _training_data(config, records, manifest)
    inputs = {"shards": manifest.fingerprint} | boxes_hashes(data)
    inputs |= {f"weights.{number}": file_hash(str(file), "weights") for number, file in enumerate(files)}
    inputs |= {"classifier": file_hash(config.classifier or "none", "classifier")}
    inputs |= {"features": file_hash(config.measure.weights, "measure.weights")}
    out = expand(config.out, "out")
    with open_job("synthesize", config, inputs, rank() == 0) as folder:
        if folder.result is not None:
            if not (out / MANIFEST).is_file():
                raise UserError(f"{folder.path}: is done, but {out} is not there any more; choose another name=")
            return folder.result
        makers = [
            Maker(network.to(accelerator.device), model, [manifest.classes.index(name) for name in about["classes"]])
            for network, model, about in loaded
        ]
        found = _candidates(config, folder, manifest, data, makers, GanImageConfig(**records[0]["image"]), accelerator)
        chosen = choose(found, config.per_class, config.min_confidence if config.classifier else 0.0, config.copies)
        if not chosen.places:
            raise UserError(
                f"all {chosen.looked_at} candidates were dropped: {chosen.unsure} as unsure, {chosen.copies} as "
                "copies; lower min_confidence, or train the generator longer"
            )
        figures = _figures(found, chosen, manifest, config.per_class) | {"out": str(out)}
        if rank() == 0:
            _pack(config, folder.path, out, manifest, records, found, chosen)
            shutil.rmtree(folder.path / "candidates", ignore_errors=True)
            shutil.rmtree(folder.features, ignore_errors=True)
            figures = finish(folder, figures, inputs, time.monotonic() - began)
            _track(config, figures["synthetic"], folder.path)
        barrier()
        return figures


def _track(config: Config, figures: dict[str, Any], folder: Path) -> None:
    tracker = Tracker(config.track, folder, "synthesize", config.name, to_dict(config))
    try:
        plain = {key: value for key, value in figures.items() if isinstance(value, int | float)}
        tracker.log(0, plain)
        tracker.summary(plain)
        tracker.pictures(0, {"sheet": folder / "sheet.png"})
    finally:
        tracker.close()


def _candidates(
    config: Config, folder: RunFolder, manifest: Manifest, data: DataConfig, makers: list[Maker],
    image: GanImageConfig, accelerator: Any,
) -> Candidates:  # fmt: skip
    features = create_features(config.measure).to(accelerator.device)
    train = open_splits(manifest, data).train
    (view,) = open_views(train_policy(data), manifest, train)
    training = real_features(
        folder.features / "train", features, manifest, train, view, image, makers[0].model.size, config.measure,
        device=accelerator.device, workers=loader_workers(data), views=True, title="training images",
    )  # fmt: skip
    return make_candidates(
        folder.path / "candidates", makers, len(manifest.classes), round(config.per_class * config.candidates),
        config.measure.batch, seed=config.seed, truncation=config.truncation, quality=config.quality,
        judge=_judge(config, manifest, accelerator.device) if config.classifier else None, features=features,
        training=training, rows=len(train),
    )  # fmt: skip


def _judge(config: Config, manifest: Manifest, device: torch.device) -> Any:
    """The classifier's calibrated probability of each image's class."""
    path = expand(config.classifier, "classifier")
    network, about = load_classifier(path)
    if tuple(about["classes"]) != manifest.classes:
        raise UserError(f"classifier={path}: trained for other classes than {manifest.folder} has")
    network = network.eval().to(device)
    image = ImageConfig(eval_fit=about["fit"], eval_crop=about["eval_crop"], interpolation=about["interpolation"])
    fit, temperature = eval_transform(image, about["size"]), about["temperature"] or 1.0

    def judge(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        probabilities = (network(fit(images)).float() / temperature).softmax(1)
        return probabilities.gather(1, labels[:, None])[:, 0]

    return judge


def _files(weights: str) -> list[Path]:
    found = [Path(name) for name in sorted(glob.glob(str(expand(weights, "weights"))))]
    if not found:
        raise UserError(f"weights={weights}: no such file; give the model.safetensors of a run of fgvc gan")
    return found


def _training_data(config: Config, records: list[dict[str, Any]], manifest: Manifest) -> DataConfig:
    """How the generators' own training images are selected and cut, as their files say. Raises UserError for shards
    that they were not trained on, and for generators that do not go together."""
    trained, first = records[0]["trained_on"][0], records[0]
    for about in records:
        if about["trained_on"][0] != trained or about["crop"] != first["crop"] or about["image"] != first["image"]:
            raise UserError(f"weights={config.weights}: generators of different images; give those of one run")
        if strangers := set(about["classes"]) - set(manifest.classes):
            raise UserError(f"weights={config.weights}: {manifest.folder} has no class '{min(strangers)}'")
        if not about["generator"]["conditional"] and len(about["classes"]) > 1:
            raise UserError(
                f"weights={config.weights}: makes images of {len(about['classes'])} classes without knowing of which "
                "(model.conditional=false), so they have no labels; take a conditional generator, or per_class=true"
            )
        if config.truncation and about["generator"]["name"] == "projected":
            raise UserError(
                f"truncation={config.truncation:g}: model.name=projected brings every latent to one length; set it to 0"
            )
    made = [name for about in records for name in about["classes"]]
    if len(set(made)) < len(made):
        raise UserError(f"weights={config.weights}: several generators of class '{max(made, key=made.count)}'")
    if trained["shards"] != manifest.fingerprint:
        raise UserError(
            f"data.shards={config.data.shards}: not what weights={config.weights} was trained on, where copies "
            "are looked for; give those shards"
        )
    crop = first["crop"]
    if crop["crop"] != "whole" and crop["boxes"] == "layer" and config.data.boxes == "truth":
        raise UserError(f"weights={config.weights}: trained on crops by a boxes layer; give data.boxes=FILE")
    data = replace(config.data, crop=crop["crop"], margin=crop["margin"], min_score=crop["min_score"])
    return trained_data(data, trained)


def _figures(found: Candidates, chosen: Chosen, manifest: Manifest, per_class: int) -> dict[str, Any]:
    counts = np.bincount(found.label[chosen.places], minlength=len(manifest.classes)).tolist()
    made = {manifest.classes[label]: counts[label] for label in np.unique(found.label).tolist()}
    short = {name: count for name, count in made.items() if count < per_class}
    figures = {
        "count": len(chosen.places), "accepted": len(chosen.places) / chosen.looked_at, "unsure": chosen.unsure,
        "copies": chosen.copies, "per_class": made, "too_few": short,
    }  # fmt: skip
    return {"synthetic": figures}


def _pack(
    config: Config, folder: Path, out: Path, manifest: Manifest, records: list[dict[str, Any]], found: Candidates,
    chosen: Chosen,
) -> None:  # fmt: skip
    """Write the kept images as shards, with what was seen in making them, and a sheet of some."""
    images, run = folder / "images", records[0]["run"]
    images.mkdir(exist_ok=True)
    samples, classes = [], np.unique(found.label[chosen.places]).tolist()  # of some, nothing may have been kept
    for number, place in enumerate(chosen.places):
        path = images / f"{number:07d}.jpg"
        path.write_bytes(found.jpeg[place])
        label = int(found.label[place])
        key = f"gan-{label:05d}-{number:07d}"
        samples.append(RawSample(key, path, classes.index(label), "train", origin=f"gan:{run}"))
    seen = [record for about in records for record in about["trained_on"]]
    if config.classifier:
        seen += load_classifier(expand(config.classifier, "classifier"))[1].get("trained_on") or [None]
    unique = [record for number, record in enumerate(seen) if record not in seen[:number]]
    names = tuple(manifest.classes[label] for label in classes)
    extra = {"trained_on": unique}
    raw = RawDataset(f"gan:{run}", names, tuple(samples), manifest.licence, manifest.citation, extra=extra)
    build(raw, out, BuildOptions(workers=1))
    count = len(chosen.places)
    some = [chosen.places[at] for at in np.linspace(0, count - 1, min(SHEET, count)).astype(int)]
    decoded = [decode_jpeg(torch.frombuffer(bytearray(found.jpeg[place]), dtype=torch.uint8)) for place in some]
    save_image(make_grid(torch.stack(decoded).float() / 255, nrow=8, padding=1), folder / "sheet.png")
    shutil.rmtree(images)
