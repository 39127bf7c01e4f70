"""Look for what is wrong with a data set: the work of `fgvc audit`."""

import shutil
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from accelerate import Accelerator

from fgvc.audit.boxes import imbalance, odd_boxes
from fgvc.audit.duplicates import MOST, exact_groups, kept_together, near_pairs
from fgvc.audit.findings import Findings, Label
from fgvc.audit.labels import doubtful, out_of_fold
from fgvc.audit.page import write_page
from fgvc.classification.calibration import calibration_folds
from fgvc.classification.evaluation import split_loader
from fgvc.classification.probe import stored_features
from fgvc.models.normalised import Normalised
from fgvc.models.timm import create_model, input_size, input_statistics
from fgvc.runtime.device import seed_generators
from fgvc.runtime.distributed import barrier, rank
from fgvc.runtime.run_folder import RunFolder, finish
from fgvc.training.strategies.create import create_accelerator
from jobs.audit import Config, check
from jobs.hashes import file_hash
from jobs.inputs import boxes_hashes, check_forward, loader_workers, open_job, open_shards
from shards.files import write_bytes, write_json
from shards.manifest import Manifest
from shards.reading.config import ImageConfig
from shards.reading.reader import Reader
from shards.reading.splits import limited
from shards.reading.views import eval_policy, open_views


def run(config: Config) -> dict[str, Any]:
    """Audit and write the run folder. Raises UserError for shards, weights and boxes that do not fit."""
    began = time.monotonic()
    check(config)
    accelerator = create_accelerator(config.precision, deterministic=False)
    manifest = open_shards(config.data)
    inputs = {"shards": manifest.fingerprint, "weights": file_hash(config.model.weights, "model.weights")}
    inputs |= boxes_hashes(config.data)
    indices = limited(list(range(len(manifest.entries))), config.data.limit)
    with open_job("audit", config, inputs, rank() == 0) as folder:
        if folder.result is not None:
            return folder.result
        features, mirrored = _features(config, manifest, indices, folder, accelerator)
        figures: dict[str, Any] = {}
        if rank() == 0:
            found = _findings(config, manifest, indices, features, mirrored)
            write_page(folder.path / "index.html", found, config.name, config.pictures)
            write_bytes(folder.path / "corrections.csv", found.corrections().encode())
            write_json(folder.path / "findings.json", found.as_dict())
            figures = finish(folder, {"all": found.figures()}, inputs, time.monotonic() - began)
            shutil.rmtree(folder.features, ignore_errors=True)
        barrier()
        return figures


def _features(
    config: Config, manifest: Manifest, indices: Sequence[int], folder: RunFolder, accelerator: Accelerator
) -> tuple[np.ndarray, np.ndarray]:
    """(N, D) of the images and of their mirror images, by the network before its head; kept until the run is done."""
    seed_generators(0)  # of weights=none: the same network on every rank and whenever it is started again
    network = create_model(config.model, 2)
    size = config.size or input_size(network)
    check_forward(network, f"model.name={config.model.name}", size, key="size")
    model = Normalised(network, *input_statistics(network, config.model)).to(accelerator.device)
    view = open_views(eval_policy(config.data), manifest, indices)[-1]
    image = ImageConfig(eval_fit="squash")  # all of the picture: copies differ at its edges

    def loader_of(chunk: Sequence[int]) -> Any:
        return split_loader(manifest, chunk, config.data, image, size, view, config.batch, loader_workers(config.data))

    found, _ = stored_features(
        model, network, loader_of, indices, accelerator.device, config.precision, folder.features, "audit"
    )  # fmt: skip
    plain, mirror = found.view(2, len(indices), -1).float().numpy()
    return plain, mirror


def _findings(
    config: Config, manifest: Manifest, indices: Sequence[int], features: np.ndarray, mirrored: np.ndarray
) -> Findings:
    reader, every = Reader(manifest, config.data.cache), np.array(indices)
    found = Findings(manifest, len(indices), exact_groups(reader, indices))
    pairs, cut_short = near_pairs(features, mirrored, reader, indices, config.near)
    if cut_short:
        found.notes.append(
            f"near duplicates: {cut_short} images have over {MOST} others like them; the nearest were compared"
        )
    found.set_near(pairs)
    found.boxes, found.classes = odd_boxes(manifest, every), imbalance(manifest, every)
    folds = calibration_folds(manifest, list(indices))
    if folds is None:
        found.notes.append("labels were not checked: a class has fewer than two different images")
        return found
    folds = kept_together(folds, [*found.exact, *((pair.first, pair.second) for pair in pairs)], indices)
    labels = manifest.entries.label[every].astype(np.int64)
    probabilities = out_of_fold(features, mirrored, labels, folds, len(manifest.classes), config.penalty)
    found.top1 = float((probabilities.argmax(1) == labels).mean())
    doubts = doubtful(probabilities, labels, config.doubt)
    found.labels = [Label(indices[doubt.row], doubt.suggested, doubt.odds) for doubt in doubts]
    return found
